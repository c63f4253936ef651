"""The parts of a kernel whose contractions come in slices, beside the arithmetic of their own chunk.

In and out: as `maker`. What differs: nothing is carried from chunk to chunk but sums under way, which are
finished beside the next chunk's scores; a chunk's second contractions are in `slices`; a consumer walks
between bounds of its own rows (`own`); masks are tested a comparison at a time; and groups whose streams
differ in length are handed out as blocks get done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napkin.schedule.count import extent, tile_bytes
from napkin.schedule.liveness import reads, writes
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import (
    Compute,
    Dim,
    Dot,
    EdgePosition,
    Load,
    Loop,
    Operation,
    Positions,
    Program,
    Region,
    tiles_of,
    walk,
)
from napkin.schedule.roles.barriers import Await, Release, Slot, Step, with_barriers
from napkin.schedule.roles.maker import Maker
from napkin.schedule.roles.own import OwnBounds, own_bounds
from napkin.schedule.roles.slices import (
    NARROWEST,
    SLICES,
    Cutting,
    behind_the_first,
    in_slices,
    of_the_last_chunk,
    parted,
    read_together,
)
from napkin.schedule.roles.warps import Chunks, Ring, Specialised

_LANES = 4  # of a warp that share a row of a contraction's result


class Slicing(Maker):
    """Puts the parts together where contractions come in slices, beside the arithmetic of their own chunk."""

    def __init__(self, program: Program, rows: str, consumers: int, stages: int) -> None:
        super().__init__(_without_unread(program), rows, consumers, stages)
        self.cutting = self._cutting()
        self.names = Names(RESERVED | {tile.name for tile in tiles_of(program.operations)})
        self.cut_slots: dict[str, Slot] = {}
        self.ending: tuple[Step, ...] = ()  # of every chunk, done in the next one

    def run(self, shared_limit: int) -> Specialised:
        """Put the parts together."""
        made = super().run(shared_limit)
        whole, narrow = self.cutting.whole, self.cutting.slice
        width = self.program.dim(whole).extent // self.cutting.count
        dims = (*made.program.dims, Dim(narrow, (), width))
        slots = (*made.slots, *self.cut_slots.items())
        program = replace(made.program, dims=dims)
        drain = (*of_the_last_chunk(self.ending), *made.drain)
        return replace(
            made,
            program=program,
            slots=slots,
            drain=drain,
            cuts=((narrow, whole),),
            tests_apart=True,
            dispatched=made.dispatched or _differ(made.place),
        )

    def _cutting(self) -> Cutting:
        """Return how the chunks of the stream are cut."""
        axis = self.loops[0].axis
        taken = {dim.name for dim in self.program.dims} | {each.axis for each in self.program.axes}
        name = Names(RESERVED | taken).fresh(f"{axis}_slice")
        count = max(1, min(SLICES, self.program.dim(axis).extent // NARROWEST))
        return Cutting(axis, name, count)

    def _bounds(self, place: tuple[Operation, ...]) -> OwnBounds:
        """Let a consumer find the bounds of its own rows."""
        return own_bounds(place, self.loops, self.names, rows=self.rows)

    def _chunks(
        self, loop: Loop, slots: dict[str, Slot], carried: set[str], *, is_single: bool
    ) -> Chunks:
        if not loop.body:
            return Chunks(loop, self._passed(), False)
        streamed = {op.tile.name: slots[op.tile.name] for op in loop.body if self._is_streamed(op)}
        rings = {slot.ring for slot in streamed.values()}
        apart = with_barriers(loop.body, streamed, frozenset())
        steps = read_together(apart, self._leader(), rings)
        tiles = {tile.name: tile for tile in tiles_of(self.program.operations)}
        tiles |= {tile.name: tile for tile in tiles_of(loop.body)}
        made = in_slices(steps, tiles, streamed, self.cutting, self.names)
        self.cut_slots |= made.slots
        found, self.ending = parted(made.steps)
        found = found if is_single else behind_the_first(found, self.ending)
        return Chunks(loop, found, is_single, tuple(made.wholes.items()))

    def _passed(self) -> tuple[Step, ...]:
        """Return the steps of a chunk that a consumer lets pass."""
        slot = Slot(self._leader(), 0)
        return (Await(slot), Release(slot))

    def _rings(self) -> tuple[Ring, ...]:
        """Let all that is streamed of a chunk share its barriers."""
        rings = super()._rings()
        leader = next(ring.name for ring in rings if not ring.resident)
        return tuple(
            ring if ring.resident or ring.name == leader else replace(ring, leader=leader)
            for ring in rings
        )

    def _leader(self) -> str:
        return next(ring.name for ring in self._rings() if not ring.resident)


def _differ(place: Sequence[Operation]) -> bool:
    """Return whether groups walk streams of different lengths: the positions of their rows bound them."""
    return any(isinstance(op, EdgePosition) for op in place)


def registers_beside(program: Program, consumers: int) -> int:
    """Return the registers of a thread beside a chunk's scores: a slice rounded, and values of positions."""
    return _operand_registers(program, consumers) // SLICES + column_registers(program)


def _operand_registers(program: Program, consumers: int) -> int:
    """Return the registers of a thread that the operands take that a step computes, rounded."""
    most = 0
    for loop in (op for op in program.operations if isinstance(op, Loop)):
        tiles = {tile.name: tile for tile in tiles_of(loop.body) if tile.level == "register"}
        dots = [op for op in loop.body if isinstance(op, Dot) and op.left in tiles]
        made = {dot.left: replace(tiles[dot.left], storage=dot.operand_type) for dot in dots}
        most = max(most, sum(tile_bytes(tile, program) for tile in made.values()))
    return most // (4 * 128 * consumers)


def column_registers(program: Program) -> int:
    """Return the registers of a thread that values of a chunk's positions take beside its scores.

    Four lanes share a row of scores, and every row's lanes hold the values of all its columns. Positions
    that only a mask compares are numbers known to the compiler, but for where the chunk starts.
    """
    most = 0
    for loop in (op for op in program.operations if isinstance(op, Loop)):
        is_masked = loop.region is Region.PARTIAL
        values = [
            op.tile
            for op in loop.body
            if isinstance(op, Load) or (isinstance(op, Positions) and not is_masked)
        ]
        columns = [tile for tile in values if tile.dims == (loop.axis,)]
        most = max(most, sum(extent(tile.dims, program) // _LANES for tile in columns))
    return most


def _without_unread(program: Program) -> Program:
    """Return a program without numbers before its loops that nothing reads: where a walk forwards stopped."""
    wanted = {name for op in walk(program.operations) if not _is_number(op) for name in reads(op)}
    kept: list[Operation] = []
    for op in reversed(program.operations):
        if not _is_number(op) or writes(op) in wanted:
            kept.append(op)
            wanted |= set(reads(op))
    return replace(program, operations=tuple(kept[::-1]))


def _is_number(op: Operation) -> bool:
    return isinstance(op, Compute | EdgePosition) and not op.tile.dims
