"""Boxes as tile operations: each lowered once, in the outermost scope in which all that it needs is there.

In: a derivation and its layout. Out: operations in the scopes that stand open (`scopes`): the group's
prologue, a pass's body, a split axis's inner loop, the tail. Loads stand just before their first use.
A reduction over a grouped axis gives the group's part of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.algebra.affine import Variation
from napkin.algebra.derive import Derivation
from napkin.algebra.masks import FARTHEST
from napkin.algebra.states import Accumulator
from napkin.diagram import (
    Box,
    Constant,
    Diagram,
    Edge,
    Extreme,
    Gather,
    Graph,
    Index,
    Input,
    Pointwise,
    Reduce,
    Size,
    State,
    topological,
)
from napkin.operators import POINTWISE, Kind
from napkin.schedule.layout import Layout
from napkin.schedule.lowering.ends import padded, within_ends
from napkin.schedule.lowering.loads import Loads
from napkin.schedule.lowering.products import Products
from napkin.schedule.lowering.scopes import Scopes
from napkin.schedule.lowering.tiles import Scope, TileTable
from napkin.schedule.program import (
    AxisRole,
    AxisTile,
    Compute,
    EdgePosition,
    Fill,
    Fold,
    Length,
    Literal,
    Loop,
    Operand,
    Positions,
    Region,
    Tile,
)


class BoxLowering:
    """Lowers boxes, each once a scope; passes and stores are added by `lower`."""

    def __init__(self, derivation: Derivation, layout: Layout) -> None:
        self.derivation = derivation
        self.diagram: Diagram = derivation.diagram
        self.graph: Graph = derivation.graph
        self.layout = layout
        self.axes: dict[str, AxisTile] = {each.axis: each for each in layout.axes}
        self.table = TileTable(layout, (each.name for each in self.diagram.arguments))
        self.products = Products(self.graph, layout, self.table, self._value)
        self.loads = Loads(layout, self.table)
        self.scopes = Scopes(self.graph, derivation.stream, self.table)
        self.region = Region.FULL
        self.running: dict[tuple[str, str], str] = {}

    # --- boxes ------------------------------------------------------------------------------------

    def _value(self, root: int, wish: str = "t") -> Operand:
        """Lower a box (and what it needs, operands first) in its own scope; return its operand."""
        for each in self.scopes.needed(root):
            scope = self.scopes.of(each)
            if each not in scope.values:
                with self.scopes.inside(scope):
                    scope.values[each] = self._lower_box(each, scope, wish if each == root else "t")
        return self.scopes.of(root).values[root]

    def _lower_box(self, each: int, scope: Scope, wish: str) -> Operand:
        box = self.graph[each]
        match box:
            case Constant():
                return Literal(box.value)
            case Size():
                fixed = self.axes[box.axis].size if box.axis in self.axes else None
                return Length(box.axis) if fixed is None else Literal(fixed)
            case State():
                return self.running[box.name, box.version]
            case Input():
                return self._load(box, scope) if box.axes or self._is_array(box) else box.name
            case Index():
                return self._positions(box.axis, scope)
            case Edge() if self.axes[box.axis].role is AxisRole.SPLIT:
                # Bounds are found outside its loop: they hold for all of the axis.
                size = self.axes[box.axis].size
                assert size is not None
                return Literal(0 if box.end == "first" else size - 1)
            case Edge():
                tile = self.table.make(
                    self.table.fresh(scope, f"{box.axis}_{box.end}"), (), Kind.INT
                )
                scope.operations.append(EdgePosition(tile, box.axis, box.end))
                return tile.name
            case Extreme():
                return self._extreme(box, scope)
            case Pointwise():
                return self._compute(each, box, scope, wish)
            case Gather():
                return self._gather(box, scope)
            case Reduce():
                return self._reduce(each, box, scope)

    def _extreme(self, box: Extreme, scope: Scope) -> Operand:
        """Lower the least or greatest value of a tile; positions past an axis's end have no say."""
        value = self._value(within_ends(self.graph, self.axes, box))
        dims = self.table.dims_of(value)
        if dims:
            assert isinstance(value, str)
            tile = self.table.make(self.table.fresh(scope, box.end), (), Kind.INT)
            scope.operations.append(Fold(tile, "min" if box.end == "least" else "max", value, dims))
            value = tile.name
        # Of a number that data hold, costs see the first limit alone: a walk that it does not bound.
        limits = (("max2", -FARTHEST), ("min2", FARTHEST)) if box.bounds else ()
        for operator, limit in limits[::-1] if box.bounds == "stop" else limits:
            tile = self.table.make(self.table.fresh(scope, box.end), (), Kind.INT)
            scope.operations.append(Compute(tile, operator, (value, Literal(limit))))
            value = tile.name
        return value

    def _is_array(self, box: Input) -> bool:
        return any(each.name == box.name for each in self.layout.arrays)

    def _compute(self, each: int, box: Pointwise, scope: Scope, wish: str) -> Operand:
        operands = tuple(self._value(operand) for operand in box.operands)
        if all(isinstance(operand, Literal) for operand in operands):
            return _folded(box.operator, operands)
        dims = self.table.join(operands)
        tile = self.table.make(self.table.fresh(scope, self._wish(each, box, wish)), dims, box.kind)
        scope.operations.append(Compute(tile, box.operator, operands))
        return tile.name

    def _wish(self, each: int, box: Box, wish: str) -> str:
        if each < len(self.diagram.names):
            return self.diagram.names[each].lower()
        if wish == "t" and isinstance(box, Pointwise) and box.operator == "exp2":
            return "p"
        return wish

    def _positions(self, axis: str, scope: Scope) -> str:
        dims = self.table.dims((axis,))
        name = self.table.fresh(scope, f"offs_{axis}" if dims else axis)
        tile = self.table.make(name, dims, Kind.INT)
        scope.operations.append(Positions(tile, axis))
        return tile.name

    def _load(self, box: Input, scope: Scope) -> str:
        return self._emit_load(box.name, box.axes, tuple(False for _ in box.axes), scope)

    def _gather(self, box: Gather, scope: Scope) -> str:
        array = self.graph[box.array]
        assert isinstance(array, Input)
        indices: list[str] = []
        gathered: list[bool] = []
        for each, own in zip(box.indices, array.axes, strict=True):
            # Another axis's index may pass the end of the array's own.
            plain = self.graph[each] == Index(own)
            indices.append(own if plain else self._as_tile(each, scope))
            gathered.append(not plain)
        return self._emit_load(array.name, tuple(indices), tuple(gathered), scope)

    def _as_tile(self, each: int, scope: Scope) -> str:
        value = self._value(each)
        if isinstance(value, str):
            return value
        tile = self.table.make(self.table.fresh(scope, "index"), (), Kind.INT)
        scope.operations.append(Compute(tile, "add", (value, Literal(0))))
        return tile.name

    def _emit_load(
        self, name: str, indices: tuple[str, ...], gathered: tuple[bool, ...], scope: Scope
    ) -> str:
        streamed = not self.scopes.is_outside(scope)
        full = self._in_full_region()
        return self.loads.load(name, indices, gathered, scope, streamed=streamed, full=full)

    def _in_full_region(self) -> bool:
        return self.scopes.body is not None and self.region is Region.FULL

    # --- reductions -------------------------------------------------------------------------------

    def _reduce(self, each: int, box: Reduce, scope: Scope) -> str:
        split = self._split_axes(box.over)
        dims = self._result_dims(box)
        wish = self._wish(each, box, "s" if len(box.operands) > 1 else box.operator)
        if split:
            tile = self.table.make(self.table.fresh(scope, wish), dims, box.kind)
            scope.operations.append(Fill(tile, 0.0))
            self._add_chunks(_as_accumulator(box), tile, scope)
            return tile.name
        factors = padded(self.graph, self.axes, _as_accumulator(box))
        tile = self.table.make(self.table.fresh(scope, wish), dims, box.kind)
        chunk = self.products.reduce(factors, box.over, box.operator, tile, None, scope)
        return tile.name if chunk is None else chunk

    def _result_dims(self, box: Reduce) -> tuple[str, ...]:
        """Return a reduction's dims; a contraction's with the stream last, over which it is summed next.

        The tensor core takes what it multiplies from registers by rows.
        """
        dims = self.table.dims(box.axes)
        if len(box.operands) < 2 or self.derivation.stream is None:
            return dims
        streamed = self.table.dims((self.derivation.stream.axis,))
        return tuple(sorted(dims, key=lambda dim: dim in streamed))

    def _split_axes(self, over: Sequence[str]) -> list[str]:
        """Return the axes to walk in chunks inside a step, one loop inside the other."""
        return [
            a for a in over if self.axes[a].role is AxisRole.SPLIT and a not in self.scopes.inner
        ]

    def _add_chunks(self, each: Accumulator, tile: Tile, scope: Scope) -> None:
        """Walk the split axes of a sum in chunks, adding to a tile."""
        split = self._split_axes(each.over)
        if not split:
            factors = padded(self.graph, self.axes, each)
            chunk = self.products.reduce(factors, each.over, "sum", tile, tile.name, scope)
            if chunk is not None:
                scope.operations.append(Compute(tile, "add", (tile.name, chunk)))
            return
        axis = split[0]
        inner = self.scopes.inner[axis] = Scope()
        self._add_chunks(each, tile, inner)
        del self.scopes.inner[axis]
        step = self.axes[axis].tile
        size = self.axes[axis].size
        stop: Operand = Length(axis) if size is None else Literal(size)
        scope.operations.append(
            Loop(axis, Literal(0), stop, step, Region.FULL, tuple(inner.operations))
        )

    # --- what varies ------------------------------------------------------------------------------

    def _variation(self, each: int) -> Variation:
        """Return how a whole number varies over a tile: a tile holds only a chunk of a split axis."""
        if self._is_uniform(each):
            return Variation.NONE
        below = topological(self.graph, [each])
        carried = {axis for i in below for axis in self.graph[i].axes} & set(self.axes)
        split = any(self.axes[axis].role is AxisRole.SPLIT for axis in carried)
        return Variation.BEYOND if split else Variation.INSIDE

    def _is_uniform(self, each: int) -> bool:
        """Return whether a box has one value in a tile: it carries no axis with a dim and no state."""
        box = self.graph[each]
        if isinstance(box, (Constant, State)) or box.kind is not Kind.INT:
            return False
        stream = self.derivation.stream
        axes = {axis for i in topological(self.graph, [each]) for axis in self.graph[i].axes}
        carried = set(box.axes) if box.axes else axes & set(self.axes)
        streamed = stream is not None and stream.axis in carried
        return not streamed and all(self.axes[axis].dim is None for axis in carried)


def _folded(operator: str, operands: Sequence[Operand]) -> Literal:
    values = [operand.value for operand in operands if isinstance(operand, Literal)]
    return Literal(POINTWISE[operator].numpy(*values).item())


def _as_accumulator(box: Reduce) -> Accumulator:
    return Accumulator("", box.operator, box.operands, box.over, box.axes, box.kind, ())
