"""Where a stream begins and ends for a consumer's own rows, beside where it does for those of all.

In: a group's place and the loops of its stream, bounds of the rows of all consumers. Out: the same loops with
bounds of a consumer's own rows, and the chunks before them, which it only lets pass.

What bounds a stream for a tile of rows bounds it for a narrower one, by the same arithmetic: it is done
again, for the consumer's rows. The copies are those of the rows of all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from napkin.operators import Kind
from napkin.schedule.liveness import reads, writes
from napkin.schedule.names import Names
from napkin.schedule.program import (
    Compute,
    EdgePosition,
    Length,
    Literal,
    Loop,
    Operand,
    Operation,
    Tile,
)


@dataclass(frozen=True, slots=True)
class OwnBounds:
    """What all find of a group's place, what a consumer finds for its rows, and the loops that it walks.

    Of loops with an empty body it lets the chunks pass.
    """

    place: tuple[Operation, ...]
    own: tuple[Operation, ...]
    loops: tuple[Loop, ...]


def own_bounds(
    place: Sequence[Operation], loops: Sequence[Loop], names: Names, *, rows: str | None = None
) -> OwnBounds:
    """Return descending loops between bounds of a consumer's rows, or as they are if data bound them.

    The first of the loops is one chunk; the last ends where it does for all rows. With `rows`, a consumer
    whose rows lie past the end of that axis has one chunk alone, the last of its walk.
    """
    first, *inner, last = loops
    again = needed(place, _names([first.start, *(loop.start for loop in inner)]))
    if not all(isinstance(op, Compute | EdgePosition) and not op.tile.dims for op in again):
        return OwnBounds(tuple(place), (), tuple(loops))
    if any(isinstance(op, EdgePosition) for op in again):
        owner = _Owner(needed(place, _names([first.stop, last.start])), last.start, names)
        for op in again:
            owner.do_again(op)
        return owner.walk(loops, rows)
    if rows is None:
        return OwnBounds(tuple(place), (), tuple(loops))
    return _Owner(place, last.start, names).walk(loops, rows)


class _Owner:
    """Does the arithmetic of bounds again, under names of its own."""

    def __init__(self, shared: Sequence[Operation], lowest: Operand, names: Names) -> None:
        self.shared = tuple(shared)
        self.lowest = lowest
        self.names = names
        self.renamed: dict[Operand, str] = {}
        self.own: list[Operation] = []

    def do_again(self, op: Operation) -> None:
        """Do an operation for the consumer's rows."""
        assert isinstance(op, Compute | EdgePosition)
        if any(op is each for each in self.shared):
            name = self.names.fresh(f"own_{op.tile.name}")
            self.renamed[op.tile.name] = name
            op = replace(op, tile=replace(op.tile, name=name))
        if isinstance(op, Compute):
            operands = tuple(map(self._mine, op.operands))
            op = op if operands == op.operands else replace(op, operands=operands)
        self.own.append(op)

    def walk(self, loops: Sequence[Loop], rows: str | None) -> OwnBounds:
        """Return the loops between a consumer's own bounds, which lie inside those of all."""
        alone, *inner, last = loops
        first = self._inside(alone.start)
        first = first if rows is None else self._if_any(rows, first)
        end = self._joined("add", first, Literal(alone.step))
        before = replace(alone, start=end, stop=alone.stop, body=())
        found = [before, replace(alone, start=first, stop=end)]
        stop = first
        for loop in inner:
            start = self._within(self._mine(loop.start))
            found.append(replace(loop, start=start, stop=stop))
            stop = self._joined("min2", start, first)
        found.append(replace(last, stop=stop))
        return OwnBounds(self.shared, tuple(self.own), tuple(found))

    def _inside(self, highest: Operand) -> Operand:
        """Return where the consumer's stream starts, no higher than it does for all rows."""
        mine = self._mine(highest)
        return highest if mine == highest else self._within(self._joined("min2", mine, highest))

    def _if_any(self, rows: str, highest: Operand) -> str:
        """Return where the stream starts, its lowest place if the consumer has none of the rows."""
        start = Tile(self.names.fresh(f"own_{rows}"), (), Kind.INT, "int32")
        some = Tile(self.names.fresh(f"has_{rows}"), (), Kind.BOOL, "bool")
        self.own.append(EdgePosition(start, rows, "first"))
        self.own.append(Compute(some, "lt", (start.name, Length(rows))))
        return self._joined("where", some.name, highest, self.lowest)

    def _mine(self, operand: Operand) -> Operand:
        return self.renamed.get(operand, operand)

    def _within(self, place: Operand) -> Operand:
        """Return a place that lies no lower than the stream begins for all rows."""
        is_known = isinstance(self.lowest, str)
        return self._joined("max2", place, self.lowest) if is_known else place

    def _joined(self, operator: str, *places: Operand) -> str:
        """Make a place of others."""
        tile = Tile(self.names.fresh("own_end"), (), Kind.INT, "int32")
        self.own.append(Compute(tile, operator, places))
        return tile.name


def needed(operations: Sequence[Operation], names: Collection[str]) -> tuple[Operation, ...]:
    """Return the operations that these names need, in order."""
    wanted = set(names)
    found: list[Operation] = []
    for op in reversed(operations):
        if writes(op) in wanted:
            found.append(op)
            wanted |= set(reads(op))
    return tuple(found[::-1])


def _names(operands: Collection[Operand]) -> set[str]:
    return {each for each in operands if isinstance(each, str)}
