"""The parts of a kernel whose chunks are narrower than all rows: consumers walk bounds of their own rows.

In and out: as `maker`. What differs: a mask may leave a chunk to some of the consumers. The others let it
pass: they wait for its slots and release them, and pass on their turn. And a chunk that the next one reads
once more, so that all of it arrives at once, is contracted at once as far as it can be: a consumer that has
the turn feeds the tensor cores, then it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napkin.schedule.count import extent
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Dot, Load, Loop, Operation, tiles_of
from napkin.schedule.roles.barriers import Await, PassTurn, Release, Slot, Step, TakeTurn
from napkin.schedule.roles.maker import REGISTERS, Maker
from napkin.schedule.roles.obstacles import BESIDE_TILES, tile_registers
from napkin.schedule.roles.own import OwnBounds, own_bounds
from napkin.schedule.roles.warps import Chunks


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
        return super()._chunks(loop, slots, carried, is_single=is_single)

    def _is_held_at_once(self) -> bool:
        """Tell whether a chunk has all that it contracts, and registers all that this gives.

        It has if it is kept for the next chunk, and contracted first, as in a backward.
        """
        words = tile_registers(self.program, self.consumers, together=True)
        fits = words + BESIDE_TILES[self.consumers] <= REGISTERS[self.consumers][0]
        return self._holds_two_chunks() and fits

    def _passed(self) -> tuple[Step, ...]:
        """Return the steps of a chunk that a consumer lets pass, in the order of those that it walks."""
        first, *others = (Slot(ring.name, 0) for ring in self._rings() if not ring.resident)
        turn = (Await(first), TakeTurn(), PassTurn(), Release(first))
        return (*turn, *(step(slot) for slot in others for step in (Await, Release)))


def early_first(body: Sequence[Operation]) -> tuple[Operation, ...]:
    """Move the contractions of what a step loads to its start, in their order."""
    shared = {op.tile.name for op in body if isinstance(op, Load) and op.buffer is not None}
    made = {tile.name for tile in tiles_of(tuple(body))} - shared
    early = [
        op
        for op in body
        if (isinstance(op, Load) and op.tile.name in shared)
        or (isinstance(op, Dot) and op.accumulator is None and not made & {op.left, op.right})
    ]
    return (*early, *(op for op in body if op not in early))
