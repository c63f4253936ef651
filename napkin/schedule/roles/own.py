"""Where a stream begins and ends for a consumer's own rows, beside where it does for those of all.

In: a group's place and the loops of its stream, bounds of the rows of all consumers. Out: the same loops with
bounds of a consumer's own rows, and the chunks before and behind them, which it only lets pass.

What bounds a stream for a tile of rows bounds it for a narrower one, by the same arithmetic: it is done
again, for the consumer's rows, with the least and greatest of their values where values of rows bound it. The
copies are those of the rows of all.
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
    Fold,
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

    Of loops with an empty body it lets the chunks pass; of those `behind`, once it is done with the others.
    """

    place: tuple[Operation, ...]
    own: tuple[Operation, ...]
    loops: tuple[Loop, ...]
    behind: tuple[Loop, ...] = ()


def own_bounds(
    place: Sequence[Operation], loops: Sequence[Loop], names: Names, *, rows: str | None = None
) -> OwnBounds:
    """Return descending loops between bounds of a consumer's rows, or as they are where rows bound none.

    The first of the loops is one chunk. The last ends where the consumer's own rows say, or where it does for
    all rows if these say nothing. With `rows`, a consumer whose rows lie past the end of that axis has
    one chunk alone, the last of its walk.
    """
    first, *inner, last = loops
    bounds = _names([first.start, *(loop.start for loop in inner), last.start])
    again = _moving(place, bounds)
    if again:
        folded = {op.tile.name for op in again if isinstance(op, Fold)}
        made = {writes(op) for op in again} - folded
        given = folded | {name for op in again for name in reads(op)} - made
        shared = needed(place, given | _names([first.stop, last.start]))
        owner = _Owner(shared, last.start, names)
        for op in again:
            owner.do_again(op)
        return owner.walk(loops, rows)
    if rows is None:
        return OwnBounds(tuple(place), (), tuple(loops))
    return _Owner(place, last.start, names).walk(loops, rows)


def _moving(place: Sequence[Operation], bounds: set[str]) -> tuple[Operation, ...]:
    """Return the numbers that bounds need and that other rows have others of, in order.

    They move with where the rows begin and end, and with their values.
    """
    first = [op.tile.name for op in place if isinstance(op, Fold | EdgePosition)]
    return needed(place, bounds, _following(place, first))


def _following(place: Sequence[Operation], first: Collection[str]) -> set[str]:
    """Return these numbers and those that are made of them."""
    found = set(first)
    numbers = [op for op in place if isinstance(op, Compute) and not op.tile.dims]
    for op in numbers:
        if found & set(reads(op)):
            found.add(op.tile.name)
    return found


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
        assert isinstance(op, Compute | EdgePosition | Fold)
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
        begin = self._begin(first)
        end = self._joined("add", first, Literal(alone.step))
        before = replace(alone, start=end, stop=alone.stop, body=())
        found = [before, replace(alone, start=first, stop=end)]
        stop = first
        for loop in inner:
            start = self._within(self._mine(loop.start), begin)
            found.append(replace(loop, start=start, stop=stop))
            stop = self._joined("min2", start, first)
        found.append(replace(last, start=begin, stop=stop))
        behind = () if begin == last.start else (replace(last, stop=begin, body=()),)
        return OwnBounds(self.shared, tuple(self.own), tuple(found), behind)

    def _begin(self, first: Operand) -> Operand:
        """Return where the consumer's stream begins: the shared bound, or its own where its rows give one."""
        mine = self._mine(self.lowest)
        return (
            mine
            if mine == self.lowest
            else self._joined("min2", self._within(mine, self.lowest), first)
        )

    def _inside(self, highest: Operand) -> Operand:
        """Return where the consumer's stream starts, no higher than it does for all rows."""
        mine = self._mine(highest)
        within = self._joined("min2", mine, highest) if mine != highest else highest
        return highest if mine == highest else self._within(within, self.lowest)

    def _if_any(self, rows: str, highest: Operand) -> str:
        """Return where the stream starts, its lowest place if the consumer has none of the rows."""
        start = Tile(self.names.fresh(f"own_{rows}"), (), Kind.INT, "int32")
        some = Tile(self.names.fresh(f"has_{rows}"), (), Kind.BOOL, "bool")
        self.own.append(EdgePosition(start, rows, "first"))
        self.own.append(Compute(some, "lt", (start.name, Length(rows))))
        return self._joined("where", some.name, highest, self.lowest)

    def _mine(self, operand: Operand) -> Operand:
        return self.renamed.get(operand, operand)

    def _within(self, place: Operand, begin: Operand) -> Operand:
        """Return a place that lies no lower than where the stream begins."""
        return self._joined("max2", place, begin) if isinstance(begin, str) else place

    def _joined(self, operator: str, *places: Operand) -> str:
        """Make a place of others."""
        tile = Tile(self.names.fresh("own_end"), (), Kind.INT, "int32")
        self.own.append(Compute(tile, operator, places))
        return tile.name


def needed(
    operations: Sequence[Operation], names: Collection[str], among: Collection[str] | None = None
) -> tuple[Operation, ...]:
    """Return the operations that these names need, in order; only those that make names `among` some."""
    wanted = set(names)
    found: list[Operation] = []
    for op in reversed(operations):
        if writes(op) in wanted and (among is None or writes(op) in among):
            found.append(op)
            wanted |= set(reads(op))
    return tuple(found[::-1])


def _names(operands: Collection[Operand]) -> set[str]:
    return {each for each in operands if isinstance(each, str)}
