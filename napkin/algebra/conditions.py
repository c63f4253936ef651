"""Conditions without which a chunk of a stream contributes nothing.

In: the boxes that accumulators fold. Out: the condition whose failure makes every chunk a unit, if there
is one: a mask that sends scores to -inf does so through any exponential, one that sends weights to 0
does so at once. Nothing is tried with numbers: what follows from a condition's failure is carried through
the boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce as fold
from math import inf, isfinite

from napkin.algebra.signs import is_bounded_above, is_nonnegative
from napkin.algebra.states import Accumulator
from napkin.diagram import Box, Constant, Graph, Input, Pointwise, Reduce, operands_of, topological
from napkin.operators import POINTWISE, REDUCTIONS

Number = float | int | bool

_POLES = ("div", "rsqrt", "log", "log2", "pow")  # infinite (or nothing) at a zero last operand


def find_condition(graph: Graph, accumulators: Sequence[Accumulator], axis: str) -> int | None:
    """Return a condition whose failure makes every accumulator's chunk a unit, or None.

    Several such conditions are joined with `and`; each skips on its own.
    """
    roots = [factor for each in accumulators for factor in each.factors]
    conditions: dict[int, None] = {}
    for each in topological(graph, roots):
        box = graph[each]
        if isinstance(box, Pointwise) and box.operator == "where":
            if axis not in graph[box.operands[0]].axes:
                continue
            for condition, failing in _guards(graph, box.operands[0]):
                if all(_adds_nothing(graph, acc, failing, None) for acc in accumulators):
                    conditions[condition] = None
    if not conditions:
        return None
    return fold(lambda a, b: graph.pointwise("and", a, b), conditions)


def _guards(graph: Graph, condition: int) -> tuple[tuple[int, dict[int, Number | None]], ...]:
    """Return a condition and its negation, each with what is known where it fails."""
    return (
        (condition, {condition: False}),
        (graph.pointwise("not", condition), {condition: True}),
    )


def vanishes(
    graph: Graph, accumulator: Accumulator, condition: int, zero_filled: str | None = None
) -> bool:
    """Return whether the chunk is the unit wherever the condition is false.

    With `zero_filled`, arrays that carry that axis are taken to read 0 there: loads past an array's
    end.
    """
    return _adds_nothing(graph, accumulator, {condition: False}, zero_filled)


def poles(graph: Graph, each: int, condition: int, zero_filled: str) -> tuple[int, ...]:
    """Return what may make a box infinite where the condition is false: zero times it is not zero then.

    Arrays that carry `zero_filled` are taken to read 0 there, past their end, whatever lies within.
    """
    values = _known_values(graph, [each], {condition: False}, zero_filled)
    pending, found = [each], dict[int, bool]()
    while pending:
        one = pending.pop()
        if one in found or zero_filled not in graph[one].axes:
            continue
        value, box = values[one], graph[one]
        found[one] = _has_pole(graph, box, zero_filled) if value is None else not isfinite(value)
        if value is None and not found[one]:
            pending += operands_of(box)
    return tuple(sorted(one for one, is_pole in found.items() if is_pole))


def _has_pole(graph: Graph, box: Box, axis: str) -> bool:
    """Return whether a box may leave the numbers at what its last operand is past the axis's end."""
    if not isinstance(box, Pointwise) or axis not in graph[box.operands[-1]].axes:
        return False  # what it has there it has within
    last = box.operands[-1]
    if box.operator not in ("exp", "exp2"):
        return box.operator in _POLES
    # A maximum over the axis bounds only what lies within it.
    below = (graph[i] for i in topological(graph, [last]))
    maxima = any(isinstance(one, Reduce) and axis in one.over for one in below)
    return maxima or not is_bounded_above(graph, last)


def is_zero_where(graph: Graph, each: int, condition: int, held: bool) -> bool:
    """Return whether a box is 0 wherever the condition has that truth value."""
    value = _known_values(graph, [each], {condition: held}, None)[each]
    return value is not None and value == 0


def _adds_nothing(
    graph: Graph,
    accumulator: Accumulator,
    known: Mapping[int, Number | None],
    zero_filled: str | None,
) -> bool:
    values = _known_values(graph, accumulator.factors, known, zero_filled)
    folded = [values[factor] for factor in accumulator.factors]
    if accumulator.operator == "sum":
        return any(value == 0 for value in folded if value is not None)
    return folded[0] is not None and folded[0] == REDUCTIONS[accumulator.operator].unit


def _known_values(
    graph: Graph,
    roots: Sequence[int],
    known: Mapping[int, Number | None],
    zero_filled: str | None,
) -> dict[int, Number | None]:
    """Return what follows for every box from the values of some (None: nothing)."""
    values: dict[int, Number | None] = {}
    judged = {zero_filled, *(axis for each in known for axis in graph[each].axes)}
    for each in topological(graph, roots):
        box = graph[each]
        if each in known:
            values[each] = known[each]
        elif isinstance(box, Constant):
            values[each] = box.value
        elif isinstance(box, Input) and zero_filled in box.axes:
            values[each] = 0.0
        elif isinstance(box, Pointwise):
            values[each] = _known_result(graph, box, values)
        elif isinstance(box, Reduce) and box.operator == "sum" and not judged & set(box.over):
            # A sum over an axis that is judged mixes positions that are known with others.
            zero = any(values[i] == 0 for i in box.operands if values[i] is not None)
            values[each] = 0.0 if zero else None
        else:
            values[each] = None
    return values


def _known_result(graph: Graph, box: Pointwise, values: dict[int, Number | None]) -> Number | None:
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
