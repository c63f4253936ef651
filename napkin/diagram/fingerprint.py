"""A diagram's identity up to the names that its author chose.

In: a `Diagram`. Out: a short text that two diagrams share if they compute the same boxes from the same
signature: names of the diagram, its arrays and axes do not count, nor do the order of a commutative
operator's operands and the way round of a comparison, types of arrays and lengths.
"""

from __future__ import annotations

from hashlib import sha256
from typing import assert_never

from napkin.diagram.boxes import (
    SCALAR_TYPES,
    Box,
    Constant,
    Edge,
    Extreme,
    Gather,
    Index,
    Input,
    Pointwise,
    Reduce,
    Size,
    State,
)
from napkin.diagram.graph import topological
from napkin.diagram.signature import Diagram

_COMMUTATIVE = {"add", "mul", "and", "or", "max2", "min2", "eq", "ne"}
_MIRRORED = {"gt": "lt", "ge": "le"}


def fingerprint(diagram: Diagram) -> str:
    """Return the diagram's identity up to names."""
    axes = {axis: f"a{place}" for place, axis in enumerate(diagram.axes)}
    arguments = {each.name: f"i{place}" for place, each in enumerate(diagram.arguments)}
    outputs = [each.box for each in diagram.outputs]
    keys: dict[int, str] = {}
    for each in topological(diagram.boxes, outputs):
        keys[each] = _digest(_key(diagram.boxes[each], keys, axes, arguments))
    signature = [
        (each.dtype if each.dtype in SCALAR_TYPES else "", _renamed(each.dims, axes))
        for each in diagram.arguments
    ]
    results = [(keys[each.box], _renamed(each.dims, axes)) for each in diagram.outputs]
    return _digest((signature, results))


def _key(
    box: Box, keys: dict[int, str], axes: dict[str, str], arguments: dict[str, str]
) -> tuple[object, ...]:
    match box:
        case Input():
            return ("input", arguments[box.name])
        case Constant():
            return ("constant", str(box.kind), float(box.value))
        case Index() | Size():
            return (type(box).__name__, axes[box.axis])
        case Pointwise():
            operands = [keys[each] for each in box.operands]
            if box.operator in _MIRRORED:
                return (_MIRRORED[box.operator], *operands[::-1])
            return (box.operator, *(sorted(operands) if box.operator in _COMMUTATIVE else operands))
        case Reduce():
            over = sorted(axes[axis] for axis in box.over)
            return (box.operator, over, *sorted(keys[each] for each in box.operands))
        case Gather():
            return ("gather", *(keys[each] for each in (box.array, *box.indices)))
        case State() | Edge() | Extreme():
            return (repr(box),)
        case _:
            assert_never(box)


def _renamed(dims: tuple[tuple[str, ...], ...], axes: dict[str, str]) -> list[list[str]]:
    return [[axes[axis] for axis in dim] for dim in dims]


def _digest(value: object) -> str:
    return sha256(repr(value).encode()).hexdigest()[:16]
