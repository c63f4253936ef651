"""The work that a diagram's contractions ask for, what its mask leaves out not counted.

In: a derivation, axis lengths, and the values of scalars if they are known. Out: FLOPs. The mask is
looked at where it depends on positions alone, at evenly spread ones if there are many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from napkin.algebra.derive import Derivation
from napkin.diagram import Diagram, Graph, Input, Pointwise, Reduce, topological
from napkin.evaluate import NumpyArithmetic, evaluate
from napkin.model.roles import is_contraction

Scalars = Mapping[str, float | int]
_SAMPLES = 1 << 22  # positions at which a mask is looked at, over all of its axes


@dataclass(frozen=True, slots=True)
class Masked:
    """What a mask leaves of contractions with its axes: a fraction."""

    axes: frozenset[str] = frozenset()
    fraction: float = 1.0

    def left(self, axes: frozenset[str], dense: int) -> int:
        """Return the operations that are left of a contraction with these axes."""
        return round(dense * self.fraction) if self.axes <= axes else dense


NOTHING_MASKED = Masked()


def contraction_flops(
    derivation: Derivation, sizes: Mapping[str, int], scalars: Scalars | None = None
) -> int:
    """Return the FLOPs of the diagram's contractions, counting what its mask leaves.

    Parts of a mask that are read from data, or from scalars that are not given, count as true.
    """
    masked = left_by_mask(derivation, sizes, scalars)
    return sum(
        masked.left(axes, 2 * prod(sizes[axis] for axis in axes))
        for axes in _contracted(derivation.diagram)
    )


def left_by_mask(
    derivation: Derivation, sizes: Mapping[str, int], scalars: Scalars | None = None
) -> Masked:
    """Return what the mask of a derivation leaves of its contractions, as `contraction_flops` counts it."""
    masks = [_indexed_part(derivation, each, scalars or {}) for each in derivation.conditions]
    parts = masks[0] if masks else []
    axes = frozenset(axis for each in parts for axis in derivation.graph[each].axes)
    return Masked(axes, _fraction_true(derivation, parts, sizes, scalars or {}))


def _contracted(diagram: Diagram) -> list[frozenset[str]]:
    """Return the axes of every contraction, those that it sums included."""
    roots = [each.box for each in diagram.outputs]
    boxes = (diagram.boxes[each] for each in topological(diagram.boxes, roots))
    return [
        frozenset((*box.axes, *box.over))
        for box in boxes
        if isinstance(box, Reduce) and is_contraction(diagram.boxes, box.operands, box.over)
    ]


def _indexed_part(derivation: Derivation, condition: int | None, scalars: Scalars) -> list[int]:
    """Return the conjuncts of a mask that depend on positions and known scalars alone."""
    stack, parts = [] if condition is None else [condition], []
    graph = derivation.graph
    while stack:
        each = stack.pop()
        box = graph[each]
        if isinstance(box, Pointwise) and box.operator == "and":
            stack += box.operands
            continue
        needed = [graph[i] for i in topological(graph, [each])]
        if all(not isinstance(b, Input) or b.name in scalars for b in needed):
            parts.append(each)
    return parts


def _fraction_true(
    derivation: Derivation, parts: list[int], sizes: Mapping[str, int], scalars: Scalars
) -> float:
    if not parts:
        return 1.0
    graph = Graph(derivation.graph.boxes)
    condition = parts[0]
    for each in parts[1:]:
        condition = graph.pointwise("and", condition, each)
    axes = graph[condition].axes
    most = int(_SAMPLES ** (1 / max(1, len(axes))))
    indices = {axis: _sampled(sizes[axis], most) for axis in axes}
    given = {name: np.asarray(value) for name, value in scalars.items()}
    values = evaluate(
        graph, [condition], given, sizes, indices=indices, arithmetic=NumpyArithmetic()
    )
    return float(np.mean(values[condition]))


def _sampled(size: int, most: int) -> Any:
    """Return an axis's positions, evenly thinned out where it is long."""
    count = min(size, most)
    return ((np.arange(count) * 2 + 1) * size) // (2 * count)
