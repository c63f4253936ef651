"""Rows that a consumer reads element by element, once a group: what it computes of them before its stream.

In: a Program. Out: the same, what no contraction reads loaded straight to registers by the warps that
compute; and what of a group's start reads elements of a tile that lies in shared memory for contractions.
A statistic of rows that a kernel would otherwise read back is computed so where its rows are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napkin.schedule.count import tile_bytes
from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import (
    Assign,
    Compute,
    Dot,
    Load,
    Loop,
    Operation,
    Path,
    Program,
    Role,
    Tile,
    tiles_of,
    walk,
)


def before_stream(program: Program) -> tuple[Operation, ...]:
    """Return what a group does before its first loop."""
    places = [place for place, op in enumerate(program.operations) if isinstance(op, Loop)]
    return program.operations[: places[0]] if places else ()


def with_rows_in_registers(program: Program) -> Program:
    """Return the program with the matrices of a group that no contraction takes loaded to registers."""
    operations = walk(program.operations)
    taken = {name for op in operations if isinstance(op, Dot | Assign) for name in reads(op)}
    own = before_stream(program)
    swapped = [
        _to_registers(op) if _is_shared(op) and writes(op) not in taken else op for op in own
    ]
    return replace(program, operations=(*swapped, *program.operations[len(own) :]))


def _to_registers(op: Operation) -> Operation:
    assert isinstance(op, Load)
    tile = replace(op.tile, level="register")
    return replace(op, tile=tile, path=Path.POINTER, role=Role.CONSUMER)


def _is_shared(op: Operation) -> bool:
    return isinstance(op, Load) and op.tile.level == "shared"


def tiles_read(program: Program) -> dict[str, Tile]:
    """Return the shared tiles of a group of which elements are read before the stream, by name."""
    own = before_stream(program)
    read = {name for op in own if isinstance(op, Compute) for name in reads(op)}
    return {
        op.tile.name: op.tile
        for op in own
        if isinstance(op, Load) and op.tile.level == "shared" and op.tile.name in read
    }


def matrices_of_rows(program: Program) -> tuple[Tile, ...]:
    """Return the matrices in registers that a group makes before its stream of what it loads."""
    made: dict[str, Tile] = {}
    sources = set(tiles_read(program))
    for op in before_stream(program):
        name = writes(op)
        if isinstance(op, Load) and op.tile.level != "shared" and len(op.tile.dims) == 2:
            made[op.tile.name] = op.tile
        elif isinstance(op, Compute) and name and (sources | set(made)) & set(reads(op)):
            made |= {name: op.tile} if len(op.tile.dims) == 2 else {}
    return tuple(made.values())


def waiting_for(steps: Sequence[Operation], names: set[str]) -> tuple[Operation, ...]:
    """Return the operations that need any of these tiles, or what such a one makes."""
    needed = set(names)
    found: list[Operation] = []
    for op in steps:
        if needed & set(reads(op)):
            found.append(op)
            needed.add(writes(op) or "")
    return tuple(found)


def bytes_read(program: Program) -> int:
    """Return the bytes in registers of what is read of a group's rows before the stream, as it is stored."""
    loaded = {op.tile.name for op in before_stream(program) if isinstance(op, Load)}
    tiles = [tile for tile in matrices_of_rows(program) if tile.name in loaded]
    return sum(tile_bytes(tile, program) for tile in (*tiles, *tiles_read(program).values()))
