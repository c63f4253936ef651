"""Whether what a kernel stores is the same however its sums are scaled.

In: the operations behind a stream's loops and the sums that one factor of a row scales. A quotient of two
such sums is the same for every factor: what is computed of them has a degree, the power of the factor that
it grows with, and what is stored must have degree 0.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from napkin.schedule.liveness import reads
from napkin.schedule.program import Compute, Dot, Fold, Operand, Operation

_SAME = frozenset({"add", "sub", "max2", "min2"})  # of operands of one degree, and of that degree
_KEPT = frozenset({"neg", "abs"})


def is_the_same_scaled(operations: Iterable[Operation], sums: Container[str]) -> bool:
    """Return whether no store changes if all these sums are multiplied by one positive factor a row."""
    degrees: dict[str, int] = {}

    def degree(operand: Operand) -> int:
        if not isinstance(operand, str):
            return 0
        return 1 if operand in sums else degrees.get(operand, 0)

    for op in operations:
        if isinstance(op, Dot) and op.tile.name in sums:
            continue  # what the last chunk adds
        if isinstance(op, Compute):
            found = _degree(op.operator, [degree(each) for each in op.operands])
        elif isinstance(op, Fold) and op.operator in ("sum", "max", "min"):
            found = degree(op.source)
        else:
            found = None if any(degree(name) for name in reads(op)) else 0
        if found is None or (isinstance(op, Compute) and op.tile.name in sums):
            return False
        if isinstance(op, Compute | Fold):
            degrees[op.tile.name] = found
    return True


def _degree(operator: str, degrees: list[int]) -> int | None:
    """Return the degree of what an operator gives, None if it has none."""
    if not any(degrees):
        return 0
    if operator == "mul":
        return sum(degrees)
    if operator == "div":
        return degrees[0] - degrees[1]
    if operator == "reciprocal":
        return -degrees[0]
    if operator in _KEPT or (operator in _SAME and len(set(degrees)) == 1):
        return degrees[0]
    return None
