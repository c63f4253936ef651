"""The shared memory of a block whose warps have roles, to the byte, as Triton lays it out.

In: a `Specialised` kernel, axis lengths. Out: bytes. Beside rings and stages there are barriers, the numbers
of a group's place where groups are handed out, and two things of Triton's own: what the kernel hands over to
its partitions, copied side by side, and a byte for every warp but the first four, by which it is told what to
do. All of them live as long as the partitions run. Triton places the largest first, each where it is aligned
(`lib/Analysis/Allocation.cpp`); what a partition's own operations need lies in what was handed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from napkin.schedule.liveness import reads
from napkin.schedule.order import uneven_axis
from napkin.schedule.program import (
    Compute,
    EdgePosition,
    Fold,
    Length,
    Load,
    Loop,
    Operation,
    Program,
    Store,
    tiles_of,
)
from napkin.schedule.roles.barriers import Ahead, Step, Sync
from napkin.schedule.roles.warps import Part, Ring, Specialised

_BARRIER = 8
_NUMBER = 4  # bytes of a length, a stride, a number
_ADDRESS = 8  # of a pointer or a descriptor
_SWIZZLED, _COPIED, _SMALL, _HANDED = 1024, 128, 16, 8  # what starts are multiples of
_WARPGROUP = 4


def allocated_bytes(warps: Specialised, sizes: Mapping[str, int]) -> int:
    """Return the shared memory of a block, barriers and what the compiler adds included."""
    states = warps.warps - _WARPGROUP  # the partitions beside the kernel's own warps, filled up
    buffers = [
        *_matrices(warps),
        *((each, _SMALL) for each in _small(warps)),
        (states, 1),
        (_handed_bytes(warps, sizes), _HANDED),
    ]
    end = 0
    for size, alignment in sorted(buffers, key=lambda each: -each[0]):
        end = -(-end // alignment) * alignment + size
    return end


def _matrices(warps: Specialised) -> Iterator[tuple[int, int]]:
    """Yield the bytes of rings, stages and shared parts, whose swizzled rows say how they are aligned."""
    for ring in warps.rings:
        yield ring.slots * ring.slot_bytes, _COPIED if ring.is_vector else _SWIZZLED
    for staged in warps.staged:
        if staged.ring is None:
            yield warps.consumers * staged.slot_bytes, _SWIZZLED
    for part in warps.parts:
        yield part.slots * part.slot_bytes, _SWIZZLED


def _small(warps: Specialised) -> Iterator[int]:
    """Yield the bytes of every list of barriers, and of the numbers of a group's place."""
    if warps.dispatched:
        yield _NUMBER * (1 + len(_place_numbers(warps)))
    for ring in _own_barriers(warps):
        yield from (_BARRIER * ring.slots,) * 2
    for part in _filled_parts(warps):
        yield from (_BARRIER * part.slots,) * 2
    if warps.dispatched:
        yield from (_BARRIER,) * 2


def _filled_parts(warps: Specialised) -> tuple[Part, ...]:
    """Return the shared parts whose slots consumers fill for an adder, with barriers of their own."""
    return () if warps.adder is None else warps.parts


def _own_barriers(warps: Specialised) -> list[Ring]:
    return [ring for ring in warps.rings if ring.leader is None]


# --- what is handed over --------------------------------------------------------------------------


def _handed_bytes(warps: Specialised, sizes: Mapping[str, int]) -> int:
    """Return the bytes of what partitions are given, but for numbers that are 1: the compiler knows them."""
    program = warps.program
    operations = _operations(warps)
    copied = {ring.load.array for ring in warps.rings}
    copied |= {each.store.array for each in warps.staged}
    pointed = _pointed(operations, copied)
    strides = {
        (name, axis)
        for name in pointed - set(program.accumulated)
        for axis in _strided(program, name, sizes)
        if axis not in _at_zero(warps, name, sizes)
    }
    scalars = _scalars(warps, operations)
    numbers = len(_lengths(warps, operations, copied, sizes)) + len(strides) + len(scalars)
    addresses = len(copied) + len(pointed) + (1 if warps.dispatched else 0)
    return (
        _ADDRESS * addresses
        + _NUMBER * (numbers + 1)  # how many groups there are
        + sum(map(_handed_tile, _ranks(warps)))
    )


def _handed_tile(rank: int) -> int:
    """Return the bytes of a handle on shared memory: an address, and an offset along every dim."""
    return 8 + _NUMBER * rank


def _ranks(warps: Specialised) -> Iterator[int]:
    """Yield the dims of every handle, slots counted as one."""
    program = warps.program
    for ring in warps.rings:
        yield 1 + len(program.array(ring.load.array).axes)
    for staged in warps.staged:
        if staged.ring is None:
            yield 1 + len(program.array(staged.store.array).axes)
    for part in warps.parts:
        yield 1 + len(part.tile.dims)
    yield from (2,) * (2 * (len(_own_barriers(warps)) + len(_filled_parts(warps))))
    yield from (2,) * (3 if warps.dispatched else 0)


def _operations(warps: Specialised) -> list[Operation]:
    """Return what finds a group's place, and what consumers do."""
    return [*warps.place, *_consumers_operations(warps)]


def _consumers_operations(warps: Specialised) -> list[Operation]:
    """Return what consumers and their adder do, without waits and releases."""
    steps: list[Step] = [*warps.prelude, *warps.drain]
    steps += () if warps.adder is None else warps.adder.steps
    for chunks in (*warps.chunks, *warps.behind):
        # One chunk alone has no end to ask for.
        steps += [replace(chunks.loop, stop=chunks.loop.start) if chunks.is_single else chunks.loop]
        steps += chunks.steps
    for nest in warps.nests:
        steps += [nest.loop, *nest.first, *nest.steps, *nest.behind]
    found = [each.dot if isinstance(each, Ahead) else each for each in steps]
    return [each for each in found if not isinstance(each, Sync)]


def _pointed(operations: Sequence[Operation], copied: set[str]) -> set[str]:
    """Return the arrays that threads read or write themselves."""
    found = {op.array for op in operations if isinstance(op, Load | Store)}
    return found - copied


def _strided(program: Program, name: str, sizes: Mapping[str, int]) -> Iterator[str]:
    """Yield the axes along which an array's neighbours lie apart by more than one element."""
    distance = 1
    for axis in reversed(program.array(name).axes):
        if distance > 1:
            yield axis
        distance *= sizes[axis]


def _at_zero(warps: Specialised, name: str, sizes: Mapping[str, int]) -> set[str]:
    """Return the grouped axes of one tile, as far as those who read an array know that it is the first.

    What is handed out with a group's place nobody else knows.
    """
    is_told = warps.dispatched and name in _pointed(_consumers_operations(warps), set())
    return set() if is_told else {axis for axis in _divided(warps.program) if sizes[axis] == 1}


def _divided(program: Program) -> tuple[str, ...]:
    """Return the grouped axes by whose tiles a group's number is divided: the last may take what is left."""
    is_banded = program.band is not None or uneven_axis(program) is not None
    return program.grid if is_banded else program.grid[:-1]


def _scalars(warps: Specialised, operations: Sequence[Operation]) -> set[str]:
    read = {name for op in operations for name in reads(op)}
    return {name for name, _ in warps.program.scalars if name in read}


def _lengths(
    warps: Specialised, operations: Sequence[Operation], copied: set[str], sizes: Mapping[str, int]
) -> set[str]:
    """Return the axes whose lengths somebody asks for, and that are longer than 1."""
    program = warps.program
    found = set(_divided(program))
    for op in operations:
        if isinstance(op, EdgePosition) and op.end == "last":
            found.add(op.axis)
        elif isinstance(op, Load | Store) and op.array not in copied:
            found |= set(op.masked)
        if isinstance(op, Store) and op.adds and op.array not in copied:
            # Lengths stand in place of strides: nobody else lays out such an array.
            found |= set(program.array(op.array).axes[1:])
        found |= {each.axis for each in _operands(op) if isinstance(each, Length)}
    fixed = {each.axis for each in program.axes if each.size is not None}
    return {axis for axis in found if axis not in fixed and sizes[axis] > 1}


def _operands(op: Operation) -> tuple[object, ...]:
    match op:
        case Compute():
            return op.operands
        case Loop():
            return (op.start, op.stop)
        case Store():
            return (op.source,)
        case _:
            return ()


def _place_numbers(warps: Specialised) -> list[str]:
    """Return the numbers of a group's place that somebody reads."""
    place = {tile.name for tile in tiles_of(warps.place) if not tile.dims}
    read = {name for op in _consumers_operations(warps) for name in reads(op)}
    own = [op for op in warps.prelude if isinstance(op, Fold) and not op.tile.dims]
    folded = [op.tile.name for op in own for _ in range(warps.consumers)]
    return [*warps.program.grid, *sorted(place & read), *folded]
