"""Draw the roofline, and the least transfers against memory.

In: a `Roofline` or a `Curve`. Out: a `Panel`. Labels stand where no line runs: along the axes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import sqrt

from napkin.draw.axes import ABOVE, BELOW, HEIGHT, LEFT_ROOM, WIDTH, draw_axes, fit_axes
from napkin.draw.chart import Curve, Roofline
from napkin.draw.shapes import (
    Drawing,
    Glyph,
    Label,
    Panel,
    Run,
    Stroke,
    Word,
    label,
    line,
    number,
    polygon,
    word,
)
from napkin.draw.text import text_width
from napkin.draw.units import in_units

_KEY = 15.0  # a line of the key below a chart
_MARK = 4.5
_STYLES = ("shared line", "register line", "tensor line", "global line")
_LEAST: Label = (Run("H", slanted=True), Run("*", "sup"), Run(" = "))
_SIGNS = ("circle", "square", "diamond", "triangle")


def draw_roofline(roofline: Roofline) -> Panel:
    """Return the roofline: a slope for every level up to the peak, and the kernels at each level."""
    reached = roofline.flops / roofline.seconds
    intensities = [roofline.flops / each.bytes for each in roofline.roofs]
    ridges = [roofline.peak / each.bytes_per_second for each in roofline.roofs]
    low, high = min(*intensities, *ridges) / 4, max(*intensities, *ridges) * 3
    floor = min(low * each.bytes_per_second for each in roofline.roofs)
    axes = fit_axes([low, high], [max(floor, reached / 1e3), roofline.peak])
    title = "roofline: FLOP/s by intensity at each level"
    drawing = draw_axes(axes, title, "FLOP per byte", "", "FLOP/s")
    top = axes.y(roofline.peak)
    drawing += Drawing(
        (Stroke("peak line", line(axes.x(min(ridges)), top, LEFT_ROOM + WIDTH, top)),),
        words=(word("tick", LEFT_ROOM + WIDTH, top - 5, _peak(roofline), "end"),),
    )
    y = ABOVE + HEIGHT + BELOW + 12
    right = LEFT_ROOM + WIDTH
    for place, (each, intensity, ridge) in enumerate(
        zip(roofline.roofs, intensities, ridges, strict=True)
    ):
        style, sign = _STYLES[place % 4], _SIGNS[place % 4]
        start = max(axes.x_low, axes.y_low / each.bytes_per_second)
        slope = (
            f"M{number(axes.x(start))} {number(axes.y(start * each.bytes_per_second))}"
            f"L{number(axes.x(ridge))} {number(top)}"
        )
        point = sign_at(sign, axes.x(intensity), axes.y(reached), f"at {each.name}")
        text = f"{each.name} {in_units(each.bytes_per_second, 'B/s')}; {intensity:,.0f} FLOP/B here"
        key = sign_at(sign, 30, y - 4, each.name)
        strokes = (Stroke(style, slope), Stroke(style, line(LEFT_ROOM - 66, y - 4, 22, y - 4)))
        drawing += Drawing(strokes, (point, key), words=(word("label", 40, y, text),))
        right = max(right, 40 + text_width(text, 13))
        y += _KEY
    share = f"reached {in_units(reached, 'FLOP/s')}, {reached / roofline.peak:.0%} of the peak"
    drawing += Drawing(words=(word("label", 40, y, share),))
    return Panel(drawing, 0.0, 0.0, right, y + 4)


def _peak(roofline: Roofline) -> str:
    return f"{roofline.peak_name} {in_units(roofline.peak, 'FLOP/s')}"


def draw_curve(curve: Curve) -> Panel:
    """Return the least transfers by memory, the machine's levels marked, and the plan."""
    xs = [each for each, _ in curve.points]
    ys = [each for _, each in curve.points]
    axes = fit_axes([*xs, curve.own[0]], [*ys, curve.own[1], curve.once])
    drawing = draw_axes(axes, "transfers H by memory M", "M of a group", "B", "B")
    path = "L".join(f"{number(axes.x(x))} {number(axes.y(y))}" for x, y in curve.points)
    floor = axes.y(curve.once)
    strokes = [
        Stroke("curve", f"M{path}"),
        Stroke("divider", line(LEFT_ROOM, floor, LEFT_ROOM + WIDTH, floor)),
    ]
    words = [word("tick", LEFT_ROOM + 6, floor + 13, "every array once")]
    words += _mark_words(curve, axes.x, strokes)
    glyph = sign_at("circle", axes.x(curve.own[0]), axes.y(curve.own[1]), "the plan")
    y = ABOVE + HEIGHT + BELOW + 12
    text = f"the plan: {in_units(curve.own[1], 'B')} with {in_units(curve.own[0], 'B')} on chip"
    words.append(word("label", 40, y, text))
    if curve.formula:
        words.append(
            label("label", 40, y + _KEY, (*_LEAST, *typeset(curve.formula), Run(" in values")))
        )
    key = sign_at("circle", 30, y - 4, "the plan")
    widths = [text_width(each, 13) for each in (text, f"H = {curve.formula} in values")]
    drawing += Drawing(tuple(strokes), (glyph, key), words=tuple(words))
    return Panel(drawing, 0.0, 0.0, max(LEFT_ROOM + WIDTH, 40 + max(widths)), y + _KEY + 4)


def _mark_words(curve: Curve, place: Callable[[float], float], strokes: list[Stroke]) -> list[Word]:
    """Return the names of the marks, whose lines are added to the strokes."""
    words: list[Word] = []
    rows: list[float] = []
    for each in sorted(curve.marks, key=lambda mark: mark.memory):
        x = place(each.memory)
        strokes.append(Stroke("mark", line(x, ABOVE, x, ABOVE) + f"V{number(ABOVE + HEIGHT)}"))
        width = text_width(each.name, 11)
        # A name that would reach into its neighbour's takes the next row down.
        row = next((r for r, end in enumerate(rows) if end < x - width - 4), len(rows))
        rows[row : row + 1] = [x]
        words.append(word("tick", x - 4, ABOVE + 12 + 14 * row, each.name, "end"))
    return words


def sign_at(sign: str, x: float, y: float, title: str) -> Glyph:
    """Return a small filled sign: its shape tells it from others where colour does not."""
    r = _MARK
    corners = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "diamond": ((0, -r * sqrt(2)), (r * sqrt(2), 0), (0, r * sqrt(2)), (-r * sqrt(2), 0)),
        "triangle": ((0, -r * 1.3), (r * 1.2, r), (-r * 1.2, r)),
    }
    if sign in corners:
        path = polygon(*((x + dx, y + dy) for dx, dy in corners[sign]))
    else:
        arc = f"a{r} {r} 0 1 0 "
        path = f"M{number(x - r)} {number(y)}{arc}{number(2 * r)} 0{arc}-{number(2 * r)} 0Z"
    return Glyph("sign", path, title)


def typeset(formula: str) -> Label:
    """Return a formula in Python's notation as a line of text: powers raised, products side by side.

    >>> [(each.text, each.rise) for each in typeset("a**2*b")]
    [('a', ''), ('2', 'sup'), ('\u2009', ''), ('b', '')]
    """
    runs: list[Run] = []
    for power, names, rest in re.findall(
        r"(?:\*\*|\^)(\w+|\([^()]*\))|([A-Za-z]\w*)|([^A-Za-z^*]+|\*)", formula
    ):
        if power:
            runs.append(Run(power.strip("()"), "sup"))
        elif names:
            base, _, below = names.partition("_")
            runs.append(Run(base, slanted=len(base) <= 2))
            runs += [Run(below, "sub", True)] if below else []
        else:
            runs.append(Run("\u2009" if rest == "*" else rest))
    return tuple(runs)
