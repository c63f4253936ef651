"""The inside of a Triton kernel: a Program's operations as lines of Python.

In: a `Program`. Out: the kernel's parameters and body. Every decision is in the Program already; here tiles
get their Triton spelling: broadcasting by `[:, None]`, pointers and masks by axis, descriptors by block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isinf, isnan

from napkin.emit.expressions import Call, Define, Expression, Leaf, Statement, inline
from napkin.language.errors import Diagnostic, NapkinError
from napkin.operators import POINTWISE, REDUCTIONS, Kind
from napkin.schedule.liveness import reads
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import (
    Assign,
    AxisRole,
    Compute,
    Dot,
    EdgePosition,
    Fill,
    Fold,
    Length,
    Literal,
    Load,
    Loop,
    Operand,
    Operation,
    Path,
    Positions,
    Program,
    Region,
    Store,
    Tile,
    tiles_of,
    walk,
)

TRITON_TYPES = {
    "bf16": "tl.bfloat16",
    "fp16": "tl.float16",
    "fp32": "tl.float32",
    "fp64": "tl.float64",
    "fp8e4m3": "tl.float8e4nv",
    "fp8e5m2": "tl.float8e5",
    "int8": "tl.int8",
    "int32": "tl.int32",
    "int64": "tl.int64",
    "bool": "tl.int1",
}
_NARROW = {"bf16", "fp16", "fp8e4m3", "fp8e5m2", "int8"}
_MAX_POWER = 8
_LINE = 100  # the longest line of a sum of offsets
_LARGEST_INT = 2**31 - 1


@dataclass
class KernelText:
    """The kernel's parameters (in order) and body lines, and the helper functions that it calls."""

    parameters: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    blocks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spelling:
    """Every name that the kernel and its entry share, unique and legal."""

    scalars: dict[str, str]
    sizes: dict[str, str]
    starts: dict[str, str]
    lanes: dict[str, str]
    blocks: dict[str, str]
    pointers: dict[str, str]
    descriptors: dict[str, str]
    strides: dict[tuple[str, str], str]
    tiles: dict[str, str]


def spell(program: Program) -> Spelling:
    """Choose the kernel's names: none meets a tile, an argument, a keyword or another."""
    tiles = {tile.name for tile in tiles_of(program.operations)}
    # The module's functions and its constants share a scope: BLOCK_Q may be a diagram's name as well.
    functions = {program.name, f"{program.name}_", f"{program.name}_kernel"}
    names = Names(RESERVED | tiles | functions)
    arrays = (*program.arrays, *program.outputs)
    return Spelling(
        {name: names.fresh(name) for name, _ in program.scalars},
        {axis: names.fresh(f"size_{axis}") for axis in _all_axes(program)},
        {each.axis: names.fresh(f"{each.axis}_start") for each in program.axes},
        {each.axis: names.fresh(f"lane_{each.axis}") for each in program.axes},
        {dim.name: names.fresh(f"BLOCK_{dim.name.upper()}") for dim in program.dims}
        | {
            each.axis: names.fresh(f"BLOCK_{each.axis.upper()}")
            for each in program.axes
            if each.dim is not None and each.dim != each.axis
        },
        {each.name: names.fresh(f"{each.name}_ptr") for each in arrays},
        {each.name: names.fresh(f"{each.name}_desc") for each in arrays},
        {
            (each.name, axis): names.fresh(f"{each.name}_stride_{axis}")
            for each in arrays
            for axis in each.axes
        },
        {each.name: names.fresh(f"{each.name}_tile") for each in arrays},
    )


def _all_axes(program: Program) -> list[str]:
    """Return every axis, then those that are only read by position, then those of lengths alone."""
    seen = dict.fromkeys(each.axis for each in program.axes)
    seen |= dict.fromkeys(axis for each in program.arrays for axis in each.axes)
    for each in walk(program.operations):
        operands = each.operands if isinstance(each, Compute) else ()
        operands += (each.source,) if isinstance(each, Store) else ()
        seen |= dict.fromkeys(one.axis for one in operands if isinstance(one, Length))
    return list(seen)


def print_kernel(program: Program, *, approximate: bool) -> KernelText:
    """Return a Program as the text of a Triton kernel; `approximate` allows one-instruction functions."""
    return BodyPrinter(program, approximate=approximate).run()


class BodyPrinter:
    """Prints a Program as one function; what a warp-specialised kernel prints otherwise overrides it."""

    def __init__(self, program: Program, *, approximate: bool) -> None:
        self.program = program
        self.approximate = approximate
        self.names = spell(program)
        self.text = KernelText()
        self.tiles: dict[str, Tile] = {}
        self.values: dict[str, Call] = {}
        self.unsettled: frozenset[str] = frozenset()
        self.depth = 1

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

    def _line(self, text: str) -> None:
        self.text.body.append("    " * self.depth + text if text else "")

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
        last = len(self.program.grid) - 1
        for number, axis in enumerate(self.program.grid):
            tile = self.program.axis(axis)
            name, size = self.names.starts[axis], self.names.sizes[axis]
            scalar = tile.dim is None
            count = size if scalar else f"tl.cdiv({size}, {self._block(axis)})"
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

    def _block(self, axis: str) -> str:
        return self.names.blocks[axis]

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
            self._line(f"# {_LOOP_COMMENTS[role, loop.region].format(axis=loop.axis)}")
        self._line(f"for {name} in tl.range({start}, {stop}, {step}{stages}):")
        around, self.unsettled = self.unsettled, running_on(loop)
        self.depth += 1
        self._operations(loop.body)
        self.depth -= 1
        self.unsettled = around
        if self.depth == 1:
            self._line("")

    # --- expressions ------------------------------------------------------------------------------

    def _expression(self, each: Expression, dims: tuple[str, ...]) -> str:
        """Return an expression that broadcasts to the dims; what is compound stands in brackets."""
        if isinstance(each, Leaf):
            return self._leaf(each.operand, dims)
        text = self._call(each)
        if _same(each.dims, dims):
            return text
        is_call = POINTWISE[each.operator].triton.endswith(")")
        return self._expand(text if is_call else f"({text})", each.dims, dims)

    def _call(self, each: Call) -> str:
        operands = [self._operand(operand, each) for operand in each.operands]
        special = _SPECIAL.get(each.operator)
        text = special(self, each, operands) if special else None
        return text or POINTWISE[each.operator].triton.format(*operands)

    def _operand(self, operand: Expression, parent: Call) -> str:
        if isinstance(operand, Leaf) and isinstance(operand.operand, Literal):
            value = operand.operand.value
            whole = parent.tile.kind is Kind.INT and isinstance(value, float)
            return literal(as_integer(value) if whole else value)
        if parent.tile.kind is Kind.BOOL and not parent.dims and self._is_float_scalar(operand):
            # The interpreter leaves it a number of Python's, whose truth values `~` and `&` mistake.
            return self._helper("float", "_float", [self._expression(operand, ())])
        text = self._expression(operand, parent.dims)
        infix = isinstance(operand, Call) and not text.endswith(")")
        compound = isinstance(operand, Call) and " " in text
        call_parent = POINTWISE[parent.operator].triton.endswith(")")
        return f"({text})" if (infix or compound) and not call_parent else text

    def _is_float_scalar(self, each: Expression) -> bool:
        return isinstance(each, Leaf) and (each.operand, "float") in self.program.scalars

    def _leaf(self, operand: Operand, dims: tuple[str, ...]) -> str:
        if isinstance(operand, Literal):
            return literal(operand.value)
        if isinstance(operand, Length):
            return self.names.sizes[operand.axis]
        if operand not in self.tiles:
            return self.names.scalars[operand]
        tile = self.tiles[operand]
        name = tile.name
        if tile.storage in _NARROW:
            name += ".to(tl.float32)" if tile.kind is Kind.FLOAT else ".to(tl.int32)"
        return self._expand(name, tile.dims, dims)

    def _expand(self, text: str, dims: tuple[str, ...], target: tuple[str, ...]) -> str:
        """Broadcast a value to a list of dims by inserting axes (after a transpose if the order differs)."""
        if not dims or dims == target:
            return text
        order = tuple(dim for dim in target if dim in dims)
        if order != dims:
            positions = ", ".join(str(dims.index(dim)) for dim in order)
            text = f"tl.permute({text}, ({positions}))"
        if order == target:
            return text
        return f"{text}[{', '.join(':' if dim in dims else 'None' for dim in target)}]"

    # --- operators that need more than a format ----------------------------------------------------

    def divide(self, each: Call, operands: list[str]) -> str:
        """Print a division; 0 / 0 is 0 unless the divisor cannot be 0."""
        divisor = each.operands[1]
        sure = isinstance(divisor, Leaf) and isinstance(divisor.operand, (Literal, Length))
        if sure:
            return f"{operands[0]} / {operands[1]}"
        return self._helper("divide", "_divide", operands)

    def floor_divide(self, each: Call, operands: list[str]) -> str:
        """Print a division that rounds down."""
        if each.tile.kind is Kind.FLOAT:
            return f"tl.floor({operands[0]} / {operands[1]})"
        return self._helper("floordiv", "_floordiv", operands)

    def modulo(self, each: Call, operands: list[str]) -> str:
        """Print the remainder of a division that rounds down."""
        if each.tile.kind is Kind.FLOAT:
            quotient = f"tl.floor({operands[0]} / {operands[1]})"
            return f"{operands[0]} - {quotient} * {operands[1]}"
        return self._helper("modulo", "_modulo", operands)

    def power(self, each: Call, operands: list[str]) -> str:
        """Print a power: small whole exponents by multiplication."""
        exponent = each.operands[1]
        if isinstance(exponent, Leaf) and isinstance(exponent.operand, Literal):
            value = exponent.operand.value
            if value == int(value) and 1 <= value <= _MAX_POWER:
                return " * ".join([operands[0]] * int(value))
            if value == 0.5:
                return f"tl.sqrt({operands[0]})"
        return self._helper("power", "_power", operands)

    def unary(self, each: Call, operands: list[str]) -> str:
        """Print a function of a float; a scalar operand is made one first."""
        (operand,) = operands
        row = POINTWISE[each.operator]
        inner = each.operands[0]
        if not each.dims and not (isinstance(inner, Call) and inner.tile.kind is Kind.FLOAT):
            operand = self._helper("float", "_float", operands)
        elif self._kind(inner) is not Kind.FLOAT:
            operand = f"tl.cast({operand}, tl.float32)"
        if each.operator in ("tanh", "sigmoid", "reciprocal"):
            fragment = each.operator
            if each.operator == "tanh" and self.approximate:
                fragment = "tanh_approximate"
            self.text.helpers.add(fragment)
        return row.triton.format(operand)

    def _kind(self, each: Expression) -> Kind:
        """Return the kind of an expression over tiles."""
        if isinstance(each, Call):
            return each.tile.kind
        tile = self.tiles.get(each.operand) if isinstance(each.operand, str) else None
        return tile.kind if tile else Kind.FLOAT

    def _helper(self, fragment: str, name: str, operands: list[str]) -> str:
        self.text.helpers.add(fragment)
        return f"{name}({', '.join(operands)})"

    # --- loads and stores -------------------------------------------------------------------------

    def _position(self, axis: str) -> str:
        tile = self.program.axis(axis)
        if tile.dim is None:
            return self._start(axis)
        lane = self.names.lanes[axis]
        return lane if tile.role is AxisRole.WHOLE else f"{self.names.starts[axis]} + {lane}"

    def _edge(self, each: EdgePosition) -> str:
        tile = self.program.axis(each.axis)
        start = "0" if tile.role is AxisRole.WHOLE else self.names.starts[each.axis]
        if each.end == "first" or tile.dim is None:
            return start
        block = self._block(each.axis)
        return f"tl.minimum({start} + {block}, {self._size(each.axis)}) - 1"

    def _size(self, axis: str) -> str:
        size = self.program.axis(axis).size
        return self.names.sizes[axis] if size is None else str(size)

    def _load(self, each: Load) -> str:
        if each.path is Path.DESCRIPTOR:
            return self._load_descriptor(each)
        pointer = self._pointer(each.array, each.indices, each.gathered, each.tile.dims)
        mask = self._mask(each.masked, each.tile.dims)
        where = self.names.tiles[each.array]
        self._sum(where, pointer)
        return f"tl.load({where}, mask={mask}, other=0)" if mask else f"tl.load({where})"

    def _load_descriptor(self, each: Load) -> str:
        axes = self.program.box_axes(
            each.array
        )  # a descriptor reads no array by computed positions
        coordinates = ", ".join(self._start(axis) for axis in axes)
        text = f"{self.names.descriptors[each.array]}.load([{coordinates}])"
        shape = [self.names.blocks[dim] for dim in each.tile.dims]
        if len(shape) != len(axes):
            text += f".reshape([{', '.join(shape)}])"
        return text

    def _start(self, axis: str) -> str:
        return "0" if self.program.axis(axis).role is AxisRole.WHOLE else self.names.starts[axis]

    def _pointer(
        self,
        array: str,
        indices: Sequence[str],
        gathered: Sequence[bool],
        dims: tuple[str, ...],
    ) -> tuple[str, list[str], list[str]]:
        """Return an array's base, the 64-bit offsets of the tile in it, and the lanes' in the tile."""
        tile_at, lanes = list[str](), list[str]()
        axes = self.program.array(array).axes
        for axis, index, is_tile in zip(axes, indices, gathered, strict=True):
            stride = self.names.strides[array, axis]
            if is_tile:
                tile = self.tiles[index]
                text = self._expand(f"{self._inside(index, axis)}.to(tl.int64)", tile.dims, dims)
                (lanes if tile.dims else tile_at).append(f"{text} * {stride}")
                continue
            where = self.program.axis(index)
            if self._start(index) != "0":
                tile_at.append(f"tl.cast({self._start(index)}, tl.int64) * {stride}")
            if where.dim is not None:
                lane = self._expand(self.names.lanes[index], (where.dim,), dims)
                lanes.append(f"{lane} * {stride}")
        return self.names.pointers[array], tile_at, lanes

    def _sum(self, name: str, pointer: tuple[str, list[str], list[str]]) -> None:
        """Print a pointer; a long one over several lines: its base, the tile's offsets, the lanes'."""
        base, tile_at, lanes = pointer
        text = " + ".join([base, *tile_at, *lanes])
        if len(text) + len(name) + 4 * self.depth <= _LINE:
            self._line(f"{name} = {text}")
            return
        self._line(f"{name} = (")
        self.depth += 1
        self._line(base)
        for terms in (tile_at, lanes):
            for line in _filled(terms, _LINE - 4 * self.depth - 2):
                self._line(f"+ {line}")
        self.depth -= 1
        self._line(")")

    def _inside(self, index: str, axis: str) -> str:
        """Return a position from data, taken into its axis unless it is clipped to it already."""
        value = self.values.get(index)
        if value is not None and self._is_clipped(value, axis):
            return index
        return self._helper("inside", "_inside", [index, self._length(axis)])

    def _length(self, axis: str) -> str:
        sizes = {each.axis: each.size for each in self.program.axes}
        return self.names.sizes[axis] if sizes.get(axis) is None else str(sizes[axis])

    def _is_clipped(self, value: Call, axis: str) -> bool:
        """Return whether a position is written as min2(max2(_, 0), size - 1) of its axis."""
        if value.operator != "min2" or len(value.operands) != 2:
            return False
        low, high = value.operands
        above = isinstance(low, Call) and low.operator == "max2" and _is_zero(low.operands[1])
        return above and self._expression(high, ()) == f"{self._length(axis)} - 1"

    def _mask(self, masked: Sequence[str], dims: tuple[str, ...]) -> str:
        tests = []
        for axis in masked:
            where = self.program.axis(axis)
            assert where.dim is not None
            position = self._expand(f"({self._position(axis)})", (where.dim,), dims)
            tests.append(f"({position} < {self._size(axis)})")
        return " & ".join(tests)

    def _store(self, each: Store) -> None:
        array = self.program.array(each.array)
        carried = [self.program.axis(axis).dim for axis in array.axes]
        dims = tuple(
            dict.fromkeys((*each.source_dims, *(dim for dim in carried if dim is not None)))
        )
        indices, gathered = array.axes, tuple(False for _ in array.axes)
        pointer = self._pointer(each.array, indices, gathered, dims)
        value = self._leaf(each.source, dims)
        mask = self._mask(each.masked, dims)
        suffix = f", mask={mask}" if mask else ""
        self._sum(self.names.tiles[each.array], pointer)
        self._line(f"tl.store({self.names.tiles[each.array]}, {value}{suffix})")

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
        if other.storage == operand_type and other.storage in _NARROW:
            return f"{tile.name}.to({other.name}.dtype)"
        return f"{tile.name}.to({TRITON_TYPES[operand_type]})"


_COMBINERS = {"prod": "multiply", "any": "or", "all": "and"}  # helpers that `tl.reduce` takes

_LOOP_COMMENTS = {
    (AxisRole.STREAM, Region.FULL): "stream {axis}: chunks that need no mask",
    (AxisRole.STREAM, Region.PARTIAL): "stream {axis}: chunks that a mask or the end cuts",
    (AxisRole.SPLIT, Region.FULL): "sum over {axis} in chunks",
    (AxisRole.SPLIT, Region.PARTIAL): "sum over {axis} in chunks",
}

_SPECIAL = {
    "div": BodyPrinter.divide,
    "floordiv": BodyPrinter.floor_divide,
    "mod": BodyPrinter.modulo,
    "pow": BodyPrinter.power,
    **dict.fromkeys(
        ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "reciprocal"),
        BodyPrinter.unary,
    ),
}


def running_on(loop: Loop) -> frozenset[str]:
    """Return the sums of a loop whose contraction may still run when its left operand is made anew.

    Triton leaves a contraction whose result this step does not read in flight into the next one. A left
    operand that is computed lies in registers, which the next step then overwrites: seen as wrong numbers
    on Hopper with Triton 3.6. Where that operand waits for a contraction of its own step, both are done.
    """
    body = loop.body
    dots = [op for op in body if isinstance(op, Dot)]
    awaited = {
        op.tile.name
        for place, op in enumerate(body)
        if isinstance(op, Dot) and _is_read(op, body[place + 1 :])
    }
    made: dict[str, bool] = {}  # computed in this step: whether it waited for a contraction
    for op in body:
        if isinstance(op, (Compute, Fold)):
            made[op.tile.name] = any(each in awaited or made.get(each) for each in reads(op))
        elif isinstance(op, Load) and op.tile.storage not in {dot.operand_type for dot in dots}:
            made[op.tile.name] = False
    return frozenset(
        op.tile.name
        for op in dots
        if op.accumulator is not None and op.tile.name not in awaited and made.get(op.left) is False
    )


def _is_read(dot: Dot, later: Sequence[Operation]) -> bool:
    """Return whether a contraction's result is read in the rest of its step, renamings apart."""
    readers = [op for op in walk(tuple(later)) if not isinstance(op, Assign)]
    return any(
        dot.tile.name in ((op.left, op.right) if isinstance(op, Dot) else reads(op))
        for op in readers
    )


def _unsupported_dot(each: Dot, tile: Tile) -> Diagnostic:
    return Diagnostic(
        "N501",
        f"a contraction over `{each.over}` has an operand of {len(tile.dims)} tiled dims",
        notes=(f"tile `{tile.name}` has dims {', '.join(tile.dims)}; the tensor core takes two",),
        help="group all but one of these axes by 1 in an `on` block",
    )


def _same(dims: tuple[str, ...], target: tuple[str, ...]) -> bool:
    return not dims or dims == target


def uses(text: str, name: str) -> bool:
    """Return whether a text names something."""
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _filled(terms: Sequence[str], width: int) -> list[str]:
    """Return the terms of a sum on as few lines as hold them."""
    lines: list[str] = []
    for term in terms:
        if lines and len(lines[-1]) + 3 + len(term) <= width:
            lines[-1] += f" + {term}"
        else:
            lines.append(term)
    return lines


def _is_zero(each: Expression) -> bool:
    return isinstance(each, Leaf) and each.operand == Literal(0)


def literal(value: float | int | bool) -> str:
    """Return a number as Python writes it in a kernel."""
    if isinstance(value, float) and isnan(value):
        return 'float("nan")'
    if isinstance(value, float) and isinf(value):
        return 'float("inf")' if value == inf else 'float("-inf")'
    return repr(value)


def as_integer(value: float | int | bool) -> int:
    """Return a number as an integer tile holds it: the units of reductions are written as floats."""
    return int(max(min(value, _LARGEST_INT), -_LARGEST_INT - 1))
