"""Sums over several axes as sums of partial sums, which several kernels can make.

In: a graph and boxes of it. Out: equal boxes. An adjoint of something small, such as a scalar, a slope of
each head or keys that several heads share, is a sum over many axes. One kernel streams one of them; what it
gives for each place of the others is an array to keep, if it is no larger than those that there are, and
is summed afterwards, in one order: no two runs differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from napkin.algebra.gradient.kept import Extents
from napkin.diagram import Graph, Leaf, Reduce, operands_of, substitute, topological


def split_sums(
    graph: Graph, roots: Iterable[int], given: Collection[int], extents: Extents
) -> dict[int, int]:
    """Return the roots, and the boxes behind them that are not given, with sums over one axis each."""
    new: dict[int, int] = {}
    for each in topological(graph, roots):
        box = graph[each]
        if each in given or isinstance(box, Leaf):
            new[each] = each
            continue
        (new[each],) = substitute(graph, [each], {i: new[i] for i in operands_of(box)})
        if isinstance(box, Reduce) and box.operator == "sum" and len(box.over) > 1:
            new[each] = _split(graph, new[each], extents)
    return new


def _split(graph: Graph, each: int, extents: Extents) -> int:
    """Return a sum as a sum of the smallest partial sums over its longest axes that may be kept."""
    box = graph[each]
    assert isinstance(box, Reduce)
    places = {axis: place for place, axis in enumerate(_carried(graph, box))}
    longest = sorted(box.over, key=lambda axis: (-extents.length(axis), -places[axis]))
    for count in range(1, len(longest)):
        inner, outer = longest[:count], longest[count:]
        if extents.is_small([axis for axis in places if axis not in inner]):
            partial = graph.reduce("sum", box.operands, inner)
            if len(graph[partial].axes) == len(places) - count:
                rest = graph.reduce("sum", [partial], outer)
                return _split(graph, rest, extents) if len(outer) > 1 else rest
    return each


def _carried(graph: Graph, box: Reduce) -> tuple[str, ...]:
    return tuple(dict.fromkeys(axis for each in box.operands for axis in graph[each].axes))
