"""A kernel's tiles where its contractions read their operands from shared memory (`shared_loop`).

In: a `KernelPlan`, as Triton's own loop has it. Out: the kernel as such a loop with its prediction, or in
words why it has none. Of the shapes that fit a thread's registers it is the first of which so many warps
share a unit that some contract while others compute; if there is none, the one with the most warps.

It is not asked here whether this form is faster than Triton's loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from napkin.machine import Machine
from napkin.schedule.forms.shapes import Shape, row_axis, tiling_of
from napkin.schedule.layout import build_layout
from napkin.schedule.lowering.bounds import join_bounds
from napkin.schedule.lowering.lower import lower
from napkin.schedule.program import Loop, Program, Region
from napkin.schedule.roles.obstacles import tile_registers
from napkin.schedule.roles.shared_loop import share_loop
from napkin.schedule.tiling.kernel import KernelPlan, storage_types
from napkin.schedule.tiling.tilings import power_of_two
from napkin.schedule.timing.occupancy import blocks_per_unit
from napkin.schedule.timing.plain_loops import DEEP_STAGES
from napkin.schedule.timing.predict import average_steps, predict

_GROUP = 4  # warps, whose tiles are counted together
_LEAST_ROWS = 64
_BESIDE_TILES = 60  # registers of addresses, operands and row values, read off compiled kernels
_ENOUGH_WARPS = 8  # of a unit


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Warps, the rows of a block and the positions of a chunk."""

    warps: int
    rows: int
    chunk: int


_SHAPES = (
    _Tiles(4, 128, 64),
    _Tiles(4, 128, 32),
    _Tiles(4, 64, 64),
    _Tiles(8, 128, 64),
    _Tiles(4, 64, 32),
    _Tiles(8, 128, 32),
    _Tiles(4, 64, 16),
)


def has_shared_form(machine: Machine) -> bool:
    """Return whether a machine's threads copy into shared memory, and its warps contract registers."""
    return machine.has("cp_async") and not machine.has("tma")


def find_shared_form(kernel: KernelPlan) -> KernelPlan | str:
    """Return the kernel as a loop that reads operands from shared memory, or in words why there is none."""
    machine = kernel.machine
    rows = row_axis(kernel)
    if rows is None:
        return "no tile of rows is shared by every contraction"
    if dict(kernel.sizes)[rows] < _LEAST_ROWS:
        return f"`{rows}` fills no block: it is {dict(kernel.sizes)[rows]} long"
    reason, best, most = "no tiles are small enough", None, 0
    for tiles in _SHAPES:
        made = _in_shape(kernel, rows, tiles)
        if isinstance(made, str):
            reason = made
            continue
        said = made.prediction
        warps = tiles.warps * blocks_per_unit(
            machine, tiles.warps, said.shared_bytes, said.registers
        )
        if warps >= _ENOUGH_WARPS:
            return made
        if warps > most:
            best, most = made, warps
    return reason if best is None else best


def _in_shape(kernel: KernelPlan, rows: str, tiles: _Tiles) -> KernelPlan | str:
    """Return the kernel with these tiles, or why it has no such form."""
    machine, sizes = kernel.machine, dict(kernel.sizes)
    tiling = tiling_of(kernel, rows, Shape(1, tiles.rows, tiles.chunk, (1,)), 1)
    blocks = tuple((axis, power_of_two(tile)) for axis, tile in tiling.tiles)
    tiling = replace(tiling, tiles=blocks, descriptors=False)
    types = storage_types(kernel.derivation.diagram, kernel.dtype)
    layout = build_layout(kernel.derivation, sizes, types, tiling)
    program = join_bounds(lower(kernel.derivation, layout))
    loop = share_loop(program, rows)
    if isinstance(loop, str):
        return loop
    shared, registers = loop.shared_bytes(program), _registers(program, tiles.warps)
    if shared > machine.limits.shared_per_block:
        return f"its tiles take {shared} bytes of shared memory"
    if registers > machine.limits.registers(tiles.warps):
        return f"its tiles take {registers} registers a thread"
    # A copy runs beside a contraction and what follows it: nothing waits more than for a deep ring.
    rings = tuple(replace(each, stages=DEEP_STAGES) for each in program.buffers)
    deep = replace(program, buffers=rings)
    walked = average_steps(deep, sizes)
    said = predict(deep, machine, sizes, tiles.warps, walked, needs=(shared, registers))
    return replace(
        kernel,
        layout=layout,
        program=program,
        warps=tiles.warps,
        prediction=said,
        loop=loop,
        stead=kernel,
    )


def _registers(program: Program, warps: int) -> int:
    """Return the registers of a thread: tiles of the chunks that no mask cuts, and what goes with them.

    What a cut chunk needs more may spill: few are cut.
    """
    full = [op for op in program.operations if isinstance(op, Loop) and op.region is Region.FULL]
    if full:
        operations = tuple(
            op for op in program.operations if not isinstance(op, Loop) or op in full
        )
        program = replace(program, operations=operations)
    return tile_registers(program, 1, together=True) * _GROUP // warps + _BESIDE_TILES
