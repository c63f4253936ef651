"""The configuration and throughput tables of a plan's kernel (paper, section 7), from its own Program.

In: a `KernelPlan`. Out: `Configuration`, what lies in shared memory and registers at the fullest moment,
and `Throughput`, what a step of the loop over full chunks asks of every pipeline, both of the form that is
printed. Rows are the first axes of the contractions' results: the warps that compute share them out.

The registers are those of values. Addresses, masks and what the compiler keeps besides are in the plan's
prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from napkin.model.configuration import Configuration, Scope, Variable, configure, share_threads
from napkin.model.throughput import Stage, Throughput, contraction_rate, merged, vector_rate
from napkin.operators import Pipeline
from napkin.schedule.count import Column, columns, extent, tile_bytes, work
from napkin.schedule.liveness import reads
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
from napkin.schedule.tiling.kernel import KernelPlan
from napkin.schedule.timing.occupancy import ring_depths


def configuration_of(kernel: KernelPlan) -> Configuration:
    """Return the configuration table of a kernel."""
    rows = _row_dim(kernel.printed)
    rings = _rings(kernel, rows) if kernel.form is None else _filled_rings(kernel, rows)
    held = (*rings, *_tiles(kernel, rows))
    return configure(kernel.machine, held, _share_rows(kernel, rows))


def throughput_of(kernel: KernelPlan) -> Throughput:
    """Return the throughput table of a step of a kernel."""
    program, machine = kernel.printed, kernel.machine
    rows = _row_dim(program)
    threads = _computing_threads(kernel)
    body = _before_readers([*_weighed(_step(program), program, 1)])
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
    """Return how many shares the warps that compute make up: warpgroups on Hopper, warps before."""
    return max(1, _computing_threads(kernel) // share_threads(kernel.machine))


def _computing_threads(kernel: KernelPlan) -> int:
    """Return the threads of a block but those that only copy."""
    limits = kernel.machine.limits
    if kernel.form is None:
        return kernel.warps * limits.threads_per_warp
    return kernel.form.warps.consumers * limits.warps_per_group * limits.threads_per_warp


def _share_rows(kernel: KernelPlan, rows: str | None) -> int:
    if rows is None:
        return 1
    return max(1, kernel.printed.dim(rows).extent // kernel_shares(kernel))


# --- variables ------------------------------------------------------------------------------------


def _rings(kernel: KernelPlan, rows: str | None) -> Iterator[Variable]:
    loads = {
        op.buffer: op.tile
        for op in walk(kernel.program.operations)
        if isinstance(op, Load) and op.buffer is not None
    }
    depths = ring_depths(kernel.program, wgmma=kernel.machine.has("wgmma"))
    for ring in kernel.program.buffers:
        slots = depths.get(ring.array, ring.stages)
        yield _variable(kernel, loads[ring.name], rows, slots, ring.array)


def _filled_rings(kernel: KernelPlan, rows: str | None) -> Iterator[Variable]:
    """Give the rings that a producer fills, and what stores pass through besides."""
    assert kernel.form is not None
    form = kernel.form.warps
    for ring in form.rings:
        tile = _variable(kernel, ring.load.tile, rows if ring.by_rows else None, 1, ring.load.array)
        holders = form.consumers if ring.by_rows else 1
        copies = ring.slots * ring.slot_bytes // (holders * tile.bytes)
        scope = Scope.SHARE if ring.by_rows else Scope.BLOCK
        yield replace(tile, level="shared", scope=scope, copies=max(1, copies))
    for each in form.staged:
        if each.ring is None:
            array = kernel.printed.array(each.store.array)
            passed = Tile(array.name, each.store.source_dims, array.kind, array.dtype, "shared")
            yield _variable(kernel, passed, rows, 1)


def _tiles(kernel: KernelPlan, rows: str | None) -> Iterator[Variable]:
    """Give the tiles that lie outside the rings where a level holds the most.

    Where contractions take operands from registers alone, those that stay lie there.
    """
    table = columns(kernel.printed)
    in_shared = kernel.machine.has("wgmma") or kernel.loop is not None
    stay = "shared" if in_shared else "register"
    levels = ("shared", "register") if kernel.form is None and stay == "shared" else ("register",)
    for level in levels:
        fullest = max(table, key=lambda column: _fullness(column, level), default=None)
        for tile in fullest.alive if fullest is not None else ():
            place = stay if tile.level == "shared" else tile.level
            if place == level and tile.dims:
                yield replace(_variable(kernel, tile, rows, 1), level=level)


def _fullness(column: Column, level: str) -> tuple[int, bool]:
    """Return the bytes at a level; of two columns as full, the one that most chunks pass counts."""
    is_full = any(loop.region is Region.FULL for loop in column.loops)
    return dict(column.resident).get(level, 0), is_full


def _variable(
    kernel: KernelPlan, tile: Tile, rows: str | None, copies: int, name: str = ""
) -> Variable:
    program = kernel.printed
    extents = {dim: program.dim(dim).extent for dim in tile.dims}
    if rows in extents:
        assert rows is not None
        extents[rows] = _share_rows(kernel, rows)
    is_shared_out = rows in extents or tile.level == "register"
    scope = Scope.SHARE if is_shared_out else Scope.BLOCK
    extent = tuple(extents.items())
    return Variable(name or tile.name, tile.level, scope, extent, tile.storage, copies)


# --- stages ---------------------------------------------------------------------------------------


def _step(program: Program) -> Sequence[Operation]:
    """Return the body of the loop over full chunks that works most, or all without a loop."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    full = [op for op in loops if op.region is Region.FULL] or loops
    if not full:
        return program.operations
    return max(full, key=lambda loop: _operations(loop, program)).body


def _before_readers(body: Sequence[tuple[Operation, int]]) -> list[tuple[Operation, int]]:
    """Return a step with every contraction just before what reads it first, else last.

    Until then it may run beside other work, wherever it was issued.
    """
    ordered: list[tuple[Operation, int]] = []
    waiting: list[tuple[Dot, int]] = []
    for op, times in body:
        if isinstance(op, Dot):
            waiting.append((op, times))
            continue
        read = set(reads(op))
        ordered += [each for each in waiting if each[0].tile.name in read]
        waiting = [each for each in waiting if each[0].tile.name not in read]
        ordered.append((op, times))
    return [*ordered, *waiting]


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
    program, machine = kernel.printed, kernel.machine
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
