"""The steps of a consumer whose groups add to an output: what `barriers` gives, put in another order.

In: the steps of a chunk (napkin.schedule.adding). Out: the same with values read as late as can be,
contractions finished one by one, and computed tiles shared between consumers before parts read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from napkin.schedule.barriers import Finish, Release, Share, Slot, Step
from napkin.schedule.program import Dot, Load, Tile


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
