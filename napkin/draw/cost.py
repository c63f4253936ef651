"""What a cost picture shows of a plan: how long every pipeline and memory level is busy.

In: a plan. Out: a `CostView`, which `draw_cost` (page.py) draws. A bar is work over the machine's
rate, as if nothing else held it up; the longest shows what binds. What the planner's model predicts
for the whole kernel, overheads and all, is a bar of its own.

Deliberately absent: any model. Counts are the program's (schedule/count.py), rates the machine's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from napkin.draw.page import CostBar, CostView, draw_cost
from napkin.draw.performance import curve_of, longest, rivals_of, roofline_of, timeline_of
from napkin.draw.units import in_time, in_units
from napkin.language.errors import Diagnostic, NapkinError
from napkin.machine import Machine
from napkin.operators import Pipeline
from napkin.schedule.count import Totals, totals
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.program import Dot, Program, walk
from napkin.schedule.trips import multiplicity

_PIPELINES = "pipelines"
_MEMORY = "memory"
_KERNEL = "kernel"
_LEAST_SHARE = 0.005  # of a prediction, to be worth a bar


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds that somebody measured, and what took them."""

    name: str
    seconds: float


def cost_view(
    plan: Plan,
    scalars: Mapping[str, float | int] | None = None,
    *,
    measured: Sequence[Measured] = (),
) -> CostView:
    """Return the cost picture of a plan: its program's counts over its machine's rates.

    `scalars` are the values of scalar arguments that a loop's bounds depend on, such as a window.
    """
    counted = [totals(each.printed, dict(each.sizes), scalars) for each in plan.kernels]
    bars = _mark_binding((*_pipeline_bars(plan, counted), *_memory_bars(plan, counted)))
    label = f"the planner's prediction, bound by {plan.bound_by}"
    name = "whole kernel" if len(plan.kernels) == 1 else f"all {len(plan.kernels)} kernels"
    kernel = CostBar(name, plan.seconds, label, False, _KERNEL)
    main = plan.kernels.index(longest(plan))
    programs = [each.program for each in plan.kernels]
    roofline = roofline_of(plan, counted, _bytes_once(plan), _slowest_type(plan.machine, programs))
    return CostView(
        title=plan.diagram.name,
        machine=plan.machine.title,
        sizes=plan.sizes,
        dtype=plan.dtype,
        bars=(*bars, kernel, *(_measured_bar(each, plan.seconds) for each in measured)),
        rows=tuple(
            (row if len(plan.kernels) == 1 else f"{each.name}: {row}", text)
            for each, count in zip(plan.kernels, counted, strict=True)
            for row, text in _plan_rows(each, count)
        ),
        headline=f"{in_time(plan.seconds)} predicted, bound by {plan.bound_by}",
        roofline=roofline,
        curve=curve_of(plan.kernels[main], counted[main]),
        timeline=timeline_of(plan.kernels[main]),
        rivals=rivals_of(plan),
        parts=_part_bars(plan),
    )


def read_measured(text: str, name: str) -> tuple[Measured, ...]:
    """Return the results of a file that `napkin bench --json` wrote.

    Raises NapkinError (N604) if it is not such a file; `name` is what to call it.
    """
    try:
        found = json.loads(text)["results"]
        return tuple(Measured(str(each["name"]), float(each["seconds"])) for each in found)
    except (ValueError, KeyError, TypeError) as error:
        message = f"cannot read `{name}`: it is no result of `napkin bench --json`"
        raise NapkinError([Diagnostic("N604", message)]) from error


def _part_bars(plan: Plan) -> tuple[CostBar, ...]:
    """Return what the predicted time of the longest kernel is made of, the shares that show."""
    kernel = longest(plan)
    whole = kernel.expected.seconds
    of = f" of {kernel.name}" if len(plan.kernels) > 1 else ""
    return tuple(
        CostBar(name, seconds, f"{seconds / whole:.0%}", False, f"the prediction{of}")
        for name, seconds in kernel.expected.parts
        if seconds > _LEAST_SHARE * whole
    )


def _measured_bar(each: Measured, predicted: float) -> CostBar:
    label = f"measured, {each.seconds / predicted:.2f} times the prediction"
    return CostBar(each.name, each.seconds, label, False, _KERNEL)


def _pipeline_bars(plan: Plan, counted: Sequence[Totals]) -> tuple[CostBar, ...]:
    """Return a bar for every pipeline that the program keeps busy."""
    machine = plan.machine
    types = {
        Pipeline.TENSOR: _slowest_type(machine, [each.program for each in plan.kernels]),
        Pipeline.FP32: "fp32",
        Pipeline.SFU: "fp32",
    }
    units = {
        each.pipeline: "FLOP" if each.counts == "flops" else "op" for each in machine.pipelines
    }
    names = {
        Pipeline.TENSOR: "tensor cores",
        Pipeline.FP32: "FP32",
        Pipeline.SFU: "special functions",
    }
    bars: list[CostBar] = []
    for pipeline, storage_type in types.items():
        operations = sum(each.on(pipeline) for each in counted)
        if operations and machine.has_rate(pipeline, storage_type):
            peak = machine.peak(pipeline, storage_type)
            unit = units[pipeline]
            label = f"{in_units(operations, unit)} at {in_units(peak, f'{unit}/s')}"
            bars.append(CostBar(names[pipeline], operations / peak, label, False, _PIPELINES))
    return tuple(bars)


def _slowest_type(machine: Machine, programs: Sequence[Program]) -> str:
    """Return the operand type of the contractions that the tensor cores are slowest on."""
    used = {
        op.operand_type
        for program in programs
        for op in walk(program.operations)
        if isinstance(op, Dot)
    }
    known = sorted(each for each in used if machine.has_rate(Pipeline.TENSOR, each))
    return min(known, key=lambda each: machine.rate(Pipeline.TENSOR, each), default="tf32")


def _memory_bars(plan: Plan, counted: Sequence[Totals]) -> tuple[CostBar, ...]:
    """Return a bar for L2, which all transfers pass, and one for DRAM, for each array once."""
    once = _bytes_once(plan)
    known = {each.name for each in plan.machine.levels if each.bandwidth is not None}
    bars: list[CostBar] = []
    for name, level, count, how in (
        ("L2", "l2", sum(each.bytes for each in counted), "to and from the chip"),
        ("DRAM", "dram", once, "if each array moves once"),
    ):
        if level in known:
            rate = plan.machine.bandwidth(level)
            label = f"{in_units(count, 'B')} {how} at {in_units(rate, 'B/s')}"
            bars.append(CostBar(name, count / rate, label, False, _MEMORY))
    return tuple(bars)


def _bytes_once(plan: Plan) -> int:
    """Return the bytes of every array that a kernel reads or writes, each once a kernel."""
    return sum(
        prod(dict(kernel.sizes)[axis] for axis in array.axes) * TYPE_BYTES[array.dtype]
        for kernel in plan.kernels
        for array in (*kernel.program.arrays, *kernel.program.outputs)
    )


def _mark_binding(bars: Sequence[CostBar]) -> tuple[CostBar, ...]:
    longest = max(bars, key=lambda each: each.seconds, default=None)
    return tuple(replace(each, is_binding=each is longest) for each in bars)


def _plan_rows(plan: KernelPlan, counted: Totals) -> tuple[tuple[str, str], ...]:
    program, limits, prediction = plan.printed, plan.machine.limits, plan.expected
    warps = plan.warps if plan.form is None else plan.form.warps.warps
    stages = plan.stages if plan.form is None else plan.form.warps.stages
    moved: dict[str, int] = {}
    for each in counted.transfers:
        moved[each.array] = moved.get(each.array, 0) + each.bytes
    rows = [
        ("tiles", _tiles(program)),
        (
            "groups",
            f"{multiplicity(program).number(dict(plan.sizes)):,}, on {plan.machine.units} units",
        ),
        ("block", f"{_count(warps, 'warp')}, {_count(stages, 'stage')}"),
        ("shared memory", _of(prediction.shared_bytes, limits.shared_per_block, "bytes a block")),
        ("registers", _of(prediction.registers, limits.registers_per_thread, "a thread")),
        ("moved", ", ".join(f"{name} {in_units(size, 'B')}" for name, size in moved.items())),
    ]
    if not counted.is_exact:
        rows.append(("counts", "an upper bound: how far a loop goes depends on an argument"))
    return tuple(rows)


def _tiles(program: Program) -> str:
    """Return the tiles by what is done with their axes: `group q 128, h 1; stream x 64`."""
    by_role: dict[str, list[str]] = {}
    for each in program.axes:
        by_role.setdefault(each.role.value, []).append(f"{each.axis} {each.tile}")
    return "; ".join(f"{role} {', '.join(tiles)}" for role, tiles in by_role.items())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _of(used: int, limit: int, what: str) -> str:
    return f"{used:,} of {limit:,} {what}"


__all__ = ["CostBar", "CostView", "Measured", "cost_view", "draw_cost"]
