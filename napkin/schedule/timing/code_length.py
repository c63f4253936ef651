"""What a group pays for code that is longer than what a unit keeps of it.

In: the Program of a form whose warps have roles, the steps of its loops, the threads of its consumers. Out:
clocks. Every operation on a tile is written out for the elements of a thread, in every loop's body: a count
by hand, which was held against 60 compiled kernels (docs/model.md, "The predictor").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from napkin.operators import POINTWISE
from napkin.schedule.program import Compute, Fold, Loop, Operation, Program
from napkin.schedule.timing.clocks import fused_products
from napkin.schedule.timing.occupancy import elements

# Contractions, barriers, bounds, rows in and out; and a move or a conversion beside every operation.
_OTHERS, _AN_OPERATION = 3500, 2
_CACHED = 8192  # instructions of 16 bytes: a unit's cache of 128 KB, measured on an H200
_FETCH = 0.5  # clocks of an instruction that is not there and that others' work does not hide


def fetch_clocks(program: Program, walked: Mapping[int, float], threads: int) -> float:
    """Return the clocks in which a group fetches code that is longer than what a unit keeps, else none."""
    fused = fused_products(program.operations)
    loops = [op for op in program.operations if isinstance(op, Loop)]
    outside = _written_out(program, program.operations, fused, threads)
    bodies = {id(loop): _written_out(program, loop.body, fused, threads) for loop in loops}
    if _OTHERS + _AN_OPERATION * (outside + sum(bodies.values())) <= _CACHED:
        return 0.0
    run = sum(min(1.0, walked[each]) * count for each, count in bodies.items())
    return _FETCH * (_OTHERS + _AN_OPERATION * (outside + run))


def _written_out(
    program: Program, operations: Sequence[Operation], fused: Collection[int], threads: int
) -> float:
    """Return the operations on elements that a thread does, once over a list without the loops in it."""
    count = 0.0
    for op in operations:
        if isinstance(op, Fold):
            count += elements(program, (*op.tile.dims, *op.over)) / threads
        elif isinstance(op, Compute) and len(op.tile.dims) > 1 and id(op) not in fused:
            row = POINTWISE[op.operator]
            count += (row.fp32 + row.sfu) * elements(program, op.tile.dims) / threads
    return count
