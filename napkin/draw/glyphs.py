"""Draw one node: the wires inside it, its glyph and its words.

In: a node, where it lies, and the heights of its wires at both sides. Out: a `Drawing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from napkin.draw.frames import (
    CUP_LEFT,
    GLYPH,
    LINE,
    MARGIN,
    MERGE,
    Frame,
    cup_width,
    label_is_beside,
    shown_name,
)
from napkin.draw.nodes import Node, Shape
from napkin.draw.shapes import (
    Dot,
    Drawing,
    Glyph,
    Stroke,
    Word,
    cup,
    dot,
    line,
    polygon,
    route,
    word,
)

_BORDER = 10.0  # of a box, above and below its wires
_SLANT = 9.0  # of a hexagon's sides
_REACH = 11.0  # how far a glyph stands out above and below the wires that it works along


@dataclass(frozen=True, slots=True)
class Site:
    """Where a node lies. `entering` and `leaving` are the heights of its wires by axis.

    A bundle without axes is a thread, whose one height stands under the empty name.
    """

    node: Node
    frame: Frame
    left: float
    middle: float
    entering: tuple[Mapping[str, float], ...]
    leaving: Mapping[str, float]
    woven: frozenset[str]

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.frame.width

    def style(self, axis: str) -> str:
        """Return the style of a wire."""
        return stroke_style(axis, self.woven)

    def ends_of(self, axis: str) -> tuple[float, ...]:
        """Return the heights at which an axis enters."""
        return tuple(each[axis] for each in self.entering if axis in each)


def stroke_style(axis: str, woven: frozenset[str]) -> str:
    """Return the style of an axis's wire; no axis, no name: a thread."""
    if not axis:
        return "thread"
    return "woven" if axis in woven else "wire"


def draw_node(site: Site) -> Drawing:
    """Return the drawing of a node between its left and right edges."""
    match site.node.shape:
        case Shape.ARGUMENT:
            return _argument(site)
        case Shape.OUTPUT:
            return _output(site)
        case Shape.CONTRACTION:
            return _contraction(site)
        case Shape.REDUCTION | Shape.NORMALISATION:
            return _along(site)
        case Shape.FORMULA | Shape.GATHER:
            return _box(site)
        case _:
            assert_never(site.node.shape)


# --- ends -----------------------------------------------------------------------------------------


def _argument(site: Site) -> Drawing:
    names = [word("end", site.left, site.middle + 6, shown_name(site.node))]
    if site.node.dtype and site.node.axes:
        names.append(word("note", site.left, site.middle + 6 + LINE, site.node.dtype))
    return Drawing(words=tuple(names))


def _output(site: Site) -> Drawing:
    strokes = tuple(
        Stroke(site.style(axis), line(site.left, each[axis], site.left + 10, each[axis]))
        for each in site.entering
        for axis in each
    )
    left = site.left + 16
    names = [word("end", left, site.middle + 6, shown_name(site.node))]
    if site.node.dtype and site.node.axes:
        names.append(word("note", left, site.middle + 6 + LINE, site.node.dtype))
    return Drawing(strokes, words=tuple(names))


# --- boxes ----------------------------------------------------------------------------------------


def _box(site: Site) -> Drawing:
    heights = [y for each in (*site.entering, site.leaving) for y in each.values()]
    text = len(site.frame.lines) * LINE + 14
    top = min([*(y - _BORDER for y in heights), site.middle - text / 2])
    bottom = max([*(y + _BORDER for y in heights), site.middle + text / 2])
    slant = _SLANT if site.node.shape is Shape.GATHER else 0.0
    outline = polygon(
        (site.left, site.middle),
        (site.left + slant, top),
        (site.right - slant, top),
        (site.right, site.middle),
        (site.right - slant, bottom),
        (site.left + slant, bottom),
    )
    # The sides of a hexagon lean away from the wires, which run on beneath it.
    ends = [(site.left, each) for each in site.entering] + [(site.right - slant, site.leaving)]
    strokes = tuple(
        Stroke(site.style(axis), line(x, y, x + slant, y))
        for x, each in ends
        for axis, y in each.items()
        if slant
    )
    first = site.middle - (len(site.frame.lines) - 1) * LINE / 2 + 4
    words = tuple(
        word("formula", (site.left + site.right) / 2, first + place * LINE, each, "middle")
        for place, each in enumerate(site.frame.lines)
    )
    glyph = Glyph(site.node.shape.value, outline, site.node.text)
    return Drawing(strokes, (glyph,), words=words)


# --- reductions and normalisations ----------------------------------------------------------------


def _along(site: Site) -> Drawing:
    """Draw a glyph across the wires that are worked along; the others pass it by."""
    worked = [y for axis in site.node.over for y in site.ends_of(axis)]
    top, bottom = min(worked) - _REACH, max(worked) + _REACH
    left = site.left + CUP_LEFT
    tip = left + GLYPH
    if site.node.shape is Shape.REDUCTION:
        path = cup(left, GLYPH * 0.6, top, bottom) + "Z"
    else:
        path = polygon((left, top), (tip, (top + bottom) / 2), (left, bottom))
    strokes: list[Stroke] = []
    for axis in site.entering[0]:
        (y,) = site.ends_of(axis)
        if axis not in site.node.over:
            points = [(site.left, y), (tip, y), (site.right, site.leaving[axis])]
            strokes.append(Stroke(site.style(axis), route(points)))
            continue
        strokes.append(Stroke(site.style(axis), line(site.left, y, left, y)))
        if axis in site.leaving:
            end = (site.right, site.leaving[axis])
            strokes.append(Stroke(site.style(axis), line(tip, (top + bottom) / 2, *end)))
    if "" in site.leaving:
        start = (left + GLYPH * 0.6, (top + bottom) / 2)
        strokes.append(Stroke("thread", line(*start, site.right, site.leaving[""])))
    glyph = Glyph(site.node.shape.value, path, site.node.text)
    is_lowest = bottom > max(site.entering[0].values())
    label = word(
        "label", site.left, bottom + LINE - 2 if is_lowest else top - 5, site.frame.lines[0]
    )
    return Drawing(tuple(strokes), (glyph,), (), (label,))


# --- contractions ---------------------------------------------------------------------------------


def _contraction(site: Site) -> Drawing:
    """Draw a cup for every axis that is summed over; wires of one axis draw together after it."""
    strokes: list[Stroke] = []
    glyphs: list[Glyph] = []
    dots: list[Dot] = []
    mouth = site.left + CUP_LEFT
    for axis in site.node.over:
        ends = site.ends_of(axis)
        width = cup_width(site.node) - 8.0 * site.node.over.index(axis)
        strokes += [Stroke(site.style(axis), line(site.left, y, mouth, y)) for y in ends]
        if len(ends) == 2:
            path = cup(mouth, width, min(ends), max(ends))
            glyphs.append(Glyph("contraction", path, site.node.text))
            continue
        # One wire ends, or several meet, in a point.
        meeting = (mouth + width, sum(ends) / len(ends))
        strokes += [Stroke(site.style(axis), line(mouth, y, *meeting)) for y in ends]
        dots.append(dot(*meeting))
    merge = site.right - MERGE
    for axis, y in site.leaving.items():
        ends = site.ends_of(axis) if axis else ()
        for end in ends:
            points = [(site.left, end), (merge, end), (site.right, y)]
            strokes.append(Stroke(site.style(axis), route(points)))
        dots += [dot(site.right, y)] if len(ends) > 1 else []
    strokes += _threads(site, merge)
    return Drawing(tuple(strokes), tuple(glyphs), tuple(dots), (_cup_label(site),))


def _threads(site: Site, merge: float) -> list[Stroke]:
    """Return the threads of a contraction: of scalars that enter, and of a scalar result."""
    start = site.left + CUP_LEFT + cup_width(site.node)
    entering = [
        Stroke("thread", line(site.left, each[""], start, _cup_middle(site)))
        for each in site.entering
        if "" in each
    ]
    if "" not in site.leaving:
        return entering
    return [*entering, Stroke("thread", line(merge, site.middle, site.right, site.leaving[""]))]


def _cup_middle(site: Site) -> float:
    ends = [y for axis in site.node.over for y in site.ends_of(axis)]
    return (min(ends) + max(ends)) / 2


def _cup_label(site: Site) -> Word:
    text = site.frame.lines[0]
    if label_is_beside(site.node):
        left = site.left + CUP_LEFT + cup_width(site.node) + 6
        return word("label", left, _cup_middle(site) + 4, text)
    lowest = max(y for each in site.entering for y in each.values())
    return word("label", site.left, lowest + MARGIN + LINE, text)
