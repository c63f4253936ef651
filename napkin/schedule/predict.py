"""How long a Program is expected to take, and what its time is made of.

In: a `Program`, a machine, axis lengths, warps. Out: a `Prediction`, with what `occupancy` says of its
needs. It counts the Program that will be printed and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, prod

from napkin.machine import Machine
from napkin.operators import POINTWISE, Pipeline
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.liveness import reads, writes
from napkin.schedule.occupancy import (
    blocks_per_unit,
    elements,
    registers_per_thread,
    shared_bytes,
)
from napkin.schedule.program import (
    AxisRole,
    Compute,
    Dot,
    Fold,
    Load,
    Loop,
    Operation,
    Program,
    walk,
)
from napkin.schedule.trips import kinds_of_groups, loop_places, remainders, trips

# Read off sweeps of tiles, warps and stages on an H200 (benchmarks/results/2026-11-22-tiles.md): full
# attention at head sizes 64, 128 and 256, and its variants at 128.
_TENSOR_REACHED = 0.8  # of the tensor core's rate by a plain loop of 128 rows or more
_TENSOR_REACHED_64 = 0.68  # of 64 rows
_FEW_ROWS_REACHED = 0.4  # of that, of 16 rows
_NARROW_REACHED, _THIN_REACHED = 0.8, 0.4  # of that, where columns or depth are under 64, under 32
_SPREAD_REACHED = (
    0.4  # of that, by an operand whose rows are computed by several warpgroups: it changes hands
)
_EXPOSED = (0.88, 0.5, 0.3)  # of vector work, by blocks that share a unit: 1, 2, 3 or more
_WAIT, _DEEP_WAIT = 200, 70  # clocks that a contraction waits for its operands, at 2 and 3 stages
_CUT_WAIT = 1500  # clocks of a chunk that is cut: nothing is fetched ahead of it
_MASK_REGISTERS = 6  # bounds and positions that a mask keeps beside the loops
_MASKED_COPY_REGISTERS = 32  # where threads copy, and test every address
_GATHERED = 0.21  # clocks of an element read at a computed position, for each stage but the last
_COPY_BYTES = 67  # a clock from L2 to a unit's shared memory
_START = 1500  # clocks of a block outside its loops
# Of a block alone on its unit (decode, latent attention and two-layer kernels on an H200):
_CHAIN = 600  # clocks from a contraction's operands to its result's first use
_COPY_LATENCY = 1200  # clocks of a copy that two stages leave exposed in every step
# Of a warp-specialised kernel: full attention at head 128 and 4k took 0.785 ms on an H200 (docs/hopper.md),
# where its contractions alone take 0.694 and its other arithmetic 0.38. What overlaps hides all but this:
_LEFT_EXPOSED = 0.25  # of the shorter of the two


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is expected to need a block (bytes, registers a thread) and take (seconds).

    `parts` says what the seconds are made of, by name; they add up to them.
    """

    shared_bytes: int
    registers: int
    seconds: float
    bound_by: str
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class _Work:
    """What a group does on average: clocks of contractions and of other arithmetic, bytes moved.

    `contracted` counts contractions, `gathered` elements that are read at computed positions.
    """

    tensor: float
    vector: float
    moved: float
    contracted: float
    gathered: float


def predict(
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    warps: int,
    walked: Mapping[int, float],
) -> Prediction:
    """Return the shared memory, registers and time that a Program is expected to need.

    `walked` are its `average_steps`. What is more than a block may hold takes for ever.
    """
    shared = shared_bytes(program, wgmma=machine.has("wgmma"))
    registers = registers_per_thread(program, warps, wgmma=machine.has("wgmma"))
    limits = machine.limits
    if shared > limits.shared_per_block or registers > limits.registers_per_thread:
        return Prediction(shared, registers, inf, "what a block may hold")
    if any(walked[id(op)] >= 0.5 for op in _cut_loops(program)):
        registers += _MASK_REGISTERS if machine.has("tma") else _MASKED_COPY_REGISTERS
    blocks = blocks_per_unit(machine, warps, shared, registers)
    work = _work(program.operations, program, machine, walked, warps)
    busy = _busy_seconds(program, machine, sizes, walked, work, warps, blocks)
    return _bounded((shared, registers), program, machine, sizes, busy, work.moved)


def predict_specialised(
    program: Program, machine: Machine, sizes: Mapping[str, int], consumers: int, shared: int
) -> Prediction:
    """Return what a warp-specialised kernel is expected to take of a machine.

    `program` is rotated and has the form's tiles; `shared` are the bytes that the form takes. Contractions
    run beside all other arithmetic, and a group's first chunk beside nothing.
    """
    walked = average_steps(program, sizes)
    work = _work(program.operations, program, machine, walked, 4 * consumers)
    exposed = {"contractions": work.tensor, "other arithmetic": work.vector}
    exposed[min(exposed, key=lambda name: exposed[name])] *= _LEFT_EXPOSED
    waves = _groups(program, sizes) / machine.units
    waves = ceil(waves) if waves < 4 else waves
    clocks = exposed | {"waiting": float(_START)}
    busy = {name: waves * each / machine.clock for name, each in clocks.items()}
    threads = machine.limits.threads_per_warp * 4 * (consumers + 1)
    registers = (
        machine.limits.registers_per_block // threads // 8 * 8
    )  # at launch, of all warps alike
    return _bounded((shared, registers), program, machine, sizes, busy, work.moved)


def _bounded(
    needs: tuple[int, int],
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    busy: Mapping[str, float],
    moved: float,
) -> Prediction:
    """Return the prediction: what the units do takes `busy`, unless their data take longer to arrive."""
    times = {
        "tensor and vector work": sum(busy.values()),
        "L2": _groups(program, sizes) * moved / machine.bandwidth("l2"),
        "DRAM": _unique_bytes(program, sizes) / machine.bandwidth("dram"),
    }
    bound = max(times, key=lambda name: times[name])
    beyond = times[bound] - times["tensor and vector work"]
    parts = dict(busy) | ({f"waiting for {bound}": beyond} if beyond > 0 else {})
    return Prediction(*needs, times[bound], bound, tuple(parts.items()))


def _busy_seconds(
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    walked: Mapping[int, float],
    work: _Work,
    warps: int,
    blocks: int,
) -> dict[str, float]:
    """Return the seconds that the units are at work, by what they do."""
    stages = max((buffer.stages for buffer in program.buffers), default=1)
    hidden = _EXPOSED[min(blocks, len(_EXPOSED)) - 1]
    clocks = {
        "contractions": work.tensor,
        "other arithmetic": max(hidden * work.vector, work.vector - work.tensor),
        "waiting": _latency(program, walked, work.contracted, stages, blocks) / blocks,
        "reads at computed positions": _GATHERED * work.gathered * max(1, stages - 1),
    }
    waves = _groups(program, sizes) / machine.units
    if min(blocks, ceil(waves)) * _warpgroups_apart(program, warps) == 1:
        alone = _serial_clocks(program, machine, walked, warps, stages)
        clocks["waiting"] += max(alone - sum(clocks.values()), 0.0)
    waves = ceil(waves) if waves < 4 else waves
    return {name: waves * each / machine.clock for name, each in clocks.items()}


def _latency(
    program: Program, walked: Mapping[int, float], contracted: float, stages: int, blocks: int
) -> float:
    """Return the clocks of a block in which it waits, other blocks left out."""
    # With three blocks on a unit the others' work hides the wait, whatever the ring's depth.
    clocks = (_DEEP_WAIT if stages > 2 and blocks < 3 else _WAIT) * contracted + _START
    clocks += 0.0 if stages > 2 else _unhidden_copies(program, walked)
    return clocks + _CUT_WAIT * sum(walked[id(op)] for op in _cut_loops(program))


def _work(
    operations: Sequence[Operation],
    program: Program,
    machine: Machine,
    walked: Mapping[int, float],
    warps: int,
) -> _Work:
    loaded = {op.tile.name for op in walk(program.operations) if isinstance(op, Load)}
    tensor, vector, moved, contracted, gathered = 0.0, 0.0, 0.0, 0.0, 0.0
    for op, steps in _weigh(operations, walked, 1.0):
        clocks = _clocks(program, op, machine, warps, loaded)
        tensor += steps * clocks.get(Pipeline.TENSOR, 0.0)
        vector += steps * (clocks.get(Pipeline.SFU, 0.0) + clocks.get(Pipeline.FP32, 0.0))
        contracted += steps * isinstance(op, Dot)
        if isinstance(op, Load):
            count = steps * elements(program, op.tile.dims)
            moved += count * TYPE_BYTES[op.tile.storage]
            if len(op.tile.dims) > 1 and op.gathered[-1]:
                gathered += count
    return _Work(tensor, vector, moved, contracted, gathered)


def _groups(program: Program, sizes: Mapping[str, int]) -> int:
    return prod(
        ceil(sizes[tile.axis] / tile.tile) for tile in program.axes if tile.role is AxisRole.GROUP
    )


def _unique_bytes(program: Program, sizes: Mapping[str, int]) -> int:
    return sum(
        prod(sizes[axis] for axis in array.axes) * TYPE_BYTES[array.dtype]
        for array in (*program.arrays, *program.outputs)
    )


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
                elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
                for each in op.body
                if isinstance(each, Load) and each.buffer is not None
            )
            clocks += times * copied / _COPY_BYTES
    return clocks


def _warpgroups_apart(program: Program, warps: int) -> int:
    """Return how many warpgroups of a block have rows of their own, so that one works while another waits."""
    rows = [
        elements(program, op.tile.dims[:1])
        for op in walk(program.operations)
        if isinstance(op, Dot)
    ]
    return max(warps // 4, 1) if rows and min(rows) >= 16 * warps else 1


def _serial_clocks(
    program: Program, machine: Machine, walked: Mapping[int, float], warps: int, stages: int
) -> float:
    """Return the clocks of a group that nothing else runs beside: what waits for one another adds up.

    A contraction that only adds to its sum, of operands as they were loaded, lets the next step begin.
    """
    total = float(_START)
    for loop, times in _loops(program.operations, walked, 1.0):
        own = tuple(op for op in loop.body if not isinstance(op, Loop))
        loaded = {op.tile.name for op in own if isinstance(op, Load)}
        dots = [op for op in own if isinstance(op, Dot)]
        work = _work(own, program, machine, walked, warps)
        if dots and all(op.accumulator == op.tile.name and op.left in loaded for op in dots):
            total += times * max(work.tensor, work.vector)
            continue
        # The wait of a chain holds what small tiles lose otherwise.
        tensor = sum(_contraction(program, op, machine, warps, loaded) for op in dots)
        total += times * (tensor + work.vector + _CHAIN * _longest_chain(program, own))
        copied = any(isinstance(op, Load) and len(op.tile.dims) > 1 for op in own)
        total += times * _COPY_LATENCY if copied and stages == 2 else 0.0
    return total


def _longest_chain(program: Program, body: Sequence[Operation]) -> int:
    """Return the most contractions that wait for one another in a step; of under 64 rows, all wait."""
    depth: dict[str, int] = {}
    dots = [op for op in body if isinstance(op, Dot)]
    if any(elements(program, op.tile.dims[:1]) < 64 for op in dots):
        return len(dots)
    for op in body:
        name = writes(op)
        if name is not None:
            before = max((depth.get(each, 0) for each in reads(op)), default=0)
            depth[name] = before + isinstance(op, Dot)
    return max(depth.values(), default=0)


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


def _clocks(
    program: Program, op: Operation, machine: Machine, warps: int, loaded: Collection[str]
) -> dict[Pipeline, float]:
    """Return the clocks of one execution on each pipeline of a unit."""
    if isinstance(op, Dot):
        reached = 1.0
        narrow = min(elements(program, op.tile.dims[1:]), elements(program, (op.over,)))
        if narrow < 64:
            reached *= _NARROW_REACHED if narrow >= 32 else _THIN_REACHED
        return {Pipeline.TENSOR: _contraction(program, op, machine, warps, loaded) / reached}
    if isinstance(op, Compute):
        row = POINTWISE[op.operator]
        count = elements(program, op.tile.dims)
        return {
            Pipeline.FP32: row.fp32 * count / machine.rate(Pipeline.FP32, "fp32"),
            Pipeline.SFU: row.sfu * count / machine.rate(Pipeline.SFU, "fp32"),
        }
    if isinstance(op, Fold):
        count = elements(program, (*op.tile.dims, *op.over))
        return {Pipeline.FP32: count / machine.rate(Pipeline.FP32, "fp32")}
    return {}


def _contraction(
    program: Program, op: Dot, machine: Machine, warps: int, loaded: Collection[str]
) -> float:
    """Return the clocks of a contraction at the rate that its rows reach."""
    rows = elements(program, op.tile.dims[:1])
    count = rows * elements(program, op.tile.dims[1:]) * elements(program, (op.over,))
    kind = op.operand_type if machine.has_rate(Pipeline.TENSOR, op.operand_type) else "tf32"
    reached = _TENSOR_REACHED
    if rows < 128:
        reached = _TENSOR_REACHED_64 * min(1.0, max(rows / 64, _FEW_ROWS_REACHED))
    if machine.has("wgmma") and 64 <= rows < 16 * warps and op.left not in loaded:
        reached *= _SPREAD_REACHED
    return 2 * count / machine.rate(Pipeline.TENSOR, kind) / reached
