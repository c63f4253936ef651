"""Warp-specialised kernels whose steps walk a loop of their own: what of their printing is their own.

In: a `Specialised` kernel with nests (napkin.schedule.forms.nested). Out: its functions as text. Producer and
consumers walk the stream's loops as they stand; the producer fills the rings for every chunk of the inner
ones. A consumer's first chunk of an inner loop stands before that loop, since none is to be finished yet.
"""

from __future__ import annotations

from napkin.emit.gluon.functions import ModulePrinter, ModuleText
from napkin.emit.gluon.lanes import keep_by_lane
from napkin.emit.gluon.names import name_all
from napkin.emit.triton.body import LOOP_COMMENTS
from napkin.emit.triton.spelling import spell
from napkin.schedule.program import Literal, Loop
from napkin.schedule.roles.warps import Chunks, Specialised


def print_nested(kernel: Specialised, name: str, *, approximate: bool) -> ModuleText:
    """Return the functions of a kernel called `name` whose steps walk loops."""
    by_lane, lane = keep_by_lane(kernel)
    words = name_all(by_lane, spell(by_lane.program), name)
    return NestedPrinter(by_lane, lane, words, approximate=approximate).print_module()


class NestedPrinter(ModulePrinter):
    """Prints the functions of a kernel with nests."""

    def _produce(self) -> None:
        words = self.words
        self._groups(warps=1)
        for each, nest in zip(self.kernel.chunks, self.kernel.nests, strict=True):
            self._line("")
            self._head(each.loop)
            start = self.names.starts[nest.loop.axis]
            self._line(f"for {start} in {self._walk(nest.loop, 0)}:")
            self.depth += 1
            self._line(f"{words.slot} = {words.step} % STAGES")
            self._line(f"{words.phase} = {words.step} // STAGES & 1")
            for ring in self.rings.values():
                self._fill_slot(ring, words.slot, words.phase)
            self._line(f"{words.step} += 1")
            self.depth = 2
        self.print_next_group(warps=1)

    def _chunks(self, each: Chunks) -> None:
        """Print a loop of the stream."""
        self._line("")
        self._head(each.loop)
        self.print_steps(each.steps)
        self.depth = 2

    def _loop(self, loop: Loop) -> None:
        """Print a step's loop: its first chunk, the others, and what the last one is still to add."""
        nest = next(each for each in self.kernel.nests if each.loop is loop)
        step, start = f"{self.words.step} += 1", self.names.starts[loop.axis]
        self._line(f"{start} = {self._leaf(loop.start, ())}")
        self.print_counters(nest.first)
        self.print_steps(nest.first)
        self._line(step)
        self._line(f"for {start} in {self._walk(loop, 1)}:")
        self.depth += 1
        self.print_counters(nest.steps)
        self.print_steps(nest.steps)
        self._line(step)
        self.depth -= 1
        self.print_counters(nest.behind)
        self.print_steps(nest.behind)

    def _head(self, loop: Loop) -> None:
        """Print the head of a loop of the stream, and go inside."""
        role = self.program.axis(loop.axis).role
        self._line(f"# {LOOP_COMMENTS[role, loop.region].format(axis=loop.axis)}")
        start, stop = (self._leaf(each, ()) for each in (loop.start, loop.stop))
        name = self.names.starts[loop.axis]
        self._line(f"for {name} in range({start}, {stop}, {self._step(loop)}):")
        self.depth += 1

    def _walk(self, loop: Loop, passed: int) -> str:
        """Return the chunks of a step's loop behind those that are passed; there is one at least."""
        start, stop, step = self._leaf(loop.start, ()), self._leaf(loop.stop, ()), self._step(loop)
        if not isinstance(loop.stop, Literal):
            stop = f"tl.maximum({stop}, {start} + {step})"
        if passed:
            start = step if start == "0" else f"{start} + {step}"
        return f"range({start}, {stop}, {step})"

    def _step(self, loop: Loop) -> str:
        has_lanes = self.program.axis(loop.axis).dim is not None
        return self._block(loop.axis) if has_lanes else str(loop.step)

    def _left_to_do(self, last: Chunks) -> str:
        return "what the group's sums give"
