"""Programs of many tilings, each structure lowered once.

In: a derivation and layouts. Out: the Program of a layout, with the steps that its loops take. Two layouts
that differ in nothing but the sizes of grouped tiles, and ask for the same paths, have the same operations:
only extents, and with them bytes, are other ones. Lowering is most of what planning a tiling costs, so a
structure is lowered once and laid out again for every tiling of it. What comes out equals what lowering
would give, which a test holds for every example and tiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from napkin.algebra.derive import Derivation
from napkin.schedule.layout import (
    MAX_DESCRIPTOR_EXTENT,
    MIN_DESCRIPTOR_BYTES,
    TYPE_BYTES,
    Layout,
)
from napkin.schedule.lower import lower
from napkin.schedule.predict import average_steps
from napkin.schedule.program import AxisRole, AxisTile, Buffer, Load, Program, walk
from napkin.schedule.trips import kinds_of_groups

Steps = Mapping[int, float]


# An axis, its role, its tile as far as operations depend on it, its dim and its fixed length.
_Axis = tuple[str, AxisRole, int, str | None, int | None]
_Structure = tuple[tuple[_Axis, ...], tuple[str, ...], tuple[str, ...]]


class Structures:
    """The Programs of one derivation at given lengths, lowered as they are asked for."""

    def __init__(self, derivation: Derivation, sizes: Mapping[str, int]) -> None:
        self._derivation = derivation
        self._sizes = sizes
        self._lowered: dict[_Structure, Program] = {}
        self._bounding: dict[_Structure, tuple[str, ...]] = {}
        self._steps: dict[tuple[_Structure, tuple[int, ...]], Steps] = {}

    def program(self, layout: Layout) -> tuple[Program, Steps]:
        """Return the Program of a layout, and its `average_steps`."""
        structure = _structure_of(layout)
        if structure not in self._lowered:
            program = self._lowered[structure] = lower(self._derivation, layout)
            kinds = kinds_of_groups(program, self._sizes)
            self._bounding[structure] = tuple(axis for axis, _ in kinds.starts)
        program = _laid_out(self._lowered[structure], layout)
        tiles = tuple(program.axis(axis).tile for axis in self._bounding[structure])
        if (structure, tiles) not in self._steps:
            self._steps[structure, tiles] = average_steps(program, self._sizes)
        return program, self._steps[structure, tiles]


def _structure_of(layout: Layout) -> _Structure:
    """Return what layouts have in common that give the same operations."""
    axes = tuple((a.axis, a.role, _told_apart(a), a.dim, a.size) for a in layout.axes)
    return axes, tuple(each.name for each in layout.dims), layout.grid


def _told_apart(axis: AxisTile) -> int:
    """Return a tile, one number for all grouped tiles that a descriptor's box takes alike."""
    if axis.role is not AxisRole.GROUP:
        return axis.tile
    if axis.tile > MAX_DESCRIPTOR_EXTENT:
        return MAX_DESCRIPTOR_EXTENT + 1
    return min(axis.tile, MIN_DESCRIPTOR_BYTES)


def _laid_out(program: Program, layout: Layout) -> Program:
    """Return a Program of the layout's structure with the layout's tiles."""
    extents = {each.name: each.extent for each in layout.dims}
    loads = {
        op.buffer: op.tile
        for op in reversed([*walk(program.operations)])
        if isinstance(op, Load) and op.buffer is not None
    }
    rings = tuple(
        Buffer(
            each.name,
            each.array,
            prod(extents[dim] for dim in loads[each.name].dims)
            * TYPE_BYTES[loads[each.name].storage],
            layout.stages,
        )
        for each in program.buffers
    )
    return replace(program, axes=layout.axes, dims=layout.dims, buffers=rings)
