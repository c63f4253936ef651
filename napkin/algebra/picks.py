"""Sums that pick one position: `sum[x](where(x == q, A[x], 0))` is `A[q]`.

In: a diagram. Out: the diagram without such sums, which read what they pick: the gradient of an array that
is read at other labels' positions is one. Past the summed axis's end nothing is picked. What is picked must
be elementwise in arrays, as it is once the sums inside it are kept: of a sum, all would be computed again
under other labels.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce as fold

from napkin.algebra.naming import diagram_names
from napkin.algebra.relabel import relabel
from napkin.diagram import (
    Constant,
    Diagram,
    Graph,
    Index,
    Leaf,
    Pointwise,
    Reduce,
    Size,
    operands_of,
    substitute,
    topological,
    verify,
)
from napkin.language.canonical import canonicalise
from napkin.language.source import NOWHERE
from napkin.operators import Kind


def without_picks(diagram: Diagram) -> Diagram:
    """Return the diagram with every sum that picks one position replaced by what it picks."""
    if not any(isinstance(box, Pointwise) and box.operator == "eq" for box in diagram.boxes):
        return diagram
    graph = Graph(diagram.boxes)
    roots = [each.box for each in diagram.outputs]
    found = {
        each: read
        for each in topological(graph, roots)
        if (read := _picked(graph, each)) is not None
    }
    if not found:
        return diagram
    boxes = substitute(graph, roots, found)
    outputs = {each.name: box for each, box in zip(diagram.outputs, boxes, strict=True)}
    named = {
        name: new
        for each, name in diagram_names(diagram).items()
        for new in substitute(graph, [each], found)
        if name not in outputs and not isinstance(graph[new], Leaf)
    }
    spans = [*diagram.spans, *[NOWHERE] * len(graph)][: len(graph)]
    taken = {*diagram.axes, *(each.name for each in diagram.arguments)}
    canonical = canonicalise(
        graph, spans, outputs=outputs, assigned={**named, **outputs}, taken=taken
    )
    return verify(
        replace(
            diagram,
            outputs=tuple(
                replace(each, box=canonical.ids[box])
                for each, box in zip(diagram.outputs, boxes, strict=True)
            ),
            boxes=canonical.boxes,
            names=canonical.names,
            spans=canonical.spans,
        )
    )


def _picked(graph: Graph, each: int) -> int | None:
    """Return what a sum picks, if it picks one position of one of its axes."""
    box = graph[each]
    if not isinstance(box, Reduce) or box.operator != "sum":
        return None
    for place, operand in enumerate(box.operands):
        pick = _pick(graph, operand, box.over)
        if pick is None:
            continue
        (axis, at), chosen = pick
        factors = [chosen, *box.operands[:place], *box.operands[place + 1 :]]
        if all(_is_elementwise(graph, factor, axis) for factor in factors):
            return _read(graph, factors, axis, at, [one for one in box.over if one != axis])
    return None


def _pick(graph: Graph, each: int, over: tuple[str, ...]) -> tuple[tuple[str, str], int] | None:
    """Return the summed axis, the label at which it is picked, and what is chosen there, else None."""
    box = graph[each]
    if not isinstance(box, Pointwise) or box.operator != "where":
        return None
    condition, chosen, other = box.operands
    test = graph[condition]
    if graph[other] != Constant(0.0, Kind.FLOAT) or not isinstance(test, Pointwise):
        return None
    sides = [graph[operand] for operand in test.operands]
    labels = [side.axis for side in sides if isinstance(side, Index)]
    if test.operator != "eq" or len(set(labels)) != 2:
        return None
    summed = [axis for axis in labels if axis in over]
    if len(summed) != 1:
        return None
    (at,) = (label for label in labels if label != summed[0])
    return (summed[0], at), chosen


def _is_elementwise(graph: Graph, each: int, axis: str) -> bool:
    """Return whether a box takes each position of an axis by itself, without a reduction."""
    if axis not in graph[each].axes:
        return True
    if isinstance(graph[each], Reduce):
        return False
    return all(_is_elementwise(graph, operand, axis) for operand in operands_of(graph[each]))


def _read(graph: Graph, factors: list[int], axis: str, at: str, rest: list[str]) -> int:
    """Return the factors' product at another label's position, summed over the axes that are left."""
    moved = list(relabel(graph, factors, {axis: at}))
    if rest:
        value = graph.reduce("sum", moved, rest)
    else:
        value = fold(lambda a, b: graph.pointwise("mul", a, b), moved)
    inside = graph.pointwise("lt", graph.add(Index(at)), graph.add(Size(axis)))
    return graph.pointwise("where", inside, value, graph.constant(0.0))
