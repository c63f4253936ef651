"""Hulls: where along a stream a comparison of two arrays' values can hold, found before the stream is walked.

In: a derivation whose mask compares a value of a row with a value of a position, `doc_q == doc_x`. Out: the
derivation of a diagram that gives, for every row, the first and last position where it may hold, and where
it surely does; and the first derivation, which reads them as bounds.

What is found for a row is found for its whole tile: in place of the row's value stand the least and greatest
of the tile's. So a tile's rows have one hull, which holds that of every row, and it costs one walk over the
positions a tile. Nothing is assumed of the order of the values; where they are sorted the hull is tight.
See docs/algebra.md, "Masks as bounds".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.algebra.affine import MIRRORED, is_known_before
from napkin.algebra.derive import Derivation
from napkin.algebra.laws import check_laws
from napkin.algebra.masks import Hull, negated
from napkin.algebra.relabel import woven
from napkin.algebra.streams import derive_stream
from napkin.diagram import (
    Argument,
    Box,
    Diagram,
    Extreme,
    Gather,
    Graph,
    Index,
    Input,
    Output,
    Pointwise,
    Size,
    State,
    renumbered,
    topological,
)
from napkin.operators import Kind

_LONGEST_NAME = 60  # so that a number still fits behind it
_NUMBERS = ("first", "stop", "sure_first", "sure_stop")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison `row operator position`: one side is known before the stream, one lies along it."""

    box: int
    operator: str
    row: int
    position: int


def find_comparisons(derivation: Derivation) -> tuple[Comparison, ...]:
    """Return the comparisons in a derivation's masks whose bounds only their values tell."""
    stream, graph = derivation.stream, derivation.graph
    found: dict[Comparison, None] = {}
    pending = [each for each in derivation.conditions if each is not None]
    while pending and stream is not None:
        each = pending.pop(0)
        box = graph[each]
        if not isinstance(box, Pointwise):
            continue
        if box.operator in ("and", "or"):
            pending += box.operands
        elif box.operator == "not":
            opened = negated(graph, box.operands[0])
            pending += () if opened is None else (opened,)
        elif box.operator in MIRRORED:
            made = _comparison(graph, each, box, stream.axis)
            found |= {} if made is None else {made: None}
    return tuple(found)


def _comparison(graph: Graph, each: int, box: Pointwise, axis: str) -> Comparison | None:
    left, right = box.operands
    if graph[left].kind is not Kind.INT or graph[right].kind is not Kind.INT:
        return None
    if is_known_before(graph, left, axis) and _lies_along(graph, right, axis):
        return Comparison(each, box.operator, left, right)
    if is_known_before(graph, right, axis) and _lies_along(graph, left, axis):
        return Comparison(each, MIRRORED[box.operator], right, left)
    return None


def _lies_along(graph: Graph, each: int, axis: str) -> bool:
    """Return whether a number varies along the stream with no state, and is not affine in its index."""
    below = [graph[i] for i in topological(graph, [each])]
    if axis not in graph[each].axes or any(isinstance(box, State) for box in below):
        return False
    read = any(isinstance(box, Input | Gather) and axis in box.axes for box in below)
    return read or any(isinstance(box, Pointwise) and box.operator == "floordiv" for box in below)


# --- a hull's own diagram ---------------------------------------------------------------------------


def derive_hull(
    derivation: Derivation, comparison: Comparison, name: str, taken: Collection[str]
) -> Derivation:
    """Return the derivation of a diagram `name` that gives a comparison's hull: four numbers a row.

    Its diagram says what a row's own hull is; its stream finds that of a tile's rows. Its outputs' names
    are none of `taken`.
    """
    stream, source = derivation.stream, derivation.graph
    assert stream is not None
    graph = Graph()
    row, position = _copied(source, graph, (comparison.row, comparison.position))
    batch = [axis for axis in graph[position].axes if axis != stream.axis]
    axes = tuple(dict.fromkeys((*batch, *graph[row].axes)))
    holds = graph.pointwise(comparison.operator, row, position)
    own = _ends(graph, axes, stream.axis, holds, holds)
    count = len(graph)
    roots = _ends(graph, axes, stream.axis, *_tests(graph, comparison.operator, row, position))
    wishes = _fresh(stream.axis, taken)
    outputs = tuple(
        Output(wish, tuple((axis,) for axis in axes), "int32", each)
        for wish, each in zip(wishes, own, strict=True)
    )
    read = {box.name for box in graph.boxes if isinstance(box, Input)}
    arguments = tuple(each for each in derivation.diagram.arguments if each.name in read)
    used = {*read, *axes, *wishes, stream.axis}
    diagram = Diagram(
        name,
        arguments,
        outputs,
        tuple(graph.boxes[:count]),
        _names(graph.boxes[:count], dict(zip(own, wishes, strict=True)), used),
        tuple(each for each in derivation.diagram.sizes if each[0] in {*axes, stream.axis}),
        source=derivation.diagram.source,
    )
    found = derive_stream(graph, roots, stream.axis, {})
    error = check_laws(graph, found, roots, arguments)
    conditions = tuple(None for _ in found.passes)
    return Derivation(diagram, graph, found, axes, (), (), conditions, (), error)


def _copied(source: Graph, target: Graph, roots: Sequence[int]) -> list[int]:
    """Copy boxes with what they need into another graph."""
    new: dict[int, int] = {}
    for each in topological(source, roots):
        new[each] = target.add(renumbered(source[each], new))
    return [new[each] for each in roots]


def _tests(graph: Graph, operator: str, row: int, position: int) -> tuple[int, int]:
    """Return where a comparison may hold for some row of a tile, and where for all."""
    least, greatest = (graph.add(Extreme(row, end, "")) for end in ("least", "greatest"))
    if operator == "eq":
        return _both(graph, least, greatest, position), _both(graph, greatest, least, position)
    if operator == "ne":
        below = (graph.pointwise("lt", each, position) for each in (least, greatest))
        above = (graph.pointwise("gt", each, position) for each in (greatest, least))
        may, sure = (graph.pointwise("or", *sides) for sides in zip(below, above, strict=True))
        return may, sure
    ends = (least, greatest) if operator in ("lt", "le") else (greatest, least)
    may, sure = (graph.pointwise(operator, each, position) for each in ends)
    return may, sure


def _both(graph: Graph, low: int, high: int, position: int) -> int:
    sides = graph.pointwise("le", low, position), graph.pointwise("ge", high, position)
    return graph.pointwise("and", *sides)


def _ends(graph: Graph, axes: Sequence[str], axis: str, may: int, sure: int) -> tuple[int, ...]:
    """Return the first and last position of each test, the second pair empty if the test fails between."""
    first, stop = _first_and_stop(graph, axis, may)
    sure_first, sure_stop = _first_and_stop(graph, axis, sure)
    zero, one = graph.constant(0), graph.constant(1)
    count = graph.reduce("sum", [graph.pointwise("where", sure, one, zero)], [axis])
    length = graph.pointwise("sub", sure_stop, sure_first)
    gapless = graph.pointwise("eq", count, length)
    ends = (
        first,
        stop,
        *(graph.pointwise("where", gapless, each, zero) for each in (sure_first, sure_stop)),
    )
    return tuple(woven(graph, axes, each) for each in ends)


def _first_and_stop(graph: Graph, axis: str, test: int) -> tuple[int, int]:
    """Return the first position where a test holds, and the one behind the last; the length and 0 if none."""
    index, size = graph.add(Index(axis)), graph.add(Size(axis))
    behind = graph.pointwise("add", index, graph.constant(1))
    where = (
        graph.pointwise("where", test, index, size),
        graph.pointwise("where", test, behind, graph.constant(0)),
    )
    first, stop = (
        graph.reduce(operator, [each], [axis])
        for operator, each in zip(("min", "max"), where, strict=True)
    )
    return first, stop


def _fresh(axis: str, taken: Collection[str]) -> tuple[str, ...]:
    """Return names for the four numbers of a hull."""
    stems = [f"{each}_{axis}"[:_LONGEST_NAME] for each in _NUMBERS]
    number = 1
    while any(_numbered(each, number) in taken for each in stems):
        number += 1
    return tuple(_numbered(each, number) for each in stems)


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}_{number}"


def _names(boxes: Sequence[Box], own: Mapping[int, str], taken: Collection[str]) -> tuple[str, ...]:
    """Return a name for every box: an argument's, an output's, or a number."""
    found: list[str] = []
    for number, box in enumerate(boxes):
        wish = f"t{number}"
        while wish in taken:
            wish = f"{wish}_"
        found.append(box.name if isinstance(box, Input) else own.get(number, wish))
    return tuple(found)


# --- the diagram that reads a hull ------------------------------------------------------------------


def with_hull(
    derivation: Derivation, comparison: Comparison, outputs: Sequence[Output]
) -> Derivation:
    """Return a derivation that reads a comparison's hull, as `derive_hull` gives it, as arguments."""
    graph = Graph(derivation.graph.boxes)
    ends = [graph.add(Input(each.name, each.axes, Kind.INT)) for each in outputs]
    given = tuple(Argument(each.name, each.dims, each.dtype) for each in outputs)
    diagram = derivation.diagram
    return replace(
        derivation,
        diagram=replace(diagram, arguments=(*diagram.arguments, *given)),
        graph=graph,
        hulls=(*derivation.hulls, (comparison.box, Hull(*ends))),
    )
