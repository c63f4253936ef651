"""Draw a kernel's pseudocode beside its column table: what every line holds, moves and computes.

In: a plan. Out: SVG text that stands alone: a panel for every kernel, a row for every line. Bars are
bytes resident at each level after the line, on the scale of what a block may hold, and the clocks
of one unit that the line takes on each pipeline. Paper, section 7: the column table.

Nothing is decided here: lines and rows are those of the pseudocode (emit/pseudo.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from napkin.draw.diagram import describe
from napkin.draw.relabel import VECTOR_TYPES
from napkin.draw.shapes import Drawing, Glyph, Panel, Stroke, Word, line, polygon, rounded, word
from napkin.draw.sheet import print_sheet
from napkin.draw.text import shorten, text_width
from napkin.emit.notation import byte_size
from napkin.emit.pseudo import Line, listing
from napkin.emit.table import Row, times
from napkin.operators import Pipeline
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.program import Dot

_ROW, _HEAD = 20.0, 46.0
_CODE = 12.0 * 0.61  # the width of a character of the code's font, rather too much
_LONGEST = 64
_INDENT = 3  # characters a depth
_BAR, _TALL, _GAP = 96.0, 11.0, 18.0
_LEAST_CLOCKS = 0.5
_PIPELINES = {
    Pipeline.TENSOR: "tensor cores",
    Pipeline.SFU: "special functions",
    Pipeline.FP32: "FP32",
}


def draw_columns(plan: Plan) -> str:
    """Return the pseudocode and the column table of every kernel of a plan as SVG text."""
    panels = [[_kernel_panel(each)] for each in plan.kernels]
    title = f"{plan.diagram.name} on {plan.machine.title}: columns"
    return print_sheet(title, describe(plan.diagram), panels)


@dataclass(frozen=True, slots=True)
class _Bar:
    """A bar of a row: which column it stands in, its share of that column's width, its words."""

    column: str
    style: str
    share: float
    text: str


def _kernel_panel(kernel: KernelPlan) -> Panel:
    lines, rows = listing(kernel.program)
    by_number = {str(row.number): row for row in rows}
    clocks = {row.number: line_clocks(kernel, row) for row in rows}
    longest = max((sum(each.values()) for each in clocks.values()), default=0.0) or 1.0
    texts = [shorten(f"{' ' * _INDENT * each.depth}{each.text}", _LONGEST) for each in lines]
    left = _CODE * (5 + max(map(len, texts)))
    columns = _column_places(kernel, rows, left)
    words = [word("heading", 0, 14, f"{kernel.name}: what each line holds, moves and computes")]
    words += [word("note", x, 36, name) for name, x in columns.items()]
    drawing = Drawing(words=tuple(words))
    right = max(columns.values()) + max((text_width(_times(row), 12) for row in rows), default=0.0)
    for place, (each, text) in enumerate(zip(lines, texts, strict=True)):
        y = _HEAD + _ROW * place
        drawing += _code(each, text, y)
        if each.number:
            row = by_number[each.number]
            bars = [*_held(kernel, row), *_busy(clocks[row.number], longest)]
            drawing += _row(row, bars, columns, y)
    drawing += _loops(lines, right)
    bottom = _HEAD + _ROW * len(lines) + 8
    drawing += _key({each for found in clocks.values() for each in found}, bottom)
    return Panel(drawing, 0.0, 0.0, right, bottom + 16)


def _key(used: Collection[Pipeline], y: float) -> Drawing:
    """Draw what the bars of clocks stand for."""
    glyphs: list[Glyph] = []
    words: list[Word] = []
    x = _CODE * 5
    for pipeline, name in _PIPELINES.items():
        if pipeline in used:
            corners = ((x, y), (x + 22, y), (x + 22, y + _TALL), (x, y + _TALL))
            glyphs.append(Glyph(f"busy {pipeline.value}", polygon(*corners), name))
            words.append(word("label", x + 28, y + 10, name))
            x += 28 + text_width(name, 13) + 18
    return Drawing(glyphs=tuple(glyphs), words=tuple(words))


def _column_places(kernel: KernelPlan, rows: Sequence[Row], left: float) -> dict[str, float]:
    """Return where each column of the table begins, by its name."""
    limits = _limits(kernel)
    names = [f"{level}, of {byte_size(limits[level])}" for level in limits]
    names += ["moved", "clocks of a unit", "times"]
    widths = [_BAR + text_width("000.0 KB", 11) + 6] * len(limits)
    moved = max((text_width(_moved(row), 12) for row in rows), default=0.0)
    widths += [max(moved, text_width("moved", 12)), _BAR + text_width("0,000", 11) + 6, 0.0]
    places: dict[str, float] = {}
    x = left + _GAP
    for name, width in zip(names, widths, strict=True):
        places[name] = x
        x += max(width, text_width(name, 11.5)) + _GAP
    return places


def _limits(kernel: KernelPlan) -> dict[str, int]:
    """Return what a block may hold at every level that counts, in bytes."""
    limits = kernel.machine.limits
    threads = kernel.warps * limits.threads_per_warp
    registers = min(limits.registers_per_block, limits.registers_per_thread * threads)
    return {"shared": limits.shared_per_block, "register": 4 * registers}


def line_clocks(kernel: KernelPlan, row: Row) -> dict[Pipeline, float]:
    """Return the clocks of one unit that a line takes once, by pipeline."""
    found: dict[Pipeline, float] = {}
    for column in row.columns:
        operation = column.operation
        kind = operation.operand_type if isinstance(operation, Dot) else "fp32"
        for pipeline, number in column.work.operations:
            if kernel.machine.has_rate(pipeline, kind):
                # The rates of vector units count multiply-adds, a contraction two operations each.
                each = 2 if isinstance(operation, Dot) and kind in VECTOR_TYPES else 1
                rate = each * kernel.machine.rate(pipeline, kind)
                found[pipeline] = found.get(pipeline, 0.0) + number / rate
    return found


# --- rows -----------------------------------------------------------------------------------------


def _code(each: Line, text: str, y: float) -> Drawing:
    words = [word("code", _CODE * (5 + len(text) - len(text.lstrip())), y + 14, text.lstrip())]
    if each.number:
        words.append(word("tick", _CODE * 3.6, y + 14, each.number, "end"))
    return Drawing(words=tuple(words))


def _held(kernel: KernelPlan, row: Row) -> list[_Bar]:
    return [
        _Bar(f"{level}, of {byte_size(most)}", f"held {level}", held / most, byte_size(held))
        for level, most in _limits(kernel).items()
        for held in [row.resident.get(level, 0)]
        if held
    ]


def _busy(clocks: dict[Pipeline, float], longest: float) -> list[_Bar]:
    total = sum(clocks.values())
    if total < _LEAST_CLOCKS:
        return []
    return [
        _Bar("clocks of a unit", f"busy {each.value}", clocks[each] / longest, f"{total:,.0f}")
        for each in _PIPELINES
        if each in clocks
    ]


def _row(row: Row, bars: Sequence[_Bar], columns: dict[str, float], y: float) -> Drawing:
    """Draw a line's bars, those of one column end to end, each column's words after them."""
    glyphs: list[Glyph] = []
    ends: dict[str, tuple[float, str]] = {}
    for bar in bars:
        start = ends.get(bar.column, (columns[bar.column], ""))[0]
        end = start + max(_BAR * min(bar.share, 1.0), 1.0)
        top, bottom = y + 4, y + 4 + _TALL
        corners = ((start, top), (end, top), (end, bottom), (start, bottom))
        glyphs.append(Glyph(bar.style, polygon(*corners), f"{bar.column}: {bar.text}"))
        ends[bar.column] = (end, bar.text)
    words: list[Word] = [word("tick", end + 5, y + 14, text) for end, text in ends.values()]
    if row.moves:
        words.append(word("cell", columns["moved"], y + 14, _moved(row)))
    words.append(word("cell", columns["times"], y + 14, _times(row)))
    return Drawing(glyphs=tuple(glyphs), words=tuple(words))


def _times(row: Row) -> str:
    return times(row.columns[0], is_part=row.is_part)


def _moved(row: Row) -> str:
    return ", ".join(f"{byte_size(each.bytes)} {each.source} → {each.target}" for each in row.moves)


def _loops(lines: Sequence[Line], right: float) -> Drawing:
    """Draw a frame round every outermost loop, and a rule under every other line."""
    drawing = Drawing()
    start: int | None = None
    for place, each in enumerate([*lines, None]):
        if start is not None and (each is None or each.depth == 0):
            top, bottom = _HEAD + _ROW * start, _HEAD + _ROW * place
            outline = rounded(_CODE * 4.4, top + 1.5, right, bottom - 1.5, 6)
            drawing += Drawing((Stroke("loop", outline),))
            start = None
        if each is not None and each.is_head:
            start = place
    for place in range(1, len(lines)):
        y = _HEAD + _ROW * place
        drawing += Drawing((Stroke("grid", line(0, y, right, y)),))
    return drawing
