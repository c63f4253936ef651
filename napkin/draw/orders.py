"""In which order the wires of a bundle lie, so that few of them cross.

In: the nodes of a picture. Out: the order of every node's result, from the top, and of every
bundle where it enters a node. Wires that a node works along lie lowest in its first bundle and
highest in the others: a contraction's cup then joins neighbours. Memory order is the signature's
business.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.draw.nodes import Node, Shape

Order = tuple[str, ...]


def result_orders(nodes: Sequence[Node]) -> tuple[Order, ...]:
    """Return every node's wires from the top: as its first reader would have them."""
    wishes: dict[int, Order] = {}
    orders: list[Order] = [each.axes for each in nodes]
    for place in reversed(range(len(nodes))):
        if place in wishes:
            orders[place] = wishes[place]
        node = nodes[place]
        for slot, source in enumerate(node.inputs):
            entering = entering_order(nodes, node, slot, orders[place])
            # Readers come from the last to the first: what stays is the first one's wish.
            wishes[source] = entering
    return tuple(orders)


def entering_order(nodes: Sequence[Node], node: Node, slot: int, result: Order) -> Order:
    """Return the order of a bundle where it enters a slot of a node whose result has that order."""
    source = nodes[node.inputs[slot]]
    kept = [axis for axis in result if axis in source.axes and axis not in node.over]
    # What neither leaves the node nor is worked along: the axes of an array that is gathered from.
    rest = [axis for axis in source.axes if axis not in kept and axis not in node.over]
    along = [axis for axis in node.over if axis in source.axes]
    if node.shape is Shape.NORMALISATION and set(result[: len(along)]) == set(along):
        return (*result[: len(along)], *kept)
    if node.shape is not Shape.CONTRACTION:
        return (*kept, *rest, *along)
    others = [nodes[each] for place, each in enumerate(node.inputs) if place != slot]
    shared = [axis for axis in kept if any(axis in other.axes for other in others)]
    own = [axis for axis in kept if axis not in shared]
    return (*shared, *own, *along) if slot == 0 else (*reversed(along), *own, *shared)


def woven_axes(nodes: Sequence[Node]) -> frozenset[str]:
    """Return the axes that nothing sums over and every factor of every contraction carries."""
    worked = {axis for each in nodes for axis in each.over}
    woven = {axis for each in nodes for axis in each.axes} - worked
    if not worked:
        return frozenset()
    for each in nodes:
        if each.shape is Shape.CONTRACTION:
            for source in each.inputs:
                woven &= set(nodes[source].axes) or woven
    return frozenset(woven)
