"""Draw a cost picture: one page of bars, with what binds marked, and the plan in a few lines.

In: a `CostView`. Out: SVG text that stands alone. It knows no plan and no machine: whoever fills
the view decides what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor, isfinite, log10

from napkin.draw.chart import Curve, Rival, Roofline, Timeline
from napkin.draw.curves import draw_curve, draw_roofline
from napkin.draw.shapes import Drawing, Glyph, Panel, Stroke, Word, number, polygon, word
from napkin.draw.sheet import print_sheet
from napkin.draw.text import shorten, text_width, widest, wrap_text
from napkin.draw.timeline import draw_timeline
from napkin.draw.units import in_time

_MARGIN = 20.0
_NAME, _TEXT, _SMALL, _HEADLINE, _TITLE = 13.0, 12.0, 11.5, 15.0, 19.0
_BAR, _STEP, _GROUP_ROW, _LINE = 18.0, 28.0, 26.0, 17.0
_LONGEST_BAR = 320.0
_CHARACTERS = 88  # of a line of text
_LONGEST_NAME, _LONGEST_LABEL = 24, 72
_MOST_BARS, _MOST_ROWS = 40, 40


@dataclass(frozen=True, slots=True)
class CostBar:
    """One bar: what is busy, how long, a few words with numbers and units, and whether it binds.

    Bars of one `group` that follow one another stand together under its name.
    """

    name: str
    seconds: float
    label: str
    is_binding: bool
    group: str = ""


@dataclass(frozen=True, slots=True)
class CostView:
    """What a cost picture shows; `rows` are pairs of a heading and a line of the plan's summary.

    `parts` are what the prediction is made of.
    """

    title: str
    machine: str
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    bars: tuple[CostBar, ...]
    rows: tuple[tuple[str, str], ...]
    headline: str
    roofline: Roofline | None = None
    curve: Curve | None = None
    timeline: Timeline | None = None
    rivals: tuple[Rival, ...] = ()
    parts: tuple[CostBar, ...] = ()


def draw_cost(view: CostView) -> str:
    """Return a cost picture as SVG text.

    >>> bar = CostBar("tensor cores", 2e-3, "2 PFLOP at 1 PFLOP/s", True)
    >>> view = CostView("matmul", "H100", (("m", 64),), "bf16", (bar,), (), "2 ms")
    >>> draw_cost(view).startswith("<svg ")
    True
    """
    rows: list[list[Panel]] = [[_draw_heading(view)], [_draw_chart(view.bars[:_MOST_BARS])]]
    rows += [[_draw_chart(view.parts[:_MOST_BARS])]] if view.parts else []
    curves: list[Panel] = []
    if view.roofline is not None:
        curves.append(draw_roofline(view.roofline))
    if view.curve is not None:
        curves.append(draw_curve(view.curve))
    rows += [curves] if curves else []
    if view.timeline is not None:
        rows.append([draw_timeline(view.timeline)])
    if len(view.rivals) > 1:
        rows.append([_draw_rivals(view.rivals)])
    rows += [[_draw_rows(view.rows[:_MOST_ROWS])]] if view.rows else []
    return print_sheet(
        f"cost of {view.title}", f"{view.headline}; {view.machine}", rows, margin=_MARGIN
    )


# --- words above and below ------------------------------------------------------------------------


def _draw_heading(view: CostView) -> Panel:
    title = shorten(f"cost of {view.title}", 60)
    sizes = " ".join(f"{axis}={size}" for axis, size in view.sizes)
    facts = "; ".join(each for each in (view.machine, view.dtype, sizes) if each)
    lines = wrap_text(facts, width=_CHARACTERS, lines=3)
    headline = shorten(view.headline, 72)
    below = 40 + _LINE * len(lines)
    words = (
        word("title", 0, 18, title),
        *(word("note", 0, 40 + _LINE * place, each) for place, each in enumerate(lines)),
        word("headline", 0, below + 12, headline),
    )
    widths = (text_width(title, _TITLE) * 1.1, widest(lines, _SMALL))
    right = max(*widths, text_width(headline, _HEADLINE))
    return Panel(Drawing(words=words), 0.0, 0.0, right, below + 14)


def _draw_rows(rows: Sequence[tuple[str, str]]) -> Panel:
    names = [shorten(name, _LONGEST_NAME) for name, _ in rows]
    left = widest(names, _TEXT) * 1.1 + 16
    words: list[Word] = []
    y, right = 12.0, left
    for name, (_, text) in zip(names, rows, strict=True):
        lines = wrap_text(text, width=_CHARACTERS, lines=4)
        words.append(word("heading", 0, y, name))
        words += [word("label", left, y + _LINE * place, each) for place, each in enumerate(lines)]
        right = max(right, left + widest(lines, _TEXT))
        y += _LINE * len(lines) + 3
    return Panel(Drawing(words=tuple(words)), 0.0, 0.0, right, y)


# --- bars -----------------------------------------------------------------------------------------


def _draw_chart(bars: Sequence[CostBar]) -> Panel:
    names = [shorten(each.name, _LONGEST_NAME) for each in bars]
    left = widest(names, _NAME) + 14
    longest = max((_length(each) for each in bars), default=0.0) or 1.0
    words: list[Word] = []
    glyphs: list[Glyph] = []
    y, group, right = 0.0, "", left + _LONGEST_BAR
    for name, bar in zip(names, bars, strict=True):
        if bar.group != group:
            group = bar.group
            y += _GROUP_ROW
            words.append(word("note", 0, y - 6, shorten(group, _LONGEST_NAME)))
        end = left + _LONGEST_BAR * _length(bar) / longest
        corners = ((left, y), (end, y), (end, y + _BAR), (left, y + _BAR))
        style = "binding" if bar.is_binding else "bar"
        glyphs.append(Glyph(style, polygon(*corners), f"{bar.name}: {bar.label}"))
        words.append(word("bar", 0, y + 14, name))
        said, reach = _say(bar, end + 8, y + 14)
        words += said
        right = max(right, reach)
        y += _STEP
    scale = _draw_scale(longest, left, y)
    drawing = Drawing(glyphs=tuple(glyphs), words=tuple(words)) + scale
    return Panel(drawing, 0.0, 0.0, right, y + 20)


def _draw_rivals(rivals: Sequence[Rival]) -> Panel:
    """Draw a plan beside others, as long as they are predicted to take."""
    fastest = min(each.seconds for each in rivals)
    bars = tuple(
        CostBar(each.name, each.seconds, each.label, False, "plan against plan") for each in rivals
    )
    panel = _draw_chart(bars)
    slower = max(each.seconds for each in rivals) / fastest
    words = (
        word("note", 0, panel.bottom + 16, f"the slowest takes {slower:.2f} times the fastest"),
    )
    return replace(panel, drawing=panel.drawing + Drawing(words=words), bottom=panel.bottom + 18)


def _length(bar: CostBar) -> float:
    """Return a bar's length in seconds; what is no length has none."""
    return bar.seconds if isfinite(bar.seconds) and bar.seconds > 0 else 0.0


def _say(bar: CostBar, left: float, y: float) -> tuple[list[Word], float]:
    """Return the words after a bar: its time, what it is made of, and whether it binds."""
    texts = [("heading", in_time(bar.seconds)), ("label", shorten(bar.label, _LONGEST_LABEL))]
    if bar.is_binding:
        texts.append(("binds", "binds"))
    words: list[Word] = []
    for style, text in texts:
        if text:
            words.append(word(style, left, y, text))
            left += text_width(text, _TEXT) * (1.0 if style == "label" else 1.12) + 9
    return words, left


def _draw_scale(longest: float, left: float, y: float) -> Drawing:
    """Draw the line of time below the bars, with a tick at every round time."""
    step = _round_step(longest / 2)
    right = left + _LONGEST_BAR
    strokes = [Stroke("scale", f"M{number(left)} {number(y)}H{number(right)}")]
    words: list[Word] = []
    for count in range(floor(longest / step + 1e-9) + 1):
        x = left + _LONGEST_BAR * count * step / longest
        strokes.append(Stroke("scale", f"M{number(x)} {number(y)}v5"))
        words.append(word("tick", x, y + 18, in_time(count * step), "middle"))
    return Drawing(tuple(strokes), words=tuple(words))


def _round_step(length: float) -> float:
    """Return the greatest of 1, 2 and 5 by a power of ten that is no longer.

    >>> _round_step(0.37), _round_step(7)
    (0.2, 5.0)
    """
    power = 10.0 ** floor(log10(length))
    return max(each * power for each in (1.0, 2.0, 5.0) if each == 1 or each * power <= length)
