"""Masks as loop bounds: which chunks of a stream matter to a tile, and which need no mask.

Two questions, both answered from the boxes alone:
- `find_condition`: is there a condition without which a chunk contributes only units? (A mask that sends
  scores to -inf does so through any exponential; one that sends weights to 0 does so directly.)
- `interval`: where along the stream can the condition hold for some element of a tile (`any`), and where
  does it hold for all of them (`full`)? Affine comparisons of indices, sizes and integers give bounds by
  interval arithmetic; what is not affine stays as a residual condition inside them.

Bounds are boxes over `Edge` leaves, the first and last index of each axis in the tile. See docs/algebra.md,
"Masks as bounds".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce as fold
from math import inf

from napkin.algebra.signs import is_nonnegative
from napkin.algebra.states import Accumulator
from napkin.diagram import (
    Constant,
    Edge,
    Graph,
    Index,
    Input,
    Pointwise,
    Reduce,
    operands_of,
    topological,
)
from napkin.operators import POINTWISE, REDUCTIONS, Kind

Number = float | int | bool


# --- what a chunk contributes where a condition fails ---------------------------------------------


def find_condition(graph: Graph, accumulators: Sequence[Accumulator], axis: str) -> int | None:
    """Return a condition whose failure makes every accumulator's chunk a unit, or None.

    Several such conditions are joined with `and`; each skips on its own.
    """
    roots = [factor for each in accumulators for factor in each.factors]
    conditions: list[int] = []
    for each in topological(graph, roots):
        box = graph[each]
        if isinstance(box, Pointwise) and box.operator == "where":
            condition = box.operands[0]
            carries = axis in graph[condition].axes and condition not in conditions
            if carries and all(vanishes(graph, acc, condition) for acc in accumulators):
                conditions.append(condition)
    if not conditions:
        return None
    return fold(lambda a, b: graph.pointwise("and", a, b), conditions)


def vanishes(
    graph: Graph, accumulator: Accumulator, condition: int, zero_filled: str | None = None
) -> bool:
    """Return whether the chunk is the unit wherever the condition is false.

    With `zero_filled`, arrays that carry that axis are taken to read 0 there: loads past an array's end.
    """
    values = _values_without(graph, accumulator.factors, condition, zero_filled)
    known = [values[factor] for factor in accumulator.factors]
    unit = REDUCTIONS[accumulator.operator].unit
    if accumulator.operator == "sum":
        return any(value == 0 for value in known if value is not None)
    return known[0] is not None and known[0] == unit


def _values_without(
    graph: Graph, roots: Sequence[int], condition: int, zero_filled: str | None
) -> dict[int, Number | None]:
    """Return what is known of every box where the condition is false (None: nothing)."""
    values: dict[int, Number | None] = {}
    for each in topological(graph, roots):
        box = graph[each]
        if each == condition:
            values[each] = False
        elif isinstance(box, Constant):
            values[each] = box.value
        elif isinstance(box, Input) and zero_filled in box.axes:
            values[each] = 0.0
        elif isinstance(box, Pointwise):
            values[each] = _known_result(graph, box, values)
        elif isinstance(box, Reduce) and box.operator == "sum":
            zero = any(values[i] == 0 for i in box.operands if values[i] is not None)
            values[each] = 0.0 if zero else None
        else:
            values[each] = None
    return values


def _known_result(
    graph: Graph, box: Pointwise, values: dict[int, Number | None]
) -> Number | None:
    known = [values[i] for i in box.operands]
    if box.operator == "where":
        return _known_choice(known)
    if all(value is not None for value in known):
        return POINTWISE[box.operator].numpy(*known).item()  # type: ignore[no-any-return]
    return _ABSORBING[box.operator](graph, box, known) if box.operator in _ABSORBING else None


def _known_choice(known: list[Number | None]) -> Number | None:
    chosen, yes, no = known
    if chosen is None:
        return yes if yes == no else None
    return yes if chosen else no


def _absorb_add(graph: Graph, box: Pointwise, known: list[Number | None]) -> Number | None:
    return -inf if -inf in known else None


def _absorb_sub(graph: Graph, box: Pointwise, known: list[Number | None]) -> Number | None:
    return -inf if known[0] == -inf else None


def _absorb_mul(graph: Graph, box: Pointwise, known: list[Number | None]) -> Number | None:
    for value, other in ((known[0], box.operands[1]), (known[1], box.operands[0])):
        if value is not None and (value == 0 or (value == -inf and is_nonnegative(graph, other))):
            return value
    return None


def _absorb_div(graph: Graph, box: Pointwise, known: list[Number | None]) -> Number | None:
    value = known[0]
    if value == 0 or (value == -inf and is_nonnegative(graph, box.operands[1])):
        return value
    return None


def _absorb_and(graph: Graph, box: Pointwise, known: list[Number | None]) -> Number | None:
    return False if any(value is not None and not value for value in known) else None


def _absorb_min(graph: Graph, box: Pointwise, known: list[Number | None]) -> Number | None:
    return -inf if -inf in known else None


_ABSORBING: dict[str, Callable[[Graph, Pointwise, list[Number | None]], Number | None]] = {
    "add": _absorb_add,
    "sub": _absorb_sub,
    "mul": _absorb_mul,
    "div": _absorb_div,
    "and": _absorb_and,
    "min2": _absorb_min,
}


# --- where a condition holds ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval:
    """Positions `[start, stop)` of the stream as boxes; None is no bound."""

    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the condition may hold, where its affine part holds throughout, and what is left to test there.

    `full` is None if no region is sure. `residual` is a box, or None for true.
    """

    any: Interval
    full: Interval | None
    residual: int | None


def interval(
    graph: Graph, condition: int | None, axis: str, is_uniform: Callable[[int], bool]
) -> Bounds:
    """Return the bounds of a condition along an axis.

    `is_uniform(box)` says whether a box without indices has one value in a tile, so that it may stand in a
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
            return interval(graph, opened, axis, is_uniform)
        left, right = (interval(graph, each, axis, is_uniform) for each in box.operands)
        return _both(graph, left, right) if box.operator == "and" else _either(
            graph, condition, left, right
        )
    if isinstance(box, Pointwise) and box.operator in _COMPARISONS:
        bounds = _compare(graph, box, axis, is_uniform)
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
    """sum of coefficient * index over axes, plus coefficient * box over uniform boxes, plus a constant."""

    indices: tuple[tuple[str, int], ...]
    uniform: tuple[tuple[int, int], ...]
    constant: int

    def plus(self, other: _Affine, sign: int) -> _Affine:
        indices = dict(self.indices)
        for axis, coefficient in other.indices:
            indices[axis] = indices.get(axis, 0) + sign * coefficient
        uniform = dict(self.uniform)
        for box, coefficient in other.uniform:
            uniform[box] = uniform.get(box, 0) + sign * coefficient
        return _Affine(
            tuple((a, c) for a, c in indices.items() if c),
            tuple((b, c) for b, c in uniform.items() if c),
            self.constant + sign * other.constant,
        )


_MAX_COEFFICIENT = 4096


def _affine(graph: Graph, each: int, is_uniform: Callable[[int], bool]) -> _Affine | None:
    box = graph[each]
    if isinstance(box, Index):
        return _Affine(((box.axis, 1),), (), 0)
    if isinstance(box, Constant) and box.kind is Kind.INT:
        return _Affine((), (), int(box.value))
    if box.kind is not Kind.INT:
        return None
    if is_uniform(each):
        return _Affine((), ((each, 1),), 0)
    if not isinstance(box, Pointwise):
        return None
    parts = [_affine(graph, operand, is_uniform) for operand in operands_of(box)]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    if box.operator == "neg":
        return _scaled(known[0], -1)
    if box.operator in ("add", "sub"):
        return known[0].plus(known[1], 1 if box.operator == "add" else -1)
    if box.operator == "mul":
        for one, other in (known, known[::-1]):
            small = not one.indices and not one.uniform and abs(one.constant) <= _MAX_COEFFICIENT
            if small:
                return _scaled(other, one.constant)
    return None


def _scaled(affine: _Affine, factor: int) -> _Affine:
    return _Affine(
        tuple((axis, c * factor) for axis, c in affine.indices),
        tuple((box, c * factor) for box, c in affine.uniform),
        affine.constant * factor,
    )


def _compare(
    graph: Graph, box: Pointwise, axis: str, is_uniform: Callable[[int], bool]
) -> Bounds | None:
    left, right = (_affine(graph, each, is_uniform) for each in box.operands)
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
        difference = difference.plus(_Affine((), (), 1), 1)
    return _at_most(graph, difference, axis)


def _at_most(graph: Graph, difference: _Affine, axis: str) -> Bounds:
    """Return the bounds of: coefficient * axis + rest <= 0."""
    coefficient = dict(difference.indices)[axis]
    rest = difference.plus(_Affine(((axis, coefficient),), (), 0), -1)
    limits = []
    for easiest in (True, False):
        value = _extreme(graph, rest, low=easiest)
        negated = graph.pointwise("neg", value)
        if coefficient > 0:  # axis <= floor(-rest / c)
            last = _divide(graph, negated, coefficient)
            limits.append(Interval(None, graph.pointwise("add", last, graph.constant(1))))
        else:  # axis >= ceil(rest / |c|) = -floor(-rest / |c|)
            first = graph.pointwise("neg", _divide(graph, negated, -coefficient))
            limits.append(Interval(first, None))
    return Bounds(limits[0], limits[1], None)


def _divide(graph: Graph, value: int, by: int) -> int:
    return value if by == 1 else graph.pointwise("floordiv", value, graph.constant(by))


def _extreme(graph: Graph, affine: _Affine, *, low: bool) -> int:
    """Return the least (or greatest) value of an affine form over the tile, as a box."""
    terms: list[int] = []
    for axis, coefficient in affine.indices:
        end = "first" if (coefficient > 0) == low else "last"
        terms.append(_term(graph, graph.add(Edge(axis, end)), coefficient))
    terms += [_term(graph, box, coefficient) for box, coefficient in affine.uniform]
    if affine.constant or not terms:
        terms.append(graph.constant(affine.constant))
    return fold(lambda a, b: graph.pointwise("add", a, b), terms)


def _term(graph: Graph, box: int, coefficient: int) -> int:
    if coefficient == 1:
        return box
    if coefficient == -1:
        return graph.pointwise("neg", box)
    return graph.pointwise("mul", graph.constant(coefficient), box)
