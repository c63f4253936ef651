"""How long a step takes each pipeline: the throughput table (paper, section 7, steps 7 and 8).

In: the stages of a stream step, each the operations of one thread on one pipeline, and a machine. Out:
`Throughput`: clocks by pipeline, the one that binds, the slack of the others, and the least tile that
memory can feed. A thread's clocks are its operations over the rate of the whole unit, so a unit takes
them once for each of its threads.

Latency, bank conflicts and small tiles are not in it (section 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from napkin.machine import Machine
from napkin.operators import Pipeline

_HALVES = ("fp8e4m3", "fp8e5m2", "int8", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Stage:
    """Part of a step: a thread's operations on a pipeline that does `rate` of them a clock and unit."""

    name: str
    formula: str
    pipeline: Pipeline
    operations: float
    rate: float

    @property
    def clocks(self) -> float:
        """The clocks of a unit that one thread's part takes."""
        return self.operations / self.rate


@dataclass(frozen=True, slots=True)
class Throughput:
    """The throughput table of one step.

    `threads` are those of a share, `rows` its grouped elements. A step loads `block_bytes` once a block
    and `share_bytes` for each share. `flops` is a thread's part of the contractions; `units`, `clock` and
    `bandwidth` are the machine's.
    """

    stages: tuple[Stage, ...]
    threads: int
    rows: int
    block_bytes: int
    share_bytes: int
    flops: float
    units: int
    clock: float
    bandwidth: float

    @property
    def clocks(self) -> dict[Pipeline, float]:
        """A thread's clocks by pipeline, in order of first use."""
        found: dict[Pipeline, float] = {}
        for each in self.stages:
            found[each.pipeline] = found.get(each.pipeline, 0.0) + each.clocks
        return found

    @property
    def bound_by(self) -> Pipeline:
        """The pipeline with the most clocks."""
        clocks = self.clocks
        return max(clocks, key=lambda pipeline: clocks[pipeline])

    @property
    def longest(self) -> float:
        """The clocks of the pipeline that binds: a step's, where warpgroups take turns perfectly."""
        return self.clocks[self.bound_by]

    def slack(self, clocks: float) -> float:
        """Return how much longer, as a share of itself, something of so many clocks could take."""
        return self.longest / clocks - 1.0

    # --- pipelining -----------------------------------------------------------------------------

    @property
    def serial(self) -> float:
        """The clocks of a step if nothing overlaps."""
        return sum(each.clocks for each in self.stages)

    @property
    def overlapped(self) -> float:
        """The clocks of a step if one warpgroup overlaps its own vector work with later contractions.

        The contractions that the first vector work waits for are alone (paper: QK + max(softmax, PV)).
        """
        is_tensor = [each.pipeline is Pipeline.TENSOR for each in self.stages]
        tensor = [each.clocks for each in self.stages if each.pipeline is Pipeline.TENSOR]
        start = is_tensor.index(True) if tensor else 0
        ends = [place for place, each in enumerate(is_tensor) if place > start and not each]
        first = sum(is_tensor[: ends[0]]) if ends else len(tensor)
        alone, later = sum(tensor[:first]), sum(tensor[first:])
        return alone + max(self.serial - sum(tensor), later)

    # --- memory and peaks -----------------------------------------------------------------------

    def transfer_seconds(self, tile: float) -> float:
        """Return the seconds in which memory feeds every unit one step of a block of this tile."""
        streamed = self.block_bytes + tile / self.rows * self.share_bytes
        return streamed * self.units / self.bandwidth

    def compute_seconds(self, tile: float) -> float:
        """Return the seconds of a step of a block with so many grouped elements."""
        return tile / self.rows * self.threads * self.longest / self.clock

    @property
    def least_tile(self) -> float:
        """The grouped elements of a block from which on memory does not bind; infinite if it always does."""
        once = self.transfer_seconds(0)
        gained = self.compute_seconds(1) - (self.transfer_seconds(1) - once)
        return once / gained if gained > 0 else inf

    @property
    def ideal(self) -> float:
        """The FLOP a second of the whole machine if the pipeline that binds never waits."""
        return self.flops * self.units * self.clock / self.longest


def contraction_rate(machine: Machine, storage: str) -> tuple[Pipeline, float]:
    """Return where a contraction of operands of this type runs, and FLOP a clock and unit there.

    Types that the tensor cores lack are widened to fp16; fp32 and fp64 are exact, by multiply-adds.
    """
    if storage in _HALVES:
        for kind in (storage, "fp16"):
            if machine.has_rate(Pipeline.TENSOR, kind):
                return Pipeline.TENSOR, machine.rate(Pipeline.TENSOR, kind)
    return Pipeline.FP32, 2 * vector_rate(machine, storage if storage == "fp64" else "fp32")


def vector_rate(machine: Machine, storage: str) -> float:
    """Return the results a clock and unit of additions and multiply-adds of a type, else of fp32."""
    kind = storage if machine.has_rate(Pipeline.FP32, storage) else "fp32"
    return machine.rate(Pipeline.FP32, kind)


def merged(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages with those of one name and pipeline added up, where the first of them stands."""
    found: dict[tuple[str, Pipeline], Stage] = {}
    for each in stages:
        key = (each.name, each.pipeline)
        if key in found:
            before = found[key]
            work = before.operations + each.operations * before.rate / each.rate
            each = Stage(each.name, before.formula, each.pipeline, work, before.rate)
        found[key] = each
    return tuple(found.values())
