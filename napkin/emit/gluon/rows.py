"""Layouts of matrices in registers: a contraction's result, and rows that are read once a group.

In: a `Specialised` kernel, and dims. Out: layouts as text.
"""

from __future__ import annotations

from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.program import Dot, walk
from napkin.schedule.roles.rows_read import tiles_read
from napkin.schedule.roles.warps import Specialised

_LANES, _VECTOR = (
    4,
    16,
)  # lanes of a row, as in a contraction's result; bytes that each reads at once


def read_dims(kernel: Specialised) -> list[tuple[str, ...]]:
    """Return the dims of the rows of which elements are read once a group."""
    return [tile.dims for tile in tiles_read(kernel.program).values()]


def matrix_layout(kernel: Specialised, dims: tuple[str, ...]) -> str:
    """Return the layout of a consumer's share of a matrix in registers."""
    program = kernel.program
    columns = program.dim(dims[1]).extent
    results = {op.tile.dims for op in walk(program.operations) if isinstance(op, Dot)}
    tiles = [tile for tile in tiles_read(program).values() if tile.dims == dims]
    if tiles and dims not in results:
        rows = program.dim(dims[0]).extent // kernel.consumers
        narrowest = min(TYPE_BYTES[tile.storage] for tile in tiles)
        return _row_layout(rows, columns, _VECTOR // narrowest)
    return (
        "gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], "
        f"instr_shape=[16, {columns}, 16])"
    )


def _row_layout(rows: int, columns: int, neighbours: int) -> str:
    """Return a layout whose rows lie with the same lanes as a contraction's, each with whole vectors."""
    mine = min(neighbours, columns // _LANES).bit_length() - 1
    registers = [[0, 1 << bit] for bit in range(mine)]
    registers += [[0, 1 << bit] for bit in range(mine + 2, columns.bit_length() - 1)]
    registers += [[8, 0], *([1 << bit, 0] for bit in range(6, rows.bit_length() - 1))]
    lanes = [[0, 1 << mine], [0, 2 << mine], [1, 0], [2, 0], [4, 0]]
    return f"gl.DistributedLinearLayout({registers}, {lanes}, [[16, 0], [32, 0]], [], [{rows}, {columns}])"
