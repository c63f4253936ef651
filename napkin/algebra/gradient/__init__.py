"""The gradient of a diagram, which is a diagram.

In: a diagram. Out: `Gradient`: the diagram again, with what its backward keeps as further outputs, and the
backward diagram, an ordinary one that every later stage serves. Reverse mode on boxes, then rules by
structure alone: docs/algebra.md, "Gradients".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from napkin.algebra.gradient.adjoints import adjoints
from napkin.algebra.gradient.invariance import still_boxes
from napkin.algebra.gradient.kept import Extents, choose_kept
from napkin.algebra.gradient.partials import split_sums
from napkin.algebra.gradient.products import tidy
from napkin.algebra.gradient.signature import (
    ArrayNames,
    assemble_backward,
    extend_forward,
)
from napkin.algebra.gradient.weights import Weighted, join_weights
from napkin.algebra.naming import diagram_names
from napkin.algebra.relabel import woven
from napkin.diagram import Argument, Diagram, Graph, Input
from napkin.language.errors import Diagnostic, NapkinError, did_you_mean
from napkin.operators import Kind


@dataclass(frozen=True, slots=True)
class Gradient:
    """A diagram's forward and backward.

    `forward` is the diagram with the arrays named in `kept` as outputs after its own. `backward` takes
    some of the forward's arguments, outputs and kept arrays under their own names, and a `d<output>` for
    every real output; it gives a `d<argument>` for every argument in `wanted`, of its axes and type.
    """

    forward: Diagram
    kept: tuple[str, ...]
    backward: Diagram
    wanted: tuple[str, ...]

    @property
    def seeds(self) -> dict[str, int]:
        """The backward's names for the gradients of the forward's outputs, each with its output's place."""
        forward = self.forward
        known = {each.name for each in forward.arguments} | {each.name for each in forward.outputs}
        own = [each.name for each in self.backward.arguments if each.name not in known]
        places = {f"d{each.name}": place for place, each in enumerate(forward.outputs)}
        return {name: places[name if name in places else name.rpartition("_")[0]] for name in own}


def differentiate(diagram: Diagram, wanted: Collection[str] | None = None) -> Gradient:
    """Return the gradient by the wanted arguments; without them, by every real array and scalar.

    Raises NapkinError (N303) for a wanted name that is no argument, or holds no real numbers.
    """
    chosen = _choose(diagram, wanted)
    names = ArrayNames(diagram)
    graph = Graph(diagram.boxes)
    weighted = join_weights(graph, [each.box for each in diagram.outputs])
    sources = [graph.add(Input(each.name, each.axes, each.kind)) for each in chosen]
    given = {*weighted.origin}
    passed = _short_adjoints(diagram, graph, weighted, sources, given, names)
    results = [woven(graph, graph[each].axes, passed[each]) for each in sources]
    taken = choose_kept(graph, Extents(diagram), given, weighted.outputs, results)
    forward = extend_forward(diagram, graph, weighted, taken, results, names)
    backward = assemble_backward(forward, graph, chosen, results, _named(diagram, weighted, passed))
    return Gradient(forward.diagram, forward.kept, backward, tuple(each.name for each in chosen))


def _short_adjoints(
    diagram: Diagram,
    graph: Graph,
    weighted: Weighted,
    sources: Sequence[int],
    given: set[int],
    names: ArrayNames,
) -> dict[int, int]:
    """Return every box's adjoint in its short form.

    `given` are the forward's boxes; sums that it had better give too are added.
    """
    seeds = [
        (box, graph.add(Input(names.adjoint(each.name), each.axes, Kind.FLOAT)))
        for each, box in zip(diagram.outputs, weighted.outputs, strict=True)
        if graph[box].kind is Kind.FLOAT
    ]
    extents = Extents(diagram)
    still = still_boxes(graph, weighted.outputs)
    passed = adjoints(graph, seeds, sources, still)
    short = tidy(graph, passed.values(), given, extents)
    split = split_sums(graph, short.values(), given, extents)
    return {each: split[short[box]] for each, box in passed.items()}


def _named(diagram: Diagram, weighted: Weighted, passed: Mapping[int, int]) -> dict[str, int]:
    """Return the names that boxes of the backward may have: the forward's, and `d` with them."""
    own = diagram_names(diagram)
    origins = {each: weighted.origin.get(each, each) for each in (*weighted.origin, *passed)}
    found = {own[old]: new for new, old in origins.items() if old in own}
    adjoint = {
        f"d{own[old]}": passed[new] for new, old in origins.items() if old in own and new in passed
    }
    return found | adjoint


def _choose(diagram: Diagram, wanted: Collection[str] | None) -> tuple[Argument, ...]:
    """Return the arguments to differentiate by, in the signature's order."""
    real = [each for each in diagram.arguments if each.kind is Kind.FLOAT]
    if wanted is None:
        return tuple(real)
    known = {each.name: each for each in diagram.arguments}
    for name in wanted:
        if name not in known:
            message = f"`{diagram.name}` has no argument `{name}` to differentiate by"
            raise NapkinError([Diagnostic("N303", message, help=did_you_mean(name, known))])
        if known[name] not in real:
            message = f"`{name}` is {known[name].dtype}: only real numbers have a gradient"
            raise NapkinError([Diagnostic("N303", message)])
    return tuple(each for each in real if each.name in wanted)
