"""How long a kernel takes whose groups add to an output, and how long its zeros.

In: a form with parts (napkin.schedule.forms.adding), or a Program that adds, a machine, axis lengths. Out: a
`Prediction`, or seconds. Consumers meet in every step, so that both compute at a time and both contract at a
time: what hides arithmetic elsewhere hides little of it here. With an adder they never meet.

The constants were read off seven kernels on an H200 (docs/model.md, "Sums that are added up").
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod

from napkin.machine import Machine
from napkin.schedule.count import tile_bytes
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.program import Compute, Dot, Fold, Loop, Program, Store, tiles_of
from napkin.schedule.roles.adding_steps import cut_at_end
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.timing.clocks import full_rate_clocks, vector_clocks, weigh, work_of
from napkin.schedule.timing.plain_loops import own_bytes
from napkin.schedule.timing.predict import Prediction, average_steps, group_count

ADDING_PARTS = ("adding", "clearing")  # what a plain loop's prediction gets besides

# How much of a step's arithmetic is not hidden, where consumers meet and where they don't; what waits for one
# another in a step has clocks of its own, which matter where that is all, and no other consumer contracts.
_EXPOSED, _EXPOSED_APART, _CHAIN_CLOCKS, _ORDER = 0.75, 0.45, 2400, 4
_ADDED = 16  # elements a clock that a multiprocessor's threads add
_GROUP_CLOCKS = 0.08  # of a byte that a group loads or stores outside its loop


def predict_adding(form: Specialised, machine: Machine, sizes: Mapping[str, int]) -> Prediction:
    """Return what a form with parts is expected to need and take of a machine."""
    program = form.program
    walked = average_steps(program, sizes)
    groups = group_count(program, sizes)
    waves = ceil(groups / machine.units)
    clocks = {"contractions": 0.0, "other arithmetic": 0.0, "waiting": 0.0}
    for loop in (op for op in program.operations if isinstance(op, Loop)):
        step = _step_clocks(form, loop, machine)
        clocks = {name: clocks[name] + walked[id(loop)] * step[name] for name in clocks}
    clocks["starting"] = _GROUP_CLOCKS * own_bytes(program)
    parts = {name: waves * each / machine.clock for name, each in clocks.items()}
    work = work_of(program.operations, program, machine, walked, 4 * form.consumers)
    times_of = {
        "tensor and vector work": sum(parts.values()),
        "power": groups * work.powered / (machine.units * machine.clock),
        "L2": groups * (work.moved + _added_bytes(program, walked)) / machine.bandwidth("l2"),
    }
    bound = max(times_of, key=lambda name: times_of[name])
    beyond = times_of[bound] - times_of["tensor and vector work"]
    parts |= {f"waiting for {bound}": beyond} if beyond > 0 else {}
    parts["clearing"] = clearing_seconds(program, machine, sizes)
    parts["launching"] = machine.latency("launch")
    threads = machine.limits.threads_per_warp * form.warps
    registers = machine.limits.registers_per_block // threads // 8 * 8
    needs = (form.shared_bytes, registers)
    return Prediction(*needs, sum(parts.values()), bound, tuple(parts.items()))


def _step_clocks(form: Specialised, loop: Loop, machine: Machine) -> dict[str, float]:
    """Return the clocks of a step by what the units do, but for the groups that reach past the end."""
    program, rare = form.program, cut_at_end(loop.body, form.rows)
    exposed, chain = (_EXPOSED, _CHAIN_CLOCKS) if form.adder is None else (_EXPOSED_APART, 0)
    tensor = sum(full_rate_clocks(program, op, machine) for op in loop.body if isinstance(op, Dot))
    vector = exposed * sum(
        vector_clocks(program, op, machine)
        for op in loop.body
        if isinstance(op, Compute | Fold) and op.tile.name not in rare
    )
    whole = ((tensor + vector) ** _ORDER + chain**_ORDER) ** (1 / _ORDER)
    return {
        "contractions": tensor,
        "other arithmetic": vector,
        "waiting": max(0.0, whole - tensor - vector),
    }


def plain_adding_seconds(
    program: Program, machine: Machine, sizes: Mapping[str, int], walked: Mapping[int, float]
) -> dict[str, float]:
    """Return what adding takes of a plain loop, beside its prediction: its threads do it, by vectors."""
    added = _added_bytes(program, walked) / 2 / TYPE_BYTES["fp32"]
    clocks = group_count(program, sizes) * added / _ADDED / machine.units
    clearing = clearing_seconds(program, machine, sizes)
    return dict(zip(ADDING_PARTS, (clocks / machine.clock, clearing), strict=True))


def clearing_seconds(program: Program, machine: Machine, sizes: Mapping[str, int]) -> float:
    """Return the seconds in which the outputs that groups add to are set to zero, none without any."""
    cleared = sum(
        prod(sizes[axis] for axis in array.axes) * TYPE_BYTES[array.dtype]
        for array in program.outputs
        if array.name in program.accumulated
    )
    return cleared / machine.bandwidth("dram") + machine.latency("launch") if cleared else 0.0


def _added_bytes(program: Program, walked: Mapping[int, float]) -> float:
    """Return the bytes that a group reads and writes where it adds."""
    tiles = {tile.name: tile for tile in tiles_of(program.operations)}
    return sum(
        2.0 * times * tile_bytes(tiles[op.source], program)
        for op, times in weigh(program.operations, walked, 1.0)
        if isinstance(op, Store) and op.adds and isinstance(op.source, str)
    )
