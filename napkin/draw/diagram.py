"""Draw a diagram in the paper's manner, from left to right: wires are axes, bundles arrays.

In: a diagram. Out: SVG text that stands alone. Stages: what is drawn (reading.py, nodes.py), the
order of wires (orders.py), room (frames.py), places (layout.py, scene.py), glyphs (glyphs.py), and
here the bundles between them. Notation: paper section 2. A wire's label is its axis; a contraction
is a cup, a reduction a half disc, a normalisation a triangle, a read at computed positions a
hexagon, pointwise work a box.

Deliberately absent: memory levels. This is the diagram before a plan, so no colour means a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from napkin.diagram import Diagram, print_diagram
from napkin.draw.frames import LONGEST_WORD, bundle_height
from napkin.draw.glyphs import draw_node, stroke_style
from napkin.draw.layout import Rail
from napkin.draw.nodes import ANONYMOUS, Shape, build_nodes
from napkin.draw.render import render
from napkin.draw.scene import (
    AXIS,
    Column,
    Scene,
    arrivals,
    at_column,
    axis_label,
    is_named,
    set_scene,
)
from napkin.draw.shapes import Drawing, Stroke, Word, dot, line, number, route, word
from napkin.draw.text import shorten, text_width, wrap_text

_MOST_NODES = 120
_MARGIN = 28.0
_TITLE, _SMALL = 19.0, 11.5
_SMALL_LINE = 16.0
_TITLE_ROW = 40.0
_LEAST_WIDTH = 480.0
_FOOT = 34.0
_MOST_LINES = 4


@dataclass(frozen=True, slots=True)
class DiagramView:
    """Everything that the template prints, decided."""

    title: str
    description: str
    width: str
    height: str
    top: str
    drawing: Drawing
    heading: tuple[Word, ...]
    footing: tuple[Word, ...]


def draw_diagram(diagram: Diagram) -> str:
    """Return the picture of a diagram as SVG text.

    Raises NapkinError (N610) where Graphviz's program `dot` is not installed.

    >>> from napkin.language import read
    >>> from napkin.language.source import Source
    >>> text = "diagram matmul(A[m k], B[k n]) -> C[m n]\\n    C[m n] = sum[k](A * B)"
    >>> draw_diagram(read(Source("matmul", text))[0]).startswith("<svg ")
    True
    """
    nodes = build_nodes(diagram)
    if len(nodes) > _MOST_NODES:
        return _refuse(diagram, len(nodes))
    scene = set_scene(nodes)
    drawing = _draw_bundles(scene)
    for place in range(len(nodes)):
        drawing += draw_node(scene.site(place))
    width = max(scene.columns[-1].end, _LEAST_WIDTH)
    return _print(diagram, drawing, width, _bottom(scene), _notes(diagram, scene))


def _bottom(scene: Scene) -> float:
    nodes = zip(scene.layout.heights, scene.frames, strict=True)
    bottoms = [middle + each.height / 2 for middle, each in nodes]
    bottoms += [
        middle + bundle_height(len(scene.orders[rail[0]])) / 2
        for rail, middle in scene.layout.rails.items()
    ]
    return max(bottoms)


def _refuse(diagram: Diagram, count: int) -> str:
    """Return a picture that says why there is none."""
    text = f"{count} nodes, more than {_MOST_NODES}: too many to draw"
    drawing = Drawing(words=(word("label", _MARGIN, 20, text),))
    return _print(diagram, drawing, _LEAST_WIDTH, 40, ())


# --- bundles --------------------------------------------------------------------------------------


def _draw_bundles(scene: Scene) -> Drawing:
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
    drawing = _draw_run(scene, heights, scene.site(place).right, column.end)
    drawing += _draw_labels(heights, column)
    if not is_named(node):
        return drawing
    y = min(heights.values()) - (AXIS + 9 if node.axes else 6)
    name = word("name", _label_place(column), y, shorten(node.name, LONGEST_WORD), "middle")
    return drawing + Drawing(words=(name,))


def _draw_rail(scene: Scene, rail: Rail) -> Drawing:
    """Draw a bundle across a column; its labels come again before it is read, if it ran far."""
    source, number = rail
    column, heights = scene.columns[number], scene.on_rail(rail)
    drawing = _draw_run(scene, heights, column.left, column.end)
    is_last = (source, number + 1) not in scene.layout.rails
    is_far = number - scene.layout.columns[source] > 1
    return drawing + _draw_labels(heights, column) if is_last and is_far else drawing


def _draw_run(scene: Scene, heights: Mapping[str, float], left: float, right: float) -> Drawing:
    return Drawing(
        tuple(
            Stroke(stroke_style(axis, scene.woven), line(left, y, right, y))
            for axis, y in heights.items()
        )
    )


def _draw_labels(heights: Mapping[str, float], column: Column) -> Drawing:
    x = _label_place(column)
    labels = (word("axis", x, y - 5, axis_label(axis), "middle") for axis, y in heights.items())
    return Drawing(words=tuple(each for each in labels if each.text))


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
            strokes.append(Stroke(stroke_style(axis, scene.woven), path))
    sources = [each.source for each in coming]
    dots = tuple(
        dot(before.end, y)
        for source in dict.fromkeys(each for each in sources if sources.count(each) > 1)
        for y in at_column(scene, source, number - 1).values()
    )
    return Drawing(tuple(strokes), dots=dots)


def _draw_dividers(scene: Scene) -> Drawing:
    """Draw a dashed line between arguments: they are members of a tuple."""
    arguments = sorted(
        (scene.layout.heights[place], scene.frames[place].height)
        for place, node in enumerate(scene.nodes)
        if node.shape is Shape.ARGUMENT
    )
    first = scene.columns[0]
    return Drawing(
        tuple(
            Stroke("divider", line(first.left, y, first.end, y))
            for (above, tall), (below, low) in pairwise(arguments)
            for y in [(above + tall / 2 + below - low / 2) / 2]
        )
    )


# --- the page -------------------------------------------------------------------------------------


def _notes(diagram: Diagram, scene: Scene) -> tuple[str, ...]:
    """Return what stands below the picture: lengths, and the signs that it uses."""
    notes: list[str] = []
    if diagram.sizes:
        notes.append("sizes " + " ".join(f"{axis}={size}" for axis, size in diagram.sizes))
    woven = [axis for axis in diagram.axes if axis in scene.woven]
    if woven:
        notes.append(f"thin wires: {' '.join(woven)}, which no step sums over or reuses")
    formulas = "".join(line for each in scene.frames for line in each.lines)
    if ANONYMOUS in formulas:
        notes.append(f"{ANONYMOUS} is the array that comes in")
    if "|" in formulas:
        notes.append("|d| is the length of axis d")
    return tuple(notes)


def _print(
    diagram: Diagram, drawing: Drawing, width: float, height: float, notes: Sequence[str]
) -> str:
    name = shorten(diagram.name, 60)
    width = max(width, _MARGIN + text_width(name, _TITLE) * 1.1)
    heading = _lines(_signature(diagram), width, _TITLE_ROW + 14)
    top = _TITLE_ROW + 14 + _SMALL_LINE * len(heading) + 10
    footing = _lines("; ".join(notes), width, top + height + _FOOT)
    view = DiagramView(
        title=diagram.name,
        description=diagram.comment or _signature(diagram),
        width=number(width + _MARGIN),
        height=number(top + height + _FOOT + _SMALL_LINE * len(footing) + 4),
        top=number(top),
        drawing=drawing,
        heading=(word("title", _MARGIN, _TITLE_ROW - 8, name), *heading),
        footing=footing,
    )
    return render("svg/diagram.svg.jinja", view=view)


def _signature(diagram: Diagram) -> str:
    return print_diagram(diagram).splitlines()[0].removeprefix("diagram ")


def _lines(text: str, width: float, first: float) -> tuple[Word, ...]:
    """Return a text broken to the page's width."""
    fitting = int((width - _MARGIN) / text_width("n", _SMALL))
    lines = wrap_text(text, width=fitting, lines=_MOST_LINES) if text else ()
    return tuple(
        word("note", _MARGIN, first + _SMALL_LINE * place, each) for place, each in enumerate(lines)
    )
