"""What a block of a Program's threads needs: shared memory, registers, and how many blocks share a unit.

In: a `Program`, a machine, warps. Out: bytes, registers a thread, blocks a unit. The Program that will be
printed is counted and nothing else; the bases were read from the compilers over the shipped examples
(tests/test_aot.py holds them against it).
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.machine import Machine
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
    tiles_of,
    walk,
)
from napkin.schedule.remember import remembered

_COPY_REGISTERS = 2  # of a 16-byte copy by a thread: its address
_FRAGMENT = 16  # rows (or columns) of an operand that mma.sync takes from registers at a time


def shared_bytes(program: Program, *, wgmma: bool) -> int:
    """Return the shared memory of a block: the rings, and on Hopper the operands that stay."""
    deepest = max((buffer.stages for buffer in program.buffers), default=1)
    contracted = {
        name
        for op in walk(program.operations)
        if isinstance(op, Dot)
        for name in (op.left, op.right)
    }
    rings: dict[str, int] = {}
    loops = [op for op in walk(program.operations) if isinstance(op, Loop)]
    for body in (op.body for op in loops if any(isinstance(each, Dot) for each in op.body)):
        for each in body:
            if isinstance(each, Load) and len(each.tile.dims) > 1 and not each.gathered[-1]:
                # What threads read gives its place back in the same step: a ring of one less.
                depth = deepest if each.tile.name in contracted else max(deepest - 1, 1)
                size = elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
                rings[each.array] = max(rings.get(each.array, 0), depth * size)
    total = sum(rings.values())
    total += max((_handed_over(program, each, wgmma=wgmma) for each in loops), default=0)
    for each in program.operations:
        if isinstance(each, Load) and each.tile.level == "shared" and wgmma:
            total += elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
    return total


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


def registers_per_thread(program: Program, warps: int, *, wgmma: bool) -> int:
    """Return the registers of a thread: states, the widest moment of a body, and addressing."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    hot = [op for op in loops if op.region is Region.FULL] or loops
    dots = [op for op in walk(program.operations) if isinstance(op, Dot)]
    rows = min((elements(program, op.tile.dims[:1]) for op in dots), default=64)
    columns = max((elements(program, op.tile.dims[1:]) for op in dots), default=0)
    from_shared = wgmma and rows >= 64
    held = _held_words(program, from_shared=from_shared)
    widest = max(_body_words(program, op) for op in hot) if hot else _straight_words(program)
    vectors = max((_column_words(program, op) for op in loops), default=0)
    base = 28
    if not from_shared:
        streamed = any(_streams_left(op.body) for op in loops)
        base = _FRAGMENT + columns * _FRAGMENT // 64 + _copy_registers(program, warps)
        base += 3 * _FRAGMENT if streamed else 0  # the next rows are fetched meanwhile
    return int((held + widest) / (32 * warps)) + vectors + base


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
    for op in loop.body:
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
