"""Draw one node: the wires inside it, its glyph and its words.

In: a node, where it lies, and the heights and styles of its wires at both sides. Out: a `Drawing`.
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
    stub_width,
)
from napkin.draw.look import TENSOR, Look
from napkin.draw.nodes import Node, Shape
from napkin.draw.shapes import (
    Dot,
    Drawing,
    Glyph,
    Run,
    Stroke,
    Word,
    cup,
    dot,
    label,
    line,
    polygon,
    route,
    word,
)

_BORDER = 10.0  # of a box, above and below its wires
_SLANT = 9.0  # of a hexagon's sides
_REACH = 14.0  # how far a glyph stands out above and below the wires that it works along


@dataclass(frozen=True, slots=True)
class Site:
    """Where a node lies. `entering` and `leaving` are the heights of its wires by axis.

    A bundle without axes is a thread, whose one height stands under the empty name. `place` is the
    node's, `unit` where a contraction of a relabelled picture is computed.
    """

    place: int
    node: Node
    frame: Frame
    left: float
    middle: float
    entering: tuple[Mapping[str, float], ...]
    leaving: Mapping[str, float]
    look: Look
    unit: str = ""

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.frame.width

    def style(self, axis: str) -> str:
        """Return the style of a wire that leaves."""
        return self.look.style(self.place, axis)

    def style_into(self, slot: int, axis: str) -> str:
        """Return the style of a wire that enters."""
        return self.look.style(self.node.inputs[slot], axis)

    def ends_of(self, axis: str) -> tuple[float, ...]:
        """Return the heights at which an axis enters."""
        return tuple(each[axis] for each in self.entering if axis in each)

    def styled_ends(self, axis: str) -> tuple[tuple[str, float], ...]:
        """Return the style and the height of every wire of an axis that enters."""
        return tuple(
            (self.style_into(slot, axis), each[axis])
            for slot, each in enumerate(self.entering)
            if axis in each
        )


def draw_node(site: Site) -> Drawing:
    """Return the drawing of a node between its left and right edges."""
    match site.node.shape:
        case Shape.ARGUMENT:
            return _end_words(site, site.left)
        case Shape.OUTPUT:
            return _output(site)
        case Shape.LOAD | Shape.SAVE:
            return _change_of_level(site)
        case Shape.CONTRACTION:
            return _contraction(site)
        case Shape.REDUCTION | Shape.NORMALISATION:
            return _along(site)
        case Shape.FORMULA | Shape.GATHER:
            return _box(site)
        case _:
            assert_never(site.node.shape)


# --- ends -----------------------------------------------------------------------------------------


def _end_words(site: Site, left: float) -> Drawing:
    names = [word("end", left, site.middle + 6, shown_name(site.node))]
    if site.node.dtype:
        names.append(word("note", left, site.middle + 6 + LINE, site.node.dtype))
    return Drawing(words=tuple(names))


def _output(site: Site) -> Drawing:
    end = site.left + stub_width(site.node)
    strokes = tuple(
        Stroke(site.style_into(slot, axis), line(site.left, y, end, y))
        for slot, each in enumerate(site.entering)
        for axis, y in each.items()
    )
    return Drawing(strokes) + _end_words(site, end + 6)


def _change_of_level(site: Site) -> Drawing:
    """Draw wires that change their level half way."""
    middle = (site.left + site.right) / 2
    strokes: list[Stroke] = []
    for axis, y in site.leaving.items():
        strokes.append(Stroke(site.style_into(0, axis), line(site.left, y, middle, y)))
        strokes.append(Stroke(site.style(axis), line(middle, y, site.right, y)))
    return Drawing(tuple(strokes))


# --- boxes ----------------------------------------------------------------------------------------


def _box(site: Site) -> Drawing:
    heights = [y for each in (*site.entering, site.leaving) for y in each.values()]
    text = len(site.frame.lines) * LINE + 12
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
    strokes: list[Stroke] = []
    if slant:
        for slot, each in enumerate(site.entering):
            strokes += [
                Stroke(site.style_into(slot, axis), line(site.left, y, site.left + slant, y))
                for axis, y in each.items()
            ]
        strokes += [
            Stroke(site.style(axis), line(site.right - slant, y, site.right, y))
            for axis, y in site.leaving.items()
        ]
    first = site.middle - (len(site.frame.lines) - 1) * LINE / 2 + 4
    words = tuple(
        word("formula", (site.left + site.right) / 2, first + place * LINE, each, "middle")
        for place, each in enumerate(site.frame.lines)
    )
    glyph = Glyph(site.node.shape.value, outline, site.node.text)
    return Drawing(tuple(strokes), (glyph,), words=words)


# --- reductions and normalisations ----------------------------------------------------------------


def _along(site: Site) -> Drawing:
    """Draw a glyph across the wires that are worked along; the others pass it by."""
    worked = [y for axis in site.node.over for y in site.ends_of(axis)]
    top, bottom = min(worked) - _REACH, max(worked) + _REACH
    left = site.left + CUP_LEFT
    tip = left + GLYPH
    if site.node.shape is Shape.REDUCTION:
        path = cup(left, GLYPH * 0.6, top + 3, bottom - 3) + "Z"
    else:
        path = polygon((left, top), (tip, (top + bottom) / 2), (left, bottom))
    strokes: list[Stroke] = []
    for axis in site.entering[0]:
        (y,) = site.ends_of(axis)
        into = site.style_into(0, axis)
        if axis not in site.node.over:
            strokes.append(Stroke(into, line(site.left, y, tip, y)))
            strokes.append(Stroke(site.style(axis), line(tip, y, site.right, site.leaving[axis])))
            continue
        strokes.append(Stroke(into, line(site.left, y, left, y)))
        if axis in site.leaving:
            end = (site.right, site.leaving[axis])
            strokes.append(Stroke(site.style(axis), line(tip, (top + bottom) / 2, *end)))
    if "" in site.leaving:
        start = (left + GLYPH * 0.6, (top + bottom) / 2)
        strokes.append(Stroke("thread", line(*start, site.right, site.leaving[""])))
    glyph = Glyph(site.node.shape.value, path, site.node.text)
    is_lowest = bottom > max(site.entering[0].values())
    y = bottom + LINE - 2 if is_lowest else top - 5
    words = word("label", site.left, y, site.frame.lines[0])
    return Drawing(tuple(strokes), (glyph,), (), (words,))


# --- contractions ---------------------------------------------------------------------------------


def _contraction(site: Site) -> Drawing:
    """Draw a cup for every axis that is summed over; wires of one axis draw together after it."""
    strokes: list[Stroke] = []
    glyphs: list[Glyph] = []
    dots: list[Dot] = []
    mouth = site.left + CUP_LEFT
    style = f"cup {site.unit}" if site.unit else "contraction"
    for axis in site.node.over:
        ends = site.ends_of(axis)
        width = cup_width(site.node) - 8.0 * site.node.over.index(axis)
        strokes += [
            Stroke(wire, line(site.left, y, mouth, y)) for wire, y in site.styled_ends(axis)
        ]
        if len(ends) == 2:
            path = cup(mouth, width, min(ends), max(ends))
            glyphs.append(Glyph(style, path, site.node.text))
            continue
        # One wire ends, or several meet, in a point.
        meeting = (mouth + width, sum(ends) / len(ends))
        strokes += [Stroke(wire, line(mouth, y, *meeting)) for wire, y in site.styled_ends(axis)]
        dots.append(dot(*meeting))
    merge = site.right - MERGE
    for axis, y in site.leaving.items():
        ends = site.ends_of(axis) if axis else ()
        for wire, end in site.styled_ends(axis) if axis else ():
            strokes.append(Stroke(wire, line(site.left, end, mouth, end)))
            points = [(mouth, end), (merge, end), (site.right, y)]
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
    sign, _, axes = site.frame.lines[0].partition(" ")
    runs = (Run(f"{sign} "), Run(axes, slanted=True))
    if label_is_beside(site.node):
        left = site.left + CUP_LEFT + cup_width(site.node) + 6
        return label("label", left, _cup_middle(site) + 4, runs)
    lowest = max(y for each in site.entering for y in each.values())
    return label("label", site.left, lowest + MARGIN + LINE, runs)


def unit_of(look: Look, place: int, *, is_tensor: bool) -> str:
    """Return where a contraction runs in a relabelled picture, nothing in a plain one."""
    if not look.levels:
        return ""
    return TENSOR if is_tensor else look.levels[place]
