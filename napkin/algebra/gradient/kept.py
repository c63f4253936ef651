"""What a backward takes from its forward, and what it computes again.

In: the boxes that a backward reads of its forward. Out: those to keep, nearest to the backward first. A
box is kept if it is no larger than the arrays that the diagram has anyway, and moving it through memory
twice takes less than computing it again; an output is there already and moves once. Both are counted in
bytes, by what a GPU computes in the time of one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

from napkin.algebra.derive import UNSIZED
from napkin.diagram import Box, Diagram, Graph, Leaf, Pointwise, Reduce, operands_of, topological

# What a GPU of the years 2020 to 2024 computes while it moves a byte: 155 to 300, and 10 to 20.
_PRODUCTS_A_BYTE = 200
_STEPS_A_BYTE = 14
_STORED = 8  # bytes moved of an element that is written and read
_READ = 2


def choose_kept(
    graph: Graph,
    extents: Extents,
    given: Collection[int],
    outputs: Collection[int],
    backward: Sequence[int],
) -> tuple[int, ...]:
    """Return the boxes to take from the forward, outputs among them.

    `given` are the forward's boxes, `outputs` those of its outputs, and `backward` those that the backward
    ends in.
    """
    return _Choice(graph, extents, given, outputs).run(backward)


class Extents:
    """How large arrays are, and whether they are no larger than those that the diagram has anyway."""

    def __init__(self, diagram: Diagram) -> None:
        self.sizes = dict(diagram.sizes)
        arrays = [each.axes for each in diagram.arguments] + [each.axes for each in diagram.outputs]
        self.arrays = [frozenset(axes) for axes in arrays]
        self.largest = max((self.elements(axes) for axes in arrays), default=0)

    def is_small(self, axes: Collection[str]) -> bool:
        """Return whether an array over the axes is no larger than one of the diagram's own."""
        if any(own.issuperset(axes) for own in self.arrays):
            return True
        return self.sizes.keys() >= set(axes) and self.elements(axes) <= self.largest

    def elements(self, axes: Collection[str]) -> int:
        """Return how many elements an array over the axes has."""
        return prod(self.length(axis) for axis in axes)

    def length(self, axis: str) -> int:
        """Return an axis's length, or one supposed."""
        return self.sizes.get(axis, UNSIZED)


class _Choice:
    def __init__(
        self, graph: Graph, extents: Extents, given: Collection[int], outputs: Collection[int]
    ) -> None:
        self.graph = graph
        self.extents = extents
        self.given = given
        self.outputs = outputs

    def run(self, backward: Sequence[int]) -> tuple[int, ...]:
        """Walk down from what the backward reads, and stop at what is kept."""
        found: dict[int, None] = {}
        seen: set[int] = set()
        known = self._known(backward) - self._tested(backward)
        pending = list(backward)
        while pending:
            each = pending.pop()
            if each in seen:
                continue
            seen.add(each)
            if each in known and self._is_kept(each):
                found[each] = None
            else:
                pending += operands_of(self.graph[each])
        return self._without_cheap(sorted(found))

    def _known(self, backward: Sequence[int]) -> set[int]:
        """Return the boxes that the forward has, and those that make one number of several that it has."""
        near, joined = set(self.given), set(self.given)
        for each in topological(self.graph, backward):
            box = self.graph[each]
            if each in near or not isinstance(box, Pointwise) or not near.issuperset(box.operands):
                continue
            near.add(each)
            if sum(self._reduces(operand) for operand in set(box.operands)) > 1:
                joined.add(each)
        return joined

    def _tested(self, backward: Sequence[int]) -> set[int]:
        """Return the extremes that are compared with what they are taken of, to find where they were reached.

        What is kept was computed by another kernel, or rounded: nothing would be equal to it.
        """
        boxes = (self.graph[each] for each in topological(self.graph, backward))
        tests = [
            box.operands for box in boxes if isinstance(box, Pointwise) and box.operator == "eq"
        ]
        return {extreme for one, extreme in tests if self._is_extreme_of(extreme, one)}

    def _is_extreme_of(self, each: int, value: int) -> bool:
        box = self.graph[each]
        extremes = isinstance(box, Reduce) and box.operator in ("max", "min")
        return extremes and operands_of(box) == (value,)

    def _reduces(self, each: int) -> bool:
        return any(isinstance(self.graph[i], Reduce) for i in topological(self.graph, [each]))

    def _without_cheap(self, kept: list[int]) -> tuple[int, ...]:
        """Return what is kept without what the rest of it gives cheaply: one over a row beside the row."""
        for each in reversed(kept):
            rest = [other for other in kept if other != each]
            moved = self.extents.elements(self.graph[each].axes) * _STORED
            if each not in self.outputs and self._work_from(each, rest) <= moved:
                return self._without_cheap(rest)
        return tuple(kept)

    def _work_from(self, each: int, kept: Collection[int]) -> float:
        """Return what a box takes if others are kept."""
        total, seen, pending = 0.0, set[int](), [each]
        while pending:
            one = pending.pop()
            if one not in seen and one not in kept:
                seen.add(one)
                total += self._work(self.graph[one])
                pending += operands_of(self.graph[one])
        return total

    def _is_kept(self, each: int) -> bool:
        below = [self.graph[i] for i in topological(self.graph, [each])]
        if not self._reduces(each) or not (
            each in self.outputs or self.extents.is_small(self.graph[each].axes)
        ):
            return False
        bytes_each = _READ if each in self.outputs else _STORED
        moved = self.extents.elements(self.graph[each].axes) * bytes_each
        return sum(map(self._work, below)) > moved

    def _work(self, box: Box) -> float:
        """Return what computing one box takes, in bytes that could move meanwhile."""
        if isinstance(box, Leaf):
            return 0.0
        if not isinstance(box, Reduce):
            return self.extents.elements(box.axes) / _STEPS_A_BYTE
        steps = self.extents.elements({*box.axes, *box.over})
        products = len(set(box.operands)) > 1
        return 2 * steps / _PRODUCTS_A_BYTE if products else steps / _STEPS_A_BYTE
