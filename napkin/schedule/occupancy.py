"""What a block of a Program's threads needs: shared memory, registers, and how many blocks share a unit.

In: a `Program`, a machine, warps. Out: bytes, registers a thread, blocks a unit. The Program that will be
printed is counted and nothing else; the bases were read from the compilers over the shipped examples
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
    Fill,
    Fold,
    Load,
    Loop,
    Operation,
    Path,
    Program,
    Region,
    Store,
    tiles_of,
    walk,
)
from napkin.schedule.remember import remembered

_COPY_REGISTERS = 2  # of a 16-byte copy by a thread: its address
_BARRIER, _ALIGNED = 8, 16  # bytes
_FOLDED = 4  # bytes of a value that a warp folded
_ROWS_A_WARP = 16  # of a warpgroup contraction's result
_FRAGMENT = 16  # rows (or columns) of an operand that mma.sync takes from registers at a time


def shared_bytes(program: Program, warps: int, *, wgmma: bool) -> int:
    """Return the shared memory of a block: rings with their barriers, and operands that stay or change hands.

    Warpgroups contract what lies in shared memory. Warps hold operands in registers, so that a ring gives a
    slot back in the same step, and what was not loaded as they contract it passes through shared memory.
    """
    loops = [op for op in walk(program.operations) if isinstance(op, Loop)]
    dots = [op for op in walk(program.operations) if isinstance(op, Dot)]
    by_group = wgmma and all(elements(program, op.tile.dims[:1]) >= 64 for op in dots)
    total = _ring_bytes(program, loops, by_group=by_group)
    total += max((_handed_over(program, each, wgmma=wgmma) for each in loops), default=0)
    total += max((_turned(program, each, wgmma=wgmma) for each in loops), default=0)
    for each in program.operations:
        if isinstance(each, Load) and each.tile.level == "shared":
            total += elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
    if not dots:
        return total + _folded_bytes(program, warps)
    return total + (0 if by_group else _shared_out(program, dots, warps))


def _folded_bytes(program: Program, warps: int) -> int:
    """Return the bytes in which warps exchange what each of them folded of a row."""
    folds = [op for op in walk(program.operations) if isinstance(op, Fold) and not op.tile.dims]
    return _FOLDED * warps if folds else 0


def _ring_bytes(program: Program, loops: Sequence[Loop], *, by_group: bool) -> int:
    """Return the bytes of the rings that loops with contractions fill, and of their barriers."""
    rings: dict[str, int] = {}
    barriers: dict[str, int] = {}
    for loop in (each for each in loops if any(isinstance(op, Dot) for op in each.body)):
        contracted = _first_contracted(loop.body)
        for op in (each for each in loop.body if isinstance(each, Load) and _has_ring(each)):
            depth = _ring_depth(program, loop.body, op, by_group=by_group)
            size = elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage]
            rings[op.array] = max(rings.get(op.array, 0), depth * size)
            if op.path is Path.DESCRIPTOR:  # what one contraction awaits shares a barrier a slot
                awaited = contracted.get(op.tile.name, op.tile.name)
                barriers[awaited] = max(barriers.get(awaited, 0), depth * _BARRIER)
    each_ring = sorted(barriers.values(), reverse=True)
    aligned = sum(-(-size // _ALIGNED) * _ALIGNED for size in each_ring[:-1])
    return sum(rings.values()) + aligned + sum(each_ring[-1:])


def ring_depths(program: Program, *, wgmma: bool) -> dict[str, int]:
    """Return the slots of every array's ring, which are fewer than stages where warps contract."""
    dots = [op for op in walk(program.operations) if isinstance(op, Dot)]
    by_group = wgmma and all(elements(program, op.tile.dims[:1]) >= 64 for op in dots)
    found: dict[str, int] = {}
    for loop in (op for op in walk(program.operations) if isinstance(op, Loop)):
        for op in (each for each in loop.body if isinstance(each, Load) and _has_ring(each)):
            depth = _ring_depth(program, loop.body, op, by_group=by_group)
            found[op.array] = max(found.get(op.array, 0), depth)
    return found


def _ring_depth(program: Program, body: Sequence[Operation], load: Load, *, by_group: bool) -> int:
    """Return the slots of the ring that a step's load fills."""
    if loaded_positions(body) & set(reads(load)):
        return 1
    deepest = max((buffer.stages for buffer in program.buffers), default=1)
    if by_group and load.tile.name in _first_contracted(body):
        return deepest
    # What threads read gives its place back in the same step: a ring of one less, but where a second
    # contraction still reads it when the next should arrive.
    return max(deepest - 1, min(_takers(body, load.tile.name), 2), 1)


def _has_ring(load: Load) -> bool:
    """Return whether a step's load is issued ahead, into shared memory: matrices, and vectors of numbers."""
    if not load.tile.dims or load.gathered[-1]:
        return False
    return len(load.tile.dims) > 1 or (load.tile.kind is Kind.FLOAT and not any(load.gathered))


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
        if is_narrow and rows < max(columns, _FRAGMENT * warps):
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


def registers_per_thread(program: Program, warps: int, *, wgmma: bool) -> int:
    """Return the registers of a thread: states, the widest moment of a body, and addressing."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    hot = [op for op in loops if op.region is Region.FULL] or loops
    dots = [op for op in walk(program.operations) if isinstance(op, Dot)]
    rows = min((elements(program, op.tile.dims[:1]) for op in dots), default=64)
    columns = max((elements(program, op.tile.dims[1:]) for op in dots), default=0)
    from_shared = wgmma and rows >= 64
    held = _held_words(program, from_shared=from_shared)
    if from_shared and rows < _ROWS_A_WARP * warps:
        held += _shared_columns(program)
    widest = max(_body_words(program, op) for op in hot) if hot else _straight_words(program)
    vectors = max((_column_words(program, op) for op in loops), default=0)
    base = 28
    if not from_shared:
        streamed = any(_streams_left(op.body) for op in loops)
        base = _FRAGMENT + columns * _FRAGMENT // 64 + _copy_registers(program, warps)
        base += 3 * _FRAGMENT if streamed else 0  # the next rows are fetched meanwhile
    return int((held + widest) / (32 * warps)) + vectors + base


def _shared_columns(program: Program) -> int:
    """Return the words that warps hold twice where they share a result's columns and its loop reads it.

    What is made of a result's rows then crosses warps, and the compiler moves it while the result stays.
    Read off compiled kernels: attention 33 registers, mlp 80, gated_mlp 103, matmul, which only adds, none.
    """
    loops = [op for op in walk(program.operations) if isinstance(op, Loop)]
    bodies = [op.body for op in loops]
    dots = {op.tile.name: op.tile for body in bodies for op in body if isinstance(op, Dot)}
    read = {name for body in bodies for op in body if not isinstance(op, Dot) for name in reads(op)}
    if not read & set(dots):
        return 0
    return sum(elements(program, tile.dims) for tile in dots.values())


def _copy_registers(program: Program, warps: int) -> int:
    """Return the registers of a ring's copies where threads issue them themselves."""
    loads = {
        op.buffer
        for op in walk(program.operations)
        if isinstance(op, Load) and op.path is Path.POINTER
    }
    copied = sum(buffer.tile_bytes for buffer in program.buffers if buffer.name in loads)
    return _COPY_REGISTERS * copied // (16 * 32 * warps)


def _streams_left(body: Sequence[Operation]) -> bool:
    """Return whether a contraction takes its left operand from a ring."""
    loaded = {op.tile.name for op in body if isinstance(op, Load)}
    return any(isinstance(op, Dot) and op.left in loaded for op in body)


def _held_words(program: Program, *, from_shared: bool) -> float:
    """Return the words that live through the loops: states, and operands that stay in registers."""
    words = 0.0
    for op in program.operations:
        if isinstance(op, Fill):
            words += elements(program, op.tile.dims)
        if isinstance(op, Load) and op.tile.level == "shared" and not from_shared:
            words += elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage] / 4
    return words


def _body_words(program: Program, loop: Loop) -> float:
    """Return the words at a body's widest moment.

    Contractions' results with their rounded copies, the widest computed operand, and 64-bit addresses of
    elements read at computed positions.
    """
    words = 0.0
    results = {op.tile.dims for op in loop.body if isinstance(op, Dot)}
    added = {op.source for op in loop.body if isinstance(op, Store) and op.adds}
    for op in loop.body:
        if isinstance(op, Dot) and op.tile.name in added:
            continue  # made when what it is made of has been rounded
        if isinstance(op, Dot) and op.accumulator is None:
            words += 1.5 * elements(program, op.tile.dims)
        elif isinstance(op, Loop):
            words += _body_words(program, op)
        elif isinstance(op, Load) and op.gathered and op.gathered[-1] and op.tile.dims in results:
            words += 1.5 * elements(program, op.tile.dims)
    computed = [op for op in loop.body if isinstance(op, Compute) and len(op.tile.dims) > 1]
    words += 0.5 * max((elements(program, op.tile.dims) for op in _meetings(loop)), default=0)
    others = sorted(elements(program, dims) for dims in {op.tile.dims for op in computed} - results)
    if results:
        return words + 1.5 * max(others, default=0) + sum(others[:-1])
    if any(isinstance(op, Dot) for op in walk(loop.body)):
        return words + 2.0 * max(others, default=0)
    vectors = [op.tile.dims for op in loop.body if isinstance(op, Load) and len(op.tile.dims) == 1]
    along = max((elements(program, dims) for dims in vectors), default=0)
    return words + max(others, default=0) + along


def _meetings(loop: Loop) -> list[Compute]:
    """Return the computations where two contractions' results meet: neither gives way before."""
    made = {
        op.tile.name: {op.tile.name}
        for op in loop.body
        if isinstance(op, Dot) and op.accumulator is None
    }
    met: list[Compute] = []
    for op in loop.body:
        if isinstance(op, Compute) and len(op.tile.dims) > 1:
            sources = [made[each] for each in op.operands if isinstance(each, str) and each in made]
            made[op.tile.name] = set().union(*sources)
            if len(sources) > 1 and len(made[op.tile.name]) > 1:
                met.append(op)
    return met


def _column_words(program: Program, loop: Loop) -> int:
    """Return the registers of vectors along a result's columns: every thread of a row holds a quarter."""
    if not any(isinstance(op, Dot) for op in loop.body):
        return 0
    made = [op for op in loop.body if isinstance(op, (Compute, Load))]
    wide = {(op.tile.kind, isinstance(op, Load)) for op in made if op.tile.dims == (loop.axis,)}
    loaded = any(is_load for _, is_load in wide)
    if loop.region is Region.PARTIAL and not loaded:
        return 0  # positions are made again where they are compared
    return len(wide) * program.axis(loop.axis).tile // 4


def _straight_words(program: Program) -> float:
    largest = [elements(program, tile.dims) for tile in tiles_of(program.operations)]
    return 3.0 * max(largest, default=0)


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
