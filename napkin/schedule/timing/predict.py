"""How long a Program is expected to take, and what its time is made of.

In: a `Program`, a machine, axis lengths, warps. Out: a `Prediction`, with what `occupancy` says of its
needs and `clocks` of its work. It counts the Program that will be printed and nothing else: blocks come in
waves, a wave opens with loads that nothing hides and then walks its stream.

Where the constants come from, and how far predictions were off: docs/model.md, "The predictor".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, hypot, inf, prod

from napkin.machine import Machine
from napkin.schedule.order import specialised_order
from napkin.schedule.program import AxisRole, Loop, Program
from napkin.schedule.timing.clocks import Work, gather_clocks, loops_of, operand_clocks, work_of
from napkin.schedule.timing.code_length import fetch_clocks
from napkin.schedule.timing.occupancy import blocks_per_unit, shared_bytes
from napkin.schedule.timing.plain_loops import (
    cut_loops,
    plain_clocks,
    read_again,
    reads_positions,
    rows_read,
    start_seconds,
)
from napkin.schedule.timing.registers import registers_per_thread
from napkin.schedule.timing.traffic import dram_traffic, least_traffic, most_traffic
from napkin.schedule.trips import kinds_of_groups, loop_places, trips

# Read off the compiler's reports, with the bases of `occupancy`:
_MASK_REGISTERS = 6  # bounds and positions that a mask keeps beside the loops
_MASKED_COPY_REGISTERS = 7  # where threads copy, and test every address
_BOUND_REGISTERS = 5  # of every further loop over what a mask cuts
_COPIED_BOUND_REGISTERS = 32  # of one where threads copy
_APART = 4  # the norm that joins memory's time and threads' where neither runs ahead of the other
_COLD = (
    3e-6  # seconds of a kernel with rings, whose first instructions and addresses come from memory
)
# Seconds before a kernel in which nothing contracts, as between runs that are timed one by one: power is an
# average over longer times, and what a rest saves is there for the kernel.
REST = 0.4e-3
EVEN_WAVES = 4  # fewer waves than these end together: the last one counts whole


@dataclass(frozen=True, slots=True)
class _Overlap:
    """How contractions run beside other arithmetic: the norm that joins their times, and how much slower."""

    order: int
    slower: float


# Fitted to six diagrams at a head of 64, 1k to 16k positions, on an H200 (docs/hopper.md).
_IN_SLICES = _Overlap(6, 1.06)


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


def predict(
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    warps: int,
    walked: Mapping[int, float],
    needs: tuple[int, int] | None = None,
) -> Prediction:
    """Return the shared memory, registers and time that a Program is expected to need.

    `walked` are its `average_steps`, `needs` its shared memory and registers if it is not printed as Triton's
    own loop. What is more than a block may hold takes for ever.
    """
    shared, registers = needs or (
        shared_bytes(program, warps, wgmma=machine.has("wgmma")),
        registers_per_thread(program, warps, wgmma=machine.has("wgmma")),
    )
    limits = machine.limits
    if shared > limits.shared_per_block or registers > limits.registers(warps):
        return Prediction(shared, registers, inf, "what a block may hold")
    if needs is None:
        registers += _mask_registers(program, machine, walked)
    groups = group_count(program, sizes)
    fitting = blocks_per_unit(machine, warps, shared, registers)
    blocks = min(fitting, ceil(groups / machine.units))
    work = work_of(program.operations, program, machine, walked, warps)
    clocks = plain_clocks(program, machine, walked, work, warps, blocks)
    is_even = kinds_of_groups(program, sizes).count == 1
    starting = start_seconds(program, machine, blocks, is_even=is_even)
    waves = groups / machine.units
    waves = ceil(waves) if is_even or waves < EVEN_WAVES else waves
    busy = {name: waves * each / machine.clock for name, each in clocks.items()}
    # Without rings there are blocks enough on a unit for one to start while others work.
    busy["starting"] = waves * starting if program.buffers else 0.0
    moved = work.moved - read_again(program, machine, sizes, walked, blocks)
    needs, work = (shared, registers), replace(work, moved=moved)
    return _bounded(needs, program, machine, sizes, busy, work, fitting * machine.units)


def predict_specialised(
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    consumers: int,
    shared: int,
    *,
    shares_slot: bool = False,
    is_sliced: bool = False,
) -> Prediction:
    """Return what a warp-specialised kernel is expected to take of a machine.

    `program` is rotated and has the form's tiles; `shared` are the bytes that the form takes. `shares_slot`
    says that a group's output leaves through its rows' slot, so that the next rows wait for it; `is_sliced`
    that contractions come in slices.
    """
    walked = average_steps(program, sizes)
    work = work_of(program.operations, program, machine, walked, 4 * consumers)
    overlap = _IN_SLICES if is_sliced else _Overlap(consumers, 1.0)
    clocks = _specialised_clocks(program, machine, walked, work, consumers, overlap)
    waves = ceil(group_count(program, sizes) / machine.units)
    busy = {name: waves * each / machine.clock for name, each in clocks.items()}
    starting = machine.latency("load") + machine.latency("copy")
    if shares_slot:
        starting += rows_read(program) * machine.units / machine.bandwidth("dram")
    fetching = fetch_clocks(program, walked, machine.limits.threads_per_warp * 4 * consumers)
    busy["starting"] = waves * (starting + fetching / machine.clock)
    threads = machine.limits.threads_per_warp * 4 * (consumers + 1)
    registers = (
        machine.limits.registers_per_block // threads // 8 * 8
    )  # at launch, of all warps alike
    ordered = specialised_order(program, sizes, machine.units)
    return _bounded((shared, registers), ordered, machine, sizes, busy, work, machine.units)


def _bounded(
    needs: tuple[int, int],
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    busy: Mapping[str, float],
    work: Work,
    together: int,
) -> Prediction:
    """Return the prediction: what the units do takes `busy`, unless their data take longer to arrive.

    `together` groups run at a time.
    """
    groups = group_count(program, sizes)
    times = {
        "tensor and vector work": sum(busy.values()),
        "power": groups * work.powered / (machine.units * machine.clock) - REST,
        "L2": groups * work.moved / machine.bandwidth("l2"),
    }
    times["DRAM"] = _memory_seconds(program, machine, sizes, together, max(times.values()))
    bound = max(times, key=lambda name: times[name])
    seconds = times[bound]
    if not program.buffers:
        # Without a ring threads wait for what they load themselves: neither memory hides the other,
        # neither works while all wait, and a last wave takes as long as the others.
        memory = hypot(times["L2"], times["DRAM"], busy.get("waiting", 0.0))
        waves = max(groups / machine.units, 1.0)
        seconds = max(times["tensor and vector work"], memory * ceil(waves) / waves)
    elif any(isinstance(op, Loop) and reads_positions(op.body) for op in program.operations):
        # Copies to positions that a step reads first are not issued ahead: memory idles while threads work.
        seconds = _norm(times["tensor and vector work"], max(times["L2"], times["DRAM"]), _APART)
    beyond = seconds - times["tensor and vector work"]
    parts = dict(busy) | ({f"waiting for {bound}": beyond} if beyond > 0 else {})
    parts["starting"] += _COLD if program.buffers else 0.0
    parts["launching"] = machine.latency("launch")
    return Prediction(*needs, sum(parts.values()), bound, tuple(parts.items()))


def _mask_registers(program: Program, machine: Machine, walked: Mapping[int, float]) -> int:
    """Return the registers of a thread for the masks of a Program."""
    cut = cut_loops(program)
    masked, more = any(walked[id(op)] >= 0.5 for op in cut), max(len(cut) - 1, 0)
    if machine.has("tma"):
        return _BOUND_REGISTERS * more + (_MASK_REGISTERS if masked else 0)
    return _COPIED_BOUND_REGISTERS * more + (_MASKED_COPY_REGISTERS if masked else 0)


# --- warp-specialised -----------------------------------------------------------------------------


def _specialised_clocks(
    program: Program,
    machine: Machine,
    walked: Mapping[int, float],
    work: Work,
    consumers: int,
    overlap: _Overlap,
) -> dict[str, float]:
    """Return the clocks of a group by what the units do.

    Consumers take turns, so that one contracts while another computes. Where both take long they meet: two
    pipelines with n consumers take the n-norm of their times, which is the sum for one and the longer for
    many. In slices they meet less, and contractions take longer. The first chunk runs beside nothing, nor
    does what stands outside the loops. The longer one counts whole, the shorter by what is not hidden.
    """
    tensor, arithmetic, both, first = 0.0, 0.0, 0.0, True
    steps = sum(times for _, times in loops_of(program.operations, walked))
    gathered = gather_clocks(work.gathered) / max(steps, 1.0)
    for op in (each for each in program.operations if isinstance(each, Loop)):
        each = work_of(op.body, program, machine, walked, 4 * consumers)
        vector = each.vector + operand_clocks(program, op.body) + gathered
        contracting = overlap.slower * each.tensor
        tensor += walked[id(op)] * contracting
        arithmetic += walked[id(op)] * vector
        both += walked[id(op)] * (
            contracting + vector if first else _norm(contracting, vector, overlap.order)
        )
        first = False
    outside = tuple(op for op in program.operations if not isinstance(op, Loop))
    rest = work_of(outside, program, machine, walked, 4 * consumers)
    tensor += rest.tensor
    arithmetic += rest.vector
    both += rest.tensor + rest.vector
    if tensor >= arithmetic:
        return {"contractions": tensor, "other arithmetic": both - tensor}
    return {"contractions": both - arithmetic, "other arithmetic": arithmetic}


def _norm(one: float, other: float, order: int) -> float:
    return float((one**order + other**order) ** (1 / order))


# --- counts ---------------------------------------------------------------------------------------


def group_count(program: Program, sizes: Mapping[str, int]) -> int:
    """Return the groups that a Program is run for."""
    return prod(
        ceil(sizes[tile.axis] / tile.tile) for tile in program.axes if tile.role is AxisRole.GROUP
    )


def _memory_seconds(
    program: Program, machine: Machine, sizes: Mapping[str, int], together: int, others: float
) -> float:
    """Return the seconds in which what passes between memory and the cache does so.

    Only where the most that may pass would take longer than the `others` is it looked at closely.
    """
    rate = machine.bandwidth("dram")
    if program.buffers and most_traffic(program, sizes, together) / rate <= others:
        return least_traffic(program, sizes) / rate
    scalars = guessed_scalars(program, sizes)
    return dram_traffic(program, machine, sizes, together, scalars).bytes / rate


def guessed_scalars(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return a value for every whole number that is known only at the call: a quarter of the stream."""
    stream = next((each.axis for each in program.axes if each.role is AxisRole.STREAM), None)
    guess = sizes[stream] // 4 if stream is not None else 0
    return {name: guess for name, kind in program.scalars if kind == "int"}


def average_steps(program: Program, sizes: Mapping[str, int]) -> dict[int, float]:
    """Return the steps that a group takes of every loop on average, by the loop's identity."""
    scalars = guessed_scalars(program, sizes)
    found = trips(program, sizes, scalars, kinds_of_groups(program, sizes))
    places = loop_places(program.operations)
    return {each: float(found[place].steps.mean()) for each, place in places.items()}
