"""A kernel's tiles where its contractions read their operands from shared memory (`shared_loop`).

In: a `KernelPlan`, as Triton's own loop has it. Out: the kernel as such a loop with its prediction, or in
words why it has none. Of the shapes that fit a thread's registers it is the first of which so many warps
share a unit that some contract while others compute; if there is none, the one with the most warps.

It is not asked here whether this form is faster than Triton's loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from napkin.machine import Machine
from napkin.schedule.bounds import join_bounds
from napkin.schedule.kernel import KernelPlan, storage_types
from napkin.schedule.layout import build_layout
from napkin.schedule.lower import lower
from napkin.schedule.obstacles import tile_registers
from napkin.schedule.occupancy import blocks_per_unit
from napkin.schedule.plain_loops import DEEP_STAGES
from napkin.schedule.predict import average_steps, predict
from napkin.schedule.program import Compute, Load, Loop, Program, Region, walk
from napkin.schedule.shapes import Shape, row_axis, tiling_of
from napkin.schedule.shared_loop import SharedLoop, share_loop

_GROUP = 4  # warps, whose tiles are counted together
_LEAST_ROWS = 64
_BESIDE_TILES = 60  # registers of addresses, operands and row values, read off compiled kernels
_ENOUGH_WARPS = 8  # of a unit
_TRIED_TYPE = "bf16"
_TRIED_WIDTHS = frozenset({64, 128, 256})
_TRIED_OPERATORS = frozenset(
    {
        *("add", "eq", "exp2", "floordiv", "le", "log", "lt", "max2", "min2", "mul", "reciprocal"),
        *("sub", "where"),
    }
)


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
    tiling = replace(tiling, descriptors=False)
    types = storage_types(kernel.derivation.diagram, kernel.dtype)
    layout = build_layout(kernel.derivation, sizes, types, tiling)
    program = join_bounds(lower(kernel.derivation, layout))
    loop = share_loop(program, rows)
    if isinstance(loop, str):
        return loop
    untried = _untried(program, loop)
    if untried is not None:
        return f"with operands in shared memory {untried} has not run on a GPU yet"
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


def _untried(program: Program, loop: SharedLoop) -> str | None:
    """Return what of a kernel goes beyond those that have run on a GPU in this form (docs/ampere.md)."""
    regions = [op.region for op in program.operations if isinstance(op, Loop)]
    if regions != [Region.FULL, Region.PARTIAL]:
        return "a stream that is cut elsewhere than at its end"
    copied = (*loop.resident, *loop.streamed)
    if any(each.tile.storage != _TRIED_TYPE for each in copied):
        return "another type than bf16"
    widths = {program.axis(program.array(each.array).axes[-1]).size for each in copied}
    if len(widths) > 1 or not widths <= _TRIED_WIDTHS:
        return f"a width other than {', '.join(map(str, sorted(_TRIED_WIDTHS)))}"
    if any(len(dim) > 1 for array in program.arrays for dim in array.dims) or program.scalars:
        return "an argument that is a number or has axes side by side"
    operations = walk(program.operations)
    if any(isinstance(op, Load) and op.tile.level != "shared" for op in operations):
        return "a load to registers"
    made = {op.operator for op in operations if isinstance(op, Compute)} - _TRIED_OPERATORS
    return f"`{min(made)}`" if made else None


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
