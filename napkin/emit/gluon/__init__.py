"""Warp-specialised kernels for Hopper, in Gluon: copies, contractions and the work between them at once.

In: a `Plan`, some of whose kernels have a form. Out: the text of a Python module that stands alone: it
imports torch and triton, holds the functions of every kernel and one typed entry function that runs them
in turn, and opens with the diagram and its plan, as the plain module does. Kernels without a form are
plain Triton loops in it; constants and functions are each kernel's own, helpers are shared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.diagram import print_diagram
from napkin.emit.gluon.adder import print_adder
from napkin.emit.gluon.adding import print_adding
from napkin.emit.gluon.apart import Renamed, keep_apart, renamed_line
from napkin.emit.gluon.entry import GluonEntry
from napkin.emit.gluon.functions import Box, ModuleText, print_functions
from napkin.emit.gluon.masks import choice_helper, is_choice_helper
from napkin.emit.gluon.nested import print_nested
from napkin.emit.gluon.shared_loop import print_shared_loop
from napkin.emit.render import render
from napkin.emit.triton import (
    approximates,
    constants_of,
    entry_name,
    kernel_names,
    kernel_view,
    launches_of,
    plain_text,
    signature_of,
    squeeze,
    tiles_line,
)
from napkin.emit.triton.entry import Launch, uses_descriptors
from napkin.emit.triton.values import KernelText
from napkin.schedule.planning.plan import Plan
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import Form, KernelPlan

_SIXTEEN_BIT = {"bf16", "fp16"}
_OWN_HELPERS = {
    "add_tile",
    "contract_computed",
    "contract_shared",
    "float",
    "group",
    "hand_over",
    "handed_over",
    "lane_sum",
    "meet",
    "moved",
    "opaque_zero",
    "packed",
    "pass_turn",
    "rounds",
    "sigmoid",
    "slice",
    "take_turn",
    "tanh_approximate",
    "where_between",
}

_AMPERE = ("async_copy", "mma_v2")
_HOPPER = ("fence_async_shared", "mbarrier", "tma", "warpgroup_mma", "warpgroup_mma_wait")


@dataclass(frozen=True, slots=True)
class FunctionView:
    """One function as the template prints it."""

    decorator: str
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
    functions: tuple[FunctionView, ...]
    entry: str
    signature: str
    returns: str
    summary: str
    launch: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What one kernel adds to a module; `boxes` are None for a plain loop.

    `counter` is the parameter that groups are taken from, if they are.
    """

    launch: Launch
    boxes: tuple[Box, ...] | None
    constants: tuple[str, ...]
    helpers: tuple[str, ...]
    functions: tuple[FunctionView, ...]
    counter: str | None = None


def emit_gluon(plan: Plan, *, notes: tuple[str, ...] = ()) -> str:
    """Return the module of a plan's kernels, each in its form; `notes` are lines for its header."""
    diagram = plan.diagram
    parts = _parts(plan)
    boxes = {each.launch.kernel: each.boxes for each in parts if each.boxes is not None}
    counters = {each.launch.kernel: each.counter for each in parts if each.counter is not None}
    printer = GluonEntry(signature_of(plan), [each.launch for each in parts], boxes, counters)
    helpers = dict.fromkeys(helper for each in parts for helper in each.helpers)
    view = ModuleView(
        _header(plan, notes),
        _imports(parts, helpers),
        tuple(line for each in parts for line in each.constants),
        tuple(sorted(helpers, key=_defined)),
        tuple(function for each in parts for function in each.functions),
        entry_name(diagram),
        printer.signature(),
        printer.returns(),
        f"Run the diagram `{diagram.name}` on tensors laid out as its signature says.",
        tuple(printer.body()),
    )
    return render("gluon/kernel.py.jinja", view=view)


def plan_in_form(kernel: KernelPlan, form: Specialised) -> Plan:
    """Return the plan of a kernel alone, in this form."""
    diagram = kernel.derivation.diagram
    formed = replace(kernel, form=Form(form, kernel.prediction))
    return Plan(diagram, kernel.machine, kernel.sizes, kernel.dtype, (formed,))


def functions_of(kernel: KernelPlan, form: Specialised, name: str) -> ModuleText:
    """Return the functions of a kernel that its module calls `name`."""
    printed = print_adding if form.parts else print_nested if form.nests else print_functions
    printed = print_adder if form.adder is not None else printed
    return printed(form, name, approximate=kernel.dtype in _SIXTEEN_BIT)


# --- what each kernel adds ----------------------------------------------------------------------------


def _parts(plan: Plan) -> tuple[Part, ...]:
    """Return what each kernel adds to the module, under names of its own."""
    endings = [f"_{number}" for number in range(1, len(plan.kernels) + 1)]
    endings = endings if len(endings) > 1 else [""]
    plain: dict[str, Part] = {}
    texts: dict[str, ModuleText] = {}
    launches = launches_of(plan, loop_text)
    for ending, kernel, launch in zip(endings, plan.kernels, launches, strict=True):
        if kernel.form is None:
            plain[ending] = _plain_part(kernel, launch)
        else:
            texts[ending] = functions_of(kernel, kernel.form.warps, launch.kernel)
    theirs = {_defined(helper) for part in plain.values() for helper in part.helpers}
    mine = {name for text in texts.values() for name in map(_defined, _own_helpers(text, {}))}
    helpers = {name: f"{name}_gluon" for name in sorted(theirs & mine)}
    used = {name for part in plain.values() for name in part.launch.constants.values()}
    taken = {entry_name(plan.diagram), *kernel_names(plan), *used, *theirs}
    found = keep_apart(texts, taken, helpers)
    return tuple(
        plain[ending]
        if kernel.form is None
        else _formed_part(kernel.form.warps, found[ending], helpers)
        for ending, kernel in zip(endings, plan.kernels, strict=True)
    )


def loop_text(kernel: KernelPlan) -> KernelText:
    """Return a kernel without roles as its module has it."""
    if kernel.loop is None:
        return plain_text(kernel)
    return print_shared_loop(
        kernel.program, kernel.loop, kernel.warps, approximate=approximates(kernel)
    )


def _shared_part(kernel: KernelPlan, launch: Launch) -> Part:
    """Return what a loop adds that reads operands from shared memory; its helpers are Gluon functions."""
    helpers = tuple(_own_helper(each, {}) for each in sorted(launch.text.helpers))
    printed = kernel_view(launch)
    parameters = tuple(re.sub(r"\btl\.", "gl.", each) for each in printed.parameters)
    view = FunctionView("gluon.jit", printed.name, parameters, printed.body)
    return Part(launch, None, constants_of(kernel, launch), helpers, (view,))


def _plain_part(kernel: KernelPlan, launch: Launch) -> Part:
    if kernel.loop is not None:
        return _shared_part(kernel, launch)
    described = {"descriptor"} if uses_descriptors(launch.program) else set()
    helpers = tuple(_plain_helper(each) for each in sorted(launch.text.helpers | described))
    printed = kernel_view(launch)
    view = FunctionView("triton.jit", printed.name, printed.parameters, printed.body)
    return Part(launch, None, constants_of(kernel, launch), helpers, (view,))


def _formed_part(form: Specialised, made: Renamed, helpers: Mapping[str, str]) -> Part:
    text = made.text
    parameters = KernelText(list(text.parameters))
    name = text.functions[-1].name
    functions = tuple(
        FunctionView("gluon.jit", each.name, each.parameters, tuple(squeeze(list(each.body))))
        for each in text.functions
    )
    return Part(
        Launch(form.program, parameters, text.spelling, name, made.constants),
        text.boxes,
        tuple(f"{each} = gl.constexpr({value})" for each, value in text.constants),
        (*_own_helpers(text, helpers), _plain_helper("descriptor")),
        functions,
        text.counter,
    )


# --- helpers ------------------------------------------------------------------------------------------


def _own_helpers(text: ModuleText, names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the helpers of a kernel in Gluon under these names: its own, or plain ones respelled."""
    return tuple(_own_helper(each, names) for each in sorted(text.helpers))


def _own_helper(name: str, names: Mapping[str, str]) -> str:
    if is_choice_helper(name):
        return renamed_line(choice_helper(name).rstrip(), names)
    if name in _OWN_HELPERS:
        return renamed_line(render(f"gluon/helpers/{name}.py.jinja").rstrip(), names)
    plain = _plain_helper(name).replace("@triton.jit", "@gluon.jit").replace("tl.", "gl.")
    return renamed_line(plain, names)


def _plain_helper(name: str) -> str:
    return render(f"triton/helpers/{name}.py.jinja").rstrip()


def _defined(helper: str) -> str:
    """Return the name of the function that a helper's text defines."""
    found = re.search(r"^ *def (\w+)\(", helper, re.MULTILINE)
    return found[1] if found else helper


# --- imports ------------------------------------------------------------------------------------------


def _imports(parts: Sequence[Part], helpers: Iterable[str]) -> tuple[str, ...]:
    """Return the imports: Gluon's, and Triton's language where a kernel is a plain loop."""
    decorators = {function.decorator for each in parts for function in each.functions}
    shared = any(each.launch.text.aligned for each in parts)
    formed = any(each.boxes is not None for each in parts)
    lines = ["import os", ""] if any("os.environ" in each for each in helpers) else []
    own = any("@builtin" in each for each in helpers)
    lines += ["import torch", "import triton"]
    lines += ["import triton.language as tl"] if "triton.jit" in decorators else []
    lines += ["from triton._C.libtriton import ir"] if own else []
    lines += [
        "from triton.experimental import gluon",
        "from triton.experimental.gluon import language as gl",
        *(["from triton.experimental.gluon.language._core import builtin"] if own else []),
    ]
    if shared:
        names = ", ".join(_AMPERE)
        lines.append(f"from triton.experimental.gluon.language.nvidia.ampere import {names}")
    if formed:
        lines += [
            "from triton.experimental.gluon.language.nvidia.hopper import (",
            *(f"    {name}," for name in _HOPPER),
            ")",
            "from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor",
        ]
    if any(uses_descriptors(each.launch.program) for each in parts if each.boxes is None):
        lines.append("from triton.tools.tensor_descriptor import TensorDescriptor")
    return tuple(lines)


# --- the head of a module -----------------------------------------------------------------------------


def _header(plan: Plan, notes: tuple[str, ...]) -> str:
    diagram, machine = plan.diagram, plan.machine
    lines = [
        f'"""{diagram.name}: generated by napkin for {machine.name} ({machine.architecture}).',
        "",
        *print_diagram(diagram).rstrip().splitlines(),
        "",
        *notes,
        *(line for kernel in plan.kernels for line in _plan_lines(kernel, plan)),
        '"""',
    ]
    return "\n".join(line.rstrip() for line in lines)


def _plan_lines(kernel: KernelPlan, plan: Plan) -> tuple[str, ...]:
    """Return a kernel's tiles and warps in words."""
    if kernel.form is None:
        return (tiles_line(kernel, plan),)
    form = kernel.form.warps
    tiles = ", ".join(f"{each.axis} {each.role.value} by {each.tile}" for each in form.program.axes)
    what = f"plan of {kernel.name}" if len(plan.kernels) > 1 else "plan"
    mine, producers = form.registers
    hands = ", 1 warp hands out groups" if form.dispatched else ""
    adds = f"1 warpgroup adds ({form.adder.registers}), " if form.adder else ""
    return (
        f"{what}: {tiles}; {form.stages} stages",
        f"warps: {form.consumers} warpgroups compute ({mine} registers a thread), "
        f"{adds}1 warp copies ({producers}){hands}",
    )
