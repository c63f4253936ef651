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
from dataclasses import dataclass, field, replace
from math import prod

from napkin.algebra.derive import Derivation
from napkin.algebra.masks import Bounds, interval, vanishes
from napkin.algebra.states import Accumulator, Pass, Stream
from napkin.diagram import (
    SCALAR_TYPES,
    Box,
    Constant,
    Diagram,
    Edge,
    Gather,
    Graph,
    Index,
    Input,
    Pointwise,
    Reduce,
    Size,
    State,
    operands_of,
    substitute,
    topological,
)
from napkin.operators import POINTWISE, REDUCTIONS, Kind
from napkin.schedule.layout import Layout
from napkin.schedule.names import Names
from napkin.schedule.program import (
    Array,
    Assign,
    AxisRole,
    AxisTile,
    Buffer,
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
    Role,
    Store,
    Tile,
    tiles_of,
)
from napkin.schedule.rewrite import split_scale

_POLES = ("div", "rsqrt", "log", "log2", "pow")  # infinite (or nothing) at a zero last operand


def lower(derivation: Derivation, layout: Layout) -> Program:
    """Return the loop program of a derivation laid out by tiles."""
    return _Lowering(derivation, layout).run()


@dataclass
class _Scope:
    """Operations in order, and what was lowered there."""

    operations: list[Operation] = field(default_factory=list)
    values: dict[int, Operand] = field(default_factory=dict)


@dataclass(frozen=True)
class _Body:
    """A pass's chunk with its masks settled: what each accumulator folds, and what is stored."""

    region: Region
    factors: tuple[tuple[int, ...], ...]
    stores: tuple[tuple[int, int], ...]


class _Lowering:
    def __init__(self, derivation: Derivation, layout: Layout) -> None:
        self.derivation = derivation
        self.diagram: Diagram = derivation.diagram
        self.graph: Graph = derivation.graph
        self.layout = layout
        self.axes: dict[str, AxisTile] = {each.axis: each for each in layout.axes}
        self.names = Names()
        self.tiles: dict[str, Tile] = {}
        self.buffers: list[Buffer] = []
        self.prologue = _Scope()
        self.tail = _Scope()  # also what lies between passes: the states are final there
        self.body: _Scope | None = None
        self.inner: dict[str, _Scope] = {}
        self.region = Region.FULL
        self.running: dict[tuple[str, str], str] = {}
        self.pass_states: set[str] = set()
        self.roots: dict[int, frozenset[str]] = {}
        self.released: set[str] = set()
        for each in self.diagram.arguments:
            self.names.fresh(each.name)

    def run(self) -> Program:
        """Lower the passes in order, then the tail."""
        stream = self.derivation.stream
        for number, one in enumerate(stream.passes if stream else ()):
            assert stream is not None
            self._lower_pass(stream, number, one)
        tail = stream.tail if stream else tuple(enumerate(self.derivation.outputs))
        for number, box in tail:
            self._store(number, box, self.tail)
        operations = (*self.prologue.operations, *self.tail.operations)
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
            self._descending(),
            tuple(self.buffers),
            operations,
        )

    def _descending(self) -> tuple[str, ...]:
        """Return grid axes to walk from the end: where a later tile has the longer stream."""
        stream = self.derivation.stream
        found: dict[str, None] = {}
        for condition in self.derivation.conditions if stream else ():
            assert stream is not None
            bounds = interval(self.graph, condition, stream.axis, self._is_uniform)
            if bounds.any.stop is not None and bounds.any.start is None:
                for each in topological(self.graph, [bounds.any.stop]):
                    box = self.graph[each]
                    if isinstance(box, Edge) and box.end == "last":
                        found[box.axis] = None
        return tuple(found)

    # --- passes -----------------------------------------------------------------------------------

    def _lower_pass(self, stream: Stream, number: int, one: Pass) -> None:
        self.pass_states = {each.name for each in one.accumulators}
        for each in one.accumulators:
            self._declare(each)
        condition = self.derivation.conditions[number]
        bounds = interval(self.graph, condition, stream.axis, self._is_uniform)
        for region, start, stop in self._regions(stream.axis, bounds, bool(one.stores)):
            body = self._settle(stream.axis, one, condition, bounds, region)
            operations = self._lower_body(one, body)
            step = self.axes[stream.axis].tile
            self.tail.operations.append(
                Loop(stream.axis, start, stop, step, region, tuple(operations))
            )
        self.pass_states = set()

    def _declare(self, each: Accumulator) -> None:
        name = self.names.fresh(each.name)
        tile = self._tile(name, self._dims(each.axes), each.kind)
        self.tail.operations.append(Fill(tile, each.unit))
        self.running[each.name, "old"] = self.running[each.name, "new"] = name

    def _settle(
        self, axis: str, one: Pass, condition: int | None, bounds: Bounds, region: Region
    ) -> _Body:
        """Settle the masks of a chunk: gone in full regions, joined with the axis's end in partial ones."""
        graph = self.graph
        groups = [each.factors for each in one.accumulators]
        stores = one.stores
        if region is Region.FULL:
            if condition is not None and bounds.residual != condition:
                left = bounds.residual
                true = graph.constant(True) if left is None else left
                swaps = {condition: true} | self._negation(condition, left)
                groups = [self._replaced(group, swaps) for group in groups]
            return _Body(region, self._padded_groups(one, groups), stores)
        inside = self._inside(axis)
        if condition is not None:
            both = graph.pointwise("and", condition, inside)
            groups = [self._replaced(group, {condition: both}) for group in groups]
        else:
            swaps = self._masked_extrema(one, inside)
            groups = [
                self._masked_alike(each, group, swaps, axis)
                for each, group in zip(one.accumulators, groups, strict=True)
            ]
        settled = [
            self._mask(each, group, inside, axis)
            for each, group in zip(one.accumulators, groups, strict=True)
        ]
        return _Body(region, self._padded_groups(one, settled), stores)

    def _padded_groups(
        self, one: Pass, groups: Sequence[tuple[int, ...]]
    ) -> tuple[tuple[int, ...], ...]:
        """Mask the padding of the whole axes that an accumulator folds beside the stream's own."""
        return tuple(
            self._padded(replace(each, factors=group))
            for each, group in zip(one.accumulators, groups, strict=True)
        )

    def _inside(self, axis: str) -> int:
        return self.graph.pointwise("lt", self.graph.add(Index(axis)), self.graph.add(Size(axis)))

    def _negation(self, condition: int, residual: int | None) -> dict[int, int]:
        """Return the swap for what a condition negates, where the condition holds throughout."""
        box = self.graph[condition]
        if residual is None and isinstance(box, Pointwise) and box.operator == "not":
            return {box.operands[0]: self.graph.constant(False)}
        return {}

    def _replaced(self, group: tuple[int, ...], swaps: dict[int, int]) -> tuple[int, ...]:
        return tuple(simplify(self.graph, each) for each in substitute(self.graph, group, swaps))

    def _masked_extrema(self, one: Pass, inside: int) -> dict[int, int]:
        """Mask what a maximum folds where it is made, so that what reads it too needs no mask of its own."""
        swaps: dict[int, int] = {}
        for each in one.accumulators:
            if each.operator in ("max", "min") and each.kind is Kind.FLOAT:
                core = each.factors[0]
                pulled = split_scale(self.graph, core)
                core = pulled[0] if pulled else core
                if self._is_gathered(core):
                    continue  # what is read by position elsewhere must stay the array that it is
                unit = self.graph.constant(REDUCTIONS[each.operator].unit)
                swaps[core] = self.graph.pointwise("where", inside, core, unit)
        return swaps

    def _masked_alike(
        self, each: Accumulator, group: tuple[int, ...], swaps: dict[int, int], axis: str
    ) -> tuple[int, ...]:
        """Read the masked values too, save in a factor of a sum that they would make infinite."""
        swapped = self._replaced(group, swaps)
        if each.operator != "sum":
            return swapped
        inside = self._inside(axis)
        return tuple(
            new if vanishes(self.graph, replace(each, factors=(new,)), inside) else old
            for old, new in zip(group, swapped, strict=True)
        )

    def _is_gathered(self, each: int) -> bool:
        return any(isinstance(box, Gather) and box.array == each for box in self.graph.boxes)

    def _mask(
        self, each: Accumulator, factors: tuple[int, ...], inside: int, axis: str
    ) -> tuple[int, ...]:
        """Make a chunk the unit past an axis's end, where loads read zero."""
        graph = self.graph
        unit = graph.constant(each.unit)
        factors = tuple(
            graph.pointwise("where", inside, factor, unit)
            if len(factors) > 1 and self._may_be_infinite(each, factor, inside, axis)
            else factor
            for factor in factors
        )
        if vanishes(graph, replace(each, factors=factors), inside, zero_filled=axis):
            return factors
        chosen = next(
            (
                i
                for i, factor in enumerate(factors)
                if axis in graph[factor].axes and not isinstance(graph[factor], Input)
            ),
            next(i for i, factor in enumerate(factors) if axis in graph[factor].axes),
        )
        cut = graph.pointwise("where", inside, factors[chosen], unit)
        return (*factors[:chosen], cut, *factors[chosen + 1 :])

    def _may_be_infinite(self, each: Accumulator, factor: int, inside: int, axis: str) -> bool:
        """Return whether a factor of zeros past the end may be infinite: zero times it is not zero."""
        graph = self.graph
        if vanishes(graph, replace(each, factors=(factor,)), inside, zero_filled=axis):
            return False
        return any(
            isinstance(box, Pointwise)
            and box.operator in _POLES
            and axis in graph[box.operands[-1]].axes
            for box in (graph[i] for i in topological(graph, [factor]))
        )

    def _regions(
        self, axis: str, bounds: Bounds, stores: bool
    ) -> list[tuple[Region, Operand, Operand]]:
        """Return the loops of a pass in order: (region, start, stop), aligned to the axis's tile."""
        graph, step = self.graph, self.graph.constant(self.axes[axis].tile)
        size = graph.add(Size(axis))
        zero = graph.constant(0)
        if stores or self.axes[axis].role is AxisRole.WHOLE:
            return [(Region.PARTIAL, Literal(0), self._scalar(size, "stop"))]
        any_start = _align(graph, bounds.any.start, step, up=False) if bounds.any.start else zero
        any_start = graph.pointwise("max2", any_start, zero) if bounds.any.start else zero
        stop = size
        if bounds.any.stop is not None:
            # Never below zero: a tile that sees nothing walks no chunk.
            stop = graph.pointwise("max2", graph.pointwise("min2", bounds.any.stop, size), zero)
        if bounds.full is None:
            start_at = self._scalar(any_start, f"{axis}_begin")
            return [(Region.PARTIAL, start_at, self._scalar(stop, f"{axis}_end"))]
        full_stop = size
        if bounds.full.stop is not None:
            full_stop = graph.pointwise("min2", bounds.full.stop, size)
        full_stop = _align(graph, full_stop, step, up=False)
        loops: list[tuple[Region, Operand, Operand]] = []
        full_start = any_start
        if bounds.full.start is not None:
            full_start = _align(graph, bounds.full.start, step, up=True)
            full_start = graph.pointwise("max2", full_start, any_start)
            end = _align(graph, stop, step, up=True)
            full_start = graph.pointwise("min2", full_start, end)
            low_stop = graph.pointwise("min2", full_start, stop)
            low = (
                self._scalar(any_start, f"{axis}_begin"),
                self._scalar(low_stop, f"{axis}_full_begin"),
            )
            loops.append((Region.PARTIAL, *low))
        if full_start != zero or bounds.full.stop is not None:
            full_stop = graph.pointwise("max2", full_stop, full_start)
        middle = (
            self._scalar(full_start, f"{axis}_full_begin"),
            self._scalar(full_stop, f"{axis}_full_end"),
        )
        loops.append((Region.FULL, *middle))
        loops.append((Region.PARTIAL, middle[1], self._scalar(stop, f"{axis}_end")))
        return loops

    def _scalar(self, box: int, wish: str) -> Operand:
        return self._value(simplify(self.graph, box), wish)

    def _lower_body(self, one: Pass, body: _Body) -> list[Operation]:
        self.region = body.region
        self.body = _Scope()
        late: list[Assign] = []
        for each, factors in zip(one.accumulators, body.factors, strict=True):
            self._update(one, each, factors, late)
        for number, box in body.stores:
            self._store(number, box, self.body)
        operations = [*self.body.operations, *late]
        for each in one.accumulators:
            self.running[each.name, "new"] = self.running[each.name, "old"]
        self.body = None
        states = set(self.running.values())
        inside = {tile.name for tile in tiles_of(operations)}
        self.names.release(inside - states)
        self.released |= inside - states
        return operations

    def _update(
        self, one: Pass, each: Accumulator, factors: tuple[int, ...], late: list[Assign]
    ) -> None:
        """Fold a chunk into a state: a' = sum_j T_j a_j (+) chunk."""
        assert self.body is not None
        state = self.running[each.name, "old"]
        kept = _reads_old(self.graph, one, each.name)
        moved = self._moved(each)
        dims = self._dims(each.axes)
        target = self.names.fresh(f"{state}_new") if kept else state
        tile = self._tile(target, dims, each.kind)
        chunk = None
        if self._split_axes(each.over):
            if moved != target:
                self.body.operations.append(Compute(tile, "add", (moved, Literal(0.0))))
            self._add_chunks(replace(each, factors=factors), tile, self.body)
        else:
            chunk = self._product(factors, each.over, each.axes, each.operator, tile, moved)
        if chunk is not None:
            combine = REDUCTIONS[each.operator].combine
            self.body.operations.append(Compute(tile, combine, (moved, chunk)))
        self.running[each.name, "new"] = target
        if kept:
            late.append(Assign(state, target))

    def _moved(self, each: Accumulator) -> str:
        """Return the old state moved to the new running values."""
        state = self.running[each.name, "old"]
        if not each.is_carried:
            return state
        assert self.body is not None
        dims = self._dims(each.axes)
        terms: list[str] = []
        for term in each.transport:
            source = self.running[term.source, "old"]
            if term.factor is None:
                terms.append(source)
                continue
            factor = self._value(term.factor, "rescale")
            tile = self._tile(self.names.fresh(f"{state}_moved"), dims, each.kind)
            self.body.operations.append(Compute(tile, "mul", (source, factor)))
            terms.append(tile.name)
        total = terms[0]
        for other in terms[1:]:
            tile = self._tile(self.names.fresh(f"{state}_moved"), dims, each.kind)
            self.body.operations.append(Compute(tile, "add", (total, other)))
            total = tile.name
        return total

    # --- boxes ------------------------------------------------------------------------------------

    def _value(self, root: int, wish: str = "t") -> Operand:
        """Lower a box (and what it needs, operands first) in its own scope; return its operand."""
        for each in self._needed(root):
            scope = self._scope(each)
            if each not in scope.values:
                scope.values[each] = self._lower_in(each, scope, wish if each == root else "t")
        return self._scope(root).values[root]

    def _lower_in(self, each: int, scope: _Scope, wish: str) -> Operand:
        """Lower a box in its scope; what lies outside a loop's body may read nothing that is in it."""
        body, inner = self.body, self.inner
        self.inner = _up_to(inner, scope)
        if self._is_outside(scope):
            self.body = None
        value = self._lower_box(each, scope, wish)
        self.body, self.inner = body, inner
        return value

    def _is_outside(self, scope: _Scope) -> bool:
        return scope is self.prologue or scope is self.tail

    def _needed(self, root: int) -> list[int]:
        """Return the boxes to lower for a root; a reduction's operands, and what lies outside, wait."""
        done: dict[int, None] = {}
        stack = [(root, False)]
        while stack:
            each, ready = stack.pop()
            if each in done or each in self._scope(each).values:
                continue
            box = self.graph[each]
            outside = self.body is not None and self._is_outside(self._scope(each))
            if ready or isinstance(box, Reduce) or outside:
                done[each] = None
                continue
            stack.append((each, True))
            operands = box.indices if isinstance(box, Gather) else operands_of(box)
            stack += [(operand, False) for operand in reversed(operands)]
        return list(done)

    def _scope(self, each: int) -> _Scope:
        needs = self._needs(each)
        for axis, scope in reversed(self.inner.items()):
            if f"axis {axis}" in needs:
                return scope
        stream = self.derivation.stream
        if self.body is not None:
            assert stream is not None
            running = any(f"state {name}" in needs for name in self.pass_states)
            running = running or "state of the chunk" in needs
            if running or f"axis {stream.axis}" in needs or self._is_index_vector(each):
                return self.body
        if any(need.startswith("state ") for need in needs):
            return self.tail
        return self.prologue

    def _is_index_vector(self, each: int) -> bool:
        """Return whether a box is index arithmetic along a dim: cheaper to make again than to keep."""
        box = self.graph[each]
        if box.kind is Kind.FLOAT or not self._dims(box.axes):
            return False
        leaves = (self.graph[i] for i in topological(self.graph, [each]))
        return not any(
            isinstance(leaf, (Gather, Reduce, State)) or _is_read(leaf) for leaf in leaves
        )

    def _needs(self, root: int) -> frozenset[str]:
        """Return what a box varies with: axes that it carries, states that it reads."""
        for each in topological(self.graph, [root]):
            if each in self.roots:
                continue
            box = self.graph[each]
            states = {
                need
                for operand in operands_of(box)
                for need in self.roots[operand]
                if need.startswith("state ")
            }
            if isinstance(box, State):
                states.add(f"state {box.name}")
            stream = self.derivation.stream
            if isinstance(box, Edge) and stream is not None and box.axis == stream.axis:
                states.add("state of the chunk")
            self.roots[each] = frozenset(states | {f"axis {axis}" for axis in box.axes})
        return self.roots[root]

    def _lower_box(self, each: int, scope: _Scope, wish: str) -> Operand:
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
            case Edge():
                tile = self._tile(self._fresh(scope, f"{box.axis}_{box.end}"), (), Kind.INT)
                scope.operations.append(EdgePosition(tile, box.axis, box.end))
                return tile.name
            case Pointwise():
                return self._compute(each, box, scope, wish)
            case Gather():
                return self._gather(box, scope)
            case Reduce():
                return self._reduce(each, box, scope)

    def _is_array(self, box: Input) -> bool:
        return any(each.name == box.name for each in self.layout.arrays)

    def _compute(self, each: int, box: Pointwise, scope: _Scope, wish: str) -> Operand:
        operands = tuple(self._value(operand) for operand in box.operands)
        if all(isinstance(operand, Literal) for operand in operands):
            return _folded(box.operator, operands)
        dims = self._join(operands)
        tile = self._tile(self._fresh(scope, self._wish(each, box, wish)), dims, box.kind)
        scope.operations.append(Compute(tile, box.operator, operands))
        return tile.name

    def _wish(self, each: int, box: Box, wish: str) -> str:
        if each < len(self.diagram.names):
            return self.diagram.names[each].lower()
        if wish == "t" and isinstance(box, Pointwise) and box.operator == "exp2":
            return "p"
        return wish

    def _positions(self, axis: str, scope: _Scope) -> str:
        dims = self._dims((axis,))
        name = self._fresh(scope, f"offs_{axis}" if dims else axis)
        tile = self._tile(name, dims, Kind.INT)
        scope.operations.append(Positions(tile, axis))
        return tile.name

    def _load(self, box: Input, scope: _Scope) -> str:
        return self._emit_load(box.name, box.axes, tuple(False for _ in box.axes), scope)

    def _gather(self, box: Gather, scope: _Scope) -> str:
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

    def _as_tile(self, each: int, scope: _Scope) -> str:
        value = self._value(each)
        if isinstance(value, str):
            return value
        tile = self._tile(self._fresh(scope, "index"), (), Kind.INT)
        scope.operations.append(Compute(tile, "add", (value, Literal(0))))
        return tile.name

    def _emit_load(
        self, name: str, indices: tuple[str, ...], gathered: tuple[bool, ...], scope: _Scope
    ) -> str:
        array = next(each for each in self.layout.arrays if each.name == name)
        dims: dict[str, None] = {}
        for index, is_tile in zip(indices, gathered, strict=True):
            dims |= dict.fromkeys(self.tiles[index].dims if is_tile else self._dims((index,)))
        axes = [
            axis
            for index, is_tile in zip(indices, gathered, strict=True)
            for axis in (self._carried(index) if is_tile else (index,))
        ]
        masked = tuple(axis for axis in dict.fromkeys(axes) if self._may_pass_end(axis))
        streamed = scope is not self.prologue and scope is not self.tail
        path = self.layout.path(array, indices, gathered)
        level = "shared" if name in self.layout.shared else "register"
        tile = self._tile(
            self._fresh(scope, name.lower()), tuple(dims), array.kind, array.dtype, level
        )
        buffer = self._buffer(array, tile) if streamed and level == "shared" else None
        role = Role.PRODUCER if path is Path.DESCRIPTOR else Role.CONSUMER
        scope.operations.append(Load(tile, name, indices, gathered, masked, path, role, buffer))
        return tile.name

    def _carried(self, tile: str) -> tuple[str, ...]:
        """Return the axes of a tile's dims: past their ends its positions mean nothing."""
        dims = [each for each in self.layout.dims if each.name in self.tiles[tile].dims]
        return tuple(axis for dim in dims for axis in dim.axes)

    def _buffer(self, array: Array, tile: Tile) -> str:
        name = f"{array.name.lower()}_buffer"
        if all(each.name != name for each in self.buffers):
            size = prod(self._extent(dim) for dim in tile.dims) * self.layout.bytes_of(array.dtype)
            self.buffers.append(Buffer(name, array.name, size, self.layout.stages))
        return name

    def _may_pass_end(self, axis: str) -> bool:
        tile = self.axes[axis]
        if tile.dim is None or tile.is_exact:
            return False
        return not (tile.role is AxisRole.STREAM and self.region is Region.FULL and self.body)

    # --- reductions -------------------------------------------------------------------------------

    def _reduce(self, each: int, box: Reduce, scope: _Scope) -> str:
        split = self._split_axes(box.over)
        dims = self._dims(box.axes)
        wish = self._wish(each, box, "s" if len(box.operands) > 1 else box.operator)
        if split:
            tile = self._tile(self._fresh(scope, wish), dims, box.kind)
            scope.operations.append(Fill(tile, 0.0))
            self._add_chunks(_as_accumulator(box), tile, scope)
            return tile.name
        factors = self._padded(_as_accumulator(box))
        tile = self._tile(self._fresh(scope, wish), dims, box.kind)
        chunk = self._product(factors, box.over, box.axes, box.operator, tile, None, scope)
        return tile.name if chunk is None else chunk

    def _split_axes(self, over: Sequence[str]) -> list[str]:
        """Return the axes to walk in chunks inside a step, one loop inside the other."""
        return [a for a in over if self.axes[a].role is AxisRole.SPLIT and a not in self.inner]

    def _add_chunks(self, each: Accumulator, tile: Tile, scope: _Scope) -> None:
        """Walk the split axes of a sum in chunks, adding to a tile."""
        split = self._split_axes(each.over)
        if not split:
            factors = self._padded(each)
            chunk = self._product(factors, each.over, each.axes, "sum", tile, tile.name, scope)
            if chunk is not None:
                scope.operations.append(Compute(tile, "add", (tile.name, chunk)))
            return
        axis = split[0]
        inner = self.inner[axis] = _Scope()
        self._add_chunks(each, tile, inner)
        del self.inner[axis]
        step = self.axes[axis].tile
        size = self.axes[axis].size
        stop: Operand = Length(axis) if size is None else Literal(size)
        scope.operations.append(
            Loop(axis, Literal(0), stop, step, Region.FULL, tuple(inner.operations))
        )

    def _padded(self, each: Accumulator) -> tuple[int, ...]:
        """Mask a reduction's padding along whole and split axes, unless the loads' zeros do it."""
        factors = each.factors
        for axis in each.over:
            tile = self.axes[axis]
            if tile.role is AxisRole.STREAM or tile.is_exact or tile.dim is None:
                continue
            factors = self._mask(each, factors, self._inside(axis), axis)
        return factors

    def _product(
        self,
        factors: Sequence[int],
        over: Sequence[str],
        axes: Sequence[str],
        operator: str,
        tile: Tile,
        accumulator: str | None,
        scope: _Scope | None = None,
    ) -> str | None:
        """Reduce a product over axes; return the chunk's tile, or None if `tile` holds the whole sum."""
        scope = scope or self.body
        assert scope is not None
        over_dims = tuple(dict.fromkeys(d for axis in over for d in self._dims((axis,))))
        if operator in ("max", "min") and len(factors) == 1:
            pulled = split_scale(self.graph, factors[0])
            if pulled is not None and accumulator is not None:
                return self._scaled_fold(pulled, over_dims, operator, tile, scope)
        values = [self._value(factor) for factor in factors]
        sides = self._sides(values, over_dims) if operator == "sum" else None
        if sides is not None and len(over_dims) == 1:
            left, right, scalars = self._oriented(sides, tile.dims, values, scope)
            kind = self._operand_type(factors)
            if not scalars:
                scope.operations.append(Dot(tile, left, right, over_dims[0], accumulator, kind))
                return None
            part = self._tile(self._fresh(scope, "part"), tile.dims, Kind.FLOAT)
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
        dims = tuple(d for d in self.tiles[source].dims if d not in over_dims)
        chunk = self._tile(self._fresh(scope, "chunk"), dims, tile.kind)
        scope.operations.append(Fold(chunk, operator, source, over_dims))
        return chunk.name

    def _scaled_fold(
        self,
        pulled: tuple[int, int],
        over_dims: tuple[str, ...],
        operator: str,
        tile: Tile,
        scope: _Scope,
    ) -> str:
        """Fold the unscaled values and scale the result: a positive factor passes a maximum."""
        core, uniform = pulled
        source = self._value(core)
        factor = self._value(uniform, "scale")
        assert isinstance(source, str)
        dims = tuple(d for d in self.tiles[source].dims if d not in over_dims)
        chunk = self._tile(self._fresh(scope, "chunk"), dims, tile.kind)
        scope.operations.append(Fold(chunk, operator, source, over_dims))
        scaled = self._tile(self._fresh(scope, "chunk"), dims, tile.kind)
        scope.operations.append(Compute(scaled, "mul", (chunk.name, factor)))
        return scaled.name

    def _sides(
        self, values: Sequence[Operand], over: tuple[str, ...]
    ) -> tuple[list[int], list[int], list[int]] | None:
        """Part a product's factors into two sides that share no free dim, and scalars; None if impossible."""
        free = [set(self._dims_of(value)) - set(over) for value in values]
        summed = [bool(set(self._dims_of(value)) & set(over)) for value in values]
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
        left, right = groups[0][1], groups[1][1]
        scalars = []
        for i, dims in enumerate(free):
            if not dims and summed[i]:
                (left if self._is_computed(values, left) else right).append(i)
            elif not dims:
                scalars.append(i)
        return left, right, scalars

    def _is_computed(self, values: Sequence[Operand], members: list[int]) -> bool:
        return any(self._storage(values[i]) == "fp32" for i in members)

    def _oriented(
        self,
        sides: tuple[list[int], list[int], list[int]],
        dims: tuple[str, ...],
        values: Sequence[Operand],
        scope: _Scope,
    ) -> tuple[str, str, list[str]]:
        """Return the two sides as tiles, the one that carries the result's first dim on the left."""
        left, right, scalars = sides
        tiles = [
            self._named(self._multiply([values[i] for i in sorted(side)], scope), scope)
            for side in (left, right)
        ]
        if dims and dims[0] not in self.tiles[tiles[0]].dims:
            tiles.reverse()
        return tiles[0], tiles[1], [self._named(values[i], scope) for i in scalars]

    def _operand_type(self, factors: Sequence[int]) -> str:
        """Return the narrower input type of the arrays multiplied, or of what computed ones are made of."""
        for depth in (1, None):
            found: list[str] = []
            for factor in factors:
                reach = [factor] if depth else topological(self.graph, [factor])
                for each in reach:
                    box = self.graph[each]
                    source = self.graph[box.array] if isinstance(box, Gather) else box
                    if isinstance(source, Input) and source.kind is Kind.FLOAT:
                        found += [a.dtype for a in self.layout.arrays if a.name == source.name]
            if found:
                return min(found, key=self.layout.bytes_of)
        return "fp32"

    def _multiply(self, values: Sequence[Operand], scope: _Scope) -> Operand:
        total = values[0]
        for value in values[1:]:
            dims = self._join((total, value))
            tile = self._tile(self._fresh(scope, "product"), dims, Kind.FLOAT)
            scope.operations.append(Compute(tile, "mul", (total, value)))
            total = tile.name
        return total

    def _named(self, value: Operand, scope: _Scope) -> str:
        if isinstance(value, str) and value in self.tiles:
            return value
        tile = self._tile(self._fresh(scope, "value"), (), Kind.FLOAT)
        scope.operations.append(Compute(tile, "mul", (value, Literal(1.0))))
        return tile.name

    # --- stores -----------------------------------------------------------------------------------

    def _store(self, number: int, box: int, scope: _Scope) -> None:
        output = self.layout.outputs[number]
        value = self._value(box, self.diagram.outputs[number].name.lower())
        masked = tuple(axis for axis in output.axes if self._may_pass_end(axis))
        path = self.layout.path(output, output.axes, tuple(False for _ in output.axes))
        scope.operations.append(Store(output.name, value, self._dims_of(value), masked, path))

    # --- tiles ------------------------------------------------------------------------------------

    def _fresh(self, scope: _Scope, wish: str) -> str:
        """Name a tile. The prologue runs before every loop, so no loop's own name may come back there."""
        name = self.names.fresh(wish)
        passed: list[str] = []
        while scope is self.prologue and name in self.released:
            passed.append(name)
            name = self.names.fresh(wish)
        self.names.release(passed)
        return name

    def _tile(
        self,
        name: str,
        dims: tuple[str, ...],
        kind: Kind,
        storage: str | None = None,
        level: str = "register",
    ) -> Tile:
        default = {Kind.FLOAT: "fp32", Kind.INT: "int32", Kind.BOOL: "bool"}[kind]
        self.tiles[name] = Tile(name, dims, kind, storage or default, level)
        return self.tiles[name]

    def _dims(self, axes: Sequence[str]) -> tuple[str, ...]:
        """Return the dims that carry these axes, in order, each once."""
        found = (self.axes[axis].dim for axis in axes)
        return tuple(dict.fromkeys(dim for dim in found if dim is not None))

    def _dims_of(self, value: Operand) -> tuple[str, ...]:
        if isinstance(value, str) and value in self.tiles:
            return self.tiles[value].dims
        return ()

    def _storage(self, value: Operand) -> str:
        return self.tiles[value].storage if isinstance(value, str) and value in self.tiles else ""

    def _join(self, operands: Sequence[Operand]) -> tuple[str, ...]:
        """Return the dims of operands that broadcast: as a whole operand has them, else in layout order."""
        joined = set().union(*(self._dims_of(operand) for operand in operands))
        for operand in operands:
            dims = self._dims_of(operand)
            if dims and set(dims) == joined and self.tiles[str(operand)].kind is not Kind.BOOL:
                return dims
        return tuple(dim.name for dim in self.layout.dims if dim.name in joined)

    def _extent(self, dim: str) -> int:
        return next(each.extent for each in self.layout.dims if each.name == dim)

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


def _is_read(box: Box) -> bool:
    return isinstance(box, Input) and bool(box.axes)


def _folded(operator: str, operands: Sequence[Operand]) -> Literal:
    values = [operand.value for operand in operands if isinstance(operand, Literal)]
    return Literal(POINTWISE[operator].numpy(*values).item())


def _align(graph: Graph, value: int | None, step: int, *, up: bool) -> int:
    """Round a position down (or up) to a multiple of the step (a box)."""
    assert value is not None
    if up:
        constant = graph[step]
        assert isinstance(constant, Constant)
        value = graph.pointwise("add", value, graph.constant(int(constant.value) - 1))
    return graph.pointwise("mul", graph.pointwise("floordiv", value, step), step)


def _up_to(inner: dict[str, _Scope], scope: _Scope) -> dict[str, _Scope]:
    """Return the split loops around a scope, its own included, outermost first."""
    order = list(inner.items())
    depth = next((i + 1 for i, (_, each) in enumerate(order) if each is scope), 0)
    return dict(order[:depth])


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


def simplify(graph: Graph, root: int) -> int:
    """Fold truth constants and trivial integer arithmetic out of a box."""
    done: dict[int, int] = {}
    for each in topological(graph, [root]):
        box = graph[each]
        if not isinstance(box, Pointwise):
            (done[each],) = substitute(graph, [each], done) if operands_of(box) else (each,)
            continue
        operands = [done[operand] for operand in box.operands]
        done[each] = _simplified(graph, box.operator, operands)
    return done[root]


def _simplified(graph: Graph, operator: str, operands: list[int]) -> int:
    boxes = [graph[each] for each in operands]
    values = [box.value if isinstance(box, Constant) else None for box in boxes]
    if operator == "where" and values[0] is not None:
        return operands[1] if values[0] else operands[2]
    if operator == "and" and None in values and any(value is True for value in values):
        return operands[1] if values[0] is True else operands[0]
    if operator in ("add", "sub") and values[1] == 0 and boxes[1].kind is Kind.INT:
        return operands[0]
    if operator in ("min2", "max2") and operands[0] == operands[1]:
        return operands[0]
    first = boxes[0]
    if operator == "neg" and isinstance(first, Pointwise) and first.operator == "neg":
        return first.operands[0]
    integers = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
    if len(integers) == 2 and operator in ("add", "sub", "mul", "floordiv"):
        a, b = integers
        result = {"add": a + b, "sub": a - b, "mul": a * b, "floordiv": a // b if b else 0}
        return graph.constant(result[operator])
    return graph.pointwise(operator, *operands)
