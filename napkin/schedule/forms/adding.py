"""A kernel shared out between warps whose groups add to an output: sums over the rows of all consumers.

In: a `KernelPlan` whose Program adds to an output. Out: its warp-specialised forms, or the reason
why there is none. Consumers share out the rows as ever (`specialise`); a part of such an output
sums over rows, those of all consumers. What it multiplies is computed with rows first, so that a
consumer's own sums take it from registers; turned, every consumer takes the rows of all of them
from shared memory, and gives its share of the part.

A step issues first the contractions of what it loads. Sums that it adds to follow as their operands
are there, and the parts, which threads add from registers where there is room for their addresses, else
the copy engine from shared memory: before the sums of the same operand, or where it adds behind them.
A step's sums are finished in it; while its parts leave, the first contraction of the next one runs.
Where a consumer's registers hold what stays for a group besides, a warpgroup of its own contracts
parts and adds them, and comes first.

It is not asked here whether this form is faster than the plain one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from napkin.operators import Kind
from napkin.schedule.count import extent, tile_bytes
from napkin.schedule.forms.adding_maker import (
    ADDER_REGISTERS,
    CONSUMERS,
    AddingMaker,
    ApartMaker,
    added_tiles,
    masking,
)
from napkin.schedule.forms.shapes import ROWS, Shape, tiling_of
from napkin.schedule.layout import MAX_DESCRIPTOR_RANK, TYPE_BYTES, build_layout
from napkin.schedule.liveness import reads
from napkin.schedule.lowering.bounds import join_bounds
from napkin.schedule.lowering.lower import lower
from napkin.schedule.program import (
    AxisRole,
    Compute,
    Dot,
    Load,
    Loop,
    Operation,
    Positions,
    Program,
    Region,
    Store,
    tiles_of,
    walk,
)
from napkin.schedule.roles.adding_steps import differs_at_end, ended_by_column
from napkin.schedule.roles.maker import BARRIER_BYTES, REGISTERS
from napkin.schedule.roles.obstacles import OPERANDS, find_obstacle, shared_tiles, tile_registers
from napkin.schedule.roles.passing import early_first
from napkin.schedule.roles.vectors import in_every_loop, is_vector
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import KernelPlan, storage_types

_SHAPES = tuple(Shape(CONSUMERS, ROWS, chunk, (2,)) for chunk in (128, 64))
_APART = Shape(CONSUMERS, ROWS, 64, (3,))
_BESIDE_TILES = 40  # registers of addresses, bounds and row values, read off compiled kernels
_REGISTER_BYTES = 4 * 128  # of a warpgroup's threads
_LEAST_ROW = 128  # bytes of a part's share of columns: a swizzled box's


def adding_forms(kernel: KernelPlan) -> tuple[Specialised, ...] | str:
    """Return the form of a kernel that adds to an output in every shape that fits, or why it has none."""
    if not (kernel.machine.has("tma") and kernel.machine.has("wgmma")):
        return f"{kernel.machine.name} has no copy engine or no warpgroup contractions"
    rows = _row_axis(kernel.program)
    if rows is None:
        return "no tile of rows is shared by every contraction"
    if dict(kernel.sizes)[rows] < CONSUMERS * ROWS:
        return f"`{rows}` fills no block: it is {dict(kernel.sizes)[rows]} long"
    types = storage_types(kernel.derivation.diagram, kernel.dtype)
    reason, fitting = "no chunk is small enough", list[Specialised]()
    for shape, form_of in ((_APART, _apart_form), *((shape, _form) for shape in _SHAPES)):
        for stages in shape.stages:
            tiling = tiling_of(kernel, rows, shape, stages)
            layout = build_layout(kernel.derivation, dict(kernel.sizes), types, tiling)
            program = lower(kernel.derivation, layout)
            made = form_of(program, rows, kernel.machine.limits.shared_per_block, stages)
            if isinstance(made, str):
                reason = made
            else:
                fitting.append(made)
    return tuple(fitting) or reason


def _row_axis(program: Program) -> str | None:
    """Return the grouped axis that every contraction's result has first, but for those that sum it."""
    firsts = {
        dot.tile.dims[0] for dot in _dots(program) if dot.tile.name not in added_tiles(program)
    }
    axes = program.dim(firsts.pop()).axes if len(firsts) == 1 else ()
    grouped = [axis for axis in axes if program.axis(axis).role is AxisRole.GROUP]
    return grouped[0] if len(axes) == len(grouped) == 1 else None


def _form(program: Program, rows: str, shared_limit: int, stages: int) -> Specialised | str:
    """Return the form of a program with these tiles and rings so deep, or in words why it has none."""
    joined = _joined(program, rows)
    if isinstance(joined, str):
        return joined
    made = AddingMaker(joined, rows, stages, by_threads=_threads_add(joined)).run(shared_limit)
    return _fitting(made, _consumer_words(joined), shared_limit)


def _apart_form(program: Program, rows: str, shared_limit: int, stages: int) -> Specialised | str:
    """Return the form with an adder, or in words why it has none."""
    joined = _joined(program, rows)
    if isinstance(joined, str):
        return joined
    maker = ApartMaker(joined, rows, stages)
    others = {dot.left for dot in maker.dots if dot not in maker.parts}
    if not others.issuperset(dot.left for dot in maker.parts):
        return "a part multiplies what no consumer contracts"
    made = maker.run(shared_limit)
    if made.dispatched:
        return "groups are handed out, which adders have not been run with"
    parts = sum(tile_bytes(dot.tile, joined) for dot in maker.parts) // _REGISTER_BYTES
    if parts + _BESIDE_TILES > ADDER_REGISTERS:
        return f"the parts of a chunk take {parts} registers a thread"
    tiles = {tile.name: tile for tile in tiles_of(joined.operations)}
    held = sum(tile_bytes(tiles[name], joined) for name in maker.held())
    words = _consumer_words(joined) + held // CONSUMERS // _REGISTER_BYTES
    words += _position_registers(joined)
    return _fitting(made, words, shared_limit)


def _joined(program: Program, rows: str) -> Program | str:
    """Return the program with its stream walked once, or what of it these forms have no way to do."""
    joined = _one_walk(in_every_loop(join_bounds(program)))
    if isinstance(joined, str):
        return joined
    obstacle = find_obstacle(_without_parts(joined), rows) or _part_obstacle(joined, rows)
    return joined if obstacle is None else obstacle


def _consumer_words(program: Program) -> int:
    """Return the registers of a consumer's thread that tiles take, in the chunks that are many."""
    words = tile_registers(_without_parts(_hot(program)), CONSUMERS, together=True)
    return words + _label_registers(program)


def _fitting(made: Specialised, words: int, shared_limit: int) -> Specialised | str:
    """Return a form if it fits, with tiles in so many registers of a consumer's thread, or why not."""
    if made.shared_bytes + BARRIER_BYTES > shared_limit:
        return f"the rings take {made.shared_bytes} bytes of shared memory"
    if words + _BESIDE_TILES > made.registers[0]:
        return f"the tiles of a consumer take {words} registers a thread"
    return made


def _threads_add(program: Program) -> bool:
    """Tell whether threads add parts from registers, to addresses for which every loop's tiles leave room.

    A part that waits for the copy engine in shared memory takes of its bandwidth, which is what contractions
    of 64 rows have least of. Where several loops mask it was not measured, where three walk it is slower.
    """
    words = tile_registers(_without_parts(program), CONSUMERS, together=True)
    words += _label_registers(program)
    is_run = len(masking(_loops(program))) < 2 and len(_loops(program)) < 3
    return is_run and words + _BESIDE_TILES <= REGISTERS[CONSUMERS][0]


def _hot(program: Program) -> Program:
    """Return the program without the one loop that masks, if what walks the rest knows no positions.

    What spills in the few chunks that are masked is worth that all are longer: causal attention at heads of
    64 is a tenth faster so. Positions in every chunk, as of a bias by distance, spill in every chunk.
    """
    cut = masking(_loops(program))
    rest = [loop for loop in _loops(program) if loop not in cut]
    placed = {op.axis for loop in rest for op in loop.body if isinstance(op, Positions)}
    if len(cut) != 1 or not rest or any(loop.axis in placed for loop in rest):
        return program
    return replace(program, operations=tuple(op for op in program.operations if op not in cut))


def _position_registers(program: Program) -> int:
    """Return the registers of a chunk's positions where chunks that no mask cuts need them."""
    cut = masking(_loops(program))
    placed = [
        extent(op.tile.dims, program) // 4
        for loop in _loops(program)
        if loop not in cut
        for op in loop.body
        if isinstance(op, Positions) and op.axis == loop.axis
    ]
    return max(placed, default=0)


def _label_registers(program: Program) -> int:
    """Return the registers of whole numbers along a chunk, which a mask tests: four lanes hold all.

    Those that come by a ring are read when the mask is, and take none that scores do not.
    """
    labels = [
        sum(
            extent(op.tile.dims, program)
            for op in loop.body
            if isinstance(op, Load)
            and op.tile.kind is Kind.INT
            and len(op.tile.dims) == 1
            and not is_vector(op, loop, program)
        )
        for loop in _loops(program)
    ]
    return max(labels) // 4


# --- the program ----------------------------------------------------------------------------------


def _loops(program: Program) -> list[Loop]:
    return [op for op in program.operations if isinstance(op, Loop)]


def _dots(program: Program) -> Iterator[Dot]:
    return (op for loop in _loops(program) for op in loop.body if isinstance(op, Dot))


def _one_walk(program: Program) -> Program | str:
    """Return the program with its stream walked once, in steps that issue first what they can.

    The copy engine reads zero past an end and adds nothing there: loops that differ in no more are one, and
    in no more than a choice by the stream's end, which only the chunk that reaches it makes.
    """
    places = [i for i, op in enumerate(program.operations) if isinstance(op, Loop)]
    loops = _loops(program)
    if not loops or places != list(range(places[0], places[0] + len(places))):
        return "the stream is walked more than once"
    if any(isinstance(op, Loop) for loop in loops for op in loop.body):
        return "a step walks a loop of its own"
    merged: list[Loop] = []
    for loop in loops:
        if merged and _are_alike(merged[-1], loop):
            body = ended_by_column(loop.body, loop.axis)
            merged[-1] = Loop(
                loop.axis, merged[-1].start, loop.stop, loop.step, Region.PARTIAL, body
            )
        else:
            merged.append(loop)
    walked = (replace(loop, body=early_first(loop.body)) for loop in merged)
    before, after = program.operations[: places[0]], program.operations[places[-1] + 1 :]
    kept = (*walked, *after)
    for op in reversed(before):
        if not isinstance(op, Compute) or _is_read(op.tile.name, kept):
            kept = (op, *kept)
    return replace(program, operations=kept)


def _are_alike(one: Loop, other: Loop) -> bool:
    """Tell whether a loop may stand for another that comes before it."""
    bodies = _unmasked(one.body), _unmasked(other.body)
    return bodies[0] == bodies[1] or differs_at_end(*bodies, other.axis)


def _is_read(name: str, operations: tuple[Operation, ...]) -> bool:
    return any(name in reads(op) for op in walk(operations))


def _unmasked(body: Sequence[Operation]) -> list[Operation]:
    return [replace(op, masked=()) if isinstance(op, Load | Store) else op for op in body]


def _without_parts(program: Program) -> Program:
    """Return the program without what it adds to outputs."""
    added = added_tiles(program)

    def kept(op: Operation) -> bool:
        is_part = isinstance(op, Dot) and op.tile.name in added
        return not is_part and not (isinstance(op, Store) and op.adds)

    operations = (
        replace(op, body=tuple(filter(kept, op.body))) if isinstance(op, Loop) else op
        for op in program.operations
    )
    return replace(program, operations=tuple(operations))


def _part_obstacle(program: Program, rows: str) -> str | None:
    """Return what of the parts this form has no way to do."""
    shared, added = shared_tiles(program), added_tiles(program)
    for loop in _loops(program):
        for store in (op for op in loop.body if isinstance(op, Store)):
            if not store.adds:
                return "a step stores"
            if not _has_box(program, store):
                return f"`{store.array}` has no box that the copy engine could add to"
        parts = [op for op in loop.body if isinstance(op, Dot) and op.tile.name in added]
        if {op.tile.name for op in parts} != added:
            return "a part of a sum is no contraction"
        computed = {tile.name: tile for tile in tiles_of(loop.body) if tile.level != "shared"}
        for dot in parts:
            left, right = computed.get(dot.left), shared.get(dot.right)
            if dot.over != rows or left is None or left.dims != (rows, dot.tile.dims[0]):
                return f"a part does not sum what is computed over `{rows}`"
            if right is None or right.dims[:1] != (rows,) or right.storage != dot.operand_type:
                return f"a part's other side is not `{rows}` by columns, as they lie in memory"
            if dot.operand_type not in OPERANDS or program.dim(dot.tile.dims[0]).extent % ROWS:
                return "a part is no contraction of warpgroups"
    return None


def _has_box(program: Program, store: Store) -> bool:
    """Return whether a consumer's columns of a part are a box whose rows the copy engine can add."""
    array = program.array(store.array)
    tiles = [program.axis(axis) for axis in array.axes]
    dims = tuple(tile.dim for tile in tiles if tile.dim is not None)
    if dims != store.source_dims or len(dims) != 2 or len(tiles) > MAX_DESCRIPTOR_RANK:
        return False
    width = tiles[-1].tile * TYPE_BYTES[array.dtype] // CONSUMERS
    return tiles[-1].size == tiles[-1].tile and width % _LEAST_ROW == 0 and array.dtype == "fp32"
