"""Masks as loop bounds: which chunks of a stream matter to a tile, and which need no mask.

`interval` answers from the boxes alone: where along the stream can a condition hold for some element of a
tile (`any`), and where does it hold for all of them (`full`)? Comparisons that are affine in the stream's
index give bounds by interval arithmetic; what is not affine stays as a residual condition inside them.
Everything else in them may be any whole number that does not vary along the stream: an index of another
axis, a length, what is read from data.

Bounds are boxes over `Edge` leaves, the first and last index of each axis in the tile, and over `Extreme`
boxes, the least and greatest value in the tile of a number that varies over it. A comparison with values
that lie along the stream has no bounds of its own; where a `Hull` of it is known, its ends are read from
there. See docs/algebra.md, "Masks as bounds".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce as fold
from types import MappingProxyType

from napkin.algebra.affine import (
    COMPARISONS,
    Affine,
    Variation,
    affine_form,
    scaled,
    signed_sum,
)
from napkin.diagram import Edge, Extreme, Graph, Pointwise

FARTHEST = 2**30  # a bound that no axis reaches, far enough from overflow to be added to


@dataclass(frozen=True, slots=True)
class Interval:
    """Positions `[start, stop)` of the stream as boxes; None is no bound."""

    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the condition may hold (`any`), and where its affine part holds throughout (`full`).

    `full` is None if no region is sure. `residual` is the box left to test there, None for true.
    """

    any: Interval
    full: Interval | None
    residual: int | None


@dataclass(frozen=True, slots=True)
class Hull:
    """Where along the stream a comparison may hold, and where it surely does: boxes, a number a row.

    It holds nowhere outside `[first, stop)`, and throughout `[sure_first, sure_stop)`.
    """

    first: int
    stop: int
    sure_first: int
    sure_stop: int


NO_HULLS: Mapping[int, Hull] = MappingProxyType({})


def interval(
    graph: Graph,
    condition: int | None,
    axis: str,
    variation: Callable[[int], Variation],
    hulls: Mapping[int, Hull] = NO_HULLS,
) -> Bounds:
    """Return the bounds of a condition along an axis.

    `variation(box)` says how a whole number varies over a tile, so that it or its ends may stand in a
    loop's bound. `hulls` are those of comparisons, where they are known.
    """
    if condition is None:
        return Bounds(Interval(), Interval(), None)
    box = graph[condition]
    if isinstance(box, Pointwise) and box.operator in ("and", "or", "not"):
        if box.operator == "not":
            opened = negated(graph, box.operands[0])
            if opened is None:
                return _unknown(condition)
            return interval(graph, opened, axis, variation, hulls)
        left, right = (interval(graph, each, axis, variation, hulls) for each in box.operands)
        if box.operator == "and":
            return _both(graph, left, right)
        return _either(graph, condition, left, right)
    if condition in hulls:
        return _within(graph, condition, hulls[condition], variation)
    if isinstance(box, Pointwise) and box.operator in COMPARISONS:
        bounds = _compare(graph, box, axis, variation)
        if bounds is not None:
            return bounds
    return _unknown(condition)


def _unknown(condition: int) -> Bounds:
    return Bounds(Interval(), Interval(), condition)


_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


def _within(
    graph: Graph, condition: int, hull: Hull, variation: Callable[[int], Variation]
) -> Bounds:
    """Return the bounds of a comparison that has a hull."""
    found: list[int] = []
    some = (hull.first, "least", "start"), (hull.stop, "greatest", "stop")
    sure = (hull.sure_first, "greatest", "start"), (hull.sure_stop, "least", "stop")
    for each, end, bounds in (*some, *sure):
        varies = variation(each)
        if varies is Variation.BEYOND:
            return _unknown(condition)
        found.append(each if varies is Variation.NONE else graph.add(Extreme(each, end, bounds)))
    return Bounds(Interval(*found[:2]), Interval(*found[2:]), None)


def negated(graph: Graph, condition: int) -> int | None:
    """Return a condition's negation with `not` pushed one step inwards, None if it has no such form."""
    box = graph[condition]
    if not isinstance(box, Pointwise):
        return None
    if box.operator in _NEGATED:
        return graph.pointwise(_NEGATED[box.operator], *box.operands)
    if box.operator == "not":
        return box.operands[0]
    if box.operator in ("and", "or"):
        sides = [graph.pointwise("not", each) for each in box.operands]
        return graph.pointwise("or" if box.operator == "and" else "and", *sides)
    return None


def _both(graph: Graph, left: Bounds, right: Bounds) -> Bounds:
    met = _meet(graph, left.any, right.any)
    full = None
    if left.full is not None and right.full is not None:
        full = _meet(graph, left.full, right.full)
    residuals = [each for each in (left.residual, right.residual) if each is not None]
    residual = fold(lambda a, b: graph.pointwise("and", a, b), residuals) if residuals else None
    return Bounds(met, full, residual)


def _either(graph: Graph, condition: int, left: Bounds, right: Bounds) -> Bounds:
    hull = Interval(
        _join(graph, "min2", left.any.start, right.any.start),
        _join(graph, "max2", left.any.stop, right.any.stop),
    )
    if left.residual is not None or right.residual is not None:
        return Bounds(hull, Interval(), condition)
    if left.full is None or right.full is None:
        return Bounds(hull, left.full or right.full, None)
    # Two sure regions join into one only if they share an end; otherwise the left one is kept.
    if left.full.start == right.full.start:
        stop = _join(graph, "max2", left.full.stop, right.full.stop)
        return Bounds(hull, Interval(left.full.start, stop), None)
    if left.full.stop == right.full.stop:
        start = _join(graph, "min2", left.full.start, right.full.start)
        return Bounds(hull, Interval(start, left.full.stop), None)
    return Bounds(hull, left.full, None)


def _meet(graph: Graph, left: Interval, right: Interval) -> Interval:
    return Interval(
        _tighter(graph, "max2", left.start, right.start),
        _tighter(graph, "min2", left.stop, right.stop),
    )


def _tighter(graph: Graph, operator: str, a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return a if a == b else graph.pointwise(operator, a, b)


def _join(graph: Graph, operator: str, a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return None
    return a if a == b else graph.pointwise(operator, a, b)


# --- affine comparisons ---------------------------------------------------------------------------


def _compare(
    graph: Graph, box: Pointwise, axis: str, variation: Callable[[int], Variation]
) -> Bounds | None:
    left, right = (affine_form(graph, each, axis, variation) for each in box.operands)
    if left is None or right is None:
        return None
    difference = left.plus(right, -1)  # compared with 0
    if axis not in dict(difference.indices):
        return None
    if box.operator == "eq":
        below = _at_most(graph, difference, axis)
        above = _at_most(graph, scaled(difference, -1), axis)
        return _both(graph, below, above)
    if box.operator in ("gt", "ge"):
        difference = scaled(difference, -1)
    if box.operator in ("lt", "gt"):
        difference = difference.plus(Affine(constant=1), 1)
    return _at_most(graph, difference, axis)


def _at_most(graph: Graph, difference: Affine, axis: str) -> Bounds:
    """Return the bounds of: coefficient * axis + rest <= 0.

    Both ends are one floor division of an affine form that is negative only where the end itself
    lies before the axis's start, so that a division rounding to zero gives the same loop.
    """
    coefficient = dict(difference.indices)[axis]
    rest = difference.plus(Affine(indices=((axis, coefficient),)), -1)
    if coefficient > 0:  # axis < floor(-rest / c) + 1 = floor((c - rest) / c)
        stop = scaled(rest, -1).plus(Affine(constant=coefficient), 1)
        last, first = (
            _quotient(graph, stop, coefficient, low=low, bounds="stop") for low in (False, True)
        )
        return Bounds(Interval(None, last), Interval(None, first), None)
    # axis >= ceil(rest / |c|) = floor((rest + |c| - 1) / |c|)
    start = rest.plus(Affine(constant=-coefficient - 1), 1)
    first, last = (
        _quotient(graph, start, -coefficient, low=low, bounds="start") for low in (True, False)
    )
    return Bounds(Interval(first, None), Interval(last, None), None)


def _quotient(graph: Graph, affine: Affine, by: int, *, low: bool, bounds: str) -> int:
    value = _extreme(graph, affine, low=low, bounds=bounds)
    return value if by == 1 else graph.pointwise("floordiv", value, graph.constant(by))


def _extreme(graph: Graph, affine: Affine, *, low: bool, bounds: str) -> int:
    """Return the least (or greatest) value of an affine form over the tile, as a box."""
    terms = [
        (graph.add(Edge(axis, "first" if (coefficient > 0) == low else "last")), coefficient)
        for axis, coefficient in affine.indices
    ]
    opposite = {"start": "stop", "stop": "start"}[bounds]
    terms += [
        (
            graph.add(
                Extreme(
                    box,
                    "least" if (coefficient > 0) == low else "greatest",
                    bounds if coefficient > 0 else opposite,
                )
            ),
            coefficient,
        )
        for box, coefficient in affine.varying
    ]
    return signed_sum(graph, [*terms, *affine.uniform], affine.constant)
