"""A diagram's derivation: which axis streams, which may be grouped, and how every reduction streams.

In: a `Diagram`. Out: a `Derivation`, checked against its law with numbers. It knows no machine; of sizes it
only asks whether an axis that would have to lie on chip whole is small, to choose among streams that are
all legal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from napkin.algebra.laws import check_laws
from napkin.algebra.masks import find_condition
from napkin.algebra.states import Stream
from napkin.algebra.streams import derive_stream
from napkin.diagram import Diagram, Gather, Graph, Reduce, operands_of, topological

UNSIZED = 4096  # the length supposed of an axis that the file does not size
SMALL = 1024  # an axis up to this length may lie on chip whole


@dataclass(frozen=True, slots=True)
class Derivation:
    """A diagram and its stream. Box numbers refer to `graph`, which starts with the diagram's own boxes.

    `group`: axes that may be split over the grid. `inner`: axes that lie on chip whole, or are walked in
    chunks inside a step if they are in `splittable`. `conditions`: for each pass, the mask without which a
    chunk contributes nothing, or None. `law_error` is the worst relative error seen in the check.
    """

    diagram: Diagram
    graph: Graph
    stream: Stream | None
    group: tuple[str, ...]
    inner: tuple[str, ...]
    splittable: tuple[str, ...]
    conditions: tuple[int | None, ...]
    candidates: tuple[Candidate, ...]
    law_error: float

    @property
    def outputs(self) -> tuple[int, ...]:
        """The box of every output."""
        return tuple(each.box for each in self.diagram.outputs)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An axis that could stream: passes it needs, and long axes that would have to lie on chip whole."""

    axis: str
    passes: int
    whole: tuple[str, ...]


def derive(diagram: Diagram, *, axis: str | None = None) -> Derivation:
    """Derive the diagram's stream, over the given axis or the best one."""
    roots = [each.box for each in diagram.outputs]
    names = state_names(diagram)
    candidates: list[tuple[tuple[int, int, int], Candidate, Graph, Stream]] = []
    axes = stream_axes(diagram) if axis is None else (axis,)
    for order, each in enumerate(axes):
        graph = Graph(diagram.boxes)
        stream = derive_stream(graph, roots, each, names)
        whole = _long_whole_axes(diagram, each)
        candidate = Candidate(each, len(stream.passes), whole)
        candidates.append(((len(whole), len(stream.passes), order), candidate, graph, stream))
    if not candidates:
        graph = Graph(diagram.boxes)
        return Derivation(diagram, graph, None, _group_axes(diagram, None), (), (), (), (), 0.0)
    _, chosen, graph, stream = min(candidates, key=lambda item: item[0])
    group = _group_axes(diagram, chosen.axis)
    inner = tuple(a for a in used_axes(diagram) if a != chosen.axis and a not in group)
    conditions = tuple(
        find_condition(graph, one.accumulators, chosen.axis) if not one.stores else None
        for one in stream.passes
    )
    error = check_laws(graph, stream, roots, diagram.arguments)
    splittable = tuple(each for each in inner if is_splittable(diagram, each))
    ranked = tuple(item[1] for item in sorted(candidates, key=lambda item: item[0]))
    return Derivation(diagram, graph, stream, group, inner, splittable, conditions, ranked, error)


def stream_axes(diagram: Diagram) -> tuple[str, ...]:
    """Return the reduced axes, that of the last reduction first."""
    seen: dict[str, None] = {}
    for each in reversed(topological(diagram.boxes, [out.box for out in diagram.outputs])):
        box = diagram.boxes[each]
        if isinstance(box, Reduce):
            seen |= dict.fromkeys(box.over)
    return tuple(seen)


def used_axes(diagram: Diagram) -> tuple[str, ...]:
    """Return the axes that some computed box carries or reduces (not those only read by position)."""
    seen: dict[str, None] = {}
    gathered = {box.array for box in diagram.boxes if isinstance(box, Gather)}
    for each, box in enumerate(diagram.boxes):
        if each not in gathered:
            seen |= dict.fromkeys(box.axes)
        if isinstance(box, Reduce):
            seen |= dict.fromkeys(box.over)
    return tuple(axis for axis in diagram.axes if axis in seen)


def state_names(diagram: Diagram) -> Mapping[int, str]:
    """Suggest a state's name for every reduction that the diagram names: its name in lower case."""
    return {
        each: diagram.names[each].lower()
        for each, box in enumerate(diagram.boxes)
        if isinstance(box, Reduce) and not re.fullmatch(r"t\d+", diagram.names[each])
    }


def is_splittable(diagram: Diagram, axis: str) -> bool:
    """Return whether an inner axis may be walked in chunks: it is only ever summed, and never kept.

    What is summed must be read or computed without another reduction, so that a chunk of it stands alone.
    """
    if any(axis in output.axes for output in diagram.outputs):
        return False
    for box in diagram.boxes:
        if isinstance(box, Reduce) and axis in box.axes:
            return False
        if isinstance(box, Reduce) and axis in box.over and box.operator != "sum":
            return False
        summed_elsewhere = isinstance(box, Reduce) and axis in box.over
        carried = any(axis in diagram.boxes[each].axes for each in operands_of(box))
        if carried and not summed_elsewhere and axis not in box.axes:
            return False
    return True


def _group_axes(diagram: Diagram, stream: str | None) -> tuple[str, ...]:
    reduced = {axis for box in diagram.boxes if isinstance(box, Reduce) for axis in box.over}
    shared = set.intersection(*(set(output.axes) for output in diagram.outputs))
    legal = shared - reduced - {stream}
    return tuple(axis for axis in diagram.outputs[0].axes if axis in legal)


def _long_whole_axes(diagram: Diagram, stream: str) -> tuple[str, ...]:
    sizes = dict(diagram.sizes)
    group = _group_axes(diagram, stream)
    return tuple(
        axis
        for axis in used_axes(diagram)
        if axis != stream
        and axis not in group
        and sizes.get(axis, UNSIZED) > SMALL
        and not is_splittable(diagram, axis)
    )
