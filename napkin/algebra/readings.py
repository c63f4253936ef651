"""What a sum over reads at positions from data is made of, and where its readers are.

In: a diagram. Out: its `Reading`, a sum of values where numbers from data are a place's own, and the
`Coordinate`s that tell the readers apart; None where it has none. `readers` writes the sum along them.

A label of which the data see only every so many positions, x in `page[b, x // 16]`, moves in whole steps
where another test says which position of the step a place takes, `x % 16 == s`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce as fold

from napkin.diagram import (
    Constant,
    Diagram,
    Gather,
    Graph,
    Implied,
    Index,
    Input,
    Pointwise,
    Reduce,
    Size,
    operands_of,
    topological,
)
from napkin.operators import Kind


@dataclass(frozen=True, slots=True)
class Reading:
    """A sum of values where tests hold, the number from data that one test compares, and with which axis.

    `tests` are the other ones.
    """

    total: int
    value: int
    key: int
    axis: str
    tests: tuple[int, ...]


def find_reading(graph: Graph, diagram: Diagram) -> Reading | None:
    """Return a diagram's one sum over what is read at positions from data, None if it has no such sum."""
    needed = topological(graph, [each.box for each in diagram.outputs])
    totals = [each for each in needed if isinstance(graph[each], Reduce)]
    if len(totals) != 1 or any(each.added for each in diagram.outputs):
        return None
    box = graph[totals[0]]
    if not isinstance(box, Reduce) or box.operator != "sum" or box.kind is not Kind.FLOAT:
        return None
    tests, values = _masked(graph, box.operands)
    for place, test in enumerate(tests):
        met = _met(graph, test, box.over)
        if met is not None:
            rest = (*tests[:place], *tests[place + 1 :])
            value = fold(lambda a, b: graph.pointwise("mul", a, b), values)
            return Reading(totals[0], value, *met, rest)
    return None


def _masked(graph: Graph, operands: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the tests without which a product is 0, and its factors where they hold."""
    tests: list[int] = []
    values: list[int] = []
    for each in operands:
        box = graph[each]
        while isinstance(box, Pointwise) and box.operator == "where" and _is_zero(graph, box):
            tests += _conjunction(graph, box.operands[0])
            each = box.operands[1]
            box = graph[each]
        values.append(each)
    return tests, values


def _is_zero(graph: Graph, box: Pointwise) -> bool:
    return graph[box.operands[2]] == Constant(0.0, Kind.FLOAT)


def _conjunction(graph: Graph, test: int) -> list[int]:
    box = graph[test]
    if isinstance(box, Pointwise) and box.operator == "and":
        return [one for each in box.operands for one in _conjunction(graph, each)]
    return [test]


def _met(graph: Graph, test: int, over: Collection[str]) -> tuple[int, str] | None:
    """Return the number from data that a test compares with an axis's own index, and the axis."""
    box = graph[test]
    if not isinstance(box, Pointwise) or box.operator != "eq":
        return None
    for key, place in (box.operands, box.operands[::-1]):
        index = graph[place]
        if isinstance(index, Index) and index.axis not in (*over, *graph[key].axes):
            from_data = any(isinstance(graph[each], Input) for each in topological(graph, [key]))
            if from_data and not set(over).isdisjoint(graph[key].axes):
                return key, index.axis
    return None


# --- where the readers are ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A label that tells readers apart: the box that the data are read at, and the table's axis there.

    Of a label that moves in steps, `step` is their length, `slot` the axis of the position in a step, and
    `test` the test that says so.
    """

    label: str
    box: int
    axis: str
    step: int | None = None
    slot: str = ""
    test: int | None = None


def find_coordinates(
    graph: Graph,
    reading: Reading,
    implied: Mapping[str, Implied],
    lengths: Mapping[str, int],
) -> tuple[Coordinate, ...] | None:
    """Return what tells readers apart, in the order of the table's axes; None if some label has no axis."""
    total = graph[reading.total]
    assert isinstance(total, Reduce)
    labels = [axis for axis in graph[reading.key].axes if axis in total.over]
    found: list[Coordinate] = []
    for label in labels:
        each = _stepped(graph, reading, label, implied, lengths) or _bare(
            graph, reading, label, implied
        )
        if each is None:
            return None
        found.append(each)
    places = _table_axes(graph, reading.key)
    return tuple(sorted(found, key=lambda each: list(places).index(each.box)))


def _table_axes(graph: Graph, key: int) -> dict[int, str]:
    """Return the boxes at which arrays are read, with the arrays' axes there."""
    found: dict[int, str] = {}
    boxes = topological(graph, [key])
    arrays = {box.array for each in boxes if isinstance(box := graph[each], Gather)}
    for each in boxes:
        box = graph[each]
        if isinstance(box, Gather):
            for axis, index in zip(graph[box.array].axes, box.indices, strict=True):
                found.setdefault(index, axis)
        elif isinstance(box, Input) and each not in arrays:
            for axis in box.axes:
                found.setdefault(graph.add(Index(axis)), axis)
    return found


def _bare(
    graph: Graph, reading: Reading, label: str, implied: Mapping[str, Implied]
) -> Coordinate | None:
    """Return a label as a coordinate, if it is as long as an axis that the data are read along."""
    box = graph.add(Index(label))
    axis = _table_axes(graph, reading.key).get(box)
    if axis is None or (axis != label and implied.get(label) != Implied((axis,))):
        return None
    return Coordinate(label, box, axis)


def _stepped(
    graph: Graph,
    reading: Reading,
    label: str,
    implied: Mapping[str, Implied],
    lengths: Mapping[str, int],
) -> Coordinate | None:
    """Return a label's steps as a coordinate, if the data see no more of it and a test takes the rest."""
    index = graph.add(Index(label))
    users = [
        each for each in topological(graph, [reading.key]) if index in operands_of(graph[each])
    ]
    step = graph[users[0]] if len(users) == 1 else None
    if not isinstance(step, Pointwise) or step.operator != "floordiv":
        return None
    count = graph[step.operands[1]]
    axis = _table_axes(graph, reading.key).get(users[0])
    if not isinstance(count, Constant) or axis is None:
        return None
    length = int(count.value)
    if implied.get(label) != Implied((axis,), length):
        return None
    for test in reading.tests:
        slot = _slot(graph, test, graph.pointwise("mod", *step.operands))
        if slot is not None and slot not in graph[reading.key].axes and lengths[slot] >= length:
            return Coordinate(label, users[0], axis, length, slot, test)
    return None


def _slot(graph: Graph, test: int, position: int) -> str | None:
    """Return the axis whose index a test compares with a position, perhaps held within that axis."""
    box = graph[test]
    if not isinstance(box, Pointwise) or box.operator != "eq":
        return None
    for held, place in (box.operands, box.operands[::-1]):
        index = graph[place]
        if isinstance(index, Index):
            last = graph.pointwise("sub", graph.add(Size(index.axis)), graph.constant(1))
            above = graph.pointwise("max2", position, graph.constant(0))
            if held in (position, graph.pointwise("min2", above, last)):
                return index.axis
    return None
