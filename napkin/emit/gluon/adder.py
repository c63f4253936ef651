"""Warp-specialised kernels whose parts of sums a warpgroup of its own contracts and adds.

In: a `Specialised` kernel with an adder (napkin.schedule.forms.adding_maker). Out: its functions as text.
What parts multiply lies in a ring: consumers fill a slot a chunk, the adder empties it, and neither waits for
more. What stays for a group consumers read from registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from napkin.emit.gluon.adding import AddingPrinter
from napkin.emit.gluon.functions import Function, ModuleText
from napkin.emit.gluon.names import GluonNames, name_all
from napkin.emit.triton.spelling import TRITON_TYPES, spell
from napkin.language.errors import InternalError
from napkin.schedule.program import Dot
from napkin.schedule.roles.barriers import Await, Release, Share, Sync
from napkin.schedule.roles.warps import Adder, Ring, Specialised


def print_adder(kernel: Specialised, name: str, *, approximate: bool) -> ModuleText:
    """Return the functions of a kernel called `name` that has an adder."""
    words = name_all(kernel, spell(kernel.program), name)
    return AdderPrinter(kernel, None, words, approximate=approximate).print_module()


class AdderPrinter(AddingPrinter):
    """Prints the functions of a kernel with an adder."""

    def __init__(
        self, kernel: Specialised, lane: str | None, names: GluonNames, *, approximate: bool
    ) -> None:
        super().__init__(kernel, lane, names, approximate=approximate)
        own = self.own_names
        shared = [part.tile.name for part in kernel.parts]
        self.filled = {name: own.fresh(f"{name}_full") for name in shared}
        self.emptied = {name: own.fresh(f"{name}_empty") for name in shared}
        self.function = own.fresh(f"{self.program.name}_add")

    @property
    def adder(self) -> Adder:
        """What the adder is told to do."""
        if self.kernel.adder is None:
            raise InternalError("a form without an adder is printed by another printer")
        return self.kernel.adder

    def _takes_rows(self, dims: Sequence[str]) -> bool:
        return False

    def _has_bounds(self) -> bool:
        return False

    def _share_sizes(self, dims: Sequence[str]) -> tuple[int, int]:
        """Return the rows and columns of a part, which is one warpgroup's."""
        rows, columns = (self.program.dim(dim).extent for dim in dims)
        return rows, columns

    def _share_of(self, dims: Sequence[str]) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self._extent_of(dims[0]), self.adding.columns[dims[1]]), ("", "")

    def _passable(self) -> list[str]:
        return [*super()._passable(), *self.filled.values(), *self.emptied.values()]

    # --- what stays for a group -------------------------------------------------------------------

    def _print_held(self, name: str) -> None:
        """Print how a consumer's rows of a resident tile are read into registers."""
        ring = self.rings[self.slots[name].ring]
        super()._name_resident(ring, self.resident_slot(ring)[0])
        dot = next(dot for dot in self.dots if dot.left == name)
        operand = f"gl.DotOperandLayout(0, {self.words.layouts[dot.tile.dims]}, 2)"
        self._line(f"{self.words.held[name]} = {name}.load({operand})")

    def _name_resident(self, ring: Ring, slot: str) -> None:
        """Name no resident tile anew: registers hold it."""

    def _left(self, dot: Dot) -> str:
        return self.words.held[dot.left] if dot.left in self.held else super()._left(dot)

    # --- what consumers share ---------------------------------------------------------------------

    def _share(self, each: Share) -> None:
        """Print how a consumer's rows come into a slot that the adder has emptied."""
        words, ring = self.words, self.kernel.parts[each.number].tile.name
        shared = f"{self.adding.tiles[each.number]}.index({words.slot} + {self.adding.zero})"
        place = each.tile.dims.index(self.kernel.rows)
        mine = f"{shared}.slice({words.consumer} * ROWS, ROWS, {place})"
        self._line(f"mbarrier.wait({self.emptied[ring]}.index({words.slot}), {words.phase} ^ 1)")
        self._line(f"{mine}.store({each.tile.name}.to({TRITON_TYPES[each.tile.storage]}))")
        self._line("fence_async_shared()")
        self._line(f"mbarrier.arrive({self.filled[ring]}.index({words.slot}), count=1)")

    # --- the adder --------------------------------------------------------------------------------

    def _other_walks(self) -> Iterator[tuple[str, tuple[str, ...], int, list[str]]]:
        yield self.function, (), 4, self._lines(self._add)

    def _add(self) -> None:
        """Print how the parts of all chunks are contracted and added."""
        words = self.words
        self._groups(warps=4)
        right = dict.fromkeys(self.slots[dot.right].ring for dot in self.parts.values())
        for name in right:
            self.print_ring_place(self.rings[name])
            slot, phase = self.resident_slot(self.rings[name])
            self._line(f"mbarrier.wait({words.full[name]}.index({slot}), {phase})")
        start = self.names.starts[self.kernel.chunks[0].loop.axis]
        self._line(f"for {start} in {self._all_chunks()}:")
        self.depth += 1
        self._line(f"{words.slot} = {words.step} % STAGES")
        self._line(f"{words.phase} = {words.step} // STAGES & 1")
        self.print_steps(self.adder.steps)
        self._line(f"{words.step} += 1")
        self.depth -= 1
        for name in right:
            slot, _ = self.resident_slot(self.rings[name])
            self._line(f"mbarrier.arrive({words.empty[name]}.index({slot}), count=1)")

    def _sync(self, each: Sync) -> None:
        words = self.words
        match each:
            case Await() if each.slot.ring in self.filled:
                full = self.filled[each.slot.ring]
                self._line(f"mbarrier.wait({full}.index({words.slot}), {words.phase})")
            case Release() if each.slot.ring in self.emptied:
                empty = self.emptied[each.slot.ring]
                self._line(f"mbarrier.arrive({empty}.index({words.slot}), count=1)")
            case _:
                super()._sync(each)

    def _dot(self, each: Dot) -> str:
        if each.tile.name not in self.parts:
            return super()._dot(each)
        ring = self.rings[self.slots[each.right].ring]
        matrix = ", ".join(self._extent_of(dim, by_rows=False) for dim in ring.load.tile.dims)
        slot, _ = self.resident_slot(ring)
        right = f"{self.words.buffers[ring.name]}.index({slot}).reshape([{matrix}])"
        number = [part.tile.name for part in self.kernel.parts].index(each.left)
        left = f"{self.adding.tiles[number]}.index({self.words.slot}).permute((1, 0))"
        (rows, columns), _ = self._share_of(each.tile.dims)
        zeros = f"tl.zeros([{rows}, {columns}], tl.float32, {self.layout(each.tile.dims)})"
        return f"warpgroup_mma({left}, {right}, {zeros}, use_acc=False, is_async=True)"

    # --- the kernel -------------------------------------------------------------------------------

    def _start_partitions(self, *functions: Function) -> None:
        produce, consume, add = functions
        self._shared_tiles()
        layout = "mbarrier.MBarrierLayout()"
        for name in self.filled:
            full, empty = self.filled[name], self.emptied[name]
            for barrier in (full, empty):
                self._line(
                    f"{barrier} = gl.allocate_shared_memory(gl.int64, [STAGES, 1], {layout})"
                )
            self._line(f"for {self.words.slot} in gl.static_range(STAGES):")
            self._line(f"    mbarrier.init({full}.index({self.words.slot}), count=CONSUMERS)")
            self._line(f"    mbarrier.init({empty}.index({self.words.slot}), count=1)")
        self._line("")
        mine, producers = self.kernel.registers
        count = self.kernel.consumers
        self._line("gl.warp_specialize(")
        self._line("    [")
        for number in range(count):
            arguments = ", ".join((str(number), *consume.parameters[1:]))
            self._line(f"        ({consume.name}, ({arguments})),")
        for each in (add, produce):
            self._line(f"        ({each.name}, ({', '.join(each.parameters)})),")
        self._line("    ],")
        self._line(f"    {[4] * count + [1]},")
        self._line(f"    {[mine] * (count - 1) + [self.adder.registers, producers]},")
        self._line(")")
