"""The steps of a consumer whose groups add to an output: what `barriers` gives, put in another order.

In: the steps of a chunk (napkin.schedule.forms.adding). Out: the same with values read as late as can be,
contractions finished one by one, and computed tiles shared between consumers before parts read them;
which tiles only the groups at the end of the rows mask (`cut_at_end`); and a form with the contraction
that a chunk starts with issued in the chunk before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from napkin.schedule.program import Compute, Dot, Length, Load, Operation, Positions, Tile
from napkin.schedule.roles.barriers import Ahead, Await, Finish, Release, Share, Slot, Step
from napkin.schedule.roles.warps import Specialised


def read_late(steps: Sequence[Step]) -> list[Step]:
    """Read a slot's values once what meets them has been contracted: till then they would take registers."""
    found: list[Step] = []
    for step in steps:
        place = len(found)
        if isinstance(step, Finish):
            while place > 2 and isinstance(found[place - 2], Load):
                place -= 3  # the wait for the slot, the values, and its release
        found.insert(place, step)
    return found


def finished_apart(steps: Sequence[Step], names: Mapping[Slot, str]) -> list[Step]:
    """Finish one contraction after the other, and release at once what it is the last to read."""
    found: list[Step] = []
    running: list[Dot] = []
    place = 0
    while place < len(steps):
        step, place = steps[place], place + 1
        if isinstance(step, Dot):
            running.append(step)
        if not isinstance(step, Finish):
            found.append(step)
            continue
        waiting: dict[str, Release] = {}
        while place < len(steps) and isinstance(each := steps[place], Release):
            waiting[names[each.slot]] = each
            place += 1
        while len(running) > step.behind:
            done = running.pop(0)
            found.append(Finish((done.tile.name,), len(running)))
            left = {side for dot in running for side in (dot.left, dot.right)}
            for name in (done.left, done.right):
                if name in waiting and name not in left:
                    found.append(waiting.pop(name))
        found += waiting.values()
    return found


def cut_at_end(body: Sequence[Operation], rows: str) -> frozenset[str]:
    """Return the tiles of a step that are chosen by nothing but whether their rows lie before the end.

    Only the groups that reach past it choose.
    """
    places = {op.tile.name for op in body if isinstance(op, Positions) and op.axis == rows}
    made = [op for op in body if isinstance(op, Compute)]
    inside = {
        op.tile.name
        for op in made
        if op.operator == "lt" and op.operands[0] in places and op.operands[1] == Length(rows)
    }
    return frozenset(
        op.tile.name for op in made if op.operator == "where" and op.operands[0] in inside
    )


def with_shares(steps: Sequence[Step], tiles: dict[str, Tile]) -> Iterator[Step]:
    """Share what parts multiply between consumers, before the first contraction behind which it is made."""
    parts = [step for step in steps if isinstance(step, Dot) and _sums_rows(step, tiles)]
    kinds = {dot.left: dot.operand_type for dot in parts}
    waiting = {
        name: Share(replace(tiles[name], storage=kind), number)
        for number, (name, kind) in enumerate(kinds.items())
    }
    for step in steps:
        if isinstance(step, Dot) and step.left in waiting:
            yield waiting.pop(step.left)
        yield step


def _sums_rows(dot: Dot, tiles: dict[str, Tile]) -> bool:
    return dot.left in tiles and tiles[dot.left].dims[0] == dot.over


# --- a contraction ahead --------------------------------------------------------------------------


def with_contraction_ahead(form: Specialised) -> Specialised:
    """Issue the contraction that a chunk starts with in the chunk before it, as long as its parts leave.

    The tensor cores would wait meanwhile. What it gives is finished before anything else is issued.
    """
    rings, slots = {ring.name: ring for ring in form.rings}, dict(form.slots)
    firsts = [next(step for step in each.steps if isinstance(step, Dot)) for each in form.chunks]
    dot = firsts[0]
    is_alike = all(
        (each.tile, each.left, each.over) == (dot.tile, dot.left, dot.over) for each in firsts
    )
    starts = dot.accumulator is None and dot.left in slots and dot.right in slots
    if not is_alike or not starts or not rings[slots[dot.left].ring].resident:
        return form
    chunks = tuple(
        replace(each, steps=tuple(_one_ahead(each.steps, first, slots)))
        for each, first in zip(form.chunks, firsts, strict=True)
    )
    prelude = (*form.prelude, Ahead(dot, slots[dot.right], is_first=True))
    drain = (Finish((dot.tile.name,), 0), *form.drain)
    return replace(form, chunks=chunks, prelude=prelude, drain=drain)


def _one_ahead(steps: Sequence[Step], first: Dot, slots: Mapping[str, Slot]) -> Iterator[Step]:
    """Finish a chunk's first contraction at its start, and issue the next one's behind its last."""
    own, place = slots[first.right], _place_ahead(steps)
    ahead = Ahead(first, own, is_first=False)
    running: list[str] = []
    yield Finish((first.tile.name,), 0)
    for step in (*steps[:place], ahead, *steps[place:]):
        if step is first or step == Await(own) or _finishes(step, first.tile.name):
            continue
        if isinstance(step, Dot | Ahead):
            running.append(step.tile.name if isinstance(step, Dot) else step.dot.tile.name)
        if isinstance(step, Finish):
            running = running[running.index(step.tiles[-1]) + 1 :]
            step = Finish(step.tiles, len(running))
        yield step


def _place_ahead(steps: Sequence[Step]) -> int:
    """Return where the next chunk's contraction is issued: once the oldest of this one's is finished."""
    place = 1 + max(place for place, step in enumerate(steps) if isinstance(step, Dot))
    place += isinstance(steps[place], Finish)
    while isinstance(steps[place], Release):
        place += 1
    return place


def _finishes(step: Step, name: str) -> bool:
    return isinstance(step, Finish) and step.tiles == (name,)
