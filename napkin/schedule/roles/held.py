"""Resident operands that consumers keep in registers, so that contractions read less of shared memory.

In: a `Specialised` kernel and its machine. Out: the same, with the first columns of a resident left operand
held in registers where shared memory would keep its contractions waiting, or the whole of it where it fits. A
warpgroup's instruction reads its right operand from shared memory, and its left one unless that lies in
registers: of 64 rows by 64 positions both are as large, and are read in a time in which shared memory passes
no more than that. The copies of the chunks to come are written besides.
"""

from __future__ import annotations

from dataclasses import replace

from napkin.machine import Machine
from napkin.operators import Kind, Pipeline
from napkin.schedule.count import extent, tile_bytes
from napkin.schedule.program import Dot, Loop, Program, Region, Tile, tiles_of
from napkin.schedule.roles.obstacles import tile_registers
from napkin.schedule.roles.panels import panels_of
from napkin.schedule.roles.slicing import column_registers
from napkin.schedule.roles.warps import Held, Ring, Specialised

# Past this share of its rate, contractions wait for shared memory: chunks of 64 positions take all of it,
# chunks of 128 take 7/8 (docs/hopper.md).
_BUSY = 0.9
# Registers that addresses and row values take at least, by consumers: read off compiled kernels.
_BESIDE = {2: 24, 3: 40}
_NARROWEST = 64  # columns: one swizzled row of shared memory


def with_held_operands(form: Specialised, machine: Machine) -> Specialised:
    """Return the form with columns of a resident operand in registers, where that helps and they are free."""
    found = _resident_left(form)
    if found is None or _share_of_rate(form, machine) <= _BUSY:
        return form
    dot, ring = found
    free = (
        form.registers[0] - _BESIDE[form.consumers] - tile_registers(form.program, form.consumers)
    )
    columns = extent((dot.over,), form.program) // 2
    while columns >= _NARROWEST and _registers(ring, columns, form) > free:
        columns //= 2
    if columns < _NARROWEST:
        return form
    return replace(form, held=(Held(dot.left, columns),))


def with_held_rows(form: Specialised) -> Specialised:
    """Return a form whose masks take no registers with a resident operand whole in them, if they are free."""
    found = _resident_left(form)
    if found is None:
        return form
    dot, ring = found
    program, columns = form.program, extent((dot.over,), form.program)
    taken = tile_registers(program, form.consumers) - _mask_registers(form)
    taken += column_registers(program) + _registers(ring, columns, form)
    if taken + _BESIDE[form.consumers] > form.registers[0]:
        return form
    return replace(form, held=(Held(dot.left, columns),))


def _mask_registers(form: Specialised) -> int:
    """Return the registers of a thread that are counted for a chunk's mask."""
    loops = [op for op in form.program.operations if isinstance(op, Loop)]
    masks = [tile for loop in loops for tile in tiles_of(loop.body) if tile.kind is Kind.BOOL]
    widest = max((extent(t.dims, form.program) for t in masks if len(t.dims) == 2), default=0)
    return widest // (4 * 128 * form.consumers)


def _resident_left(form: Specialised) -> tuple[Dot, Ring] | None:
    """Return the contraction that alone reads a resident tile of rows, and the tile's ring."""
    if panels_of(form.program):
        return None
    rings = {ring.load.tile.name: ring for ring in form.rings if ring.resident and ring.by_rows}
    loops = [op for op in form.program.operations if isinstance(op, Loop)]
    for loop in loops:
        dots = [op for op in loop.body if isinstance(op, Dot) and op.left in rings]
        if len(dots) != 1 or len(rings) != 1:
            return None
    return dots[0], rings[dots[0].left]


def _registers(ring: Ring, columns: int, form: Specialised) -> int:
    """Return the registers of a thread that so many columns of a consumer's rows take."""
    tile = ring.load.tile
    share = columns / extent(tile.dims[1:], form.program)
    return int(tile_bytes(tile, form.program) * share) // (4 * 128 * form.consumers)


def _share_of_rate(form: Specialised, machine: Machine) -> float:
    """Return the share of shared memory's rate that a chunk takes while its contractions run at theirs."""
    loops = [op for op in form.program.operations if isinstance(op, Loop)]
    loop = next((op for op in loops if op.region is Region.FULL), loops[-1])
    dots = [op for op in loop.body if isinstance(op, Dot)]
    tiles = {tile.name: tile for tile in tiles_of(form.program.operations)}
    passed = sum(_bytes_read(dot, tiles, form) for dot in dots)
    passed += sum(ring.slot_bytes for ring in form.rings if not ring.resident)
    clocks = sum(_clocks(dot, form.program, machine) for dot in dots)
    rate = machine.nominal_bandwidth("shared") / (machine.units * machine.clock)
    return passed / (clocks * rate)


def _bytes_read(dot: Dot, tiles: dict[str, Tile], form: Specialised) -> int:
    """Return the bytes that a contraction of all consumers reads from shared memory."""
    left, right = tiles[dot.left], tiles[dot.right]
    own = tile_bytes(left, form.program) if left.level == "shared" else 0
    return own + form.consumers * tile_bytes(right, form.program)


def _clocks(dot: Dot, program: Program, machine: Machine) -> float:
    count = 2 * extent((*dot.tile.dims, dot.over), program)
    return count / machine.rate(Pipeline.TENSOR, dot.operand_type)
