"""Draw a plan on its diagram: levels by colour and pattern, tiles, loads and saves, the loop, M, H.

In: a plan. Out: SVG text that stands alone: a panel for every kernel. Notation: paper section 2. A
frame round everything is one group; the dotted frame inside it is the stream's body.
"""

from __future__ import annotations

from dataclasses import replace

from napkin.draw.bundles import draw_ribbons
from napkin.draw.cells import Row, rows_of, symbols_of, typeset
from napkin.draw.diagram import (
    MOST_NODES,
    describe,
    draw_scene,
    extent,
    plate_edges,
    too_many,
)
from napkin.draw.look import GLOBAL, REGISTER, SHARED, TENSOR
from napkin.draw.regions import (
    CAPTION,
    PAD,
    draw_bands,
    draw_group,
    draw_loop,
    unmarked,
    with_loop_room,
)
from napkin.draw.relabel import Relabelling, relabel
from napkin.draw.scene import LEFT, Column, Scene, set_scene
from napkin.draw.shapes import (
    Drawing,
    Label,
    Panel,
    Run,
    Stroke,
    Word,
    label,
    line,
    plain,
    word,
)
from napkin.draw.sheet import print_sheet
from napkin.draw.text import label_width, text_width
from napkin.draw.units import in_units
from napkin.emit.notation import byte_size
from napkin.schedule.count import peak, totals
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.program import AxisRole
from napkin.schedule.trips import multiplicity

_CELL = 12.0
_ROW = 20.0
_APART = 48  # between cells of a row: readers' fonts differ in width
_LEGEND = 24.0
_NAMES = {"global": "global", "shared": "shared", "register": "registers", "tensor": "tensor cores"}


def draw_plan(plan: Plan) -> str:
    """Return the picture of a plan as SVG text: the relabelled diagram of every kernel.

    Raises NapkinError (N610) where Graphviz's program `dot` is not installed.
    """
    panels: list[Panel] = []
    for number, kernel in enumerate(plan.kernels):
        found = relabel(kernel)
        if len(found.nodes) > MOST_NODES:
            return too_many(plan.diagram, len(found.nodes))
        title = f"kernel {number + 1} of {len(plan.kernels)}: {kernel.name}"
        panels.append(plan_panel(found, title if len(plan.kernels) > 1 else ""))
    title = f"{plan.diagram.name} on {plan.machine.title}"
    return print_sheet(title, _describe(plan), [[each] for each in panels])


def _describe(plan: Plan) -> str:
    """Return the plan in words, for who cannot see the picture."""
    lines = [describe(plan.diagram)]
    for kernel in plan.kernels:
        tiles = ", ".join(f"{each.axis} {each.role} by {each.tile}" for each in kernel.printed.axes)
        levels = ", ".join(f"{name} {size} B" for name, size in peak(kernel.printed))
        lines.append(f"{kernel.name}: {tiles}; a block holds {levels}")
    return "\n".join(lines)


def plan_panel(found: Relabelling, title: str = "") -> Panel:
    """Return the relabelled diagram of one kernel, with its table and legend."""
    scene = set_scene(found.nodes, found.look, found.tensor)
    rows = rows_of(found, scene.layout)
    cells = _typeset_cells(found, rows)
    scene = replace(scene, columns=_widened(with_loop_room(scene, found), cells))
    top, bottom = extent(scene)
    edges = plate_edges(scene)
    drawing = draw_bands(scene, found, top, bottom)
    drawing += draw_loop(scene, found, top, bottom)
    drawing += draw_scene(scene)
    drawing += draw_group(found, edges, top, bottom)
    drawing += draw_ribbons(scene, *edges)
    head = top - CAPTION - PAD - 8 - _ROW * len(rows)
    table = _draw_table(scene, found, rows, cells, head)
    drawing += table.drawing
    foot = _draw_foot(found, table.left, bottom + PAD + _LEGEND)
    drawing += foot.drawing
    if title:
        head -= 24
        drawing += Drawing(words=(word("heading", table.left, head + 12, title),))
    right = max(scene.columns[-1].end, table.right, foot.right)
    return Panel(drawing, min(LEFT, table.left), head - 4, right, foot.bottom)


# --- the table ------------------------------------------------------------------------------------

_Cells = dict[tuple[int, int], Label]  # by row and column


def _typeset_cells(found: Relabelling, rows: tuple[Row, ...]) -> _Cells:
    labels = symbols_of(found).labels
    return {
        (number, column): typeset(formula, labels)
        for number, row in enumerate(rows)
        for column, formula in row.cells
    }


def _widened(columns: tuple[Column, ...], cells: _Cells) -> tuple[Column, ...]:
    """Return the columns so far apart that the cells of a row stand side by side."""
    made: list[Column] = []
    shift = 0.0
    ends: dict[int, float] = {}
    for number, column in enumerate(columns):
        here = {row: runs for (row, at), runs in cells.items() if at == number}
        middle = (column.right + column.end) / 2 + shift
        need = [
            ends.get(row, -1e9) + _APART + label_width(runs, _CELL) / 2 - middle
            for row, runs in here.items()
        ]
        shift += max(0.0, *need) if need else 0.0
        middle = (column.right + column.end) / 2 + shift
        for row, runs in here.items():
            ends[row] = middle + label_width(runs, _CELL) / 2
        made.append(Column(column.left + shift, column.right + shift, column.end + shift))
    return tuple(made)


def _draw_table(
    scene: Scene, found: Relabelling, rows: tuple[Row, ...], cells: _Cells, top: float
) -> Panel:
    names = max(text_width(each.name, _CELL) for each in rows)
    left = min(LEFT, scene.columns[1].left - 16 - names)
    sums = _sums(found, rows)
    right = max(
        scene.columns[-1].left,
        *(_reach(scene, column, runs) for (_, column), runs in cells.items()),
    )
    right += _APART
    end = right + max(text_width(each, _CELL) for each in sums)
    words: list[Word] = []
    strokes: list[Stroke] = []
    for number, row in enumerate(rows):
        y = top + _ROW * number + 14
        words.append(word("cell", left, y, row.name))
        for (at, column), runs in cells.items():
            if at == number:
                place = (scene.columns[column].right + scene.columns[column].end) / 2
                words.append(label("cell", place, y, runs, "middle"))
        words.append(word("heading", right, y, sums[number]))
        strokes.append(Stroke("rule", line(left, y + 6, end, y + 6)))
    return Panel(
        Drawing(tuple(strokes), words=tuple(words)), left, top, end, top + _ROW * len(rows)
    )


def _reach(scene: Scene, column: int, runs: Label) -> float:
    middle = (scene.columns[column].right + scene.columns[column].end) / 2
    return middle + label_width(runs, _CELL) / 2


def _sums(found: Relabelling, rows: tuple[Row, ...]) -> list[str]:
    """Return the cumulative cells: the most bytes of a block at each level, all bytes moved."""
    kernel = found.kernel
    most = dict(peak(kernel.printed))
    total = totals(kernel.printed, dict(kernel.sizes))
    moved = in_units(total.bytes, "B")
    in_all = f"{moved} in all" if total.is_exact else f"up to {moved}"
    return [in_all if row.level == GLOBAL else byte_size(most.get(row.level, 0)) for row in rows]


# --- legend ---------------------------------------------------------------------------------------


def _draw_foot(found: Relabelling, left: float, top: float) -> Panel:
    """Draw the legend of levels, then what the labels stand for."""
    used: list[str] = [each for each in (GLOBAL, SHARED, REGISTER) if each in found.levels]
    used += [TENSOR] if found.tensor else []
    strokes: list[Stroke] = []
    words: list[Word] = []
    x, y = left, top + 12
    for level in used:
        strokes.append(Stroke(level, line(x, y - 4, x + 34, y - 4)))
        words.append(word("label", x + 40, y, _NAMES[level]))
        x += 40 + text_width(_NAMES[level], 13) + 20
    right = x
    y += 20
    x = left
    for place, runs in enumerate(_notes(found)):
        width = label_width(runs, 12)
        if place and x + width > max(right, 520.0):
            x, y = left, y + 17
        words.append(label("cell", x, y, runs))
        x += width + 18
        right = max(right, x - 18)
    return Panel(Drawing(tuple(strokes), words=tuple(words)), left, top, right, y + 4)


def _notes(found: Relabelling) -> list[Label]:
    """Return the tiles' numbers, why they are divisible, and the block."""
    kernel = found.kernel
    notes: list[Label] = [(Run(f"{kernel.machine.name}, {kernel.dtype}"),)]
    for each in kernel.printed.axes:
        if each.axis in found.tiles and each.axis not in found.woven and each.tile > 1:
            notes.append((*unmarked(found.tiles[each.axis]), Run(f" = {each.tile}")))
    whole = [each for each in kernel.printed.axes if each.role is AxisRole.WHOLE]
    notes += [(Run(each.axis, slanted=True), Run(f" = {each.tile}")) for each in whole]
    groups = multiplicity(kernel.printed).number(dict(kernel.sizes))
    notes.append((Run(f"{groups:,} groups"),))
    notes.append((Run(_block(kernel)),))
    reasons: dict[int, list[str]] = {}
    for divisor in found.divisors:
        reasons.setdefault(divisor.number, []).append(divisor.reason)
    for number in sorted(reasons, reverse=True):
        marked = any(f"({number})" in plain(runs) for runs in found.tiles.values())
        if marked:
            why = " and ".join(dict.fromkeys(reasons[number]))
            notes.append((Run(f"({number})", "sup"), Run(f" a multiple of {number}: {why}")))
    return notes


def _block(kernel: KernelPlan) -> str:
    rings = kernel.printed.buffers
    depth = max((each.stages for each in rings), default=0)
    stages = f", {depth} stages" if rings else ""
    if kernel.form is not None:
        adds = ", one that adds" if kernel.form.warps.adder is not None else ""
        return f"a warp that copies, {kernel.form.warps.consumers} warpgroups that compute{adds}{stages}"
    return f"{kernel.warps} warps{stages}"
