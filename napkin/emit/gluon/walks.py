"""The positions of a group's chunks, as the producer and the consumers of a kernel walk them.

In: a `Specialised` kernel and its names. Out: a printer of ranges, from the last chunk to the first.
"""

from __future__ import annotations

from napkin.emit.gluon.dispatch import DispatchPrinter
from napkin.schedule.program import Loop
from napkin.schedule.roles.warps import Chunks


class WalkPrinter(DispatchPrinter):
    """Prints the ranges of loops over chunks."""

    def _all_chunks(self) -> str:
        """Return the positions of a group's chunks as one walk, as the producer walks them."""
        first, lowest = self.kernel.chunks[0], (*self.kernel.chunks, *self.kernel.behind)[-1].loop
        start = self._leaf(first.loop.start, ()) if first.is_single else self._from_end(first.loop)
        return self._range(start, lowest)

    def _left_to_do(self, last: Chunks) -> str:
        """Return in words what a consumer does behind its last chunk."""
        return f"what the chunk at {self.names.starts[last.loop.axis]} is still to add"

    def _from_end(self, loop: Loop) -> str:
        """Return the last chunk of a loop."""
        return f"{self._leaf(loop.stop, ())} - {self._block(loop.axis)}"

    def _range(self, highest: str, loop: Loop) -> str:
        begin = self._leaf(loop.start, ())
        return f"range({highest}, {_before(begin)}, -{self._block(loop.axis)})"


def _before(begin: str) -> str:
    return "-1" if begin == "0" else f"{begin} - 1"
