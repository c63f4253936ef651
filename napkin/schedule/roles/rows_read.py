"""Rows that a consumer reads element by element, once a group: what it computes of them before its stream.

In: a Program. Out: the tiles in shared memory of which a group's start reads elements, and what it makes of
them. The producer fetches them as it does what is contracted, a group ahead where no contraction holds them:
consumers that loaded such rows themselves waited 2 us a group (docs/hopper.md). A statistic of rows that a
kernel would otherwise read back is computed so where its rows are.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.schedule.count import tile_bytes
from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import Compute, Fold, Load, Loop, Operation, Program, Tile


def before_stream(program: Program) -> tuple[Operation, ...]:
    """Return what a group does before its first loop."""
    places = [place for place, op in enumerate(program.operations) if isinstance(op, Loop)]
    return program.operations[: places[0]] if places else ()


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
    """Return the matrices in registers that a group makes before its stream of what it reads so."""
    made = (op for op in waiting_for(before_stream(program), set(tiles_read(program))))
    return tuple(
        op.tile for op in made if isinstance(op, Compute | Fold) and len(op.tile.dims) == 2
    )


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
    return sum(tile_bytes(tile, program) for tile in tiles_read(program).values())
