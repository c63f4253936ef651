"""A loop in Gluon whose contractions read their operands from shared memory: mma.sync, copies by the threads.

In: a kernel whose `loop` is a `SharedLoop`. Out: its text, which the plain entry launches as it launches
Triton's loops. Operators, positions and masks are printed as the plain Triton printer prints them. What Gluon
adds: one layout for every contraction's result, slices of it for values of rows and of columns; a layout of
whole vectors for every tile that threads copy or store; the copies and the waits where the loop has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from napkin.emit.expressions import Statement, inline
from napkin.emit.gluon.lanes import keep_loop_by_lane
from napkin.emit.gluon.lines import wrapped
from napkin.emit.gluon.masks import MaskPrinter, tests_apart
from napkin.emit.gluon.names import spelled_names
from napkin.emit.gluon.steps import stands_for
from napkin.emit.triton.body import LOOP_COMMENTS
from napkin.emit.triton.spelling import TRITON_TYPES, as_integer, literal, uses
from napkin.emit.triton.values import KernelText
from napkin.operators import Kind
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import (
    AxisRole,
    Dot,
    Fill,
    Fold,
    Load,
    Loop,
    Program,
    Store,
    tiles_of,
    walk,
)
from napkin.schedule.roles.shared_loop import Arrive, Fetch, SharedLoop, SharedStep

_VECTOR = 16  # bytes that a thread copies at a time
_DEPTH = 16  # of one mma.sync


def print_shared_loop(
    program: Program, loop: SharedLoop, warps: int, *, approximate: bool
) -> KernelText:
    """Return a Program in this form as the text of a Gluon kernel."""
    by_lane, steps, lane = keep_loop_by_lane(program, loop)
    return SharedLoopPrinter(by_lane, steps, warps, lane, approximate=approximate).run()


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Names of what threads copy or store a tile by: the layout, its rows, its columns."""

    layout: str
    lanes: tuple[str, str]
    elements: int


class SharedLoopPrinter(MaskPrinter):
    """Prints a Program as one Gluon function."""

    def __init__(
        self,
        program: Program,
        loop: SharedLoop,
        warps: int,
        lane: str | None,
        *,
        approximate: bool,
    ) -> None:
        super().__init__(program, approximate=approximate)
        self.form = loop
        self.lane = lane
        self.warps = warps
        made = {tile.name for tile in tiles_of(program.operations)}
        names = Names(RESERVED | spelled_names(self.names) | made | {program.name})
        self.layout_name = names.fresh("LAYOUT")
        loads = (*loop.resident, *loop.streamed)
        self.buffers = {each.array: names.fresh(f"{each.array.lower()}_buffer") for each in loads}
        self.vectors = {
            dims: _Vectors(
                names.fresh(f"VECTORS_{'_'.join(dims).upper()}"),
                (names.fresh(f"row_{dims[0]}"), names.fresh(f"column_{dims[1]}")),
                elements,
            )
            for dims, elements in self._copied_dims()
        }
        self.place = ""  # of the chunk that is fetched, where it is not the one at hand

    def _copied_dims(self) -> list[tuple[tuple[str, ...], int]]:
        """Return the dims of every tile that is copied or stored by vectors, with a vector's elements."""
        found: dict[tuple[str, ...], int] = {}
        for each in (*self.form.resident, *self.form.streamed):
            found.setdefault(each.tile.dims, _VECTOR // TYPE_BYTES[each.tile.storage])
        for op in self.program.operations:
            if isinstance(op, Store) and self._stores_vectors(op):
                size = TYPE_BYTES[self.program.array(op.array).dtype]
                found.setdefault(op.source_dims, _VECTOR // size)
        return list(found.items())

    def _stores_vectors(self, store: Store) -> bool:
        """Return whether a store's tile lies in memory as it is, row by row."""
        array = self.program.array(store.array)
        carried = (self.program.axis(axis).dim for axis in array.axes)
        dims = tuple(dim for dim in carried if dim is not None)
        alone = all(len(self.program.dim(dim).axes) == 1 for dim in dims)
        return len(dims) == 2 and dims == store.source_dims and alone

    def run(self) -> KernelText:
        """Print the grid, the layouts, the lanes, the buffers and the operations."""
        self._grid()
        self._layouts()
        self._lanes()
        self._allocate()
        self._operations(self.program.operations)
        self._drop_unused_lanes()
        self._drop_unused_vectors()
        self._parameters()
        self._respell()
        return self.text

    # --- layouts and buffers ------------------------------------------------------------------------

    def _layouts(self) -> None:
        """Name the layouts: a warp has whole rows of a result, and threads copy whole vectors."""
        self._line(
            f"{self.layout_name}: tl.constexpr = gl.NVMMADistributedLayout("
            f"version=[2, 0], warps_per_cta=[{self.warps}, 1], instr_shape=[16, 8])"
        )
        for dims, each in self.vectors.items():
            beside = min(self.program.dim(dims[1]).extent // each.elements, 32)
            self._line(
                f"{each.layout}: tl.constexpr = gl.BlockedLayout("
                f"[1, {each.elements}], [{32 // beside}, {beside}], [{self.warps}, 1], [1, 0])"
            )

    def _lanes(self) -> None:
        for dim in (each for each in self.program.dims if each.name != self.lane):
            layout = self._layout((dim.name,))
            lane = f"tl.arange(0, {self.names.blocks[dim.name]}, {layout})"
            if len(dim.axes) == 1:
                self._line(f"{self.names.lanes[dim.axes[0]]} = {lane}")
                continue
            inner = 1
            for axis in reversed(dim.axes):
                tile = self.program.axis(axis).tile
                whole = f"({lane} // {inner})" if inner > 1 else lane
                self._line(f"{self.names.lanes[axis]} = {whole} % {tile}")
                inner *= tile
        for dims, each in self.vectors.items():
            for place, lane in enumerate(each.lanes):
                block = self.names.blocks[dims[place]]
                slice_of = f"gl.SliceLayout({1 - place}, {each.layout})"
                self._line(f"{lane} = tl.arange(0, {block}, {slice_of})")

    def _layout(self, dims: tuple[str, ...]) -> str:
        """Return the layout of a tile over these dims: a result's, or a slice of it."""
        if self.lane in dims:
            kept = next(tile for tile in self.tiles.values() if self.lane in tile.dims)
            return f"{kept.name}.type.layout"
        if len(dims) == 2:
            return self.layout_name
        return f"gl.SliceLayout({1 if dims == (self.form.rows,) else 0}, {self.layout_name})"

    def _allocate(self) -> None:
        for each in (*self.form.resident, *self.form.streamed):
            columns = self.program.dim(each.tile.dims[1]).extent
            phases = min(8, columns * TYPE_BYTES[each.tile.storage] // _VECTOR)
            elements = self.vectors[each.tile.dims].elements
            shape = [self.names.blocks[dim] for dim in each.tile.dims]
            self._line(
                f"{self.buffers[each.array]} = gl.allocate_shared_memory("
                f"{TRITON_TYPES[each.tile.storage]}, [{', '.join(shape)}], "
                f"gl.SwizzledSharedLayout({elements}, {8 // phases}, {phases}, [1, 0]))"
            )
        self._line("")

    # --- loops --------------------------------------------------------------------------------------

    def _statement(self, each: Statement) -> None:
        if not isinstance(each, Load) or each not in self.form.resident:
            super()._statement(each)

    def _loop(self, loop: Loop) -> None:
        """Print a loop with its copies; before the first one, those that open the stream."""
        loops = [op for op in self.program.operations if isinstance(op, Loop)]
        number = next(place for place, op in enumerate(loops) if op is loop)
        start, stop = (self._leaf(each, ()) for each in (loop.start, loop.stop))
        name = self.names.starts[loop.axis]
        if number == 0:
            self._open(start)
        self._line("")
        self._line(f"# {LOOP_COMMENTS[AxisRole.STREAM, loop.region].format(axis=loop.axis)}")
        self._line(f"for {name} in range({start}, {stop}, {self._block(loop.axis)}):")
        self.depth += 1
        self._steps(tests_apart(self.form.steps[number], frozenset()))
        self.depth -= 1
        if loop is loops[-1]:
            self._line("async_copy.wait_group(0)  # nothing is on its way any more")
        self._line("")

    def _open(self, start: str) -> None:
        """Print the copies before the first chunk, whose place is known."""
        with self._at(start):
            for each in self.form.opening:
                self._fetch(each)

    def _steps(self, steps: Sequence[SharedStep]) -> None:
        operations = [each for each in steps if not isinstance(each, Arrive | Fetch)]
        statements = inline(operations)
        place = 0
        for each in steps:
            if isinstance(each, Arrive):
                self._line(f"async_copy.wait_group({each.behind})")
            elif isinstance(each, Fetch):
                self._fetch(each)
            elif place < len(statements) and stands_for(statements[place], each):
                self._statement(statements[place])
                place += 1

    # --- copies -------------------------------------------------------------------------------------

    @contextmanager
    def _at(self, place: str) -> Iterator[None]:
        """Print positions of the stream as those of another chunk."""
        around, self.place = self.place, place
        yield
        self.place = around

    @contextmanager
    def _by_vectors(self, dims: tuple[str, ...]) -> Iterator[None]:
        """Print the lanes of a tile's dims as threads copy or store it."""
        around = self.names
        lanes = dict(zip(dims, self.vectors[dims].lanes, strict=True))
        axes = {self.program.dim(dim).axes[0]: lane for dim, lane in lanes.items()}
        self.names = replace(around, lanes=around.lanes | axes)
        yield
        self.names = around

    def _fetch(self, each: Fetch) -> None:
        """Print copies as one group."""
        axis = self.form.axis
        ahead = f"({self.names.starts[axis]} + {self._block(axis)})" if each.ahead else self.place
        for load in each.loads:
            dims, where = load.tile.dims, self.names.tiles[load.array]
            with self._at(ahead), self._by_vectors(dims):
                base, tile_at, lanes = self._pointer(load.array, load.indices, load.gathered, dims)
                self._sum(where, (base, tile_at, []))
                self._line(f"{where} = tl.multiple_of({where}, {_VECTOR})")
                inside = tuple(other for other in load.masked if other != axis)
                masks = self._mask(load.masked, dims), self._mask(inside, dims)
            copy = f"{self.buffers[load.array]}, {' + '.join([where, *lanes])}"
            if not each.ahead or masks[0] == masks[1]:
                self._copy(copy, masks[0])
                continue
            # Most chunks lie whole inside: testing each row of them would take registers.
            whole = f"{ahead} + {self._block(axis)} <= {self._size(axis)}"
            for line, mask in ((f"if {whole}:", masks[1]), ("else:", masks[0])):
                self._line(line)
                self.depth += 1
                self._copy(copy, mask)
                self.depth -= 1
        self._line("async_copy.commit_group()")

    def _copy(self, copy: str, mask: str) -> None:
        masked = f", mask={mask}" if mask else ""
        self._line(f"async_copy.async_copy_global_to_shared({copy}{masked})")

    def _start(self, axis: str) -> str:
        return self.place if self.place and axis == self.form.axis else super()._start(axis)

    def _position(self, axis: str) -> str:
        if not self.place or axis != self.form.axis:
            return super()._position(axis)
        lane = self.names.lanes[axis]
        return lane if self.place == "0" else f"{self.place} + {lane}"

    # --- tiles --------------------------------------------------------------------------------------

    def _dot(self, each: Dot) -> str:
        result = each.accumulator
        if result is None:
            result = self._zeros(each.tile.dims)
        right = self._turned(each.right, each.over, 0)
        if each.left in self._shared():
            left = self._turned(each.left, each.over, 1)
            operands = [left, right, result, str(self._pieces(each.over))]
            return self._helper("contract_shared", "_contract_shared", operands)
        left = f"{each.left}.to({TRITON_TYPES[each.operand_type]})"
        halvings = (self.program.dim(each.over).extent // _DEPTH).bit_length() - 1
        operands = [left, right, result, str(halvings)]
        return self._helper("contract_computed", "_contract_computed", operands)

    def _pieces(self, over: str) -> int:
        """Return the pieces of a dim that are summed: what lies past the end of its axes is zero."""
        dim = self.program.dim(over)
        sizes = [self.program.axis(axis).size for axis in dim.axes]
        known = sizes[0] if len(sizes) == 1 and sizes[0] is not None else dim.extent
        return -(-min(known, dim.extent) // _DEPTH)

    def _zeros(self, dims: tuple[str, ...]) -> str:
        shape = ", ".join(self.names.blocks[dim] for dim in dims)
        return f"tl.zeros([{shape}], tl.float32, {self.layout_name})"

    def _scores(self) -> tuple[str, ...]:
        """Return the dims of a step's first contraction, over which row sums are taken."""
        return next(op.tile.dims for op in walk(self.program.operations) if isinstance(op, Dot))

    def _shared(self) -> dict[str, Load]:
        return {load.tile.name: load for load in (*self.form.resident, *self.form.streamed)}

    def _turned(self, name: str, over: str, place: int) -> str:
        """Return a tile in shared memory as it is contracted: transposed unless its dim `place` is summed."""
        load = self._shared()[name]
        view = self.buffers[load.array]
        return view if load.tile.dims[place] == over else f"{view}.permute((1, 0))"

    def _expand(self, text: str, dims: tuple[str, ...], target: tuple[str, ...]) -> str:
        if dims == (self.form.rows,) and self.lane in target:
            text = f"tl.convert_layout({text}, gl.SliceLayout(1, {self._layout(target)}))"
        return super()._expand(text, dims, target)

    def _fold(self, each: Fold) -> str:
        if self.lane in each.tile.dims:
            return self._helper("lane_sum", "_lane_sum", [each.source])
        text = super()._fold(each)
        totals = self.lane in each.over
        return f"tl.convert_layout({text}, {self._layout(each.tile.dims)})" if totals else text

    def _fill(self, each: Fill) -> str:
        if self.lane in each.tile.dims:
            return self._helper("lane_sum", "_lane_sum", [self._zeros(self._scores())])
        value = as_integer(each.value) if each.tile.kind is Kind.INT else each.value
        kind, dims = TRITON_TYPES[each.tile.storage], each.tile.dims
        shape = ", ".join(self.names.blocks[dim] for dim in dims)
        return f"tl.full([{shape}], {literal(value)}, {kind}, {self._layout(dims)})"

    def _store(self, each: Store) -> None:
        if each.source_dims not in self.vectors or not isinstance(each.source, str):
            super()._store(each)
            return
        array = self.program.array(each.array)
        kind = TRITON_TYPES[array.dtype]
        vectors = self.vectors[each.source_dims]
        value = f"tl.convert_layout({each.source}.to({kind}), {vectors.layout})"
        with self._by_vectors(each.source_dims):
            pointer = self._pointer(
                each.array, array.axes, tuple(False for _ in array.axes), each.source_dims
            )
            mask = self._mask(each.masked, each.source_dims)
            where = self.names.tiles[each.array]
            self._sum(where, pointer)
        self._line(f"tl.store({where}, {value}{f', mask={mask}' if mask else ''})")

    # --- the whole ----------------------------------------------------------------------------------

    def _drop_unused_vectors(self) -> None:
        """Drop the layouts and lanes that nothing copies or stores by."""
        for each in self.vectors.values():
            for name in (*each.lanes, each.layout):
                made = [line for line in self.text.body if re.match(rf"\s*{name}\b.* = ", line)]
                if sum(uses(line, name) for line in self.text.body) == len(made):
                    self.text.body = [line for line in self.text.body if line not in made]

    def _parameters(self) -> None:
        """List the parameters; the distance of rows that are copied is known when the kernel is compiled."""
        super()._parameters()
        rows = set()
        for each in (*self.form.resident, *self.form.streamed):
            (axis,) = self.program.dim(each.tile.dims[0]).axes
            rows.add(self.names.strides[each.array, axis])
            self.text.aligned.add(each.array)
        self.text.parameters = [
            f"{name}: gl.constexpr" if name in rows else name for name in self.text.parameters
        ]
        self.text.helpers.add("descriptor")

    def _respell(self) -> None:
        """Write Gluon's names: `gl` has what `tl` has."""
        lines = [re.sub(r"\btl\.", "gl.", line) for line in self.text.body]
        self.text.body = [part for line in lines for part in wrapped(line)]
