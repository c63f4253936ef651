"""What is read at computed positions, summed where it lies.

In: an array's axes with the positions at which it was read, and the adjoint of the read. Out: the adjoint of
the array. A position that is linear in a summed label and held within ends is taken by cases: at an end
everything beyond it adds up, whichever position it is; between the ends one label's position follows from the
others', so that `picks` can read it and no sum tries every position of the array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from napkin.algebra.affine import isolate
from napkin.diagram import Box, Graph, Index, Pointwise, Size, operands_of

_BEYOND = {"min2": "ge", "max2": "le"}
_WITHIN = {"min2": "lt", "max2": "gt"}


def at_positions(
    graph: Graph, positions: Sequence[tuple[str, int]], chosen: int, summed: Callable[[int], int]
) -> int:
    """Return, at each position of the axes, the sum of what is chosen there.

    `positions` pairs the array's axes with the boxes at which it was read; `summed` sums a box over the
    axes that the array lacks.
    """
    moved = [(axis, each) for axis, each in positions if graph[each] != Index(axis)]
    if not moved:
        return summed(chosen)
    (axis, position), *rest = moved

    def others(each: int) -> int:
        return at_positions(graph, rest, each, summed)

    return _at_position(graph, axis, _bounded(graph, axis, position), chosen, others)


def _at_position(
    graph: Graph, axis: str, position: int, chosen: int, summed: Callable[[int], int]
) -> int:
    """Return the sum of what is chosen where the position is the axis's own."""
    here, nothing = graph.add(Index(axis)), graph.constant(0.0)
    held, ends = _ends(graph, position)
    solved = _solved(graph, graph.pointwise("eq", held, here), graph[chosen].axes, axis)
    if solved is None:
        met = graph.pointwise("eq", position, here)
        return summed(graph.pointwise("where", met, chosen, nothing))
    value = summed(graph.pointwise("where", solved, chosen, nothing))
    for operator, end in ends:
        beyond = _compared(graph, _BEYOND[operator], held, end)
        at_end = summed(graph.pointwise("where", beyond, chosen, nothing))
        within = graph.pointwise(_WITHIN[operator], here, end)
        value = graph.pointwise("where", within, value, nothing)
        value = graph.pointwise("where", graph.pointwise("eq", here, end), at_end, value)
        held = graph.pointwise(operator, held, end)
    return value


def _ends(graph: Graph, position: int) -> tuple[int, list[tuple[str, int]]]:
    """Return a position before it is held within ends, and the ends, the first to hold it first."""
    found: list[tuple[str, int]] = []
    box = graph[position]
    while (
        isinstance(box, Pointwise) and box.operator in _BEYOND and not graph[box.operands[1]].axes
    ):
        position, end = box.operands
        found.append((box.operator, end))
        box = graph[position]
    return position, found[::-1]


def _solved(graph: Graph, met: int, carried: Sequence[str], axis: str) -> int | None:
    """Return an equality with a label of what is chosen alone on one side, None if there is no such form."""
    for label in reversed(carried):
        alone = isolate(graph, met, label)
        if label != axis and label in graph[met].axes and Index(label) in _sides(graph, alone):
            return alone
    return None


def _sides(graph: Graph, comparison: int) -> list[Box]:
    return [graph[each] for each in operands_of(graph[comparison])]


def _compared(graph: Graph, operator: str, held: int, end: int) -> int:
    """Return a comparison with an end; of the larger or smaller of two numbers, each is compared."""
    box = graph[held]
    if not isinstance(box, Pointwise) or box.operator not in _BEYOND:
        return graph.pointwise(operator, held, end)
    both = (_compared(graph, operator, each, end) for each in box.operands)
    return graph.pointwise("and" if operator == _BEYOND[box.operator] else "or", *both)


def _bounded(graph: Graph, axis: str, position: int) -> int:
    """Return a computed position as a read takes it: within the array."""
    box = graph[position]
    if not isinstance(box, Pointwise) or _is_bounded(graph, box):
        return position
    last = graph.pointwise("sub", graph.add(Size(axis)), graph.constant(1))
    above = graph.pointwise("max2", position, graph.constant(0))
    return graph.pointwise("min2", above, last)


def _is_bounded(graph: Graph, box: Pointwise) -> bool:
    inner = graph[box.operands[0]]
    return box.operator == "min2" and isinstance(inner, Pointwise) and inner.operator == "max2"
