"""A chart with two logarithmic axes: its frame, ticks, and places for values.

In: the ranges of both axes and their units. Out: an `Axes`, which turns values into places, and the
drawing of frame and ticks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log10

from napkin.draw.shapes import Drawing, Stroke, Word, line, number, word
from napkin.draw.units import in_units

WIDTH, HEIGHT = 300.0, 190.0
LEFT_ROOM, BELOW, ABOVE = 74.0, 40.0, 26.0
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Axes:
    """The ranges of both axes, from the lowest power of ten to the highest shown."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Return the place of a value along the first axis."""
        return LEFT_ROOM + WIDTH * _share(value, self.x_low, self.x_high)

    def y(self, value: float) -> float:
        """Return the height of a value along the second axis."""
        return ABOVE + HEIGHT * (1 - _share(value, self.y_low, self.y_high))


def fit_axes(xs: list[float], ys: list[float]) -> Axes:
    """Return axes on which all values stand, with room about them."""
    return Axes(min(xs) / 1.6, max(xs) * 1.6, min(ys) / 1.8, max(ys) * 2.2)


def _share(value: float, low: float, high: float) -> float:
    return (log10(value) - log10(low)) / (log10(high) - log10(low))


def draw_axes(axes: Axes, title: str, x_title: str, x_unit: str, y_unit: str) -> Drawing:
    """Return the frame with its ticks and words."""
    right, bottom = LEFT_ROOM + WIDTH, ABOVE + HEIGHT
    strokes = [
        Stroke("scale", f"M{number(LEFT_ROOM)} {number(ABOVE)}V{number(bottom)}H{number(right)}")
    ]
    words: list[Word] = [
        word("heading", 0, 12, title),
        word("tick", LEFT_ROOM + WIDTH / 2, bottom + 34, x_title, "middle"),
    ]
    for value in _ticks(axes.x_low, axes.x_high):
        x = axes.x(value)
        strokes.append(Stroke("scale", line(x, bottom, x, bottom) + "v5"))
        words.append(word("tick", x, bottom + 18, in_units(value, x_unit), "middle"))
    for value in _ticks(axes.y_low, axes.y_high):
        y = axes.y(value)
        strokes.append(Stroke("grid", line(LEFT_ROOM, y, right, y)))
        words.append(word("tick", LEFT_ROOM - 6, y + 4, in_units(value, y_unit), "end"))
    return Drawing(tuple(strokes), words=tuple(words))


def _ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between two values, not too many."""
    first, last = ceil(log10(low) - 1e-9), floor(log10(high) + 1e-9)
    step = max(1, ceil((last - first + 1) / _TICKS))
    return [10.0**power for power in range(first, last + 1, step)]
