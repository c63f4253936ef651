"""A diagram over a further axis: what it computes for each of many arguments, as one diagram.

In: a diagram and the names of the arguments that there are many of. Out: the diagram whose arguments of these
names, and whose outputs that depend on them, have one more dim in front. All other arguments are shared. The
new axis is in no reduction, so that it may be grouped wherever the diagram's own free axes may.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from napkin.diagram import (
    Argument,
    Box,
    Diagram,
    Gather,
    Graph,
    Index,
    Input,
    Output,
    Pointwise,
    Reduce,
    topological,
    verify,
)

_AXIS = "n"


def batched(diagram: Diagram, names: Collection[str]) -> Diagram:
    """Return the diagram with a leading axis on these arguments and on the outputs that follow from them.

    >>> from napkin.language import read
    >>> from napkin.language.source import Source
    >>> text = "diagram scale(A[x], s[]) -> B[x]\\n    B[x] = s * A"
    >>> (scale,) = read(Source("<text>", text))
    >>> print(batched(scale, {"A"}), end="")
    diagram scale(A[n x], s[]) -> B[n x]
        B[n x] = s * A
    """
    axis = _fresh(diagram)
    graph = Graph()
    new: dict[int, int] = {}
    for each in topological(diagram.boxes, [output.box for output in diagram.outputs]):
        new[each] = _rebuilt(graph, diagram.boxes, each, new, frozenset(names), axis)
    arguments = tuple(
        replace(each, dims=((axis,), *each.dims)) if each.name in names else each
        for each in diagram.arguments
    )
    outputs = tuple(
        _output(each, new[each.box], axis in graph[new[each.box]].axes, axis)
        for each in diagram.outputs
    )
    called = _names(diagram, new, graph, arguments)
    return verify(
        Diagram(
            diagram.name,
            arguments,
            outputs,
            tuple(graph.boxes),
            called,
            diagram.sizes,
            diagram.relabellings,
        )
    )


def _rebuilt(
    graph: Graph,
    boxes: tuple[Box, ...],
    each: int,
    new: dict[int, int],
    names: frozenset[str],
    axis: str,
) -> int:
    box = boxes[each]
    match box:
        case Input():
            many = box.name in names
            return graph.add(replace(box, axes=(axis, *box.axes)) if many else box)
        case Pointwise():
            return graph.pointwise(box.operator, *(new[i] for i in box.operands))
        case Reduce():
            return graph.reduce(box.operator, [new[i] for i in box.operands], box.over)
        case Gather():
            array = boxes[box.array]
            assert isinstance(array, Input)
            first = (graph.add(Index(axis)),) if array.name in names else ()
            return graph.gather(new[box.array], (*first, *(new[i] for i in box.indices)))
        case _:
            return graph.add(box)


def _output(output: Output, box: int, many: bool, axis: str) -> Output:
    dims = ((axis,), *output.dims) if many else output.dims
    return replace(output, dims=dims, box=box)


def _names(
    diagram: Diagram, new: dict[int, int], graph: Graph, arguments: tuple[Argument, ...]
) -> tuple[str, ...]:
    """Return the boxes' names: those that they had, fresh ones for the new axis's index."""
    called = {box: diagram.names[each] for each, box in new.items()}
    taken = {*diagram.names, *(each.name for each in arguments)}
    fresh = (name for name in map("n{}".format, range(len(graph))) if name not in taken)
    return tuple(called.get(each) or next(fresh) for each in range(len(graph)))


def _fresh(diagram: Diagram) -> str:
    """Return a label that nothing in the diagram has."""
    taken = {*diagram.axes, *diagram.names, *(each.name for each in diagram.arguments)}
    return next(
        label
        for label in (_AXIS, *(f"{_AXIS}{number}" for number in range(1, len(taken) + 2)))
        if label not in taken
    )
