"""Warp-specialised kernels whose groups add to an output: what of their printing is their own.

In: a `Specialised` kernel with parts (napkin.schedule.forms.adding). Out: its functions as text. Every
consumer puts its rows of what a part sums into shared memory, and contracts the rows of all with
its share of the columns. Resident tiles are named anew in every chunk, at a place that the compiler
can't know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from napkin.emit.expressions import Call, Define, Leaf, Statement
from napkin.emit.gluon.functions import Box, Function, ModulePrinter, ModuleText
from napkin.emit.gluon.names import GluonNames, name_all
from napkin.emit.triton.spelling import TRITON_TYPES, spell
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Array, Dot, Length, Region, Store, tiles_of, walk
from napkin.schedule.roles.adding_steps import cut_at_end
from napkin.schedule.roles.barriers import Ahead, Share, Sync
from napkin.schedule.roles.warps import Chunks, Ring, Specialised, Staged

_CHUNKS = {
    Region.FULL: "stream {axis}: chunks that need no mask",
    Region.PARTIAL: "stream {axis}: chunks that a mask or the end cuts",
}


@dataclass(frozen=True, slots=True)
class AddingNames:
    """The opaque zero, the next chunk's slot, the parts' shared tiles and their layouts.

    `columns` gives a consumer's share of a part's columns by dim.
    """

    zero: str
    next: str
    tiles: tuple[str, ...]
    layouts: tuple[str, ...]
    columns: dict[str, str]


def print_adding(kernel: Specialised, name: str, *, approximate: bool) -> ModuleText:
    """Return the functions of a kernel called `name` that adds to an output."""
    words = name_all(kernel, spell(kernel.program), name)
    return AddingPrinter(kernel, None, words, approximate=approximate).print_module()


class AddingPrinter(ModulePrinter):
    """Prints the functions of a kernel with parts."""

    def __init__(
        self, kernel: Specialised, lane: str | None, names: GluonNames, *, approximate: bool
    ) -> None:
        super().__init__(kernel, lane, names, approximate=approximate)
        stores = [op for op in walk(self.program.operations) if isinstance(op, Store) and op.adds]
        self.added = {op.array for op in stores}
        sources = {op.source for op in stores}
        self.parts = {dot.tile.name: dot for dot in self.dots if dot.tile.name in sources}
        self.adding = self._name_parts()
        self.shared: dict[str, str] = {}
        self.cut: frozenset[str] = frozenset()

    def _name_parts(self) -> AddingNames:
        taken = {tile.name for tile in tiles_of(self.program.operations)}
        names = Names(RESERVED | taken | set(_texts(self.words)) | set(_texts(self.names)))
        parts = self.kernel.parts
        columns = {dot.tile.dims[1] for dot in self.parts.values()}
        return AddingNames(
            names.fresh("zero"),
            names.fresh("next_slot"),
            tuple(names.fresh(f"{part.tile.name}_shared") for part in parts),
            tuple(names.fresh(f"LAYOUT_{part.tile.name.upper()}") for part in parts),
            {dim: names.fresh(f"SHARE_{dim.upper()}") for dim in sorted(columns)},
        )

    # --- what functions take, and the module's constants ------------------------------------------

    def _passable(self) -> list[str]:
        return [*super()._passable(), *self.adding.tiles]

    def _constants(
        self, functions: Sequence[Function], boxes: Sequence[Box]
    ) -> tuple[tuple[str, str], ...]:
        found = dict(super()._constants(functions, boxes))
        for dot in self.parts.values():
            extent = self.program.dim(dot.tile.dims[1]).extent // self.kernel.consumers
            found[self.adding.columns[dot.tile.dims[1]]] = str(extent)
            found[self.words.layouts[dot.tile.dims]] = (
                "gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], "
                f"instr_shape=[16, {extent}, 16])"
            )
        for part, name in zip(self.kernel.parts, self.adding.layouts, strict=True):
            size = TYPE_BYTES[part.tile.storage]
            width = size * self.program.dim(part.tile.dims[1]).extent
            swizzle = next(each for each in (128, 64, 32, width) if width % each == 0)
            found[name] = (
                f"gl.NVMMASharedLayout(swizzle_byte_width={swizzle}, "
                f"element_bitwidth={8 * size}, rank=2)"
            )
        return tuple(found.items())

    def box(self, array: Array, *, by_rows: bool) -> tuple[str, ...]:
        """Return the box of an array; of one that is added to, a consumer's share of the columns."""
        box = super().box(array, by_rows=by_rows)
        if array.name not in self.added:
            return box
        dim = self.program.axis(array.axes[-1]).dim
        assert dim is not None
        return (*box[:-1], self.adding.columns[dim])

    def _start_partitions(self, *functions: Function) -> None:
        named = zip(self.kernel.parts, self.adding.tiles, self.adding.layouts, strict=True)
        for part, name, layout in named:
            shape = ", ".join(self._extent_of(dim, by_rows=False) for dim in part.tile.dims)
            kind = TRITON_TYPES[part.tile.storage]
            room = f"[{'1' if part.slots == 1 else 'STAGES'}, {shape}]"
            self._line(f"{name} = gl.allocate_shared_memory({kind}, {room}, {layout})")
        self._line("")
        super()._start_partitions(*functions)

    # --- chunks -----------------------------------------------------------------------------------

    def _all_chunks(self) -> str:
        """Return the positions of a group's chunks, from the first to the last."""
        first, last = self.kernel.chunks[0].loop, self.kernel.chunks[-1].loop
        return f"range({self._leaf(first.start, ())}, {self._leaf(last.stop, ())}, {self._block(first.axis)})"

    def _chunks(self, each: Chunks) -> None:
        loop, start = each.loop, self.names.starts[each.loop.axis]
        self.cut = cut_at_end(loop.body, self.kernel.rows)
        begin, stop = self._leaf(loop.start, ()), self._leaf(loop.stop, ())
        self._line("")
        self._line(f"# {_CHUNKS[loop.region].format(axis=loop.axis)}")
        self._line(f"for {start} in range({begin}, {stop}, {self._block(loop.axis)}):")
        self.depth += 1
        self.print_counters(each.steps)
        self._line(f"{self.adding.zero} = {self._helper('opaque_zero', '_opaque_zero', [])}")
        for ring in self.kernel.rings:
            if ring.resident:
                self._name_resident(ring, self._place_of(ring))
        self.print_steps(each.steps)
        self._line(f"{self.words.step} += 1")
        self.depth -= 1

    def _left_to_do(self, last: Chunks) -> str:
        return f"what the walk over {last.loop.axis} has summed"

    def view(self, name: str, ring: Ring, slot: str) -> None:
        """Name a slot as a matrix; a resident one is named in every chunk."""
        if not ring.resident:
            super().view(name, ring, slot)

    def _place_of(self, ring: Ring) -> str:
        slot, _ = self.resident_slot(ring)
        return self.adding.zero if slot == "0" else f"{slot} + {self.adding.zero}"

    def _name_resident(self, ring: Ring, slot: str) -> None:
        """Name a resident tile as a matrix: a consumer's rows, also of one that holds those of all."""
        tile = ring.load.tile
        super().view(tile.name, ring, slot)
        if not ring.by_rows and self.kernel.rows in tile.dims:
            place = tile.dims.index(self.kernel.rows)
            rows = f"slice({self.words.consumer} * ROWS, ROWS, {place})"
            self._line(f"{tile.name} = {tile.name}.{rows}")

    # --- rows past the end ------------------------------------------------------------------------

    def _statement(self, each: Statement) -> None:
        """Print a choice by what lies past the end of the rows for the tiles that reach it, once made."""
        if not isinstance(each, Define) or each.tile.name not in self.cut:
            super()._statement(each)
            return
        inside, value, other = each.value.operands
        if isinstance(value, Call):
            super()._statement(Define(each.tile, value))
        else:
            self._line(f"{each.tile.name} = {self._operand(value, each.value)}")
            self.tiles[each.tile.name] = each.tile
        cut = replace(each.value, operands=(inside, Leaf(each.tile.name), other))
        size = self._leaf(Length(self.kernel.rows), ())
        self._line(f"if {self._start(self.kernel.rows)} + ROWS > {size}:")
        self.depth += 1
        super()._statement(Define(each.tile, cut))
        self.depth -= 1

    # --- parts ------------------------------------------------------------------------------------

    def _sync(self, each: Sync) -> None:
        match each:
            case Share():
                self._share(each)
            case Ahead():
                self._contract_ahead(each)
            case _:
                super()._sync(each)

    def _share(self, each: Share) -> None:
        """Print how a consumer's rows come into shared memory, once all have read what was there."""
        only = self.kernel.parts[each.number].slots == 1
        slot = self.adding.zero if only else f"{self.words.slot} + {self.adding.zero}"
        shared = f"{self.adding.tiles[each.number]}.index({slot})"
        self.shared[each.tile.name] = shared
        place = each.tile.dims.index(self.kernel.rows)
        mine = f"{shared}.slice({self.words.consumer} * ROWS, ROWS, {place})"
        meet = self._helper("meet", "_meet", [])
        if only:
            self._line(meet)
        self._line(f"{mine}.store({each.tile.name}.to({TRITON_TYPES[each.tile.storage]}))")
        self._line("fence_async_shared()")
        self._line(meet)

    def _contract_ahead(self, each: Ahead) -> None:
        """Print the contraction that the next chunk starts with; past the last one its result is not read."""
        words, dot, ring = self.words, each.dot, self.rings[each.slot.ring]
        first, last = self.kernel.chunks[0].loop, self.kernel.chunks[-1].loop
        stop, block = self._leaf(last.stop, ()), self._block(first.axis)
        start, step = f"{self.names.starts[first.axis]} + {block}", f"({words.step} + 1)"
        into = dot.tile.name
        if each.is_first:
            start, step = self._leaf(first.start, ()), words.step
            shape, layout = self._shape(dot.tile.dims), self.layout(dot.tile.dims)
            into = f"tl.zeros({shape}, tl.float32, {layout})"
            self.tiles[dot.tile.name] = dot.tile
            resident = self.rings[self.slots[dot.left].ring]
            self._name_resident(resident, self.resident_slot(resident)[0])
        self._line(f"{self.adding.next} = {step} % STAGES")
        full = f"{words.full[ring.name]}.index({self.adding.next})"
        self._line(f"mbarrier.wait({full}, {step} // STAGES & 1, pred={start} < {stop})")
        dims = ring.load.tile.dims
        matrix = ", ".join(self._extent_of(dim, by_rows=False) for dim in dims)
        right = f"{words.buffers[ring.name]}.index({self.adding.next}).reshape([{matrix}])"
        right += "" if dims[0] == dot.over else ".permute((1, 0))"
        contracted = f"{self._left(dot)}, {right}, {into}, use_acc=False, is_async=True"
        self._line(f"{dot.tile.name} = warpgroup_mma({contracted})")

    def _dot(self, each: Dot) -> str:
        if each.tile.name not in self.parts:
            return super()._dot(each)
        columns = self.adding.columns[each.tile.dims[1]]
        ring = self.rings[self.slots[each.right].ring]
        matrix = ", ".join(self._extent_of(dim, by_rows=False) for dim in ring.load.tile.dims)
        right = f"{self.words.buffers[ring.name]}.index({self._place_of(ring)}).reshape([{matrix}])"
        right += f".slice({self.words.consumer} * {columns}, {columns}, 1)"
        shape = f"[{self._extent_of(each.tile.dims[0])}, {columns}]"
        zeros = f"tl.zeros({shape}, tl.float32, {self.layout(each.tile.dims)})"
        left = f"{self.shared[each.left]}.permute((1, 0))"
        return f"warpgroup_mma({left}, {right}, {zeros}, use_acc=False, is_async=True)"

    def _store_staged(self, each: Store, staged: Staged) -> None:
        """Print how the copy engine adds a part to an output; what lies past an end it leaves out."""
        if not each.adds:
            super()._store_staged(each, staged)
            return
        array = self.program.array(each.array)
        slot = f"{self.words.stages[each.array]}.index({self.words.consumer})"
        dims = each.source_dims
        columns = self.adding.columns[dims[1]]
        view = f"{slot}.reshape([{self._extent_of(dims[0])}, {columns}])"
        corner = [self._start(axis) for axis in array.axes]
        corner[-1] = f"{self.words.consumer} * {columns}"
        self._line("tma.store_wait(0)")  # of the chunk before
        self._line("tl.thread_barrier()")
        self._line(f"{view}.store({self._leaf(each.source, dims)})")
        self._line("fence_async_shared()")
        self._line("tl.thread_barrier()")
        arguments = [self.names.descriptors[each.array], f"[{', '.join(corner)}]", slot]
        self._line(self._helper("add_tile", "_add_tile", arguments))


def _texts(names: object) -> Iterable[str]:
    """Yield every name in a table of names."""
    for each in fields(names):  # type: ignore[arg-type]
        value = getattr(names, each.name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (one for one in value.values() if isinstance(one, str))
