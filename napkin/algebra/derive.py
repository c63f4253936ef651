"""A diagram's derivation: which axis streams, which may be grouped, how every reduction streams.

In: a `Diagram`. Out: a `Derivation`, checked against its law with numbers. It knows no machine; of
sizes it only asks whether an axis that would have to lie on chip whole is small, to choose among
streams that are all legal. See docs/algebra.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from napkin.algebra.conditions import find_condition
from napkin.algebra.laws import check_laws, check_parts
from napkin.algebra.masks import Hull
from napkin.algebra.parts import summed_axes, with_parts
from napkin.algebra.states import Stream
from napkin.algebra.streams import derive_stream
from napkin.diagram import Diagram, Gather, Graph, Input, Reduce, operands_of, topological
from napkin.operators import REDUCTIONS

UNSIZED = 4096  # the length supposed of an axis that the file does not size
SMALL = 1024  # an axis up to this length may lie on chip whole


@dataclass(frozen=True, slots=True)
class Derivation:
    """A diagram and its stream. Boxes are those of `graph`, which starts with the diagram's own.

    `group`: axes that may be split over the grid. `inner`: axes that lie on chip whole, or are
    walked in chunks inside a step if they are in `splittable`. `conditions`: for each pass, the
    mask without which a chunk contributes nothing, or None. `law_error` is the worst relative error
    seen in the check. `hulls` are those of comparisons, where a kernel before this one finds them. Groups
    along the axes in `parted` share the stream out among them: each of its positions is walked by one.
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
    hulls: tuple[tuple[int, Hull], ...] = ()
    parted: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """The box of every output."""
        return tuple(each.box for each in self.diagram.outputs)

    def __str__(self) -> str:
        from napkin.algebra.show import show_derivation  # which reads derivations

        return show_derivation(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An axis that could stream, the passes it needs, and the long axes that it leaves whole."""

    axis: str
    passes: int
    whole: tuple[str, ...]


def derive(diagram: Diagram, *, axis: str | None = None) -> Derivation:
    """Derive the diagram's stream, over the given axis or the best one."""
    return checked(sketch(diagram, axis=axis))


def checked(derivation: Derivation) -> Derivation:
    """Return a sketched derivation with its laws checked; raise InternalError if one is broken."""
    diagram, stream = derivation.diagram, derivation.stream
    if stream is None:
        return replace(derivation, law_error=0.0)
    error = check_laws(derivation.graph, stream, derivation.outputs, diagram.arguments)
    error = max(error, check_parts(derivation.graph, diagram.outputs, diagram.arguments))
    return replace(derivation, law_error=error)


def sketch(diagram: Diagram, *, axis: str | None = None) -> Derivation:
    """Derive a stream as `derive` does, its laws not yet tried on numbers: their error is infinite so far."""
    roots = [each.box for each in diagram.outputs]
    names = state_names(diagram)
    candidates: list[tuple[tuple[int, int, int], Candidate, Graph, Stream]] = []
    axes = stream_axes(diagram) if axis is None else (axis,)
    for order, each in enumerate(axes):
        graph = Graph(diagram.boxes)
        found = derive_stream(graph, roots, each, names)
        stream = with_parts(graph, found, diagram.outputs)
        if stream is None:
            continue
        whole = _long_whole_axes(diagram, each)
        candidate = Candidate(each, len(stream.passes), whole)
        candidates.append(((len(whole), len(stream.passes), order), candidate, graph, stream))
    if not candidates:
        graph, group = Graph(diagram.boxes), _group_axes(diagram, None)
        inner = tuple(a for a in used_axes(diagram) if a not in group)
        return Derivation(diagram, graph, None, group, inner, (), (), (), inf)
    _, chosen, graph, stream = min(candidates, key=lambda item: item[0])
    group = _group_axes(diagram, chosen.axis)
    inner = tuple(a for a in used_axes(diagram) if a != chosen.axis and a not in group)
    conditions = tuple(
        find_condition(graph, one.folds, chosen.axis) if not one.stores else None
        for one in stream.passes
    )
    splittable = tuple(each for each in inner if is_splittable(diagram, each))
    ranked = tuple(item[1] for item in sorted(candidates, key=lambda item: item[0]))
    return Derivation(diagram, graph, stream, group, inner, splittable, conditions, ranked, inf)


def stream_axes(diagram: Diagram) -> tuple[str, ...]:
    """Return the reduced axes, those of the last reduction first, but for those that are to be grouped.

    Of axes that one reduction takes together, those come first that memory holds side by side: a chunk of
    another would be read number by number.
    """
    seen: dict[str, None] = {}
    added = {axis for output in diagram.outputs for axis in output.added}
    innermost = Counter(each.dims[-1][-1] for each in diagram.arguments if each.dims)
    for each in reversed(topological(diagram.boxes, [out.box for out in diagram.outputs])):
        box = diagram.boxes[each]
        if isinstance(box, Reduce):
            seen |= dict.fromkeys(sorted(box.over, key=lambda axis: -innermost[axis]))
    return tuple(axis for axis in seen if axis not in added)


def used_axes(diagram: Diagram) -> tuple[str, ...]:
    """Return the axes that computed boxes carry or reduce, not those only read by position."""
    seen: dict[str, None] = {}
    for box in diagram.boxes:
        read = box.indices if isinstance(box, Gather) else operands_of(box)
        for each in read:
            seen |= dict.fromkeys(diagram.boxes[each].axes)
        if not isinstance(box, Input):
            seen |= dict.fromkeys(box.axes)
    for output in diagram.outputs:
        seen |= dict.fromkeys(output.axes)
    return tuple(axis for axis in diagram.axes if axis in seen)


def state_names(diagram: Diagram) -> Mapping[int, str]:
    """Suggest a state's name for every reduction: its own in lower case, or its operator's letter.

    A name that the diagram gives to something else gets the reduced axes added: `m_x`.
    """
    suggested: dict[int, str] = {}
    for each, box in enumerate(diagram.boxes):
        if not isinstance(box, Reduce):
            continue
        own = diagram.names[each]
        unnamed = re.fullmatch(r"t\d+", own)
        name = REDUCTIONS[box.operator].state if unnamed else own.lower()
        others = (*diagram.names[:each], *diagram.names[each + 1 :])
        suggested[each] = "_".join((name, *box.over)) if name in others else name
    return suggested


def is_splittable(diagram: Diagram, axis: str) -> bool:
    """Return whether an inner axis may be walked in chunks: it is only ever summed, and never kept.

    What is summed must be read or computed without another reduction, so that a chunk of it stands
    alone.
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
    outputs = diagram.outputs
    shared = set.intersection(*({*output.axes, *output.added} for output in outputs))
    legal = shared - summed_axes(diagram.boxes, outputs) - {stream}
    found = dict.fromkeys(axis for output in outputs for axis in output.axes)
    return tuple(axis for axis in found if axis in legal)


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
