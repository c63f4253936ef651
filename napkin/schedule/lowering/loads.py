"""Loads of a Program while it is lowered: which path a tile takes, what bounds it, which ring it fills.

In: a `Layout` and the tiles made so far. Out: `Load` operations in a scope, and the rings that they fill.
"""

from __future__ import annotations

from math import prod

from napkin.schedule.layout import Layout
from napkin.schedule.lowering.tiles import Scope, TileTable
from napkin.schedule.program import Array, AxisRole, Buffer, Load, Path, Role, Tile


class Loads:
    """Lowers reads of arrays; `buffers` are the rings that streamed ones fill."""

    def __init__(self, layout: Layout, table: TileTable) -> None:
        self._layout = layout
        self._axes = {each.axis: each for each in layout.axes}
        self._table = table
        self.buffers: list[Buffer] = []

    def load(
        self,
        name: str,
        indices: tuple[str, ...],
        gathered: tuple[bool, ...],
        scope: Scope,
        *,
        streamed: bool,
        full: bool,
    ) -> str:
        """Read a tile of an array at axes' positions, or at tiles of positions; return its name.

        `streamed`: in a loop's body, `full`: in one whose chunks lie inside the stream.
        """
        array = next(each for each in self._layout.arrays if each.name == name)
        dims: dict[str, None] = {}
        for index, is_tile in zip(indices, gathered, strict=True):
            own = self._table[index].dims if is_tile else self._table.dims((index,))
            dims |= dict.fromkeys(own)
        axes = [
            axis
            for index, is_tile in zip(indices, gathered, strict=True)
            for axis in (self._carried(index) if is_tile else (index,))
        ]
        masked = tuple(a for a in dict.fromkeys(axes) if self.may_pass_end(a, full=full))
        path = self._layout.path(array, indices, gathered)
        level = "shared" if name in self._layout.shared else "register"
        tile = self._table.make(
            self._table.fresh(scope, name.lower()), tuple(dims), array.kind, array.dtype, level
        )
        buffer = self._buffer(array, tile) if streamed and level == "shared" else None
        role = Role.PRODUCER if path is Path.DESCRIPTOR else Role.CONSUMER
        scope.operations.append(Load(tile, name, indices, gathered, masked, path, role, buffer))
        return tile.name

    def may_pass_end(self, axis: str, *, full: bool) -> bool:
        """Return whether a tile of the axis may reach past its end."""
        tile = self._axes[axis]
        if tile.dim is None or tile.is_exact:
            return False
        return not (tile.role is AxisRole.STREAM and full)

    def _carried(self, tile: str) -> tuple[str, ...]:
        """Return the axes of a tile's dims: past their ends its positions mean nothing."""
        dims = [each for each in self._layout.dims if each.name in self._table[tile].dims]
        return tuple(axis for dim in dims for axis in dim.axes)

    def _buffer(self, array: Array, tile: Tile) -> str:
        name = f"{array.name.lower()}_buffer"
        if all(each.name != name for each in self.buffers):
            extent = prod(self._table.extent(dim) for dim in tile.dims)
            size = extent * self._layout.bytes_of(array.dtype)
            self.buffers.append(Buffer(name, array.name, size, self._layout.stages))
        return name
