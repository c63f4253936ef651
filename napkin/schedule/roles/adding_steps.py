"""The steps of a consumer whose groups add to an output: what `barriers` gives, put in another order.

In: the steps of a chunk (napkin.schedule.forms.adding). Out: the same with values read as late as can be,
contractions finished one by one, and computed tiles shared between consumers before parts read them;
which tiles only the groups at the end of the rows mask (`cut_at_end`); and a form with the contraction
that a chunk starts with issued in the chunk before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import TypeGuard

from napkin.operators import Kind
from napkin.schedule.liveness import rename, writes
from napkin.schedule.program import (
    Compute,
    Dot,
    EdgePosition,
    Length,
    Literal,
    Load,
    Operation,
    Positions,
    Tile,
    tiles_of,
)
from napkin.schedule.roles.barriers import Ahead, Await, Finish, Release, Share, Slot, Step
from napkin.schedule.roles.warps import Chunks, Specialised


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


def parts_first(body: Sequence[Operation], added: Collection[str]) -> tuple[Operation, ...]:
    """Issue the parts of sums before other contractions of what they multiply: they leave meanwhile."""
    parts = [op for op in body if isinstance(op, Dot) and op.tile.name in added]
    shared = {dot.left for dot in parts}
    others = [op for op in body if op not in parts]
    takers = (i for i, op in enumerate(others) if isinstance(op, Dot) and op.left in shared)
    place = next(takers, None)
    return tuple(body) if place is None else (*others[:place], *parts, *others[place:])


def cut_at_end(body: Sequence[Operation], axis: str) -> frozenset[str]:
    """Return the tiles of a step that are chosen by nothing but whether they lie before an axis's end.

    Only the groups, or the chunks, that reach past it choose.
    """
    places = {op.tile.name for op in body if isinstance(op, Positions) and op.axis == axis}
    made = [op for op in body if isinstance(op, Compute)]
    inside = {
        op.tile.name
        for op in made
        if op.operator == "lt" and op.operands[0] in places and op.operands[1] == Length(axis)
    }
    return frozenset(
        op.tile.name for op in made if op.operator == "where" and op.operands[0] in inside
    )


def is_placed(chunks: Chunks) -> bool:
    """Return whether chunks that no mask cuts compute with their positions, as of a bias by distance."""
    loop = chunks.loop
    places = (op for op in loop.body if isinstance(op, Positions))
    is_cut = any(tile.kind is Kind.BOOL and len(tile.dims) > 1 for tile in tiles_of(loop.body))
    return not is_cut and any(op.axis == loop.axis for op in places)


def differs_at_end(body: Sequence[Operation], other: Sequence[Operation], axis: str) -> bool:
    """Tell whether the second of two steps is the first but for a choice by the end of their axis."""
    cut, names = cut_at_end(other, axis), dict[Operation, str]()
    return bool(cut) and _meaning(body, frozenset(), names) == _meaning(other, cut, names)


def ended_by_column(body: Sequence[Operation], axis: str) -> tuple[Operation, ...]:
    """Choose by the end of an axis what exponents are measured against, not every exponential.

    exp2(a - b) is 0 where b is infinite, and b has a column's elements alone.
    """
    made = {op.tile.name: op for op in body if isinstance(op, Compute)}
    renamed: dict[str, str] = {}
    ends: dict[str, Compute] = {}
    for name in cut_at_end(body, axis):
        inside, value, other = made[name].operands
        exponent = _exponent_of(str(value), made)
        column = None if exponent is None else made.get(str(exponent.operands[1]))
        if exponent is None or column is None or other != Literal(0.0):
            continue
        if column.tile.dims != made[str(inside)].tile.dims:
            continue
        tile = replace(column.tile, name=name)
        ends[exponent.tile.name] = Compute(tile, "where", (inside, column.tile.name, Literal(inf)))
        renamed[name] = str(value)
    found: list[Operation] = []
    for op in body:
        if isinstance(op, Compute) and op.tile.name in renamed:
            continue
        if isinstance(op, Compute) and op.tile.name in ends:
            end = ends[op.tile.name]
            found += [end, replace(op, operands=(op.operands[0], end.tile.name))]
        else:
            found.append(rename(op, renamed))
    return tuple(found)


def _exponent_of(name: str, made: Mapping[str, Compute]) -> Compute | None:
    """Return the difference whose exponential, or nothing, a tile is."""
    op = made.get(name)
    while op is not None and op.operator == "where" and op.operands[2] == Literal(0.0):
        op = made.get(str(op.operands[1]))
    if op is None or op.operator != "exp2":
        return None
    below = made.get(str(op.operands[0]))
    return below if below is not None and below.operator == "sub" else None


def _meaning(
    body: Sequence[Operation], cut: Collection[str], names: dict[Operation, str]
) -> frozenset[Operation]:
    """Return what a step does, in whatever order, with what is computed named alike in all steps.

    Tiles in `cut` are not chosen, but what they are chosen from.
    """
    known: dict[str, str] = {}
    found: set[Operation] = set()
    tests = {op.operands[0] for op in body if isinstance(op, Compute) and op.tile.name in cut}
    for op in body:
        name = writes(op)
        if name in tests:
            continue
        if isinstance(op, Compute) and name in cut:
            value = str(op.operands[1])
            known[op.tile.name] = known.get(value, value)
            continue
        same = rename(op, known)
        if isinstance(same, Compute | Load | Positions | EdgePosition) or (
            isinstance(same, Dot) and same.accumulator is None
        ):
            same = replace(same, tile=replace(same.tile, name=""))
            known[str(name)] = names.setdefault(same, f"#{len(names)}")
        found.add(same)
    return frozenset(found)


def with_shares(
    steps: Sequence[Step], parts: Sequence[Dot], tiles: Mapping[str, Tile]
) -> Iterator[Step]:
    """Share what parts multiply between consumers, before the first contraction behind which it is made."""
    kinds = {dot.left: dot.operand_type for dot in parts}
    waiting = {
        name: Share(replace(tiles[name], storage=kind), number)
        for number, (name, kind) in enumerate(kinds.items())
    }
    for step in steps:
        if isinstance(step, Dot) and step.left in waiting:
            yield waiting.pop(step.left)
        yield step


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
    """Finish a chunk's first contraction at its start, and issue the next one's behind its first part.

    Without parts it comes behind the last contraction.
    """
    own = slots[first.right]
    steps, place = _older_finished(steps)
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


def _older_finished(steps: Sequence[Step]) -> tuple[tuple[Step, ...], int]:
    """Finish what was issued before rows were shared as soon as a part is issued; return where that is."""
    share = next(i for i, step in enumerate(steps) if isinstance(step, Share))
    older = {step.tile.name for step in steps[:share] if isinstance(step, Dot)}
    dots = [
        (place, step) for place, step in enumerate(steps) if isinstance(step, Dot) and place > share
    ]
    parts = [place for place, dot in dots if dot.accumulator is None]
    place = 1 + (parts[0] if parts else dots[-1][0])
    if not parts:
        return tuple(steps), place
    early: list[Step] = []
    late: list[Step] = []
    for step in steps[place:]:
        is_older = isinstance(step, Finish) and older.issuperset(step.tiles)
        is_released = isinstance(step, Release) and bool(early) and not late
        (early if is_older or is_released else late).append(step)
    return (*steps[:place], *early, *late), place + len(early)


def _finishes(step: Step, name: str) -> bool:
    return isinstance(step, Finish) and step.tiles == (name,)


# --- a slot's barriers ----------------------------------------------------------------------------


def slots_together(form: Specialised) -> Specialised:
    """Fill and empty what comes with a chunk together: every barrier costs a consumer's warps two meetings.

    A slot is awaited where the first of them is, and released where the last one is.
    """
    streamed = {ring.name for ring in form.rings if not ring.resident}
    ahead = [step.slot.ring for step in form.prelude if isinstance(step, Ahead)]
    handled = [step.slot.ring for step in form.chunks[0].steps if _handles(step, streamed)]
    first = (*ahead, *handled)[0]
    led = streamed - {first}
    rings = [replace(ring, leader=first) for ring in form.rings if ring.name in led]
    rings = [*(ring for ring in form.rings if ring.name not in led), *rings]
    chunks = (
        replace(each, steps=tuple(_handled_once(each.steps, streamed, first)))
        for each in form.chunks
    )
    return replace(form, rings=tuple(rings), chunks=tuple(chunks))


def _handled_once(steps: Sequence[Step], streamed: Collection[str], first: str) -> Iterator[Step]:
    """Wait for a chunk's slots once, at first, unless that was in the chunk before; release them at last."""
    handled = [step for step in steps if _handles(step, streamed)]
    waits = [step for step in handled if isinstance(step, Await)]
    is_awaited = any(step.slot.ring == first for step in waits)
    last = [step for step in handled if isinstance(step, Release)][-1]
    for step in steps:
        if step is last:
            yield replace(step, slot=replace(step.slot, ring=first))
        elif not _handles(step, streamed) or (is_awaited and step is waits[0]):
            yield step


def _handles(step: Step, streamed: Collection[str]) -> TypeGuard[Await | Release]:
    return isinstance(step, Await | Release) and step.slot.ring in streamed
