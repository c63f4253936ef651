"""Masks as bounds: intervals against brute force, and which conditions skip a chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napkin.algebra.affine import Variation
from napkin.algebra.conditions import find_condition, vanishes
from napkin.algebra.derive import Derivation, derive
from napkin.algebra.masks import Interval, interval
from napkin.algebra.show import show_derivation
from napkin.diagram import Graph, Index, Input, Pointwise
from napkin.evaluate import NumpyArithmetic, evaluate
from napkin.language import read
from napkin.language.source import Source
from napkin.operators import Kind

LENGTH = 13
SCALAR = Input("n", (), Kind.INT)
ROWS = Input("r", ("q",), Kind.INT)  # read from data, a number a row
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


class Truncating(NumpyArithmetic):
    """Integer division as C and Triton have it: towards zero."""

    def pointwise(self, operator: str, operands: Sequence[Any]) -> Any:
        if operator == "floordiv":
            return np.trunc(operands[0] / operands[1]).astype(int)
        return super().pointwise(operator, operands)


def add_affine(graph: Graph, coefficients: tuple[int, int, int, int, int]) -> int:
    """Add c_x x + c_q q + c_n n + c_r r[q] + c."""
    leaves = (graph.add(Index("x")), graph.add(Index("q")), graph.add(SCALAR), graph.add(ROWS))
    total = graph.constant(coefficients[4])
    for leaf, coefficient in zip(leaves, coefficients[:4], strict=True):
        if coefficient:
            scaled = graph.pointwise("mul", graph.constant(coefficient), leaf)
            total = graph.pointwise("add", total, scaled)
    return total


@st.composite
def conditions(draw: Callable[[st.SearchStrategy[Any]], Any], depth: int = 3) -> Any:
    """Draw a condition as a nested tuple."""
    form = draw(st.sampled_from(("and", "or", "not", "is", "is", "odd"))) if depth else "is"
    if form == "is":
        coefficient, one = st.integers(-3, 3), st.integers(-1, 1)
        sides = [
            draw(st.tuples(coefficient, coefficient, one, one, st.integers(-9, 9)))
            for _ in range(2)
        ]
        return (draw(st.sampled_from(COMPARISONS)), *sides)
    if form == "odd":  # not affine: stays as a residual
        return ("odd",)
    if form == "not":
        return ("not", draw(conditions(depth - 1)))
    return (form, draw(conditions(depth - 1)), draw(conditions(depth - 1)))


def build(graph: Graph, condition: Any) -> int:
    match condition:
        case ("odd",):
            total = add_affine(graph, (1, 1, 0, 0, 0))
            rest = graph.pointwise("mod", total, graph.constant(2))
            return graph.pointwise("eq", rest, graph.constant(1))
        case ("and" | "or" as joined, left, right):
            return graph.pointwise(joined, build(graph, left), build(graph, right))
        case ("not", inner):
            return graph.pointwise("not", build(graph, inner))
        case (comparison, left, right):
            return graph.pointwise(comparison, add_affine(graph, left), add_affine(graph, right))
    raise AssertionError(condition)


def numbers() -> st.SearchStrategy[tuple[int, list[int]]]:
    """Draw the scalar, and a number for every row."""
    row = st.integers(-9, 9)
    return st.tuples(st.integers(-4, 9), st.lists(row, min_size=15, max_size=15))


def in_tile(numbers: tuple[int, list[int]], tile: tuple[int, int]) -> dict[str, Any]:
    """Return what a tile of rows reads."""
    return {"n": np.asarray(numbers[0]), "r": np.asarray(numbers[1][tile[0] : tile[1] + 1])}


def variation(graph: Graph) -> Callable[[int], Variation]:
    return lambda box: Variation.NONE if graph[box] == SCALAR else Variation.INSIDE


def ends(
    graph: Graph,
    region: Interval | None,
    tile: tuple[int, int],
    data: Mapping[str, Any],
    arithmetic: NumpyArithmetic | None = None,
) -> tuple[float, float]:
    """Return the numbers [start, stop) of an interval for a tile of q."""
    if region is None:
        return 0, 0
    edges = {("q", "first"): tile[0], ("q", "last"): tile[1]}
    found = []
    for box, none in ((region.start, -np.inf), (region.stop, np.inf)):
        if box is None:
            found.append(none)
            continue
        values = evaluate(graph, [box], data, {}, edges=edges, arithmetic=arithmetic)
        found.append(float(values[box]))
    return found[0], found[1]


def holds(
    graph: Graph, condition: int | None, tile: tuple[int, int], data: Mapping[str, Any]
) -> Any:
    """Return where a condition holds, q by x."""
    rows, columns = np.arange(tile[0], tile[1] + 1), np.arange(LENGTH)
    shape = (len(rows), len(columns))
    if condition is None:
        return np.ones(shape, dtype=bool)
    indices = {"q": rows, "x": columns}
    values = evaluate(graph, [condition], data, {}, indices=indices)
    value, axes = values[condition], graph[condition].axes
    if axes == ("x", "q"):
        value = value.T
    elif axes == ("q",):
        value = value[:, None]
    return np.broadcast_to(value, shape)


@settings(max_examples=400, deadline=None)
@given(conditions(), st.integers(0, 9), st.integers(0, 5), numbers())
def test_bounds_agree_with_brute_force(drawn: Any, first: int, more: int, numbers: Any) -> None:
    graph, tile = Graph(), (first, first + more)
    data = in_tile(numbers, tile)
    condition = build(graph, drawn)
    bounds = interval(graph, condition, "x", variation(graph))
    truth = holds(graph, condition, tile, data)
    start, stop = ends(graph, bounds.any, tile, data)
    for x in np.flatnonzero(truth.any(axis=0)):
        assert start <= x < stop, "a position that matters is skipped"
    start, stop = ends(graph, bounds.full, tile, data)
    inside = [x for x in range(LENGTH) if start <= x < stop]
    residual = holds(graph, bounds.residual, tile, data)
    assert (truth[:, inside] == residual[:, inside]).all(), "a mask is left out where it matters"


@settings(max_examples=200, deadline=None)
@given(conditions(), st.integers(0, 9), st.integers(0, 5), numbers())
def test_bounds_do_not_depend_on_how_division_rounds(
    drawn: Any, first: int, more: int, numbers: Any
) -> None:
    graph, tile = Graph(), (first, first + more)
    data = in_tile(numbers, tile)
    bounds = interval(graph, build(graph, drawn), "x", variation(graph))
    for region in (bounds.any, bounds.full):
        floored = ends(graph, region, tile, data)
        cut = ends(graph, region, tile, data, Truncating())
        assert [max(each, 0) for each in floored] == [max(each, 0) for each in cut]


# --- conditions that skip -------------------------------------------------------------------------


def attention(mask: str, weights: str = "softmax[x]({0})") -> Derivation:
    text = (
        "diagram f(S[q x], V[x v], n: int, D[q]: int32, E[x]: int32, len: int) -> O[q v]\n"
        f"    O[q v] = sum[x]({weights.format(f'where({mask}, S, -inf)')} * V)\n"
    )
    return derive(read(Source("test", text))[0], axis="x")


def shown(derivation: Derivation) -> list[str]:
    """Return the lines of the mask step."""
    text = show_derivation(derivation)
    if "mask to bounds" not in text:
        return []
    step = text[text.index("mask to bounds") :].split("\n\n")[0]
    return [line.strip() for line in step.splitlines()[2:]]


@pytest.mark.parametrize(
    ("mask", "somewhere", "throughout"),
    [
        ("x <= q", "x <= last(q)", "x <= first(q)"),
        ("x < q", "x < last(q)", "x < first(q)"),
        ("x <= q + size(x) - size(q)", *["x <= {0}(q) + size(x) - size(q)"] * 2),
        (
            "x <= q and q - x < n",
            "first(q) - n + 1 <= x <= last(q)",
            "last(q) - n + 1 <= x <= first(q)",
        ),
        ("x < len", "x < len", "x < len"),
        ("x >= 2 * q", "2 * first(q) <= x", "2 * last(q) <= x"),
        ("2 * x <= q", "x < (last(q) + 2) // 2", "x < (first(q) + 2) // 2"),
        ("not x > q", "x <= last(q)", "x <= first(q)"),
        ("x == q", "first(q) <= x <= last(q)", "last(q) <= x <= first(q)"),
        ("D[q] <= x", "least(D) <= x", "greatest(D) <= x"),
        (
            "D[q] <= x and x <= q",
            "least(D) <= x <= last(q)",
            "greatest(D) <= x <= first(q)",
        ),
        ("x <= max2(q, D[q])", "x <= greatest(max2(q, D))", "x <= least(max2(q, D))"),
        ("x < 2 * D[q]", "x < 2 * greatest(D)", "x < 2 * least(D)"),
        ("x <= q or x < 4", "x < max2(last(q) + 1, 4)", "x < max2(first(q) + 1, 4)"),
    ],
)
def test_an_affine_mask_becomes_bounds(mask: str, somewhere: str, throughout: str) -> None:
    lines = shown(attention(mask))
    assert f"it may hold for {somewhere.format('last')}: the chunks outside are skipped" in lines
    inside = f"it holds throughout for {throughout.format('first')}: the chunks inside need no mask"
    assert inside in lines


def test_what_is_read_from_data_stays_inside_the_bounds_of_the_rest() -> None:
    lines = shown(attention("x <= q and D[q] == E[x]"))
    assert "its bounds hold throughout for x <= first(q)" in lines
    assert "tested for every element: D == E" in lines
    parity = shown(attention("(q - x) % 2 == 0 and x <= q"))
    assert "tested for every element: (q - x) % 2 == 0" in parity


@pytest.mark.parametrize(
    "weights",
    [
        "softmax[x]({0})",
        "exp({0})",
        "exp2({0} * 0.5 - 1)",
        "exp({0} / 3 + S)",
        "where(x <= q, S, 0)",
        "where(x > q, 0, S)",
        "softmax[x](where(x > q, -inf, S))",
        "where(x <= q, S, 0) * S / n",
        "sigmoid({0})",
    ],
)
def test_a_condition_without_which_nothing_is_added_is_found(weights: str) -> None:
    assert attention("x <= q", weights).conditions[0] is not None


@pytest.mark.parametrize(
    "weights",
    [
        "where(x <= q, S, 1)",
        "tanh({0})",
        "exp(-{0})",
        "where(q <= 3, S, 0)",
        "S + {0}",
    ],
)
def test_a_condition_whose_failure_still_adds_is_not(weights: str) -> None:
    assert attention("x <= q", weights).conditions == (None,)


def test_every_accumulator_must_vanish() -> None:
    text = (
        "diagram f(S[q x], V[x v]) -> O[q v], T[q]\n"
        "    O[q v] = sum[x](softmax[x](where(x <= q, S, -inf)) * V)\n    T[q] = sum[x](S)\n"
    )
    assert derive(read(Source("test", text))[0], axis="x").conditions == (None,)


def test_several_conditions_are_joined() -> None:
    derivation = attention("x <= q", "softmax[x](where(x < len, {0}, -inf))")
    (condition,) = derivation.conditions
    assert condition is not None
    box = derivation.graph[condition]
    assert isinstance(box, Pointwise)
    assert box.operator == "and"


def test_a_load_past_the_end_that_reads_zero_may_vanish() -> None:
    text = "diagram matmul(A[m k], B[k n]) -> C[m n]\n    C[m n] = sum[k](A * B)\n"
    derivation = derive(read(Source("test", text))[0])
    assert derivation.stream is not None
    (accumulator,) = derivation.stream.accumulators
    graph = derivation.graph
    inside = graph.pointwise("lt", graph.add(Index("k")), graph.constant(8))
    assert find_condition(graph, [accumulator], "k") is None
    assert not vanishes(graph, accumulator, inside)
    assert vanishes(graph, accumulator, inside, "k")
