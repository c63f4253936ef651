"""The column table of the paper (section 7) and its totals, as aligned lines of text.

In: a `Program`, and rows: the lines of its pseudocode with the columns that each stands for. Out: one
line a row, then M, H and K: by formula, and as numbers where every length is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from napkin.emit.notation import byte_size, count
from napkin.operators import Pipeline
from napkin.schedule.count import Column, Move, peak, totals
from napkin.schedule.program import Program
from napkin.schedule.trips import kinds_of_groups

_HEADINGS = (
    "step",
    "op",
    "level",
    "inputs -> output",
    "resident after",
    "transfer",
    "operations",
    "times",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of pseudocode: what it does, reads and makes, and the columns merged into it.

    `is_part`: it stands in a loop that walks the chunks which another loop leaves.
    """

    number: int
    kind: str
    level: str
    inputs: tuple[str, ...]
    output: str
    columns: tuple[Column, ...]
    is_part: bool

    @property
    def resident(self) -> dict[str, int]:
        """The most bytes by level after any of its operations."""
        most: dict[str, int] = {}
        for column in self.columns:
            for level, size in column.resident:
                most[level] = max(size, most.get(level, 0))
        return most

    @property
    def moves(self) -> tuple[Move, ...]:
        """What it moves."""
        return tuple(move for column in self.columns for move in column.work.moves)

    @property
    def operations(self) -> dict[Pipeline, int]:
        """Its operations by pipeline."""
        found: dict[Pipeline, int] = {}
        for column in self.columns:
            for pipeline, number in column.work.operations:
                found[pipeline] = found.get(pipeline, 0) + number
        return found


def table(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the table's lines, its head first."""
    return aligned([_HEADINGS, *(_cells(row) for row in rows)])


def aligned(rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return rows of cells as lines, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return tuple(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cells(row: Row) -> tuple[str, ...]:
    inputs = ", ".join(row.inputs)
    return (
        str(row.number),
        row.kind,
        row.level,
        f"{inputs} -> {row.output}" if inputs else f"-> {row.output}",
        ", ".join(f"{level} {byte_size(size)}" for level, size in row.resident.items()),
        ", ".join(f"{byte_size(m.bytes)} {m.source} -> {m.target}" for m in row.moves),
        ", ".join(f"{count(number)} {unit}" for unit, number in row.operations.items()),
        times(row.columns[0], is_part=row.is_part),
    )


def times(column: Column, *, is_part: bool) -> str:
    """Return a multiplicity; a share of the chunks is marked."""
    return f"{column.multiplicity}{' (part)' if is_part else ''}"


# --- totals ---------------------------------------------------------------------------------------


def formulas(program: Program, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return M, H and K by formula: every pass is taken to walk its whole axis in full chunks."""
    moved: dict[tuple[str, str], int] = {}
    worked: dict[Pipeline, dict[str, int]] = {}
    for row in rows:
        if row.is_part:
            continue
        often = str(row.columns[0].multiplicity)
        for move in row.moves:
            moved[move.array, often] = moved.get((move.array, often), 0) + move.bytes
        for pipeline, number in row.operations.items():
            sums = worked.setdefault(pipeline, {})
            sums[often] = sums.get(often, 0) + number
    most = ", ".join(f"{level} {byte_size(size)}" for level, size in peak(program))
    lines = [("M", most or "nothing")]
    lines += [("H", f"{a} {byte_size(size)} * {often}") for (a, often), size in moved.items()]
    for pipeline, sums in sorted(worked.items()):
        formula = " + ".join(f"{count(number)} * {often}" for often, number in sums.items())
        lines.append(("K", f"{pipeline}: {formula}"))
    return aligned(_named_once(lines))


def _named_once(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the lines with each name shown where it comes first."""
    names = [name for name, _ in lines]
    return [
        (name if name not in names[:place] else "", text)
        for place, (name, text) in enumerate(lines)
    ]


def figures(program: Program, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return H and K for given lengths, masks counted; nothing if some length is missing."""
    if not {each.axis for each in program.axes} <= sizes.keys():
        return ()
    total = totals(program, sizes)
    kinds = kinds_of_groups(program, sizes)
    bound = "" if total.is_exact else "at most "
    work = ", ".join(f"{count(number)} {unit}" for unit, number in total.operations)
    lengths = " ".join(f"{each.axis}={sizes[each.axis]}" for each in program.axes)
    groups = f"{count(kinds.count * kinds.groups_each)} groups"
    moved = f"H {bound}{count(total.elements)} values, {count(total.bytes)} bytes"
    return f"for {lengths}: {groups}", f"    {moved}", f"    K {bound}{work}"
