"""Programs of many tilings, each structure lowered once or twice.

In: a derivation and layouts. Out: the Program of a layout, with the steps that its loops take. Two layouts
that differ in nothing but the sizes of grouped tiles, and ask for the same paths, have the same operations:
only extents, and with them bytes, are other ones. A chunk of another length changes besides the steps of
loops and the numbers that their bounds are rounded to, in proportion: where two lengths were lowered, the
numbers of a third follow. Lowering is most of what planning a tiling costs, so that a structure is lowered
for two lengths of its chunks at most and laid out again for every tiling of it. What comes out equals what
lowering would give, which a test holds for every example and tiling.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod

from napkin.algebra.derive import Derivation
from napkin.schedule.layout import (
    MAX_DESCRIPTOR_EXTENT,
    MIN_DESCRIPTOR_BYTES,
    TYPE_BYTES,
    Layout,
)
from napkin.schedule.lowering.lower import lower
from napkin.schedule.program import (
    AxisRole,
    AxisTile,
    Buffer,
    Compute,
    Literal,
    Load,
    Loop,
    Operand,
    Operation,
    Program,
    walk,
)
from napkin.schedule.timing.predict import average_steps
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
        self._lowered: dict[_Structure, dict[int, Program]] = {}
        self._bounding: dict[_Structure, tuple[str, ...]] = {}
        self._steps: dict[tuple[_Structure, int, tuple[int, ...]], Steps] = {}

    def program(self, layout: Layout) -> tuple[Program, Steps]:
        """Return the Program of a layout, and its `average_steps`."""
        structure, chunk = _structure_of(layout), _chunk_of(layout)
        known = self._lowered.setdefault(structure, {})
        if chunk not in known:
            known[chunk] = _follow(known, chunk) or lower(self._derivation, layout)
        if structure not in self._bounding:
            kinds = kinds_of_groups(known[chunk], self._sizes)
            self._bounding[structure] = tuple(axis for axis, _ in kinds.starts)
        program = _laid_out(known[chunk], layout)
        tiles = tuple(program.axis(axis).tile for axis in self._bounding[structure])
        if (structure, chunk, tiles) not in self._steps:
            self._steps[structure, chunk, tiles] = average_steps(program, self._sizes)
        return program, self._steps[structure, chunk, tiles]


def _chunk_of(layout: Layout) -> int:
    """Return the stream's tile, 0 without a stream."""
    return next((each.tile for each in layout.axes if each.role is AxisRole.STREAM), 0)


# --- chunks of another length ---------------------------------------------------------------------


def _follow(known: Mapping[int, Program], chunk: int) -> Program | None:
    """Return the Program with chunks of another length, if two are known that differ by numbers alone."""
    if len(known) < 2:
        return None
    (least, one), (length, other) = list(known.items())[:2]
    try:
        share = (chunk - least) / (length - least)
        operations = _all_moved(one.operations, other.operations, share)
    except _UnlikeError:
        return None
    return replace(one, operations=operations)


class _UnlikeError(Exception):
    """Two operations differ by more than a number."""


def _all_moved(
    ones: Sequence[Operation], others: Sequence[Operation], share: float
) -> tuple[Operation, ...]:
    if len(ones) != len(others):
        raise _UnlikeError
    return tuple(_moved(one, other, share) for one, other in zip(ones, others, strict=True))


def _moved(one: Operation, other: Operation, share: float) -> Operation:
    """Return an operation with every number moved by a share of the way to another one's."""
    match one, other:
        case Loop(), Loop():
            step = _number_moved(one.step, other.step, share)
            body = _all_moved(one.body, other.body, share)
            alike: Operation = replace(other, step=one.step, body=one.body)
            moved: Operation = replace(one, step=step, body=body)
        case Compute(), Compute() if len(one.operands) == len(other.operands):
            pairs = zip(one.operands, other.operands, strict=True)
            operands = tuple(_operand_moved(each, there, share) for each, there in pairs)
            alike = replace(other, operands=one.operands)
            moved = one if operands == one.operands else replace(one, operands=operands)
        case _:
            return _same(one, other)
    _same(one, alike)
    return moved


def _same(one: Operation, other: Operation) -> Operation:
    if one != other:
        raise _UnlikeError
    return one


def _operand_moved(one: Operand, other: Operand, share: float) -> Operand:
    match one, other:
        case Literal(int() as value), Literal(int() as there):
            return Literal(_number_moved(value, there, share))
        case _ if one == other:
            return one
        case _:
            raise _UnlikeError


def _number_moved(one: int, other: int, share: float) -> int:
    if one == other:
        return one
    found = one + share * (other - one)
    if found != int(found):
        raise _UnlikeError
    return int(found)


# --- layouts of one structure ---------------------------------------------------------------------


def _structure_of(layout: Layout) -> _Structure:
    """Return what layouts have in common that give the same operations."""
    last = {each.axes[-1] for each in (*layout.arrays, *layout.outputs) if each.axes}
    axes = tuple((a.axis, a.role, _told_apart(a, last), a.dim, a.size) for a in layout.axes)
    return axes, tuple(each.name for each in layout.dims), layout.grid


def _told_apart(axis: AxisTile, last: Collection[str]) -> int:
    """Return a tile, one number for all grouped tiles and chunks that a descriptor's box takes alike.

    A box must be so wide along the `last` axis of an array, and no longer than so along any. A chunk of one
    position has a loop less.
    """
    if axis.role is AxisRole.STREAM and axis.tile == 1:
        return 0
    if axis.role not in (AxisRole.GROUP, AxisRole.STREAM):
        return axis.tile
    if axis.tile > MAX_DESCRIPTOR_EXTENT:
        return MAX_DESCRIPTOR_EXTENT + 1
    return min(axis.tile, MIN_DESCRIPTOR_BYTES if axis.axis in last else 1)


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
