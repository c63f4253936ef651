"""The least that a Program takes, at little cost: what a search may leave out without a prediction.

In: a `Program`, a machine, axis lengths, its steps, warps. Out: seconds that no prediction is below, with
those warps or more: those of its loads through the cache, of its contractions at the rate that power lets
last once the rest before is used up, or of its contractions and what of the other arithmetic nothing hides. A
test holds predictions to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from napkin.machine import Machine
from napkin.schedule.program import Program
from napkin.schedule.timing.clocks import work_of
from napkin.schedule.timing.plain_loops import exposed_clocks
from napkin.schedule.timing.predict import EVEN_WAVES, REST, group_count


def least_seconds(
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    walked: Mapping[int, float],
    warps: int,
) -> float:
    """Return the least seconds of a Program; `walked` are its `average_steps`."""
    groups = group_count(program, sizes)
    work = work_of(program.operations, program, machine, walked, warps)
    waves = groups / machine.units
    clocks = (ceil(waves) if waves < EVEN_WAVES else waves) * (work.tensor + exposed_clocks(work))
    powered = waves * work.powered / machine.clock - REST
    moved = groups * work.moved / machine.bandwidth("l2") if program.buffers else 0.0
    return max(moved, clocks / machine.clock, powered) + machine.latency("launch")
