"""A stream in segments that are walked side by side, and what puts their states together.

In: a derivation of one pass. Out: two ordinary diagrams, so that every later stage serves them
unchanged. The first has an axis more, the segment: every reduction along the stream sees the positions of its
segment alone, by a mask that becomes the bounds of a loop, and what it gives are the states. The second folds
the states of all segments as the merge law says, and applies the tail. Together they mean what the diagram
means, for any length of the stream and any number of segments (docs/algebra.md, "Body, head, tail, merge").

Deliberately absent: how many segments, which is a machine's matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isinf

from napkin.algebra.conditions import vanishes
from napkin.algebra.derive import Derivation
from napkin.algebra.naming import fresh_name
from napkin.algebra.signs import is_finite_move
from napkin.algebra.states import Accumulator, Stream, Transport
from napkin.diagram import (
    Argument,
    Constant,
    Diagram,
    Gather,
    Graph,
    Index,
    Input,
    Output,
    Pointwise,
    Size,
    State,
    renumbered,
    substitute,
    topological,
    verify,
)
from napkin.operators import REDUCTIONS, Kind

SEGMENT_MULTIPLE = 256  # positions: no segment begins inside a chunk
_STATE_TYPES = {Kind.FLOAT: "fp32", Kind.INT: "int32", Kind.BOOL: "bool"}


@dataclass(frozen=True, slots=True)
class Segmented:
    """A diagram in two: `walk` gives every segment's states, `merge` the outputs; `axis` numbers segments."""

    walk: Diagram
    merge: Diagram
    axis: str


def segment(derivation: Derivation, count: int) -> Segmented | str:
    """Return the diagram with its stream in so many segments, or in words why it can't be."""
    stream = derivation.stream
    if stream is None:
        return "nothing is streamed"
    if len(stream.passes) != 1 or stream.passes[0].stores:
        return "a later pass needs what an earlier one found of the whole stream"
    if any(each.kind is not Kind.FLOAT for each in stream.accumulators):
        return "a state is no real number"
    graph, outputs = derivation.graph, derivation.diagram.outputs
    if any(set(graph[box].axes) != {*outputs[number].axes} for number, box in stream.tail):
        return "an output does not vary over all of its axes"
    return _Segmenter(derivation, stream, count).run()


class _Segmenter:
    def __init__(self, derivation: Derivation, stream: Stream, count: int) -> None:
        self.derivation = derivation
        self.diagram = derivation.diagram
        self.stream = stream
        self.count = count
        self.states = {each.name: each for each in stream.accumulators}
        maxima = (each.name for each in stream.accumulators if each.operator == "max")
        self.maxima = frozenset(maxima)
        self.taken = {*self.diagram.names, *self.diagram.axes, self.diagram.name}
        self.taken |= {each.name for each in self.diagram.arguments}
        self.taken |= {each.name for each in self.diagram.outputs}
        self.axis = fresh_name("segment", self.taken)
        self.arrays = {
            each.name: fresh_name(f"{each.name}_walked", self.taken) for each in stream.accumulators
        }

    def run(self) -> Segmented:
        """Make both diagrams."""
        return Segmented(self._walk(), self._merge(), self.axis)

    # --- the walk --------------------------------------------------------------------------------

    def _walk(self) -> Diagram:
        graph = Graph(self.derivation.graph.boxes)
        inside = self._inside(graph)
        masked: dict[int, int] = {}
        found: dict[str, int] = {}
        for each in self.stream.accumulators:
            final = substitute(graph, each.factors, _states(graph, each.factors, found))
            settled = {box: box for box in found.values()}
            factors = substitute(graph, final, masked | settled)
            if not self._leaves_out(graph, each, factors, inside):
                unit = graph.constant(REDUCTIONS[each.operator].unit)
                # Zero times a mask's infinity is not zero: what holds one is masked itself.
                for place in [i for i, one in enumerate(factors) if _is_cut(graph, one)] or [0]:
                    bare = factors[place]
                    factors[place] = graph.pointwise("where", inside, bare, unit)
                    if each.operator != "sum" and not _is_gathered(graph, bare):
                        masked[bare] = factors[place]  # what reads it too needs no mask of its own
            # What does not vary along the stream is folded over nothing; masked, it varies.
            over = tuple(dict.fromkeys((*each.over, self.stream.axis)))
            found[each.name] = graph.reduce(each.operator, factors, over)
        outputs = [self._state_output(graph, each, found) for each in self.stream.accumulators]
        return self._diagram("segments", graph, found, outputs, ())

    def _inside(self, graph: Graph) -> int:
        """Return whether a position of the stream belongs to the segment."""
        one, multiple = graph.constant(1), graph.constant(SEGMENT_MULTIPLE)
        whole = graph.add(Size(self.stream.axis))
        number, count = graph.add(Index(self.axis)), graph.add(Size(self.axis))
        length = _divided_up(graph, _divided_up(graph, whole, count), multiple)
        length = graph.pointwise("mul", length, multiple)
        start = graph.pointwise("mul", number, length)
        stop = graph.pointwise("mul", graph.pointwise("add", number, one), length)
        position = graph.add(Index(self.stream.axis))
        return graph.pointwise(
            "and",
            graph.pointwise("le", start, position),
            graph.pointwise("lt", position, stop),
        )

    def _leaves_out(
        self, graph: Graph, each: Accumulator, factors: Sequence[int], inside: int
    ) -> bool:
        """Return whether positions outside the segment add nothing already."""
        carried = any(self.axis in graph[factor].axes for factor in factors)
        return carried and vanishes(graph, replace(each, factors=tuple(factors)), inside)

    def _state_output(self, graph: Graph, each: Accumulator, found: Mapping[str, int]) -> Output:
        return Output(
            self.arrays[each.name],
            ((self.axis,), *((axis,) for axis in each.axes)),
            _STATE_TYPES[each.kind],
            found[each.name],
        )

    # --- the merge --------------------------------------------------------------------------------

    def _merge(self) -> Diagram:
        graph = Graph(self.derivation.graph.boxes)
        arrays = {
            each.name: graph.add(Input(self.arrays[each.name], (self.axis, *each.axes), each.kind))
            for each in self.stream.accumulators
        }
        found: dict[str, int] = {}
        for each in self.stream.accumulators:
            moved = [self._moved(graph, arrays, found, term) for term in each.transport]
            factors = moved[0]
            for other in moved[1:]:
                factors = [graph.pointwise("add", _product(graph, factors), _product(graph, other))]
            found[each.name] = graph.reduce(each.operator, factors, (self.axis,))
        final = _states(graph, [box for _, box in self.stream.tail], found)
        boxes = substitute(graph, [box for _, box in self.stream.tail], final)
        own = self.diagram.outputs
        outputs = [
            replace(own[number], box=box)
            for (number, _), box in zip(self.stream.tail, boxes, strict=True)
        ]
        kept = tuple(
            Argument(self.arrays[each.name], dims, _STATE_TYPES[each.kind])
            for each in self.stream.accumulators
            for dims in (((self.axis,), *((axis,) for axis in each.axes)),)
        )
        return self._diagram("merge", graph, found, outputs, kept)

    def _moved(
        self, graph: Graph, arrays: Mapping[str, int], found: Mapping[str, int], term: Transport
    ) -> list[int]:
        """Return a segment's state moved to the final values, as factors of a product."""
        state, factor = arrays[term.source], term.factor
        if factor is None:
            return [state]
        running = _states(graph, [factor], arrays, "old") | _states(graph, [factor], found, "new")
        (final,) = substitute(graph, [factor], running)
        source = self.states[term.source]
        if source.operator == "sum" and is_finite_move(graph, factor, self.maxima):
            return [state, final]
        # What moves an empty segment's state may be infinite, or 0 where the state is: it stays empty.
        unit = graph.constant(source.unit)
        empty = graph.pointwise("eq", state, unit)
        return [graph.pointwise("where", empty, unit, graph.pointwise("mul", state, final))]

    # --- both -------------------------------------------------------------------------------------

    def _diagram(
        self,
        what: str,
        graph: Graph,
        found: Mapping[str, int],
        outputs: Sequence[Output],
        kept: Sequence[Argument],
    ) -> Diagram:
        """Return the diagram of what the outputs need of a graph; `found` are its states' boxes."""
        needed = topological(graph, [each.box for each in outputs])
        stated = {box: name for name, box in found.items()}
        lean, new, names = Graph(), dict[int, int](), list[str]()
        read: set[str] = set()
        for each in needed:
            box = graph[each]
            if isinstance(box, Input):
                read.add(box.name)
            new[each] = lean.add(renumbered(box, new))
            names.append(stated.get(each) or self._name(each, new[each]))
        lengths = dict(self.diagram.sizes) | {self.axis: self.count}
        made = Diagram(
            fresh_name(f"{self.diagram.name}_{what}", self.taken),
            tuple(each for each in (*self.diagram.arguments, *kept) if each.name in read),
            tuple(replace(each, box=new[each.box]) for each in outputs),
            tuple(lean.boxes),
            tuple(names),
            source=self.diagram.source,
        )
        sizes = tuple((axis, lengths[axis]) for axis in made.axes if axis in lengths)
        return verify(replace(made, sizes=sizes))

    def _name(self, each: int, new: int) -> str:
        names = self.diagram.names
        return names[each] if each < len(names) else fresh_name(f"t{new}", self.taken)


def _is_gathered(graph: Graph, each: int) -> bool:
    """Return whether a box is an array that is read at computed positions, as only an argument can be."""
    return any(isinstance(box, Gather) and box.array == each for box in graph.boxes)


def _is_cut(graph: Graph, each: int) -> bool:
    """Return whether an infinity stands in what makes a box, and no exponential takes it in."""
    pending, seen = [each], set[int]()
    while pending:
        box = graph[one := pending.pop()]
        if isinstance(box, Constant) and isinf(box.value):
            return True
        if isinstance(box, Pointwise) and box.operator not in ("exp", "exp2") and one not in seen:
            pending += box.operands
        seen.add(one)
    return False


def _product(graph: Graph, factors: Sequence[int]) -> int:
    return factors[0] if len(factors) == 1 else graph.pointwise("mul", *factors)


def _divided_up(graph: Graph, whole: int, by: int) -> int:
    """Return ceil(whole / by)."""
    more = graph.pointwise("sub", by, graph.constant(1))
    return graph.pointwise("floordiv", graph.pointwise("add", whole, more), by)


def _states(
    graph: Graph, roots: Sequence[int], values: Mapping[str, int], version: str | None = None
) -> dict[int, int]:
    """Return a box for every running value that the roots read."""
    found: dict[int, int] = {}
    for each in topological(graph, roots):
        box = graph[each]
        if isinstance(box, State) and version in (None, box.version) and box.name in values:
            found[each] = values[box.name]
    return found
