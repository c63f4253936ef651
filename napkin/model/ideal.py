"""What a diagram must cost on a machine as one kernel: every level tiled for its own memory.

In: a derivation, a machine, lengths and storage types. Out: `Ideal`: for every level the least transfers
that fill it and their seconds, the operations by pipeline and theirs, and which of all these is longest.
The least is a geometric programme with every size a number: tiles are real and no longer than their
axes, stream tiles are one element, memory counts arrays, temporaries and row statistics. Paper, sections
5 and 6.

A level between memory and a unit's own only holds what passes, so it acts with the memory of all the
units beneath it. A level or pipeline without a published rate has no seconds, nor has a level that holds
not even tiles of one element. Masks count for the operations, as the share that is told, not for the
transfers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import Any

from napkin.algebra.derive import Derivation
from napkin.diagram import STORAGE_BYTES, Reduce, topological
from napkin.machine import Level, Machine
from napkin.model.costs import Costs, two_level_costs
from napkin.model.programme import monomials, solve_numerically
from napkin.model.roles import (
    Role,
    bind,
    is_contraction,
    operand_type,
    tile_symbol,
)
from napkin.model.throughput import contraction_rate, vector_rate
from napkin.operators import Pipeline

Expression = Any
_UNIT = "shared"  # the level that one unit has for itself
_DEFAULT_TYPE = "bf16"


@dataclass(frozen=True, slots=True)
class LevelIdeal:
    """The least transfers into a level: values, bytes, the bytes held then, the tiles by axis.

    `fed_by` is the level above, whose rate gives the seconds. `memory` is what the level acts with. `fits`
    is False where tiles of one element need more; there is no time then.
    """

    level: str
    fed_by: str
    memory: int
    elements: float
    bytes: float
    held: float
    tiles: tuple[tuple[str, float], ...]
    fits: bool
    seconds: float | None


@dataclass(frozen=True, slots=True)
class PipelineIdeal:
    """The operations of the whole dispatch on a pipeline; a contraction's are FLOPs."""

    pipeline: Pipeline
    operations: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Ideal:
    """The least that every level and pipeline must do; the slowest of them bounds the rest."""

    levels: tuple[LevelIdeal, ...]
    pipelines: tuple[PipelineIdeal, ...]

    @property
    def times(self) -> dict[str, float]:
        """Seconds by feeding level and pipeline, where a rate is known."""
        found: dict[str, float] = {}
        for level in self.levels:
            if level.seconds is not None:
                found[level.fed_by] = max(level.seconds, found.get(level.fed_by, 0.0))
        for each in self.pipelines:
            if each.seconds is not None and each.operations:
                found[each.pipeline.value] = each.seconds
        return found

    @property
    def fits(self) -> bool:
        """Whether every level holds tiles of one element: if not, the diagram must be cut."""
        return all(each.fits for each in self.levels)

    @property
    def bound_by(self) -> str:
        """The pipeline, or the level that feeds another, that takes longest; `capacity` if none is known."""
        times = self.times
        return max(times, key=lambda name: times[name], default="capacity")

    @property
    def seconds(self) -> float:
        """The seconds of what takes longest: perfect overlap, nothing lost. Infinite where none are known."""
        return max(self.times.values(), default=inf)

    @property
    def transfer_seconds(self) -> float:
        """The seconds of all transfers one after another: the paper's sum over levels."""
        return sum(each.seconds for each in self.levels if each.seconds is not None)


def ideal(
    derivation: Derivation,
    machine: Machine,
    sizes: Mapping[str, int],
    types: Mapping[str, str],
    unmasked: float = 1.0,
) -> Ideal:
    """Return the ideal; `unmasked` is the share of the contractions' operations that masks leave."""
    costs = two_level_costs(derivation)
    return Ideal(
        tuple(
            _level(costs, machine, each, sizes, types)
            for each in machine.levels
            if machine.parent(each.name) is not None and each.within is None
        ),
        _pipelines(derivation, costs, machine, sizes, types, unmasked),
    )


# --- levels ---------------------------------------------------------------------------------------


def acting_memory(machine: Machine, level: Level) -> int:
    """Return the bytes that an instance of a level acts with (paper, section 6.4)."""
    below = machine.level(_UNIT)
    if any(level.name == each.name for each in machine.path(_UNIT)[:-1]):
        return below.capacity * below.instances // level.instances
    return level.capacity


def _level(
    costs: Costs,
    machine: Machine,
    level: Level,
    sizes: Mapping[str, int],
    types: Mapping[str, str],
) -> LevelIdeal:
    # Scalars travel as arguments and have no storage type.
    widths = {name: STORAGE_BYTES[kind] for name, kind in types.items() if kind in STORAGE_BYTES}
    memory = acting_memory(machine, level)
    best = _streamed(costs, widths, memory, sizes)
    if any(each.readings > 1 for each in costs.transfers):
        whole = _held(costs, widths, memory, sizes)
        best = whole if whole.fits and whole.bytes < best.bytes else best
    above = machine.parent(level.name)
    assert above is not None
    return LevelIdeal(
        level.name,
        above.name,
        memory,
        best.elements,
        best.bytes,
        best.held,
        tuple((axis, best.tiles[tile_symbol(axis, role).name]) for axis, role in _grouped(costs)),
        best.fits,
        None if above.bandwidth is None or not best.fits else best.bytes / above.bandwidth,
    )


@dataclass(frozen=True, slots=True)
class _Tiling:
    """Tiles by their symbols' names, and what they lead to."""

    tiles: Mapping[str, float]
    elements: float
    bytes: float
    held: float
    fits: bool


def _streamed(
    costs: Costs, widths: Mapping[str, int], memory: int, sizes: Mapping[str, int]
) -> _Tiling:
    """Return the best tiling where the stream goes by an element at a time."""
    step = {tile_symbol(a, role).name: 1.0 for a, role in costs.roles if role is Role.STREAM}
    return _tiling(costs, widths, memory, sizes, step)


def _held(
    costs: Costs, widths: Mapping[str, int], memory: int, sizes: Mapping[str, int]
) -> _Tiling:
    """Return the best tiling where a group holds the whole stream, so that passes share a reading."""
    step = {
        tile_symbol(a, role).name: float(sizes[a]) for a, role in costs.roles if role is Role.STREAM
    }
    return _tiling(costs.read_once(), widths, memory, sizes, step)


def _tiling(
    costs: Costs,
    widths: Mapping[str, int],
    memory: int,
    sizes: Mapping[str, int],
    step: Mapping[str, float],
) -> _Tiling:
    in_bytes = costs.in_bytes(widths)
    numbers = {**sizes, **step}
    moved, room = (bind(each, numbers) for each in (in_bytes.transferred, in_bytes.memory.elements))
    symbols = {tile_symbol(axis, role): float(sizes[axis]) for axis, role in _grouped(costs)}
    ones = {symbol.name: 1.0 for symbol in symbols}
    fits = _number(room, {}, ones) <= memory
    tiles = dict(ones)
    if symbols and fits:
        variables = tuple(symbols)
        found = solve_numerically(
            monomials(moved, variables), monomials(room, variables), variables, memory, symbols
        )
        tiles = {symbol.name: float(value) for symbol, value in found.variables}
    return _Tiling(
        tiles,
        _number(costs.transferred, numbers, tiles),
        _number(moved, {}, tiles),
        _number(room, {}, tiles),
        fits,
    )


def _grouped(costs: Costs) -> list[tuple[str, Role]]:
    return [(axis, role) for axis, role in costs.roles if role is Role.GROUP]


def _number(
    expression: Expression, sizes: Mapping[str, float], tiles: Mapping[str, float]
) -> float:
    return float(bind(expression, {**sizes, **tiles}))


# --- pipelines ------------------------------------------------------------------------------------


def _pipelines(
    derivation: Derivation,
    costs: Costs,
    machine: Machine,
    sizes: Mapping[str, int],
    types: Mapping[str, str],
    unmasked: float,
) -> tuple[PipelineIdeal, ...]:
    work: dict[Pipeline, float] = {}
    clocks: dict[Pipeline, float | None] = {}
    for operations, kind in _contractions(derivation, sizes, types):
        pipeline, rate = _contraction_rate(machine, kind)
        _add(work, clocks, pipeline, operations * unmasked, rate)
    whole = {tile_symbol(axis, role).name: sizes[axis] for axis, role in costs.roles}
    counted = costs.whole.by_pipeline
    for pipeline in (Pipeline.SFU, Pipeline.FP32):
        count = _number(counted[pipeline], sizes, whole) * unmasked
        _add(work, clocks, pipeline, count, _rate(machine, pipeline))
    return tuple(
        PipelineIdeal(each, work[each], _seconds(machine, clocks[each]))
        for each in Pipeline
        if each in work
    )


def dense_flops(derivation: Derivation, sizes: Mapping[str, int]) -> int:
    """Return the FLOPs of the diagram's contractions as if no mask left any out."""
    return sum(operations for operations, _ in _contractions(derivation, sizes, None))


def _contractions(
    derivation: Derivation, sizes: Mapping[str, int], types: Mapping[str, str] | None
) -> list[tuple[int, str]]:
    """Return the FLOPs of every contraction of the diagram, and the type of its operands, if asked."""
    boxes = derivation.diagram.boxes
    needed = (boxes[each] for each in topological(boxes, derivation.outputs))
    return [
        (
            2 * prod(sizes[axis] for axis in (*box.axes, *box.over)),
            (types and operand_type(boxes, box.operands, types)) or _DEFAULT_TYPE,
        )
        for box in needed
        if isinstance(box, Reduce) and is_contraction(boxes, box.operands, box.over)
    ]


def _contraction_rate(machine: Machine, kind: str) -> tuple[Pipeline, float | None]:
    if not machine.pipelines:
        return Pipeline.TENSOR, None
    return contraction_rate(machine, kind)


def _rate(machine: Machine, pipeline: Pipeline) -> float | None:
    if not machine.has_rate(pipeline, "fp32"):
        return None
    return (
        vector_rate(machine, "fp32")
        if pipeline is Pipeline.FP32
        else machine.rate(pipeline, "fp32")
    )


def _add(
    work: dict[Pipeline, float],
    clocks: dict[Pipeline, float | None],
    pipeline: Pipeline,
    operations: float,
    rate: float | None,
) -> None:
    work[pipeline] = work.get(pipeline, 0.0) + operations
    before = clocks.get(pipeline, 0.0)
    clocks[pipeline] = None if rate is None or before is None else before + operations / rate


def _seconds(machine: Machine, clocks: float | None) -> float | None:
    return None if clocks is None else clocks / machine.units / machine.clock
