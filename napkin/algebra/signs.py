"""What is known of a value's sign and finiteness from its structure alone.

A factor may pass through a maximum only if it is positive, and an exponential is safe only if its
argument has an upper bound. Both are decided here, conservatively: False means "not known".
"""

from __future__ import annotations

from collections.abc import Collection
from math import isinf

from napkin.diagram import (
    Constant,
    Graph,
    Index,
    Pointwise,
    Reduce,
    Size,
    State,
    topological,
)
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


_MAY_BE_INFINITE = {"exp", "exp2", "div", "rsqrt", "log", "log2", "pow"}


def is_finite_move(graph: Graph, factor: int, maxima: Collection[str]) -> bool:
    """Return whether a factor that moves a state can be shown to be finite, an empty state's included."""
    boxes = (graph[each] for each in topological(graph, [factor]))
    risky = any(isinstance(box, Pointwise) and box.operator in _MAY_BE_INFINITE for box in boxes)
    return not risky or is_rescaling(graph, factor, maxima)


def is_rescaling(graph: Graph, factor: int, maxima: Collection[str]) -> bool:
    """Return whether a factor that moves a state is an exponential that can be shown to be <= 1.

    exp(f(m_old) - f(m_new)) is, where f grows with a maximum m: it never shrinks. At the first chunk such a
    factor is 0 and no infinity, which 0 times the empty state would not survive.
    """
    box = graph[factor]
    if not isinstance(box, Pointwise) or box.operator not in ("exp", "exp2"):
        return False
    exponent = graph[box.operands[0]]
    if not isinstance(exponent, Pointwise) or exponent.operator != "sub":
        return False
    old, new = exponent.operands
    return _are_versions(graph, old, new, maxima)


def _are_versions(graph: Graph, old: int, new: int, maxima: Collection[str]) -> bool:
    """Return whether two boxes are one growing function of maxima, of the old ones and of the new ones."""
    one, other = graph[old], graph[new]
    if isinstance(one, State) and isinstance(other, State):
        versions = (one.version, other.version) == ("old", "new")
        return one.name == other.name and one.name in maxima and versions
    if old == new:
        return True
    match one, other:
        case Pointwise(operator="max2" | "min2" | "add"), Pointwise() if (
            one.operator == other.operator
        ):
            both = zip(one.operands, other.operands, strict=True)
            return all(_are_versions(graph, a, b, maxima) for a, b in both)
        case Pointwise(operator="mul"), Pointwise(operator="mul"):
            pairs = tuple(zip(one.operands, other.operands, strict=True))
            grows = all(a != b or is_nonnegative(graph, a) for a, b in pairs)
            return grows and all(_are_versions(graph, a, b, maxima) for a, b in pairs)
        case _:
            return False
