"""What the charts of a cost picture show of a plan: rooflines, least transfers, rows of pipelines.

In: a plan and its counts. Out: the values of chart.py. Counts are the program's (schedule/count.py),
clocks those of the throughput table (schedule/tiling/tables.py), transfers those of the two-level model
(model/optimum.py), rates the machine's.

Deliberately absent: any time of its own. The chart of pipelines lets every row issue in order and
every pipeline do one thing at a time; it knows no latency (paper, section 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from napkin.draw.chart import Curve, Mark, Rival, Roof, Roofline, Span, Timeline, Track
from napkin.machine import Machine
from napkin.model.costs import Costs, two_level_costs
from napkin.model.optimum import optimum, power_law
from napkin.model.throughput import Stage
from napkin.operators import Pipeline
from napkin.schedule.count import Totals, peak
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.tiling.kernel import rank_kernels
from napkin.schedule.tiling.tables import kernel_shares, throughput_of

_SAMPLES = 25
_MOST_ROWS, _STEPS, _WARM_UP = 4, 6, 3
_SMALL = 0.03  # of a step's clocks: a shorter operation is drawn with its neighbour


def longest(plan: Plan) -> KernelPlan:
    """Return the kernel that is predicted to take longest: the one that charts are about."""
    return max(plan.kernels, key=lambda each: each.prediction.seconds)


# --- roofline -------------------------------------------------------------------------------------


def roofline_of(
    plan: Plan, counted: Sequence[Totals], once: float, tensor_type: str
) -> Roofline | None:
    """Return the roofline of all kernels; None where there are no contractions on tensor cores."""
    flops = sum(each.on(Pipeline.TENSOR) for each in counted)
    if not flops:
        return None
    drawn = {"dram": once, "l2": float(sum(each.bytes for each in counted))}
    names = {"dram": "DRAM", "l2": "L2"}
    roofs = tuple(
        Roof(names[each.name], plan.machine.bandwidth(each.name), drawn[each.name])
        for each in plan.machine.levels
        if each.name in drawn and each.bandwidth is not None
    )
    if not roofs:
        return None
    peak = plan.machine.peak(Pipeline.TENSOR, tensor_type)
    return Roofline(flops, plan.seconds, peak, f"tensor cores, {tensor_type}", roofs)


# --- least transfers ------------------------------------------------------------------------------


def curve_of(kernel: KernelPlan, counted: Totals) -> Curve | None:
    """Return the least transfers by memory; None where memory makes no difference."""
    costs = two_level_costs(kernel.derivation)
    sizes = dict(kernel.sizes)
    value_bytes = TYPE_BYTES[kernel.dtype]
    machine = kernel.machine
    marks = tuple(
        Mark(name, memory)
        for name, memory in (
            ("registers", machine.level("register").capacity),
            ("shared", machine.limits.shared_per_block),
            ("L2", machine.level("l2").capacity),
        )
    )
    arrays = (*kernel.program.arrays, *kernel.program.outputs)
    once = sum(prod(sizes[axis] for axis in each.axes) for each in arrays) * value_bytes
    low, high = min(each.memory for each in marks) / 32, max(each.memory for each in marks) * 2
    points: list[tuple[float, float]] = []
    for place in range(_SAMPLES):
        memory = low * (high / low) ** (place / (_SAMPLES - 1))
        found = _least(costs, memory / value_bytes, sizes)
        if found is None:
            return None
        points.append((memory, max(found * value_bytes, float(once))))
    if points[0][1] <= 1.01 * points[-1][1]:
        return None
    held = float(sum(size for _, size in peak(kernel.program)))
    law = power_law(costs)
    formula = str(law) if law else ""
    return Curve(tuple(points), marks, (held, float(counted.bytes)), float(once), formula)


def _least(costs: Costs, memory: float, sizes: Mapping[str, int]) -> float | None:
    try:
        return float(optimum(costs, memory, sizes=sizes).transferred)
    except (ValueError, TypeError):
        return None


# --- rivals ---------------------------------------------------------------------------------------


def rivals_of(plan: Plan) -> tuple[Rival, ...]:
    """Return the plan beside the next best of its longest kernel, and the one kernel that it cut."""
    kernel = longest(plan)
    found = [Rival("this plan", kernel.prediction.seconds, _describe(kernel))]
    if kernel.form is not None:
        found = [
            Rival("this plan", kernel.expected.seconds, "warp-specialised"),
            replace(found[0], name="plain loop"),
        ]
    ranking = rank_kernels(kernel.derivation, plan.machine, dict(kernel.sizes), kernel.dtype)
    own = _tiles(kernel)
    other = next((each for each in ranking.kernels if _tiles(each) != own), None)
    if other is not None:
        found.append(Rival("runner-up", other.prediction.seconds, _describe(other)))
    if plan.turned_down is not None:
        whole = plan.turned_down
        found[0] = replace(found[0], name="longest kernel")
        found.append(Rival("all kernels", plan.seconds, f"{len(plan.kernels)} in turn"))
        if whole.fits:
            found.append(Rival("in one kernel", whole.prediction.seconds, _describe(whole)))
    return tuple(found)


def _tiles(kernel: KernelPlan) -> tuple[object, ...]:
    return (tuple(each.tile for each in kernel.program.axes), kernel.warps, kernel.stages)


def _describe(kernel: KernelPlan) -> str:
    tiles = " ".join(f"{each.axis} {each.tile}" for each in kernel.program.axes if each.tile > 1)
    return f"{tiles}; {kernel.warps} warps, {kernel.stages} stages"


# --- pipelines ------------------------------------------------------------------------------------


def timeline_of(kernel: KernelPlan) -> Timeline | None:
    """Return what the shares on one unit do in a few steps; None for a kernel without a loop."""
    table = throughput_of(kernel)
    stages = _joined(table.stages, table.serial)
    if not stages:
        return None
    shares, blocks = kernel_shares(kernel), resident_blocks(kernel)
    names = [
        f"block {block + 1}, warps {share + 1}" if shares > 1 else f"block {block + 1}"
        for block in range(blocks)
        for share in range(shares)
    ][:_MOST_ROWS]
    rows = _issue(stages, len(names), table.threads)
    step = table.longest * table.threads * len(names)
    first = min(row[_WARM_UP * len(stages)].start for row in rows)
    last = first + 2 * max(step, table.serial * table.threads)
    tracks = tuple(
        Track(name, tuple(_clipped(row, first, last)))
        for name, row in zip(names, rows, strict=True)
    )
    return Timeline(tracks, last - first, step, table.bound_by.value)


def _joined(stages: Sequence[Stage], serial: float) -> list[Stage]:
    """Return the stages, neighbours on one pipeline as one, the short ones with what comes before."""
    made: list[Stage] = []
    for each in stages:
        if made and made[-1].pipeline is each.pipeline and each.pipeline is not Pipeline.TENSOR:
            work = made[-1].operations + each.clocks * made[-1].rate
            name = made[-1].name if made[-1].clocks >= each.clocks else each.name
            made[-1] = replace(made[-1], operations=work, name=name)
        elif each.clocks >= _SMALL * serial or (each.pipeline is Pipeline.TENSOR):
            made.append(each)
    return made


def _issue(stages: Sequence[Stage], rows: int, threads: int) -> list[list[Span]]:
    """Return every row's operations: in order, each when its row and its pipeline are both free."""
    ready = [0.0] * rows
    free: dict[Pipeline, float] = {}
    done: list[list[Span]] = [[] for _ in range(rows)]
    for _ in range(_STEPS * len(stages) * rows):
        least = min(len(each) for each in done)
        # No row runs a whole step ahead of another.
        waiting = [row for row in range(rows) if len(done[row]) < least + len(stages)]
        starts = {
            row: max(ready[row], free.get(_next(stages, done[row]).pipeline, 0.0))
            for row in waiting
        }
        # Of rows that could go at once, the one that is further: they fall out of step, as they should.
        row = min(waiting, key=lambda each: (starts[each], -len(done[each]), each))
        stage, start = _next(stages, done[row]), starts[row]
        end = start + stage.clocks * threads
        ready[row] = free[stage.pipeline] = end
        done[row].append(Span(stage.name, stage.pipeline.value, start, end))
    return done


def _next(stages: Sequence[Stage], done: Sequence[Span]) -> Stage:
    return stages[len(done) % len(stages)]


def _clipped(row: Sequence[Span], first: float, last: float) -> list[Span]:
    return [
        replace(each, start=max(each.start, first) - first, end=min(each.end, last) - first)
        for each in row
        if each.end > first and each.start < last
    ]


def resident_blocks(kernel: KernelPlan) -> int:
    """Return how many blocks a unit holds at once: by shared memory, registers and warps."""
    machine: Machine = kernel.machine
    limits = machine.limits
    warps = kernel.warps if kernel.form is None else kernel.form.warps.warps
    threads = warps * limits.threads_per_warp
    shared = kernel.expected.shared_bytes + limits.shared_reserved_per_block
    return max(
        1,
        min(
            machine.level("shared").capacity // shared,
            limits.registers_per_unit // (max(1, kernel.expected.registers) * threads),
            limits.warps_per_unit // warps,
            limits.blocks_per_unit,
        ),
    )
