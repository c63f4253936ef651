"""Boxes at other positions of some of their axes, or with more axes.

In: a graph, boxes, and the position for each axis: another label's index, or any whole number. Out: the boxes
at those positions; arrays become reads there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napkin.diagram import Gather, Graph, Index, Input, Pointwise, Reduce, operands_of
from napkin.language.errors import InternalError
from napkin.operators import Kind


def relabel(graph: Graph, roots: Sequence[int], positions: Mapping[str, int]) -> tuple[int, ...]:
    """Return boxes at other positions of some axes; arguments become reads at the positions.

    The positions' own axes must be bound by no reduction inside.
    """
    wanted = [(each, _free(graph, each, tuple(positions.items()))) for each in roots]
    new: dict[tuple[int, Positions], int] = {}
    pending = list(wanted)
    while pending:
        each, own = pending[-1]
        box = graph[each]
        reads = box.indices if isinstance(box, Gather) else operands_of(box)
        # A label that a reduction binds is another one inside: only free axes are led on.
        inner = {operand: _free(graph, operand, own) for operand in reads}
        waiting = [one for one in inner.items() if one not in new]
        if waiting and own:
            pending += waiting
            continue
        pending.pop()
        found = {
            operand: new[one] for operand, left in inner.items() if (one := (operand, left)) in new
        }
        new[each, own] = _relabelled(graph, each, dict(own), found) if own else each
    return tuple(new[one] for one in wanted)


Positions = tuple[tuple[str, int], ...]


def _free(graph: Graph, each: int, positions: Positions) -> Positions:
    return tuple(pair for pair in positions if pair[0] in graph[each].axes)


def _relabelled(
    graph: Graph, each: int, positions: Mapping[str, int], new: Mapping[int, int]
) -> int:
    box = graph[each]
    match box:
        case Input():
            indices = [
                positions[axis] if axis in positions else graph.add(Index(axis))
                for axis in box.axes
            ]
            return graph.gather(each, indices)
        case Index():
            return positions[box.axis]
        case Gather():
            return graph.gather(box.array, [new[index] for index in box.indices])
        case Pointwise():
            return graph.pointwise(box.operator, *(new[operand] for operand in box.operands))
        case Reduce():
            return graph.reduce(box.operator, [new[operand] for operand in box.operands], box.over)
        case _:
            raise InternalError(f"no box to give other labels: {box}")


def woven(graph: Graph, axes: Sequence[str], each: int) -> int:
    """Return a number's box, alike along the axes that it lacks."""
    zero = graph.constant(0.0 if graph[each].kind is Kind.FLOAT else 0)
    for axis in axes:
        if axis not in graph[each].axes:
            everywhere = graph.pointwise("ge", graph.add(Index(axis)), graph.constant(0))
            each = graph.pointwise("where", everywhere, each, zero)
    return each
