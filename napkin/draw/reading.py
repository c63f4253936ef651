"""Which boxes of a diagram are drawn, and which are written inside the formula of another.

In: a diagram. Out: a `Reading`. A part that the prelude has a word for counts as one box. A
pointwise box that one other pointwise box reads joins it; a bare one, which depends on no array
(an index, a mask), is written wherever it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from napkin.diagram import Constant, Diagram, Gather, Index, Input, Pointwise, Size, operands_of
from napkin.draw.parts import Part, find_parts


@dataclass(frozen=True)
class Reading:
    """A diagram with its parts, each known by the last of its boxes."""

    diagram: Diagram
    parts: Mapping[int, Part]

    def operands(self, each: int) -> tuple[int, ...]:
        """Return what a box reads, or what the part that ends in it reads."""
        if each in self.parts:
            return self.parts[each].arguments
        return operands_of(self.diagram.boxes[each])

    def is_pointwise(self, each: int) -> bool:
        """Return whether a box, or the part that ends in it, works element by element."""
        if each in self.parts:
            return not self.parts[each].axes
        return isinstance(self.diagram.boxes[each], Pointwise)

    def has_formula(self, each: int) -> bool:
        """Return whether the node of a box shows a formula, in which bare operands are written."""
        if each in self.parts and self.parts[each].axes:
            return len(self.parts[each].arguments) > 1
        is_gather = isinstance(self.diagram.boxes[each], Gather)
        return self.is_pointwise(each) or each in self.bare or is_gather

    @cached_property
    def bare(self) -> frozenset[int]:
        """The boxes that depend on no array: indices, lengths, numbers, and what scalars give."""
        found: set[int] = set()
        scalars = {
            each
            for each, box in enumerate(self.diagram.boxes)
            if isinstance(box, Input) and not box.axes
        }
        for each, box in enumerate(self.diagram.boxes):
            is_derived = self.is_pointwise(each) and (found | scalars).issuperset(
                self.operands(each)
            )
            if isinstance(box, Constant | Index | Size) or is_derived:
                found.add(each)
        return frozenset(found)

    @cached_property
    def drawn(self) -> frozenset[int]:
        """The boxes with a node of their own, arguments apart."""
        outputs = {output.box for output in self.diagram.outputs}
        return frozenset(
            each
            for each, readers in self._readers().items()
            if not isinstance(self.diagram.boxes[each], Input)
            and (each in outputs or not self._is_written(each, readers))
        )

    def _readers(self) -> dict[int, set[int]]:
        """Return every box that the outputs need, with those that read it."""
        readers: dict[int, set[int]] = {output.box: set() for output in self.diagram.outputs}
        for each in reversed(range(len(self.diagram.boxes))):
            if each in readers:
                for operand in self.operands(each):
                    readers.setdefault(operand, set()).add(each)
        return readers

    def _is_written(self, each: int, readers: set[int]) -> bool:
        """Return whether every reader writes a box into its own formula."""
        if each in self.bare:
            return all(self.has_formula(reader) for reader in readers)
        return len(readers) == 1 and all(map(self.is_pointwise, (each, *readers)))

    def members(self, root: int) -> tuple[int, ...]:
        """Return the boxes written inside the formula of `root`, itself too, operands first."""
        found = {root}
        pending = [root]
        while pending:
            for operand in self.operands(pending.pop()):
                if operand not in found and not self._comes_in(operand):
                    found.add(operand)
                    pending.append(operand)
        return tuple(sorted(found))

    def _comes_in(self, each: int) -> bool:
        is_input = isinstance(self.diagram.boxes[each], Input)
        return is_input or (each in self.drawn and each not in self.bare)

    def incoming(self, root: int) -> tuple[int, ...]:
        """Return the boxes that a node reads from other nodes, each once: arrays, then scalars."""
        found: dict[int, None] = {}
        pending = [root]
        seen = {root}
        while pending:
            each = pending.pop()
            if each != root and (self._comes_in(each) or not self.has_formula(root)):
                found[each] = None
                continue
            fresh = [operand for operand in self.operands(each) if operand not in seen]
            seen.update(fresh)
            pending += reversed(dict.fromkeys(fresh))
        return tuple(sorted(found, key=lambda each: not self.diagram.boxes[each].axes))


def read_boxes(diagram: Diagram) -> Reading:
    """Return which boxes are drawn."""
    return Reading(diagram, find_parts(diagram))
