"""Which axes the whole picture is mapped over, so that they need no wire of their own inside it.

In: a diagram and its nodes. Out: the nodes without those axes, and the axes. An axis that nothing
sums over and that every factor of every contraction carries is woven over all: the picture shows
one copy inside a frame, and the axis as a hairline from each array that has it to the frame. An
array without the axis is broadcast to every copy. Weaving: paper section 2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from napkin.diagram import Diagram, Gather, Index
from napkin.draw.nodes import Node, Shape
from napkin.draw.orders import woven_axes


def take_out_woven(
    diagram: Diagram, nodes: Sequence[Node], *, but: Collection[str] = ()
) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """Return the nodes without the axes that all of them are mapped over, and those axes.

    The axes of `but` keep their wires, and so does every axis where there is no contraction:
    nothing would be drawn twice.
    """
    if not any(each.shape is Shape.CONTRACTION for each in nodes):
        return tuple(nodes), ()
    found = woven_axes(nodes) - _reindexed(diagram) - set(but)
    axes = tuple(axis for axis in diagram.axes if axis in found)
    return tuple(_without(each, found) for each in nodes), axes


def _without(node: Node, woven: frozenset[str]) -> Node:
    outer = tuple(axis for axis in node.axes if axis in woven)
    inner = tuple(axis for axis in node.axes if axis not in woven)
    return replace(node, axes=inner, woven=outer if node.is_end else ())


def _reindexed(diagram: Diagram) -> frozenset[str]:
    """Return the axes of arrays that are read at positions other than their own index."""
    found: set[str] = set()
    for box in diagram.boxes:
        if isinstance(box, Gather):
            array = diagram.boxes[box.array]
            for axis, each in zip(array.axes, box.indices, strict=True):
                index = diagram.boxes[each]
                if not (isinstance(index, Index) and index.axis == axis):
                    found.add(axis)
    return frozenset(found)
