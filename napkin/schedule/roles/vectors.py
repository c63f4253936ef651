"""Values of a chunk's positions, such as a document's labels: what travels through a ring of its own.

In: a `Program`. Out: which of its loads are such values, and the program with every loop of the stream
loading them: a ring is filled and emptied for every chunk, whether or not a mask of the chunk reads them.
"""

from __future__ import annotations

from dataclasses import replace

from napkin.schedule.count import tile_bytes
from napkin.schedule.layout import (
    MAX_DESCRIPTOR_EXTENT,
    MAX_DESCRIPTOR_RANK,
    MIN_DESCRIPTOR_BYTES,
)
from napkin.schedule.program import Load, Loop, Program

_TYPES = ("bf16", "fp16", "fp32", "int32", "bool")


def is_vector(load: Load, loop: Loop, program: Program) -> bool:
    """Return whether a load takes values of a chunk's positions, as a box lies in memory."""
    array, size = program.array(load.array), tile_bytes(load.tile, program)
    plain = load.buffer is None and not any(load.gathered) and load.indices == array.axes
    lies_so = load.tile.dims == (loop.axis,) and array.axes[-1] == loop.axis
    fits = (
        1 < len(array.axes) <= MAX_DESCRIPTOR_RANK
        and size >= MIN_DESCRIPTOR_BYTES
        and loop.step <= MAX_DESCRIPTOR_EXTENT
    )
    return plain and lies_so and fits and load.tile.storage in _TYPES


def in_every_loop(program: Program) -> Program:
    """Return the program with the positions' values that one loop of the stream loads loaded in all."""
    found: dict[str, Load] = {}
    for loop in program.operations:
        if isinstance(loop, Loop):
            loads = (op for op in loop.body if isinstance(op, Load))
            found |= {op.array: op for op in loads if is_vector(op, loop, program)}
    operations = tuple(
        _with_loads(op, found) if isinstance(op, Loop) else op for op in program.operations
    )
    return replace(program, operations=operations)


def _with_loads(loop: Loop, wanted: dict[str, Load]) -> Loop:
    """Add the loads of arrays that a loop does not read."""
    read = {op.array for op in loop.body if isinstance(op, Load)}
    more = (load for array, load in wanted.items() if array not in read)
    return replace(loop, body=(*loop.body, *more))
