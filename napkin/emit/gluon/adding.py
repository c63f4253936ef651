"""Warp-specialised kernels whose groups add to an output: what of their printing is their own.

In: a `Specialised` kernel with parts (napkin.schedule.forms.adding). Out: its functions as text. Every
consumer puts its rows of what a part sums into shared memory, and contracts the rows of all to its
share of the part: of its rows, or of its columns where those are too few. Resident tiles are named
anew in every chunk, at a place that the compiler can't know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from napkin.emit.expressions import Call, Define, Leaf, Statement
from napkin.emit.gluon.added import in_lines, vector_layout
from napkin.emit.gluon.functions import Box, Function, ModulePrinter, ModuleText
from napkin.emit.gluon.names import GluonNames, name_all
from napkin.emit.triton.spelling import TRITON_TYPES, spell
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import (
    LINE_ROWS,
    Array,
    Dot,
    Length,
    Region,
    Store,
    tiles_of,
    walk,
)
from napkin.schedule.roles.adding_steps import cut_at_end, is_placed
from napkin.schedule.roles.barriers import Ahead, Share, Sync
from napkin.schedule.roles.warps import Chunks, Ring, Specialised, Staged

_CHUNKS = {
    Region.FULL: "stream {axis}: chunks that need no mask",
    Region.PARTIAL: "stream {axis}: chunks that a mask or the end cuts",
}


@dataclass(frozen=True, slots=True)
class AddingNames:
    """The opaque zero, the next chunk's slot, the parts' shared tiles and their layouts.

    `columns` gives a consumer's share of a part's columns by dim, all of them where it takes rows. A part
    that threads add is `added`, in a layout of its own: `vectors`, by array.
    """

    zero: str
    next: str
    tiles: tuple[str, ...]
    layouts: tuple[str, ...]
    columns: dict[str, str]
    added: str
    vectors: dict[str, str]


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
        self.stores = {op.array: op for op in stores}.values()
        self.added = {op.array for op in stores}
        sources = {op.source for op in stores}
        self.parts = {dot.tile.name: dot for dot in self.dots if dot.tile.name in sources}
        self.adding = self._name_parts()
        self.shared: dict[str, str] = {}
        self.cut: dict[str, str] = {}  # tiles that are chosen by an axis's end

    def _name_parts(self) -> AddingNames:
        taken = {tile.name for tile in tiles_of(self.program.operations)}
        names = Names(RESERVED | taken | set(_texts(self.words)) | set(_texts(self.names)))
        self.own_names = names
        parts = self.kernel.parts
        columns = {dot.tile.dims[1] for dot in self.parts.values()}
        shares = {
            dot.tile.dims[1] for dot in self.parts.values() if not self._takes_rows(dot.tile.dims)
        }
        return AddingNames(
            names.fresh("zero"),
            names.fresh("next_slot"),
            tuple(names.fresh(f"{part.tile.name}_shared") for part in parts),
            tuple(names.fresh(f"LAYOUT_{part.tile.name.upper()}") for part in parts),
            {
                dim: names.fresh(f"SHARE_{dim.upper()}") if dim in shares else self._block(dim)
                for dim in sorted(columns)
            },
            names.fresh("added"),
            {
                array: names.fresh(f"LAYOUT_{array.upper()}_VECTORS")
                for array in sorted(self.added - set(self.staged))
            },
        )

    def _takes_rows(self, dims: Sequence[str]) -> bool:
        """Tell whether consumers share out a part's rows, which reads less of shared memory than its columns.

        A chunk as long as a block of rows has as many for each.
        """
        rows = self.program.dim(self.kernel.rows).extent
        return self.program.dim(dims[0]).extent == rows

    def _has_bounds(self) -> bool:
        """Tell whether loops have bounds in registers: addresses are better made anew then in every chunk."""
        return len(self.kernel.chunks) > 1

    def _share_sizes(self, dims: Sequence[str]) -> tuple[int, int]:
        """Return the rows and columns of a consumer's share of a part."""
        rows, columns = (self.program.dim(dim).extent for dim in dims)
        if self._takes_rows(dims):
            return rows // self.kernel.consumers, columns
        return rows, columns // self.kernel.consumers

    # --- what functions take, and the module's constants ------------------------------------------

    def _passable(self) -> list[str]:
        return [*super()._passable(), *self.adding.tiles]

    def _constants(
        self, functions: Sequence[Function], boxes: Sequence[Box]
    ) -> tuple[tuple[str, str], ...]:
        found = dict(super()._constants(functions, boxes))
        for dot in self.parts.values():
            _, extent = self._share_sizes(dot.tile.dims)
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
        for store in self.stores:
            if store.array in self.adding.vectors:
                is_ordered = self.program.array(store.array).in_lines
                share = self._share_sizes(store.source_dims)
                layout = vector_layout(*share, in_lines=is_ordered)
                found[self.adding.vectors[store.array]] = layout
        return tuple(found.items())

    def box(self, array: Array, *, by_rows: bool) -> tuple[str, ...]:
        """Return the box of an array; of one that is added to, a consumer's share of the part."""
        box = super().box(array, by_rows=by_rows)
        if array.name not in self.added:
            return box
        places = self._places(array)
        (first, rows), (last, columns) = places.items()
        share = {rows: "ROWS" if self._takes_rows([first, last]) else box[rows]}
        share[columns] = self.adding.columns[last]
        return tuple(share.get(place, extent) for place, extent in enumerate(box))

    def _places(self, array: Array) -> dict[str, int]:
        """Return where the axes of an array with tiles stand among all of its axes, by dim."""
        dims = ((self.program.axis(axis).dim, place) for place, axis in enumerate(array.axes))
        return {dim: place for dim, place in dims if dim is not None}

    def _start_partitions(self, *functions: Function) -> None:
        self._shared_tiles()
        super()._start_partitions(*functions)

    def _shared_tiles(self) -> None:
        """Print the room for what parts multiply, as consumers share it."""
        named = zip(self.kernel.parts, self.adding.tiles, self.adding.layouts, strict=True)
        for part, name, layout in named:
            shape = ", ".join(self._extent_of(dim, by_rows=False) for dim in part.tile.dims)
            kind = TRITON_TYPES[part.tile.storage]
            room = f"[{'1' if part.slots == 1 else 'STAGES'}, {shape}]"
            self._line(f"{name} = gl.allocate_shared_memory({kind}, {room}, {layout})")
        self._line("")

    # --- chunks -----------------------------------------------------------------------------------

    def _all_chunks(self) -> str:
        """Return the positions of a group's chunks, from the first to the last."""
        first, last = self.kernel.chunks[0].loop, self.kernel.chunks[-1].loop
        return f"range({self._leaf(first.start, ())}, {self._leaf(last.stop, ())}, {self._block(first.axis)})"

    def _chunks(self, each: Chunks) -> None:
        loop, start = each.loop, self.names.starts[each.loop.axis]
        axes = (self.kernel.rows, loop.axis)
        self.cut = {name: axis for axis in axes for name in cut_at_end(loop.body, axis)}
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

    def _position(self, axis: str) -> str:
        """Return positions, made anew where chunks compute with them: they would stay in registers."""
        if axis != self.kernel.chunks[0].loop.axis or not any(map(is_placed, self.kernel.chunks)):
            return super()._position(axis)
        return f"{self.names.starts[axis]} + ({self.names.lanes[axis]} + {self.adding.zero})"

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
        """Print a choice by what lies past an end for the tiles that reach it, once made."""
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
        axis = self.cut[each.tile.name]
        extent = "ROWS" if axis == self.kernel.rows else self._block(axis)
        self._line(f"if {self._start(axis)} + {extent} > {self._leaf(Length(axis), ())}:")
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
        left, rows = self.shared[each.left], self._extent_of(each.tile.dims[0])
        if self._takes_rows(each.tile.dims):
            rows = "ROWS"
            left += f".slice({self.words.consumer} * ROWS, ROWS, 1)"
        else:
            right += f".slice({self.words.consumer} * {columns}, {columns}, 1)"
        zeros = f"tl.zeros([{rows}, {columns}], tl.float32, {self.layout(each.tile.dims)})"
        left += ".permute((1, 0))"
        return f"warpgroup_mma({left}, {right}, {zeros}, use_acc=False, is_async=True)"

    def _share_of(self, dims: Sequence[str]) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return the rows and columns of a consumer's share of a part, and where they start in it."""
        columns, consumer = self.adding.columns[dims[1]], self.words.consumer
        if self._takes_rows(dims):
            return ("ROWS", columns), (f"{consumer} * ROWS", "")
        return (self._extent_of(dims[0]), columns), ("", f"{consumer} * {columns}")

    def _store(self, each: Store) -> None:
        """Print a store; a part that no stage is for is added from registers, by vectors of four."""
        if not each.adds or each.array in self.staged:
            super()._store(each)
            return
        array, layout = self.program.array(each.array), self.adding.vectors[each.array]
        extents, starts = self._share_of(each.source_dims)
        added, zero, where = self.adding.added, self.adding.zero, self.names.tiles[each.array]
        source = self._leaf(each.source, each.source_dims)
        if array.in_lines:
            source = in_lines(source, *extents)
        self._line(f"{added} = tl.convert_layout({source}, {layout})")
        (rows, columns), (row, column) = extents, starts
        row_lane = f"tl.arange(0, {rows}, gl.SliceLayout(1, {layout}))"
        column_lane = f"tl.arange(0, {columns}, gl.SliceLayout(0, {layout}))"
        at = ""
        for axis in array.axes:
            dim, start = self.program.axis(axis).dim, self._start(axis)
            if dim is not None:
                own = (row, column)[each.source_dims.index(dim)]
                start = " + ".join(part for part in (start, own) if part not in ("0", "")) or "0"
            size = self._size(axis)
            if dim == each.source_dims[0]:
                if array.in_lines:
                    size = f"(tl.cdiv({size}, {LINE_ROWS}) * {LINE_ROWS})"
                mask = f"({start} + {row_lane} < {size})[:, None]"
            if not at:
                first = f"{start} + {zero}" if self._has_bounds() else start
                at = f"tl.cast({first}, tl.int64)"
            else:
                at = f"({at}) * {size}" + ("" if start == "0" else f" + {start}")
        last = self._size(array.axes[-1])
        lanes = [f"{row_lane}[:, None] * {last}", f"{column_lane}[None, :]"]
        self._sum(where, (self.names.pointers[each.array], [at], lanes))
        self._line(f'tl.atomic_add({where}, {added}, mask={mask}, sem="relaxed", scope="gpu")')

    def _store_staged(self, each: Store, staged: Staged) -> None:
        """Print how the copy engine adds a part to an output; what lies past an end it leaves out."""
        if not each.adds:
            super()._store_staged(each, staged)
            return
        array = self.program.array(each.array)
        slot = f"{self.words.stages[each.array]}.index({self.words.consumer})"
        dims = each.source_dims
        extents, starts = self._share_of(dims)
        view = f"{slot}.reshape([{', '.join(extents)}])"
        corner = [self._start(axis) for axis in array.axes]
        for dim, place in self._places(array).items():
            parts = (corner[place], starts[dims.index(dim)])
            corner[place] = " + ".join(part for part in parts if part not in ("0", "")) or "0"
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
