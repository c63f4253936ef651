"""The parts of a kernel whose chunks are narrower than all rows: consumers walk bounds of their own rows.

In and out: as `maker`. What differs: a mask may leave a chunk to some of the consumers. The others let it
pass: they wait for its slots and release them, and pass on their turn.
"""

from __future__ import annotations

from napkin.schedule.count import extent
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Dot, Load, Loop, Operation, tiles_of
from napkin.schedule.roles.barriers import Await, PassTurn, Release, Slot, Step, TakeTurn
from napkin.schedule.roles.maker import Maker
from napkin.schedule.roles.own import OwnBounds, own_bounds
from napkin.schedule.roles.warps import Chunks


class Passing(Maker):
    """Puts the parts together where a chunk may lie beyond what a consumer's own rows see."""

    def _bounds(self, place: tuple[Operation, ...]) -> OwnBounds:
        """Let a consumer find the bounds of its own rows, if a chunk is narrower than those of all."""
        narrow = self.loops[0].step < extent((self.rows,), self.program)
        if self.adds or not narrow or (self._scores() > 1 and _is_bound_by_data(place)):
            return super()._bounds(place)
        names = Names(RESERVED | {tile.name for tile in tiles_of(self.program.operations)})
        return own_bounds(place, self.loops, names)

    def _scores(self) -> int:
        """Return how many contractions of a step give what it computes with.

        Where values of rows bound a stream and there were several, as in a backward, own bounds hung.
        """
        return sum(isinstance(op, Dot) and op.accumulator is None for op in self.loops[-1].body)

    def _chunks(
        self, loop: Loop, slots: dict[str, Slot], carried: set[str], *, is_single: bool
    ) -> Chunks:
        if loop.body:
            return super()._chunks(loop, slots, carried, is_single=is_single)
        return Chunks(loop, self._passed(), False)

    def _passed(self) -> tuple[Step, ...]:
        """Return the steps of a chunk that a consumer lets pass, in the order of those that it walks."""
        first, *others = (Slot(ring.name, 0) for ring in self._rings() if not ring.resident)
        turn = (Await(first), TakeTurn(), PassTurn(), Release(first))
        return (*turn, *(step(slot) for slot in others for step in (Await, Release)))


def _is_bound_by_data(place: tuple[Operation, ...]) -> bool:
    return any(isinstance(op, Load) for op in place)
