"""A plan's kernel compiled ahead of time, without a GPU, beside what the plan predicted of it.

In: a `Plan` and the text of its module. Out: `Inspection`: the compiler's `Resources` and the
plan's `Prediction`. The types of the kernel's arguments are what a launch at the plan's lengths on
contiguous tensors would give: aligned pointers, descriptors with their blocks, integers that are 1
folded in and those that 16 divides marked, as Triton's launcher does.

Deliberately absent: a verdict. Tests and users draw it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from napkin.emit.triton import emit_triton
from napkin.emit.triton.body import print_kernel, spell
from napkin.language.errors import InternalError
from napkin.runtime.aot import Constant, Resources, inspect_kernel
from napkin.runtime.kernels import kernel_name
from napkin.schedule.plan import Plan
from napkin.schedule.predict import Prediction
from napkin.schedule.program import Array

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


def inspect_plan(plan: Plan, text: str | None = None) -> Inspection:
    """Compile the plan's kernel for its machine; `text` is its module, if it was made already."""
    if plan.machine.capability is None:
        raise InternalError(f"machine {plan.machine.name} has no compiler")
    arguments = kernel_arguments(plan)
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, f"{kernel_name(plan.derivation.diagram)}_module.py")
        module.write_text(emit_triton(plan) if text is None else text, encoding="utf-8")
        found = inspect_kernel(
            module,
            kernel_name(plan.derivation.diagram),
            arch=plan.machine.capability,
            signature=arguments.signature,
            constants=arguments.constants,
            divisible_by_16=arguments.divisible_by_16,
            options={"num_warps": plan.warps, "num_stages": plan.stages},
        )
    return Inspection(found, plan.prediction)


def kernel_arguments(plan: Plan) -> Arguments:
    """Return the types of the kernel's arguments at the plan's lengths."""
    kernel = print_kernel(plan.program, approximate=True)
    known = _adders(plan) | {"STAGES": lambda into: into.constants.update(STAGES=plan.stages)}
    arguments = Arguments()
    for parameter in kernel.parameters:
        name = parameter.split(":")[0]
        if name in kernel.blocks:
            arguments.constants[name] = kernel.blocks[name]
        elif name in known:
            known[name](arguments)
        else:
            raise InternalError(f"kernel argument {name} is of no known kind")
    return arguments


def _adders(plan: Plan) -> dict[str, Callable[[Arguments], None]]:
    """Return, for every name that a kernel may take, what adds it to the arguments."""
    program, sizes, names = plan.program, dict(plan.sizes), spell(plan.program)
    found: dict[str, Callable[[Arguments], None]] = {}

    def integer(name: str, value: int) -> None:
        found[name] = lambda into: into.integer(name, value)

    def pointer(name: str, kind: str) -> None:
        found[name] = lambda into: into.pointer(name, kind)

    def plain(name: str, kind: str) -> None:
        found[name] = lambda into: into.signature.update({name: kind})

    for array in (*program.arrays, *program.outputs):
        pointer(names.pointers[array.name], TRITON_TYPES[array.dtype])
        plain(names.descriptors[array.name], _descriptor(plan, array))
        for axis, stride in _strides(array, sizes).items():
            integer(names.strides[array.name, axis], stride)
    for axis, name in names.sizes.items():
        integer(name, sizes[axis])
    for scalar, kind in program.scalars:
        plain(names.scalars[scalar], _SCALARS[kind])
    return found


def _descriptor(plan: Plan, array: Array) -> str:
    """Return the type of an array's descriptor; an axis without a tile has blocks of one."""
    tiles = {each.axis: 1 if each.dim is None else each.tile for each in plan.program.axes}
    blocks = ",".join(str(tiles.get(axis, 1)) for axis in array.axes)
    return f"tensordesc<{TRITON_TYPES[array.dtype]}[{blocks}]>"


def _strides(array: Array, sizes: dict[str, int]) -> dict[str, int]:
    axes = array.axes
    return {
        axis: prod(sizes[inner] for inner in axes[place + 1 :]) for place, axis in enumerate(axes)
    }
