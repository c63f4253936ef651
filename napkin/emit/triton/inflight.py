"""Contractions that Triton leaves running past their step, and which of them must be waited for.

In: a loop of a Program. Out: the names of sums.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.schedule.liveness import reads
from napkin.schedule.program import Assign, Compute, Dot, Fold, Load, Loop, Operation, walk


def running_on(loop: Loop) -> frozenset[str]:
    """Return the sums of a loop whose contraction may still run when its left operand is made anew.

    Triton leaves a contraction whose result this step does not read in flight into the next one. A left
    operand that is computed lies in registers, which the next step then overwrites: seen as wrong numbers
    on Hopper with Triton 3.6. Where that operand waits for a contraction of its own step, both are done.
    """
    body = loop.body
    dots = [op for op in body if isinstance(op, Dot)]
    awaited = {
        op.tile.name
        for place, op in enumerate(body)
        if isinstance(op, Dot) and _is_read(op, body[place + 1 :])
    }
    made: dict[str, bool] = {}  # computed in this step: whether it waited for a contraction
    for op in body:
        if isinstance(op, (Compute, Fold)):
            made[op.tile.name] = any(each in awaited or made.get(each) for each in reads(op))
        elif isinstance(op, Load) and op.tile.storage not in {dot.operand_type for dot in dots}:
            made[op.tile.name] = False
    return frozenset(
        op.tile.name
        for op in dots
        if op.accumulator is not None and op.tile.name not in awaited and made.get(op.left) is False
    )


def _is_read(dot: Dot, later: Sequence[Operation]) -> bool:
    """Return whether a contraction's result is read in the rest of its step, renamings apart."""
    readers = [op for op in walk(tuple(later)) if not isinstance(op, Assign)]
    return any(
        dot.tile.name in ((op.left, op.right) if isinstance(op, Dot) else reads(op))
        for op in readers
    )
