"""What the boxes of a derivation are called when people read them.

In: a diagram or a derivation. Out: maps from boxes to names. The diagram's own names hold; `t1`,
`t2` and so on, which it gives to boxes that no statement named, are used only where a text would
grow long. A reduction without a name of its own is called like its state.
"""

from __future__ import annotations

import re

from napkin.algebra.derive import Derivation
from napkin.algebra.states import Stream, StreamedReduction
from napkin.diagram import (
    Constant,
    Diagram,
    Graph,
    Index,
    Leaf,
    Pointwise,
    Reduce,
    State,
    operands_of,
    topological,
)
from napkin.operators import Kind

_UNNAMED = re.compile(r"t\d+")


def fresh_name(wish: str, taken: set[str]) -> str:
    """Return the wished name, with a number behind it if it is taken, and take it."""
    name, number = wish, 1
    while name in taken:
        number += 1
        name = f"{wish}_{number}"
    taken.add(name)
    return name


def diagram_names(diagram: Diagram) -> dict[int, str]:
    """Return the names that statements gave."""
    return {
        each: diagram.names[each]
        for each, box in enumerate(diagram.boxes)
        if not isinstance(box, Leaf) and not _UNNAMED.fullmatch(diagram.names[each])
    }


def fallback_names(diagram: Diagram) -> dict[int, str]:
    """Return the name of every computed box, for texts that would grow long."""
    return {
        each: diagram.names[each]
        for each, box in enumerate(diagram.boxes)
        if not isinstance(box, Leaf)
    }


def reduction_names(derivation: Derivation) -> dict[int, str]:
    """Return a name for every reduction over the stream: its own, its state's, or `R1`, `R2`, .."""
    stream = derivation.stream
    if stream is None:
        return {}
    own = diagram_names(derivation.diagram)
    names: dict[int, str] = {}
    for number, each in enumerate(_reductions(stream), 1):
        value = derivation.graph[each.value]
        state = value.name if isinstance(value, State) else f"R{number}"
        names[each.box] = own.get(each.box, state)
    return names


def counting_boxes(graph: Graph) -> dict[int, str]:
    """Return the boxes that stand for one at every position of an axis: what counts a chunk."""
    found: dict[int, str] = {}
    for each, box in enumerate(graph.boxes):
        if isinstance(box, Pointwise) and box.operator == "where":
            condition, yes, no = (graph[operand] for operand in box.operands)
            inside = isinstance(condition, Pointwise) and condition.operator == "ge"
            if inside and isinstance(graph[operands_of(condition)[0]], Index):
                floor = graph[operands_of(condition)[1]]
                if (floor, yes, no) == _ONE_FROM_ZERO:
                    found[each] = "1"
    return found


_ONE_FROM_ZERO = (
    Constant(0, Kind.INT),
    Constant(1.0, Kind.FLOAT),
    Constant(0.0, Kind.FLOAT),
)


def running_boxes(derivation: Derivation) -> frozenset[int]:
    """Return the diagram's boxes that are, or depend on, a reduction over the stream."""
    running: set[int] = set()
    boxes = derivation.diagram.boxes
    for each in topological(boxes, derivation.outputs):
        box = boxes[each]
        reduces = isinstance(box, Reduce) and _axis(derivation) in box.over
        if reduces or any(operand in running for operand in operands_of(box)):
            running.add(each)
    return frozenset(running)


def stream_leaves(derivation: Derivation) -> tuple[int, ...]:
    """Return the x-leaves: maximal boxes that carry the stream axis and no running value."""
    boxes, axis = derivation.diagram.boxes, _axis(derivation)
    running = running_boxes(derivation)
    leaves: dict[int, None] = {}
    for each in topological(boxes, derivation.outputs):
        if each in running:
            reads = operands_of(boxes[each])
            leaves |= dict.fromkeys(i for i in reads if i not in running and axis in boxes[i].axes)
    return tuple(leaves)


def _axis(derivation: Derivation) -> str:
    return derivation.stream.axis if derivation.stream is not None else ""


def _reductions(stream: Stream) -> list[StreamedReduction]:
    return [each for one in stream.passes for each in one.reductions]
