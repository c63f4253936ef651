"""Plain Triton kernels: cp.async through `num_stages` on Ampere, tensor descriptors (TMA) on Hopper.

In: a `Plan`. Out: the text of a Python module that stands alone: it imports torch and triton, holds the
plan's kernels and one typed entry function that runs them in turn, and opens with the diagram, its
derivation, cost and plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from napkin.diagram import SCALAR_TYPES, Diagram, print_diagram
from napkin.emit.render import render
from napkin.emit.triton.body import print_kernel
from napkin.emit.triton.entry import EntryPrinter, Launch, Signature, uses_descriptors
from napkin.emit.triton.spelling import spell
from napkin.emit.triton.values import KernelText
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.planning.plan import KernelPlan, Plan

_SIXTEEN_BIT = {"bf16", "fp16", "fp8e4m3", "fp8e5m2"}


@dataclass(frozen=True, slots=True)
class KernelView:
    """One kernel as the template prints it."""

    name: str
    parameters: tuple[str, ...]
    body: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleView:
    """Everything that the module's template prints, decided."""

    header: str
    imports: tuple[str, ...]
    constants: tuple[str, ...]
    helpers: tuple[str, ...]
    kernels: tuple[KernelView, ...]
    entry: str
    signature: str
    returns: str
    summary: str
    launch: tuple[str, ...]


def entry_name(diagram: Diagram) -> str:
    """Return the name of a module's entry function."""
    return Names(RESERVED).fresh(diagram.name)


def kernel_names(plan: Plan) -> tuple[str, ...]:
    """Return the names of a module's kernels, in the order of the plan's."""
    names = Names(RESERVED | {entry_name(plan.diagram)})
    return tuple(names.fresh(f"{each.name}_kernel") for each in plan.kernels)


def emit_triton(plan: Plan, *, notes: tuple[str, ...] = ()) -> str:
    """Return the module of a plan's kernels, all as Triton's own loops.

    `notes` are lines for its header (cost, prediction).
    """
    plan = plan.plain
    diagram = plan.diagram
    launches = launches_of(plan)
    printer = EntryPrinter(signature_of(plan), launches)
    described = any(uses_descriptors(each.program) for each in launches)
    called = {name for each in launches for name in each.text.helpers}
    helpers = sorted(called | ({"descriptor"} if described else set()))
    fragments = tuple(render(f"triton/helpers/{each}.py.jinja").rstrip() for each in helpers)
    view = ModuleView(
        _header(plan, notes),
        _imports(described, any("os.environ" in each for each in fragments)),
        tuple(
            line
            for kernel, launch in zip(plan.kernels, launches, strict=True)
            for line in constants_of(kernel, launch)
        ),
        fragments,
        tuple(kernel_view(each) for each in launches),
        entry_name(diagram),
        printer.signature(),
        printer.returns(),
        f"Run the diagram `{diagram.name}` on tensors laid out as its signature says.",
        tuple(printer.body()),
    )
    return render("triton/kernel.py.jinja", view=view)


def plain_text(kernel: KernelPlan) -> KernelText:
    """Return a kernel as Triton's own loop."""
    return print_kernel(kernel.program, approximate=approximates(kernel))


def launches_of(
    plan: Plan, printed: Callable[[KernelPlan], KernelText] = plain_text
) -> tuple[Launch, ...]:
    """Return the kernels with their names in the module; the constants of several are numbered."""
    kernels = kernel_names(plan)
    texts = [printed(each) for each in plan.kernels]
    names = Names(RESERVED - {"WARPS", "STAGES"} | {entry_name(plan.diagram), *kernels})
    made: list[Launch] = []
    for number, (plan_of_one, text) in enumerate(zip(plan.kernels, texts, strict=True), 1):
        ending = f"_{number}" if len(kernels) > 1 else ""
        constants = {
            name: names.fresh(f"{name}{ending}") for name in (*text.blocks, "WARPS", "STAGES")
        }
        program = plan_of_one.program
        made.append(Launch(program, text, spell(program), kernels[number - 1], constants))
    return tuple(made)


def approximates(kernel: KernelPlan) -> bool:
    """Return whether one-instruction functions are exact enough for what the kernel stores."""
    return kernel.dtype in _SIXTEEN_BIT


def signature_of(plan: Plan) -> Signature:
    arguments = plan.diagram.arguments
    scalars = {
        each.name: each.dtype
        for each in arguments
        if not each.dims and each.dtype is not None and each.dtype in SCALAR_TYPES
    }
    return Signature(
        tuple(each.name for each in arguments),
        plan.arrays,
        scalars,
        plan.outputs,
        plan.implied,
        plan.segments,
    )


def kernel_view(launch: Launch) -> KernelView:
    """Return a kernel as a template prints it."""
    text: KernelText = launch.text
    return KernelView(launch.kernel, tuple(text.parameters), tuple(squeeze(text.body)))


def _header(plan: Plan, notes: tuple[str, ...]) -> str:
    diagram = plan.diagram
    lines = [
        f'"""{diagram.name}: generated by napkin for {plan.machine.name} ({plan.machine.architecture}).',
        "",
        *print_diagram(diagram).rstrip().splitlines(),
        "",
        *notes,
        *(tiles_line(each, plan) for each in plan.kernels),
        '"""',
    ]
    return "\n".join(line.rstrip() for line in lines)


def tiles_line(kernel: KernelPlan, plan: Plan) -> str:
    """Return in a line the tiles, warps and stages of one of a plan's kernels."""
    tiles = ", ".join(
        f"{each.axis} {each.role.value} by {each.tile}" for each in kernel.program.axes
    )
    what = f"plan of {kernel.name}" if len(plan.kernels) > 1 else "plan"
    return f"{what}: {tiles}; {kernel.warps} warps, {kernel.stages} stages"


def _imports(described: bool, reads_environment: bool) -> tuple[str, ...]:
    standard = ["import os", ""] if reads_environment else []
    lines = [*standard, "import torch", "import triton", "import triton.language as tl"]
    if described:
        lines.append("from triton.tools.tensor_descriptor import TensorDescriptor")
    return tuple(lines)


def constants_of(kernel: KernelPlan, launch: Launch) -> tuple[str, ...]:
    """Return the lines that define a kernel's constants."""
    values = {**launch.text.blocks, "WARPS": kernel.warps, "STAGES": kernel.stages}
    return tuple(f"{launch.constants[name]} = {value}" for name, value in values.items())


def squeeze(lines: list[str]) -> list[str]:
    """Drop blank lines that follow one another, or close the body."""
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    while kept and not kept[-1]:
        kept.pop()
    return kept
