"""Axes that are contracted alone, in panels side by side: 192 is three of 64, and no fourth of zeros.

In: a `Program`. Out: which of its dims lie in panels, and how wide these are. A tile has powers of two; the
copy engine fills it past an array's end with zeros, and the tensor cores multiply them. An axis that only
contractions of shared tiles read needs no tile of its whole length: each panel is a box of its own, and a
contraction adds one panel after the other to one result.
"""

from __future__ import annotations

from dataclasses import dataclass

from napkin.schedule.program import (
    Assign,
    AxisRole,
    Dot,
    Load,
    Program,
    Store,
    tiles_of,
    walk,
)

_NARROWEST = 32  # a panel's width at least: two steps of the tensor cores


@dataclass(frozen=True, slots=True)
class Panels:
    """A dim's panels."""

    width: int
    count: int


def panels_of(program: Program) -> dict[str, Panels]:
    """Return the panels of the dims that lie in some."""
    found: dict[str, Panels] = {}
    for each in program.axes:
        width = each.tile & -each.tile
        if each.role is AxisRole.WHOLE and width < each.tile:
            found[each.axis] = Panels(width, each.tile // width)
    return found


def is_contracted_alone(program: Program, axis: str) -> bool:
    """Return whether nothing but contractions of two loaded tiles carries an axis."""
    operations = walk(program.operations)
    if any(isinstance(op, Store) and op.adds for op in operations):
        return False
    loads = (op for op in operations if isinstance(op, Load))
    shared = {op.tile.name for op in loads if op.tile.level == "shared"}
    carrying = {tile.name for tile in tiles_of(operations) if axis in tile.dims}
    dots = [op for op in operations if isinstance(op, Dot) and op.over == axis]
    read = {side for dot in dots for side in (dot.left, dot.right)}
    others = (op for op in operations if isinstance(op, Dot) and op.over != axis)
    return (
        bool(dots)
        and carrying == read
        and read <= shared
        and not any({op.left, op.right} & read for op in others)
        and not any(isinstance(op, Assign) and op.source in read for op in operations)
    )


def panelled(size: int) -> int | None:
    """Return the tile of a length in panels, None where it is a power of two or its panels are narrow."""
    width = size & -size
    return size if _NARROWEST <= width < size else None
