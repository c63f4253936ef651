"""Two upper bounds of one position joined: `x <= a and x < b` is `x <= min(a, b - 1)`.

In and out: a `Program`. A mask is tested for every element, its bounds are values of a row or single numbers:
one test less an element is worth a minimum a row. Causal attention's mask and the end of its keys are such
a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.operators import Kind
from napkin.schedule.liveness import reads, rename, writes
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import (
    Compute,
    Length,
    Literal,
    Loop,
    Operand,
    Operation,
    Positions,
    Program,
    Tile,
    tiles_of,
    walk,
)


@dataclass(frozen=True, slots=True)
class _Bound:
    """A test that a position is no greater than a number, or below it."""

    test: Compute
    position: str
    limit: Operand
    dims: tuple[str, ...]
    is_strict: bool


def join_bounds(program: Program) -> Program:
    """Return the program with the upper bounds in its loops' masks joined."""
    tiles = {tile.name: tile for tile in tiles_of(program.operations)}
    names = Names(RESERVED | set(tiles) | {name for name, _ in program.scalars})
    wholes = {name for name, kind in program.scalars if kind == "int"}
    positions = {op.tile.name for op in walk(program.operations) if isinstance(op, Positions)}
    joiner = _Joiner(tiles, wholes, positions, names)
    operations = tuple(
        replace(op, body=joiner.body(op.body)) if isinstance(op, Loop) else op
        for op in program.operations
    )
    return replace(program, operations=operations)


class _Joiner:
    def __init__(
        self, tiles: Mapping[str, Tile], wholes: set[str], positions: set[str], names: Names
    ) -> None:
        self.tiles = tiles
        self.wholes = wholes
        self.positions = positions
        self.names = names

    def body(self, body: tuple[Operation, ...]) -> tuple[Operation, ...]:
        """Return a loop's body with its upper bounds joined."""
        while (shorter := self._with_one_less(body)) is not None:
            body = shorter
        return body

    def _with_one_less(self, body: tuple[Operation, ...]) -> tuple[Operation, ...] | None:
        """Return a body in which a test has taken over the bound of another, None if there are no two."""
        made = {name: op for op in body if (name := writes(op)) is not None}
        readers = Counter(name for op in body for name in reads(op))
        for op in body:
            if not isinstance(op, Compute) or op.operator != "and":
                continue
            for near, far in (op.operands, op.operands[::-1]):
                bound = self._bound(made.get(str(near))) if readers[str(near)] == 1 else None
                wider = bound and self._wider(str(far), bound, made, readers)
                if bound is not None and wider is not None:
                    return self._joined(body, op, str(far), wider, bound)
        return None

    def _wider(
        self, name: str, bound: _Bound, made: Mapping[str, Operation], readers: Mapping[str, int]
    ) -> _Bound | None:
        """Return the bound of the same position in a conjunction that has all dims of this one."""
        op = made.get(name)
        if not isinstance(op, Compute) or readers[name] != 1:
            return None
        if op.operator == "and":
            found = (self._wider(str(each), bound, made, readers) for each in op.operands)
            return next((each for each in found if each is not None), None)
        other = self._bound(op)
        if other is None or bound.limit in made or not set(bound.dims) <= set(other.dims):
            return None
        return other if other.position == bound.position and _join_safely(other, bound) else None

    def _joined(
        self,
        body: tuple[Operation, ...],
        conjunction: Compute,
        rest: str,
        wider: _Bound,
        bound: _Bound,
    ) -> tuple[Operation, ...]:
        """Return a body in which the rest of a conjunction stands for it, one bound of it being the least."""
        found: list[Operation] = []
        for op in body:
            if op is wider.test:
                alike = wider.is_strict == bound.is_strict
                limits = tuple(
                    each.limit if alike else self._limit(each, found) for each in (wider, bound)
                )
                least = self._whole("limit", wider.dims)
                found.append(Compute(least, "min2", limits))
                operands = (wider.position, least.name)
                operator = wider.test.operator if alike else "le"
                found.append(replace(wider.test, operator=operator, operands=operands))
            elif op is not conjunction and op is not bound.test:
                found.append(rename(op, {conjunction.tile.name: rest}))
        return tuple(found)

    def _bound(self, op: Operation | None) -> _Bound | None:
        """Return the upper bound that a test sets to a position, if it is one of whole numbers."""
        if not isinstance(op, Compute) or op.operator not in ("le", "lt"):
            return None
        position, limit = op.operands
        if not isinstance(position, str) or position not in self.positions:
            return None
        dims = self._dims_of_whole(limit)
        if dims is None or set(dims) & set(self.tiles[position].dims):
            return None
        return _Bound(op, position, limit, dims, op.operator == "lt")

    def _dims_of_whole(self, operand: Operand) -> tuple[str, ...] | None:
        """Return the dims of a whole number, None for what is none."""
        if isinstance(operand, Length):
            return ()
        if isinstance(operand, Literal):
            return () if isinstance(operand.value, int) else None
        if operand in self.wholes:
            return ()
        tile = self.tiles.get(operand)
        return tile.dims if tile is not None and tile.kind is Kind.INT else None

    def _limit(self, bound: _Bound, steps: list[Operation]) -> Operand:
        """Return the greatest position within a bound."""
        if not bound.is_strict:
            return bound.limit
        below = self._whole("last", bound.dims)
        steps.append(Compute(below, "sub", (bound.limit, Literal(1))))
        return below.name

    def _whole(self, wish: str, dims: Sequence[str]) -> Tile:
        return Tile(self.names.fresh(wish), tuple(dims), Kind.INT, "int32")


def _join_safely(one: _Bound, other: _Bound) -> bool:
    """Return whether two bounds join without overflow: what is read may be the least number there is."""
    strict = [each for each in (one, other) if each.is_strict]
    return len(strict) != 1 or isinstance(strict[0].limit, Length | Literal)
