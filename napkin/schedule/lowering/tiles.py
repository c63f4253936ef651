"""The tiles of a Program while it is lowered: names, dims and types, and the scopes that hold operations.

In: a `Layout`. Out: tiles with legal names of their own. A name made in a loop's body is free again behind
the loop, but never for what runs before every loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from napkin.operators import Kind
from napkin.schedule.layout import Layout
from napkin.schedule.names import Names
from napkin.schedule.program import Operand, Operation, Tile


@dataclass
class Scope:
    """Operations in order, and what was lowered there; `runs_first` before every loop."""

    operations: list[Operation] = field(default_factory=list)
    values: dict[int, Operand] = field(default_factory=dict)
    runs_first: bool = False


class TileTable:
    """Makes tiles, and knows those that were made."""

    def __init__(self, layout: Layout, taken: Iterable[str]) -> None:
        self._layout = layout
        self._axes = {each.axis: each for each in layout.axes}
        self._names = Names()
        self._released: set[str] = set()
        self._tiles: dict[str, Tile] = {}
        for each in taken:
            self._names.fresh(each)

    def __contains__(self, name: str) -> bool:
        return name in self._tiles

    def __getitem__(self, name: str) -> Tile:
        return self._tiles[name]

    def fresh(self, scope: Scope, wish: str) -> str:
        """Return a name for a tile of the scope."""
        name = self._names.fresh(wish)
        passed: list[str] = []
        while scope.runs_first and name in self._released:
            passed.append(name)
            name = self._names.fresh(wish)
        self._names.release(passed)
        return name

    def release(self, names: set[str]) -> None:
        """Free the names that a loop's body made."""
        self._names.release(names)
        self._released |= names

    def make(
        self,
        name: str,
        dims: tuple[str, ...],
        kind: Kind,
        storage: str | None = None,
        level: str = "register",
    ) -> Tile:
        """Make a tile; a value that is computed has the type of its kind."""
        default = {Kind.FLOAT: "fp32", Kind.INT: "int32", Kind.BOOL: "bool"}[kind]
        self._tiles[name] = Tile(name, dims, kind, storage or default, level)
        return self._tiles[name]

    def dims(self, axes: Sequence[str]) -> tuple[str, ...]:
        """Return the dims that carry these axes, in order, each once."""
        found = (self._axes[axis].dim for axis in axes)
        return tuple(dict.fromkeys(dim for dim in found if dim is not None))

    def dims_of(self, value: Operand) -> tuple[str, ...]:
        """Return an operand's dims: none for a number, a length or a scalar argument."""
        if isinstance(value, str) and value in self._tiles:
            return self._tiles[value].dims
        return ()

    def storage(self, value: Operand) -> str:
        """Return the element type of a tile, nothing for another operand."""
        return self._tiles[value].storage if isinstance(value, str) and value in self._tiles else ""

    def join(self, operands: Sequence[Operand]) -> tuple[str, ...]:
        """Return the dims of operands that broadcast: as a whole operand has them, else in layout order."""
        joined = set().union(*(self.dims_of(operand) for operand in operands))
        for operand in operands:
            dims = self.dims_of(operand)
            if dims and set(dims) == joined and self._tiles[str(operand)].kind is not Kind.BOOL:
                return dims
        return tuple(dim.name for dim in self._layout.dims if dim.name in joined)

    def extent(self, dim: str) -> int:
        """Return a dim's length in elements."""
        return next(each.extent for each in self._layout.dims if each.name == dim)
