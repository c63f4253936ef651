"""Short expressions out of chains of operations that are each used once, for every emitter.

In: one list of a Program's operations (a loop's body is a list of its own). Out: statements, in the
same order, in which a computed tile that is read exactly once, by another computation of the list,
stands inside that computation instead of having a name. The trees hold operators and operands only;
how they are written is the emitter's business.

It never moves a load, a contraction or a reduction, and never past a new value of what it reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from napkin.schedule.liveness import all_writes, entry_of, reads
from napkin.schedule.program import (
    Assign,
    Compute,
    Dot,
    EdgePosition,
    Fill,
    Fold,
    Load,
    Loop,
    Operand,
    Operation,
    Positions,
    Store,
    Tile,
)

LONGEST = 4  # operators in one expression; longer ones are harder to read than a name


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tile or scalar by name, a number, or an axis's length."""

    operand: Operand


@dataclass(frozen=True, slots=True)
class Call:
    """A pointwise operator over expressions; `tile` is the tile that its value would have had."""

    tile: Tile
    operator: str
    operands: tuple[Expression, ...]

    @property
    def dims(self) -> tuple[str, ...]:
        """The dims of its value."""
        return self.tile.dims


Expression = Leaf | Call


@dataclass(frozen=True, slots=True)
class Define:
    """A tile takes the value of an expression."""

    tile: Tile
    value: Call


Statement = Define | Load | Positions | EdgePosition | Fold | Dot | Fill | Assign | Store | Loop


def inline(operations: Sequence[Operation], keep: Container[str] = frozenset()) -> list[Statement]:
    """Return the list with single-use computations inside their reader, save those in `keep`."""
    inside = _choose(operations, keep)
    values: dict[str, Call] = {}
    statements: list[Statement] = []
    for each in operations:
        if not isinstance(each, Compute):
            statements.append(each)
            continue
        operands = tuple(_operand(operand, inside, values) for operand in each.operands)
        value = Call(each.tile, each.operator, operands)
        if each.tile.name in inside:
            values[each.tile.name] = value
        else:
            statements.append(Define(each.tile, value))
    return statements


def leaves(expression: Expression) -> list[Operand]:
    """Return the operands of a tree, left to right."""
    if isinstance(expression, Leaf):
        return [expression.operand]
    return [leaf for each in expression.operands for leaf in leaves(each)]


def _operand(operand: Operand, inside: set[str], values: dict[str, Call]) -> Expression:
    if isinstance(operand, str) and operand in inside:
        return values[operand]
    return Leaf(operand)


@dataclass
class _Candidate:
    """A computation that may move: its operators, and where each name it reads was read."""

    operators: int
    read_at: dict[str, int] = field(default_factory=dict)


def _choose(operations: Sequence[Operation], keep: Container[str]) -> set[str]:
    """Return the names of the computations that move into their reader."""
    used = Counter(name for each in operations for name in _reads_here(each))
    written_at = _write_places(operations)
    candidates: dict[str, _Candidate] = {}
    inside: set[str] = set()
    for place, each in enumerate(operations):
        if not isinstance(each, Compute):
            continue
        one = _Candidate(1, dict.fromkeys(reads(each), place))
        for name in reads(each):
            moved = candidates.get(name)
            if moved is not None and _may_move(one, moved, place, written_at):
                inside.add(name)
                one.operators += moved.operators
                one.read_at = _earliest(one.read_at, moved.read_at, name)
        name = each.tile.name
        if used[name] == 1 and len(written_at[name]) == 1 and name not in keep:
            candidates[name] = one
    return inside


def _may_move(
    reader: _Candidate, moved: _Candidate, place: int, written_at: dict[str, list[int]]
) -> bool:
    if reader.operators + moved.operators > LONGEST:
        return False
    return not any(
        first <= there < place
        for name, first in moved.read_at.items()
        for there in written_at.get(name, [])
    )


def _earliest(reader: dict[str, int], moved: dict[str, int], name: str) -> dict[str, int]:
    merged = {each: place for each, place in reader.items() if each != name}
    for each, place in moved.items():
        merged[each] = min(place, merged.get(each, place))
    return merged


def _reads_here(operation: Operation) -> list[str]:
    """Return what an operation reads of its own list: a loop's body reads again at every step."""
    if not isinstance(operation, Loop):
        return list(reads(operation))
    return [*reads(operation), *2 * sorted(entry_of(operation.body))]


def _write_places(operations: Sequence[Operation]) -> dict[str, list[int]]:
    """Return where each name of the list gets a value; a body's own names belong to the body."""
    places: dict[str, list[int]] = {}
    for place, each in enumerate(operations):
        for name in dict.fromkeys(all_writes((each,))):
            if name in places or not isinstance(each, Loop):
                places.setdefault(name, []).append(place)
    return places
