"""The parts of a kernel whose chunks are narrower than all rows: consumers walk bounds of their own rows.

In and out: as `maker`. What differs: a mask may leave a chunk to some of the consumers. The others let it
pass: they wait for its slots and release them, and pass on their turn. And a chunk that the next one reads
once more, so that all of it arrives at once, is contracted at once as far as it can be: a consumer that has
the turn feeds the tensor cores, then it computes. Where registers do not hold all that this gives, sums and
scores come in pairs: a sum of the chunk before leaves the registers of its operand to a score of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from napkin.schedule.count import extent
from napkin.schedule.liveness import reads, writes
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Assign, Dot, Load, Loop, Operation, tiles_of
from napkin.schedule.roles.barriers import Await, Finish, PassTurn, Release, Slot, Step, TakeTurn
from napkin.schedule.roles.maker import REGISTERS, Maker
from napkin.schedule.roles.obstacles import BESIDE_TILES, tile_registers
from napkin.schedule.roles.own import OwnBounds, own_bounds
from napkin.schedule.roles.warps import Chunks, Specialised

_PAIRS = 2  # of a sum and a score, as in the gradients of keys and values; more were not run


class Passing(Maker):
    """Puts the parts together where a chunk may lie beyond what a consumer's own rows see."""

    def _bounds(self, place: tuple[Operation, ...]) -> OwnBounds:
        """Let a consumer find the bounds of its own rows, if a chunk is narrower than those of all."""
        narrow = self.loops[0].step < extent((self.rows,), self.program)
        if self.adds or not narrow:
            return super()._bounds(place)
        names = Names(RESERVED | {tile.name for tile in tiles_of(self.program.operations)})
        return own_bounds(place, self.loops, names)

    def _chunks(
        self, loop: Loop, slots: dict[str, Slot], carried: set[str], *, is_single: bool
    ) -> Chunks:
        if not loop.body:
            return Chunks(loop, self._passed(), False)
        if self._is_held_at_once():
            loop = replace(loop, body=early_first(loop.body))
        if not self.is_paired:
            return super()._chunks(loop, slots, carried, is_single=is_single)
        loop = replace(loop, body=in_pairs(loop.body))
        made = super()._chunks(loop, slots, carried, is_single=is_single)
        return replace(made, steps=_without_turns(_sums_finished_apart(made.steps)))

    @cached_property
    def is_paired(self) -> bool:
        """Whether sums of the chunk before and scores of this one are contracted in pairs.

        Consumers take no turns then: one computes between its pairs, the other contracts.
        """
        if self.adds or not self._holds_two_chunks() or self._is_held_at_once():
            return False
        sums, scores = _dots_of(self.loops[-1].body)
        is_read_alone = all(_read_alone(each, scores, self.loops[-1].body) for each in scores[:-1])
        return len(sums) == len(scores) == _PAIRS and is_read_alone

    def _is_held_at_once(self) -> bool:
        """Tell whether a chunk has all that it contracts, and registers all that this gives.

        It has if it is kept for the next chunk, and contracted first, as in a backward.
        """
        words = tile_registers(self.program, self.consumers, together=True)
        fits = words + BESIDE_TILES[self.consumers] <= REGISTERS[self.consumers][0]
        return self._holds_two_chunks() and fits

    def run(self, shared_limit: int) -> Specialised:
        """Put the parts together; where registers are short, no mask is kept in any."""
        made = super().run(shared_limit)
        return replace(made, tests_apart=True) if self.is_paired else made

    def _passed(self) -> tuple[Step, ...]:
        """Return the steps of a chunk that a consumer lets pass, in the order of those that it walks."""
        first, *others = (Slot(ring.name, 0) for ring in self._rings() if not ring.resident)
        turn = (Await(first), TakeTurn(), PassTurn(), Release(first))
        steps = (*turn, *(step(slot) for slot in others for step in (Await, Release)))
        return _without_turns(steps) if self.is_paired else steps


def early_first(body: Sequence[Operation]) -> tuple[Operation, ...]:
    """Move the contractions of what a step loads to its start, in their order."""
    _, scores = _dots_of(body)
    early = [op for op in body if op in scores or (isinstance(op, Load) and op.buffer is not None)]
    return (*early, *(op for op in body if op not in early))


def in_pairs(body: Sequence[Operation]) -> tuple[Operation, ...]:
    """Put every sum of the chunk before in front of a score of this one, each in the order of need.

    The sum whose operand a step makes anew first is the first one. A score but the first is issued once the
    one before is there, and with it the sum in front of that: their operands' registers are free again.
    """
    sums, scores = _dots_of(body)
    loads = [op for op in body if isinstance(op, Load) and op.buffer is not None]
    placed: list[Operation] = list(loads)
    for place, score in enumerate(scores):
        placed += sums[place : place + 1]
        if place:
            read = _read_alone(scores[place - 1], scores, body)
            placed += [op for op in read if op not in placed]
        placed.append(score)
    return (*placed, *(op for op in body if op not in placed))


def _dots_of(body: Sequence[Operation]) -> tuple[list[Dot], list[Dot]]:
    """Return a step's sums, by the place where their operands are made anew, and its scores."""
    loaded = {op.tile.name for op in body if isinstance(op, Load) and op.buffer is not None}
    made = {tile.name for tile in tiles_of(tuple(body))} - loaded
    dots = [op for op in body if isinstance(op, Dot)]
    scores = [op for op in dots if op.accumulator is None and not made & {op.left, op.right}]
    sources = {op.target: op.source for op in body if isinstance(op, Assign)}
    written = {writes(op): place for place, op in enumerate(body)}
    sums = [op for op in dots if op.accumulator is not None and op.left in sources]
    return sorted(sums, key=lambda op: written.get(sources[op.left], 0)), scores


def _read_alone(score: Dot, scores: Sequence[Dot], body: Sequence[Operation]) -> list[Operation]:
    """Return the first operation that reads a score and no other one, behind all that it needs."""
    others = {each.tile.name for each in scores if each is not score}
    for op in body:
        made = _made_for(op, body) if score.tile.name in reads(op) else []
        if made and not any(others & set(reads(each)) for each in made):
            return made
    return []


def _made_for(last: Operation, body: Sequence[Operation]) -> list[Operation]:
    """Return an operation of a step behind all those of the step that it needs."""
    needed, found = set(reads(last)), [last]
    for op in reversed(body[: body.index(last)]):
        if writes(op) in needed and not isinstance(op, Dot | Assign):
            needed |= set(reads(op))
            found.append(op)
    return found[::-1]


def _sums_finished_apart(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Finish sums before the values of positions are read that a later score is used with.

    The registers of their operands are free for those then.
    """
    sums = {op.tile.name for op in steps if isinstance(op, Dot) and op.accumulator is not None}
    found: list[Step] = []
    for step in steps:
        before = len(found)
        while before and isinstance(found[before - 1], Await | Load | Release):
            before -= 1
        if not isinstance(step, Finish) or before == len(found) or not sums & set(step.tiles):
            found.append(step)
            continue
        done = tuple(name for name in step.tiles if name in sums)
        scores = tuple(name for name in step.tiles if name not in sums)
        found.insert(before, Finish(done, step.behind + len(scores)))
        found += [Finish(scores, step.behind)] if scores else []
    return tuple(found)


def _without_turns(steps: Sequence[Step]) -> tuple[Step, ...]:
    return tuple(step for step in steps if not isinstance(step, TakeTurn | PassTurn))
