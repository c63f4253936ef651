"""References that lag: a state is moved to a new running maximum only when that has grown a lot.

In: a `Program` whose loops move sums to a running maximum as it grows. Out: a `Program` that gives the same,
with a reference in the maximum's stead that is within `_LAG` of it. A step multiplies its sums by
`exp2(reference - new reference)`, and adds terms relative to the new one; the derivation proved that this
keeps the sums right for any two references, so a step may keep the one it has. Its factors are then 1, and
a warp whose rows all keep theirs has nothing to multiply (`mostly_one`). What is stored is mostly a quotient
of sums, which is the same for every reference; where it is not, the sums are moved to the maximum itself
behind the loops, and it is followed beside the reference.

A reference is never above the maximum. Terms grow to at most `2 ** _LAG` in place of 1: far from overflow in
fp32 sums and in 16-bit operands, which are such terms and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from napkin.operators import Kind
from napkin.schedule.count import extent
from napkin.schedule.liveness import reads, rename, writes
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import (
    Assign,
    Compute,
    Dot,
    Fill,
    Literal,
    Loop,
    Operation,
    Program,
    Tile,
    tiles_of,
)
from napkin.schedule.roles.degrees import is_the_same_scaled

_LAG = 8.0  # in powers of two
# Sums a score: at twice as many, as of 128 columns beside 64 positions, nothing was gained.
_MANY = 2

Operations = tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """How a loop's step moves a state: the new maximum, the factor of the sums, and what it multiplies."""

    new: Compute
    grown: str
    factor: Compute
    scaled: frozenset[str]


def with_lagging_references(program: Program) -> Program:
    """Return the program with every running maximum that sums are moved to replaced by one that lags."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    fills = [op for op in program.operations if isinstance(op, Fill)]
    names = Names(RESERVED | {tile.name for tile in tiles_of(program.operations)})
    for fill in fills:
        steps = [_step(loop.body, fill.tile) for loop in loops]
        found = [each for each in steps if each is not None]
        if loops and len(found) == len(loops):
            program = _lagging(program, fill, found, names)
            loops = [op for op in program.operations if isinstance(op, Loop)]
    return program


def moves_many_sums(program: Program) -> bool:
    """Return whether a step would multiply so many sums, for its scores, that keeping them saves time."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    states = {op.tile.name for op in program.operations if isinstance(op, Fill)}
    for loop in loops[-1:]:
        tiles = {tile.name: tile for tile in tiles_of(loop.body) if len(tile.dims) == 2}
        dots = [op.tile for op in loop.body if isinstance(op, Dot)]
        scores = sum(extent(tile.dims, program) for tile in dots if tile.name not in states)
        moved = {
            op.tile.name
            for op in loop.body
            if isinstance(op, Compute) and op.tile.name in states & set(op.operands) & set(tiles)
        }
        return sum(extent(tiles[name].dims, program) for name in moved) > _MANY * scores
    return False


def mostly_one(program: Program) -> frozenset[str]:
    """Return the factors of a loop's sums that are 1 unless a reference has moved.

    The first chunk, which is walked by itself, moves every reference.
    """
    found: set[str] = set()
    loops = [op for op in program.operations if isinstance(op, Loop)]
    for loop in loops[1:]:
        made = {writes(op): op for op in loop.body}
        kept = {op.tile.name for op in loop.body if isinstance(op, Compute) and _keeps(op)}
        for op in loop.body:
            if isinstance(op, Compute) and op.operator == "exp2":
                moved = made.get(str(op.operands[0]))
                if isinstance(moved, Compute) and kept & set(reads(moved)):
                    found |= {op.tile.name} if len(op.tile.dims) == 1 else set()
    return frozenset(found)


def _keeps(op: Compute) -> bool:
    """Return whether an operation gives a reference, kept or moved."""
    return op.operator == "where" and len(op.tile.dims) == 1 and op.tile.kind is Kind.FLOAT


def _step(body: Operations, state: Tile) -> _Step | None:
    """Return how a step moves sums to a state that is a running maximum, None unless it does just that."""
    assigned = [op for op in body if isinstance(op, Assign) and op.target == state.name]
    made = {writes(op): op for op in body if not isinstance(op, Assign)}
    if len(state.dims) != 1 or len(assigned) != 1:
        return None
    new = made.get(assigned[0].source)
    if not isinstance(new, Compute) or new.operator != "max2" or state.name not in new.operands:
        return None
    readers = [op for op in body if state.name in reads(op) and op is not new]
    if len(readers) != 1 or not isinstance(readers[0], Compute):
        return None
    difference = readers[0]
    if (difference.operator, difference.operands) != ("sub", (state.name, new.tile.name)):
        return None
    factors = [op for op in body if difference.tile.name in reads(op)]
    if len(factors) != 1 or not isinstance(factors[0], Compute) or factors[0].operator != "exp2":
        return None
    factor = factors[0]
    scaled = _scaled(body, factor.tile.name)
    grown = next(str(each) for each in new.operands if each != state.name)
    if scaled is None or not _contracts_terms(body, scaled):
        return None
    return _Step(new, grown, factor, scaled)


def _scaled(body: Operations, factor: str) -> frozenset[str] | None:
    """Return the states that a factor multiplies, None if it does anything else."""
    found: set[str] = set()
    for op in body:
        if factor not in reads(op):
            continue
        if not isinstance(op, Compute) or op.operator != "mul":
            return None
        state = next(str(each) for each in op.operands if each != factor)
        if op.tile.name == state:
            found.add(state)
            continue
        sums = [each for each in body if op.tile.name in reads(each)]
        if [writes(each) for each in sums] != [state]:
            return None
        if not isinstance(sums[0], Compute) or sums[0].operator != "add":
            return None
        found.add(state)
    return frozenset(found)


def _contracts_terms(body: Operations, sums: frozenset[str]) -> bool:
    """Return whether what a step computes for the sums' contractions are powers, so that none overflows."""
    made = {writes(op): op for op in body if not isinstance(op, Assign)}
    carried = {op.target: op.source for op in body if isinstance(op, Assign)}
    for dot in (op for op in body if isinstance(op, Dot) and op.tile.name in sums):
        for side in (dot.left, dot.right):
            op = made.get(carried.get(side, side))
            if isinstance(op, Compute) and op.operator != "exp2":
                return False
    return True


def _lagging(program: Program, fill: Fill, steps: list[_Step], names: Names) -> Program:
    """Return the program with one state lagging, and its maximum followed beside it."""
    state = fill.tile
    places = [i for i, op in enumerate(program.operations) if isinstance(op, Loop)]
    behind = program.operations[places[-1] + 1 :]
    follows = any(state.name in reads(op) for op in behind) or not is_the_same_scaled(
        behind, steps[-1].scaled
    )
    most = replace(state, name=names.fresh(f"{state.name}_most")) if follows else None
    operations: list[Operation] = []
    remaining = iter(steps)
    for op in program.operations[: places[-1] + 1]:
        if op is fill and most is not None:
            operations += [op, Fill(most, fill.value)]
        elif isinstance(op, Loop):
            operations.append(replace(op, body=_kept(op.body, state, most, next(remaining), names)))
        else:
            operations.append(op)
    if most is not None:
        added = _sums_behind(behind, steps[-1].scaled)
        moved = _moved_at_last(state, most, steps[-1], operations, names)
        behind = (*behind[:added], *moved, *behind[added:])
    return replace(program, operations=(*operations, *behind))


def _sums_behind(behind: Operations, sums: frozenset[str]) -> int:
    """Return how many operations behind the loops still add what the last chunk gave."""
    return max((i + 1 for i, op in enumerate(behind) if writes(op) in sums), default=0)


def _kept(
    body: Operations, state: Tile, most: Tile | None, step: _Step, names: Names
) -> Operations:
    """Return a step that keeps its reference unless the maximum has grown past it by more than the lag."""
    new = step.new.tile
    further = replace(new, name=names.fresh(f"{new.name}_further"))
    past = replace(new, name=names.fresh(f"{new.name}_past"), kind=Kind.BOOL)
    kept = replace(new, name=names.fresh(f"{new.name}_kept"))
    made: list[Operation] = []
    behind = False
    for op in body:
        if op is step.new:
            made += [
                op,
                Compute(further, "sub", (new.name, state.name)),
                Compute(past, "gt", (further.name, Literal(_LAG))),
                Compute(kept, "where", (past.name, new.name, state.name)),
            ]
            made += [] if most is None else [Compute(most, "max2", (most.name, step.grown))]
            behind = True
        else:
            made.append(rename(op, {new.name: kept.name}) if behind else op)
    return tuple(made)


def _moved_at_last(
    state: Tile, most: Tile, step: _Step, operations: list[Operation], names: Names
) -> list[Operation]:
    """Return what moves the sums from the last reference to the maximum."""
    tiles = {op.tile.name: op.tile for op in operations if isinstance(op, Fill)}
    difference = replace(state, name=names.fresh("t"))
    factor = replace(step.factor.tile, name=names.fresh("moved"))
    return [
        Compute(difference, "sub", (state.name, most.name)),
        Compute(factor, "exp2", (difference.name,)),
        *(Compute(tiles[each], "mul", (each, factor.name)) for each in sorted(step.scaled)),
        Assign(state.name, most.name),
    ]
