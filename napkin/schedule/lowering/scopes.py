"""Where each box of a diagram is computed: once, in the outermost scope in which all that it needs is there.

In: a diagram's graph, the stream, and how far lowering has come (a pass's body, the loops of split axes in
it). Out: the scope of a box, and the boxes that it needs there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from napkin.algebra.states import Stream
from napkin.diagram import (
    Box,
    Edge,
    Gather,
    Graph,
    Input,
    Reduce,
    State,
    operands_of,
    topological,
)
from napkin.operators import Kind
from napkin.schedule.lowering.tiles import Scope, TileTable


class Scopes:
    """The scopes that stand open: the group's prologue and tail, a pass's body, its inner loops."""

    def __init__(self, graph: Graph, stream: Stream | None, table: TileTable) -> None:
        self.graph = graph
        self.stream = stream
        self.table = table
        self.prologue = Scope(runs_first=True)
        self.tail = Scope()  # also what lies between passes: the states are final there
        self.body: Scope | None = None
        self.inner: dict[str, Scope] = {}
        self.pass_states: set[str] = set()
        self._roots: dict[int, frozenset[str]] = {}

    def is_outside(self, scope: Scope) -> bool:
        """Return whether a scope lies outside every loop."""
        return scope is self.prologue or scope is self.tail

    @contextmanager
    def inside(self, scope: Scope) -> Iterator[None]:
        """Lower in a scope; what lies outside a loop's body may read nothing that is in it."""
        body, inner = self.body, self.inner
        self.inner = _up_to(inner, scope)
        if self.is_outside(scope):
            self.body = None
        yield
        self.body, self.inner = body, inner

    def needed(self, root: int) -> list[int]:
        """Return the boxes to lower for a root; a reduction's operands, and what lies outside, wait."""
        done: dict[int, None] = {}
        stack = [(root, False)]
        while stack:
            each, ready = stack.pop()
            if each in done or each in self.of(each).values:
                continue
            box = self.graph[each]
            outside = self.body is not None and self.is_outside(self.of(each))
            if ready or isinstance(box, Reduce) or outside:
                done[each] = None
                continue
            stack.append((each, True))
            operands = box.indices if isinstance(box, Gather) else operands_of(box)
            stack += [(operand, False) for operand in reversed(operands)]
        return list(done)

    def of(self, each: int) -> Scope:
        """Return the scope that a box is computed in."""
        needs = self._needs(each)
        for axis, scope in reversed(self.inner.items()):
            if f"axis {axis}" in needs:
                return scope
        if self.body is not None:
            assert self.stream is not None
            running = any(f"state {name}" in needs for name in self.pass_states)
            running = running or "state of the chunk" in needs
            if running or f"axis {self.stream.axis}" in needs or self._is_index_vector(each):
                return self.body
        if any(need.startswith("state ") for need in needs):
            return self.tail
        return self.prologue

    def _is_index_vector(self, each: int) -> bool:
        """Return whether a box is index arithmetic along a dim: cheaper to make again than to keep."""
        box = self.graph[each]
        if box.kind is Kind.FLOAT or not self.table.dims(box.axes):
            return False
        leaves = (self.graph[i] for i in topological(self.graph, [each]))
        return not any(
            isinstance(leaf, (Gather, Reduce, State)) or _is_read(leaf) for leaf in leaves
        )

    def _needs(self, root: int) -> frozenset[str]:
        """Return what a box varies with: axes that it carries, states that it reads."""
        if root in self._roots:
            return self._roots[root]
        for each in topological(self.graph, [root]):
            if each in self._roots:
                continue
            box = self.graph[each]
            states = {
                need
                for operand in operands_of(box)
                for need in self._roots[operand]
                if need.startswith("state ")
            }
            if isinstance(box, State):
                states.add(f"state {box.name}")
            stream = self.stream
            if isinstance(box, Edge) and stream is not None and box.axis == stream.axis:
                states.add("state of the chunk")
            self._roots[each] = frozenset(states | {f"axis {axis}" for axis in box.axes})
        return self._roots[root]


def _is_read(box: Box) -> bool:
    return isinstance(box, Input) and bool(box.axes)


def _up_to(inner: dict[str, Scope], scope: Scope) -> dict[str, Scope]:
    """Return the split loops around a scope, its own included, outermost first."""
    order = list(inner.items())
    depth = next((i + 1 for i, (_, each) in enumerate(order) if each is scope), 0)
    return dict(order[:depth])
