"""Slots of shared memory by name: which one a step uses, its phase, and its views as matrices.

In: a `Specialised` kernel and its names. Out: a printer of slots: their numbers, the boxes that the copy
engine fills, and the tile that a contraction reads.
"""

from __future__ import annotations

from math import prod

from napkin.emit.gluon.masks import MaskPrinter
from napkin.emit.gluon.names import GluonNames
from napkin.schedule.program import Array
from napkin.schedule.roles.barriers import Slot
from napkin.schedule.roles.panels import panels_of
from napkin.schedule.roles.warps import Ring, Specialised


class SlotPrinter(MaskPrinter):
    """Prints slots of rings; tensors' rows are one consumer's share."""

    def __init__(self, kernel: Specialised, names: GluonNames, *, approximate: bool) -> None:
        super().__init__(kernel.program, approximate=approximate)
        self.kernel = kernel
        self.words = names
        self.rings = {ring.name: ring for ring in kernel.rings}
        self.slots = dict(kernel.slots)
        self.panels = panels_of(self.program)
        self.bound: set[str] = set()  # the tiles of a list of steps that have a view

    # --- numbers ----------------------------------------------------------------------------------

    def _slot(self, slot: Slot) -> tuple[str, str]:
        """Return a slot's index and the phase of its full barrier."""
        words, ring = self.words, self.rings[slot.ring]
        if ring.resident:
            return self.resident_slot(ring)
        if slot.age:
            return words.last_slot, words.last_phase
        return words.slot, words.phase

    def resident_slot(self, ring: Ring) -> tuple[str, str]:
        """Return the slot and the phase of a ring that is filled once a group."""
        if ring.slots > self._filled(ring):
            return self.words.places[ring.name]
        return (self.words.consumer if ring.by_rows else "0"), f"({self.words.turn} & 1)"

    def print_ring_place(self, ring: Ring) -> None:
        """Print the slot and the phase of a resident ring that holds more than one group's tiles."""
        if ring.slots <= self._filled(ring):
            return
        words, count = self.words, self.words.counts[ring.name]
        slot, phase = words.places[ring.name]
        number = f"({words.turn} * CONSUMERS + {words.consumer})" if ring.by_rows else words.turn
        self._line(f"{slot} = {number} % {count}")
        self._line(f"{phase} = {number} // {count} & 1")

    def _filled(self, ring: Ring) -> int:
        """Return the slots of a resident ring that a group fills."""
        return self.kernel.consumers if ring.by_rows else 1

    # --- boxes and views ------------------------------------------------------------------------

    def box(self, array: Array, *, by_rows: bool) -> tuple[str, ...]:
        """Return the box of an array that one copy moves: extents by name, 1 along scalar axes."""
        return tuple(
            "1" if self.program.axis(axis).dim is None else self._box_extent(axis, by_rows=by_rows)
            for axis in array.axes
        )

    def _box_extent(self, key: str, *, by_rows: bool) -> str:
        """Return the extent of a box along a dim by name: a panel's width, where it lies in panels."""
        found = self.words.panels.get(key)
        return self._extent_of(key, by_rows=by_rows) if found is None else found

    def panel_count(self, ring: Ring) -> int:
        """Return the boxes that make up a tile in a slot."""
        return prod(self.panels[dim].count for dim in ring.load.tile.dims if dim in self.panels)

    def _extent_of(self, key: str, *, by_rows: bool = True) -> str:
        """Return the extent of a dim (or axis) by name: a consumer holds its share of the rows."""
        return "ROWS" if by_rows and key == self.kernel.rows else self._block(key)

    def _bind_slot(self, name: str) -> None:
        """Name the slot that a contraction reads as a matrix, once a list."""
        slot = self.slots.get(name)
        if slot is None or name in self.bound or self.rings[slot.ring].resident:
            return
        self.bound.add(name)
        self.view(name, self.rings[slot.ring], self._slot(slot)[0])

    def box_number(self, ring: Ring, slot: str, panel: str) -> str:
        """Return a box's number in a ring: a streamed slot by rows holds those of every consumer."""
        count = self.panel_count(ring)
        if not ring.resident and ring.by_rows:
            slot = f"{slot} * CONSUMERS + {self.words.consumer}"
            slot = f"({slot})" if count > 1 else slot
        return slot if count == 1 else f"{slot} * {count} + {panel}"

    def view(self, name: str, ring: Ring, slot: str) -> None:
        """Name a slot as a matrix."""
        dims = ring.load.tile.dims
        shape = tuple(self._box_extent(dim, by_rows=ring.by_rows) for dim in dims)
        for panel, part in enumerate(self.words.panel_tiles.get(name, (name,))):
            number = self.box_number(ring, slot, str(panel))
            text = f"{self.words.buffers[ring.name]}.index({number})"
            if shape != self.box(self.program.array(ring.load.array), by_rows=ring.by_rows):
                text += f".reshape([{', '.join(shape)}])"
            self._line(f"{part} = {text}")
