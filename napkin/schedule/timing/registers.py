"""How many registers a thread of a plain loop needs: states, the widest moment of a body, addresses.

In: a `Program` and warps. Out: registers. The Program that will be printed is counted and nothing else; what
the compiler keeps besides was read from its reports over the shipped examples (tests/test_aot.py holds these
against it). It does not know how the assembler orders instructions: where there is room, it uses more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isqrt

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
from napkin.schedule.remember import remembered_by
from napkin.schedule.timing.occupancy import FRAGMENT, elements

_COPY_REGISTERS = 2  # of a 16-byte copy by a thread: its address
_LOOKED_UP = 3  # where its row's place is looked up first: that as well
_FROM_RINGS = 75  # beside sums, and fragments, of operands that warps take from rings: addresses
_OF_ROWS = 16  # of one that only folds rows, beside what it holds of them
_FEWEST = 30  # of a kernel without contractions
# Where warpgroups hold results: its slot and what it is compared with as well.
_COPY_BESIDE_RESULTS = 5
_ROWS_A_WARP = 16  # of a warpgroup contraction's result
_WIDE_RESULT = 10  # more than 128 columns of a result whose left operand threads hold
_GATHERED_SHARE = 0.75  # of a word for each element that is read at a computed position


@remembered_by(
    lambda program, warps, *, wgmma: (program.operations, program.dims, program.axes, warps, wgmma)
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
    if from_shared and rows < _ROWS_A_WARP * warps:
        held += _shared_columns(program)
    widest = max(_body_words(program, op) for op in hot) if hot else _straight_words(program)
    if from_shared:
        widest += max((_labelled_words(program, op) for op in loops), default=0)
    vectors = max((_column_words(program, op) for op in loops), default=0)
    base = 28 + (_WIDE_RESULT if from_shared and columns > 128 and _computes_left(loops) else 0)
    if from_shared:
        base += _copy_registers(program, warps, _COPY_BESIDE_RESULTS) if dots else 0
    elif any(_streams_left(op.body) for op in walk(program.operations) if isinstance(op, Loop)):
        base = _FROM_RINGS + _fragment_words(program, dots, warps)
    else:
        base = FRAGMENT + columns * FRAGMENT // 64
        base += _copy_registers(
            program, warps, _LOOKED_UP if _looks_up(program) else _COPY_REGISTERS
        )
    if not dots:
        held_rows = _row_words(program)
        words, base = (held_rows, _OF_ROWS) if held_rows else (held + widest, base)
        needed = int(words / (32 * warps)) + base
        return max(needed, _FEWEST)
    return int((held + widest) / (32 * warps)) + vectors + base


def _row_words(program: Program) -> float:
    """Return the words of a kernel that only folds rows and computes of them, 0 of any other.

    A thread holds a chunk of numbers while it folds them, one for each fold that waits for no other, and
    where a step reads several rows one of them as it was loaded: the rest passes by a few elements at a time.
    """
    tiles = [*tiles_of(program.operations)]
    if any(len(tile.dims) > 1 for tile in tiles):
        return 0.0
    beside, folds = 0.0, 1
    for loop in (op for op in walk(program.operations) if isinstance(op, Loop)):
        loads = [op.tile for op in loop.body if isinstance(op, Load)]
        words = [elements(program, each.dims) * TYPE_BYTES[each.storage] / 4 for each in loads]
        beside = max(beside, min(words) if len(words) > 1 else 0.0)
        folds = max(folds, _folds_at_once(loop.body))
    chunks = folds + (1 if folds > 1 else 0)  # and of what they are made
    return beside + chunks * max((elements(program, tile.dims) for tile in tiles), default=0)


def _folds_at_once(body: Sequence[Operation]) -> int:
    """Return the folds of a step that take what is made of its loads and of no other fold."""
    loaded: set[str] = set()
    folded: set[str] = set()
    count = 0
    for op in body:
        name, read = writes(op) or "", set(reads(op))
        waits = bool(read & folded)
        if isinstance(op, Load) or read & loaded:
            loaded.add(name)
        if isinstance(op, Fold):
            count += bool(read & loaded) and not waits
        if isinstance(op, Fold) or waits:
            folded.add(name)
    return count


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


def _copy_registers(program: Program, warps: int, each: int) -> int:
    """Return the registers of a ring's copies where threads issue them themselves."""
    loads = {
        op.buffer
        for op in walk(program.operations)
        if isinstance(op, Load) and op.path is Path.POINTER
    }
    copied = sum(buffer.tile_bytes for buffer in program.buffers if buffer.name in loads)
    return each * copied // (16 * 32 * warps)


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
            words += _GATHERED_SHARE * elements(program, op.tile.dims)
    words += max((elements(program, op.tile.dims) for op in _apart(loop.body, results)), default=0)
    computed = [op for op in loop.body if isinstance(op, Compute) and len(op.tile.dims) > 1]
    words += 0.5 * max((elements(program, op.tile.dims) for op in _meetings(loop)), default=0)
    others = sorted(elements(program, dims) for dims in {op.tile.dims for op in computed} - results)
    if results:
        return words + 1.5 * max(others, default=0) + sum(others[:-1])
    if any(isinstance(op, Dot) for op in walk(loop.body)):
        return words + 1.5 * max(others, default=0)
    vectors = [op.tile.dims for op in loop.body if isinstance(op, Load) and len(op.tile.dims) == 1]
    along = max((elements(program, dims) for dims in vectors), default=0)
    return words + max(others, default=0) + along


def _apart(body: Sequence[Operation], results: Collection[tuple[str, ...]]) -> list[Compute]:
    """Return the tiles of a result's extents that are computed apart: both are held until they meet.

    What is read at such extents is counted where it is loaded.
    """
    known: set[str] = set()
    found: list[Compute] = []
    for op in body:
        name = writes(op)
        is_loaded = isinstance(op, Load) and len(op.tile.dims) > 1
        if isinstance(op, Dot) or is_loaded or known & set(reads(op)):
            known |= {name} if name else set()
        elif isinstance(op, Compute) and op.tile.dims in results:
            found += [op] if op.tile.kind is Kind.FLOAT else []
    return found


def _labelled_words(program: Program, loop: Loop) -> int:
    """Return the words of a mask by labels of a chunk: it is made, and held, while warpgroups contract."""
    labels = {
        op.tile.name
        for op in loop.body
        if isinstance(op, Load) and op.tile.dims == (loop.axis,) and op.tile.kind is Kind.INT
    }
    masks = [
        op.tile.dims
        for op in loop.body
        if isinstance(op, Compute) and op.tile.kind is Kind.BOOL and labels & set(reads(op))
    ]
    return max((elements(program, dims) * 3 // 2 for dims in masks), default=0)


def _computes_left(loops: Sequence[Loop]) -> bool:
    """Return whether a contraction takes a left operand that threads computed."""
    return any(
        isinstance(op, Dot)
        and op.left not in {e.tile.name for e in loop.body if isinstance(e, Load)}
        for loop in loops
        for op in loop.body
    )


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
    # Positions and what is compared with them are made again where they are taken.
    wide = {
        isinstance(op, Load)
        for op in made
        if op.tile.dims == (loop.axis,) and op.tile.kind is Kind.FLOAT
    }
    return len(wide) * program.axis(loop.axis).tile // 4


def _fragment_words(program: Program, dots: Sequence[Dot], warps: int) -> int:
    """Return the words of both operands' fragments that a warp holds: those of two steps of 16.

    A warp's share of a result is as good as square.
    """
    largest = max(elements(program, op.tile.dims) for op in dots)
    return isqrt(largest // warps)


def _looks_up(program: Program) -> bool:
    """Return whether a ring's rows lie where another array says, such as pages of a table."""
    loads = [
        op for op in walk(program.operations) if isinstance(op, Load) and op.buffer is not None
    ]
    return any(each for op in loads for each in op.gathered)


def _straight_words(program: Program) -> float:
    largest = [elements(program, tile.dims) for tile in tiles_of(program.operations)]
    return 3.0 * max(largest, default=0)
