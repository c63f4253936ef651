"""Masks as loop bounds: which chunks of a stream matter to a tile, and which need no mask.

`interval` answers from the boxes alone: where along the stream can a condition hold for some element of a
tile (`any`), and where does it hold for all of them (`full`)? Comparisons that are affine in the stream's
index give bounds by interval arithmetic; what is not affine stays as a residual condition inside them.
Everything else in them may be any whole number that does not vary along the stream: an index of another
axis, a length, what is read from data.

Bounds are boxes over `Edge` leaves, the first and last index of each axis in the tile, and over `Extreme`
boxes, the least and greatest value in the tile of a number that varies over it. See docs/algebra.md,
"Masks as bounds".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce as fold
from typing import TypeVar

from napkin.diagram import (
    Constant,
    Edge,
    Extreme,
    Graph,
    Index,
    Pointwise,
    State,
    operands_of,
    topological,
)
from napkin.operators import Kind


class Variation(Enum):
    """How a whole number varies over a tile: not at all, over what is held of it, over more than that."""

    NONE = "none"
    INSIDE = "inside"
    BEYOND = "beyond"


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


def interval(
    graph: Graph, condition: int | None, axis: str, variation: Callable[[int], Variation]
) -> Bounds:
    """Return the bounds of a condition along an axis.

    `variation(box)` says how a whole number varies over a tile, so that it or its ends may stand in a
    loop's bound.
    """
    if condition is None:
        return Bounds(Interval(), Interval(), None)
    box = graph[condition]
    if isinstance(box, Pointwise) and box.operator in ("and", "or", "not"):
        if box.operator == "not":
            opened = _negate(graph, box.operands[0])
            if opened is None:
                return _unknown(condition)
            return interval(graph, opened, axis, variation)
        left, right = (interval(graph, each, axis, variation) for each in box.operands)
        if box.operator == "and":
            return _both(graph, left, right)
        return _either(graph, condition, left, right)
    if isinstance(box, Pointwise) and box.operator in _COMPARISONS:
        bounds = _compare(graph, box, axis, variation)
        if bounds is not None:
            return bounds
    return _unknown(condition)


def _unknown(condition: int) -> Bounds:
    return Bounds(Interval(), Interval(), condition)


_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
_COMPARISONS = {"lt", "le", "gt", "ge", "eq"}


def _negate(graph: Graph, condition: int) -> int | None:
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


@dataclass(frozen=True, slots=True)
class _Affine:
    """Coefficients of indices by axis, of boxes (uniform in a tile, or varying over it), and a constant."""

    indices: tuple[tuple[str, int], ...] = ()
    uniform: tuple[tuple[int, int], ...] = ()
    varying: tuple[tuple[int, int], ...] = ()
    constant: int = 0

    def plus(self, other: _Affine, sign: int) -> _Affine:
        return _Affine(
            _sum(self.indices, other.indices, sign),
            _sum(self.uniform, other.uniform, sign),
            _sum(self.varying, other.varying, sign),
            self.constant + sign * other.constant,
        )

    @property
    def is_number(self) -> bool:
        """Whether it is a constant alone."""
        return not (self.indices or self.uniform or self.varying)


Key = TypeVar("Key", str, int)


def _sum(
    left: tuple[tuple[Key, int], ...], right: tuple[tuple[Key, int], ...], sign: int
) -> tuple[tuple[Key, int], ...]:
    total = dict(left)
    for key, coefficient in right:
        total[key] = total.get(key, 0) + sign * coefficient
    return tuple((key, coefficient) for key, coefficient in total.items() if coefficient)


_MAX_COEFFICIENT = 4096


def _affine(
    graph: Graph, each: int, axis: str, variation: Callable[[int], Variation]
) -> _Affine | None:
    """Return a box as an affine form in the axis's index, None if it is none."""
    box = graph[each]
    if isinstance(box, Index):
        return _Affine(indices=((box.axis, 1),))
    if isinstance(box, Constant) and box.kind is Kind.INT:
        return _Affine(constant=int(box.value))
    if box.kind is not Kind.INT:
        return None
    if variation(each) is Variation.NONE:
        return _Affine(uniform=((each, 1),))
    found = _affine_pointwise(graph, box, axis, variation) if isinstance(box, Pointwise) else None
    if (
        found is None
        and variation(each) is Variation.INSIDE
        and _is_known_before(graph, each, axis)
    ):
        return _Affine(varying=((each, 1),))
    return found


def _is_known_before(graph: Graph, each: int, axis: str) -> bool:
    """Return whether a number varies neither along the stream nor with its states."""
    below = [graph[i] for i in topological(graph, [each])]
    return not any(axis in box.axes or isinstance(box, State) for box in below)


def _affine_pointwise(
    graph: Graph, box: Pointwise, axis: str, variation: Callable[[int], Variation]
) -> _Affine | None:
    parts = [_affine(graph, operand, axis, variation) for operand in operands_of(box)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if box.operator == "neg":
        return _scaled(known[0], -1)
    if box.operator in ("add", "sub"):
        return known[0].plus(known[1], 1 if box.operator == "add" else -1)
    if box.operator == "mul":
        for one, other in (known, known[::-1]):
            if one.is_number and abs(one.constant) <= _MAX_COEFFICIENT:
                return _scaled(other, one.constant)
    return None


def _scaled(affine: _Affine, factor: int) -> _Affine:
    return _Affine(
        tuple((axis, c * factor) for axis, c in affine.indices),
        tuple((box, c * factor) for box, c in affine.uniform),
        tuple((box, c * factor) for box, c in affine.varying),
        affine.constant * factor,
    )


def _compare(
    graph: Graph, box: Pointwise, axis: str, variation: Callable[[int], Variation]
) -> Bounds | None:
    left, right = (_affine(graph, each, axis, variation) for each in box.operands)
    if left is None or right is None:
        return None
    difference = left.plus(right, -1)  # compared with 0
    if axis not in dict(difference.indices):
        return None
    if box.operator == "eq":
        below = _at_most(graph, difference, axis)
        above = _at_most(graph, _scaled(difference, -1), axis)
        return _both(graph, below, above)
    if box.operator in ("gt", "ge"):
        difference = _scaled(difference, -1)
    if box.operator in ("lt", "gt"):
        difference = difference.plus(_Affine(constant=1), 1)
    return _at_most(graph, difference, axis)


def isolate(graph: Graph, comparison: int, axis: str) -> int:
    """Return an affine comparison with the axis's index alone on one side: a row against a column.

    `q - x < w` compares a whole tile of differences; `x > q - w` two vectors. Anything else comes
    back as it is.
    """
    box = graph[comparison]
    if not isinstance(box, Pointwise) or box.operator not in _COMPARISONS | {"ne"}:
        return comparison

    def variation(each: int) -> Variation:
        return Variation.INSIDE if graph[each].axes else Variation.NONE

    sides = (_affine(graph, each, axis, variation) for each in box.operands)
    left, right = sides
    if left is None or right is None:
        return comparison
    difference = left.plus(right, -1)
    coefficient = dict(difference.indices).get(axis)
    if coefficient not in (1, -1):
        return comparison
    rest = difference.plus(_Affine(indices=((axis, coefficient),)), -1)
    # coefficient * axis + rest OP 0
    alone = _linear(graph, _scaled(rest, -coefficient))
    operator = box.operator if coefficient == 1 else _MIRRORED[box.operator]
    return graph.pointwise(operator, graph.add(Index(axis)), alone)


_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


def _linear(graph: Graph, affine: _Affine) -> int:
    """Return an affine form as a box."""
    terms = [(graph.add(Index(axis)), coefficient) for axis, coefficient in affine.indices]
    return _signed_sum(graph, [*terms, *affine.uniform, *affine.varying], affine.constant)


def _at_most(graph: Graph, difference: _Affine, axis: str) -> Bounds:
    """Return the bounds of: coefficient * axis + rest <= 0.

    Both ends are one floor division of an affine form that is negative only where the end itself
    lies before the axis's start, so that a division rounding to zero gives the same loop.
    """
    coefficient = dict(difference.indices)[axis]
    rest = difference.plus(_Affine(indices=((axis, coefficient),)), -1)
    if coefficient > 0:  # axis < floor(-rest / c) + 1 = floor((c - rest) / c)
        stop = _scaled(rest, -1).plus(_Affine(constant=coefficient), 1)
        last, first = (_quotient(graph, stop, coefficient, low=low) for low in (False, True))
        return Bounds(Interval(None, last), Interval(None, first), None)
    # axis >= ceil(rest / |c|) = floor((rest + |c| - 1) / |c|)
    start = rest.plus(_Affine(constant=-coefficient - 1), 1)
    first, last = (_quotient(graph, start, -coefficient, low=low) for low in (True, False))
    return Bounds(Interval(first, None), Interval(last, None), None)


def _quotient(graph: Graph, affine: _Affine, by: int, *, low: bool) -> int:
    value = _extreme(graph, affine, low=low)
    return value if by == 1 else graph.pointwise("floordiv", value, graph.constant(by))


def _extreme(graph: Graph, affine: _Affine, *, low: bool) -> int:
    """Return the least (or greatest) value of an affine form over the tile, as a box."""
    terms = [
        (graph.add(Edge(axis, "first" if (coefficient > 0) == low else "last")), coefficient)
        for axis, coefficient in affine.indices
    ]
    terms += [
        (graph.add(Extreme(box, "least" if (coefficient > 0) == low else "greatest")), coefficient)
        for box, coefficient in affine.varying
    ]
    return _signed_sum(graph, [*terms, *affine.uniform], affine.constant)


def _signed_sum(graph: Graph, terms: Sequence[tuple[int, int]], constant: int) -> int:
    """Return boxes by coefficients and a constant, what is added before what is taken away."""
    total: int | None = None
    for box, coefficient in sorted(terms, key=lambda term: term[1] < 0):
        size = graph.constant(abs(coefficient))
        value = box if abs(coefficient) == 1 else graph.pointwise("mul", size, box)
        if total is None:
            total = value if coefficient > 0 else graph.pointwise("neg", value)
        else:
            total = graph.pointwise("add" if coefficient > 0 else "sub", total, value)
    if total is None or constant == 0:
        return graph.constant(constant) if total is None else total
    operator = "add" if constant > 0 else "sub"
    return graph.pointwise(operator, total, graph.constant(abs(constant)))
