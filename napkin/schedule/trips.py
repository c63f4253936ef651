"""How often every operation of a Program runs: by formula, and by number for given lengths.

In: a `Program`, axis lengths, scalars. Out: for every operation the loops around it, with the
formula of its multiplicity (groups times steps) and the steps that each kind of group takes. Bounds
are numbers, or uniform computations over lengths, scalars and the group's own position (a causal
mask's last key); groups that differ only in axes that no bound reads are of one kind, and all kinds
are evaluated at once.

A bound that is read from data can't be known here: it then counts as if it bounded nothing, and
`Trip.is_exact` says so; where groups share the stream out among them, each walks as much as the others.
The executor counts what is really walked.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from napkin.operators import POINTWISE
from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import (
    AxisRole,
    Compute,
    EdgePosition,
    Fill,
    Length,
    Literal,
    Loop,
    Operand,
    Operation,
    Positions,
    Program,
    Region,
    Store,
    walk,
)
from napkin.schedule.remember import remembered, remembered_by

Numbers = npt.NDArray[np.int64]
Known = npt.NDArray[Any]  # whole numbers as floats: NaN is what data decide
Scalar = float | int


# --- the formula ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Factor:
    """The tiles of one axis: its length by its tile."""

    axis: str
    tile: int

    def __str__(self) -> str:
        return self.axis if self.tile == 1 else f"{self.axis}/{self.tile}"


@dataclass(frozen=True, slots=True)
class Multiplicity:
    """Groups times steps."""

    factors: tuple[Factor, ...]

    def __str__(self) -> str:
        return " ".join(str(each) for each in self.factors) or "1"

    def number(self, sizes: Mapping[str, int]) -> int:
        """Return the product for given lengths, every loop taken to walk its whole axis."""
        return prod(-(-sizes[each.axis] // each.tile) for each in self.factors)


def multiplicity(program: Program, loops: Sequence[Loop] = ()) -> Multiplicity:
    """Return how often an operation in these loops runs: slowest grid axis first, then loops."""
    groups = [Factor(axis, program.axis(axis).tile) for axis in reversed(program.grid)]
    steps = [Factor(each.axis, each.step) for each in loops]
    return Multiplicity((*groups, *steps))


def with_loops(
    operations: Sequence[Operation], around: tuple[Loop, ...] = ()
) -> Iterator[tuple[Operation, tuple[Loop, ...]]]:
    """Yield every operation but loops, with the loops around it, outermost first."""
    for each in operations:
        if isinstance(each, Loop):
            yield from with_loops(each.body, (*around, each))
        else:
            yield each, around


def remainders(program: Program) -> frozenset[int]:
    """Return the loops (by identity) that walk what another loop of their pass leaves of an axis."""
    found: set[int] = set()
    for loops in _loops_by_pass(program.operations):
        full = {each.axis for each in loops if each.region is Region.FULL}
        partial = [each for each in loops if each.region is Region.PARTIAL]
        found |= {id(each) for each in partial if each.axis in full}
    return frozenset(found)


def _loops_by_pass(operations: Sequence[Operation]) -> list[list[Loop]]:
    return [[op for op in each if isinstance(op, Loop)] for each in _parted(operations)]


def passes(
    operations: Sequence[Operation],
) -> list[list[tuple[Operation, tuple[Loop, ...]]]]:
    """Return the operations of every pass over the stream, each with the loops around it."""
    return [list(with_loops(each)) for each in _parted(operations)]


def _parted(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Part operations by pass: one that folds opens by filling its states, one that stores is alone."""
    found: list[list[Operation]] = [[]]
    for each in operations:
        is_filled = isinstance(each, Fill) and any(isinstance(op, Loop) for op in found[-1])
        if is_filled or (isinstance(each, Loop) and any(_replaces(op) for op in each.body)):
            found.append([])
        found[-1].append(each)
    return found


def _replaces(operation: Operation) -> bool:
    return isinstance(operation, Store) and not operation.adds


# --- the numbers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trip:
    """A loop's walk in every kind of group: first position and steps, one entry a kind.

    `is_exact` is False where data bound the walk.
    """

    axis: str
    start: Numbers
    steps: Numbers
    is_exact: bool


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds of groups: positions of the axes that bounds read, and the groups of every kind."""

    starts: tuple[tuple[str, Numbers], ...]
    count: int
    groups_each: int


@remembered_by(lambda program, sizes: (program.operations, program.axes, sizes))
def kinds_of_groups(program: Program, sizes: Mapping[str, int]) -> Kinds:
    """Return the kinds of groups that a program's loop bounds tell apart."""
    bounding = _axes_in_bounds(program.operations)
    read = [axis for axis in program.grid if axis in bounding]
    tiles = {axis: tile_count(program, axis, sizes) for axis in program.grid}
    kinds = prod(tiles[axis] for axis in read)
    places = np.indices([tiles[axis] for axis in read]).reshape(len(read), kinds)
    starts = tuple(
        (axis, place * program.axis(axis).tile) for axis, place in zip(read, places, strict=True)
    )
    rest = prod(tiles[axis] for axis in program.grid if axis not in read)
    return Kinds(starts, kinds, rest)


def trips(
    program: Program,
    sizes: Mapping[str, int],
    scalars: Mapping[str, Scalar],
    kinds: Kinds,
) -> dict[int, Trip]:
    """Return every loop's trip, by its place among the program's loops in reading order."""
    known: dict[str, Known] = {
        name: np.full(kinds.count, value, float) for name, value in scalars.items()
    }
    starts = dict(kinds.starts)
    exact = set(known)
    found: dict[int, Trip] = {}
    for each in program.operations:
        # Bounds are made outside the loops: a body's names are its own.
        _learn(program, each, known, starts, sizes)
        if _is_exact(each, known, exact):
            exact.add(writes(each) or "")
        for loop in walk((each,)):
            if isinstance(loop, Loop):
                is_exact = exact.issuperset(reads(loop))
                trip = _trip(loop, known, sizes, kinds.count, is_exact=is_exact)
                found[len(found)] = trip if is_exact else _share(program, loop, trip, sizes)
    return found


@remembered
def loop_places(operations: Sequence[Operation]) -> dict[int, int]:
    """Return the place of every loop in reading order, by identity: equal loops are still apart."""
    loops = [each for each in walk(tuple(operations)) if isinstance(each, Loop)]
    return {id(each): place for place, each in enumerate(loops)}


def tile_count(program: Program, axis: str, sizes: Mapping[str, int]) -> int:
    """Return the tiles that cover an axis."""
    return -(-sizes[axis] // program.axis(axis).tile)


def last_position(start: Numbers | int, tile: int, size: int) -> Numbers | int:
    """Return the last index of an axis in a tile, past no end."""
    return np.minimum(start + tile, size) - 1


@remembered
def _axes_in_bounds(program: Sequence[Operation]) -> set[str]:
    """Return the axes whose position some loop's bound depends on."""
    operations = walk(program)
    needed = {name for each in operations if isinstance(each, Loop) for name in reads(each)}
    axes: set[str] = set()
    for each in reversed(operations):
        if writes(each) not in needed:
            continue
        needed |= set(reads(each))
        if isinstance(each, EdgePosition | Positions):
            axes.add(each.axis)
    return axes


def _is_exact(operation: Operation, known: Mapping[str, Known], exact: Container[str]) -> bool:
    """Return whether what an operation makes is known, with no part that data or the chunk decide."""
    return writes(operation) in known and all(name in exact for name in reads(operation))


def _learn(
    program: Program,
    operation: Operation,
    known: dict[str, Known],
    starts: Mapping[str, Numbers],
    sizes: Mapping[str, int],
) -> None:
    """Evaluate an operation that is uniform in a group; what is read from data is NaN."""
    match operation:
        case EdgePosition() if operation.axis in starts or _is_whole(program, operation.axis):
            start = starts.get(operation.axis, np.asarray(0))
            tile = program.axis(operation.axis).tile
            last = np.asarray(last_position(start, tile, sizes[operation.axis]))
            known[operation.tile.name] = (start if operation.end == "first" else last) * 1.0
        case Positions() if operation.axis in starts and not operation.tile.dims:
            known[operation.tile.name] = starts[operation.axis] * 1.0
        case Compute() if not operation.tile.dims:
            operands = [_number(each, known, sizes) for each in operation.operands]
            known[operation.tile.name] = _result(operation.operator, operands)
        case _:
            pass


def _is_whole(program: Program, axis: str) -> bool:
    return program.axis(axis).role is AxisRole.WHOLE


def _result(operator: str, operands: Sequence[Known]) -> Known:
    """Return what an operator gives; of two bounds, one that is not known is none."""
    if operator in ("max2", "min2"):
        function = np.fmax if operator == "max2" else np.fmin
        return np.asarray(function(*operands))
    if any(np.isnan(each).any() for each in operands):
        return np.asarray(nan)
    return np.asarray(POINTWISE[operator].numpy(*operands), float)


def _number(operand: Operand, known: Mapping[str, Known], sizes: Mapping[str, int]) -> Known:
    if isinstance(operand, Length):
        return np.asarray(float(sizes[operand.axis]))
    if isinstance(operand, Literal):
        return np.asarray(float(operand.value))
    return known.get(operand, np.asarray(nan))


def _share(program: Program, loop: Loop, trip: Trip, sizes: Mapping[str, int]) -> Trip:
    """Return a group's share of a walk that groups share out: whole chunks, and one that an end cuts."""
    if not program.parted:
        return trip
    groups = prod(tile_count(program, axis, sizes) for axis in program.parted)
    if loop.region is Region.PARTIAL:
        return replace(trip, steps=np.full_like(trip.steps, int(loop.step > 1)))
    return replace(trip, steps=-(-trip.steps // groups))


def _trip(
    loop: Loop,
    known: Mapping[str, Known],
    sizes: Mapping[str, int],
    count: int,
    *,
    is_exact: bool,
) -> Trip:
    start, stop = (_number(each, known, sizes) for each in (loop.start, loop.stop))
    start = np.where(np.isnan(start), 0, start)
    stop = np.where(np.isnan(stop), sizes[loop.axis], stop)
    steps = np.maximum(-(-(stop - start) // loop.step), 0).astype(np.int64)
    whole = start.astype(np.int64)
    shape = (count,)
    return Trip(loop.axis, np.broadcast_to(whole, shape), np.broadcast_to(steps, shape), is_exact)
