"""What a kernel is judged by beside its prediction: the figures that tell one plan from another.

In: a `KernelPlan`. Out: `Figures`, counted on the Program that is printed: what it reads of every array, its
operations on the tensor cores, how its groups fill the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from napkin.operators import Pipeline
from napkin.schedule.count import GLOBAL, totals
from napkin.schedule.order import specialised_order
from napkin.schedule.program import AxisRole, Dot, walk
from napkin.schedule.tiling.kernel import KernelPlan
from napkin.schedule.timing.occupancy import blocks_per_unit
from napkin.schedule.timing.predict import group_count, guessed_scalars
from napkin.schedule.timing.traffic import Traffic, dram_traffic
from napkin.schedule.trips import Scalar

CONTRACTIONS = "contractions"  # a part of every prediction
_MANY_WAVES = 4  # from here on groups fall out of step, and the last wave hardly shows


@dataclass(frozen=True, slots=True)
class Figures:
    """A kernel's prediction (seconds) and what it is made of, beside counts of the whole dispatch.

    `read` gives the bytes loaded by array, `tensor` and `vector` the operations, whole tiles counted.
    `tensor_share` is the part of the tensor cores' rate at which contractions run in their part of the
    time, more than 1 where other work hides some of them; `rows` the least that a contraction has.
    `blocks` share a unit; `full` is the part of the machine's units that
    have a group to work on, on average. `traffic` is what passes between memory and the cache.
    """

    seconds: float
    bound_by: str
    parts: Mapping[str, float]
    read: Mapping[str, int]
    l2_seconds: float
    dram_seconds: float
    traffic: Traffic
    tensor: int
    vector: int
    tensor_share: float
    rows: int
    tiles: Mapping[str, int]
    stream: str | None
    warps: int
    stages: int
    groups: int
    blocks: int
    full: float
    is_specialised: bool


def figures_of(kernel: KernelPlan) -> Figures:
    """Return the figures of a kernel in the form that is printed."""
    program, machine, said = kernel.printed, kernel.machine, kernel.expected
    sizes, form = dict(kernel.sizes), kernel.form
    counted = totals(program, sizes, guessed_scalars(program, sizes))
    read: dict[str, int] = {}
    for each in counted.transfers:
        if each.source == GLOBAL:
            read[each.array] = read.get(each.array, 0) + each.bytes
    traffic = traffic_of(kernel, guessed_scalars(program, sizes))
    groups = group_count(program, sizes)
    waves = groups / machine.units
    full = waves / ceil(waves) if waves < _MANY_WAVES else 1.0
    parts = dict(said.parts)
    dots = [op for op in walk(program.operations) if isinstance(op, Dot)]
    tensor = counted.on(Pipeline.TENSOR)
    return Figures(
        said.seconds,
        said.bound_by,
        parts,
        read,
        sum(read.values()) / machine.bandwidth("l2"),
        traffic.bytes / machine.bandwidth("dram"),
        traffic,
        tensor,
        counted.on(Pipeline.FP32) + counted.on(Pipeline.SFU),
        _share(kernel, tensor, full * parts.get(CONTRACTIONS, 0.0), dots),
        min((program.dim(op.tile.dims[0]).extent for op in dots if op.tile.dims), default=0),
        {each.axis: each.tile for each in program.axes},
        next((each.axis for each in program.axes if each.role is AxisRole.STREAM), None),
        kernel.warps if form is None else form.warps.warps,
        kernel.stages if form is None else form.warps.stages,
        groups,
        _blocks(kernel),
        full,
        form is not None,
    )


def traffic_of(kernel: KernelPlan, scalars: Mapping[str, Scalar]) -> Traffic:
    """Return what a kernel in the form that is printed moves between memory and the cache."""
    program, machine, sizes = kernel.printed, kernel.machine, dict(kernel.sizes)
    if kernel.form is not None:
        program = specialised_order(program, sizes, machine.units)
    return dram_traffic(program, machine, sizes, machine.units * _blocks(kernel), scalars)


def _blocks(kernel: KernelPlan) -> int:
    """Return how many blocks share a unit."""
    if kernel.form is not None:
        return 1
    said = kernel.expected
    return blocks_per_unit(kernel.machine, kernel.warps, said.shared_bytes, said.registers)


def _share(kernel: KernelPlan, tensor: int, seconds: float, dots: list[Dot]) -> float:
    """Return the part of the tensor cores' rate that contractions reach; 0 where there is none to compare."""
    kinds = {op.operand_type for op in dots}
    if not seconds or len(kinds) != 1 or not kernel.machine.has_rate(Pipeline.TENSOR, *kinds):
        return 0.0
    return tensor / seconds / kernel.machine.nominal_peak(Pipeline.TENSOR, *kinds)
