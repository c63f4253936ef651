"""Degrees in sums that a factor scales: what has degree 0 is the same however they are scaled."""

from __future__ import annotations

import pytest

from napkin.operators import Kind
from napkin.schedule.program import Compute, Fold, Literal, Operand, Operation, Path, Store, Tile
from napkin.schedule.roles.degrees import is_the_same_scaled


def row(name: str) -> Tile:
    return Tile(name, ("q",), Kind.FLOAT, "fp32")


def computed(name: str, operator: str, *operands: Operand) -> Compute:
    return Compute(row(name), operator, operands)


def stored(name: str) -> Store:
    return Store("O", name, ("q",), ("q",), Path.POINTER)


@pytest.mark.parametrize(
    ("operations", "same"),
    [
        ([computed("a", "reciprocal", "l"), computed("b", "mul", "o", "a")], True),
        ([computed("b", "div", "o", "l")], True),
        ([computed("a", "add", "o", "l"), computed("b", "div", "a", "l")], True),
        ([computed("a", "neg", "o"), computed("b", "div", "a", "l")], True),
        (
            [
                computed("a", "mul", "o", "o"),
                computed("c", "mul", "l", "l"),
                computed("b", "div", "a", "c"),
            ],
            True,
        ),
        ([computed("a", "div", "o", "l"), computed("b", "exp2", "a")], True),
        ([Fold(row("a"), "sum", "l", ("lane",)), computed("b", "div", "o", "a")], True),
        ([computed("b", "mul", "o", Literal(2.0))], False),
        ([computed("b", "log", "l")], False),
        ([computed("a", "add", "l", Literal(1.0)), computed("b", "div", "o", "a")], False),
        ([computed("a", "mul", "o", "l"), computed("b", "div", "a", "l")], False),
        ([computed("a", "max2", "l", Literal(0.0)), computed("b", "div", "o", "a")], False),
    ],
)
def test_only_quotients_of_one_degree_are_the_same(operations: list[Operation], same: bool) -> None:
    assert is_the_same_scaled([*operations, stored("b")], {"o", "l"}) == same


def test_what_is_stored_beside_a_quotient_counts_as_well() -> None:
    quotient: list[Operation] = [computed("b", "div", "o", "l"), stored("b")]
    assert is_the_same_scaled(quotient, {"o", "l"})
    assert not is_the_same_scaled([*quotient, stored("l")], {"o", "l"})
    assert is_the_same_scaled([*quotient, stored("other")], {"o", "l"})
