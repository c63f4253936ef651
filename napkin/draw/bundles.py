"""Draw the bundles of a picture between its nodes: wires, their labels, ribbons, and dashed lines.

In: a `Scene`. Out: a `Drawing`. Members of a tuple, and steps in parallel, are parted by dashed
lines (paper, section 2); a ribbon has a hairline for every axis that the picture is woven over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from napkin.draw.frames import (
    AXIS,
    CUP_LEFT,
    LONGEST_WORD,
    PITCH,
    RIBBON,
    bundle_height,
    shown_woven,
    stub_width,
)
from napkin.draw.layout import Rail
from napkin.draw.nodes import Node, Shape
from napkin.draw.scene import Column, Scene, arrivals, at_column, is_named
from napkin.draw.shapes import Drawing, Label, Run, Stroke, dot, label, line, route, word
from napkin.draw.text import shorten

_HAIR = 2.5  # between the hairlines of a ribbon


def draw_bundles(scene: Scene) -> Drawing:
    """Return every wire between nodes, with its labels, and the dashed lines between bundles."""
    drawing = _draw_dividers(scene)
    for place, node in enumerate(scene.nodes):
        if node.shape is not Shape.OUTPUT:
            drawing += _draw_result(scene, place)
    for rail in scene.layout.rails:
        drawing += _draw_rail(scene, rail)
    for column in range(1, len(scene.columns)):
        drawing += _draw_steps(scene, column)
    return drawing


def _draw_result(scene: Scene, place: int) -> Drawing:
    """Draw a node's result up to the end of its column, with its labels and its name."""
    node, column, heights = scene.nodes[place], scene.column(place), scene.leaving(place)
    drawing = _draw_run(scene, place, heights, scene.site(place).right, column.end)
    drawing += _draw_labels(scene, place, heights, column)
    if not is_named(node):
        return drawing
    y = min(heights.values()) - (AXIS + 9 if node.axes else 6)
    name = word("name", _label_place(column), y, shorten(node.name, LONGEST_WORD), "middle")
    return drawing + Drawing(words=(name,))


def _draw_rail(scene: Scene, rail: Rail) -> Drawing:
    """Draw a bundle across a column; its labels come again before it is read, if it ran far."""
    source, number = rail
    column, heights = scene.columns[number], scene.on_rail(rail)
    drawing = _draw_run(scene, source, heights, column.left, column.end)
    is_last = (source, number + 1) not in scene.layout.rails
    is_far = number - scene.layout.columns[source] > 1
    labelled = is_last and is_far
    return drawing + _draw_labels(scene, source, heights, column) if labelled else drawing


def _draw_run(
    scene: Scene, source: int, heights: Mapping[str, float], left: float, right: float
) -> Drawing:
    return Drawing(
        tuple(
            Stroke(scene.look.style(source, axis), line(left, y, right, y))
            for axis, y in heights.items()
        )
    )


def _draw_labels(
    scene: Scene, source: int, heights: Mapping[str, float], column: Column
) -> Drawing:
    x = _label_place(column)
    style = scene.look.levels[source] if scene.look.levels else ""
    words = (
        label(
            f"axis {style}".strip(),
            x,
            y - (6.5 if style else 5),
            scene.look.label(source, axis),
            "middle",
        )
        for axis, y in heights.items()
    )
    return Drawing(words=tuple(each for each in words if each.text))


def _label_place(column: Column) -> float:
    return (column.right + column.end) / 2


def _draw_steps(scene: Scene, number: int) -> Drawing:
    """Draw every bundle from the end of the column before to what it enters in this one."""
    before, here = scene.columns[number - 1], scene.columns[number]
    coming = arrivals(scene, number)
    strokes: list[Stroke] = []
    for each in coming:
        end = here.left if each.target is None else scene.site(each.target).left
        for axis, y in at_column(scene, each.source, number - 1).items():
            head = each.heights[axis]
            path = route([(before.end, y), (here.left, head), (end, head)])
            strokes.append(Stroke(scene.look.style(each.source, axis), path))
    sources = [each.source for each in coming]
    dots = tuple(
        dot(before.end, y)
        for source in dict.fromkeys(each for each in sources if sources.count(each) > 1)
        for y in at_column(scene, source, number - 1).values()
    )
    return Drawing(tuple(strokes), dots=dots)


# --- woven axes -----------------------------------------------------------------------------------


def ribbon_height(scene: Scene, place: int) -> float:
    """Return the height of the ribbon of an argument or output: above its wires."""
    return (
        scene.layout.heights[place]
        - PITCH * (max(1, len(scene.nodes[place].axes)) - 1) / 2
        - RIBBON
    )


def draw_ribbons(scene: Scene, left: float, right: float) -> Drawing:
    """Return the woven axes of arguments up to the frame's left edge, and of outputs from its right."""
    drawing = Drawing()
    for place, node in enumerate(scene.nodes):
        if not node.woven:
            continue
        y = ribbon_height(scene, place)
        site, column = scene.site(place), scene.column(place)
        if node.shape is Shape.ARGUMENT:
            drawing += _ribbon(node, y, site.right, left, _label_place(column))
        else:
            end = site.left + stub_width(node)
            drawing += _ribbon(node, y, right, end, (right + end) / 2)
    return drawing


def _ribbon(node: Node, y: float, left: float, right: float, middle: float) -> Drawing:
    count = len(node.woven)
    heights = [y + _HAIR * (place - (count - 1) / 2) for place in range(count)]
    strokes = tuple(Stroke("hair", line(left, each, right, each)) for each in heights)
    text = label("axis woven", middle, heights[0] - 4, _slanted(node), "middle")
    return Drawing(strokes, words=(text,))


def _slanted(node: Node) -> Label:
    return (Run(shown_woven(node), slanted=True),)


# --- dashed lines ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Lane:
    """The room of a bundle or node in a column; `source` is what leaves it."""

    source: int
    is_rail: bool
    top: float
    bottom: float


def _lanes(scene: Scene, number: int) -> list[_Lane]:
    """Return the lanes of a column from the top."""
    lanes = [
        _Lane(source, True, middle - room / 2, middle + room / 2)
        for (source, column), middle in scene.layout.rails.items()
        if column == number
        for room in [bundle_height(len(scene.orders[source]))]
    ]
    for place, at in enumerate(scene.layout.columns):
        if at == number:
            middle, room = scene.layout.heights[place], scene.frames[place].height
            top = middle - room / 2 - scene.frames[place].rise
            lanes.append(_Lane(place, False, top, middle + room / 2))
    return sorted(lanes, key=lambda lane: lane.top)


def _draw_dividers(scene: Scene) -> Drawing:
    """Draw the dashed lines: along each column, and on to where the bundles meet or part."""
    strokes: list[Stroke] = []
    for number, column in enumerate(scene.columns[:-1]):
        lanes = _lanes(scene, number)
        for above, below in pairwise(lanes):
            y = (above.bottom + below.top) / 2
            points = [(column.left, y), (column.end, y)]
            points += _onward(scene, number, above, below)
            strokes.append(Stroke("divider", route(points)))
    return Drawing(tuple(strokes))


def _onward(scene: Scene, number: int, above: _Lane, below: _Lane) -> Iterator[tuple[float, float]]:
    """Yield where the line between two lanes of a column goes on in the next."""
    following = _lanes(scene, number + 1)
    here = scene.columns[number + 1]
    first, second = (_next_lanes(scene, number, lane) for lane in (above, below))
    if len(first) != 1 or len(second) != 1:
        return
    if first != second:
        places = [_find(following, *first[0]), _find(following, *second[0])]
        if places[1] == places[0] + 1:
            upper, lower = (following[each] for each in places)
            yield here.left, (upper.bottom + lower.top) / 2
        return
    target, is_rail = first[0]
    if is_rail:
        return
    node, site = scene.nodes[target], scene.site(target)
    slots = [node.inputs.index(above.source), node.inputs.index(below.source)]
    if slots[1] != slots[0] + 1:
        return
    middles = scene.frames[target].slot_middles()
    rooms = scene.frames[target].slots
    edges = (middles[slots[0]] + rooms[slots[0]] / 2, middles[slots[1]] - rooms[slots[1]] / 2)
    y = site.middle + sum(edges) / 2
    yield here.left, y
    yield site.left + (CUP_LEFT if node.shape is Shape.CONTRACTION else -4), y


def _next_lanes(scene: Scene, number: int, lane: _Lane) -> list[tuple[int, bool]]:
    """Return where a lane's bundle goes in the next column: nodes, or its own rail."""
    return [
        (each.source if each.target is None else each.target, each.target is None)
        for each in arrivals(scene, number + 1)
        if each.source == lane.source
    ]


def _find(lanes: list[_Lane], source: int, is_rail: bool) -> int:
    return next(
        place
        for place, lane in enumerate(lanes)
        if (lane.source, lane.is_rail) == (source, is_rail)
    )
