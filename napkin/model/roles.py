"""What a relabelling does with each axis, and the symbols of sizes and tiles.

In: a `Derivation`, and perhaps the axes to group. Out: a role for every axis. By default the axes
with reuse are grouped by tiles: those that some operand of a contraction lacks, if no contraction
lacks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import sympy as sp

from napkin.algebra.derive import Derivation
from napkin.diagram import (
    STORAGE_BYTES,
    Box,
    Diagram,
    Gather,
    Graph,
    Input,
    Reduce,
    topological,
)
from napkin.operators import Kind

Expression = Any


class Role(StrEnum):
    """A grouped axis by tiles or one at a time, the stream, or an axis that is held whole."""

    GROUP = "group"
    SINGLE = "single"
    STREAM = "stream"
    WHOLE = "whole"


def size_symbol(axis: str) -> Expression:
    """Return the symbol of an axis's size."""
    return sp.Symbol(axis, positive=True, integer=True)


def tile_symbol(axis: str, role: Role) -> Expression:
    """Return the symbol of a group's tile `g_q` or of a stream's `s_x`.

    Tiles are real, so that an optimum may be solved for; an axis called `g_q` is another symbol.
    """
    return sp.Symbol(f"{'s' if role is Role.STREAM else 'g'}_{axis}", positive=True)


def bind(expression: Expression, values: Mapping[str, Expression]) -> Expression:
    """Return the expression with the symbols of these names replaced.

    >>> bind(size_symbol("q") * tile_symbol("q", Role.GROUP), {"q": 8, "g_q": 2})
    16
    """
    symbols = sorted(expression.free_symbols, key=str)
    return expression.subs({each: values[each.name] for each in symbols if each.name in values})


def is_contraction(
    boxes: Graph | Sequence[Box], factors: Sequence[int], over: Sequence[str]
) -> bool:
    """Return whether a sum multiplies two different things along what it sums."""
    return sum(not set(over).isdisjoint(boxes[each].axes) for each in set(factors)) > 1


def operand_type(
    boxes: Graph | Sequence[Box], factors: Sequence[int], types: Mapping[str, str]
) -> str | None:
    """Return the type that a contraction's operands are rounded to: the narrowest of its arrays.

    It is that of the arrays among its factors, else of those beneath them; None if there are none.
    `types` are storage types by array.
    """
    for among in (factors, topological(boxes, factors)):
        found = [name for each in among if (name := _float_array(boxes, each)) is not None]
        if found:
            return min((types[name] for name in found), key=lambda kind: STORAGE_BYTES[kind])
    return None


def _float_array(boxes: Graph | Sequence[Box], each: int) -> str | None:
    box = boxes[each]
    if isinstance(box, Gather):
        box = boxes[box.array]
    if isinstance(box, Input) and box.axes and box.kind is Kind.FLOAT:
        return box.name
    return None


def choose_roles(derivation: Derivation, grouped: Sequence[str] | None) -> dict[str, Role]:
    """Return the role of every axis; `grouped` get tiles, None for those with reuse."""
    roles = _default_roles(derivation)
    if grouped is None:
        return roles
    illegal = [axis for axis in grouped if axis not in derivation.group]
    if illegal:
        raise ValueError(f"no group partition of {', '.join(illegal)} is legal here")
    for axis, role in roles.items():
        if axis in grouped:
            roles[axis] = Role.GROUP
        elif role is Role.GROUP:
            roles[axis] = Role.SINGLE
    return roles


def _default_roles(derivation: Derivation) -> dict[str, Role]:
    stream = derivation.stream.axis if derivation.stream else None
    contractions = _contractions(derivation.diagram)
    roles: dict[str, Role] = {}
    for axis in derivation.diagram.axes:
        if axis == stream:
            roles[axis] = Role.STREAM
        elif axis not in derivation.group or any(
            axis not in (*each.axes, *each.over) for each in contractions
        ):
            # Groups of an axis that a contraction lacks would repeat the contraction.
            roles[axis] = Role.WHOLE
        else:
            reused = _is_reused(derivation.diagram, contractions, axis, stream)
            roles[axis] = Role.GROUP if reused else Role.SINGLE
    return roles


def _is_reused(diagram: Diagram, contractions: list[Reduce], axis: str, stream: str | None) -> bool:
    """Return whether a tile of the axis uses what is streamed several times."""
    if contractions:
        operands = [diagram.boxes[each] for box in contractions for each in box.operands]
    else:
        operands = [box for box in diagram.boxes if isinstance(box, Input) and stream in box.axes]
    return any(axis not in box.axes for box in operands)


def _contractions(diagram: Diagram) -> list[Reduce]:
    outputs = [each.box for each in diagram.outputs]
    boxes = (diagram.boxes[each] for each in topological(diagram.boxes, outputs))
    return [
        box
        for box in boxes
        if isinstance(box, Reduce) and is_contraction(diagram.boxes, box.operands, box.over)
    ]
