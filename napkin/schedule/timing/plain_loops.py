"""What a group of a plain loop takes of a unit that it shares with others, as Triton prints it.

In: a Program, a machine, the steps of its loops, warps, and how many blocks share a unit. Out: clocks by what
the units do; the seconds in which a group starts; the bytes that it finds on the unit.

Constants without another source were read off sweeps of tiles, warps and stages on an H200
(benchmarks/results/2026-11-22-tiles.md); none is of one diagram.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from napkin.machine import Machine
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import (
    Array,
    Dot,
    Load,
    Loop,
    Operation,
    Path,
    Program,
    Store,
    walk,
)
from napkin.schedule.remember import remembered, remembered_by
from napkin.schedule.timing.clocks import (
    Work,
    full_rate_clocks,
    loops_of,
    operand_clocks,
    weigh,
    work_of,
)
from napkin.schedule.timing.occupancy import computed_operands, elements
from napkin.schedule.trips import remainders

_EXPOSED = (0.88, 0.5, 0.3)  # of vector work, by blocks that share a unit: 1, 2, 3 or more
DEEP_STAGES = 3  # of a ring from which on it hides all that a deeper one hides
_WAIT, _DEEP_WAIT = 200, 70  # clocks that a contraction waits for its operands, at 2 and 3 stages
CUT_WAIT = (
    1500  # clocks of a chunk that is cut, or a step that stores: nothing is fetched ahead of it
)
_GATHERED = 0.21  # clocks of an element read at a computed position, for each stage but the last
_COPY_BYTES = 67  # a clock from L2 to a unit's shared memory


def plain_clocks(
    program: Program,
    machine: Machine,
    walked: Mapping[int, float],
    work: Work,
    warps: int,
    blocks: int,
) -> dict[str, float]:
    """Return the clocks of a group by what the units do, `blocks` of them on a unit at a time.

    Blocks of one kernel fall into step: they contract together and then compute together, so that only a
    share of the other arithmetic is hidden. One that computes an operand by hand hides nothing of it.
    """
    stages = max((buffer.stages for buffer in program.buffers), default=1)
    by_hand = [
        (times, each)
        for op, times in loops_of(program.operations, walked)
        for each in computed_operands(op.body)
    ]
    vector = work.vector + _operands_clocks(program, walked)
    hidden = 1.0 if by_hand else _EXPOSED[min(blocks, len(_EXPOSED)) - 1]
    waiting = _latency(program, walked, work.contracted, stages, blocks)
    if by_hand:
        waiting = work.contracted * machine.latency("contraction") * machine.clock
        waiting += 0.0 if stages >= DEEP_STAGES else _unhidden_copies(program, walked)
    if not program.buffers:
        waiting += _awaited_steps(program, walked) * machine.latency("load") * machine.clock
    elif stages == 1:
        latency = machine.latency("load") + machine.latency("copy")
        waiting += _awaited_copies(program, walked) * latency * machine.clock
    clocks = {
        "contractions": work.tensor,
        "other arithmetic": max(hidden * vector, vector - work.tensor),
        "waiting": waiting / blocks,
        "reads at computed positions": _GATHERED * work.gathered * max(1, stages - 1),
    }
    chain = _chain_clocks(program, machine, walked, warps, stages)
    beside = blocks * _warpgroups_apart(program, warps)
    clocks["waiting"] += max(chain / beside - sum(clocks.values()), 0.0)
    return clocks


@remembered_by(lambda program, walked: (program.operations, program.dims, walked))
def _operands_clocks(program: Program, walked: Mapping[int, float]) -> float:
    """Return the clocks of a group in which threads read operands from rings, widen and round them."""
    loops = loops_of(program.operations, walked)
    return sum(times * operand_clocks(program, _own(op)) for op, times in loops)


def exposed_clocks(work: Work) -> float:
    """Return the least clocks of other arithmetic that nothing hides, however many blocks share a unit."""
    return max(min(_EXPOSED) * work.vector, work.vector - work.tensor)


def start_seconds(program: Program, machine: Machine, blocks: int, *, is_even: bool) -> float:
    """Return the seconds of a group outside its loops: its first loads, then its own rows in and out.

    Blocks of one length start and end together: their rows pass through memory at once. Others find it idle,
    and those that share a unit hide one another's.
    """
    rows = own_bytes(program) * machine.units / machine.bandwidth("dram")
    # What describes the data comes from memory, and then the data as a copy.
    waiting = 2 * machine.latency("load") + machine.latency("copy")
    return waiting / blocks + (rows if is_even else rows / blocks)


@remembered_by(lambda program: (program.operations, program.axes, program.dims))
def own_bytes(program: Program) -> int:
    """Return the bytes that a group loads and stores outside its loops: tiles, not values of its rows."""
    count = 0
    for op in program.operations:
        if isinstance(op, Load) and len(op.tile.dims) > 1:
            count += elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage]
        if isinstance(op, Store):
            array = program.array(op.array)
            count += prod(_extent(program, axis) for axis in array.axes) * TYPE_BYTES[array.dtype]
    return count


@remembered_by(lambda program: (program.operations, program.dims))
def rows_read(program: Program) -> int:
    """Return the bytes of tiles that a group loads outside its loops."""
    return sum(
        elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage]
        for op in program.operations
        if isinstance(op, Load) and len(op.tile.dims) > 1
    )


def _extent(program: Program, axis: str) -> int:
    each = program.axis(axis)
    return each.tile if each.dim is not None else 1


def read_again(
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    walked: Mapping[int, float],
    blocks: int,
) -> float:
    """Return the bytes of a group that lie on the unit: left by an earlier pass, or shared by all groups.

    That is so where threads read past shared memory, and what the unit's blocks read fits in it beside what
    they write, a pass's worth: its half.
    """
    if program.buffers:
        return 0.0
    room = machine.level("shared").capacity / 2
    small = {each.name for each in program.arrays if array_bytes(each, sizes) <= room / 2}
    first: dict[str, float] = {}
    shared, again = 0.0, 0.0
    for op, times in weigh(program.operations, walked, 1.0):
        if isinstance(op, Load):
            size = times * elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage]
            shared += size if op.array in small else 0.0
            again += size if op.array in first else 0.0
            first |= {op.array: size} if op.array not in small | set(first) else {}
    return shared + (again if blocks * sum(first.values()) <= room else 0.0)


def _latency(
    program: Program, walked: Mapping[int, float], contracted: float, stages: int, blocks: int
) -> float:
    """Return the clocks of a block in which it waits in its loops, other blocks left out."""
    # With three blocks on a unit the others' work hides the wait, whatever the ring's depth.
    clocks = (_DEEP_WAIT if stages >= DEEP_STAGES and blocks < 3 else _WAIT) * contracted
    clocks += 0.0 if stages >= DEEP_STAGES else _unhidden_copies(program, walked)
    alone = {id(op) for op in cut_loops(program)} | _storing_loops(program)
    return clocks + CUT_WAIT * sum(walked[each] for each in alone)


def _storing_loops(program: Program) -> set[int]:
    """Return the loops, by identity, whose steps contract and store: nothing is fetched ahead of them."""
    return {
        id(loop)
        for loop in walk(program.operations)
        if isinstance(loop, Loop)
        and any(isinstance(op, Dot) for op in loop.body)
        and any(isinstance(op, Store) and not op.adds for op in loop.body)
    }


def _awaited_steps(program: Program, walked: Mapping[int, float]) -> float:
    """Return the steps of a group whose threads wait for what they load themselves."""
    return sum(
        times
        for loop, times in loops_of(program.operations, walked)
        if any(isinstance(op, Load) and op.tile.dims for op in loop.body)
    )


def _awaited_copies(program: Program, walked: Mapping[int, float]) -> float:
    """Return the copies that a group's threads wait for one by one, but for those that it starts with."""
    copies, first = 0.0, 0
    for loop, times in loops_of(program.operations, walked):
        loads = [op for op in loop.body if isinstance(op, Load) and op.path is Path.DESCRIPTOR]
        copies += times * len(loads)
        first = max(first, len(loads))
    return max(copies - first, 0.0)


def _unhidden_copies(program: Program, walked: Mapping[int, float]) -> float:
    """Return the clocks of copies that two stages leave unhidden.

    Where every contraction of a loop only adds up, its operands are still being read when the next ones
    should arrive: a ring of two then copies and contracts in turn.
    """
    clocks = 0.0
    for op, times in loops_of(program.operations, walked):
        dots = [each for each in op.body if isinstance(each, Dot)]
        if dots and all(each.accumulator is not None for each in dots):
            copied = sum(
                elements(program, each.tile.dims) * TYPE_BYTES[each.tile.storage]
                for each in op.body
                if isinstance(each, Load) and each.buffer is not None
            )
            clocks += times * copied / _COPY_BYTES
    return clocks


@remembered_by(
    lambda program, machine, walked, warps, stages: (
        (program.operations, program.dims, machine, walked, warps, stages)
    )
)
def _chain_clocks(
    program: Program, machine: Machine, walked: Mapping[int, float], warps: int, stages: int
) -> float:
    """Return the clocks of a group that nothing else runs beside: what waits for one another adds up.

    A contraction that only adds to its sum, of operands as they were loaded, lets the next step begin.
    """
    total = 0.0
    for loop, times in loops_of(program.operations, walked):
        own = _own(loop)
        loaded = {op.tile.name for op in own if isinstance(op, Load)}
        dots = [op for op in own if isinstance(op, Dot)]
        work = work_of(own, program, machine, walked, warps)
        if dots and all(op.accumulator == op.tile.name and op.left in loaded for op in dots):
            total += times * max(work.tensor, work.vector)
            continue
        vector = work.vector + operand_clocks(program, own)
        by_warpgroup = machine.has("wgmma") and all(_rows(program, op) >= 64 for op in dots)
        tensor = work.tensor
        if by_warpgroup:
            tensor = sum(full_rate_clocks(program, op, machine) for op in dots)
        # Operands of one warp's instructions are read from shared memory first: as long again.
        latency = machine.latency("contraction") * machine.clock * (1 if by_warpgroup else 2)
        total += times * (tensor + vector + latency * _longest_chain(program, own))
        # Copies to positions that a step reads first are not issued ahead, however deep the ring.
        at_positions = reads_positions(own)
        if any(isinstance(op, Load) and len(op.tile.dims) > 1 for op in own):
            waits = machine.latency("copy") if stages == 2 or at_positions else 0.0
            waits += machine.latency("load") if at_positions else 0.0
            total += times * waits * machine.clock
    return total


@remembered
def reads_positions(body: Sequence[Operation]) -> bool:
    """Return whether a step reads at positions that it reads first, such as pages of a table."""
    loaded: set[str] = set()
    for op in body:
        name = writes(op)
        if name is not None and not loaded.isdisjoint(reads(op)):
            if isinstance(op, Load):
                return True
            loaded.add(name)
        if isinstance(op, Load):
            loaded.add(op.tile.name)
    return False


@remembered
def _own(loop: Loop) -> tuple[Operation, ...]:
    """Return a loop's operations without the loops in it."""
    return tuple(op for op in loop.body if not isinstance(op, Loop))


def _rows(program: Program, dot: Dot) -> int:
    return elements(program, dot.tile.dims[:1])


def _longest_chain(program: Program, body: Sequence[Operation]) -> int:
    """Return the most contractions that wait for one another in a step; of under 64 rows, all wait."""
    depth: dict[str, int] = {}
    dots = [op for op in body if isinstance(op, Dot)]
    if any(_rows(program, op) < 64 for op in dots):
        return len(dots)
    for op in body:
        name = writes(op)
        if name is not None:
            before = max((depth.get(each, 0) for each in reads(op)), default=0)
            depth[name] = before + isinstance(op, Dot)
    return max(depth.values(), default=0)


def _warpgroups_apart(program: Program, warps: int) -> int:
    """Return how many warpgroups of a block have rows of their own, so that one works while another waits."""
    rows = [_rows(program, op) for op in walk(program.operations) if isinstance(op, Dot)]
    return max(warps // 4, 1) if rows and min(rows) >= 16 * warps else 1


@remembered_by(lambda program: (program.operations,))
def cut_loops(program: Program) -> list[Loop]:
    """Return the loops over what a mask or the end cuts off another loop: they are not pipelined."""
    places = remainders(program)
    return [op for op in walk(program.operations) if isinstance(op, Loop) and id(op) in places]


def array_bytes(array: Array, sizes: Mapping[str, int]) -> int:
    """Return the bytes of an array in global memory."""
    return prod(sizes[axis] for axis in array.axes) * TYPE_BYTES[array.dtype]
