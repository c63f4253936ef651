"""Normalised exponentials as exponentials of one difference: exp(s - m) / l becomes exp(s - (m + log l)).

In: a graph and its outputs. Out: equal outputs in which what divides an exponential along fewer axes has
joined its exponent. A backward then keeps one number a row where it would keep two, and its weights are
again a function of one element and one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from napkin.algebra.signs import is_nonnegative
from napkin.diagram import (
    Gather,
    Graph,
    Leaf,
    Pointwise,
    Reduce,
    operands_of,
    topological,
)
from napkin.language.errors import InternalError
from napkin.operators import Kind


@dataclass(frozen=True, slots=True)
class Weighted:
    """The outputs rewritten; `origin` leads from a rewritten box to the one that has its value before."""

    outputs: tuple[int, ...]
    origin: Mapping[int, int]


def join_weights(graph: Graph, outputs: Sequence[int]) -> Weighted:
    """Return the outputs with every normalised exponential joined; new boxes go into the graph."""
    new: dict[int, int] = {}
    origin: dict[int, int] = {}
    for each in topological(graph, outputs):
        box = graph[each]
        joined = _join_quotient(graph, box, new, origin)
        new[each] = _rebuilt(graph, each, new) if joined is None else joined
        origin[new[each]] = each
    return Weighted(tuple(new[each] for each in outputs), origin)


def _join_quotient(
    graph: Graph, box: object, new: Mapping[int, int], origin: dict[int, int]
) -> int | None:
    """Return a quotient as a joined exponential, and note where its row comes from."""
    if not isinstance(box, Pointwise) or box.operator != "div":
        return None
    left, right = box.operands
    factors = _factors(graph, left)
    for place, factor in enumerate(factors):
        if is_weight(graph, new[factor], new[right]):
            row = joined_row(graph, new[factor], new[right])
            origin[row] = _row_before(graph, new[factor], new[right], right, origin)
            total = join_weight(graph, new[factor], new[right])
            for other in (*factors[:place], *factors[place + 1 :]):
                total = graph.pointwise("mul", total, new[other])
            return total
    return None


def _factors(graph: Graph, each: int) -> list[int]:
    box = graph[each]
    if isinstance(box, Pointwise) and box.operator == "mul":
        return [factor for operand in box.operands for factor in _factors(graph, operand)]
    return [each]


def is_weight(graph: Graph, exponential: int, divisor: int) -> bool:
    """Return whether an exponential is divided by a reduced number that cannot be negative, once a row."""
    box, by = graph[exponential], graph[divisor]
    if not isinstance(box, Pointwise) or box.operator != "exp" or by.kind is not Kind.FLOAT:
        return False
    if not set(by.axes) <= set(box.axes) or not is_nonnegative(graph, divisor):
        return False
    if len(by.axes) == len(box.axes) and _difference(graph, exponential, divisor)[1] is None:
        return False
    return any(isinstance(graph[each], Reduce) for each in topological(graph, [divisor]))


def join_weight(graph: Graph, exponential: int, divisor: int) -> int:
    """Return exp(s - m) / l as exp(s - (m + log l))."""
    left, _ = _difference(graph, exponential, divisor)
    row = joined_row(graph, exponential, divisor)
    return graph.pointwise("exp", graph.pointwise("sub", left, row))


def joined_row(graph: Graph, exponential: int, divisor: int) -> int:
    """Return m + log l of exp(s - m) / l, and log l of exp(s) / l."""
    _, right = _difference(graph, exponential, divisor)
    logarithm = graph.pointwise("log", divisor)
    return logarithm if right is None else graph.pointwise("add", right, logarithm)


def _row_before(
    graph: Graph, exponential: int, divisor: int, before: int, origin: Mapping[int, int]
) -> int:
    """Return a joined row of the rewritten graph, whose divisor was `before`, as it was before."""
    _, right = _difference(graph, exponential, divisor)
    logarithm = graph.pointwise("log", before)
    return logarithm if right is None else graph.pointwise("add", origin[right], logarithm)


def _difference(graph: Graph, exponential: int, divisor: int) -> tuple[int, int | None]:
    """Return (s, m) of exp(s - m) if m is a row as its divisor is, else the exponent alone."""
    (exponent,) = operands_of(graph[exponential])
    box = graph[exponent]
    if isinstance(box, Pointwise) and box.operator == "sub":
        left, right = box.operands
        if set(graph[right].axes) <= set(graph[divisor].axes):
            return left, right
    return exponent, None


def _rebuilt(graph: Graph, each: int, new: Mapping[int, int]) -> int:
    box = graph[each]
    if isinstance(box, Leaf):
        return each
    operands = [new[operand] for operand in operands_of(box)]
    match box:
        case Pointwise():
            return graph.pointwise(box.operator, *operands)
        case Reduce():
            return graph.reduce(box.operator, operands, box.over)
        case Gather():
            return graph.gather(operands[0], operands[1:])
        case _:
            raise InternalError(f"no diagram holds this: {box}")
