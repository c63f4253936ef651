"""Draw what a plan makes of a diagram's regions: loads and saves, the stream's loop, one group.

In: a scene and its `Relabelling`, and the top and bottom of what is drawn. Out: drawings. Bands are
changes of level, the dotted frame the stream's body, the outer frame one group (paper, section 4).
"""

from __future__ import annotations

from napkin.draw.nodes import Shape
from napkin.draw.relabel import Relabelling
from napkin.draw.scene import Column, Scene
from napkin.draw.shapes import Drawing, Label, Run, Stroke, label, polygon, rounded, word
from napkin.draw.text import shorten

CAPTION = 22.0  # the row of a frame's caption
PAD = 12.0
_LOOP_ROOM = 8.0


def draw_bands(scene: Scene, found: Relabelling, top: float, bottom: float) -> Drawing:
    """Draw where arrays change level: a band for loads, one for saves."""
    drawing = Drawing()
    for shape, style in ((Shape.LOAD, "load"), (Shape.SAVE, "save")):
        sites = [scene.site(p) for p, node in enumerate(found.nodes) if node.shape is shape]
        for left, right in dict.fromkeys((each.left - 3, each.right + 3) for each in sites):
            corners = ((left, top), (right, top), (right, bottom), (left, bottom))
            middle = (left + right) / 2
            text = word("note", middle, bottom - 3, style, "middle")
            drawing += Drawing((Stroke(style, polygon(*corners)),), words=(text,))
    return drawing


def draw_loop(scene: Scene, found: Relabelling, top: float, bottom: float) -> Drawing:
    """Draw the frame round the stream's body, and say what it carries from step to step."""
    stream = found.kernel.derivation.stream
    if stream is None or not found.body:
        return Drawing()
    columns = [scene.columns[scene.layout.columns[place]] for place in found.body]
    last = max(columns, key=lambda each: each.right)
    left, right = min(each.left for each in columns) - 10, last.right + 4
    runs: list[Run] = [Run("stream "), Run(stream.axis, slanted=True), Run(" by ")]
    runs += [each for each in found.tiles[stream.axis] if each.rise != "sup"]
    if len(stream.passes) > 1:
        runs.append(Run(f", {len(stream.passes)} passes"))
    names = ", ".join(each.name for each in stream.accumulators)
    runs += [Run("; state "), Run(shorten(names, 40), slanted=True)]
    upper, lower = _loop_heights(scene, found, (top + 4, bottom + 1))
    outline = rounded(left, upper, right, lower, 9)
    # Below the picture there is room; elsewhere there is more above a frame than below it.
    y = lower + 14 if lower > bottom - PAD else upper - 5
    text = label("caption", left + 10, y, tuple(runs))
    return Drawing((Stroke("loop", outline),), words=(text,))


def _loop_heights(
    scene: Scene, found: Relabelling, whole: tuple[float, float]
) -> tuple[float, float]:
    """Return the top and bottom of the loop's frame: the picture's, if all between its ends is in it."""
    columns = [scene.layout.columns[place] for place in found.body]
    others = [
        place
        for place, at in enumerate(scene.layout.columns)
        if min(columns) <= at <= max(columns)
        and place not in found.body
        and found.nodes[place].shape is not Shape.LOAD
    ]
    if not others:
        return whole
    sites = [scene.site(place) for place in found.body]
    return (
        min(each.middle - each.frame.height / 2 for each in sites) - 4,
        max(each.middle + each.frame.height / 2 for each in sites) + 4,
    )


def draw_group(
    found: Relabelling, edges: tuple[float, float], top: float, bottom: float
) -> Drawing:
    """Draw the frame of one group, and say what a group is."""
    left, right = edges
    program = found.kernel.printed
    runs: list[Run] = [Run("each group: ")]
    for place, axis in enumerate(reversed(program.grid)):
        runs += [Run(", ")] if place else []
        runs += [Run(axis, slanted=True), Run(" by ")]
        tile = program.axis(axis).tile
        runs += [Run("1")] if tile == 1 else unmarked(found.tiles[axis])
    outline = rounded(left, top - CAPTION, right, bottom + PAD + 10, 8)
    text = label("caption", left + 10, top - CAPTION + 14, tuple(runs))
    return Drawing((Stroke("plate", outline),), words=(text,))


def unmarked(runs: Label) -> list[Run]:
    """Return a tile's label without its divisor."""
    return [each for each in runs if each.rise != "sup"]


def with_loop_room(scene: Scene, found: Relabelling) -> tuple[Column, ...]:
    """Return the columns with room for the loop's frame before and after it."""
    inside = [scene.layout.columns[place] for place in found.body]
    made: list[Column] = []
    shift = 0.0
    for number, column in enumerate(scene.columns):
        shift += _LOOP_ROOM if inside and number == min(inside) else 0.0
        end = shift + (_LOOP_ROOM if inside and number == max(inside) else 0.0)
        made.append(Column(column.left + shift, column.right + shift, column.end + end))
        shift = end
    return tuple(made)
