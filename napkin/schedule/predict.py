"""What a Program is expected to need and take: shared memory, registers, seconds.

In: a `Program`, a machine, axis lengths, warps. Out: a `Prediction`. It counts the Program that will be
printed and nothing else. It is only as fine as choosing tiles needs; the full performance model will take
its place behind `predict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

from napkin.machine import Machine
from napkin.operators import POINTWISE, Pipeline
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.program import (
    AxisRole,
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
from napkin.schedule.trips import kinds_of_groups, loop_places, remainders, trips

# Read off sweeps of tiles, warps and stages on an H200 (benchmarks/results/2026-11-22-tiles.md): full
# attention at head sizes 64, 128 and 256, and its variants at 128.
_TENSOR_REACHED = 0.8  # of the tensor core's rate by a plain loop of 128 rows or more
_TENSOR_REACHED_64 = 0.68  # of 64 rows
_NARROW_REACHED = 0.8  # of that, where columns or depth are under 64
_EXPOSED = (0.88, 0.5, 0.3)  # of vector work, by blocks that share a unit: 1, 2, 3 or more
_WAIT, _DEEP_WAIT = 200, 70  # clocks that a contraction waits for its operands, at 2 and 3 stages
_CUT_WAIT = 1500  # clocks of a chunk that is cut: nothing is fetched ahead of it
_MASK_REGISTERS = 6  # bounds and positions that a mask keeps beside the loops
_MASKED_COPY_REGISTERS = 32  # where threads copy, and test every address
_COPY_REGISTERS = 2  # of a 16-byte copy by a thread: its address
_FRAGMENT = 16  # rows (or columns) of an operand that mma.sync takes from registers at a time
_GATHERED = 0.21  # clocks of an element read at a computed position, for each stage but the last
_COPY_BYTES = 67  # a clock from L2 to a unit's shared memory
_START = 1500  # clocks of a block outside its loops


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is expected to need a block (bytes, registers a thread) and take (seconds)."""

    shared_bytes: int
    registers: int
    seconds: float
    bound_by: str


def predict(program: Program, machine: Machine, sizes: Mapping[str, int], warps: int) -> Prediction:
    """Return the shared memory, registers and time that a Program is expected to need."""
    shared = shared_bytes(program, wgmma=machine.has("wgmma"))
    walked = average_steps(program, sizes)
    registers = registers_per_thread(program, warps, wgmma=machine.has("wgmma"))
    if any(walked[id(op)] >= 0.5 for op in _cut_loops(program)):
        registers += _MASK_REGISTERS if machine.has("tma") else _MASKED_COPY_REGISTERS
    blocks = _blocks_per_unit(machine, warps, shared, registers)
    seconds, bound_by = _time(program, machine, sizes, walked, blocks)
    return Prediction(shared, registers, seconds, bound_by)


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
    for loop in walk(program.operations):
        body = loop.body if isinstance(loop, Loop) else ()
        for each in body if any(isinstance(op, Dot) for op in body) else ():
            if isinstance(each, Load) and len(each.tile.dims) > 1 and not each.gathered[-1]:
                # What threads read gives its place back in the same step: a ring of one less.
                depth = deepest if each.tile.name in contracted else max(deepest - 1, 1)
                size = _elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
                rings[each.array] = max(rings.get(each.array, 0), depth * size)
    total = sum(rings.values())
    for each in program.operations:
        if isinstance(each, Load) and each.tile.level == "shared" and wgmma:
            total += _elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
    return total


def registers_per_thread(program: Program, warps: int, *, wgmma: bool) -> int:
    """Return the registers of a thread: states, the widest moment of a body, and addressing.

    The bases were read from ptxas over the shipped examples (tests/test_runtime_inspect.py).
    """
    loops = [op for op in program.operations if isinstance(op, Loop)]
    hot = [op for op in loops if op.region is Region.FULL] or loops
    dots = [op for op in walk(program.operations) if isinstance(op, Dot)]
    rows = min((_elements(program, op.tile.dims[:1]) for op in dots), default=64)
    columns = max((_elements(program, op.tile.dims[1:]) for op in dots), default=0)
    from_shared = wgmma and rows >= 64
    held = _held_words(program, from_shared=from_shared)
    widest = max((_body_words(program, op) for op in hot), default=_straight_words(program))
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
            words += _elements(program, op.tile.dims)
        if isinstance(op, Load) and op.tile.level == "shared" and not from_shared:
            words += _elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage] / 4
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
            words += 1.5 * _elements(program, op.tile.dims)
        elif isinstance(op, Loop):
            words += _body_words(program, op)
        elif isinstance(op, Load) and op.gathered and op.gathered[-1] and op.tile.dims in results:
            words += 1.5 * _elements(program, op.tile.dims)
    computed = [op for op in loop.body if isinstance(op, Compute) and len(op.tile.dims) > 1]
    words += 0.5 * max((_elements(program, op.tile.dims) for op in _meetings(loop)), default=0)
    others = sorted(
        _elements(program, dims) for dims in {op.tile.dims for op in computed} - results
    )
    if results:
        return words + 1.5 * max(others, default=0) + sum(others[:-1])
    return words + 2.0 * max(others, default=0)


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
    largest = [_elements(program, tile.dims) for tile in tiles_of(program.operations)]
    return 3.0 * max(largest, default=0)


def _elements(program: Program, dims: Sequence[str]) -> int:
    return prod(program.dim(dim).extent for dim in dims)


def _time(
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    walked: Mapping[int, float],
    blocks: int,
) -> tuple[float, str]:
    """Return predicted seconds and what binds: work on the units' pipelines, L2 or DRAM traffic."""
    groups = prod(
        ceil(sizes[tile.axis] / tile.tile) for tile in program.axes if tile.role is AxisRole.GROUP
    )
    tensor, vector, moved, contracted, gathered = 0.0, 0.0, 0.0, 0.0, 0.0
    for op, steps in _weigh(program.operations, walked, 1.0):
        clocks = _clocks(program, op, machine)
        tensor += steps * clocks.get(Pipeline.TENSOR, 0.0)
        vector += steps * (clocks.get(Pipeline.SFU, 0.0) + clocks.get(Pipeline.FP32, 0.0))
        if isinstance(op, Load):
            moved += steps * _elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage]
        if isinstance(op, Dot):
            contracted += steps
        if isinstance(op, Load) and op.gathered and op.gathered[-1] and len(op.tile.dims) > 1:
            gathered += steps * _elements(program, op.tile.dims)
    # With three blocks on a unit the others' work hides the wait, whatever the ring's depth.
    stages = max((buffer.stages for buffer in program.buffers), default=1)
    latency = (_DEEP_WAIT if stages > 2 and blocks < 3 else _WAIT) * contracted + _START
    latency += 0.0 if stages > 2 else _unhidden_copies(program, walked)
    latency += _CUT_WAIT * sum(walked[id(op)] for op in _cut_loops(program))
    hidden = _EXPOSED[min(blocks, len(_EXPOSED)) - 1]
    per_group = max(tensor + hidden * vector, vector) + latency / blocks
    per_group += _GATHERED * gathered * max(1, stages - 1)
    waves = groups / machine.units
    waves = ceil(waves) if waves < 4 else waves
    unique = sum(
        prod(sizes[axis] for axis in array.axes) * TYPE_BYTES[array.dtype]
        for array in (*program.arrays, *program.outputs)
    )
    times = {
        "tensor and vector work": waves * per_group / machine.clock,
        "L2": groups * moved / machine.bandwidth("l2"),
        "DRAM": unique / machine.bandwidth("dram"),
    }
    bound = max(times, key=lambda name: times[name])
    return times[bound], bound


def _unhidden_copies(program: Program, walked: Mapping[int, float]) -> float:
    """Return the clocks of copies that two stages leave unhidden.

    Where every contraction of a loop only adds up, its operands are still being read when the next ones
    should arrive: a ring of two then copies and contracts in turn.
    """
    clocks = 0.0
    for op, times in _loops(program.operations, walked, 1.0):
        dots = [each for each in op.body if isinstance(each, Dot)]
        if dots and all(each.accumulator is not None for each in dots):
            copied = sum(
                _elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
                for each in op.body
                if isinstance(each, Load) and each.buffer is not None
            )
            clocks += times * copied / _COPY_BYTES
    return clocks


def _loops(
    operations: Sequence[Operation], walked: Mapping[int, float], times: float
) -> Iterable[tuple[Loop, float]]:
    """Yield every loop with the steps that a group takes of it, loops around it counted."""
    for op in operations:
        if isinstance(op, Loop):
            yield op, times * walked[id(op)]
            yield from _loops(op.body, walked, times * walked[id(op)])


def _cut_loops(program: Program) -> list[Loop]:
    """Return the loops over what a mask or the end cuts off another loop: they are not pipelined."""
    places = remainders(program)
    return [op for op in walk(program.operations) if isinstance(op, Loop) and id(op) in places]


def _blocks_per_unit(machine: Machine, warps: int, shared: int, registers: int) -> int:
    limits = machine.limits
    by_shared = limits.shared_per_block // max(shared + limits.shared_reserved_per_block, 1)
    by_registers = limits.registers_per_unit // (32 * warps * max(registers, 32))
    return max(1, min(by_shared, by_registers, 8))


def average_steps(program: Program, sizes: Mapping[str, int]) -> dict[int, float]:
    """Return the steps that a group takes of every loop on average, by the loop's identity.

    A whole number that bounds a loop is known only at the call: here it stands for a quarter of the
    stream.
    """
    stream = next((each.axis for each in program.axes if each.role is AxisRole.STREAM), None)
    guess = sizes[stream] // 4 if stream is not None else 0
    scalars = {name: guess for name, kind in program.scalars if kind == "int"}
    found = trips(program, sizes, scalars, kinds_of_groups(program, sizes))
    places = loop_places(program.operations)
    return {each: float(found[place].steps.mean()) for each, place in places.items()}


def _weigh(
    operations: Sequence[Operation], steps: Mapping[int, float], times: float
) -> Iterable[tuple[Operation, float]]:
    """Yield every operation with the times that a group runs it on average."""
    for op in operations:
        if isinstance(op, Loop):
            yield from _weigh(op.body, steps, times * steps[id(op)])
        else:
            yield op, times


def _clocks(program: Program, op: Operation, machine: Machine) -> dict[Pipeline, float]:
    """Return the clocks of one execution on each pipeline of a unit."""
    if isinstance(op, Dot):
        rows = _elements(program, op.tile.dims[:1])
        columns = _elements(program, op.tile.dims[1:])
        depth = _elements(program, (op.over,))
        kind = op.operand_type if machine.has_rate(Pipeline.TENSOR, op.operand_type) else "tf32"
        rate = machine.rate(Pipeline.TENSOR, kind)
        reached = _TENSOR_REACHED if rows >= 128 else _TENSOR_REACHED_64 * min(1.0, rows / 64)
        reached *= 1.0 if min(columns, depth) >= 64 else _NARROW_REACHED
        return {Pipeline.TENSOR: 2 * rows * columns * depth / rate / reached}
    if isinstance(op, Compute):
        row = POINTWISE[op.operator]
        count = _elements(program, op.tile.dims)
        return {
            Pipeline.FP32: row.fp32 * count / machine.rate(Pipeline.FP32, "fp32"),
            Pipeline.SFU: row.sfu * count / machine.rate(Pipeline.SFU, "fp32"),
        }
    if isinstance(op, Fold):
        count = _elements(program, (*op.tile.dims, *op.over))
        return {Pipeline.FP32: count / machine.rate(Pipeline.FP32, "fp32")}
    return {}
