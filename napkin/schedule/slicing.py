"""The parts of a kernel whose contractions come in slices, beside the arithmetic of their own chunk.

In and out: as `maker`. What differs: nothing is carried from chunk to chunk, no chunk is walked by itself, a
chunk's second contractions are in `slices`, and a consumer finds the bounds of its own rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from napkin.schedule.barriers import Slot, with_barriers
from napkin.schedule.liveness import reads, writes
from napkin.schedule.maker import Maker
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Compute, Dim, EdgePosition, Loop, Operation, Program, tiles_of
from napkin.schedule.slices import NARROWEST, SLICES, Cutting, in_slices
from napkin.schedule.warps import Chunks, Specialised


class Slicing(Maker):
    """Puts the parts together where contractions come in slices, beside the arithmetic of their own chunk."""

    def __init__(self, program: Program, rows: str, consumers: int, stages: int) -> None:
        super().__init__(program, rows, consumers, stages)
        self.cutting = self._cutting()
        self.names = Names(RESERVED | {tile.name for tile in tiles_of(program.operations)})
        self.cut_slots: dict[str, Slot] = {}

    def run(self, shared_limit: int) -> Specialised:
        """Put the parts together."""
        made = super().run(shared_limit)
        whole, narrow = self.cutting.whole, self.cutting.slice
        extent = self.program.dim(whole).extent // self.cutting.count
        dims = (*made.program.dims, Dim(narrow, (), extent))
        slots = (*made.slots, *self.cut_slots.items())
        program = replace(made.program, dims=dims)
        return replace(made, program=program, slots=slots, cuts=((narrow, whole),))

    def _cutting(self) -> Cutting:
        """Return how the chunks of the stream are cut."""
        axis = self.loops[0].axis
        taken = {dim.name for dim in self.program.dims} | {each.axis for each in self.program.axes}
        name = Names(RESERVED | taken).fresh(f"{axis}_slice")
        count = max(1, min(SLICES, self.program.dim(axis).extent // NARROWEST))
        return Cutting(axis, name, count)

    def _own_bounds(
        self, place: tuple[Operation, ...]
    ) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
        """Let a consumer find where its own rows need no mask.

        What all walk together, from the first chunk to the lowest, is found for all; the bound between is
        no lower, so that every consumer walks the same chunks.
        """
        if len(self.loops) != 2:
            return place, ()
        cut, full = self.loops
        made = {writes(op): op for op in place}
        bound, stop = made.get(str(cut.start)), made.get(str(full.stop))
        if not isinstance(bound, Compute) or not isinstance(stop, Compute):
            return place, ()
        is_between = bound.operator == "max2" and full.start in bound.operands
        if not is_between or (stop.operator, stop.operands) != ("min2", (cut.start, cut.stop)):
            return place, ()
        shared = {end for end in (cut.stop, full.start) if isinstance(end, str)}
        own = _needed(place, {bound.tile.name, stop.tile.name}, shared)
        if any(not isinstance(op, Compute | EdgePosition) or op.tile.dims for op in own):
            return place, ()
        return _needed(place, shared, set()), own

    def _chunks(
        self, loop: Loop, slots: dict[str, Slot], carried: set[str], *, is_single: bool
    ) -> Chunks:
        streamed = {op.tile.name: slots[op.tile.name] for op in loop.body if self._is_streamed(op)}
        steps = with_barriers(loop.body, streamed, frozenset())
        tiles = {tile.name: tile for tile in tiles_of(self.program.operations)}
        tiles |= {tile.name: tile for tile in tiles_of(loop.body)}
        made = in_slices(steps, tiles, streamed, self.cutting, self.names)
        self.cut_slots |= made.slots
        return Chunks(loop, made.steps, False, tuple(made.wholes.items()))


def _needed(
    operations: Sequence[Operation], names: Collection[str], known: Collection[str]
) -> tuple[Operation, ...]:
    """Return the operations that these names need, in order; what is known already needs none."""
    wanted = set(names)
    found: list[Operation] = []
    for op in reversed(operations):
        if writes(op) in wanted:
            found.append(op)
            wanted |= set(reads(op)) - set(known)
    return tuple(found[::-1])
