"""Values of a chunk's positions that share the barriers of its first matrix.

In: a `Specialised` kernel. Out: the same, in which a chunk's values of positions come and go with the matrix
that is contracted first. A warpgroup's warps meet at every barrier, whether they wait there or arrive: in
short chunks two meetings less are worth that the matrix is kept until the values are read. Chunks that need
no values read none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from napkin.schedule.liveness import reads
from napkin.schedule.program import Load, Operation
from napkin.schedule.roles.barriers import Await, Release, Slot, Step
from napkin.schedule.roles.warps import Chunks, Specialised


def with_led_vectors(form: Specialised) -> Specialised:
    """Return the form with the rings of values led by the first matrix's, if that is filled first."""
    first, *others = (ring for ring in form.rings if not ring.resident)
    led = {ring.name for ring in others if ring.is_vector}
    if first.is_vector or not led:
        return form
    tiles = {name for name, slot in form.slots if slot.ring in led}

    def together(each: Chunks) -> Chunks:
        steps = [step for step in each.steps if not _handles(step, led)]
        return replace(each, steps=_held(_read(steps, tiles), first.name, tiles))

    return replace(
        form,
        rings=tuple(
            replace(ring, leader=first.name) if ring.name in led else ring for ring in form.rings
        ),
        chunks=tuple(map(together, form.chunks)),
        behind=tuple(map(together, form.behind)),
    )


def _handles(step: Step, rings: Collection[str]) -> bool:
    return isinstance(step, Await | Release) and step.slot.ring in rings


def _read(steps: Sequence[Step], tiles: set[str]) -> list[Step]:
    """Drop the loads of values that no step reads."""
    read = {name for step in steps if isinstance(step, Operation) for name in reads(step)}
    return [step for step in steps if not _is_load(step, tiles - read)]


def _is_load(step: Step, tiles: Collection[str]) -> bool:
    return isinstance(step, Load) and step.tile.name in tiles


def _held(steps: Sequence[Step], ring: str, tiles: Collection[str]) -> tuple[Step, ...]:
    """Await the ring's slot before the first of the loads; if a chunk releases it, do so behind the last."""
    loads = [place for place, step in enumerate(steps) if _is_load(step, tiles)]
    if not loads:
        return tuple(steps)
    # A matrix that the next chunk still reads is released there, when the values have been read.
    slot = Slot(ring, 0)
    before, within, behind = (
        list(steps[: loads[0]]),
        list(steps[loads[0] : loads[-1] + 1]),
        list(steps[loads[-1] + 1 :]),
    )
    if Await(slot) not in before:
        before.append(Await(slot))
        within = [step for step in within if step != Await(slot)]
        behind = [step for step in behind if step != Await(slot)]
    if Release(slot) in (*before, *within):
        behind.insert(0, Release(slot))
        before = [step for step in before if step != Release(slot)]
        within = [step for step in within if step != Release(slot)]
    return (*before, *within, *behind)
