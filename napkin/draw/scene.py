"""The geometry of a picture: where every node lies and every wire leaves and arrives.

In: the nodes of a diagram. Out: a `Scene`: the best of a few layouts, which differ in the order in
which bundles enter the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from napkin.draw.frames import (
    AXIS,
    LONGEST_WORD,
    Frame,
    frame,
    shown_woven,
    wire_heights,
)
from napkin.draw.glyphs import Site, unit_of
from napkin.draw.layout import Layout, Rail, lay_out, lay_out_freely, mirror
from napkin.draw.look import Look
from napkin.draw.nodes import Node, Shape
from napkin.draw.orders import Order, entering_order, result_orders
from napkin.draw.text import label_width, shorten, text_width

LEFT = 12.0  # of the first column: dashed lines begin there
_STUB = 14.0  # level run of a wire beside its label
_LEAST_GAP, _MOST_GAP, _GAP_BY_CLIMB = 22.0, 110.0, 0.55


@dataclass(frozen=True, slots=True)
class Column:
    """A column of nodes: its edges, and the end of the level run of the wires that leave it."""

    left: float
    right: float
    end: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Nodes, places and columns of a picture. `tensor` are the contractions of tensor cores."""

    nodes: tuple[Node, ...]
    orders: tuple[Order, ...]
    frames: tuple[Frame, ...]
    layout: Layout
    columns: tuple[Column, ...]
    look: Look
    tensor: frozenset[int] = frozenset()

    def column(self, place: int) -> Column:
        """Return the column of a node."""
        return self.columns[self.layout.columns[place]]

    def leaving(self, place: int) -> dict[str, float]:
        """Return the heights of a node's result by axis."""
        return spread(self.orders[place], self.layout.heights[place])

    def on_rail(self, rail: Rail) -> dict[str, float]:
        """Return the heights of a bundle where it crosses a column."""
        return spread(self.orders[rail[0]], self.layout.rails[rail])

    def entering(self, place: int, slot: int) -> dict[str, float]:
        """Return the heights at which a bundle enters a node."""
        node = self.nodes[place]
        order = entering_order(self.nodes, node, slot, self.orders[place])
        middle = self.frames[place].slot_middles()[slot]
        return spread(order, self.layout.heights[place] + middle)

    def site(self, place: int) -> Site:
        """Return where a node lies: in the middle of its column, ends at its side."""
        node, each, column = self.nodes[place], self.frames[place], self.column(place)
        free = column.right - column.left - each.width
        at_side = node.shape is Shape.OUTPUT
        return Site(
            place,
            node,
            each,
            column.left + (0 if at_side else free if node.shape is Shape.ARGUMENT else free / 2),
            self.layout.heights[place],
            tuple(self.entering(place, slot) for slot in range(len(node.inputs))),
            self.leaving(place),
            self.look,
            unit_of(self.look, place, is_tensor=place in self.tensor),
        )


def spread(order: Order, middle: float) -> dict[str, float]:
    """Return the heights of a bundle's wires by axis; a thread stands under the empty name."""
    return dict(
        zip(order or ("",), (middle + each for each in wire_heights(len(order))), strict=True)
    )


def set_scene(nodes: Sequence[Node], look: Look, tensor: frozenset[int] = frozenset()) -> Scene:
    """Return the geometry of a picture with its top at height 0.

    Bundles enter a node as its text has them, or by the heights that a layout free of that brings
    them in at, whichever crosses less.
    """
    given = tuple(nodes)
    free = lay_out_freely(given, _frames(given))
    candidates = (given, _sort_inputs(given, free), _sort_inputs(given, mirror(free)))
    scenes = [_set(each, look, tensor) for each in dict.fromkeys(candidates)]
    best = min(scenes, key=lambda scene: (_crossings(scene), _inversions(scene)))
    return replace(best, columns=_columns(best))


def _set(nodes: tuple[Node, ...], look: Look, tensor: frozenset[int]) -> Scene:
    frames = _frames(nodes)
    layout = lay_out(nodes, frames)
    return Scene(nodes, result_orders(nodes), frames, layout, (), look, tensor)


def _frames(nodes: tuple[Node, ...]) -> tuple[Frame, ...]:
    return tuple(frame(nodes, each) for each in nodes)


def _sort_inputs(nodes: tuple[Node, ...], layout: Layout) -> tuple[Node, ...]:
    """Return the nodes with the bundles that enter each in the order they come in at."""
    return tuple(
        replace(node, inputs=_from_top(node, column, layout))
        for node, column in zip(nodes, layout.columns, strict=True)
    )


def _from_top(node: Node, column: int, layout: Layout) -> tuple[int, ...]:
    return tuple(sorted(node.inputs, key=lambda source: layout.arrives_from(source, column)))


def _crossings(scene: Scene) -> int:
    """Return how many pairs of bundles cross between columns."""
    count = 0
    for number in range(1, max(scene.layout.columns) + 1):
        steps = [
            (_middle(at_column(scene, each.source, number - 1)), _middle(each.heights))
            for each in arrivals(scene, number)
        ]
        count += sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in combinations(steps, 2))
    return count


def _middle(heights: Mapping[str, float]) -> float:
    return sum(heights.values()) / len(heights)


def _inversions(scene: Scene) -> int:
    """Return how many pairs of arguments do not stand in the signature's order."""
    heights = [
        height
        for height, node in zip(scene.layout.heights, scene.nodes, strict=True)
        if node.shape is Shape.ARGUMENT
    ]
    return sum(above > below for above, below in combinations(heights, 2))


# --- columns --------------------------------------------------------------------------------------


def _columns(scene: Scene) -> tuple[Column, ...]:
    """Return the columns, wide enough for nodes and labels, and apart as far as wires climb."""
    columns: list[Column] = []
    left = LEFT
    for number in range(max(scene.layout.columns) + 1):
        members = [place for place, at in enumerate(scene.layout.columns) if at == number]
        right = left + max((scene.frames[each].width for each in members), default=0.0)
        passing = [source for source, column in scene.layout.rails if column == number]
        widths = [
            label_width(scene.look.label(each, axis), AXIS)
            for each in (*members, *passing)
            for axis in scene.orders[each]
        ]
        names = [scene.nodes[each].name for each in members if is_named(scene.nodes[each])]
        widths += [text_width(shorten(each, LONGEST_WORD), AXIS) for each in names]
        if number == 0:
            widths += [text_width(shown_woven(scene.nodes[each]), AXIS) for each in members]
        is_last = number == max(scene.layout.columns)
        end = right if is_last else right + _STUB + max(widths, default=0.0)
        columns.append(Column(left, right, end))
        left = end + _gap(scene, number)
    return tuple(columns)


def is_named(node: Node) -> bool:
    """Return whether a node's name stands above the wires that leave it."""
    return bool(node.name) and not node.is_end


def _gap(scene: Scene, number: int) -> float:
    """Return the room between a column and the next, as far as its steepest wire needs."""
    climbs = [
        abs(y - each.heights[axis])
        for each in arrivals(scene, number + 1)
        for axis, y in at_column(scene, each.source, number).items()
    ]
    return min(_MOST_GAP, max(_LEAST_GAP, _GAP_BY_CLIMB * max(climbs, default=0.0)))


# --- bundles --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrival:
    """A bundle that comes into a column: its source, heights, and the node it enters, if any."""

    source: int
    heights: Mapping[str, float]
    target: int | None


def arrivals(scene: Scene, number: int) -> tuple[Arrival, ...]:
    """Return every bundle that comes into a column from the one before."""
    rails = (rail for rail in scene.layout.rails if rail[1] == number)
    crossing = [Arrival(rail[0], scene.on_rail(rail), None) for rail in rails]
    members = (place for place, at in enumerate(scene.layout.columns) if at == number)
    entering = [
        Arrival(source, scene.entering(place, slot), place)
        for place in members
        for slot, source in enumerate(scene.nodes[place].inputs)
    ]
    return (*crossing, *entering)


def at_column(scene: Scene, source: int, number: int) -> Mapping[str, float]:
    """Return the heights of a node's result where it leaves a column, its own or one it crosses."""
    if scene.layout.columns[source] == number:
        return scene.leaving(source)
    return scene.on_rail((source, number))
