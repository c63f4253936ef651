"""From a derivation and a plan's tiles to the loop program.

In: a derivation (rewritten into its cheap forms) and the layout: which axis is grouped, streamed, whole or
split, by what tile. Out: a `Program`. Every box is lowered once in the outermost scope in which everything
it needs is there: the group's prologue, a pass's body, a split axis's inner loop, the tail. Loads stand
just before their first use, so the order of the body is the order of the states.

A pass's loop is lowered by region: chunks where its condition holds throughout run without the mask,
chunks where it holds in part, or that reach past the axis's end, run with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napkin.algebra.derive import Derivation
from napkin.algebra.masks import Bounds, Variation, interval
from napkin.algebra.signs import is_finite_move
from napkin.algebra.states import Accumulator, Pass, Stream
from napkin.diagram import (
    SCALAR_TYPES,
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
from napkin.operators import POINTWISE, REDUCTIONS, Kind
from napkin.schedule.layout import Layout
from napkin.schedule.loads import Loads
from napkin.schedule.products import Products
from napkin.schedule.program import (
    Assign,
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
    Operation,
    Positions,
    Program,
    Region,
    Store,
    Tile,
    tiles_of,
)
from napkin.schedule.regions import (
    FARTHEST,
    Body,
    Walk,
    descending,
    padded,
    settle,
    simplify,
    walks,
    within_ends,
)
from napkin.schedule.scopes import Scopes
from napkin.schedule.tiles import Scope, TileTable


def lower(derivation: Derivation, layout: Layout) -> Program:
    """Return the loop program of a derivation laid out by tiles."""
    return _Lowering(derivation, layout).run()


class _Lowering:
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

    def run(self) -> Program:
        """Lower the passes in order, then the tail."""
        stream = self.derivation.stream
        for number, one in enumerate(stream.passes if stream else ()):
            assert stream is not None
            self._lower_pass(stream, number, one)
        tail = stream.tail if stream else tuple(enumerate(self.derivation.outputs))
        for number, box in tail:
            self._store(number, box, self.scopes.tail)
        operations = (*self.scopes.prologue.operations, *self.scopes.tail.operations)
        return Program(
            self.diagram.name,
            self.layout.arrays,
            self.layout.outputs,
            tuple(
                (each.name, each.dtype or "float")
                for each in self.diagram.arguments
                if not each.dims and each.dtype in SCALAR_TYPES
            ),
            self.layout.axes,
            self.layout.dims,
            self.layout.grid,
            descending(self.derivation, self._variation),
            tuple(self.loads.buffers),
            operations,
        )

    # --- passes -----------------------------------------------------------------------------------

    def _lower_pass(self, stream: Stream, number: int, one: Pass) -> None:
        self.scopes.pass_states = {each.name for each in one.accumulators}
        for each in one.accumulators:
            self._declare(each)
        condition = self.derivation.conditions[number]
        bounds = interval(self.graph, condition, stream.axis, self._variation)
        step = self.axes[stream.axis].tile
        for walk in self._walks(stream.axis, step, bounds, one):
            start, stop = (
                self._value(simplify(self.graph, box), wish)
                for box, wish in zip((walk.start, walk.stop), walk.wishes, strict=True)
            )
            body = settle(self.graph, self.axes, stream.axis, one, condition, bounds, walk.region)
            operations = tuple(self._lower_body(one, body))
            self.scopes.tail.operations.append(
                Loop(stream.axis, start, stop, step, walk.region, operations)
            )
        self.scopes.pass_states = set()

    def _walks(self, axis: str, step: int, bounds: Bounds, one: Pass) -> list[Walk]:
        """Return a pass's loops: one that stores walks the whole axis."""
        if one.stores:
            ends = (self.graph.constant(0), self.graph.add(Size(axis)))
            return [Walk(Region.PARTIAL, *ends, ("begin", "stop"))]
        return walks(self.graph, axis, step, bounds)

    def _declare(self, each: Accumulator) -> None:
        name = self.table.fresh(self.scopes.tail, each.name)
        tile = self.table.make(name, self.table.dims(each.axes), each.kind)
        self.scopes.tail.operations.append(Fill(tile, each.unit))
        self.running[each.name, "old"] = self.running[each.name, "new"] = name

    def _lower_body(self, one: Pass, body: Body) -> list[Operation]:
        self.region = body.region
        self.scopes.body = Scope()
        late: list[Assign] = []
        for each, factors in zip(one.accumulators, body.factors, strict=True):
            self._update(one, each, factors, late)
        for number, box in body.stores:
            self._store(number, box, self.scopes.body)
        operations = [*self.scopes.body.operations, *late]
        for each in one.accumulators:
            self.running[each.name, "new"] = self.running[each.name, "old"]
        self.scopes.body = None
        states = set(self.running.values())
        inside = {tile.name for tile in tiles_of(operations)}
        self.table.release(inside - states)
        return operations

    def _update(
        self, one: Pass, each: Accumulator, factors: tuple[int, ...], late: list[Assign]
    ) -> None:
        """Fold a chunk into a state: a' = sum_j T_j a_j (+) chunk."""
        assert self.scopes.body is not None
        state = self.running[each.name, "old"]
        kept = _reads_old(self.graph, one, each.name)
        moved = self._moved(each)
        dims = self.table.dims(each.axes)
        target = self.table.fresh(self.scopes.body, f"{state}_new") if kept else state
        tile = self.table.make(target, dims, each.kind)
        chunk = None
        if self._split_axes(each.over):
            if moved != target:
                self.scopes.body.operations.append(Compute(tile, "add", (moved, Literal(0.0))))
            self._add_chunks(replace(each, factors=factors), tile, self.scopes.body)
        else:
            chunk = self.products.reduce(
                factors, each.over, each.operator, tile, moved, self.scopes.body
            )
        if chunk is not None:
            combine = REDUCTIONS[each.operator].combine
            self.scopes.body.operations.append(Compute(tile, combine, (moved, chunk)))
        self.running[each.name, "new"] = target
        if kept:
            late.append(Assign(state, target))

    def _moved(self, each: Accumulator) -> str:
        """Return the old state moved to the new running values."""
        state = self.running[each.name, "old"]
        if not each.is_carried:
            return state
        assert self.scopes.body is not None
        dims = self.table.dims(each.axes)
        terms: list[str] = []
        for term in each.transport:
            source = self.running[term.source, "old"]
            if term.factor is None:
                terms.append(source)
                continue
            factor = self._value(term.factor, "rescale")
            tile = self.table.make(
                self.table.fresh(self.scopes.body, f"{state}_moved"), dims, each.kind
            )
            self.scopes.body.operations.append(Compute(tile, "mul", (source, factor)))
            if not is_finite_move(self.graph, term.factor, self._maxima()):
                self._keep_empty(source, tile)
            terms.append(tile.name)
        total = terms[0]
        for other in terms[1:]:
            tile = self.table.make(
                self.table.fresh(self.scopes.body, f"{state}_moved"), dims, each.kind
            )
            self.scopes.body.operations.append(Compute(tile, "add", (total, other)))
            total = tile.name
        return total

    def _keep_empty(self, source: str, moved: Tile) -> None:
        """Leave an empty state 0 where the factor that moves it may be infinite at the first chunk."""
        assert self.scopes.body is not None
        empty = self.table.make(self.table.fresh(self.scopes.body, "empty"), moved.dims, Kind.BOOL)
        self.scopes.body.operations.append(Compute(empty, "eq", (source, Literal(0.0))))
        kept = (empty.name, Literal(0.0), moved.name)
        self.scopes.body.operations.append(Compute(moved, "where", kept))

    def _maxima(self) -> frozenset[str]:
        stream = self.derivation.stream
        found = stream.accumulators if stream else ()
        return frozenset(each.name for each in found if each.operator == "max")

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
        for operator, limit in (("max2", -FARTHEST), ("min2", FARTHEST)):
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

    # --- stores -----------------------------------------------------------------------------------

    def _store(self, number: int, box: int, scope: Scope) -> None:
        output = self.layout.outputs[number]
        value = self._value(box, self.diagram.outputs[number].name.lower())
        full = self._in_full_region()
        masked = tuple(axis for axis in output.axes if self.loads.may_pass_end(axis, full=full))
        path = self.layout.path(output, output.axes, tuple(False for _ in output.axes))
        scope.operations.append(Store(output.name, value, self.table.dims_of(value), masked, path))

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


def _reads_old(graph: Graph, one: Pass, name: str) -> bool:
    """Return whether some transport of the pass still needs the old value once the new one is there."""
    roots = [term.factor for each in one.accumulators for term in each.transport if term.factor]
    later = [
        term.source for each in one.accumulators for term in each.transport if each.name != name
    ]
    reads = any(
        isinstance(graph[i], State) and graph[i] == State(name, "old", graph[i].axes, graph[i].kind)
        for i in topological(graph, roots)
    )
    return reads or name in later
