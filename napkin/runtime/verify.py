"""A plan's kernels against the diagram's meaning: run both on the same random data and compare.

In: a `Plan`. Out: `Verification`: for every output how far the kernel is from the float64
reference, and whether that is within what its types explain. With a GPU that has the machine's
instructions the kernel runs there; without one it runs in Triton's interpreter on the CPU, at
lengths cut to a few tiles that no tile divides. The interpreter has plain loops alone: of a kernel whose
warps have roles it runs the plain loop, and the NumPy executor the Program that the warps share.

The bound. A type of p bits rounds by u = 2^-p (bf16: 2^-8). A kernel may round the operands of its
contractions and its output, and each such error is below u of the value it belongs to; 2 u of the
output's norm covers both with room, since they are independent, and 2^-16 covers what fp32 sums
lose over thousands of terms. A single element may be off by four times as much, measured against
its own size, its row's and the whole array's, so that one wrong element among thousands is seen as
well. A kernel that is wrong is off by far more. Where the data make rounding grow, as large scores and
sums that cancel do, that is measured on the reference (napkin.runtime.rounding), and the bound follows it.

Deliberately absent: speed, and any tolerance to set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from napkin.diagram import Diagram, implied_sizes
from napkin.language.errors import Diagnostic, NapkinError
from napkin.runtime.compare import OutputCheck, compare
from napkin.runtime.data import (
    TORCH_TYPES,
    Value,
    axis_lengths,
    indexing_arguments,
    random_arguments,
)
from napkin.runtime.gpus import runnable
from napkin.runtime.interpreter import enable_interpreter
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.runtime.reference import torch_reference
from napkin.runtime.rounding import bounded_by_data
from napkin.schedule.execute import execute
from napkin.schedule.planning.plan import Plan
from napkin.schedule.program import AxisRole, AxisTile, Dot, Program, walk

_ROUNDINGS = 2  # of the output's norm, in units of u
_SUMS = 2.0**-16  # what fp32 arithmetic may lose over a long sum
_READ_BY_DATA = 8  # the interpreter's length of an axis that only data index, such as a page pool
_SHARE = 0.4  # of a GPU's free memory that the reference may take

Draw = Callable[[Mapping[str, int], torch.device], dict[str, Value]]


@dataclass(frozen=True, slots=True)
class Verification:
    """What was run where, and how every output fared.

    `reduced` says why lengths differ, `form` which form of the kernels ran where they have another.
    """

    diagram: str
    machine: str
    device: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    reduced: str
    checks: tuple[OutputCheck, ...]
    seconds: float
    form: str = ""

    @property
    def passed(self) -> bool:
        """Whether every output is as near as its types allow."""
        return all(each.passed for each in self.checks)

    def __str__(self) -> str:
        sizes = " ".join(f"{axis}={size}" for axis, size in self.sizes)
        return "\n".join(
            [
                f"{self.diagram}: the kernel for {self.machine} in {self.dtype}, on {self.device}",
                *([f"  {self.form}"] if self.form else []),
                f"  sizes {sizes}{f' ({self.reduced})' if self.reduced else ''}",
                *(f"  {each}" for each in self.checks),
            ]
        )


def verify(
    plan: Plan,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    draw: Draw | None = None,
) -> Verification:
    """Run the plan's kernel on random data against the float64 reference.

    `sizes` are lengths to keep whatever the device; `draw` gives the arguments where random ones would not
    belong together. Without a GPU this must come before anything
    imports triton, since its interpreter is switched on for the whole process.
    """
    started = time.perf_counter()
    diagram = plan.diagram
    device = _device(plan)
    runs = runnable(plan, device)
    given = dict(sizes or {})
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        lengths, reduced = _within_memory(plan, given, device)
    else:
        _refuse_small_floats(plan)
        enable_interpreter()
        name = "the CPU (Triton's interpreter)"
        lengths, reduced = _few_tiles(plan, given)
    if draw is None:
        arguments = random_arguments(diagram, lengths, dtype=plan.dtype, device=device, seed=seed)
    else:
        arguments = draw(lengths, device)
    # The kernel goes first: what it leaves unwritten can't then hold the reference's memory.
    results = run(runs, arguments)
    wanted = torch_reference(diagram, arguments)
    programs = [each.printed for each in runs.kernels]
    checks = [
        compare(output.name, result, reference, bound(programs, output.dtype))
        for output, result, reference in zip(plan.outputs, results, wanted, strict=True)
    ]
    unit = coarsest(programs, [output.dtype for output in plan.outputs])
    checks = bounded_by_data(plan, arguments, wanted, checks, unit)
    if device.type != "cuda" and runs != plan:
        checks += _in_numpy(plan, arguments, lengths, wanted)
    seconds = time.perf_counter() - started
    shown = tuple((axis, lengths[axis]) for axis in diagram.axes)
    return Verification(
        diagram.name,
        plan.machine.name,
        name,
        plan.dtype,
        shown,
        reduced,
        tuple(checks),
        seconds,
        _form(plan, runs, device),
    )


def run(plan: Plan, arguments: Mapping[str, Value]) -> tuple[torch.Tensor, ...]:
    """Return what the plan's kernel gives for arguments by name."""
    diagram = plan.diagram
    entry = load_kernel(kernel_source(plan), diagram)
    with np.errstate(all="ignore"):  # the interpreter computes on NumPy, both sides of a `where`
        results = entry(*(arguments[each.name] for each in diagram.arguments))
    return results if isinstance(results, tuple) else (results,)


def _form(plan: Plan, runs: Plan, device: torch.device) -> str:
    """Return which form of the plan's kernels ran, nothing where they are plain loops anyway."""
    if any(each.loop is not None for each in plan.kernels):
        which = "the loop with operands in shared memory"
        return which if runs == plan else f"the plain form runs; {which} needs a GPU"
    if all(each.form is None for each in plan.kernels):
        return ""
    if runs == plan:
        return "the warp-specialised form"
    where = "the CPU" if device.type != "cuda" else "this GPU"
    return f"on {where} the plain form runs; the warp-specialised one needs a Hopper GPU"


def _in_numpy(
    plan: Plan,
    arguments: Mapping[str, Value],
    lengths: dict[str, int],
    wanted: Sequence[torch.Tensor],
) -> list[OutputCheck]:
    """Run the Programs of a plan's forms by NumPy, which rounds nothing."""
    formed = any(each.form is not None for each in plan.kernels)
    which = "warp-specialised" if formed else "shared-memory"
    made = {each.name: _as_numpy(arguments[each.name]) for each in plan.arrays}
    scalars = {
        name: value if isinstance(value, float | int) else value.item()
        for name, value in arguments.items()
        if name not in made
    }
    with np.errstate(all="ignore"):
        for kernel in plan.kernels:
            read = {each.name: made[each.name] for each in kernel.printed.arrays}
            needed = {name: scalars[name] for name, _ in kernel.printed.scalars}
            made |= execute(kernel.printed, read, needed, plan.segments | lengths).outputs
    return [
        compare(
            f"{output.name}, by the {which} program in NumPy",
            torch.from_numpy(made[output.name]),
            reference,
            _SUMS if reference.is_floating_point() else 0.0,
        )
        for output, reference in zip(plan.outputs, wanted, strict=True)
    ]


def _as_numpy(value: Value) -> Any:
    tensor = torch.as_tensor(value)
    return tensor.to(torch.float64 if tensor.is_floating_point() else tensor.dtype).numpy()


def bound(programs: Iterable[Program], output_type: str) -> float:
    """Return the relative error that the programs' rounding explains; 0 for integers and truth values."""
    if not TORCH_TYPES[output_type].is_floating_point:
        return 0.0
    return _ROUNDINGS * torch.finfo(coarsest(programs, [output_type])).eps / 2 + _SUMS


def coarsest(programs: Iterable[Program], output_types: Sequence[str]) -> torch.dtype:
    """Return the coarsest real type among those of outputs and those that contractions round to."""
    rounded = [
        op.operand_type
        for program in programs
        for op in walk(program.operations)
        if isinstance(op, Dot)
    ]
    floats = [TORCH_TYPES[each] for each in (*output_types, *rounded)]
    real = [each for each in floats if each.is_floating_point]
    return max(real, key=lambda each: torch.finfo(each).eps, default=torch.float64)


def _device(plan: Plan) -> torch.device:
    """Return the GPU at hand if it has the plan's instructions, else the CPU."""
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if 10 * major + minor >= (plan.machine.capability or 0):
            return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _refuse_small_floats(plan: Plan) -> None:
    """Refuse what Triton's interpreter does not have."""
    for each in (*plan.arrays, *plan.outputs):
        if each.dtype.startswith("fp8"):
            message = f"`{each.name}` is of {each.dtype}, which Triton's interpreter does not have"
            help_line = "verify on a GPU, or with --dtype bf16"
            raise NapkinError([Diagnostic("N611", message, help=help_line)])


# --- lengths --------------------------------------------------------------------------------------


def _few_tiles(plan: Plan, given: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """Return lengths of a few tiles, none of which a tile divides, for the interpreter."""
    diagram = plan.diagram
    before = dict(plan.sizes)
    tiles = _tiles(plan)
    wanted = {
        axis: _few([each for each in tiles if each.axis == axis], before[axis])
        for axis in dict.fromkeys(each.axis for each in tiles)
    }
    wanted |= {each.axis: each.size for each in tiles if each.size is not None}
    for _, axis in indexing_arguments(diagram):
        if axis not in wanted:
            wanted[axis] = min(before[axis], _READ_BY_DATA)
    untouched = {
        axis: size
        for axis, size in before.items()
        if axis not in wanted and axis not in _implying(diagram)
    }
    lengths = axis_lengths(diagram, untouched | wanted | dict(given))
    changed = any(lengths[axis] != before[axis] for axis in lengths if axis not in given)
    return lengths, "cut to a few tiles for the interpreter" if changed else ""


def _few(tiles: Sequence[AxisTile], before: int) -> int:
    """Return a length of a few of an axis's tiles, none of which divides it."""
    length = max(_few_of_one(each, before) for each in tiles)
    wide = {each.tile for each in tiles if each.tile > 1}
    while any(length % each == 0 for each in wide):
        length += min(wide) // 2
    return length


def _few_of_one(tile: AxisTile, before: int) -> int:
    if tile.role is AxisRole.STREAM:
        return 2 * tile.tile + tile.tile // 2
    if tile.dim is None:
        return min(before, 2)
    return tile.tile + tile.tile // 2


def _implying(diagram: Diagram) -> set[str]:
    """Return the axes whose length gives another's: they follow what is wished of the other."""
    return {read for each in implied_sizes(diagram).values() for read in each.axes}


def _within_memory(
    plan: Plan, given: Mapping[str, int], device: torch.device
) -> tuple[dict[str, int], str]:
    """Return the plan's lengths, halved where the reference would not fit on the GPU."""
    diagram = plan.diagram
    lengths = axis_lengths(diagram, dict(plan.sizes) | dict(given))
    free, _ = torch.cuda.mem_get_info(device)
    reduced = False
    for axis in _reducible(plan, given):
        while lengths[axis] > 1 and _reference_bytes(diagram, lengths) > _SHARE * free:
            lengths[axis] = (lengths[axis] + 1) // 2
            reduced = True
    return lengths, "cut so that the float64 reference fits in memory" if reduced else ""


def _reducible(plan: Plan, given: Mapping[str, int]) -> Sequence[str]:
    """Return the axes that may be shortened, those without a tile first, the stream last."""
    implied = implied_sizes(plan.diagram)
    kept = {*given, *implied, *_implying(plan.diagram)}
    kept |= {each.axis for each in _tiles(plan) if each.size is not None}
    free = [each for each in _tiles(plan) if each.axis not in kept]
    order = sorted(free, key=lambda each: (each.role is AxisRole.STREAM, each.dim is not None))
    return list(dict.fromkeys(each.axis for each in order))


def _tiles(plan: Plan) -> list[AxisTile]:
    """Return the tile of the diagram's axes in every kernel, as a plain loop and as it is printed."""
    own = plan.diagram.axes
    tiles = [each for k in plan.kernels for p in (k.program, k.printed) for each in p.axes]
    return [each for each in tiles if each.axis in own]


def _reference_bytes(diagram: Diagram, lengths: Mapping[str, int]) -> int:
    return 8 * sum(prod(lengths[axis] for axis in box.axes) for box in diagram.boxes)
