"""Sums over what is read at positions from data: the readers of each place, one after the other.

In: a diagram with one sum that is taken where a number from data is a place's own, as the gradient of an
array is that was read there: `sum[q](where(index[q] == v, dO[q, d], 0))`. Out: the same sum along the
readers in the order of their places, each place's between two bounds, and the diagrams that find that order
and the bounds first. Nothing is added in memory, so no two runs differ, and nothing is assumed of the data: a
place may have any number of readers. See docs/algebra.md, "Readers in order". What is recognised: `readings`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce as fold
from zlib import crc32

from napkin.algebra.naming import fresh_name
from napkin.algebra.readings import Coordinate, Reading, find_coordinates, find_reading
from napkin.algebra.relabel import relabel
from napkin.diagram import (
    Argument,
    Diagram,
    Gather,
    Graph,
    Implied,
    Index,
    Input,
    Output,
    Reduce,
    Size,
    renumbered,
    substitute,
    topological,
    verify,
)
from napkin.language.canonical import canonicalise
from napkin.language.source import NOWHERE
from napkin.operators import Kind

_LONGEST_NAME = 40  # of an array that is read by, so that words still fit around it


@dataclass(frozen=True, slots=True)
class Ordered:
    """A diagram whose sum goes along the readers of each place, and those that run before it, in order.

    `reads` is the label of the readers, `axis` that of the places, `fixed` are the axes whose lengths it is
    made for. `implied` are the lengths of the new labels.
    """

    diagram: Diagram
    before: tuple[Diagram, ...]
    reads: str
    axis: str
    fixed: tuple[str, ...]
    implied: Mapping[str, Implied]


def in_order(
    diagram: Diagram,
    implied: Mapping[str, Implied],
    lengths: Mapping[str, int],
    taken: Collection[str],
) -> Ordered | None:
    """Return a diagram with its sum along the readers of each place, None if it has no such sum.

    `implied` are lengths that follow from others, `taken` the names that new arrays and labels may not have.
    """
    graph = Graph(diagram.boxes)
    reading = find_reading(graph, diagram)
    if reading is None:
        return None
    walked = find_coordinates(graph, reading, implied, lengths)
    return None if walked is None else _Writer(graph, diagram, reading, walked, taken).run()


class _Writer:
    """Writes the diagrams of a reading, whose coordinates are known."""

    def __init__(
        self,
        graph: Graph,
        diagram: Diagram,
        reading: Reading,
        walked: Sequence[Coordinate],
        taken: Collection[str],
    ) -> None:
        self.graph = graph
        self.diagram = diagram
        self.reading = reading
        self.walked = walked
        labels = {each.label for each in walked}
        self.batch = tuple(axis for axis in graph[reading.key].axes if axis not in labels)
        stem = self._stem()
        self.reads, self.others = (self._fresh(f"{each}_{stem}", taken) for each in ("r", "e"))
        self.rank, self.reader = (
            self._fresh(f"{each}_{stem}", taken) for each in ("rank", "reader")
        )
        self.first, self.stop = (
            self._fresh(f"{each}_{stem}_{reading.axis}", taken) for each in ("first", "stop")
        )

    def run(self) -> Ordered:
        axes = tuple(each.axis for each in self.walked)
        fixed = tuple(each.slot for each in self.walked if each.slot)
        implied = Implied(axes)
        return Ordered(
            self._main(),
            (self._ranks(), self._readers(), self._bounds()),
            self.reads,
            self.reading.axis,
            fixed,
            {self.reads: implied, self.others: implied},
        )

    def _fresh(self, wish: str, taken: Collection[str]) -> str:
        return fresh_name(wish, set(taken))

    def _stem(self) -> str:
        """Return the name of the table that is read, with a number where it is not read as it lies."""
        graph = self.graph
        key = self._key_at(graph.add(Index("r")))
        box, below = graph[key], [graph[each] for each in topological(graph, [key])]
        name = next(each.name for each in below if isinstance(each, Input))[:_LONGEST_NAME]
        whole = tuple(each.axis for each in self.walked)
        if isinstance(box, Gather) and graph[box.array].axes == whole:
            return name
        order = {each: place for place, each in enumerate(topological(graph, [key]))}
        text = "".join(str(renumbered(each, order)) for each in below)
        return f"{name}_{crc32(text.encode()) % 10000}"

    def _at(self, number: int) -> list[int]:
        """Return the coordinates of a reader by its number: the table's places in the order of memory."""
        graph, found = self.graph, list[int]()
        inner: list[int] = []
        for each in reversed(self.walked):
            steps = fold(lambda a, b: graph.pointwise("mul", a, b), inner) if inner else None
            place = number if steps is None else graph.pointwise("floordiv", number, steps)
            size = graph.add(Size(each.axis))
            is_first = each is self.walked[0]
            found.append(place if is_first else graph.pointwise("mod", place, size))
            inner.insert(0, size)
        return found[::-1]

    def _key_at(self, number: int) -> int:
        """Return the place that a reader reads, by the reader's number."""
        graph = self.graph
        places = dict(zip((each.box for each in self.walked), self._at(number), strict=True))
        steps = {box: place for box, place in places.items() if not isinstance(graph[box], Index)}
        (key,) = substitute(graph, [self.reading.key], steps)
        moved = {
            box.axis: place
            for each, place in places.items()
            if isinstance(box := graph[each], Index)
        }
        (key,) = relabel(graph, [key], moved)
        return key

    def _main(self) -> Diagram:
        """Return the diagram with its sum along the readers of each place."""
        graph, reading = self.graph, self.reading
        total = graph[reading.total]
        assert isinstance(total, Reduce)
        reader = graph.add(Input(self.reader, (*self.batch, self.reads), Kind.INT))
        first, stop = (
            graph.add(Input(name, (*self.batch, reading.axis), Kind.INT))
            for name in (self.first, self.stop)
        )
        number = graph.add(Index(self.reads))
        moved: dict[str, int] = {}
        for each, place in zip(self.walked, self._at(reader), strict=True):
            moved[each.label] = place
            if each.step is not None:
                start = graph.pointwise("mul", graph.constant(each.step), place)
                moved[each.label] = graph.pointwise("add", start, graph.add(Index(each.slot)))
        met = {each.test for each in self.walked}
        tests = [each for each in reading.tests if each not in met]
        here = {reading.key: graph.add(Index(reading.axis))}
        value, *tests = relabel(graph, substitute(graph, [reading.value, *tests], here), moved)
        tests = [
            graph.pointwise("le", first, number),
            graph.pointwise("lt", number, stop),
            *self._slots(),
            *tests,
        ]
        inside = fold(lambda a, b: graph.pointwise("and", a, b), tests)
        operand = graph.pointwise("where", inside, value, graph.constant(0.0))
        labels = {each.label for each in self.walked}
        over = [self.reads, *(axis for axis in total.over if axis not in labels)]
        summed = graph.reduce("sum", [operand], over)
        outputs = self.diagram.outputs
        boxes = substitute(graph, [each.box for each in outputs], {reading.total: summed})
        return self._diagram(
            self.diagram.name,
            [replace(each, box=box) for each, box in zip(outputs, boxes, strict=True)],
        )

    def _slots(self) -> list[int]:
        """Return the tests that a place of a step is one: the axis may be longer than a step."""
        graph = self.graph
        steps = {each.slot: each.step for each in self.walked if each.step is not None}
        sizes = dict(self.diagram.sizes)
        return [
            graph.pointwise("lt", graph.add(Index(slot)), graph.constant(step))
            for slot, step in steps.items()
            if sizes.get(slot) != step
        ]

    def _ranks(self) -> Diagram:
        """Return the diagram of every reader's rank: by the place that it reads, then by its own."""
        graph = self.graph
        own, other = (graph.add(Index(axis)) for axis in (self.reads, self.others))
        key, least = self._key_at(own), self._key_at(other)
        tie = graph.pointwise(
            "and", graph.pointwise("eq", least, key), graph.pointwise("lt", other, own)
        )
        before = graph.pointwise("or", graph.pointwise("lt", least, key), tie)
        rank = self._count(before, self.others)
        return self._diagram(self.rank, [self._given(self.rank, self.reads, rank)])

    def _readers(self) -> Diagram:
        """Return the diagram of the readers by their rank."""
        graph = self.graph
        rank = graph.add(Input(self.rank, (*self.batch, self.others), Kind.INT))
        own, other = (graph.add(Index(axis)) for axis in (self.reads, self.others))
        here = graph.pointwise("eq", rank, own)
        chosen = graph.pointwise("where", here, other, graph.constant(0))
        reader = graph.reduce("sum", [chosen], [self.others])
        return self._diagram(self.reader, [self._given(self.reader, self.reads, reader)])

    def _bounds(self) -> Diagram:
        """Return the diagram of each place's readers: the rank of the first, and that behind the last."""
        graph, axis = self.graph, self.reading.axis
        key, place = self._key_at(graph.add(Index(self.reads))), graph.add(Index(axis))
        outputs = [
            self._given(name, axis, self._count(graph.pointwise(test, key, place), self.reads))
            for name, test in ((self.first, "lt"), (self.stop, "le"))
        ]
        return self._diagram(self.first, outputs)

    def _count(self, test: int, axis: str) -> int:
        graph = self.graph
        chosen = graph.pointwise("where", test, graph.constant(1), graph.constant(0))
        return graph.reduce("sum", [chosen], [axis])

    def _given(self, name: str, axis: str, box: int) -> Output:
        return Output(name, tuple((each,) for each in (*self.batch, axis)), "int32", box)

    def _diagram(self, name: str, outputs: Sequence[Output]) -> Diagram:
        """Return a diagram of boxes; its arguments are those of the whole, then the arrays between."""
        graph = self.graph
        roots = {each.name: each.box for each in outputs}
        read = {
            box.name: box
            for each in topological(graph, list(roots.values()))
            if isinstance(box := graph[each], Input)
        }
        own = [each for each in self.diagram.arguments if read.pop(each.name, None)]
        new = [
            Argument(each.name, tuple((axis,) for axis in each.axes), "int32")
            for each in read.values()
        ]
        spans = [*self.diagram.spans, *[NOWHERE] * len(graph)][: len(graph)]
        axes = {axis for box in graph.boxes for axis in box.axes}
        taken = {*axes, *roots, *(each.name for each in (*own, *new))}
        canonical = canonicalise(graph, spans, outputs=roots, assigned=roots, taken=taken)
        placed = tuple(replace(each, box=canonical.ids[each.box]) for each in outputs)
        made = replace(
            self.diagram,
            name=name,
            arguments=(*own, *new),
            outputs=placed,
            boxes=canonical.boxes,
            names=canonical.names,
            spans=canonical.spans,
            relabellings=(),
        )
        return verify(made)
