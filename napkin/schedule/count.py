"""What a Program costs: operations by pipeline, transfers by array, bytes resident at every level.

In: a `Program`, and lengths where a number is wanted. Out: the work of one operation, the columns
of the paper's table (section 7), and `Totals`. H is the elements that change level, counted inside
the arrays' bounds; M the largest sum of residents at a level; K the operations.

It predicts no time: rates belong to machines, and overlap to the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from napkin.operators import POINTWISE, Pipeline
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.liveness import entry_of, live_after, tiles_in
from napkin.schedule.program import (
    AxisTile,
    Compute,
    Dot,
    Fold,
    Load,
    Loop,
    Operation,
    Program,
    Store,
    Tile,
)
from napkin.schedule.trips import (
    Kinds,
    Multiplicity,
    Numbers,
    Scalar,
    Trip,
    kinds_of_groups,
    loop_places,
    multiplicity,
    tile_count,
    trips,
    with_loops,
)

GLOBAL = "global"
EXACT_TYPES = ("fp32", "fp64")  # contracted exactly, by multiply-adds: tf32 must be asked for

Operations = tuple[tuple[Pipeline, int], ...]


# --- one operation --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Move:
    """A tile that changes level: elements and bytes of the whole tile."""

    array: str
    source: str
    target: str
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """One execution of an operation: operations by pipeline, the scarcest first, and moves."""

    operations: Operations = ()
    moves: tuple[Move, ...] = ()

    @property
    def pipeline(self) -> Pipeline | None:
        """The pipeline that does most of it; None for bookkeeping."""
        if self.moves:
            return Pipeline.COPY
        return self.operations[0][0] if self.operations else None


def work(operation: Operation, program: Program) -> Work:
    """Return the work of one execution of an operation; a loop itself has none."""
    match operation:
        case Compute():
            row = POINTWISE[operation.operator]
            elements = extent(operation.tile.dims, program)
            counted = ((Pipeline.SFU, row.sfu * elements), (Pipeline.FP32, row.fp32 * elements))
            return Work(tuple((unit, number) for unit, number in counted if number))
        case Fold():
            dims = (*operation.tile.dims, *operation.over)
            return Work(((Pipeline.FP32, extent(dims, program)),))
        case Dot():
            unit = Pipeline.FP32 if operation.operand_type in EXACT_TYPES else Pipeline.TENSOR
            dims = (*operation.tile.dims, operation.over)
            return Work(((unit, 2 * extent(dims, program)),))
        case Load():
            elements = extent(operation.tile.dims, program)
            level = operation.tile.level
            return Work(moves=(_move(operation.array, GLOBAL, level, elements, program),))
        case Store():
            elements = extent(stored_dims(operation, program), program)
            return Work(moves=(_move(operation.array, "register", GLOBAL, elements, program),))
        case _:
            return Work()


def stored_dims(operation: Store, program: Program) -> tuple[str, ...]:
    """Return the dims of the tile that a store writes: those of its array's axes."""
    dims = (program.axis(axis).dim for axis in program.array(operation.array).axes)
    return tuple(dict.fromkeys(dim for dim in dims if dim is not None))


def extent(dims: Sequence[str], program: Program) -> int:
    """Return the elements of a tile over these dims."""
    return prod(program.dim(dim).extent for dim in dims)


def tile_bytes(tile: Tile, program: Program) -> int:
    """Return the bytes of a tile."""
    return extent(tile.dims, program) * TYPE_BYTES[tile.storage]


def _move(array: str, source: str, target: str, elements: int, program: Program) -> Move:
    size = TYPE_BYTES[program.array(array).dtype]
    return Move(array, source, target, elements, elements * size)


# --- columns --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the paper's table; once the operation is done, `alive` are the tiles that remain.

    `resident` is their bytes by level, and the rings'.
    """

    operation: Operation
    loops: tuple[Loop, ...]
    work: Work
    resident: tuple[tuple[str, int], ...]
    multiplicity: Multiplicity
    alive: tuple[Tile, ...]


def columns(program: Program) -> tuple[Column, ...]:
    """Return a column for every operation but loops, in reading order."""
    scope = _Scope((), frozenset(), {})
    return tuple(_columns(program, program.operations, scope))


def peak(program: Program) -> tuple[tuple[str, int], ...]:
    """Return M: the most bytes resident at every level after any column."""
    most: dict[str, int] = {}
    for column in columns(program):
        for level, size in column.resident:
            most[level] = max(size, most.get(level, 0))
    return tuple(sorted(most.items()))


@dataclass(frozen=True, slots=True)
class _Scope:
    """What surrounds a list of operations: loops, names read after it, tiles that it may read."""

    loops: tuple[Loop, ...]
    after: frozenset[str]
    tiles: Mapping[str, Tile]


def _columns(program: Program, operations: Sequence[Operation], scope: _Scope) -> Iterator[Column]:
    ringed = {op.tile.name for op in operations if isinstance(op, Load) and op.buffer}
    tiles = {**scope.tiles, **tiles_in(operations)}
    for each, alive in zip(operations, live_after(operations, scope.after), strict=True):
        if isinstance(each, Loop):
            after = alive | entry_of(each.body)
            yield from _columns(program, each.body, _Scope((*scope.loops, each), after, tiles))
        else:
            held = [tiles[name] for name in tiles if name in alive - ringed]
            resident = _resident(program, held)
            times = multiplicity(program, scope.loops)
            yield Column(each, scope.loops, work(each, program), resident, times, tuple(held))


def _resident(program: Program, alive: Sequence[Tile]) -> tuple[tuple[str, int], ...]:
    """Return bytes by level: the rings of streamed loads, and the tiles alive outside them."""
    rings = sum(each.tile_bytes * each.stages for each in program.buffers)
    found = {"shared": rings} if rings else {}
    for tile in alive:
        if not tile.dims:
            continue  # a scalar is uniform: it takes no part in what the tiles compete for
        found[tile.level] = found.get(tile.level, 0) + tile_bytes(tile, program)
    return tuple(sorted(found.items()))


# --- totals ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transfer:
    """What of an array changed level: inside its bounds, and in elements of whole tiles."""

    array: str
    source: str
    target: str
    elements: int
    bytes: int
    tile_elements: int

    def __add__(self, other: Transfer) -> Transfer:
        return Transfer(
            self.array,
            self.source,
            self.target,
            self.elements + other.elements,
            self.bytes + other.bytes,
            self.tile_elements + other.tile_elements,
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a dispatch; `+` joins them. `is_exact` is False if a bound was read from data."""

    transfers: tuple[Transfer, ...] = ()
    operations: Operations = ()
    is_exact: bool = True

    @property
    def elements(self) -> int:
        """H in elements."""
        return sum(each.elements for each in self.transfers)

    @property
    def bytes(self) -> int:
        """H in bytes."""
        return sum(each.bytes for each in self.transfers)

    def of_array(self, name: str) -> int:
        """Return the elements of one array that changed level."""
        return sum(each.elements for each in self.transfers if each.array == name)

    def on(self, pipeline: Pipeline) -> int:
        """Return K of one pipeline."""
        return dict(self.operations).get(pipeline, 0)

    def __add__(self, other: Totals) -> Totals:
        moved: dict[tuple[str, str, str], Transfer] = {}
        for each in (*self.transfers, *other.transfers):
            key = (each.array, each.source, each.target)
            moved[key] = moved[key] + each if key in moved else each
        counted: dict[Pipeline, int] = {}
        for pipeline, number in (*self.operations, *other.operations):
            counted[pipeline] = counted.get(pipeline, 0) + number
        return Totals(
            tuple(moved[key] for key in sorted(moved)),
            tuple(sorted(counted.items())),
            self.is_exact and other.is_exact,
        )


def totals(
    program: Program, sizes: Mapping[str, int], scalars: Mapping[str, Scalar] | None = None
) -> Totals:
    """Return the work of the whole dispatch at given lengths."""
    kinds = kinds_of_groups(program, sizes)
    walked = trips(program, sizes, scalars or {}, kinds)
    places = loop_places(program.operations)
    total = Totals()
    for each, loops in with_loops(program.operations):
        around = tuple(walked[places[id(loop)]] for loop in loops)
        total += _total(each, _Context(program, sizes, kinds, around))
    return total


@dataclass(frozen=True, slots=True)
class _Context:
    """Where an operation stands: its kinds of groups, and the loops around it."""

    program: Program
    sizes: Mapping[str, int]
    kinds: Kinds
    trips: tuple[Trip, ...]

    def runs(self) -> int:
        """Return how often the operation runs."""
        return self._sum(prod((each.steps for each in self.trips), start=self._ones()))

    def elements(self, carried: frozenset[str], tile: int) -> int:
        """Return the elements, inside the bounds of the carried axes, of all runs' tiles."""
        counts = self._ones()
        for axis in carried:
            tile //= self.program.axis(axis).tile
        looped = {each.axis for each in self.trips}
        for each in self.trips:
            counts = counts * (self._walked(each) if each.axis in carried else each.steps)
        for axis, start in self.kinds.starts:
            counts = counts * (self._inside(axis, start) if axis in carried else 1)
        count = self._sum(counts * tile)
        for axis in carried - looped - {axis for axis, _ in self.kinds.starts}:
            # Groups were counted once a tile: all tiles together hold the axis's length.
            if axis in self.program.grid:
                count = count // tile_count(self.program, axis, self.sizes) * self.sizes[axis]
            else:
                count *= min(self._axis(axis).tile, self.sizes[axis])
        return count

    def _axis(self, name: str) -> AxisTile:
        return self.program.axis(name)

    def _ones(self) -> Numbers:
        return np.ones(self.kinds.count, dtype=np.int64)

    def _sum(self, counts: Numbers) -> int:
        return int(counts.sum()) * self.kinds.groups_each

    def _inside(self, axis: str, start: Numbers) -> Numbers:
        inside: Numbers = np.clip(self.sizes[axis] - start, 0, self._axis(axis).tile)
        return inside

    def _walked(self, trip: Trip) -> Numbers:
        size, tile = self.sizes[trip.axis], self._axis(trip.axis).tile
        stop: Numbers = np.minimum(trip.start + trip.steps * tile, size)
        walked: Numbers = stop - np.minimum(trip.start, size)
        return walked


def _total(operation: Operation, context: _Context) -> Totals:
    done = work(operation, context.program)
    runs = context.runs()
    counted = tuple((pipeline, number * runs) for pipeline, number in done.operations)
    carried = carried_axes(operation, context.program)
    moved = tuple(
        Transfer(
            each.array,
            each.source,
            each.target,
            inside := context.elements(carried, each.elements),
            inside * each.bytes // max(each.elements, 1),
            each.elements * runs,
        )
        for each in done.moves
    )
    is_exact = all(each.is_exact for each in context.trips)
    return Totals(moved, counted, is_exact)


def carried_axes(operation: Operation, program: Program) -> frozenset[str]:
    """Return the axes by whose own index a load or store walks its array."""
    match operation:
        case Load():
            pairs = zip(operation.indices, operation.gathered, strict=True)
            return frozenset(index for index, is_tile in pairs if not is_tile)
        case Store():
            return frozenset(program.array(operation.array).axes)
        case _:
            return frozenset()
