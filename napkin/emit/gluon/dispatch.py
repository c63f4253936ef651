"""Groups handed out as blocks get done: a warp that takes the next one, and finds its place, ahead of time.

In: a `Specialised` kernel, its names. Out: printers of what the dispatching warp does, and of the walk over
groups of all others. The dispatcher takes groups from a counter in global memory that all
blocks share, so that a block with short streams takes more of them. It finds a group's place, which the other
warps then need not do, and hands its numbers over through shared memory while they work on the group
before: one slot, which a barrier says is full, and another that all have read it.

Where a kernel is not dispatched, all warps walk the groups that the block's own number gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.emit.gluon.lines import listed
from napkin.emit.gluon.place import PlacePrinter


class DispatchPrinter(PlacePrinter):
    """Prints the walk over groups."""

    @property
    def is_dispatched(self) -> bool:
        """Whether groups are taken from a counter."""
        return self.kernel.dispatched

    def print_dispatch(self, call: str, given: Sequence[str]) -> None:
        """Print the dispatching warp: `call` finds a group's place, of which `given` are the numbers."""
        words = self.words
        self._line(f"{words.group} = tl.program_id(0)")
        self._line(f"{words.turn} = 0")
        self._line(f"while {words.group} < {words.groups}:")
        self.depth += 1
        self._line(f"{listed(given)} = {call}")
        for place, number in enumerate(("1", *given)):
            self._line(f"_hand_over({words.place_buffer}, {place}, {number})")
        self._line(f"mbarrier.arrive({words.place_full}.index(0), count=1)")
        self._line(f"mbarrier.wait({words.place_empty}.index(0), {words.turn} & 1)")
        self._line(f"{words.turn} += 1")
        self._line(
            f"{words.group} = tl.num_programs(0) + tl.atomic_add({words.counter}, 1, sem='relaxed')"
        )
        self.depth -= 1
        self._line(f"_hand_over({words.place_buffer}, 0, 0)  # no group is left")
        self._line(f"mbarrier.arrive({words.place_full}.index(0), count=1)")

    def print_groups(self, unpack: str, warps: int) -> None:
        """Print the head of the walk over groups of a partition of so many warps."""
        words = self.words
        if not self.is_dispatched:
            self._line(f"for {words.turn} in range(_rounds({words.groups})):")
            self.depth += 1
            self._line(unpack)
            return
        self._line(f"{words.turn} = 0")
        self._line(f"mbarrier.wait({words.place_full}.index(0), 0)")
        self._line(f"{words.more} = _handed_over({words.place_buffer}, 0, {warps})")
        self._line(f"while {words.more} > 0:")
        self.depth += 1
        self._line(unpack)
        self._line(f"mbarrier.arrive({words.place_empty}.index(0), count=1)")

    def print_next_group(self, warps: int) -> None:
        """Print how a partition goes on to the next group."""
        if not self.is_dispatched:
            return
        words = self.words
        self._line(f"{words.turn} += 1")
        self._line(f"mbarrier.wait({words.place_full}.index(0), {words.turn} & 1)")
        self._line(f"{words.more} = _handed_over({words.place_buffer}, 0, {warps})")

    def taken_over(self, given: Sequence[str], warps: int) -> list[str]:
        """Return the lines that read a group's numbers, as the dispatcher has handed them over.

        Of the numbers of a consumer's own rows, consumers read theirs alone, and the producer none.
        """
        buffer, consumer = self.words.place_buffer, self.words.consumer
        places = {name: place for place, name in enumerate(given, 1)}
        folds = {op.tile.name: self.by_consumer(op) for op in self.own_folds()}
        own = {each for names in folds.values() for each in names}
        found = [
            f"{name} = _handed_over({buffer}, {place}, {warps})"
            for name, place in places.items()
            if name not in own
        ]
        if warps == 1:
            return found
        return found + [
            f"{name} = _handed_over({buffer}, {places[first]} + {consumer}, {warps})"
            for name, (first, *_) in folds.items()
        ]

    def print_prelude(self) -> None:
        """Print what a consumer does before its first chunk; some numbers it has been handed."""
        given = self.own_folds()
        self.tiles |= {each.tile.name: each.tile for each in given}
        self.print_steps([each for each in self.kernel.prelude if each not in given])

    def print_handing_over(self, count: int) -> None:
        """Print the slot of a group's numbers and its barriers."""
        words = self.words
        shared = "gl.SwizzledSharedLayout(1, 1, 1, [0])"
        self._line(
            f"{words.place_buffer} = gl.allocate_shared_memory(gl.int32, [{count}, 1], {shared})"
        )
        for name, arrivals in ((words.place_full, "1"), (words.place_empty, "CONSUMERS + 1")):
            layout = "mbarrier.MBarrierLayout()"
            self._line(f"{name} = gl.allocate_shared_memory(gl.int64, [1, 1], {layout})")
            self._line(f"mbarrier.init({name}.index(0), count={arrivals})")
