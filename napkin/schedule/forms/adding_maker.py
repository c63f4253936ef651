"""The parts of a form whose groups add to an output: rings, what consumers share, steps, stores.

In: a Program whose stream is walked once, the axis of the rows, ring depths. Out: a `Specialised` kernel with
parts: contracted and added by the consumers that share what they multiply (`AddingMaker`), or by a warpgroup
of their own (`ApartMaker`). Whether it fits registers and shared memory is not asked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from napkin.operators import Kind
from napkin.schedule.count import extent, tile_bytes
from napkin.schedule.forms.shapes import ROWS
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.program import Dot, Load, Loop, Operation, Program, Store, tiles_of
from napkin.schedule.roles.adding_steps import (
    finished_apart,
    parts_first,
    read_late,
    slots_together,
    with_contraction_ahead,
    with_shares,
)
from napkin.schedule.roles.barriers import Await, Finish, Release, Slot, Step, with_barriers
from napkin.schedule.roles.maker import BARRIER_BYTES, Maker
from napkin.schedule.roles.warps import Adder, Chunks, Held, Part, Ring, Specialised, Staged

CONSUMERS = 2
# Registers of a thread that computes, that copies, and that contracts and adds parts, if others do not.
APART_REGISTERS, ADDER_REGISTERS = (208, 24), 72


def masking(loops: Sequence[Loop]) -> list[Loop]:
    """Return the loops whose chunks a mask cuts."""
    return [
        loop
        for loop in loops
        if any(tile.kind is Kind.BOOL and len(tile.dims) > 1 for tile in tiles_of(loop.body))
    ]


def added_tiles(program: Program) -> frozenset[str]:
    """Return the tiles that are added to outputs."""
    loops = (op for op in program.operations if isinstance(op, Loop))
    stores = (op for loop in loops for op in loop.body if isinstance(op, Store))
    return frozenset(op.source for op in stores if op.adds and isinstance(op.source, str))


class AddingMaker(Maker):
    """Puts the parts of the form together: as `Maker`, but for sums over the rows of all consumers."""

    def __init__(self, program: Program, rows: str, stages: int, *, by_threads: bool) -> None:
        super().__init__(program, rows, CONSUMERS, stages)
        self.by_threads = by_threads
        added = added_tiles(program)
        self.dots = [op for op in self.loops[-1].body if isinstance(op, Dot)]
        self.parts = [dot for dot in self.dots if dot.tile.name in added]
        self.whole = {dot.right for dot in self.parts}  # their rows are those of all consumers

    def run(self, shared_limit: int) -> Specialised:
        """Put the parts together; what is turned has a ring of its own, or one slot, as there is room."""
        if len(masking(self.loops)) > 1:  # it was not measured whether either pays there
            return slots_together(self._with_slots(1, shared_limit))
        made = self._with_slots(self.stages, shared_limit)
        if made.shared_bytes + BARRIER_BYTES > shared_limit:
            made = self._with_slots(1, shared_limit)
        return slots_together(with_contraction_ahead(made))

    def _parts_first(self) -> bool:
        """Tell whether it pays to contract parts first, so that sums run as they leave.

        It does where threads are to issue their additions, and where a chunk is as long as a block of rows.
        """
        return self.by_threads or all(
            self.program.dim(dot.tile.dims[0]).extent >= CONSUMERS * ROWS for dot in self.parts
        )

    def _with_slots(self, slots: int, shared_limit: int) -> Specialised:
        turned = {dot.left: self._turned(dot, slots) for dot in self.parts}
        room = sum(each.slots * each.slot_bytes for each in turned.values())
        made = super().run(shared_limit - room)
        return replace(made, parts=tuple(turned.values()))

    def _turned(self, dot: Dot, slots: int) -> Part:
        tiles = {tile.name: tile for tile in tiles_of(self.loops[-1].body)}
        size = extent(tiles[dot.left].dims, self.program) * TYPE_BYTES[dot.operand_type]
        arrays = tuple(
            op.array
            for op in self.loops[-1].body
            if isinstance(op, Store) and op.source in {d.tile.name for d in self._taking(dot.left)}
        )
        return Part(replace(tiles[dot.left], storage=dot.operand_type), arrays, slots, size)

    def _taking(self, name: str) -> list[Dot]:
        return [dot for dot in self.parts if dot.left == name]

    def _ring(self, name: str, load: Load) -> Ring:
        ring = super()._ring(name, load)
        if load.tile.name not in self.whole:
            return ring
        size = tile_bytes(load.tile, self.program)
        return replace(ring, slots=1, slot_bytes=size, arrivals=CONSUMERS, by_rows=False)

    def _deepened(
        self, rings: Sequence[Ring], staged: Sequence[Staged], shared_limit: int
    ) -> tuple[Ring, ...]:
        """Keep a group's slots as they are: their places are constants, which take no registers."""
        return tuple(rings)

    def _staged(self, rings: Sequence[Ring], shared_limit: int) -> tuple[Staged, ...]:
        added = [op for op in self.loops[-1].body if isinstance(op, Store) and not self.by_threads]
        parts = tuple(Staged(op, None, self._store_bytes(op)) for op in added)
        room = sum(self.consumers * each.slot_bytes for each in parts)
        return (*parts, *super()._staged(rings, shared_limit - room))

    def _chunks(
        self, loop: Loop, slots: dict[str, Slot], carried: set[str], *, is_single: bool
    ) -> Chunks:
        streamed = [op.tile.name for op in loop.body if self._is_streamed(op)]
        seen = {name: slots[name] for name in streamed}
        late = read_late(with_barriers(self._body(loop), seen, frozenset()))
        steps = finished_apart(late, {slot: name for name, slot in seen.items()})
        tiles = {tile.name: tile for tile in tiles_of(loop.body)}
        added = {dot.tile.name for dot in self.parts}
        parts = [op for op in loop.body if isinstance(op, Dot) and op.tile.name in added]
        return Chunks(loop, tuple(with_shares(steps, parts, tiles)), False)

    def _body(self, loop: Loop) -> tuple[Operation, ...]:
        """Return a step's operations as consumers do them."""
        if not self._parts_first():
            return loop.body
        return parts_first(loop.body, {dot.tile.name for dot in self.parts})


class ApartMaker(AddingMaker):
    """Puts the parts together of a form with an adder: consumers never meet, and add nothing.

    What they multiply lies in a slot of a ring, as long as the adder reads it. A consumer's rows of what
    stays for a group are read from registers: contractions of 64 positions would else take all of shared
    memory's bandwidth.
    """

    def __init__(self, program: Program, rows: str, stages: int) -> None:
        super().__init__(program, rows, stages, by_threads=True)

    def run(self, shared_limit: int) -> Specialised:
        """Put the parts together."""
        made = with_contraction_ahead(self._with_slots(self.stages, shared_limit))
        return replace(
            slots_together(made),
            registers=APART_REGISTERS,
            held=tuple(self.held().values()),
            adder=Adder(ADDER_REGISTERS, tuple(self._adder_steps())),
        )

    def held(self) -> dict[str, Held]:
        """Return what stays for a group and consumers multiply from the left, which registers hold."""
        resident = {op.tile.name for op in self.before if isinstance(op, Load)}
        lefts = [dot for dot in self.dots if dot not in self.parts and dot.left in resident]
        return {dot.left: Held(dot.left, self.program.dim(dot.over).extent) for dot in lefts}

    def _ring(self, name: str, load: Load) -> Ring:
        ring = super()._ring(name, load)
        is_whole = load.tile.name in self.whole
        return replace(ring, arrivals=ring.arrivals + 1) if is_whole else ring

    def _deepened(
        self, rings: Sequence[Ring], staged: Sequence[Staged], shared_limit: int
    ) -> tuple[Ring, ...]:
        """Let what the adder reads to the end arrive early for the next group.

        Chunks read registers, which know no place. With all of it early, long streams are 2 to 4 % slower.
        """
        deep = Maker._deepened(self, rings, staged, shared_limit)
        return tuple(
            deeper if ring.load.tile.name in self.whole else ring
            for ring, deeper in zip(rings, deep, strict=True)
        )

    def _body(self, loop: Loop) -> tuple[Operation, ...]:
        return tuple(
            op
            for op in loop.body
            if not (isinstance(op, Store) and op.adds)
            and not (isinstance(op, Dot) and op.tile.name in {dot.tile.name for dot in self.parts})
        )

    def _adder_steps(self) -> Iterator[Step]:
        """Yield what the adder does for a chunk: one tile that is shared after the other."""
        stores = [op for op in self.loops[-1].body if isinstance(op, Store)]
        for name in dict.fromkeys(dot.left for dot in self.parts):
            taking = self._taking(name)
            sources = tuple(dot.tile.name for dot in taking)
            yield Await(Slot(name, 0))
            yield from taking
            yield Finish(sources, 0)
            yield Release(Slot(name, 0))
            yield from (store for store in stores if store.source in sources)
