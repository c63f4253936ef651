"""The configuration and throughput tables of a plan's kernel (paper, section 7), from its own Program.

In: a `KernelPlan`. Out: `Configuration`, what lies in shared memory and registers at the fullest moment,
and `Throughput`, what a step of the loop over full chunks asks of every pipeline. Rows are the first axes
of the contractions' results: the warps share them out.

The registers are those of values. Addresses, masks and what the compiler keeps besides are in the plan's
prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from napkin.model.configuration import Configuration, Scope, Variable, configure, share_threads
from napkin.model.throughput import Stage, Throughput, contraction_rate, merged, vector_rate
from napkin.operators import Pipeline
from napkin.schedule.count import columns, extent, tile_bytes, work
from napkin.schedule.kernel import KernelPlan
from napkin.schedule.program import (
    AxisRole,
    Dot,
    Load,
    Loop,
    Operation,
    Program,
    Region,
    Tile,
    walk,
)


def configuration_of(kernel: KernelPlan) -> Configuration:
    """Return the configuration table of a kernel."""
    rows = _row_dim(kernel.program)
    held = (*_rings(kernel, rows), *_tiles(kernel, rows))
    return configure(kernel.machine, held, _share_rows(kernel, rows))


def throughput_of(kernel: KernelPlan) -> Throughput:
    """Return the throughput table of a step of a kernel."""
    program, machine = kernel.program, kernel.machine
    rows = _row_dim(program)
    threads = kernel.warps * machine.limits.threads_per_warp
    body = list(_weighed(_step(program), program, 1))
    stages = merged([stage for op, times in body for stage in _stages(kernel, op, times / threads)])
    streamed = [(op.tile, times) for op, times in body if isinstance(op, Load)]
    once = sum(tile_bytes(tile, program) * n for tile, n in streamed if rows not in tile.dims)
    each = sum(tile_bytes(tile, program) * n for tile, n in streamed if rows in tile.dims)
    flops = sum(
        number * times
        for op, times in body
        if isinstance(op, Dot)
        for _, number in work(op, program).operations
    )
    return Throughput(
        stages,
        share_threads(machine),
        _share_rows(kernel, rows),
        once,
        each // kernel_shares(kernel),
        flops / threads,
        machine.units,
        machine.clock,
        machine.nominal_bandwidth("dram"),
    )


# --- rows -----------------------------------------------------------------------------------------


def _row_dim(program: Program) -> str | None:
    """Return the dim that warps share out: a contraction's rows, else the first grouped one."""
    dots = [op.tile.dims[0] for op in walk(program.operations) if isinstance(op, Dot)]
    grouped = [
        each.dim
        for each in program.axes
        if each.role is AxisRole.GROUP and each.dim is not None and each.tile > 1
    ]
    return next(iter([*dots, *grouped]), None)


def kernel_shares(kernel: KernelPlan) -> int:
    """Return how many shares a kernel's warps make up: warpgroups on Hopper, warps before."""
    threads = kernel.warps * kernel.machine.limits.threads_per_warp
    return max(1, threads // share_threads(kernel.machine))


def _share_rows(kernel: KernelPlan, rows: str | None) -> int:
    if rows is None:
        return 1
    return max(1, kernel.program.dim(rows).extent // kernel_shares(kernel))


# --- variables ------------------------------------------------------------------------------------


def _rings(kernel: KernelPlan, rows: str | None) -> Iterator[Variable]:
    loads = {
        op.buffer: op.tile
        for op in walk(kernel.program.operations)
        if isinstance(op, Load) and op.buffer is not None
    }
    for ring in kernel.program.buffers:
        yield _variable(kernel, loads[ring.name], rows, ring.stages)


def _tiles(kernel: KernelPlan, rows: str | None) -> Iterator[Variable]:
    """Give the tiles that lie outside the rings where a level holds the most."""
    table = columns(kernel.program)
    for level in ("shared", "register"):
        fullest = max(table, key=lambda column: dict(column.resident).get(level, 0), default=None)
        if fullest is not None:
            for tile in fullest.alive:
                if tile.level == level and tile.dims:
                    yield _variable(kernel, tile, rows, 1)


def _variable(kernel: KernelPlan, tile: Tile, rows: str | None, copies: int) -> Variable:
    program = kernel.program
    extents = {dim: program.dim(dim).extent for dim in tile.dims}
    if rows in extents:
        assert rows is not None
        extents[rows] = _share_rows(kernel, rows)
    is_shared_out = rows in extents or tile.level == "register"
    scope = Scope.SHARE if is_shared_out else Scope.BLOCK
    return Variable(tile.name, tile.level, scope, tuple(extents.items()), tile.storage, copies)


# --- stages ---------------------------------------------------------------------------------------


def _step(program: Program) -> Sequence[Operation]:
    """Return the body of the loop over full chunks that works most, or all without a loop."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    full = [op for op in loops if op.region is Region.FULL] or loops
    if not full:
        return program.operations
    return max(full, key=lambda loop: _operations(loop, program)).body


def _operations(loop: Loop, program: Program) -> int:
    return sum(
        number * times
        for op, times in _weighed(loop.body, program, 1)
        for _, number in work(op, program).operations
    )


def _weighed(
    operations: Sequence[Operation], program: Program, times: int
) -> Iterator[tuple[Operation, int]]:
    """Give every operation of a step with how often it runs: a split axis is walked in chunks."""
    for op in operations:
        if isinstance(op, Loop):
            axis = program.axis(op.axis)
            chunks = -(-(axis.size or axis.tile) // axis.tile)
            yield from _weighed(op.body, program, times * chunks)
        else:
            yield op, times


def _stages(kernel: KernelPlan, op: Operation, each: float) -> Iterator[Stage]:
    program, machine = kernel.program, kernel.machine
    for pipeline, number in work(op, program).operations:
        assert not isinstance(op, Loop)
        name, dims = _named(op)
        shape = " ".join(f"{dim}:{extent((dim,), program)}" for dim in dims)
        if isinstance(op, Dot):
            place, rate = contraction_rate(machine, op.operand_type)
            yield Stage(name, f"[{shape} {op.over}]", place, number * each, rate)
        elif pipeline is Pipeline.SFU:
            yield Stage(name, f"[{shape}]", pipeline, number * each, machine.rate(pipeline, "fp32"))
        else:
            yield Stage(name, f"[{shape}]", pipeline, number * each, vector_rate(machine, "fp32"))


def _named(op: Operation) -> tuple[str, tuple[str, ...]]:
    tile = getattr(op, "tile", None)
    return (tile.name, tile.dims) if tile is not None else ("", ())
