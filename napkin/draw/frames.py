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

PITCH = 23.0  # between the wires of a bundle
MARGIN = 6.0  # above and below a bundle
NAME_ROW = 19.0  # for the name of an array above its bundle
RIBBON = 24.0  # for the hairlines of the woven axes above a bundle
CUP_GAP = 14.0  # between the bundles that a contraction joins: as far apart as nodes of a column
TEXT = 13.0
SMALL = 11.5
LINE = 16.0
NAME = 18.0
AXIS = 14.0  # font size of a wire's label
CUP_LEFT = 8.0
GLYPH = 32.0  # the width of a reduction's or normalisation's glyph
MERGE = 46.0  # where the wires of a contraction draw together
BAND = 26.0  # the width of a change of level
LONGEST_WORD = 24
_FORMULA_WIDTH, _FORMULA_LINES = 30, 6


@dataclass(frozen=True, slots=True)
class Frame:
    """A node's room. `slots` are the heights of the bundles that enter, `gap` the room between them.

    `rise` is room above the rest, for the ribbon of an argument or output.
    """

    width: float
    height: float
    slots: tuple[float, ...]
    gap: float
    lines: tuple[str, ...]
    rise: float = 0.0

    def slot_middles(self) -> tuple[float, ...]:
        """Return the middle of every bundle that enters, from the node's own middle."""
        total = sum(self.slots) + self.gap * max(0, len(self.slots) - 1)
        middles: list[float] = []
        top = -total / 2
        for height in self.slots:
            middles.append(top + height / 2)
            top += height + self.gap
        return tuple(middles)


def _slot_gap(nodes: Sequence[Node], node: Node) -> float:
    """Return the room between the bundles that enter a node: a contraction's arguments run straight."""
    if node.shape is not Shape.CONTRACTION:
        return 0.0
    ribbons = [_has_ribbon(nodes, nodes[each]) for each in node.inputs[1:]]
    return CUP_GAP + (RIBBON if any(ribbons) else 0.0)


def _has_ribbon(nodes: Sequence[Node], node: Node) -> bool:
    """Return whether there is room for a ribbon above: of an end, or of what a load reads."""
    is_load = node.shape is Shape.LOAD
    return bool(node.woven or (is_load and nodes[node.inputs[0]].woven))


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
    if node.shape is Shape.CONTRACTION:
        return (shorten(f"Σ {' '.join(node.over)}", LONGEST_WORD),)
    return (shorten(node.text, LONGEST_WORD),) if node.text else ()


def shown_name(node: Node) -> str:
    """Return the name of a node's array as it is shown."""
    return shorten(node.name, LONGEST_WORD)


def shown_woven(node: Node) -> str:
    """Return the woven axes of an argument or output as the ribbon's label."""
    return shorten(" ".join(node.woven), LONGEST_WORD)


def frame(nodes: Sequence[Node], node: Node) -> Frame:
    """Return the room that a node takes."""
    lines = words_of(node)
    slots = tuple(bundle_height(len(nodes[each].axes)) for each in node.inputs)
    name_rows = 2 * NAME_ROW if node.name and not node.is_end else 0.0
    # A name's row is counted twice: a node lies round its bundle's middle.
    out = bundle_height(len(node.axes)) + name_rows
    gap = _slot_gap(nodes, node)
    entering = sum(slots) + gap * max(0, len(slots) - 1)
    height = max(entering, out, _text_height(node, lines, entering))
    # Even heights have a middle that `dot`, which counts in whole points, can hit.
    rise = RIBBON if _has_ribbon(nodes, node) else 0.0
    return Frame(_width(node, lines), 2.0 * ceil(height / 2), slots, gap, lines, rise)


def _text_height(node: Node, lines: Sequence[str], entering: float) -> float:
    match node.shape:
        case Shape.FORMULA | Shape.GATHER:
            return LINE * len(lines) + 16
        case Shape.REDUCTION | Shape.NORMALISATION:
            # The words stand below the glyph, which lies on the lowest wires.
            return entering + 2 * LINE + 8
        case Shape.CONTRACTION if not label_is_beside(node):
            return entering + 2 * LINE + 8
        case Shape.ARGUMENT | Shape.OUTPUT if node.dtype:
            return NAME + 2 * LINE
        case _:
            return 0.0


def label_is_beside(node: Node) -> bool:
    """Return whether a contraction's words fit to the right of its cup: between two bundles."""
    return len(node.inputs) == 2


def cup_width(node: Node) -> float:
    """Return how far a contraction's widest cup reaches."""
    return 24.0 + 8.0 * (len(node.over) - 1)


def end_width(node: Node) -> float:
    """Return the width of the words of an argument or output."""
    return max(text_width(shown_name(node), NAME), text_width(node.dtype, SMALL)) + 6


def stub_width(node: Node) -> float:
    """Return how far the wires of an output run before its name."""
    return max(20.0, text_width(shown_woven(node), AXIS) + 10 if node.woven else 0.0)


def _width(node: Node, lines: Sequence[str]) -> float:
    words = widest(lines, TEXT)
    match node.shape:
        case Shape.ARGUMENT:
            return end_width(node)
        case Shape.OUTPUT:
            return stub_width(node) + end_width(node)
        case Shape.LOAD | Shape.SAVE:
            return BAND
        case Shape.CONTRACTION if label_is_beside(node):
            return CUP_LEFT + cup_width(node) + 8 + words + MERGE
        case Shape.CONTRACTION:
            return max(CUP_LEFT + cup_width(node) + 8 + MERGE, words)
        case Shape.REDUCTION | Shape.NORMALISATION:
            return max(CUP_LEFT + GLYPH + MERGE / 2, words)
        case _:
            return words + 22
