"""Reverse mode on boxes: from the adjoints of outputs to those of arguments.

In: a graph, the outputs' boxes with their adjoints, and the arguments' boxes. Out: the boxes of their
adjoints. What a box gives to an operand that lacks some of its axes is summed over them: the adjoint of
weaving.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce as fold

from napkin.algebra.gradient.positions import at_positions
from napkin.algebra.gradient.rules import Product, shares
from napkin.algebra.relabel import relabel
from napkin.diagram import (
    Constant,
    Gather,
    Graph,
    Index,
    Size,
    join_axes,
    operands_of,
    topological,
)
from napkin.operators import Kind


def adjoints(
    graph: Graph,
    seeds: Sequence[tuple[int, int]],
    wanted: Iterable[int],
    still: Iterable[int] = (),
) -> dict[int, int]:
    """Return the adjoint of every box that has one; a wanted one's is 0 if nothing depends on it.

    An adjoint may lack axes of its box, along which it is alike. `seeds` pairs outputs with their adjoints.

    `still` are boxes that the outputs are known not to depend on: nothing flows through them.
    """
    return _Reverse(graph, seeds, list(wanted), set(still)).run()


class _Reverse:
    def __init__(
        self,
        graph: Graph,
        seeds: Sequence[tuple[int, int]],
        wanted: Sequence[int],
        still: set[int],
    ) -> None:
        self.graph = graph
        self.seeds = seeds
        self.wanted = wanted
        self.still = still
        self.terms: dict[int, list[int]] = {}

    def run(self) -> dict[int, int]:
        """Walk the boxes against their order, readers before what they read."""
        order = topological(self.graph, [box for box, _ in self.seeds])
        lively = self._lively(order)
        for box, seed in self.seeds:
            self.terms.setdefault(box, []).append(seed)
        for each in reversed(order):
            if each in lively and each in self.terms and each not in self.wanted:
                self._spread(each, lively)
        for each in self.wanted:
            self.terms.setdefault(each, [self.graph.constant(0.0)])
        return {each: self._total(each) for each in (*order, *self.wanted) if each in self.terms}

    def _lively(self, order: Sequence[int]) -> set[int]:
        """Return the boxes that depend on what is wanted."""
        found: set[int] = set()
        for each in order:
            reads = any(operand in found for operand in operands_of(self.graph[each]))
            if each in self.wanted or (reads and each not in self.still):
                found.add(each)
        return found

    def _total(self, each: int) -> int:
        graph = self.graph
        return fold(lambda a, b: graph.pointwise("add", a, b), self.terms[each])

    def _spread(self, each: int, lively: set[int]) -> None:
        """Give a box's adjoint to its operands."""
        box, adjoint = self.graph[each], self._total(each)
        if isinstance(box, Gather):
            term = self._scattered(box, adjoint)
            self.terms.setdefault(box.array, []).append(term)
            return
        for operand, product in shares(self.graph, each, adjoint):
            if operand in lively:
                term = self._gathered(product, self.graph[operand].axes, box.axes)
                self.terms.setdefault(operand, []).append(term)

    def _gathered(self, product: Product, axes: Sequence[str], woven: Sequence[str]) -> int:
        """Return a product summed over the axes that its receiver lacks."""
        graph = self.graph
        carried = {axis for each in product for axis in graph[each].axes}
        factors = [each for each in product if graph[each] != Constant(1.0, Kind.FLOAT)]
        over = [axis for axis in _joined(graph, product) if axis not in axes]
        # An adjoint that is alike along a woven axis counts once for each position.
        factors += [
            graph.add(Size(axis)) for axis in woven if axis not in axes and axis not in carried
        ]
        if over:
            return graph.reduce("sum", self._ordered(factors, over, axes), over)
        return fold(lambda a, b: graph.pointwise("mul", a, b), factors)

    def _ordered(self, factors: list[int], over: Sequence[str], axes: Sequence[str]) -> list[int]:
        """Return factors so that their sum has its axes in this order, if first or last in turn does it.

        Axes that all of them carry are taken one position at a time: theirs is left out.
        """
        lists = [self.graph[each].axes for each in factors]
        shared = set.intersection(*map(set, lists))
        found = [axis for axis in join_axes(lists) if axis not in over and axis not in shared]
        wished = [axis for axis in axes if axis not in shared]
        return factors if found == wished else [*factors[1:], factors[0]]

    def _scattered(self, box: Gather, adjoint: int) -> int:
        """Return what a read gives to its array: at each position, the sum over what reads it."""
        graph = self.graph
        own = graph[box.array].axes
        moved = {
            axis: self._fresh(axis)
            for axis, index in zip(own, box.indices, strict=True)
            if axis in box.axes and graph[index] != Index(axis)
        }
        labels = {axis: graph.add(Index(label)) for axis, label in moved.items()}
        chosen, *indices = relabel(graph, (adjoint, *box.indices), labels)
        met: set[str] = set()
        for place, (axis, index) in enumerate(zip(own, indices, strict=True)):
            if self._selects_alone(chosen, indices, index, axis):
                # A sum over one position that nothing else speaks of: whether there is such a position.
                (alone,) = graph[index].axes
                old = next((axis for axis, new in moved.items() if new == alone), alone)
                inside = graph.pointwise("lt", graph.add(Index(axis)), graph.add(Size(old)))
                chosen = graph.pointwise("where", inside, chosen, graph.constant(0.0))
                indices[place] = graph.add(Index(axis))
                met.add(alone)
        for axis, label in moved.items():
            if label not in met:
                chosen = self._sized(chosen, box.array, axis, label)
        woven = [moved.get(axis, axis) for axis in box.axes]
        walked = [axis for axis in woven if axis not in met]

        def summed(each: int) -> int:
            return self._gathered((each,), own, walked)

        return at_positions(graph, tuple(zip(own, indices, strict=True)), chosen, summed)

    def _sized(self, each: int, array: int, axis: str, label: str) -> int:
        """Return a box in which some read says how long a new label is: the array's own, if there is none."""
        graph = self.graph
        index = graph.add(Index(label))
        below = (graph[i] for i in topological(graph, [each]))
        if any(isinstance(box, Gather) and index in box.indices for box in below):
            return each
        zero = graph.constant(0)
        read = graph.gather(array, [index if own == axis else zero for own in graph[array].axes])
        alike = (graph.pointwise(operator, read, read) for operator in ("eq", "ne"))
        return graph.pointwise("where", graph.pointwise("or", *alike), each, graph.constant(0.0))

    def _selects_alone(self, chosen: int, indices: Sequence[int], index: int, axis: str) -> bool:
        box, others = self.graph[index], [chosen, *(each for each in indices if each != index)]
        if not isinstance(box, Index) or box.axis == axis or indices.count(index) > 1:
            return False
        return all(box.axis not in self.graph[each].axes for each in others)

    def _fresh(self, axis: str) -> str:
        taken = {each for box in self.graph.boxes for each in box.axes}
        number = 2
        while f"{axis}{number}" in taken:
            number += 1
        return f"{axis}{number}"


def _joined(graph: Graph, boxes: Iterable[int]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(axis for each in boxes for axis in graph[each].axes))
