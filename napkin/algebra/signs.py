"""What is known of a value's sign and finiteness from its structure alone.

A factor may pass through a maximum only if it is positive, and an exponential is safe only if its
argument has an upper bound. Both are decided here, conservatively: False means "not known".
"""

from __future__ import annotations

from math import isinf

from napkin.diagram import Constant, Graph, Index, Pointwise, Reduce, Size
from napkin.operators import Kind

_POSITIVE_RANGE = {"exp", "exp2", "sigmoid"}
_KEEPS_SIGN = {"sqrt", "rsqrt"}


def is_nonnegative(graph: Graph, each: int) -> bool:
    """Return whether the value can be shown to be >= 0."""
    box = graph[each]
    match box:
        case Constant():
            return box.kind is not Kind.BOOL and box.value >= 0
        case Size() | Index():
            return True
        case Pointwise(operator=name) if name in _POSITIVE_RANGE | _KEEPS_SIGN | {"abs"}:
            return True
        case Pointwise(operator="pow"):
            exponent = graph[box.operands[1]]
            even = isinstance(exponent, Constant) and exponent.value % 2 == 0
            return even or is_nonnegative(graph, box.operands[0])
        case Pointwise(operator="mul"):
            left, right = box.operands
            same = left == right
            return same or (is_nonnegative(graph, left) and is_nonnegative(graph, right))
        case Pointwise(operator="add" | "div" | "min2"):
            return all(is_nonnegative(graph, operand) for operand in box.operands)
        case Pointwise(operator="max2"):
            return any(is_nonnegative(graph, operand) for operand in box.operands)
        case Pointwise(operator="where"):
            return all(is_nonnegative(graph, operand) for operand in box.operands[1:])
        case Reduce(operator="sum"):
            squared = len(set(box.operands)) == 1 and len(box.operands) % 2 == 0
            return squared or all(is_nonnegative(graph, operand) for operand in box.operands)
        case Pointwise(operator="reciprocal"):
            return is_nonnegative(graph, box.operands[0])
        case Reduce(operator="max" | "min" | "prod"):
            return is_nonnegative(graph, box.operands[0])
        case _:
            return False


def _is_at_least(graph: Graph, each: int, other: int) -> bool:
    """Return whether a value is a maximum over the other one, or of such a maximum and more."""
    box = graph[each]
    match box:
        case Reduce(operator="max"):
            return box.operands[0] == other
        case Pointwise(operator="max2"):
            return any(_is_at_least(graph, operand, other) for operand in box.operands)
        case _:
            return False


def is_bounded_above(graph: Graph, each: int) -> bool:
    """Return whether the value can be shown to have an upper bound that no input moves far."""
    box = graph[each]
    match box:
        case Constant():
            return box.kind is not Kind.BOOL and not (isinf(box.value) and box.value > 0)
        case Pointwise(operator="tanh" | "sigmoid" | "erf"):
            return True
        case Pointwise(operator="neg"):
            return is_nonnegative(graph, box.operands[0])
        case Pointwise(operator="where"):
            return all(is_bounded_above(graph, operand) for operand in box.operands[1:])
        case Pointwise(operator="min2"):
            return any(is_bounded_above(graph, operand) for operand in box.operands)
        case Pointwise(operator="max2" | "add"):
            return all(is_bounded_above(graph, operand) for operand in box.operands)
        case Pointwise(operator="sub"):
            left, right = box.operands
            if _is_at_least(graph, right, left):
                return True
            return is_bounded_above(graph, left) and is_nonnegative(graph, right)
        case _:
            return False
