"""The parts of a warp-specialised kernel put together: rings, slots, steps, stores.

In: a Program whose stream is in the order in which consumers walk it, the axis of the rows, consumers, ring
depths. Out: a `Specialised` kernel. Whether it fits registers and shared memory is not asked here
(`specialise` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeGuard

from napkin.schedule.count import extent, tile_bytes
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.liveness import entry_of, reads, writes
from napkin.schedule.order import handed_order
from napkin.schedule.program import Assign, Dot, Fill, Load, Loop, Operation, Program, Store, walk
from napkin.schedule.roles.barriers import (
    Await,
    Release,
    Slot,
    Step,
    finished_sums,
    with_barriers,
    with_running_sums,
    with_turns,
)
from napkin.schedule.roles.obstacles import OPERANDS, place_of
from napkin.schedule.roles.own import OwnBounds
from napkin.schedule.roles.rotate import only_adds
from napkin.schedule.roles.rows_read import tiles_read, waiting_for
from napkin.schedule.roles.vectors import is_vector
from napkin.schedule.roles.warps import Chunks, Ring, Specialised, Staged

_MAX_WHOLE = 256
# Registers of a consumer's and the producer's threads, by the number of consumers.
REGISTERS = {3: (160, 32), 2: (240, 24)}
BARRIER_BYTES = 1024


def _buffer(load: Load) -> str:
    """Return the name of a streamed load's ring."""
    return load.buffer or f"{load.array.lower()}_buffer"


def _is_shared(op: Operation) -> TypeGuard[Load | Fill]:
    return isinstance(op, Load | Fill) and op.tile.level == "shared"


class Maker:
    """Puts the parts of a kernel's form together: rings, stores, the steps of a consumer."""

    def __init__(self, program: Program, rows: str, consumers: int, stages: int) -> None:
        self.program = program
        self.rows = rows
        self.consumers = consumers
        self.stages = stages
        places = [i for i, op in enumerate(program.operations) if isinstance(op, Loop)]
        self.before = program.operations[: places[0]]
        self.loops = [op for op in program.operations if isinstance(op, Loop)]
        self.after = program.operations[places[-1] + 1 :]
        self.adds = all(only_adds(loop.body) for loop in self.loops)
        self.vectors = self._vectors()

    def _vectors(self) -> frozenset[str]:
        """Return the arrays of which every chunk reads values of its positions, as boxes lie in memory."""
        found = [
            {
                op.array
                for op in loop.body
                if isinstance(op, Load) and is_vector(op, loop, self.program)
            }
            for loop in self.loops
        ]
        return frozenset(set.intersection(*found))

    def _is_streamed(self, op: Operation) -> TypeGuard[Load]:
        return isinstance(op, Load) and (op.buffer is not None or op.array in self.vectors)

    def run(self, shared_limit: int) -> Specialised:
        """Put the parts together."""
        rings = self._rings()
        slots = self._slots(rings)
        staged = self._staged(rings, shared_limit)
        rings = self._deepened(rings, staged, shared_limit)
        place = place_of(self.program)
        bounds = self._bounds(place)
        carried = {name for name, slot in slots.items() if slot.age}
        alone = next(number for number, loop in enumerate(bounds.loops) if loop.body)
        chunks = tuple(
            self._chunks(loop, slots, carried, is_single=number == alone)
            for number, loop in enumerate(bounds.loops)
        )
        behind = [self._chunks(loop, slots, carried, is_single=False) for loop in bounds.behind]
        prelude, drain = self._ends(place, rings, staged, slots)
        is_bound_by_data = any(isinstance(op, Load) for op in place)
        ordered = handed_order(self.program, place, self.rows) if is_bound_by_data else self.program
        return Specialised(
            ordered,
            self.rows,
            self.consumers,
            rings,
            staged,
            tuple(slots.items()),
            bounds.place,
            (*bounds.own, *prelude),
            chunks,
            drain,
            REGISTERS[self.consumers],
            dispatched=is_bound_by_data,
            behind=tuple(behind),
        )

    def _rings(self) -> tuple[Ring, ...]:
        resident = [op for op in self.before if isinstance(op, Load) and op.tile.level == "shared"]
        held = (
            self._contracted()
        )  # until a group's end: what is read before comes first, a group ahead
        resident.sort(key=lambda op: op.tile.name in held)
        streamed = [op for op in self.loops[0].body if self._is_streamed(op)]
        return (
            *(self._ring(f"{op.tile.name}_buffer", op) for op in resident),
            *(self._ring(_buffer(op), op) for op in streamed),
        )

    def _ring(self, name: str, load: Load) -> Ring:
        by_rows = self.rows in load.tile.dims
        resident = load in self.before
        size = tile_bytes(load.tile, self.program)
        slots, arrivals = self.stages + self._holds_two_chunks(), self.consumers
        if resident:
            slots = self.consumers if by_rows else 1
        if resident and by_rows:
            size, arrivals = size // self.consumers, 1
        return Ring(name, load, slots, size, arrivals, resident, by_rows)

    def _deepened(
        self, rings: Sequence[Ring], staged: Sequence[Staged], shared_limit: int
    ) -> tuple[Ring, ...]:
        """Give resident rings slots for the next group as well, as far as shared memory goes.

        The next group's tiles then arrive while this one's chunks are still contracted.
        """
        free = shared_limit - BARRIER_BYTES
        free -= sum(ring.slots * ring.slot_bytes for ring in rings)
        free -= sum(self.consumers * each.slot_bytes for each in staged if each.ring is None)
        found: list[Ring] = []
        for ring in rings:
            more = min(ring.slots, max(free, 0) // ring.slot_bytes) if ring.resident else 0
            free -= more * ring.slot_bytes
            found.append(replace(ring, slots=ring.slots + more))
        return tuple(found)

    def _holds_two_chunks(self) -> bool:
        """Return whether a chunk's tile is read at once and again in the next: a slot more is then in use."""
        body = self.loops[-1].body
        carried = {op.source for op in body if isinstance(op, Assign)}
        streamed = {op.tile.name for op in body if self._is_streamed(op)}
        read = {side for op in body if isinstance(op, Dot) for side in (op.left, op.right)}
        return bool(carried & streamed & read)

    def _slots(self, rings: Sequence[Ring]) -> dict[str, Slot]:
        """Return the slot of every shared tile: as it is read in its own chunk, or in the next."""
        found = {ring.load.tile.name: Slot(ring.name, 0) for ring in rings}
        for loop in self.loops:
            for op in loop.body:
                if self._is_streamed(op):
                    found[op.tile.name] = Slot(_buffer(op), 0)
                if isinstance(op, Assign) and op.source in found:
                    found[op.target] = Slot(found[op.source].ring, 1)
        return found

    def _chunks(
        self, loop: Loop, slots: dict[str, Slot], carried: set[str], *, is_single: bool
    ) -> Chunks:
        streamed = [op.tile.name for op in loop.body if self._is_streamed(op)]
        seen = {name: slots[name] for name in (*streamed, *sorted(carried))}
        if self.adds:
            return Chunks(loop, with_running_sums(loop.body, seen, is_first=is_single), is_single)
        kept = {op.source for op in loop.body if isinstance(op, Assign) and op.target in carried}
        steps = with_barriers(loop.body, seen, frozenset(kept))
        return Chunks(loop, with_turns(steps), is_single)

    def _ends(
        self,
        place: Sequence[Operation],
        rings: Sequence[Ring],
        staged: Sequence[Staged],
        slots: dict[str, Slot],
    ) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """Return what a consumer does before the first chunk, and behind the last."""
        values = self._row_values(place)
        elsewhere = [op for op in place if op not in values]
        own = [op for op in self.before if op not in elsewhere and not _is_shared(op)]
        late = waiting_for(own, set(tiles_read(self.program)))
        resident = [ring for ring in rings if ring.resident]
        prelude: list[Step] = [op for op in own if op not in late]
        prelude += [*(Await(Slot(ring.name, 0)) for ring in resident), *late]
        done = {ring.name for ring in resident if ring.load.tile.name not in self._contracted()}
        prelude += [Release(Slot(name, 0)) for name in sorted(done)]
        carried = {name: slot for name, slot in slots.items() if slot.age}
        drain = list(with_barriers(self.after, carried, frozenset()))
        if self.adds:
            last = {
                op.tile.name: slots[op.tile.name] for op in self.loops[-1].body if _is_shared(op)
            }
            drain = [*finished_sums(self.loops[-1].body, last), *drain]
        busy = {each.ring for each in staged} | self._read_behind(rings)
        kept = [ring.name for ring in resident if ring.name not in done]
        early = [Release(Slot(name, 0)) for name in kept if name not in busy]
        behind = [Release(Slot(name, 0)) for name in kept if name in busy]
        return tuple(prelude), (*early, *drain, *behind)

    def _contracted(self) -> set[str]:
        """Return the tiles that contractions take."""
        operations = walk(self.program.operations)
        return {name for op in operations if isinstance(op, Dot) for name in reads(op)}

    def _bounds(self, place: tuple[Operation, ...]) -> OwnBounds:
        """Return a group's place as all warps find it, and the loops that a consumer walks."""
        return OwnBounds(place, (), tuple(self.loops))

    def _row_values(self, place: Sequence[Operation]) -> tuple[Operation, ...]:
        """Return the row values of a group's place that a consumer also needs for rows of its own."""
        rest = [op for op in (*self.before, *self.after) if op not in place]
        needed = {name for op in rest for name in reads(op)}
        needed = needed.union(*(entry_of(loop.body) for loop in self.loops))
        found: list[Operation] = []
        for op in reversed(place):
            if writes(op) in needed and not isinstance(op, Loop | Assign | Store) and op.tile.dims:
                found.append(op)
                needed |= set(reads(op))
        return tuple(found[::-1])

    def _read_behind(self, rings: Iterable[Ring]) -> set[str | None]:
        read = {name for op in self.after for name in reads(op)}
        return {ring.name for ring in rings if ring.load.tile.name in read}

    # --- stores -----------------------------------------------------------------------------------

    def _staged(self, rings: Sequence[Ring], shared_limit: int) -> tuple[Staged, ...]:
        """Return the stores that travel by the copy engine, while shared memory lasts."""
        found: list[Staged] = []
        free = shared_limit - BARRIER_BYTES
        free -= sum(ring.slots * ring.slot_bytes for ring in rings)
        left = [ring for ring in rings if ring.resident and ring.by_rows]
        for op in self.after:
            if not isinstance(op, Store) or not self._has_box(op):
                continue
            size = self._store_bytes(op)
            ring = next((each for each in left if self._is_alike(each, op)), None)
            if self.consumers * size <= free:
                # Room of its own: the next group's rows arrive while this one's are still stored.
                free -= self.consumers * size
                found.append(Staged(op, None, size))
            elif ring is not None:
                left.remove(ring)
                found.append(Staged(op, ring.name, size))
        return tuple(found)

    def _has_box(self, store: Store) -> bool:
        """Return whether a consumer's rows of an output are a box whose rows the copy engine can take."""
        array = self.program.array(store.array)
        tiles = [self.program.axis(axis) for axis in array.axes]
        dims = tuple(tile.dim for tile in tiles if tile.dim is not None)
        if dims != store.source_dims or len(dims) != 2 or dims[0] != self.rows:
            return False
        last, size = tiles[-1], TYPE_BYTES[array.dtype]
        if last.dim != dims[1] or (last.size or 0) * size % 16:
            return False
        if last.size is None and len(array.dims[-1]) > 1:
            return False
        return len(tiles) <= 5 and array.dtype in OPERANDS and last.tile <= _MAX_WHOLE

    def _store_bytes(self, store: Store) -> int:
        size = TYPE_BYTES[self.program.array(store.array).dtype]
        return extent(store.source_dims, self.program) * size // self.consumers

    def _is_alike(self, ring: Ring, store: Store) -> bool:
        """Return whether a slot holds tiles of the store's shape and type."""
        array = self.program.array(store.array)
        shape, other = (
            [self.program.dim(dim).extent for dim in dims]
            for dims in (ring.load.tile.dims, store.source_dims)
        )
        return shape == other and ring.load.tile.storage == array.dtype
