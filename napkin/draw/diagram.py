"""Draw a diagram in the paper's manner, from left to right: wires are axes, bundles arrays.

In: a diagram. Out: SVG text that stands alone. Stages: what is drawn (reading.py, nodes.py), which
axes all of it is woven over (weave.py), the order of wires (orders.py), room (frames.py), places
(layout.py, scene.py), bundles (bundles.py), glyphs (glyphs.py), and here the page. Notation: paper
section 2. A wire's label is its axis; a contraction is a cup, a reduction a half disc, a
normalisation a triangle, a read at computed positions a hexagon, pointwise work a box.

Deliberately absent: memory levels. This is the diagram before a plan; see relabelled.py.
"""

from __future__ import annotations

from napkin.diagram import Diagram, print_diagram
from napkin.draw.bundles import draw_bundles, draw_ribbons, ribbon_height
from napkin.draw.frames import NAME_ROW, TEXT, bundle_height
from napkin.draw.glyphs import draw_node
from napkin.draw.look import Look
from napkin.draw.nodes import Shape, build_nodes
from napkin.draw.orders import woven_axes
from napkin.draw.scene import Scene, is_named, set_scene
from napkin.draw.shapes import Drawing, Panel, Run, Stroke, label, rounded, word
from napkin.draw.sheet import MARGIN, print_sheet
from napkin.draw.text import shorten, text_width
from napkin.draw.weave import take_out_woven

MOST_NODES = 120
_CAPTION = 22.0  # the row of the frame's caption
_PAD = 10.0
_LONGEST_CAPTION = 60


def draw_diagram(diagram: Diagram) -> str:
    """Return the picture of a diagram as SVG text.

    Raises NapkinError (N610) where Graphviz's program `dot` is not installed.

    >>> from napkin.language import read
    >>> from napkin.language.source import Source
    >>> text = "diagram matmul(A[m k], B[k n]) -> C[m n]\\n    C[m n] = sum[k](A * B)"
    >>> draw_diagram(read(Source("matmul", text))[0]).startswith("<svg ")
    True
    """
    count = len(build_nodes(diagram))
    if count > MOST_NODES:
        return too_many(diagram, count)
    return print_sheet(diagram.name, describe(diagram), [[diagram_panel(diagram)]])


def diagram_panel(diagram: Diagram) -> Panel:
    """Return the picture of a diagram as a panel."""
    nodes = build_nodes(diagram)
    inner, woven = take_out_woven(diagram, nodes)
    scene = set_scene(inner, Look(thin=woven_axes(nodes) - set(woven)))
    drawing = draw_scene(scene)
    top, bottom = extent(scene)
    if woven:
        edges = plate_edges(scene)
        drawing += draw_plate(edges, top, bottom, f"for each {' '.join(woven)}")
        drawing += draw_ribbons(scene, *edges)
        top, bottom = top - _CAPTION - _PAD, bottom + _PAD
    # The first column stands off the left edge already.
    return Panel(drawing, MARGIN, top, scene.columns[-1].end, bottom)


def draw_scene(scene: Scene) -> Drawing:
    """Return all bundles and nodes of a picture."""
    drawing = draw_bundles(scene)
    for place in range(len(scene.nodes)):
        drawing += draw_node(scene.site(place))
    return drawing


def extent(scene: Scene) -> tuple[float, float]:
    """Return the top and the bottom of all that is drawn of a picture."""
    tops: list[float] = []
    bottoms: list[float] = []
    for place, node in enumerate(scene.nodes):
        site = scene.site(place)
        heights = [y for each in (*site.entering, site.leaving) for y in each.values()]
        text = len(site.frame.lines) * TEXT + 8
        glyph = 36.0 if node.over and node.shape is not Shape.CONTRACTION else 14.0
        label = 23.0 if scene.look.levels else 18.0
        above = label + (NAME_ROW if is_named(node) else 0.0)
        tops += [min(heights) - above, site.middle - text / 2]
        bottoms += [max(heights) + glyph, site.middle + text / 2]
        if node.woven:
            tops.append(ribbon_height(scene, place) - 20)
        if node.is_end and node.dtype:
            bottoms.append(site.middle + 26)
    for (source, _), middle in scene.layout.rails.items():
        room = bundle_height(len(scene.orders[source]))
        tops.append(middle - room / 2 - 4)
        bottoms.append(middle + room / 2)
    return min(tops), max(bottoms)


# --- the frame of woven axes ----------------------------------------------------------------------


def plate_edges(scene: Scene) -> tuple[float, float]:
    """Return the left and right edge of the frame: between the arguments and the outputs."""
    return scene.columns[0].end + 5, scene.columns[-1].left - 2


def draw_plate(edges: tuple[float, float], top: float, bottom: float, caption: str) -> Drawing:
    """Return the frame round what is done once for each index of the woven axes."""
    left, right = edges
    outline = rounded(left, top - _CAPTION, right, bottom + _PAD, 8)
    words = shorten(caption, max(8, int((right - left - 20) / text_width("n", TEXT))))
    start, axes = words[: len("for each ")], words[len("for each ") :]
    runs = (Run(start), Run(axes, slanted=True))
    text = label("caption", left + 10, top - _CAPTION + 15, runs)
    return Drawing((Stroke("plate", outline),), words=(text,))


# --- the page -------------------------------------------------------------------------------------


def too_many(diagram: Diagram, count: int) -> str:
    """Return a picture that says why there is none."""
    text = f"{count} nodes, more than {MOST_NODES}: too many to draw"
    drawing = Drawing(words=(word("label", 0, 20, text),))
    panel = Panel(drawing, 0.0, 0.0, text_width(text, TEXT), 30.0)
    return print_sheet(diagram.name, describe(diagram), [[panel]])


def describe(diagram: Diagram) -> str:
    """Return what a picture of a diagram says to who cannot see it."""
    signature = print_diagram(diagram).splitlines()[0].removeprefix("diagram ")
    return f"{diagram.comment}\n{signature}" if diagram.comment else signature
