"""Parts of sums as their threads add them: in layouts of vectors, four neighbours a thread.

In: the extents of a consumer's share of a part. Out: layouts and tiles as text. A contraction leaves a thread
two neighbours of a row, and two more eight columns on (PTX ISA, matrix D of `wgmma`). To add them in their
order, pairs of lanes swap theirs; where the array is in lines (`Array.in_lines`), nothing moves.
"""

from __future__ import annotations

from napkin.schedule.program import LINE_COLUMNS, LINE_ROWS


def vector_layout(rows: int, columns: int, *, in_lines: bool) -> str:
    """Return the layout of a share of so many rows and columns that has four neighbours in every thread."""
    registers = [[0, 1], [0, 2], [8, 0]]
    lanes, first = [[0, 8], [0, 4], [1, 0], [2, 0], [4, 0]], 4
    if in_lines:  # a quad of lanes holds four rows' lines in turn
        registers += [[1, 0], [2, 0]]
        lanes, first = [[0, 4], [0, 8], [0, 16], [0, 32], [4, 0]], 6
    registers += [[0, 1 << bit] for bit in range(first, columns.bit_length() - 1)]
    registers += [[1 << bit, 0] for bit in range(6, rows.bit_length() - 1)]
    warps = [[16, 0], [32, 0]]
    return f"gl.DistributedLinearLayout({registers}, {lanes}, {warps}, [], [{rows}, {columns}])"


def in_lines(tile: str, rows: str, columns: str) -> str:
    """Return a share of a part with its elements at the places that they have in an array in lines."""
    opened = f"{rows} // {LINE_ROWS}, 2, 2, {columns} // {LINE_COLUMNS}, 2, 2, 2, 4, 2"
    return (
        f"{tile}.reshape([{opened}]).permute((0, 4, 5, 3, 1, 2, 7, 6, 8))"
        f".reshape([{rows}, {columns}])"
    )
