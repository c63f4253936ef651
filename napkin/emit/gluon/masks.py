"""A mask tested a comparison at a time: choices inside choices, for choices by conjunctions.

In: a consumer's steps. Out: the same with `where(a and b, x, k)` as `where(a, where(b, x, k), k)`, and a
printer of choices by a comparison of whole numbers as one test and one choice an element. As tensors of
truth values LLVM would make vectors of them, and pack those into bits: 200 more instructions a chunk of 64
rows by 128 positions.

A range of positions by row (`a <= x and x <= b`) stays whole. A thread has eight columns of two rows in
registers next to each other: their range is a row of bits, made by two shifts, which the hardware turns into
predicates seven at a time: 75 instructions a chunk of 64 by 64 for 144.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from napkin.emit.expressions import Call, Expression, Leaf
from napkin.emit.gluon.moves import MovePrinter
from napkin.operators import Kind
from napkin.schedule.liveness import reads
from napkin.schedule.program import (
    Compute,
    Length,
    Literal,
    Load,
    Operation,
    Positions,
    Tile,
    walk,
)

AnyStep = TypeVar("AnyStep", bound=object)  # of a list that has operations among its steps
_NARROWEST = 32  # columns, of which a thread has 16 elements

# The test of two whole numbers that each comparison is, and whether its sides change places.
_TESTS = {
    "le": ("le", False),
    "ge": ("le", True),
    "lt": ("lt", False),
    "gt": ("lt", True),
    "eq": ("eq", False),
    "ne": ("ne", False),
}


@dataclass(frozen=True, slots=True)
class Range:
    """A condition, by name, that holds for the positions between two bounds of a row."""

    condition: str
    tests: tuple[str, ...]
    low: str
    positions: str
    high: str


def ranges_of(
    steps: Sequence[object], kept: Container[str], width: Callable[[str], int]
) -> tuple[Range, ...]:
    """Return the conditions of choices that are ranges of positions, by themselves.

    `width` gives the extent of a dim; names in `kept` are read elsewhere.
    """
    operations = [each for each in steps if isinstance(each, Operation)]
    made = {each.tile.name: each for each in operations if isinstance(each, Compute | Positions)}
    readers = Counter(name for each in operations for name in reads(each))
    choices = [each for each in operations if isinstance(each, Compute) and _is_choice(each)]
    wide = [each for each in choices if width(each.tile.dims[1]) >= _NARROWEST]
    found = [each for each in (_range(str(op.operands[0]), made) for op in wide) if each]
    return tuple(
        each
        for each in found
        if all(readers[name] == 1 and name not in kept for name in (each.condition, *each.tests))
    )


def _range(name: str, made: Mapping[str, Compute | Positions]) -> Range | None:
    """Return the range that a condition is, if it is one: positions compared with two values of rows."""
    op = made.get(name)
    if not isinstance(op, Compute) or op.operator != "and":
        return None
    columns = op.tile.dims[1:]
    bounds: dict[str, tuple[str, str]] = {}
    for part in map(str, op.operands):
        test = made.get(part)
        if not isinstance(test, Compute) or test.operator not in ("le", "ge"):
            return None
        small, large = map(str, test.operands if test.operator == "le" else test.operands[::-1])
        for end, positions, bound in (("high", small, large), ("low", large, small)):
            if isinstance(made.get(positions), Positions) and made[positions].tile.dims == columns:
                bounds[end] = (bound, positions)
    if len(bounds) < 2 or bounds["low"][1] != bounds["high"][1]:
        return None
    (low, positions), (high, _) = bounds["low"], bounds["high"]
    return Range(name, tuple(map(str, op.operands)), low, positions, high)


def without_tests(steps: Sequence[AnyStep], ranges: Sequence[Range]) -> list[AnyStep]:
    """Return the steps without the comparisons of ranges, and their conjunctions."""
    names = {name for each in ranges for name in (each.condition, *each.tests)}
    return [each for each in steps if not (isinstance(each, Compute) and each.tile.name in names)]


def tests_apart(steps: Sequence[AnyStep], kept: Container[str]) -> list[AnyStep]:
    """Return the steps with choices by conjunctions in parts; names in `kept` are read elsewhere."""
    operations = [each for each in steps if isinstance(each, Operation)]
    readers = Counter(name for each in operations for name in reads(each))
    made = {each.tile.name: each for each in operations if isinstance(each, Compute)}
    alone = {name for name, count in readers.items() if count == 1 and name not in kept}
    found: list[AnyStep] = []
    dropped: set[str] = set()
    for each in steps:
        if not isinstance(each, Compute) or not _is_choice(each):
            found.append(each)
            continue
        condition, value, other = each.operands
        for part in _conjuncts(str(condition), made, alone, dropped):
            found.append(replace(each, operands=(part, value, other)))
            value = each.tile.name
    return [each for each in found if not (isinstance(each, Compute) and each.tile.name in dropped)]


def _is_choice(op: Compute) -> bool:
    """Return whether an operation chooses between a value and a number, for rows by positions."""
    is_tile = len(op.tile.dims) == 2 and op.tile.kind is Kind.FLOAT
    return op.operator == "where" and is_tile and isinstance(op.operands[2], Literal)


def _conjuncts(
    name: str, made: Mapping[str, Compute], alone: Container[str], dropped: set[str]
) -> list[str]:
    """Return what a condition is the conjunction of; conjunctions that nothing else reads are dropped."""
    op = made.get(name)
    if op is None or op.operator != "and" or name not in alone:
        return [name]
    if not all(isinstance(each, str) for each in op.operands):
        return [name]
    dropped.add(name)
    return [part for each in op.operands for part in _conjuncts(str(each), made, alone, dropped)]


class MaskPrinter(MovePrinter):
    """Prints choices by comparisons, and by `ranges` of positions, by the name of the condition."""

    ranges: Mapping[str, Range] = {}

    def _call(self, each: Call) -> str:
        """Print an expression; a choice by a comparison of whole numbers as one test an element."""
        condition = each.operands[0]
        if each.operator == "where" and isinstance(condition, Leaf):
            one = self.ranges.get(str(condition.operand))
            if one is not None:
                return self._between(one, each)
        is_choice = each.operator == "where" and len(each.dims) == 2
        if not is_choice or not isinstance(condition, Call) or each.tile.kind is not Kind.FLOAT:
            return super()._call(each)
        whole = all(self._is_whole(side) for side in condition.operands)
        if condition.operator not in _TESTS or not whole or not self.tests_apart:
            return super()._call(each)
        test, is_turned = _TESTS[condition.operator]
        wide = replace(condition, tile=replace(condition.tile, dims=each.dims))
        sides = [self._operand(side, wide) for side in condition.operands]
        value, other = (self._operand(side, each) for side in each.operands[1:])
        operands = [value, *(sides[::-1] if is_turned else sides), other]
        return self._helper(f"where_{test}", f"_where_{test}", operands)

    def _between(self, one: Range, each: Call) -> str:
        """Print a choice by a range."""
        _, value, other = each.operands
        sides = (value, Leaf(one.low), Leaf(one.positions), Leaf(one.high), other)
        operands = [self._operand(side, each) for side in sides]
        return self._helper("where_between", "_where_between", operands)

    @property
    def tests_apart(self) -> bool:
        """Whether comparisons are tested one at a time; loads of elements by pointer need truth values."""
        loads = (op for op in walk(self.program.operations) if isinstance(op, Load))
        return not any(op.tile.level == "register" and len(op.tile.dims) == 2 for op in loads)

    def _is_whole(self, each: Expression) -> bool:
        """Return whether an expression is a whole number of 32 bits."""
        if isinstance(each, Call):
            return _is_int32(each.tile)
        assert isinstance(each, Leaf)
        if isinstance(each.operand, Length):
            return True
        if isinstance(each.operand, Literal):
            return type(each.operand.value) is int
        tile = self.tiles.get(each.operand)
        if tile is None:
            return dict(self.program.scalars).get(each.operand) == "int"
        return tile.kind is Kind.INT and tile.storage != "int64"


def _is_int32(tile: Tile) -> bool:
    return tile.kind is Kind.INT and tile.storage == "int32"
