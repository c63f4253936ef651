"""Reductions of products as tile operations: a contraction on the tensor core, or a product and a fold.

In: the factors of a reduction as boxes, what is summed, and the tile for the result. A sum whose factors part
into two sides with no free dim in common is a `Dot`; anything else is multiplied and folded. A positive
uniform factor and a row's own term pass a maximum, so that they meet the result and not every element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from napkin.diagram import Gather, Graph, Input, topological
from napkin.operators import Kind
from napkin.schedule.layout import Layout
from napkin.schedule.lowering.factors import row_term, split_scale
from napkin.schedule.lowering.tiles import Scope, TileTable
from napkin.schedule.program import Compute, Dot, Fold, Literal, Operand, Tile


@dataclass(frozen=True, slots=True)
class _Sides:
    """A product's factors by place: two sides, vectors along the summed dim alone, and scalars."""

    left: list[int]
    right: list[int]
    vectors: list[int]
    scalars: list[int]


class Products:
    """Lowers reductions; `value(box, wish)` lowers a factor and returns its operand."""

    def __init__(
        self, graph: Graph, layout: Layout, table: TileTable, value: Callable[[int, str], Operand]
    ) -> None:
        self._graph = graph
        self._layout = layout
        self.table = table
        self._value = value

    def reduce(
        self,
        factors: Sequence[int],
        over: Sequence[str],
        operator: str,
        tile: Tile,
        accumulator: str | None,
        scope: Scope,
    ) -> str | None:
        """Reduce a product over axes; return the chunk's tile, or None if `tile` holds the whole sum."""
        over_dims = tuple(dict.fromkeys(d for axis in over for d in self.table.dims((axis,))))
        if operator in ("max", "min") and len(factors) == 1:
            pulled = split_scale(self._graph, factors[0])
            if pulled is not None and accumulator is not None:
                return self._moved_fold(pulled, "mul", over_dims, operator, tile, scope)
            parts = row_term(self._graph, factors[0], over)
            if parts is not None and accumulator is not None and over_dims:
                return self._moved_fold(parts, "add", over_dims, operator, tile, scope)
        values = [self._value(factor, "t") for factor in factors]
        sides = self._sides(values, over_dims) if operator == "sum" else None
        if sides is not None and len(over_dims) == 1:
            left, right, scalars = self._oriented(sides, tile.dims, values, scope)
            kind = self._operand_type(factors)
            if not scalars:
                scope.operations.append(Dot(tile, left, right, over_dims[0], accumulator, kind))
                return None
            part = self.table.make(self.table.fresh(scope, "part"), tile.dims, Kind.FLOAT)
            scope.operations.append(Dot(part, left, right, over_dims[0], None, kind))
            return self._named(self._multiply([part.name, *scalars], scope), scope)
        product = self._multiply(values, scope)
        if not over_dims:
            if accumulator is None:
                scope.operations.append(Compute(tile, "mul", (product, Literal(1.0))))
                return None
            return self._named(product, scope)
        if accumulator is None:
            scope.operations.append(Fold(tile, operator, self._named(product, scope), over_dims))
            return None
        source = self._named(product, scope)
        dims = tuple(d for d in self.table[source].dims if d not in over_dims)
        chunk = self.table.make(self.table.fresh(scope, "chunk"), dims, tile.kind)
        scope.operations.append(Fold(chunk, operator, source, over_dims))
        return chunk.name

    def _moved_fold(
        self,
        pulled: tuple[int, int],
        moved: str,
        over_dims: tuple[str, ...],
        operator: str,
        tile: Tile,
        scope: Scope,
    ) -> str:
        """Fold the core and move the result: a positive factor or a row's term passes a maximum."""
        core, uniform = pulled
        source = self._value(core, "t")
        by = self._value(uniform, "scale" if moved == "mul" else "row")
        assert isinstance(source, str)
        dims = tuple(d for d in self.table[source].dims if d not in over_dims)
        chunk = self.table.make(self.table.fresh(scope, "chunk"), dims, tile.kind)
        scope.operations.append(Fold(chunk, operator, source, over_dims))
        there = self.table.make(self.table.fresh(scope, "chunk"), tile.dims, tile.kind)
        scope.operations.append(Compute(there, moved, (chunk.name, by)))
        return there.name

    def _sides(self, values: Sequence[Operand], over: tuple[str, ...]) -> _Sides | None:
        """Part a product's factors into two sides that share no free dim; None if impossible."""
        free = [set(self.table.dims_of(value)) - set(over) for value in values]
        summed = [bool(set(self.table.dims_of(value)) & set(over)) for value in values]
        groups: list[tuple[set[str], list[int]]] = []
        for i, dims in enumerate(free):
            if not dims:
                continue
            members = [i]
            for other in [group for group in groups if group[0] & dims]:
                groups.remove(other)
                dims, members = dims | other[0], other[1] + members
            groups.append((set(dims), members))
        if len(groups) != 2 or any(not any(summed[i] for i in group[1]) for group in groups):
            return None
        bare = [i for i, dims in enumerate(free) if not dims]
        return _Sides(
            groups[0][1],
            groups[1][1],
            [i for i in bare if summed[i]],
            [i for i in bare if not summed[i]],
        )

    def _is_computed(self, values: Sequence[Operand], members: list[int]) -> bool:
        return any(self.table.storage(values[i]) == "fp32" for i in members)

    def _oriented(
        self, sides: _Sides, dims: tuple[str, ...], values: Sequence[Operand], scope: Scope
    ) -> tuple[str, str, list[str]]:
        """Return the two sides as tiles, the one that carries the result's first dim on the left.

        A vector along the summed dim joins a side that is computed anyway, else the left one: the tensor
        core takes that one from registers.
        """
        left, right = sides.left, sides.right
        if dims and not any(dims[0] in self.table.dims_of(values[i]) for i in left):
            left, right = right, left
        computed = self._is_computed(values, right) and not self._is_computed(values, left)
        left = left if computed else [*left, *sides.vectors]
        right = [*right, *sides.vectors] if computed else right
        tiles = [
            self._named(self._multiply([values[i] for i in sorted(side)], scope), scope)
            for side in (left, right)
        ]
        return tiles[0], tiles[1], [self._named(values[i], scope) for i in sides.scalars]

    def _operand_type(self, factors: Sequence[int]) -> str:
        """Return the narrower input type of the arrays multiplied, or of what computed ones are made of."""
        for depth in (1, None):
            found: list[str] = []
            for factor in factors:
                reach = [factor] if depth else topological(self._graph, [factor])
                for each in reach:
                    box = self._graph[each]
                    source = self._graph[box.array] if isinstance(box, Gather) else box
                    if isinstance(source, Input) and source.kind is Kind.FLOAT:
                        found += [a.dtype for a in self._layout.arrays if a.name == source.name]
            if found:
                return min(found, key=self._layout.bytes_of)
        return "fp32"

    def _multiply(self, values: Sequence[Operand], scope: Scope) -> Operand:
        total = values[0]
        for value in values[1:]:
            dims = self.table.join((total, value))
            tile = self.table.make(self.table.fresh(scope, "product"), dims, Kind.FLOAT)
            scope.operations.append(Compute(tile, "mul", (total, value)))
            total = tile.name
        return total

    def _named(self, value: Operand, scope: Scope) -> str:
        if isinstance(value, str) and value in self.table:
            return value
        tile = self.table.make(self.table.fresh(scope, "value"), (), Kind.FLOAT)
        scope.operations.append(Compute(tile, "mul", (value, Literal(1.0))))
        return tile.name
