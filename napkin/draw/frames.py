"""How much room every node takes: its width, its height, and that of each bundle at its sides.

In: nodes and the order of their wires. Out: a `Frame` a node. All that enters a node is stacked
round its middle, and so is what leaves it: bundles between nodes of one height run straight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from napkin.draw.nodes import Node, Shape
from napkin.draw.text import shorten, text_width, widest, wrap_text

PITCH = 22.0  # between the wires of a bundle
MARGIN = 6.0  # above and below a bundle
NAME_ROW = 19.0  # for the name of an array above its bundle
CUP_GAP = 16.0  # between the bundles that a contraction joins
TEXT = 12.0
LINE = 15.0
NAME = 17.0
CUP_LEFT = 12.0
GLYPH = 30.0  # the width of a reduction's or normalisation's glyph
MERGE = 54.0  # where the wires of a contraction draw together
LONGEST_WORD = 24
_FORMULA_WIDTH, _FORMULA_LINES = 28, 5


@dataclass(frozen=True, slots=True)
class Frame:
    """A node's room. `slots` are the heights of the bundles that enter, `out` of what leaves."""

    width: float
    height: float
    slots: tuple[float, ...]
    out: float
    lines: tuple[str, ...]

    def slot_middles(self, gap: float) -> tuple[float, ...]:
        """Return the middle of every bundle that enters, from the node's own middle."""
        total = sum(self.slots) + gap * max(0, len(self.slots) - 1)
        middles: list[float] = []
        top = -total / 2
        for height in self.slots:
            middles.append(top + height / 2)
            top += height + gap
        return tuple(middles)


def slot_gap(node: Node) -> float:
    """Return the room between the bundles that enter a node."""
    return CUP_GAP if node.shape is Shape.CONTRACTION else 0.0


def bundle_height(axes: int) -> float:
    """Return the height of a bundle of so many wires; one without axes is a thread."""
    return PITCH * max(1, axes) + 2 * MARGIN


def wire_heights(axes: int) -> tuple[float, ...]:
    """Return the wires' places from the middle of their bundle."""
    count = max(1, axes)
    return tuple(PITCH * (place - (count - 1) / 2) for place in range(count))


def words_of(node: Node) -> tuple[str, ...]:
    """Return the lines of a node's text as they are shown."""
    if node.shape in (Shape.FORMULA, Shape.GATHER):
        return wrap_text(node.text, width=_FORMULA_WIDTH, lines=_FORMULA_LINES)
    return (shorten(node.text, LONGEST_WORD),) if node.text else ()


def shown_name(node: Node) -> str:
    """Return the name of a node's array as it is shown; a scalar argument's with its type."""
    name = shorten(node.name, LONGEST_WORD)
    return f"{name}: {node.dtype}" if node.dtype and not node.axes else name


def frame(nodes: Sequence[Node], node: Node) -> Frame:
    """Return the room that a node takes."""
    lines = words_of(node)
    slots = tuple(bundle_height(len(nodes[each].axes)) for each in node.inputs)
    is_end = node.shape in (Shape.ARGUMENT, Shape.OUTPUT)
    name_rows = 2 * NAME_ROW if node.name and not is_end else 0.0
    out = bundle_height(len(node.axes)) + name_rows
    entering = sum(slots) + slot_gap(node) * max(0, len(slots) - 1)
    height = max(entering, out, _text_height(node, lines, entering))
    # Even heights have a middle that `dot`, which counts in whole points, can hit.
    return Frame(_width(node, lines), 2.0 * ceil(height / 2), slots, out, lines)


def _text_height(node: Node, lines: Sequence[str], entering: float) -> float:
    match node.shape:
        case Shape.FORMULA | Shape.GATHER:
            return LINE * len(lines) + 16
        case Shape.REDUCTION | Shape.NORMALISATION:
            # The words stand below the glyph, which lies on the lowest wires.
            return entering + 2 * LINE + 8
        case Shape.CONTRACTION if not label_is_beside(node):
            return entering + 2 * LINE + 8
        case _:
            return 0.0


def label_is_beside(node: Node) -> bool:
    """Return whether a contraction's words fit to the right of its cup: between two bundles."""
    return len(node.inputs) == 2


def cup_width(node: Node) -> float:
    """Return how far a contraction's widest cup reaches."""
    return 24.0 + 8.0 * (len(node.over) - 1)


def _width(node: Node, lines: Sequence[str]) -> float:
    words = widest(lines, TEXT)
    match node.shape:
        case Shape.ARGUMENT | Shape.OUTPUT:
            return max(text_width(shown_name(node), NAME), text_width(node.dtype, TEXT)) + 6
        case Shape.CONTRACTION:
            return CUP_LEFT + cup_width(node) + 8 + words + MERGE
        case Shape.REDUCTION | Shape.NORMALISATION:
            return max(CUP_LEFT + GLYPH + MERGE, words)
        case _:
            return words + 22
