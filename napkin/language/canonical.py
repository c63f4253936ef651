"""The one order and naming of a diagram's boxes, so that equal texts give equal diagrams.

In: a graph, the outputs, and the names that statements gave. Out: the boxes that the outputs
need: others in the order they were made, each leaf right before its first reader, with one name
for each.

Printing a diagram and reading it back gives the same boxes: this module is why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.diagram import (
    Box,
    Constant,
    Gather,
    Graph,
    Index,
    Input,
    Leaf,
    Pointwise,
    Reduce,
    Size,
    operands_of,
    print_constant,
    topological,
)
from napkin.language.source import Span


@dataclass(frozen=True, slots=True)
class Canonical:
    """Boxes in order with their names and spans; `ids` leads from a graph's ids to positions."""

    boxes: tuple[Box, ...]
    names: tuple[str, ...]
    spans: tuple[Span, ...]
    ids: Mapping[int, int]


def canonicalise(
    graph: Graph,
    spans: Sequence[Span],
    *,
    outputs: Mapping[str, int],
    assigned: Mapping[str, int],
    taken: Collection[str],
) -> Canonical:
    """Return the boxes that `outputs` need; `assigned` are the statements' names, in order."""
    order = _order(graph, list(outputs.values()))
    ids = {box: place for place, box in enumerate(order)}
    boxes = tuple(
        _move(graph[each], tuple(ids[child] for child in operands_of(graph[each])))
        for each in order
    )
    chosen = _choose_names(outputs, assigned)
    kept = {ids[box]: name for box, name in chosen.items() if box in ids}
    names = _name_boxes(boxes, kept, taken)
    return Canonical(boxes, names, tuple(spans[each] for each in order), ids)


def _order(graph: Graph, outputs: Sequence[int]) -> list[int]:
    needed = sorted(topological(graph, outputs))
    placed: dict[int, None] = {}
    for each in needed:
        if isinstance(graph[each], Leaf):
            continue
        leaves = [child for child in operands_of(graph[each]) if isinstance(graph[child], Leaf)]
        placed |= dict.fromkeys((*leaves, each))
    return list(placed | dict.fromkeys(outputs))


def _move(box: Box, operands: tuple[int, ...]) -> Box:
    match box:
        case Pointwise() | Reduce():
            return replace(box, operands=operands)
        case Gather():
            return replace(box, array=operands[0], indices=operands[1:])
        case _:
            return box


def _choose_names(outputs: Mapping[str, int], assigned: Mapping[str, int]) -> dict[int, str]:
    """Return one name for each assigned box: the first, but an output's before any other."""
    chosen: dict[int, str] = {}
    for name, box in assigned.items():
        if box not in chosen or (name in outputs and chosen[box] not in outputs):
            chosen[box] = name
    return chosen


def _name_boxes(
    boxes: Sequence[Box], chosen: Mapping[int, str], taken: Collection[str]
) -> tuple[str, ...]:
    used = {*taken, *chosen.values()}
    names: list[str] = []
    count = 0
    for place, box in enumerate(boxes):
        name = _leaf_name(box) or chosen.get(place)
        if name is None:
            count += 1
            while f"t{count}" in used:
                count += 1
            name = f"t{count}"
        names.append(name)
    return tuple(names)


def _leaf_name(box: Box) -> str | None:
    match box:
        case Input():
            return box.name
        case Constant():
            return print_constant(box.value)
        case Index():
            return box.axis
        case Size():
            return f"size({box.axis})"
        case _:
            return None
