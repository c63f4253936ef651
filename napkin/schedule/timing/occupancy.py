"""What a block of a Program's threads needs of shared memory, and how many blocks share a unit.

In: a `Program`, a machine, warps. Out: bytes, blocks a unit (registers: `registers`). The Program that
will be printed is counted and nothing else; the bases were read from the compilers over the shipped examples
(tests/test_aot.py holds them against it).
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.machine import Machine
from napkin.operators import Kind
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import (
    Compute,
    Dot,
    Fold,
    Load,
    Loop,
    Operation,
    Path,
    Program,
    Store,
    tiles_of,
    walk,
)
from napkin.schedule.remember import remembered, remembered_by

_BARRIER, _ALIGNED = 8, 16  # bytes
_FOLDED = 4  # bytes of a value that a warp folded
_LANES, _VECTOR = 32, 16  # threads of a warp, and bytes that each moves at once
_MET = 512  # bytes of a warp through which what it read meets a warpgroup's result
_STAGES_OF_POSITIONS = 3  # from which on there is one for positions and one for what lies there
FRAGMENT = 16  # rows (or columns) of an operand that mma.sync takes from registers at a time


def shared_bytes(program: Program, warps: int, *, wgmma: bool) -> int:
    """Return the shared memory of a block: rings with their barriers, and operands that stay or change hands.

    Warpgroups contract what lies in shared memory. Warps hold operands in registers, so that a ring gives a
    slot back in the same step, and what was not loaded as they contract it passes through shared memory.
    """
    rings = _ring_bytes(program, _deepest(program), wgmma=wgmma)
    return rings + _bytes_beside_rings(program, warps, wgmma=wgmma)


def takes_more(program: Program, warps: int, room: int, *, wgmma: bool) -> bool:
    """Return whether a block takes more shared memory than there is: its rings alone mostly say so."""
    rings = _ring_bytes(program, _deepest(program), wgmma=wgmma)
    return rings > room or rings + _bytes_beside_rings(program, warps, wgmma=wgmma) > room


@remembered_by(
    lambda program, warps, *, wgmma: (
        (program.operations, program.dims, program.axes, warps, wgmma)
    )
)
def _bytes_beside_rings(program: Program, warps: int, *, wgmma: bool) -> int:
    loops, dots = _loops(program.operations), _dots(program.operations)
    by_group = _by_group(program, wgmma=wgmma)
    total = max((_handed_over(program, each, wgmma=wgmma) for each in loops), default=0)
    changing = [_turned(program, each, wgmma=wgmma) for each in loops]
    changing += [_written_out(program, each, warps, by_group=by_group) for each in loops]
    total += max(changing, default=0)
    for each in program.operations:
        # What the copy engine brings to warps they read at once, before there are rings.
        is_read_at_once = isinstance(each, Load) and each.path is Path.DESCRIPTOR and not by_group
        if isinstance(each, Load) and each.tile.level == "shared" and not is_read_at_once:
            total += elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
    if not dots:
        return total + max(_folded_bytes(program, warps), _copied_bytes(program, loops))
    total += max((_gathered_bytes(program, each, warps, wgmma=wgmma) for each in loops), default=0)
    return total + (0 if by_group else _shared_out(program, dots, warps))


def _folded_bytes(program: Program, warps: int) -> int:
    """Return the bytes in which warps exchange what each of them folded: of a row, or along columns."""
    size = 0
    for op in (each for each in walk(program.operations) if isinstance(each, Fold)):
        count, folded = elements(program, op.tile.dims), elements(program, op.over)
        apart = min(warps, folded, count * folded // _LANES)
        if not op.tile.dims:
            size = max(size, _FOLDED * warps)
        elif _is_leading(program, op) and apart > 1:
            size = max(size, _FOLDED * apart * count)
    return size


def _is_leading(program: Program, fold: Fold) -> bool:
    """Return whether a fold is along the first axis of its tile, along which warps lie."""
    tiles = {tile.name: tile for tile in tiles_of(program.operations)}
    source = tiles.get(fold.source)
    return source is not None and len(source.dims) > 1 and source.dims[0] in fold.over


def _copied_bytes(program: Program, loops: Sequence[Loop]) -> int:
    """Return the bytes of a tile that the copy engine brings to threads, with its barrier.

    Threads take one before the next is asked for, so that all have the same room.
    """
    copied = [
        elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage] + _BARRIER
        for loop in loops
        for op in loop.body
        if isinstance(op, Load) and op.path is Path.DESCRIPTOR
    ]
    return max(copied, default=0)


def _gathered_bytes(program: Program, loop: Loop, warps: int, *, wgmma: bool) -> int:
    """Return the bytes through which elements read at computed positions meet a contraction's result."""
    results = {op.tile.dims for op in loop.body if isinstance(op, Dot)}
    return max(
        (
            _MET * warps if wgmma else elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage]
            for op in loop.body
            if isinstance(op, Load) and op.gathered and op.gathered[-1] and op.tile.dims in results
        ),
        default=0,
    )


@remembered_by(lambda program, stages, *, wgmma: (program.operations, program.dims, stages, wgmma))
def _ring_bytes(program: Program, stages: int, *, wgmma: bool) -> int:
    """Return the bytes of the rings that loops with contractions fill, and of their barriers."""
    by_group = _by_group(program, wgmma=wgmma)
    rings: dict[str, int] = {}
    barriers: dict[str | int, int] = {}
    for loop in (each for each in _loops(program.operations) if _contractions(each.body)):
        contracted = _first_contracted(loop.body)
        places = {writes(op): place for place, op in enumerate(_contractions(loop.body))}
        for op in _ringed(loop.body, stages, by_group=by_group):
            depth = _ring_depth(loop.body, op, stages, by_group=by_group, wgmma=wgmma)
            size = elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage]
            rings[op.array] = max(rings.get(op.array, 0), depth * size)
            if op.path is Path.DESCRIPTOR:  # what one contraction awaits shares a barrier a slot
                awaited = places.get(contracted.get(op.tile.name), op.tile.name)
                barriers[awaited] = max(barriers.get(awaited, 0), depth * _BARRIER)
    each_ring = sorted(barriers.values(), reverse=True)
    aligned = sum(-(-size // _ALIGNED) * _ALIGNED for size in each_ring[:-1])
    return sum(rings.values()) + aligned + sum(each_ring[-1:])


def ring_depths(program: Program, *, wgmma: bool) -> dict[str, int]:
    """Return the slots of every array's ring, which are fewer than stages where warps contract."""
    by_group, stages = _by_group(program, wgmma=wgmma), _deepest(program)
    found: dict[str, int] = {}
    for loop in (op for op in walk(program.operations) if isinstance(op, Loop)):
        for op in _ringed(loop.body, stages, by_group=by_group):
            depth = _ring_depth(loop.body, op, stages, by_group=by_group, wgmma=wgmma)
            found[op.array] = max(found.get(op.array, 0), depth)
    return found


def _by_group(program: Program, *, wgmma: bool) -> bool:
    """Return whether warpgroups contract, from shared memory."""
    dots = _dots(program.operations)
    return wgmma and all(elements(program, op.tile.dims[:1]) >= 64 for op in dots)


@remembered
def _loops(operations: Sequence[Operation]) -> list[Loop]:
    return [op for op in walk(operations) if isinstance(op, Loop)]


@remembered
def _dots(operations: Sequence[Operation]) -> list[Dot]:
    return [op for op in walk(operations) if isinstance(op, Dot)]


def _deepest(program: Program) -> int:
    """Return the stages of the deepest ring."""
    return max((buffer.stages for buffer in program.buffers), default=1)


def _ring_depth(
    body: Sequence[Operation], load: Load, stages: int, *, by_group: bool, wgmma: bool
) -> int:
    """Return the slots of the ring that a step's load fills."""
    if load.tile.name in _positions(body) or loaded_positions(body) & set(reads(load)):
        return 1
    if by_group and load.tile.name in _first_contracted(body):
        return stages
    # What threads read gives its place back in the same step: a ring of one less, but on Hopper where a
    # second contraction still reads it when the next should arrive.
    return max(stages - 1, min(_takers(body, load.tile.name), 2) if wgmma else 1, 1)


def _ringed(body: Sequence[Operation], stages: int, *, by_group: bool) -> list[Load]:
    """Return the loads of a step that are issued ahead, into shared memory: matrices, and vectors.

    Of vectors of whole numbers those alone that warps contract with; positions at which others are read
    only where there is a stage for either.
    """
    loads = [op for op in body if isinstance(op, Load) and op.tile.dims]
    positions = _positions(body)
    found: list[Load] = []
    for op in loads:
        is_position = op.tile.name in positions
        if len(op.tile.dims) > 1 or op.tile.kind is Kind.FLOAT:
            has_ring = not op.gathered[-1] if len(op.tile.dims) > 1 else not any(op.gathered)
        else:
            has_ring = not by_group and (not is_position or stages >= _STAGES_OF_POSITIONS)
        found += [op] if has_ring else []
    return found


@remembered
def _positions(body: Sequence[Operation]) -> set[str]:
    """Return the values of a step at which it reads others."""
    return {name for op in body if isinstance(op, Load) for name in reads(op)}


def _contractions(body: Sequence[Operation]) -> list[Dot]:
    return [op for op in body if isinstance(op, Dot)]


def _takers(body: Sequence[Operation], tile: str) -> int:
    """Return how many contractions of a step take a tile as it is."""
    return sum(isinstance(op, Dot) and tile in (op.left, op.right) for op in body)


@remembered
def _first_contracted(body: Sequence[Operation]) -> dict[str, str]:
    """Return the contraction that first takes each tile as it is, or that whose result this one adds to."""
    found: dict[str, str] = {}
    begun: dict[str, str] = {}
    for op in body:
        if isinstance(op, Dot):
            name = begun.get(op.accumulator or "", op.tile.name)
            begun[op.tile.name] = name
            found = {op.left: name, op.right: name} | found
    return found


@remembered
def loaded_positions(body: Sequence[Operation]) -> set[str]:
    """Return the values of a step that are made of what it loads, such as pages of a table."""
    found: set[str] = set()
    for op in body:
        name = writes(op)
        if name is not None and (isinstance(op, Load) or found & set(reads(op))):
            found.add(name)
    return found


def _shared_out(program: Program, dots: Sequence[Dot], warps: int) -> int:
    """Return the bytes of a computed operand whose rows several warps contract, each for columns of its own.

    Triton shares out the columns of a result that is wider than high, or of too few rows for all warps.
    """
    loaded = {op.tile.name for op in walk(program.operations) if isinstance(op, Load)}
    size = 0
    for op in dots:
        rows, columns = (elements(program, dims) for dims in (op.tile.dims[:1], op.tile.dims[1:]))
        is_narrow = op.operand_type in TYPE_BYTES and op.left not in loaded
        if is_narrow and rows < max(columns, FRAGMENT * warps):
            operand = elements(program, (*op.tile.dims[:1], op.over))
            size = max(size, operand * TYPE_BYTES[op.operand_type])
    return size


def _handed_over(program: Program, loop: Loop, *, wgmma: bool) -> int:
    """Return the bytes of an operand that threads compute from what they loaded past shared memory.

    They hold it as they loaded it, and change hands in shared memory; what came through a ring they read as
    the contraction takes it.
    """
    rings = {op.tile.name for op in loop.body if isinstance(op, Load) and op.buffer is not None}
    taken = {name for op in loop.body if isinstance(op, Compute | Fold) for name in reads(op)}
    if not wgmma or rings & taken:
        return 0
    return max(
        (
            elements(program, (*op.tile.dims[:1], op.over)) * TYPE_BYTES[op.operand_type]
            for op in computed_operands(loop.body)
        ),
        default=0,
    )


def _turned(program: Program, loop: Loop, *, wgmma: bool) -> int:
    """Return the bytes in which a step's parts of sums change hands.

    A computed operand that is summed along its rows is turned in shared memory; a warpgroup's result goes
    through it again, to be added in whole vectors.
    """
    tiles = {tile.name: tile for tile in tiles_of(program.operations)}
    added = {op.source for op in loop.body if isinstance(op, Store) and op.adds}
    size = 0
    for op in loop.body:
        if not isinstance(op, Dot) or op.tile.name not in added:
            continue
        left = tiles[op.left]
        if left.dims[0] == op.over and left.level != "shared":
            size = max(size, elements(program, left.dims) * TYPE_BYTES[op.operand_type])
        if wgmma and elements(program, op.tile.dims[:1]) >= 64:
            size = max(size, elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage])
    return size


def _written_out(program: Program, loop: Loop, warps: int, *, by_group: bool) -> int:
    """Return the bytes in which what a step contracts, and stores, becomes whole vectors.

    At most: the compiler takes less where a warp holds whole rows of what it stores. A warpgroup's result
    that memory holds along its rows goes through them a vector a thread at a time.
    """
    arrays = {array.name: array for array in (*program.arrays, *program.outputs)}
    if not any(isinstance(op, Dot) for op in loop.body):
        return 0
    size = 0
    for op in loop.body:
        if isinstance(op, Store) and not op.adds and len(op.source_dims) > 1:
            array = arrays[op.array]
            along = by_group and array.axes[-1] in program.dim(op.source_dims[0]).axes
            whole = elements(program, op.source_dims) * TYPE_BYTES[array.dtype]
            size = max(size, min(whole, _VECTOR * _LANES * warps) if along else whole)
    return size


@remembered
def computed_operands(body: Sequence[Operation]) -> list[Dot]:
    """Return the contractions whose left operand the step computes from loads alone."""
    contracted: dict[str, bool] = {}
    found: list[Dot] = []
    for op in body:
        name = writes(op)
        if isinstance(op, Dot) and contracted.get(op.left) is False:
            found.append(op)
        if name is not None and not isinstance(op, Load):
            before = any(contracted.get(each, False) for each in reads(op))
            contracted[name] = before or isinstance(op, Dot)
    return found


def elements(program: Program, dims: Sequence[str]) -> int:
    """Return the elements of a tile over these dims."""
    count = 1
    for dim in dims:
        count *= program.dim(dim).extent
    return count


def blocks_per_unit(machine: Machine, warps: int, shared: int, registers: int) -> int:
    """Return how many blocks run on a unit at a time."""
    limits = machine.limits
    room = machine.level("shared").capacity
    by_shared = room // max(shared + limits.shared_reserved_per_block, 1)
    a_warp = limits.threads_per_warp * max(registers, limits.threads_per_warp)
    a_warp = -(-a_warp // limits.register_granularity) * limits.register_granularity
    by_registers = limits.registers_per_unit // (warps * a_warp)
    by_warps = limits.warps_per_unit // warps
    return max(1, min(by_shared, by_registers, by_warps, limits.blocks_per_unit))
