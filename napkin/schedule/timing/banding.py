"""Whether groups run in bands: the order in which the least passes between memory and the cache.

In: a `Program` with the groups that run at a time. Out: the same in the best order by `traffic`. A product's
groups by rows read all columns again with every wave; in bands of rows they read fewer columns at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from napkin.machine import Machine
from napkin.schedule.order import bands_of
from napkin.schedule.program import Program
from napkin.schedule.timing.predict import guessed_scalars
from napkin.schedule.timing.traffic import dram_traffic, least_traffic

_WORTH = 0.95  # of the bytes: less is nearer than the count is to the truth (docs/model.md)


def in_best_order(
    program: Program, machine: Machine, sizes: Mapping[str, int], together: int
) -> Program:
    """Return the Program in the order of groups that moves the fewest bytes, its own if that saves little."""
    bands = bands_of(program, sizes)
    if not bands or not program.buffers:
        return program
    scalars = guessed_scalars(program, sizes)
    own = dram_traffic(program, machine, sizes, together, scalars).bytes
    if least_traffic(program, sizes) > _WORTH * own:
        return program
    others = [replace(program, band=each) for each in bands]
    moved = [dram_traffic(each, machine, sizes, together, scalars).bytes for each in others]
    best = min(range(len(others)), key=moved.__getitem__)
    return others[best] if moved[best] < _WORTH * own else program
