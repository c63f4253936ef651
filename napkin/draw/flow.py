"""Draw a diagram as a plain dataflow graph: a box a step, an arrow an array.

In: a diagram. Out: SVG text that stands alone. Places and arrows are Graphviz's own; for a picture
that shows axes as wires see diagram.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napkin.diagram import Diagram
from napkin.draw.diagram import MOST_NODES, describe, too_many
from napkin.draw.frames import LINE, TEXT
from napkin.draw.layout import ask_dot
from napkin.draw.nodes import Node, build_nodes
from napkin.draw.shapes import Drawing, Glyph, Panel, Stroke, Word, number, polygon, word
from napkin.draw.sheet import print_sheet
from napkin.draw.text import shorten, text_width, widest, wrap_text

_LONGEST, _LINES = 30, 5
_PADDING = 10.0
_ARROW = 7.0
_LABEL = 11.5


def draw_flow(diagram: Diagram) -> str:
    """Return the dataflow graph of a diagram as SVG text.

    Raises NapkinError (N610) where Graphviz's program `dot` is not installed.
    """
    nodes = build_nodes(diagram)
    if len(nodes) > MOST_NODES:
        return too_many(diagram, len(nodes))
    answer = ask_dot(_write_dot(nodes))
    height = float(answer["bb"].split(",")[3])
    width = float(answer["bb"].split(",")[2])
    drawing = Drawing()
    names = [each["name"] for each in answer["objects"]]
    for each in answer.get("edges", []):
        drawing += _arrow(each, nodes, names, height)
    for each in answer["objects"]:
        drawing += _box(nodes[int(each["name"][1:])], each, height)
    panel = Panel(drawing, 0.0, 0.0, width, height)
    return print_sheet(f"{diagram.name}: dataflow", describe(diagram), [[panel]])


def _write_dot(nodes: Sequence[Node]) -> str:
    """Return the graph for `dot`: it holds numbers only, no text of the user's."""
    lines = ["digraph {", "rankdir=LR; nodesep=0.25; ranksep=0.35;", 'node [shape=box, label=""];']
    for place, node in enumerate(nodes):
        shown = _lines(node)
        width = (widest(shown, TEXT) + 2 * _PADDING) / 72
        height = (LINE * len(shown) + _PADDING) / 72
        lines.append(f"n{place} [width={width:.3f}, height={height:.3f}, fixedsize=true];")
    for place, node in enumerate(nodes):
        for source in node.inputs:
            width = text_width(_array(nodes[source]), _LABEL)
            cell = f'<table border="0"><tr><td fixedsize="true" width="{width:.0f}" height="14">'
            lines.append(f"n{source} -> n{place} [label=<{cell}</td></tr></table>>];")
    return "\n".join([*lines, "}", ""])


def _lines(node: Node) -> tuple[str, ...]:
    text = node.name if node.is_end else node.text
    return wrap_text(text, width=_LONGEST, lines=_LINES) or ("",)


def _array(node: Node) -> str:
    name = f"{node.name} " if node.name and not node.is_end else ""
    return shorten(f"{name}[{' '.join(node.axes)}]", _LONGEST) if node.axes else node.dtype


def _box(node: Node, placed: Any, height: float) -> Drawing:
    x, y = _point(placed["pos"], height)
    wide, tall = 36 * float(placed["width"]), 36 * float(placed["height"])
    outline = polygon(
        (x - wide, y - tall), (x + wide, y - tall), (x + wide, y + tall), (x - wide, y + tall)
    )
    shown = _lines(node)
    first = y - (len(shown) - 1) * LINE / 2 + 4
    style = "name" if node.is_end else "formula"
    words = tuple(
        word(style, x, first + LINE * place, each, "middle") for place, each in enumerate(shown)
    )
    glyph = Glyph("end" if node.is_end else node.shape.value, outline, node.text or node.name)
    return Drawing(glyphs=(glyph,), words=words)


def _arrow(placed: Any, nodes: Sequence[Node], names: Sequence[str], height: float) -> Drawing:
    """Return an edge's curve, which `dot` ends short of its arrow's tip, and the array's axes."""
    tip, *points = (_point(each.removeprefix("e,"), height) for each in placed["pos"].split())
    path = f"M{_pair(points[0])}C{' '.join(_pair(each) for each in points[1:])}"
    end = points[-1]
    dx, dy = tip[0] - end[0], tip[1] - end[1]
    length = max((dx * dx + dy * dy) ** 0.5, 1e-9)
    across = (-dy / length * _ARROW / 2, dx / length * _ARROW / 2)
    head = polygon(
        tip, (end[0] + across[0], end[1] + across[1]), (end[0] - across[0], end[1] - across[1])
    )
    label = _array(nodes[int(names[placed["tail"]][1:])])
    words: tuple[Word, ...] = ()
    if label and "lp" in placed:
        x, y = _point(placed["lp"], height)
        words = (word("note", x, y + 4, label, "middle"),)
    return Drawing((Stroke("arrow", path), Stroke("head", head)), words=words)


def _point(text: str, height: float) -> tuple[float, float]:
    x, y = text.split(",")
    return float(x), height - float(y)


def _pair(point: tuple[float, float]) -> str:
    return f"{number(point[0])} {number(point[1])}"
