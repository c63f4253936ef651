"""Tiles of a chunk that share the barriers of its first matrix: values of its positions, or all that comes.

In: a `Specialised` kernel. Out: the same, in which a chunk's values of positions come and go with the matrix
that is contracted first. A warpgroup's warps meet at every barrier, whether they wait there or arrive: in
short chunks two meetings less are worth that the matrix is kept until the values are read. Chunks that need
no values read none.

Where the next chunk contracts that matrix once more, as gradients do, it is kept so long anyway, and all
that comes with a chunk does so: one wait and one release.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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


# --- all that comes with a chunk ------------------------------------------------------------------


def with_chunks_together(form: Specialised) -> Specialised:
    """Return the form with all rings led by the first matrix's, if the next chunk reads that once more."""
    first, *others = (ring for ring in form.rings if not ring.resident)
    is_read_twice = all(
        Await(Slot(first.name, 1)) in each.steps
        for each in form.chunks
        if each.loop.body and not each.is_single
    )
    if not is_read_twice or any(ring.slots != first.slots for ring in others):
        return form
    rings = {ring.name for ring in (first, *others)}

    def together(each: Chunks) -> Chunks:
        return replace(each, steps=tuple(_handled_once(each.steps, rings, first.name)))

    return replace(
        form,
        rings=tuple(
            replace(ring, leader=first.name) if ring in others else ring for ring in form.rings
        ),
        chunks=tuple(map(together, form.chunks)),
        drain=tuple(_handled_once(form.drain, rings, first.name)),
        behind=tuple(map(together, form.behind)),
    )


def _handled_once(steps: Sequence[Step], rings: Collection[str], first: str) -> Iterator[Step]:
    """Await a chunk's slots once, at first; release once, at last, those of the chunk before.

    A chunk that is let pass releases its own.
    """
    handled = [step for step in steps if _handles(step, rings)]
    waits = [step for step in handled if isinstance(step, Await) and not step.slot.age]
    releases = [step for step in handled if isinstance(step, Release)]
    is_passed = not any(isinstance(step, Operation) for step in steps)
    last = [step for step in releases if step.slot.age or is_passed][-1:]
    for step in steps:
        if step in waits[:1] or step in last:
            yield replace(step, slot=replace(step.slot, ring=first))
        elif not _handles(step, rings):
            yield step


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
