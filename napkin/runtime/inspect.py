"""A plan's kernels compiled ahead of time, without a GPU, beside what the plan predicted of each.

In: a `Plan` and the text of its module. Out: an `Inspection` a kernel: the compiler's `Resources` and the
kernel's `Prediction`. The types of the kernel's arguments are what a launch at the plan's lengths on
contiguous tensors would give: aligned pointers, descriptors with their blocks, integers that are 1
folded in and those that 16 divides marked, as Triton's launcher does.

Deliberately absent: a verdict. Tests and users draw it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from napkin.emit.gluon import emit_gluon, functions_of, loop_text, plan_in_form
from napkin.emit.gluon.entry import WARPS, shared_layout
from napkin.emit.gluon.functions import Box, ModuleText
from napkin.emit.module import emit_module
from napkin.emit.triton import entry_name, kernel_names
from napkin.emit.triton.spelling import spell
from napkin.language.errors import InternalError
from napkin.runtime.aot import Constant, Resources, inspect_kernel
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.program import Array
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.timing.predict import Prediction

TRITON_TYPES = {
    "bf16": "bf16",
    "fp16": "fp16",
    "fp32": "fp32",
    "fp64": "fp64",
    "fp8e4m3": "fp8e4nv",
    "fp8e5m2": "fp8e5",
    "int8": "i8",
    "int32": "i32",
    "int64": "i64",
    "bool": "i1",
}
_SCALARS = {"float": "fp32", "int": "i32"}
_LARGEST_I32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the compiler says of a kernel, and what the plan had said."""

    resources: Resources
    prediction: Prediction

    @property
    def spills(self) -> int:
        """Bytes that spill, stores and loads together."""
        return self.resources.spill_store_bytes + self.resources.spill_load_bytes

    def __str__(self) -> str:
        found, said = self.resources, self.prediction
        return "\n".join(
            [
                f"registers a thread {found.registers}, predicted {said.registers}",
                f"shared memory {found.shared_bytes} bytes, predicted {said.shared_bytes}",
                f"spills {self.spills} bytes; {found.total_instructions} instructions",
                *found.warnings,
            ]
        )


@dataclass
class Arguments:
    """The kernel's arguments as Triton's compiler wants them."""

    signature: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    divisible_by_16: list[str] = field(default_factory=list)

    def pointer(self, name: str, kind: str) -> None:
        """Add an aligned pointer."""
        self.signature[name] = f"*{kind}"
        self.divisible_by_16.append(name)

    def integer(self, name: str, value: int) -> None:
        """Add a length or a stride as the launcher would specialise it."""
        if value == 1:
            self.constants[name] = 1
            return
        self.signature[name] = "i32" if value <= _LARGEST_I32 else "i64"
        if value % 16 == 0:
            self.divisible_by_16.append(name)


def inspect_plan(plan: Plan, text: str | None = None) -> tuple[Inspection, ...]:
    """Compile the plan's kernels for its machine, each in its form; `text` is their module if it was made."""
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, f"{entry_name(plan.diagram)}_module.py")
        module.write_text(emit_module(plan) if text is None else text, encoding="utf-8")
        return tuple(
            _inspect(module, name, kernel)
            if kernel.form is None
            else Inspection(_inspect_form(module, name, kernel, kernel.form.warps), kernel.expected)
            for name, kernel in zip(kernel_names(plan), plan.kernels, strict=True)
        )


def _inspect(module: Path, name: str, kernel: KernelPlan) -> Inspection:
    if kernel.machine.capability is None:
        raise InternalError(f"machine {kernel.machine.name} has no compiler")
    arguments = kernel_arguments(kernel)
    found = inspect_kernel(
        module,
        name,
        arch=kernel.machine.capability,
        signature=arguments.signature,
        constants=arguments.constants,
        divisible_by_16=arguments.divisible_by_16,
        options={"num_warps": kernel.warps, "num_stages": kernel.stages},
    )
    return Inspection(found, kernel.prediction)


def inspect_specialised(kernel: KernelPlan, form: Specialised) -> Resources:
    """Compile a kernel in its warp-specialised form for its machine."""
    plan = plan_in_form(kernel, form)
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, f"{kernel.name}_module.py")
        module.write_text(emit_gluon(plan), encoding="utf-8")
        (name,) = kernel_names(plan)
        return _inspect_form(module, name, kernel, form)


def _inspect_form(module: Path, name: str, kernel: KernelPlan, form: Specialised) -> Resources:
    if kernel.machine.capability is None:
        raise InternalError(f"machine {kernel.machine.name} has no compiler")
    arguments = specialised_arguments(kernel, form, functions_of(kernel, form, name))
    return inspect_kernel(
        module,
        name,
        arch=kernel.machine.capability,
        signature=arguments.signature,
        constants=arguments.constants,
        divisible_by_16=arguments.divisible_by_16,
        options={"num_warps": WARPS},
    )


def specialised_arguments(
    kernel: KernelPlan, form: Specialised, functions: ModuleText
) -> Arguments:
    """Return the types of a warp-specialised kernel's arguments at the plan's lengths."""
    known = _adders(replace(kernel, program=form.program))
    boxes = {functions.spelling.descriptors[box.array]: box for box in functions.boxes}
    arguments = Arguments()
    for name in functions.parameters:
        if name in boxes:
            held = form.program.array(boxes[name].array).dtype
            kind = TRITON_TYPES["int8" if held == "bool" else held]
            arguments.signature[name] = _box_type(boxes[name], kind, dict(functions.constants))
        elif name == functions.counter:
            arguments.pointer(name, TRITON_TYPES["int32"])
        else:
            known[name](arguments)
    return arguments


def _box_type(box: Box, kind: str, constants: dict[str, str]) -> str:
    """Return the type of a descriptor that has a layout, in full as Gluon's own signature has it."""
    extents = ",".join(constants.get(each, each) for each in box.extents)
    rest = "transposed=False, fp4_padded=False, cga_layout=[]"
    return f"tensordesc<{kind}[{extents}],{shared_layout(box)[:-1]}, {rest})>"


def kernel_arguments(kernel: KernelPlan) -> Arguments:
    """Return the types of the kernel's arguments at the plan's lengths."""
    text = loop_text(kernel)
    known = _adders(kernel) | {"STAGES": lambda into: into.constants.update(STAGES=kernel.stages)}
    strides = _all_strides(kernel)
    arguments = Arguments()
    for parameter in text.parameters:
        name, _, kind = parameter.partition(": ")
        if name in text.blocks:
            arguments.constants[name] = text.blocks[name]
        elif kind and name in strides:
            arguments.constants[name] = strides[name]
        elif name in known:
            known[name](arguments)
        else:
            raise InternalError(f"kernel argument {name} is of no known kind")
    return arguments


def _all_strides(kernel: KernelPlan) -> dict[str, int]:
    """Return every stride by name; some are known when a kernel is compiled."""
    names, sizes = spell(kernel.program).strides, dict(kernel.sizes)
    arrays = (*kernel.program.arrays, *kernel.program.outputs)
    return {
        names[array.name, axis]: stride
        for array in arrays
        for axis, stride in _strides(array, sizes).items()
    }


def _adders(kernel: KernelPlan) -> dict[str, Callable[[Arguments], None]]:
    """Return, for every name that a kernel may take, what adds it to the arguments."""
    program, sizes, names = kernel.program, dict(kernel.sizes), spell(kernel.program)
    found: dict[str, Callable[[Arguments], None]] = {}

    def integer(name: str, value: int) -> None:
        found[name] = lambda into: into.integer(name, value)

    def pointer(name: str, kind: str) -> None:
        found[name] = lambda into: into.pointer(name, kind)

    def plain(name: str, kind: str) -> None:
        found[name] = lambda into: into.signature.update({name: kind})

    for array in (*program.arrays, *program.outputs):
        pointer(names.pointers[array.name], TRITON_TYPES[array.dtype])
        plain(names.descriptors[array.name], _descriptor(kernel, array))
        for axis, stride in _strides(array, sizes).items():
            integer(names.strides[array.name, axis], stride)
    for axis, name in names.sizes.items():
        integer(name, sizes[axis])
    for scalar, kind in program.scalars:
        plain(names.scalars[scalar], _SCALARS[kind])
    return found


def _descriptor(kernel: KernelPlan, array: Array) -> str:
    """Return the type of an array's descriptor; an axis without a tile has blocks of one."""
    tiles = {each.axis: 1 if each.dim is None else each.tile for each in kernel.program.axes}
    axes = kernel.program.box_axes(array.name)
    blocks = ",".join(str(tiles.get(axis, 1)) for axis in axes)
    return f"tensordesc<{TRITON_TYPES[array.dtype]}[{blocks}]>"


def _strides(array: Array, sizes: dict[str, int]) -> dict[str, int]:
    axes = array.axes
    return {
        axis: prod(sizes[inner] for inner in axes[place + 1 :]) for place, axis in enumerate(axes)
    }
