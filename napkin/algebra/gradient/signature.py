"""The two diagrams of a gradient: signatures, names and storage types.

In: a graph that holds the forward's boxes and the adjoints'. Out: the forward with what the backward keeps
as outputs after its own, and the backward with its arguments in the order of the forward's, its outputs,
what is kept, and the outputs' adjoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.algebra.gradient.weights import Weighted
from napkin.algebra.naming import diagram_names, fresh_name
from napkin.algebra.stored import memory_order, stored_types
from napkin.diagram import (
    SCALAR_TYPES,
    Argument,
    Box,
    Diagram,
    Graph,
    Input,
    Leaf,
    Output,
    Pointwise,
    Reduce,
    operands_of,
    substitute,
    topological,
    verify,
)
from napkin.language.canonical import canonicalise
from napkin.language.source import NOWHERE
from napkin.operators import Kind

_LONGEST_NAME = 60  # of a diagram or an array, so that a number still fits behind it


class ArrayNames:
    """Names that the diagram has not given: of adjoints and of what is kept."""

    def __init__(self, diagram: Diagram) -> None:
        self.taken = {*diagram.names, *diagram.axes, diagram.name}
        self.taken |= {each.name for each in diagram.arguments}
        self.taken |= {each.name for each in diagram.outputs}
        self._adjoints: dict[str, str] = {}

    def adjoint(self, name: str) -> str:
        """Return the name of an array's adjoint."""
        if name not in self._adjoints:
            self._adjoints[name] = self.fresh(f"d{name}")
        return self._adjoints[name]

    def fresh(self, wish: str) -> str:
        """Return a name that nothing else has."""
        return fresh_name(wish[:_LONGEST_NAME], self.taken)


@dataclass(frozen=True, slots=True)
class Forward:
    """The forward with what is kept; `reads` are the backward's arguments that stand for boxes of it."""

    diagram: Diagram
    kept: tuple[str, ...]
    arguments: tuple[Argument, ...]
    reads: Mapping[int, Argument]
    names: ArrayNames


def extend_forward(
    diagram: Diagram,
    graph: Graph,
    weighted: Weighted,
    taken: Sequence[int],
    results: Sequence[int],
    names: ArrayNames,
) -> Forward:
    """Return the diagram with the boxes that its backward takes as outputs, those that are not yet."""
    reads: dict[int, Argument] = {}
    further: dict[int, int] = {}
    for each in taken:
        if each in weighted.outputs:
            output = diagram.outputs[weighted.outputs.index(each)]
            reads[each] = Argument(output.name, output.dims, output.dtype)
        else:
            (further[each],) = substitute(graph, [each], weighted.origin)
    made = _with_outputs(diagram, graph, further, results, names)
    new = made.outputs[len(diagram.outputs) :]
    reads |= {
        each: Argument(output.name, output.dims, output.dtype)
        for each, output in zip(further, new, strict=True)
    }
    adjoints = tuple(
        Argument(names.adjoint(each.name), each.dims, each.dtype)
        for each in diagram.outputs
        if diagram.boxes[each.box].kind is Kind.FLOAT
    )
    taken_outputs = [each for each in reads.values() if each.name not in {o.name for o in new}]
    kept = tuple(reads[each] for each in further)
    arguments = (*diagram.arguments, *taken_outputs, *kept, *adjoints)
    return Forward(made, tuple(each.name for each in new), arguments, reads, names)


def _with_outputs(
    diagram: Diagram,
    graph: Graph,
    further: Mapping[int, int],
    results: Sequence[int],
    names: ArrayNames,
) -> Diagram:
    """Return the diagram with further boxes as outputs, each in a type that changes no result."""
    if not further:
        return diagram
    given = {name: each for each, name in enumerate(diagram.names) if _is_computed(graph[each])}
    outputs = {each.name: each.box for each in diagram.outputs}
    wished = {_fresh_name(diagram, graph, box, names): (each, box) for each, box in further.items()}
    new = {name: box for name, (_, box) in wished.items()}
    canonical = canonicalise(
        graph,
        [*diagram.spans, *[NOWHERE] * len(graph)][: len(graph)],
        outputs={**outputs, **new},
        assigned={**given, **outputs, **new},
        taken={*names.taken, *diagram.axes},
    )
    stored = _kept_types(diagram, graph, further, results)
    readers = _readers(graph)
    added = [
        Output(
            name,
            tuple((axis,) for axis in memory_order(graph.boxes, readers.get(box, ()), box)),
            stored[each],
            canonical.ids[box],
        )
        for name, (each, box) in wished.items()
    ]
    kept = tuple(replace(each, box=canonical.ids[each.box]) for each in diagram.outputs)
    return verify(
        replace(
            diagram,
            outputs=(*kept, *added),
            boxes=canonical.boxes,
            names=canonical.names,
            spans=canonical.spans,
            relabellings=(),
        )
    )


def _is_computed(box: Box) -> bool:
    return not isinstance(box, Leaf)


def _fresh_name(diagram: Diagram, graph: Graph, each: int, names: ArrayNames) -> str:
    """Return a box's own name, else `L` for the logarithm of a sum that joined its row, else its work."""
    box = graph[each]
    own = diagram_names(diagram).get(each)
    if own is not None and own not in {output.name for output in diagram.outputs}:
        return own
    near = [graph[i] for i in (each, *operands_of(box))]
    operators = {one.operator for one in near if isinstance(one, Pointwise)}
    if "log" in operators:
        return names.fresh("L")
    word = box.operator if isinstance(box, Pointwise | Reduce) else "read"
    return names.fresh("_".join((word, *(box.over if isinstance(box, Reduce) else box.axes))))


def _readers(graph: Graph) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for each, box in enumerate(graph.boxes):
        for operand in operands_of(box):
            found.setdefault(operand, []).append(each)
    return found


def _kept_types(
    diagram: Diagram, graph: Graph, taken: Iterable[int], results: Sequence[int]
) -> dict[int, str | None]:
    """Return each kept box's type: the caller's for what only contractions round to it, else its kind's."""
    untyped = any(each.dtype is None for each in diagram.arguments)
    given = {each.name: each.dtype or "bf16" for each in diagram.arguments}
    types = {box.name: given.get(box.name, "bf16") for box in graph.boxes if isinstance(box, Input)}
    outputs = tuple(Output("", (), None, each) for each in results)
    found = stored_types(replace(diagram, boxes=tuple(graph.boxes), outputs=outputs), types)
    return {each: None if untyped and found[each] == "bf16" else found[each] for each in taken}


def assemble_backward(
    forward: Forward,
    graph: Graph,
    chosen: Sequence[Argument],
    results: Sequence[int],
    named: Mapping[str, int],
) -> Diagram:
    """Return the backward in canonical order, with names of the forward's where it has its boxes."""
    names, diagram = forward.names, forward.diagram
    swaps = {
        each: graph.add(Input(read.name, read.axes, graph[each].kind))
        for each, read in forward.reads.items()
    }
    boxes = substitute(graph, results, swaps)
    outputs = {names.adjoint(each.name): box for each, box in zip(chosen, boxes, strict=True)}
    used = [graph[each] for each in topological(graph, boxes)]
    arguments = _arguments(forward, chosen, used)
    taken = {*outputs, *(each.name for each in arguments)}
    taken |= {axis for box in used for axis in box.axes} | set(diagram.axes)
    own = {
        name: box
        for name, box in zip(named, substitute(graph, list(named.values()), swaps), strict=True)
        if name not in taken and _is_computed(graph[box])
    }
    canonical = canonicalise(
        graph,
        [NOWHERE] * len(graph),
        outputs=outputs,
        assigned={**own, **outputs},
        taken=taken,
    )
    made = Diagram(
        names.fresh(f"{diagram.name}_backward"),
        arguments,
        tuple(
            Output(name, each.dims, _stored(each), canonical.ids[box])
            for each, (name, box) in zip(chosen, outputs.items(), strict=True)
        ),
        canonical.boxes,
        canonical.names,
    )
    known = set(made.axes)
    return verify(replace(made, sizes=tuple(each for each in diagram.sizes if each[0] in known)))


def _stored(argument: Argument) -> str | None:
    """Return the type in which an argument's gradient is stored: its own."""
    return "fp32" if argument.dtype in SCALAR_TYPES else argument.dtype


def _arguments(
    forward: Forward, chosen: Sequence[Argument], used: Sequence[Box]
) -> tuple[Argument, ...]:
    """Return the arguments of the backward: what its boxes read, and what gives its axes their lengths."""
    read = {box.name for box in used if isinstance(box, Input)}
    axes = {axis for each in chosen for axis in each.axes}
    axes |= {axis for box in used for axis in (*box.axes, *getattr(box, "over", ()))}
    for each in forward.arguments:
        dims = [dim for one in forward.arguments if one.name in read for dim in one.dims]
        if set(each.axes) & axes - _sized_axes(dims):
            read.add(each.name)
    return tuple(each for each in forward.arguments if each.name in read)


def _sized_axes(dims: Sequence[tuple[str, ...]]) -> set[str]:
    """Return the axes whose lengths follow from the dims': alone, or beside others that are known."""
    known: set[str] = set()
    for _ in dims:
        known |= {axis for dim in dims for axis in dim if set(dim) - known <= {axis}}
    return known
