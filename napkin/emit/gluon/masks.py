"""A mask tested a comparison at a time: choices inside choices, for choices by conjunctions.

In: a consumer's steps. Out: the same with `where(a and b, x, k)` as `where(a, where(b, x, k), k)`, and a
printer of choices by a comparison of whole numbers, or two, as tests and one choice an element. As tensors of
truth values LLVM would make vectors of them, and pack those into bits: 200 more instructions a chunk of 64
rows by 128 positions.

A range of positions by row (`a <= x and x <= b`, or `<` on either side) stays whole. A thread has eight
columns of two rows in registers next to each other: their range is a row of bits, made by two shifts, which
the hardware turns into predicates seven at a time: 75 instructions a chunk of 64 by 64 for 144.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from napkin.emit.expressions import Call, Expression, Leaf
from napkin.emit.gluon.moves import MovePrinter
from napkin.emit.render import render
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
_ORDERED = ("le", "ge", "lt", "gt")
# What a bound that is not reached becomes, where no whole number lies past the last of 32 bits.
NEXT = "tl.minimum({}, 2147483646) + 1"
PREVIOUS = "tl.maximum({}, -2147483647) - 1"


@dataclass(frozen=True, slots=True)
class Bound:
    """A value of rows that positions do not pass; with `is_open` they do not reach it either."""

    name: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class Range:
    """A condition, by name, that holds for the positions between two bounds of a row."""

    condition: str
    tests: tuple[str, ...]
    low: Bound
    positions: str
    high: Bound

    @property
    def sides(self) -> tuple[str, str, str]:
        """What is compared, by name: the bounds, and the positions between them."""
        return self.low.name, self.positions, self.high.name


@dataclass(frozen=True, slots=True)
class Pair:
    """A condition, by name, that is a conjunction of two comparisons."""

    condition: str
    tests: tuple[str, ...]
    comparisons: tuple[Compute, ...]

    @property
    def sides(self) -> tuple[str, ...]:
        """What is compared, by name."""
        return tuple(str(side) for op in self.comparisons for side in op.operands)


def whole_conditions(
    steps: Sequence[object],
    kept: Container[str],
    width: Callable[[str], int],
    before: Mapping[str, Tile],
) -> tuple[Range | Pair, ...]:
    """Return the conditions of choices that are ranges of positions, or pairs of comparisons, by themselves.

    `width` gives the extent of a dim; names in `kept` are read elsewhere, tiles in `before` are made there.
    """
    operations = [each for each in steps if isinstance(each, Operation)]
    made = {each.tile.name: each for each in operations if isinstance(each, Compute | Positions)}
    read = [each for each in operations if isinstance(each, Load)]
    tiles = {**before, **{each.tile.name: each.tile for each in (*read, *made.values())}}
    readers = Counter(name for each in operations for name in reads(each))
    choices = [each for each in operations if isinstance(each, Compute) and _is_choice(each)]
    found: list[Range | Pair] = []
    for op in choices:
        is_wide, name = width(op.tile.dims[1]) >= _NARROWEST, str(op.operands[0])
        whole = (_range(name, made) if is_wide else None) or _pair(name, made)
        found += [whole] if whole else []
    return tuple(
        each
        for each in found
        if all(readers[name] == 1 and name not in kept for name in (each.condition, *each.tests))
        and all(side in tiles and _is_int32(tiles[side]) for side in each.sides)
    )


def _range(name: str, made: Mapping[str, Compute | Positions]) -> Range | None:
    """Return the range that a condition is, if it is one: positions compared with two values of rows."""
    op = made.get(name)
    if not isinstance(op, Compute) or op.operator != "and":
        return None
    columns = op.tile.dims[1:]
    bounds: dict[str, tuple[Bound, str]] = {}
    for part in map(str, op.operands):
        test = made.get(part)
        if not isinstance(test, Compute) or test.operator not in _ORDERED:
            return None
        is_turned, is_open = test.operator in ("ge", "gt"), test.operator in ("lt", "gt")
        small, large = map(str, test.operands[::-1] if is_turned else test.operands)
        for end, positions, bound in (("high", small, large), ("low", large, small)):
            if isinstance(made.get(positions), Positions) and made[positions].tile.dims == columns:
                bounds[end] = (Bound(bound, is_open), positions)
    if len(bounds) < 2 or bounds["low"][1] != bounds["high"][1]:
        return None
    (low, positions), (high, _) = bounds["low"], bounds["high"]
    return Range(name, tuple(map(str, op.operands)), low, positions, high)


def _pair(name: str, made: Mapping[str, Compute | Positions]) -> Pair | None:
    """Return the pair of comparisons that a condition is, if it is one."""
    op = made.get(name)
    if not isinstance(op, Compute) or op.operator != "and":
        return None
    tests = [made.get(str(part)) for part in op.operands]
    found = [each for each in tests if isinstance(each, Compute) and each.operator in _TESTS]
    return Pair(name, tuple(map(str, op.operands)), tuple(found)) if len(found) == 2 else None


def without_tests(steps: Sequence[AnyStep], whole: Sequence[Range | Pair]) -> list[AnyStep]:
    """Return the steps without the comparisons of these conditions, and their conjunctions."""
    names = {name for each in whole for name in (each.condition, *each.tests)}
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


def is_choice_helper(name: str) -> bool:
    """Return whether a helper chooses by comparisons, whose tests its name lists."""
    first, *tests = name.split("_")
    return first == "where" and bool(tests) and set(tests) <= {test for test, _ in _TESTS.values()}


def choice_helper(name: str) -> str:
    """Return such a function: every comparison narrows a predicate, by which one choice is made."""
    tests = name.split("_")[1:]
    pairs = [("a", "b"), ("c", "d")][: len(tests)]
    lines = [
        f"setp.{test}.s32 p, ${2 + 2 * place}, ${3 + 2 * place};"
        if place == 0
        else f"setp.{test}.and.s32 p, ${2 + 2 * place}, ${3 + 2 * place}, p;"
        for place, test in enumerate(tests)
    ]
    sides = [side for pair in pairs for side in pair]
    return render(
        "gluon/helpers/where.py.jinja",
        name=f"_{name}",
        sides=sides,
        tests=lines,
        last=2 + len(sides),
        constraints=",".join("r" for _ in sides),
    )


class MaskPrinter(MovePrinter):
    """Prints choices by comparisons, and by conditions that stay `whole`, by name."""

    whole: Mapping[str, Range | Pair] = {}

    def _call(self, each: Call) -> str:
        """Print an expression; a choice by a comparison of whole numbers as one test an element."""
        condition = each.operands[0]
        if each.operator == "where" and isinstance(condition, Leaf):
            one = self.whole.get(str(condition.operand))
            if isinstance(one, Range):
                return self._between(one, each)
            if one is not None:
                tests = [
                    (op.operator, [Leaf(side) for side in op.operands]) for op in one.comparisons
                ]
                return self._tested(tests, each, each)
        is_choice = each.operator == "where" and len(each.dims) == 2
        if not is_choice or not isinstance(condition, Call) or each.tile.kind is not Kind.FLOAT:
            return super()._call(each)
        whole = all(self._is_whole(side) for side in condition.operands)
        if condition.operator not in _TESTS or not whole or not self.tests_apart:
            return super()._call(each)
        wide = replace(condition, tile=replace(condition.tile, dims=each.dims))
        return self._tested([(condition.operator, condition.operands)], each, wide)

    def _tested(
        self, tests: Sequence[tuple[str, Sequence[Expression]]], each: Call, wide: Call
    ) -> str:
        """Print a choice by comparisons that all hold."""
        value, other = (self._operand(side, each) for side in each.operands[1:])
        operands, names = [value], ["where"]
        for operator, compared in tests:
            test, is_turned = _TESTS[operator]
            sides = [self._operand(side, wide) for side in compared]
            operands += sides[::-1] if is_turned else sides
            names.append(test)
        helper = "_".join(names)
        return self._helper(helper, f"_{helper}", [*operands, other])

    def _between(self, one: Range, each: Call) -> str:
        """Print a choice by a range."""
        _, value, other = each.operands
        low, positions, high = (self._operand(Leaf(side), each) for side in one.sides)
        low = NEXT.format(low) if one.low.is_open else low
        high = PREVIOUS.format(high) if one.high.is_open else high
        sides = [self._operand(value, each), low, positions, high, self._operand(other, each)]
        return self._helper("where_between", "_where_between", sides)

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
