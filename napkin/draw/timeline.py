"""Draw the pipeline chart (paper, section 7): operations as wide as their clocks, slack hatched.

In: a `Timeline`. Out: a `Panel`: a row for every share of warps that lives on a unit.
"""

from __future__ import annotations

from napkin.draw.chart import Span, Timeline
from napkin.draw.shapes import Drawing, Glyph, Panel, Stroke, Word, number, polygon, word
from napkin.draw.text import text_width, widest

_WIDTH = 660.0
_TALL, _STEP, _TOP = 26.0, 34.0, 24.0
_TEXT = 12.0
_HATCH = 7.0
_NAMES = {"tensor": "tensor cores", "sfu": "special functions", "fp32": "FP32"}


def draw_timeline(timeline: Timeline) -> Panel:
    """Return the chart of what every row does when."""
    names = [each.name for each in timeline.tracks]
    left = widest(names, _TEXT) + 12
    scale = _WIDTH / timeline.shown
    strokes: list[Stroke] = []
    glyphs: list[Glyph] = []
    words: list[Word] = [
        word("heading", 0, 12, "pipelining: clocks of one unit, operations in turn")
    ]
    y = _TOP
    for track in timeline.tracks:
        words.append(word("label", 0, y + 17, track.name))
        reached = 0.0
        for span in track.spans:
            start, end = left + span.start * scale, left + span.end * scale
            if span.start > reached:
                strokes.append(Stroke("slack", hatch(left + reached * scale, y, start, y + _TALL)))
            reached = span.end
            glyphs.append(_bar(span, start, end, y))
            if text_width(span.name, _TEXT) < end - start - 4:
                words.append(
                    word(f"on {span.pipeline}", (start + end) / 2, y + 17, span.name, "middle")
                )
        if reached < timeline.shown:
            strokes.append(
                Stroke("slack", hatch(left + reached * scale, y, left + _WIDTH, y + _TALL))
            )
        y += _STEP
    key = _draw_key(timeline, left, y)
    drawing = Drawing(tuple(strokes), tuple(glyphs), words=tuple(words)) + key
    return Panel(drawing, 0.0, 0.0, left + _WIDTH, y + 42)


def _bar(span: Span, start: float, end: float, y: float) -> Glyph:
    corners = ((start, y), (end, y), (end, y + _TALL), (start, y + _TALL))
    clocks = f"{span.name}: {span.end - span.start:,.0f} clocks of {_NAMES[span.pipeline]}"
    return Glyph(f"busy {span.pipeline}", polygon(*corners), clocks)


def hatch(left: float, top: float, right: float, bottom: float) -> str:
    """Return slanted lines that fill a rectangle."""
    height = bottom - top
    path: list[str] = []
    x = left - height + _HATCH
    while x < right:
        x1, y1 = max(x, left), bottom - max(0.0, left - x)
        x2 = min(x + height, right)
        y2 = top + (x + height - x2)
        if x2 > x1:
            path.append(f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}")
        x += _HATCH
    return "".join(path) or f"M{number(left)} {number(top)}"


def _draw_key(timeline: Timeline, left: float, y: float) -> Drawing:
    used = {span.pipeline for track in timeline.tracks for span in track.spans}
    glyphs: list[Glyph] = []
    words: list[Word] = []
    x = left
    for pipeline, name in _NAMES.items():
        if pipeline in used:
            corners = ((x, y), (x + 22, y), (x + 22, y + 13), (x, y + 13))
            glyphs.append(Glyph(f"busy {pipeline}", polygon(*corners), name))
            words.append(word("label", x + 28, y + 11, name))
            x += 28 + text_width(name, 13) + 18
    slack = Stroke("slack", hatch(x, y, x + 22, y + 13))
    words.append(word("label", x + 28, y + 11, "slack"))
    text = f"a step of all rows takes {timeline.step:,.0f} clocks of {_NAMES[timeline.busiest]}"
    words.append(word("label", left, y + 32, text))
    return Drawing((slack,), tuple(glyphs), words=tuple(words))
