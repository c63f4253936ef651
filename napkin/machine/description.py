"""A machine as a value: levels, pipelines, matrix instructions, limits, features, corrections.

The compute unit is NVIDIA's SM. Rates come per clock and unit, as hardware is described; the
methods give them per second for the whole machine, as a cost needs them. Data sheets' figures and
measured ones stay apart: `nominal_bandwidth` and `nominal_peak` are the former, `bandwidth` and
`peak` are corrected by what was measured.

Deliberately absent: any judgement of what is fast. That is the model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from napkin.language.errors import InternalError
from napkin.operators import Pipeline


@dataclass(frozen=True, slots=True)
class Level:
    """A memory level; an edge of the graph runs from it to each of its children.

    `capacity` is in bytes an instance; some caches' is not published. `bandwidth` is the nominal rate to
    and from the children, in bytes a second for the whole machine, None where it never binds or nobody
    publishes it. `granularity` is the unit
    of allocation in bytes. A level `within` another uses up the other's capacity: tensor-core
    fragments are registers. A cache in parts may hold a line once in each: `copies`.
    """

    name: str
    published_capacity: int | None
    instances: int
    granularity: int
    children: tuple[str, ...]
    bandwidth: float | None
    within: str | None
    source: str
    copies: float = 1.0

    @property
    def capacity(self) -> int:
        """The bytes that an instance holds."""
        if self.published_capacity is None:
            raise InternalError(f"level {self.name} has no capacity")
        return self.published_capacity


@dataclass(frozen=True, slots=True)
class PipelineRates:
    """Operations a clock and unit of one pipeline, by storage type (and `tf32`).

    `counts` says what one operation is: `flops` (a multiply-add is two) or `results` (it is one).
    """

    pipeline: Pipeline
    counts: str
    rates: tuple[tuple[str, float], ...]
    source: str

    @property
    def is_tensor(self) -> bool:
        """Whether it is the one that contracts."""
        return self.pipeline is Pipeline.TENSOR


@dataclass(frozen=True, slots=True)
class Instruction:
    """A matrix instruction: `m` rows, a multiple of `n_step` columns up to `n_max`, `k_bytes` deep.

    `threads` issue it together. `left` and `right` list the levels that its operands may lie at.
    """

    name: str
    m: int
    n_step: int
    n_max: int
    k_bytes: int
    threads: int
    left: tuple[str, ...]
    right: tuple[str, ...]
    types: tuple[str, ...]
    source: str

    def depth(self, type_bytes: int) -> int:
        """Return the contracted length of one instruction for operands of `type_bytes` each."""
        return self.k_bytes // type_bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What one thread, block or unit may hold. `register_granularity` counts registers a warp."""

    threads_per_warp: int
    warps_per_group: int
    warps_per_block: int
    warps_per_unit: int
    blocks_per_unit: int
    blocks_per_cluster: int
    registers_per_thread: int
    registers_per_block: int
    registers_per_unit: int
    register_granularity: int
    shared_per_block: int
    shared_reserved_per_block: int
    coalesced_bytes: int
    source: str

    def registers(self, warps: int) -> int:
        """Return the registers that a thread of a block of so many warps may have."""
        shared_out = self.registers_per_block // (self.threads_per_warp * warps)
        return min(self.registers_per_thread, shared_out)


@dataclass(frozen=True, slots=True)
class Link:
    """A path between neighbours at one level: `joins` is `shared` for a cluster, `dram` for several GPUs.

    `rates` gives, by the number of instances joined, the bytes a second that pass one way: into one GPU,
    or for a cluster into all units of the machine together.
    """

    name: str
    joins: str
    rates: tuple[tuple[int, float], ...]
    source: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that nothing hides where it stands alone.

    `launch` of a kernel, `load` from the outermost memory, `copy` of a tile from the cache into shared
    memory, `contraction` from its operands to its result's first use.
    """

    name: str
    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class Correction:
    """A measured value of a figure, in the unit of the method that gives the nominal one."""

    figure: str
    value: float
    measured: date
    source: str


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine. `architecture` is the compiler's target (`sm_90`), None if it is only costed.

    A machine that is only costed may lack a clock, latencies and limits, where its maker publishes none.
    `calibrated` says when and on what its corrections were measured, if a user did so.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    architecture: str | None
    units: int
    published_clock: float | None
    features: tuple[str, ...]
    levels: tuple[Level, ...]
    pipelines: tuple[PipelineRates, ...]
    instructions: tuple[Instruction, ...]
    links: tuple[Link, ...]
    latencies: tuple[Latency, ...]
    published_limits: Limits | None
    corrections: tuple[Correction, ...]
    source: str
    calibrated: str = ""

    @property
    def clock(self) -> float:
        """The clock in hertz at which the rates hold."""
        if self.published_clock is None:
            raise InternalError(f"machine {self.name} has no clock")
        return self.published_clock

    @property
    def limits(self) -> Limits:
        """What one thread, block or unit may hold."""
        if self.published_limits is None:
            raise InternalError(f"machine {self.name} has no limits")
        return self.published_limits

    @property
    def capability(self) -> int | None:
        """The architecture as a number, 90 for `sm_90`."""
        return int(self.architecture.removeprefix("sm_")) if self.architecture else None

    def has(self, feature: str) -> bool:
        """Tell whether the machine has a feature such as `tma`."""
        return feature in self.features

    def level(self, name: str) -> Level:
        """Return the level of that name."""
        for each in self.levels:
            if each.name == name:
                return each
        raise InternalError(f"machine {self.name} has no level {name}")

    def parent(self, name: str) -> Level | None:
        """Return the level that feeds `name`, None for the outermost."""
        return next((each for each in self.levels if name in each.children), None)

    def path(self, name: str) -> tuple[Level, ...]:
        """Return the levels from the outermost down to `name`."""
        above = self.parent(name)
        return (*(self.path(above.name) if above else ()), self.level(name))

    def has_bandwidth(self, name: str) -> bool:
        """Tell whether a level's rate to its children is published."""
        return self.level(name).bandwidth is not None

    def nominal_bandwidth(self, name: str) -> float:
        """Return the data sheet's bytes a second between a level and its children."""
        bandwidth = self.level(name).bandwidth
        if bandwidth is None:
            raise InternalError(f"machine {self.name} has no bandwidth for level {name}")
        return bandwidth

    def bandwidth(self, name: str) -> float:
        """Return the bytes a second between a level and its children, as measured if it was."""
        return self._measured(f"{name}.bandwidth", self.nominal_bandwidth(name))

    def has_rate(self, pipeline: Pipeline, storage_type: str) -> bool:
        """Tell whether a pipeline works on a storage type at all."""
        return self._find_rate(pipeline, storage_type) is not None

    def rate(self, pipeline: Pipeline, storage_type: str) -> float:
        """Return the operations a clock and unit; `PipelineRates.counts` says of what."""
        rate = self._find_rate(pipeline, storage_type)
        if rate is None:
            raise InternalError(f"machine {self.name} has no {pipeline} rate for {storage_type}")
        return rate

    def nominal_peak(self, pipeline: Pipeline, storage_type: str) -> float:
        """Return the operations a second of the whole machine at its nominal clock."""
        return self.rate(pipeline, storage_type) * self.units * self.clock

    def peak(self, pipeline: Pipeline, storage_type: str) -> float:
        """Return the operations a second of the whole machine, as measured if it was."""
        nominal = self.nominal_peak(pipeline, storage_type)
        return self._measured(f"{pipeline}.{storage_type}", nominal)

    def latency(self, name: str) -> float:
        """Return the seconds of a latency, as measured if it was."""
        for each in self.latencies:
            if each.name == name:
                return self._measured(f"{name}.latency", each.seconds)
        raise InternalError(f"machine {self.name} has no latency {name}")

    @property
    def figures(self) -> frozenset[str]:
        """The figures that a correction may name."""
        levels = {f"{each.name}.bandwidth" for each in self.levels if each.bandwidth is not None}
        rates = {f"{each.pipeline}.{kind}" for each in self.pipelines for kind, _ in each.rates}
        kinds = {kind for each in self.pipelines for kind, _ in each.rates if each.is_tensor}
        rates |= {f"sustained.{kind}" for kind in kinds}
        return frozenset(levels | rates | {f"{each.name}.latency" for each in self.latencies})

    def nominal(self, figure: str) -> float:
        """Return a figure as its maker or the machine file has it, not as measured."""
        name, _, kind = figure.partition(".")
        if kind == "bandwidth":
            return self.nominal_bandwidth(name)
        if kind == "latency":
            return next(each.seconds for each in self.latencies if each.name == name)
        if name == "sustained":
            return self.nominal_peak(Pipeline.TENSOR, kind)
        return self.nominal_peak(Pipeline(name), kind)

    def sustained(self, storage_type: str) -> float:
        """Return the tensor operations a second that power lets last, as measured if it was."""
        nominal = self.nominal_peak(Pipeline.TENSOR, storage_type)
        return self._measured(f"sustained.{storage_type}", nominal)

    def has_correction(self, figure: str) -> bool:
        """Tell whether a figure was measured."""
        return any(each.figure == figure for each in self.corrections)

    def _find_rate(self, pipeline: Pipeline, storage_type: str) -> float | None:
        for each in self.pipelines:  # plain loops: planning asks a hundred thousand times
            if each.pipeline == pipeline:
                for kind, rate in each.rates:
                    if kind == storage_type:
                        return rate
        return None

    def _measured(self, figure: str, nominal: float) -> float:
        return next((each.value for each in self.corrections if each.figure == figure), nominal)
