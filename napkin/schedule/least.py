"""The least that a Program takes, at little cost: what a search may leave out without a prediction.

In: a `Program`, a machine, axis lengths, its steps. Out: seconds that no prediction is below: those
of its loads through the cache, or of its contractions at the full rate. A test holds predictions to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from napkin.machine import Machine
from napkin.schedule.clocks import full_rate_clocks, weigh
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.occupancy import elements
from napkin.schedule.predict import group_count
from napkin.schedule.program import Dot, Load, Program


def least_seconds(
    program: Program, machine: Machine, sizes: Mapping[str, int], walked: Mapping[int, float]
) -> float:
    """Return the least seconds of a Program; `walked` are its `average_steps`."""
    groups, moved, tensor = group_count(program, sizes), 0.0, 0.0
    for op, times in weigh(program.operations, walked, 1.0):
        if isinstance(op, Load):
            moved += times * elements(program, op.tile.dims) * TYPE_BYTES[op.tile.storage]
        elif isinstance(op, Dot):
            tensor += times * full_rate_clocks(program, op, machine)
    by_units = groups * tensor / (machine.units * machine.clock)
    return max(groups * moved / machine.bandwidth("l2"), by_units)
