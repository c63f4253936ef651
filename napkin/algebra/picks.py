"""Sums that pick one position: `sum[x](where(x == q + 1, A[x], 0))` is `A[q + 1]`.

In: a diagram. Out: the diagram without such sums, which read what they pick: the gradient of an array that
is read at other labels' positions is one. Past the summed axis's ends nothing is picked. What is picked must
be elementwise in arrays, as it is once the sums inside it are kept: of a sum, all would be computed again
under other labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce as fold

from napkin.algebra.naming import diagram_names
from napkin.algebra.relabel import relabel
from napkin.diagram import (
    Constant,
    Diagram,
    Gather,
    Graph,
    Index,
    Input,
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
    added = {each.box: each.added for each in diagram.outputs if each.added}
    found = {
        each: read
        for each in topological(graph, roots)
        if (read := _picked(graph, each)) is not None
        and _has_parts(graph, read, added.get(each, ()))
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


def _has_parts(graph: Graph, each: int, added: tuple[str, ...]) -> bool:
    """Return whether a box is still a sum over the axes along which its parts are added up."""
    box = graph[each]
    return not added or (isinstance(box, Reduce) and set(added) <= set(box.over))


def _picked(graph: Graph, each: int) -> int | None:
    """Return what a sum picks, if it picks one position of one of its axes."""
    box = graph[each]
    if not isinstance(box, Reduce) or box.operator != "sum":
        return None
    for place, operand in enumerate(box.operands):
        pick = _pick(graph, operand, box.over)
        if pick is None:
            continue
        factors = [pick.chosen, *box.operands[:place], *box.operands[place + 1 :]]
        if all(_is_elementwise(graph, factor, pick.axis) for factor in factors):
            return _read(graph, factors, pick, [one for one in box.over if one != pick.axis])
    return None


@dataclass(frozen=True, slots=True)
class _Pick:
    """The axis of which one position is picked, the position's box, and what is chosen there."""

    axis: str
    position: int
    chosen: int


def _pick(graph: Graph, each: int, over: tuple[str, ...]) -> _Pick | None:
    """Return what a `where` picks of one of the summed axes, None if it picks nothing."""
    box = graph[each]
    if not isinstance(box, Pointwise) or box.operator != "where":
        return None
    condition, chosen, other = box.operands
    test = graph[condition]
    if graph[other] != Constant(0.0, Kind.FLOAT) or not isinstance(test, Pointwise):
        return None
    if test.operator != "eq":
        return None
    for side, position in (test.operands, test.operands[::-1]):
        index = graph[side]
        if (
            isinstance(index, Index)
            and index.axis in over
            and _is_known(graph, position, index.axis)
        ):
            return _Pick(index.axis, position, chosen)
    return None


def _is_known(graph: Graph, position: int, axis: str) -> bool:
    """Return whether a position is computed from labels and lengths alone, and not from the picked axis."""
    below = [graph[each] for each in topological(graph, [position])]
    if any(isinstance(each, Input | Gather | Reduce) for each in below):
        return False
    return axis not in graph[position].axes and bool(graph[position].axes)


def _is_elementwise(graph: Graph, each: int, axis: str) -> bool:
    """Return whether a box takes each position of an axis by itself, without a reduction."""
    if axis not in graph[each].axes:
        return True
    if isinstance(graph[each], Reduce):
        return False
    return all(_is_elementwise(graph, operand, axis) for operand in operands_of(graph[each]))


def _read(graph: Graph, factors: list[int], pick: _Pick, rest: list[str]) -> int:
    """Return the factors' product at the picked position, summed over the axes that are left."""
    moved = list(relabel(graph, factors, {pick.axis: pick.position}))
    inside = _inside(graph, pick)
    nothing = graph.constant(0.0)
    is_outer = not set(graph[pick.position].axes) & set(rest)
    if rest and not is_outer:
        moved[0] = graph.pointwise("where", inside, moved[0], nothing)
    if rest:
        value = graph.reduce("sum", moved, rest)
    else:
        value = fold(lambda a, b: graph.pointwise("mul", a, b), moved)
    return graph.pointwise("where", inside, value, nothing) if is_outer else value


def _inside(graph: Graph, pick: _Pick) -> int:
    """Return whether the picked position is one of the axis's."""
    inside = graph.pointwise("lt", pick.position, graph.add(Size(pick.axis)))
    if isinstance(graph[pick.position], Index):
        return inside
    return graph.pointwise("and", graph.pointwise("ge", pick.position, graph.constant(0)), inside)
