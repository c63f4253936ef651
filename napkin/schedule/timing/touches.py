"""What the groups of a Program read of every array, wave by wave.

In: a `Program`, axis lengths, the order of its groups, and which wave each runs in. Out: `Touch`es, one an
array and pass over the stream: the slabs that a wave's groups read, from which position of the stream to
which. A slab is what the tiles of an array's own grouped axes pick of it. What is read at computed positions
counts as one slab for all groups that compute theirs from the same tiles, and never as more than is there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import (
    Array,
    AxisRole,
    EdgePosition,
    Load,
    Operation,
    Positions,
    Program,
    walk,
)
from napkin.schedule.remember import remembered, remembered_by
from napkin.schedule.timing.plain_loops import array_bytes
from napkin.schedule.trips import (
    Kinds,
    Numbers,
    Scalar,
    Trip,
    kinds_of_groups,
    loop_places,
    passes,
    tile_count,
    trips,
)

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Touch:
    """What groups read of an array in one pass, an entry a wave and slab, by wave.

    `slab` numbers the tiles that the grouped axes pick, `low` to `high` are positions of the stream of `size`
    bytes each, `sharers` the groups of the wave that read them.
    """

    array: str
    wave: Numbers
    slab: Numbers
    low: Numbers
    high: Numbers
    size: float
    sharers: Numbers

    @property
    def bytes(self) -> Reals:
        """The bytes of every entry."""
        return np.asarray((self.high - self.low) * self.size, np.float64)


def previous(touch: Touch) -> Numbers:
    """Return the entry of the wave before that read the same slab, -1 where there is none."""
    order = np.lexsort((touch.wave, touch.slab))
    before = np.full(len(order), -1, dtype=np.int64)
    same = touch.slab[order[1:]] == touch.slab[order[:-1]]
    before[order[1:]] = np.where(same, order[:-1], -1)
    return before


def waves_since(touch: Touch) -> Numbers:
    """Return how many waves ago every slab was read, 0 where it was not."""
    before = previous(touch)
    since: Numbers = np.where(before < 0, 0, touch.wave - touch.wave[before])
    return since


def touches_of(
    program: Program,
    sizes: Mapping[str, int],
    order: Mapping[str, Numbers],
    wave: Numbers,
    scalars: Mapping[str, Scalar],
) -> list[Touch]:
    """Return what every wave reads, one entry an array and pass."""
    kinds = kinds_of_groups(program, sizes)
    walked = trips(program, sizes, scalars, kinds)
    places = loop_places(program.operations)
    kind = _kind_of(kinds, program, sizes, order, len(wave))
    found: list[Touch] = []
    for operations in passes(program.operations):
        loads: dict[str, list[tuple[Load, tuple[Trip, ...]]]] = {}
        for op, around in operations:
            if isinstance(op, Load):
                trip = tuple(walked[places[id(loop)]] for loop in around)
                loads.setdefault(op.array, []).append((op, trip))
        for name, each in loads.items():
            found.append(_touch(program, sizes, order, wave, kind, name, each))
    return found


def _kind_of(
    kinds: Kinds,
    program: Program,
    sizes: Mapping[str, int],
    order: Mapping[str, Numbers],
    count: int,
) -> Numbers:
    """Return the kind of every group."""
    kind: Numbers = np.zeros(count, dtype=np.int64)
    for axis, _ in kinds.starts:
        kind = kind * tile_count(program, axis, sizes) + order[axis]
    return kind


def _touch(
    program: Program,
    sizes: Mapping[str, int],
    order: Mapping[str, Numbers],
    wave: Numbers,
    kind: Numbers,
    name: str,
    loads: list[tuple[Load, tuple[Trip, ...]]],
) -> Touch:
    """Return what the loads of one array read in a pass."""
    array = program.array(name)
    first = loads[0][0]
    own = _own_axes(program, first)
    size = slab_bytes(program, sizes, array, own)
    low = np.zeros(len(wave), dtype=np.int64)
    high = np.ones(len(wave), dtype=np.int64)
    looped = {each.axis for _, around in loads for each in around} & set(_direct(first))
    for axis in (each for each in looped if program.axis(each).role is AxisRole.STREAM):
        size /= sizes[axis]
        bounds = [each for _, around in loads for each in around if each.axis == axis]
        low, high = (ends[kind] for ends in _walked(program, sizes, axis, bounds))
    asked = _gathered_bytes(program, sizes, loads)
    if asked is not None and asked < size:
        size = asked
        own = own | _axes_behind(program.operations, first) & set(program.grid)
    slab: Numbers = np.zeros(len(wave), dtype=np.int64)
    for axis in (each for each in program.grid if each in own):
        slab = slab * tile_count(program, axis, sizes) + order[axis]
    return _joined(name, wave, slab, low, high, size)


def _joined(
    name: str, wave: Numbers, slab: Numbers, low: Numbers, high: Numbers, size: float
) -> Touch:
    """Return one entry a wave and slab: all that its groups read, from the first position to the last."""
    key = wave * (int(slab.max(initial=0)) + 1) + slab
    sorting = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[sorting], prepend=-1))
    chosen = sorting[starts]
    sharers = np.diff(starts, append=len(key))
    lows = np.minimum.reduceat(low[sorting], starts)
    highs = np.maximum.reduceat(high[sorting], starts)
    return Touch(name, wave[chosen], slab[chosen], lows, np.maximum(highs, lows), size, sharers)


def _walked(
    program: Program, sizes: Mapping[str, int], axis: str, loops: list[Trip]
) -> tuple[Numbers, Numbers]:
    """Return the first and the last position that loops over an axis walk, by kind of group."""
    tile, length = program.axis(axis).tile, sizes[axis]
    low = np.full(len(loops[0].steps), length, dtype=np.int64)
    high = np.zeros(len(loops[0].steps), dtype=np.int64)
    for each in loops:
        stop = np.minimum(each.start + each.steps * tile, length)
        is_walked = each.steps > 0
        low = np.where(is_walked, np.minimum(low, each.start), low)
        high = np.where(is_walked, np.maximum(high, stop), high)
    return np.minimum(low, high), high


def _direct(load: Load) -> tuple[str, ...]:
    """Return the axes by whose own index a load walks its array."""
    pairs = zip(load.indices, load.gathered, strict=True)
    return tuple(index for index, is_tile in pairs if not is_tile)


def _own_axes(program: Program, load: Load) -> set[str]:
    """Return the grouped axes that pick what a load reads."""
    return set(_direct(load)) & set(program.grid)


def _gathered_bytes(
    program: Program, sizes: Mapping[str, int], loads: list[tuple[Load, tuple[Trip, ...]]]
) -> float | None:
    """Return the bytes that a group asks for at computed positions, None where there are none."""
    total, is_any = 0.0, False
    for load, around in loads:
        is_any = is_any or any(load.gathered)
        count = float(prod(program.dim(dim).extent for dim in load.tile.dims))
        for each in around:
            count *= float(each.steps.mean())
        total += count * TYPE_BYTES[load.tile.storage]
    return total if is_any else None


def _axes_behind(operations: tuple[Operation, ...], load: Load) -> set[str]:
    """Return the axes whose positions, or whose arrays' tiles, the computed positions of a load come from."""
    return _behind(operations).get(load.tile.name, set())


@remembered
def _behind(operations: tuple[Operation, ...]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for op in walk(operations):
        name = writes(op)
        if name is None:
            continue
        axes = set().union(*(found.get(each, set()) for each in reads(op)))
        if isinstance(op, Positions | EdgePosition):
            axes |= {op.axis}
        if isinstance(op, Load):
            axes |= set(_direct(op))
        found[name] = found.get(name, set()) | axes
    return found


def slab_bytes(
    program: Program, sizes: Mapping[str, int], array: Array, own: Collection[str]
) -> float:
    """Return the bytes of the part of an array that the tiles of its own grouped axes pick, on average."""
    parts = prod(tile_count(program, axis, sizes) for axis in own if axis in array.axes)
    return array_bytes(array, sizes) / parts


def readers_of(program: Program) -> list[tuple[Array, frozenset[str], int]]:
    """Return every array that is read, the grouped axes that pick its slabs, and in how many passes."""
    return [
        (program.array(name), own, count)
        for name, (own, count) in _picked(program.operations, program.grid).items()
    ]


@remembered_by(lambda operations, grid: (operations, grid))
def _picked(
    operations: tuple[Operation, ...], grid: tuple[str, ...]
) -> dict[str, tuple[frozenset[str], int]]:
    found: dict[str, tuple[frozenset[str], int]] = {}
    for name, loads in _loads_by_array(operations).items():
        own = frozenset(
            axis for each, _ in loads for axis in (*_direct(each), *_axes_behind(operations, each))
        )
        found[name] = (own & set(grid), len({number for _, number in loads}))
    return found


@remembered
def _loads_by_array(operations: tuple[Operation, ...]) -> dict[str, list[tuple[Load, int]]]:
    """Return the loads of every array with the number of their pass."""
    found: dict[str, list[tuple[Load, int]]] = {}
    for number, each in enumerate(passes(operations)):
        for op, _ in each:
            if isinstance(op, Load):
                found.setdefault(op.array, []).append((op, number))
    return found
