"""The inside of a Triton kernel: a Program's operations as lines of Python.

In: a `Program`. Out: the kernel's parameters and body. Every decision is in the Program already; here
its grid, loops, reductions and contractions get their Triton spelling, over values and memory accesses.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.emit.expressions import Define, Statement, inline
from napkin.emit.triton.bands import band_lines
from napkin.emit.triton.inflight import running_on
from napkin.emit.triton.memory import MemoryPrinter
from napkin.emit.triton.spelling import NARROW, TRITON_TYPES, as_integer, literal, uses
from napkin.emit.triton.values import KernelText
from napkin.language.errors import Diagnostic, NapkinError
from napkin.operators import REDUCTIONS, Kind
from napkin.schedule.program import (
    Assign,
    AxisRole,
    Band,
    Dot,
    EdgePosition,
    Fill,
    Fold,
    Load,
    Loop,
    Operation,
    Path,
    Positions,
    Program,
    Region,
    Store,
    Tile,
    walk,
)


def print_kernel(program: Program, *, approximate: bool) -> KernelText:
    """Return a Program as the text of a Triton kernel; `approximate` allows one-instruction functions."""
    return BodyPrinter(program, approximate=approximate).run()


class BodyPrinter(MemoryPrinter):
    """Prints a Program as one function; what a warp-specialised kernel prints otherwise overrides it."""

    def run(self) -> KernelText:
        """Print the grid, the lanes and the operations."""
        self._grid()
        self._lanes()
        self._operations(self.program.operations)
        self._drop_unused_lanes()
        self._parameters()
        return self.text

    def _drop_unused_lanes(self) -> None:
        """Drop the positions that no computation needed, then the lanes that nothing needs."""
        positions = [
            op.tile.name for op in walk(self.program.operations) if isinstance(op, Positions)
        ]
        for name in (*positions, *self.names.lanes.values()):
            made = [line for line in self.text.body if line.lstrip().startswith(f"{name} = ")]
            if sum(uses(line, name) for line in self.text.body) == len(made):
                self.text.body = [line for line in self.text.body if line not in made]

    # --- what surrounds the operations ------------------------------------------------------------

    def _parameters(self) -> None:
        """List pointers, descriptors, strides and lengths that the body names, in signature order."""
        used = "\n".join(self.text.body)
        out = self.text.parameters
        for array in (*self.program.arrays, *self.program.outputs):
            if uses(used, self.names.descriptors[array.name]):
                out.append(self.names.descriptors[array.name])
            if uses(used, self.names.pointers[array.name]):
                out.append(self.names.pointers[array.name])
        out += [self.names.scalars[name] for name, _ in self.program.scalars]
        for array in (*self.program.arrays, *self.program.outputs):
            for axis in array.axes:
                stride = self.names.strides[array.name, axis]
                if uses(used, stride):
                    out.append(stride)
        out += [size for size in self.names.sizes.values() if uses(used, size)]
        for key, name in self.names.blocks.items():
            if uses(used, name):
                out.append(f"{name}: tl.constexpr")
                self.text.blocks[name] = self._extent(key)
        if uses(used, "STAGES"):
            out.append("STAGES: tl.constexpr")

    def _extent(self, key: str) -> int:
        for dim in self.program.dims:
            if dim.name == key:
                return dim.extent
        return self.program.axis(key).tile

    def _grid(self) -> None:
        """Split the program id into tile starts, the fastest axis first."""
        self._line("pid = tl.program_id(0)")
        if self.program.band is not None:
            self._banded("pid", self.program.band)
            return
        last = len(self.program.grid) - 1
        for number, axis in enumerate(self.program.grid):
            name, count = self.names.starts[axis], self.count_of(axis)
            scalar = self.program.axis(axis).dim is None
            index = "pid" if number == last else f"pid % {count}"
            if axis in self.program.descending:
                self._line(f"{name} = {count} - 1 - {index}  # the longest streams first")
                index = name
            if not scalar:
                index = f"({index})" if " " in index else index
                self._line(f"{name} = {index} * {self._block(axis)}")
            elif index != name:
                self._line(f"{name} = {index}")
            if number != last:
                self._line(f"pid = pid // {count}")

    def _banded(self, number: str, band: Band) -> None:
        """Split a group's number into tile starts in the order of a band."""
        starts = self.names.starts
        for line in band_lines(self.program, band, number, starts, self.count_of, self._placed):
            self._line(line)

    def count_of(self, axis: str) -> str:
        """Return the number of an axis's tiles as the kernel computes it."""
        size = self.names.sizes[axis]
        scalar = self.program.axis(axis).dim is None
        return size if scalar else f"tl.cdiv({size}, {self._block(axis)})"

    def _placed(self, axis: str, index: str) -> str:
        scalar = self.program.axis(axis).dim is None
        return index if scalar else f"({index}) * {self._block(axis)}"

    def _lanes(self) -> None:
        for dim in self.program.dims:
            block = self.names.blocks[dim.name]
            if len(dim.axes) == 1:
                self._line(f"{self.names.lanes[dim.axes[0]]} = tl.arange(0, {block})")
                continue
            inner = 1
            for axis in reversed(dim.axes):
                tile = self.program.axis(axis).tile
                lane = f"tl.arange(0, {block})"
                lane = f"({lane} // {inner})" if inner > 1 else lane
                self._line(f"{self.names.lanes[axis]} = {lane} % {tile}")
                inner *= tile
        self._line("")

    # --- operations -------------------------------------------------------------------------------

    def _operations(self, operations: Sequence[Operation]) -> None:
        for statement in inline(operations):
            self._statement(statement)

    def _statement(self, each: Statement) -> None:
        match each:
            case Define():
                self.values[each.tile.name] = each.value
                self._bind(each.tile, self._expression(each.value, each.tile.dims))
            case Load():
                self._bind(each.tile, self._load(each))
            case Positions():
                self._bind(each.tile, self._position(each.axis))
            case EdgePosition():
                self._bind(each.tile, self._edge(each))
            case Fold():
                self._bind(each.tile, self._fold(each))
            case Dot():
                self._bind(each.tile, self._dot(each))
                if each.tile.name in self.unsettled:
                    name = each.tile.name
                    self._line(f"{name} = {self._helper('settled', '_settled', [name])}")
            case Fill():
                self._bind(each.tile, self._fill(each))
            case Assign():
                self._line(f"{each.target} = {each.source}")
            case Store():
                self._store(each)
            case Loop():
                self._loop(each)

    def _bind(self, tile: Tile, text: str) -> None:
        self.tiles[tile.name] = tile
        self._line(f"{tile.name} = {text}")

    def _loop(self, loop: Loop) -> None:
        start, stop = (self._leaf(each, ()) for each in (loop.start, loop.stop))
        name = self.names.starts[loop.axis]
        has_lanes = self.program.axis(loop.axis).dim is not None
        step = self._block(loop.axis) if has_lanes else str(loop.step)
        role = self.program.axis(loop.axis).role
        # Few chunks are cut; fed by the copy engine they need no pipeline, whose registers would burden
        # the chunks that are not cut. Copies by the threads themselves need one all the more.
        beside = any(
            isinstance(op, Loop) and op.axis == loop.axis and op.region is not loop.region
            for op in self.program.operations
        )
        fed = any(isinstance(op, Load) and op.path is Path.DESCRIPTOR for op in loop.body)
        cut = role is AxisRole.STREAM and loop.region is Region.PARTIAL and beside and fed
        pipelined = any(isinstance(op, Dot) for op in loop.body) and not cut
        stages = ", num_stages=STAGES" if pipelined else ", num_stages=1"
        if self.depth == 1:
            self._line("")
            self._line(f"# {LOOP_COMMENTS[role, loop.region].format(axis=loop.axis)}")
        self._line(f"for {name} in tl.range({start}, {stop}, {step}{stages}):")
        around, self.unsettled = self.unsettled, running_on(loop)
        self.depth += 1
        self._operations(loop.body)
        self.depth -= 1
        self.unsettled = around
        if self.depth == 1:
            self._line("")

    # --- tiles ------------------------------------------------------------------------------------

    def _fill(self, each: Fill) -> str:
        if not each.tile.dims:
            shape = "()"
        else:
            shape = f"[{', '.join(self.names.blocks[dim] for dim in each.tile.dims)}]"
        kind = TRITON_TYPES[each.tile.storage]
        value = as_integer(each.value) if each.tile.kind is Kind.INT else each.value
        if each.value == 0 and each.tile.dims:
            return f"tl.zeros({shape}, {kind})"
        return f"tl.full({shape}, {literal(value)}, {kind})"

    def _fold(self, each: Fold) -> str:
        tile = self.tiles[each.source]
        text, dims = self._leaf(each.source, tile.dims), tile.dims
        row = REDUCTIONS[each.operator]
        for dim in each.over:
            if each.operator in _COMBINERS:
                self.text.helpers.add(_COMBINERS[each.operator])
            text = row.triton.format(text, dims.index(dim))
            dims = tuple(other for other in dims if other != dim)
        return self._expand(text, dims, each.tile.dims)

    def _dot(self, each: Dot) -> str:
        left, right = self.tiles[each.left], self.tiles[each.right]
        for tile in (left, right):
            if len(tile.dims) != 2:
                raise NapkinError([_unsupported_dot(each, tile)])
        a = self._rounded(left, right, each.operand_type)
        b = self._rounded(right, left, each.operand_type)
        a = a if left.dims[1] == each.over else f"{a}.T"
        b = b if right.dims[0] == each.over else f"{b}.T"
        inner = [a, b] + ([each.accumulator] if each.accumulator else [])
        exact = ', input_precision="ieee"' if each.operand_type == "fp32" else ""
        return f"tl.dot({', '.join(inner)}{exact})"

    def _rounded(self, tile: Tile, other: Tile, operand_type: str) -> str:
        if tile.storage == operand_type:
            return tile.name
        if other.storage == operand_type and other.storage in NARROW:
            return f"{tile.name}.to({other.name}.dtype)"
        return f"{tile.name}.to({TRITON_TYPES[operand_type]})"


_COMBINERS = {"prod": "multiply", "any": "or", "all": "and"}  # helpers that `tl.reduce` takes

LOOP_COMMENTS = {
    (AxisRole.STREAM, Region.FULL): "stream {axis}: chunks that need no mask",
    (AxisRole.STREAM, Region.PARTIAL): "stream {axis}: chunks that a mask or the end cuts",
    (AxisRole.SPLIT, Region.FULL): "sum over {axis} in chunks",
    (AxisRole.SPLIT, Region.PARTIAL): "sum over {axis} in chunks",
}


def _unsupported_dot(each: Dot, tile: Tile) -> Diagnostic:
    return Diagnostic(
        "N501",
        f"a contraction over `{each.over}` has an operand of {len(tile.dims)} tiled dims",
        notes=(f"tile `{tile.name}` has dims {', '.join(tile.dims)}; the tensor core takes two",),
        help="group all but one of these axes by 1 in an `on` block",
    )
