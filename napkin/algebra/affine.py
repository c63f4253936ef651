"""Whole numbers as affine forms: indices, what is uniform in a tile, what varies over it, with coefficients.

In: a box, and how whole numbers vary over a tile. Out: an `Affine`, or None if the box is none. `isolate`
uses it to put a stream's index alone on one side of a comparison. `masks` turns comparisons into bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from napkin.diagram import Constant, Graph, Index, Pointwise, State, operands_of, topological
from napkin.operators import Kind

COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq"})
MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


class Variation(Enum):
    """How a whole number varies over a tile: not at all, over what is held of it, over more than that."""

    NONE = "none"
    INSIDE = "inside"
    BEYOND = "beyond"


@dataclass(frozen=True, slots=True)
class Affine:
    """Coefficients of indices by axis, of boxes (uniform in a tile, or varying over it), and a constant."""

    indices: tuple[tuple[str, int], ...] = ()
    uniform: tuple[tuple[int, int], ...] = ()
    varying: tuple[tuple[int, int], ...] = ()
    constant: int = 0

    def plus(self, other: Affine, sign: int) -> Affine:
        return Affine(
            _sum(self.indices, other.indices, sign),
            _sum(self.uniform, other.uniform, sign),
            _sum(self.varying, other.varying, sign),
            self.constant + sign * other.constant,
        )

    @property
    def is_number(self) -> bool:
        """Whether it is a constant alone."""
        return not (self.indices or self.uniform or self.varying)


Key = TypeVar("Key", str, int)


def _sum(
    left: tuple[tuple[Key, int], ...], right: tuple[tuple[Key, int], ...], sign: int
) -> tuple[tuple[Key, int], ...]:
    total = dict(left)
    for key, coefficient in right:
        total[key] = total.get(key, 0) + sign * coefficient
    return tuple((key, coefficient) for key, coefficient in total.items() if coefficient)


_MAX_COEFFICIENT = 4096


def affine_form(
    graph: Graph, each: int, axis: str, variation: Callable[[int], Variation]
) -> Affine | None:
    """Return a box as an affine form in the axis's index, None if it is none."""
    box = graph[each]
    if isinstance(box, Index):
        return Affine(indices=((box.axis, 1),))
    if isinstance(box, Constant) and box.kind is Kind.INT:
        return Affine(constant=int(box.value))
    if box.kind is not Kind.INT:
        return None
    if variation(each) is Variation.NONE:
        return Affine(uniform=((each, 1),))
    found = _affine_pointwise(graph, box, axis, variation) if isinstance(box, Pointwise) else None
    if found is None and variation(each) is Variation.INSIDE and is_known_before(graph, each, axis):
        return Affine(varying=((each, 1),))
    return found


def is_known_before(graph: Graph, each: int, axis: str) -> bool:
    """Return whether a number varies neither along the stream nor with its states."""
    below = [graph[i] for i in topological(graph, [each])]
    return not any(axis in box.axes or isinstance(box, State) for box in below)


def _affine_pointwise(
    graph: Graph, box: Pointwise, axis: str, variation: Callable[[int], Variation]
) -> Affine | None:
    parts = [affine_form(graph, operand, axis, variation) for operand in operands_of(box)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if box.operator == "neg":
        return scaled(known[0], -1)
    if box.operator in ("add", "sub"):
        return known[0].plus(known[1], 1 if box.operator == "add" else -1)
    if box.operator == "mul":
        for one, other in (known, known[::-1]):
            if one.is_number and abs(one.constant) <= _MAX_COEFFICIENT:
                return scaled(other, one.constant)
    return None


def scaled(affine: Affine, factor: int) -> Affine:
    return Affine(
        tuple((axis, c * factor) for axis, c in affine.indices),
        tuple((box, c * factor) for box, c in affine.uniform),
        tuple((box, c * factor) for box, c in affine.varying),
        affine.constant * factor,
    )


def isolate(graph: Graph, comparison: int, axis: str) -> int:
    """Return an affine comparison with the axis's index alone on one side: a row against a column.

    `q - x < w` compares a whole tile of differences; `x > q - w` two vectors. Anything else comes
    back as it is.
    """
    box = graph[comparison]
    if not isinstance(box, Pointwise) or box.operator not in COMPARISONS | {"ne"}:
        return comparison

    def variation(each: int) -> Variation:
        return Variation.INSIDE if graph[each].axes else Variation.NONE

    sides = (affine_form(graph, each, axis, variation) for each in box.operands)
    left, right = sides
    if left is None or right is None:
        return comparison
    difference = left.plus(right, -1)
    coefficient = dict(difference.indices).get(axis)
    if coefficient not in (1, -1):
        return comparison
    rest = difference.plus(Affine(indices=((axis, coefficient),)), -1)
    # coefficient * axis + rest OP 0
    alone = _linear(graph, scaled(rest, -coefficient))
    operator = box.operator if coefficient == 1 else MIRRORED[box.operator]
    return graph.pointwise(operator, graph.add(Index(axis)), alone)


def _linear(graph: Graph, affine: Affine) -> int:
    """Return an affine form as a box."""
    terms = [(graph.add(Index(axis)), coefficient) for axis, coefficient in affine.indices]
    return signed_sum(graph, [*terms, *affine.uniform, *affine.varying], affine.constant)


def signed_sum(graph: Graph, terms: Sequence[tuple[int, int]], constant: int) -> int:
    """Return boxes by coefficients and a constant, what is added before what is taken away."""
    total: int | None = None
    for box, coefficient in sorted(terms, key=lambda term: term[1] < 0):
        size = graph.constant(abs(coefficient))
        value = box if abs(coefficient) == 1 else graph.pointwise("mul", size, box)
        if total is None:
            total = value if coefficient > 0 else graph.pointwise("neg", value)
        else:
            total = graph.pointwise("add" if coefficient > 0 else "sub", total, value)
    if total is None or constant == 0:
        return graph.constant(constant) if total is None else total
    operator = "add" if constant > 0 else "sub"
    return graph.pointwise(operator, total, graph.constant(abs(constant)))
