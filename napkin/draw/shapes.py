"""What a picture is made of: strokes, glyphs, dots and words, each with its place.

In: coordinates. Out: values that a template prints as they are. Styles are names here; what they
look like stands in the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Stroke:
    """A path of some style: `wire`, `woven`, `thread`, `divider`, a memory level's, and so on."""

    style: str
    path: str


@dataclass(frozen=True, slots=True)
class Glyph:
    """A closed shape of some style; `title` tells what it is in full."""

    style: str
    path: str
    title: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A small disc: where wires join or part."""

    x: str
    y: str


@dataclass(frozen=True, slots=True)
class Run:
    """Part of a line of text: upright or `slanted`, on the line or set as `sub` or `sup`."""

    text: str
    rise: str = ""
    slanted: bool = False


Label = tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """A line of text; `anchor` is `start`, `middle` or `end`. Its runs stand for it if it has any."""

    style: str
    x: str
    y: str
    anchor: str
    text: str
    runs: Label = ()


@dataclass(frozen=True, slots=True)
class Drawing:
    """Everything drawn, back to front within each kind."""

    strokes: tuple[Stroke, ...] = ()
    glyphs: tuple[Glyph, ...] = ()
    dots: tuple[Dot, ...] = ()
    words: tuple[Word, ...] = ()

    def __add__(self, other: Drawing) -> Drawing:
        return Drawing(
            self.strokes + other.strokes,
            self.glyphs + other.glyphs,
            self.dots + other.dots,
            self.words + other.words,
        )


@dataclass(frozen=True, slots=True)
class Panel:
    """A drawing and the box that it fills."""

    drawing: Drawing
    left: float
    top: float
    right: float
    bottom: float


def number(value: float) -> str:
    """Return a coordinate with one decimal at most.

    >>> number(3.0), number(-0.04), number(2.25)
    ('3', '0', '2.2')
    """
    rounded = round(value, 1) + 0.0  # no negative zero
    return f"{rounded:g}" if abs(rounded) < 1e5 else f"{rounded:.0f}"


def word(style: str, x: float, y: float, text: str, anchor: str = "start") -> Word:
    """Return a line of text at a point."""
    return Word(style, number(x), number(y), anchor, text)


def label(style: str, x: float, y: float, runs: Label, anchor: str = "start") -> Word:
    """Return a line of text made of runs, at a point."""
    return Word(style, number(x), number(y), anchor, plain(runs), runs)


def plain(runs: Label) -> str:
    """Return the text of a label without its typesetting.

    >>> plain((Run("g"), Run("q", "sub")))
    'gq'
    """
    return "".join(each.text for each in runs)


def dot(x: float, y: float) -> Dot:
    """Return a small disc at a point."""
    return Dot(number(x), number(y))


def line(x: float, y: float, to_x: float, to_y: float) -> str:
    """Return the path of a wire between two points, level at both."""
    return route([(x, y), (to_x, to_y)])


def route(points: Sequence[tuple[float, float]]) -> str:
    """Return the path of a wire through points: straight between level ones, else a curve."""
    first = points[0]
    steps = (_step(*a, *b) for a, b in pairwise(points))
    return f"M{number(first[0])} {number(first[1])}{''.join(steps)}"


def _step(x: float, y: float, to_x: float, to_y: float) -> str:
    if abs(y - to_y) < 0.05:
        return f"H{number(to_x)}"
    middle = number((x + to_x) / 2)
    return f"C{middle} {number(y)} {middle} {number(to_y)} {number(to_x)} {number(to_y)}"


def rounded(left: float, top: float, right: float, bottom: float, radius: float) -> str:
    """Return the path of a rectangle with round corners."""
    arc = f"a{number(radius)} {number(radius)} 0 0 1 "
    r = number(radius)
    return (
        f"M{number(left + radius)} {number(top)}H{number(right - radius)}{arc}{r} {r}"
        f"V{number(bottom - radius)}{arc}-{r} {r}H{number(left + radius)}{arc}-{r} -{r}"
        f"V{number(top + radius)}{arc}{r} -{r}Z"
    )


def polygon(*points: tuple[float, float]) -> str:
    """Return the path of a closed polygon."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points) + "Z"


def cup(x: float, width: float, top: float, bottom: float) -> str:
    """Return the path of a half ellipse from a point down to another, bulging to the right."""
    arc = f"A{number(width)} {number((bottom - top) / 2)} 0 0 1 {number(x)} {number(bottom)}"
    return f"M{number(x)} {number(top)}{arc}"
