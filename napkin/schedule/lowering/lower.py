"""From a derivation and a plan's tiles to the loop program.

In: a derivation (rewritten into its cheap forms) and the layout: which axis is grouped, streamed,
whole or split, by what tile. Out: a `Program`. Here its passes are lowered: states, their updates
by a chunk, what a chunk stores or adds to an output, the tail; `boxes` lowers what they read. The
order of a body is the order of the states.

A pass's loop is lowered by region: chunks where its condition holds throughout run without the
mask, chunks where it holds in part, or that reach past the axis's end, run with it.
"""

from __future__ import annotations

from dataclasses import replace

from napkin.algebra.derive import Derivation
from napkin.algebra.masks import Bounds, interval
from napkin.algebra.signs import is_finite_move
from napkin.algebra.states import Accumulator, Pass, Stream
from napkin.diagram import (
    SCALAR_TYPES,
    Graph,
    Reduce,
    Size,
    State,
    topological,
)
from napkin.operators import REDUCTIONS, Kind
from napkin.schedule.layout import Layout
from napkin.schedule.lowering.boxes import BoxLowering
from napkin.schedule.lowering.ends import simplify
from napkin.schedule.lowering.regions import (
    Body,
    Walk,
    descending,
    settle,
    shrinking,
    walks,
)
from napkin.schedule.lowering.tiles import Scope
from napkin.schedule.program import (
    Assign,
    Compute,
    Fill,
    Literal,
    Loop,
    Operand,
    Operation,
    Program,
    Region,
    Store,
    Tile,
    tiles_of,
)


def lower(derivation: Derivation, layout: Layout) -> Program:
    """Return the loop program of a derivation laid out by tiles."""
    return _Lowering(derivation, layout).run()


class _Lowering(BoxLowering):
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
            shrinking=shrinking(self.derivation, self._variation),
            parted=self.derivation.parted,
        )

    # --- passes -----------------------------------------------------------------------------------

    def _lower_pass(self, stream: Stream, number: int, one: Pass) -> None:
        self.scopes.pass_states = {each.name for each in one.accumulators}
        for each in one.accumulators:
            self._declare(each)
        condition = self.derivation.conditions[number]
        hulls = dict(self.derivation.hulls)
        bounds = interval(self.graph, condition, stream.axis, self._variation, hulls)
        step = self.axes[stream.axis].tile
        for walk in self._walks(stream.axis, bounds, one):
            start, stop = (
                self._value(simplify(self.graph, box), wish)
                for box, wish in zip((walk.start, walk.stop), walk.wishes, strict=True)
            )
            body = settle(self.graph, self.axes, stream.axis, one, condition, bounds, walk)
            operations = tuple(self._lower_body(one, body))
            self.scopes.tail.operations.append(
                Loop(stream.axis, start, stop, step, walk.region, operations)
            )
        self.scopes.pass_states = set()

    def _walks(self, axis: str, bounds: Bounds, one: Pass) -> list[Walk]:
        """Return a pass's loops: one that stores walks the whole axis."""
        if one.stores:
            ends = (self.graph.constant(0), self.graph.add(Size(axis)))
            return [Walk(Region.PARTIAL, *ends, ("begin", "stop"))]
        found = walks(self.graph, self.axes, axis, bounds)
        if one.parts:
            return found
        # A form that starts at the end does so in the last loop's steps, whichever chunk it meets there.
        return [replace(each, holds=False) for each in found]

    def _declare(self, each: Accumulator) -> None:
        name = self.table.fresh(self.scopes.tail, each.name)
        tile = self.table.make(name, self.table.dims(each.axes), each.kind)
        self.scopes.tail.operations.append(Fill(tile, each.unit))
        self.running[each.name, "old"] = self.running[each.name, "new"] = name

    def _lower_body(self, one: Pass, body: Body) -> list[Operation]:
        self.region = body.region
        self.scopes.body = Scope()
        late: list[Assign] = []
        count = len(one.accumulators)
        updates = list(zip(one.accumulators, body.factors[:count], strict=True))
        if one.parts and not any(each.is_carried for each in one.accumulators):
            # What waits for the fewest sums comes first, so that its operand gives way.
            updates.sort(key=lambda each: self._sums_below(each[1]))
        for each, factors in updates:
            self._update(one, each, factors, late)
        for (number, part), factors in zip(one.parts, body.factors[count:], strict=True):
            self._add_part(number, replace(part, factors=factors), self.scopes.body)
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

    def _sums_below(self, factors: tuple[int, ...]) -> int:
        below = (self.graph[each] for each in topological(self.graph, factors))
        return sum(isinstance(each, Reduce) for each in below)

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

    # --- stores -----------------------------------------------------------------------------------

    def _store(self, number: int, box: int, scope: Scope) -> None:
        value = self._value(box, self.diagram.outputs[number].name.lower())
        self._write(number, value, scope)

    def _add_part(self, number: int, part: Accumulator, scope: Scope) -> None:
        """Add the group's part of a sum to an output."""
        dims = self.table.dims(part.axes)
        name = self.table.fresh(scope, f"{part.name.lower()}_part")
        tile = self.table.make(name, dims, part.kind)
        chunk = self.products.reduce(part.factors, part.over, part.operator, tile, None, scope)
        self._write(number, name if chunk is None else chunk, scope)

    def _write(self, number: int, value: Operand, scope: Scope) -> None:
        output = self.layout.outputs[number]
        full = self._in_full_region()
        masked = tuple(axis for axis in output.axes if self.loads.may_pass_end(axis, full=full))
        path = self.layout.path(output, output.axes, tuple(False for _ in output.axes))
        dims, adds = self.table.dims_of(value), bool(self.diagram.outputs[number].added)
        scope.operations.append(Store(output.name, value, dims, masked, path, adds))


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
