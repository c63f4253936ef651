"""Loads and stores of a Triton kernel: positions, pointers, masks, descriptors.

In: a Program's loads and stores. Out: text. Offsets in an array are of 64 bits, positions in a tile of 32.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.emit.expressions import Call, Expression, Leaf
from napkin.emit.triton.values import ValuePrinter
from napkin.schedule.program import AxisRole, EdgePosition, Literal, Load, Path, Store

_LINE = 100  # the longest line of a sum of offsets


class MemoryPrinter(ValuePrinter):
    """Prints how tiles come from memory and go back."""

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

    def _block(self, axis: str) -> str:
        return self.names.blocks[axis]

    def _size(self, axis: str) -> str:
        size = self.program.axis(axis).size
        return self.names.sizes[axis] if size is None else str(size)

    def _load(self, each: Load) -> str:
        if each.path is Path.DESCRIPTOR:
            return self._load_descriptor(each)
        pointer = self._pointer(each.array, each.indices, each.gathered, each.tile.dims)
        mask = self._mask(each.masked, each.tile.dims)
        where = self.names.tile_of(each.array, each.tile.dims)
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
        if self.program.array(array).in_lines:
            return self._pointer_in_lines(array, indices, dims)
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

    def _pointer_in_lines(
        self, array: str, indices: Sequence[str], dims: tuple[str, ...]
    ) -> tuple[str, list[str], list[str]]:
        """Return the same of an array whose rows and columns have changed places."""
        *outer, row, column = self.program.array(array).axes
        strides = [self.names.strides[array, axis] for axis in (*outer, row, column)]
        tile_at = [
            f"tl.cast({self._start(index)}, tl.int64) * {stride}"
            for index, stride in zip(indices[: len(outer)], strides, strict=False)
        ]
        places = list[str]()
        for index in indices[len(outer) :]:
            dim = self.program.axis(index).dim
            assert dim is not None
            places.append(self._expand(f"({self._position(index)})", (dim,), dims))
        inside = self._helper("in_lines", "_in_lines", [*places, *strides[len(outer) :]])
        return self.names.pointers[array], tile_at, [inside]

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
        where = self.names.tiles[each.array]
        self._sum(where, pointer)
        if each.adds:
            self._line(f'tl.atomic_add({where}, {value}{suffix}, sem="relaxed")')
        else:
            self._line(f"tl.store({where}, {value}{suffix})")


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
