"""Sums and products of boxes taken apart: the terms and factors that fewer axes carry.

In: a graph and a box. Out: its parts as boxes, what they make together being equal to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf

from napkin.algebra.signs import is_nonnegative
from napkin.diagram import Constant, Graph, Pointwise
from napkin.operators import Kind


def row_term(graph: Graph, each: int, axes: Collection[str]) -> tuple[int, int] | None:
    """Return (rest, row) with each = rest + row, where row carries none of the axes; None without a row.

    It passes a `where` whose other branch is -inf: -inf + row is -inf.
    """
    box = graph[each]
    if isinstance(box, Pointwise) and box.operator == "where":
        condition, yes, no = box.operands
        parts = row_term(graph, yes, axes) if graph[no] == Constant(-inf, Kind.FLOAT) else None
        return parts and (graph.pointwise("where", condition, parts[0], no), parts[1])
    terms = _terms(graph, each, positive=True)
    rows = [term for term in terms if not set(axes) & set(graph[term[0]].axes)]
    rest = [term for term in terms if term not in rows]
    if not rows or not rest or box.kind is not Kind.FLOAT:
        return None
    return _total(graph, rest), _total(graph, rows)


def _terms(graph: Graph, each: int, *, positive: bool) -> list[tuple[int, bool]]:
    """Return the terms of a sum with their signs."""
    box = graph[each]
    if isinstance(box, Pointwise) and box.kind is Kind.FLOAT and box.operator in ("add", "sub"):
        left, right = box.operands
        same = box.operator == "add"
        return [
            *_terms(graph, left, positive=positive),
            *_terms(graph, right, positive=positive == same),
        ]
    return [(each, positive)]


def _total(graph: Graph, terms: Sequence[tuple[int, bool]]) -> int:
    """Return the sum of signed terms, a positive one first."""
    first, *others = sorted(terms, key=lambda term: not term[1])
    total = first[0] if first[1] else graph.pointwise("neg", first[0])
    for each, positive in others:
        total = graph.pointwise("add" if positive else "sub", total, each)
    return total


def factors_of(graph: Graph, each: int) -> list[int]:
    """Return the factors of a product of numbers that are not whole; the box itself where it is none."""
    box = graph[each]
    if isinstance(box, Pointwise) and box.kind is Kind.FLOAT and box.operator == "mul":
        return [factor for operand in box.operands for factor in factors_of(graph, operand)]
    return [each]


def multiplied(graph: Graph, left: int, right: int) -> int:
    """Return the product, of two constants a constant."""
    one, other = graph[left], graph[right]
    if isinstance(one, Constant) and isinstance(other, Constant):
        return graph.constant(float(one.value) * float(other.value))
    return graph.pointwise("mul", left, right)


def split_scale(graph: Graph, each: int) -> tuple[int, int] | None:
    """Return (core, uniform) if the box is core times a uniform factor that is known to be positive."""
    box = graph[each]
    if not isinstance(box, Pointwise) or box.operator != "mul":
        return None
    for core, uniform in (box.operands, box.operands[::-1]):
        if not graph[uniform].axes and is_nonnegative(graph, uniform) and graph[core].axes:
            return core, uniform
    return None
