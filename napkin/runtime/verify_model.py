"""The model against the GPU at hand: what it says of every kernel beside what was measured and counted.

In: plans, each with where it came from. Out: `Verdict`s, a table of them, and how far the model was off, the
plain roofline's error beside it: contractions at the data sheet's rate, or every array once at its bandwidth.
The kernels of a plan are measured one by one, each as a diagram of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from napkin.operators import Pipeline
from napkin.runtime.bench import measure
from napkin.runtime.counters import Traffic, Watched, read_counters
from napkin.runtime.inspect import inspect_plan
from napkin.schedule.planning.cost import cost_of
from napkin.schedule.planning.flops import contraction_flops
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.program import Dot, walk
from napkin.schedule.timing.predict import guessed_scalars
from napkin.schedule.units import duration, scaled, table


@dataclass(frozen=True, slots=True)
class Verdict:
    """One kernel: seconds, bytes a block and registers a thread as predicted and as found, and its traffic.

    `dram` and `l2` are the formulas' bytes, `passing` what the order of groups makes of the former: read,
    and written before the end. `counted` are the counters', or why there are none.
    """

    kernel: str
    form: str
    sizes: tuple[tuple[str, int], ...]
    predicted: float
    measured: float
    roofline: float
    shared: tuple[int, int]
    registers: tuple[int, int]
    dram: int
    l2: int
    passing: tuple[int, int]
    counted: Traffic | str

    @property
    def error(self) -> float:
        """How far the prediction is off, relative to what was measured."""
        return self.predicted / self.measured - 1

    @property
    def roofline_error(self) -> float:
        """How far the roofline is off."""
        return self.roofline / self.measured - 1

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as `napkin verify-model --json` prints it."""
        counted = self.counted
        return {
            "kernel": self.kernel,
            "form": self.form,
            "sizes": dict(self.sizes),
            "predicted_seconds": self.predicted,
            "measured_seconds": self.measured,
            "error": self.error,
            "roofline_seconds": self.roofline,
            "roofline_error": self.roofline_error,
            "shared_bytes": {"predicted": self.shared[0], "compiled": self.shared[1]},
            "registers": {"predicted": self.registers[0], "compiled": self.registers[1]},
            "dram_bytes": {
                "formula": self.dram,
                "expected_read": self.passing[0],
                "expected_written": self.passing[1],
                "read": None if isinstance(counted, str) else counted.dram_read,
                "written": None if isinstance(counted, str) else counted.dram_written,
            },
            "l2_bytes": {
                "formula": self.l2,
                "counted": None if isinstance(counted, str) else counted.l2,
            },
        } | ({"counters": counted} if isinstance(counted, str) else {})


@dataclass(frozen=True, slots=True)
class Errors:
    """How far several predictions are off: absolute, relative."""

    median: float
    worst: float

    @classmethod
    def of(cls, errors: Sequence[float]) -> Errors:
        """Return the median and the worst of relative errors of either sign."""
        sizes = [abs(each) for each in errors]
        return cls(median(sizes), max(sizes))

    def __str__(self) -> str:
        return f"median {self.median:.1%}, worst {self.worst:.1%}"


def verify_model(plan: Plan, watched: Watched) -> tuple[Verdict, ...]:
    """Measure, compile and count a plan's kernels; `watched` says how another process plans it."""
    return tuple(
        _judge(_alone(plan, kernel), replace(watched, place=place))
        for place, kernel in enumerate(plan.kernels)
    )


def roofline_seconds(plan: Plan) -> float:
    """Return the plain roofline's time: contractions or arrays once a kernel, whichever takes longer."""
    return sum(_roofline(plan, each) for each in plan.kernels)


def show_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as tables, and the errors of all."""
    times: list[tuple[str, ...]] = [
        ("kernel", "measured", "predicted", "error", "roofline", "form")
    ]
    needs: list[tuple[str, ...]] = [
        ("kernel", "shared, said", "compiled", "registers, said", "compiled")
    ]
    moved: list[tuple[str, ...]] = [
        (
            "kernel",
            "once",
            "read, said",
            "counted",
            "written, said",
            "counted",
            "L2, said",
            "counted",
        )
    ]
    for each in verdicts:
        took, said = duration(each.measured), duration(each.predicted)
        errors = f"{each.error:+.1%}", f"{each.roofline_error:+.1%}"
        times.append((each.kernel, took, said, *errors, each.form))
        shared = [f"{size:,} B" for size in each.shared]
        needs.append((each.kernel, *shared, *map(str, each.registers)))
        moved.append((each.kernel, *_moved(each)))
    why = {each.counted for each in verdicts if isinstance(each.counted, str)}
    lines = [*table(times), "", *table(needs), "", *table(moved), *sorted(why), ""]
    lines.append(f"predictions: {Errors.of([each.error for each in verdicts])}")
    lines.append(f"roofline:    {Errors.of([each.roofline_error for each in verdicts])}")
    return "\n".join(lines)


def _moved(each: Verdict) -> tuple[str, ...]:
    once, l2 = scaled(each.dram, "B"), scaled(each.l2, "B")
    read, written = (scaled(count, "B") for count in each.passing)
    if isinstance(each.counted, str):
        return once, read, "-", written, "-", l2, "-"
    counted = each.counted
    found = (scaled(count, "B") for count in (counted.dram_read, counted.dram_written, counted.l2))
    read_too, written_too, l2_too = found
    return once, read, read_too, written, written_too, l2, l2_too


def _alone(plan: Plan, kernel: KernelPlan) -> Plan:
    """Return a plan of one of a plan's kernels, as the diagram that it runs."""
    diagram = kernel.derivation.diagram
    return replace(plan, diagram=diagram, sizes=kernel.sizes, kernels=(kernel,), turned_down=None)


def _judge(plan: Plan, watched: Watched) -> Verdict:
    (kernel,) = plan.kernels
    (found,) = inspect_plan(plan)
    cost = {each.level: each for each in cost_of(plan).levels}
    said = kernel.expected
    return Verdict(
        kernel.name,
        kernel.form_name,
        kernel.sizes,
        said.seconds,
        measure(plan).seconds,
        roofline_seconds(plan),
        (said.shared_bytes, found.resources.shared_bytes),
        (said.registers, found.resources.registers),
        cost["dram"].transfer_bytes,
        cost["shared"].transfer_bytes + cost["register"].transfer_bytes,
        cost["dram"].passing[:2],
        read_counters(watched),
    )


def _roofline(plan: Plan, kernel: KernelPlan) -> float:
    machine = plan.machine
    moved = cost_of(_alone(plan, kernel)).levels[0].transfer_bytes
    flops = contraction_flops(
        kernel.derivation, dict(kernel.sizes), guessed_scalars(kernel.program, dict(kernel.sizes))
    )
    kinds = [op.operand_type for op in walk(kernel.program.operations) if isinstance(op, Dot)]
    rates = [
        machine.nominal_peak(
            Pipeline.TENSOR, kind if machine.has_rate(Pipeline.TENSOR, kind) else "tf32"
        )
        for kind in kinds
    ]
    return max(moved / machine.nominal_bandwidth("dram"), flops / min(rates) if rates else 0.0)
