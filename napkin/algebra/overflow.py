"""Exponentials that a stream sums with nothing to keep them finite: the warning N301.

In: a derivation. Out: a diagnostic for each exponential whose argument has no known upper bound
and whose accumulator carries nothing. Carrying needs a running value to subtract (docs/algebra.md,
"Hoist or carry"); where the diagram subtracts none, the user should be told, and not the stream
changed.

It judges what is summed along the stream. An exponential of single elements is the user's choice.
"""

from __future__ import annotations

from collections.abc import Iterator

from napkin.algebra.derive import Derivation
from napkin.algebra.expressions import Printer
from napkin.algebra.naming import diagram_names, fallback_names
from napkin.algebra.signs import is_bounded_above
from napkin.algebra.states import Rule
from napkin.diagram import Graph, Input, Pointwise, Reduce
from napkin.language.errors import Diagnostic, Label
from napkin.language.source import Span


def warnings(derivation: Derivation) -> tuple[Diagnostic, ...]:
    """Return a warning N301 for every exponential of the stream that may overflow."""
    return tuple(_warn(derivation, each) for each in dict.fromkeys(_unbounded(derivation)))


def _unbounded(derivation: Derivation) -> Iterator[int]:
    if derivation.stream is None:
        return
    boxes = derivation.graph
    for each in (each for one in derivation.stream.passes for each in one.reductions):
        box = boxes[each.box]
        if isinstance(box, Reduce) and box.operator == "sum" and each.rule is not Rule.CARRY:
            for operand in box.operands:
                yield from _exponentials(derivation, operand)


def _exponentials(derivation: Derivation, factor: int) -> Iterator[int]:
    """Give the exponentials of a factor that may be large, through sums and products."""
    graph, pending, seen = derivation.graph, [factor], set[int]()
    while pending:
        each = pending.pop()
        box = graph[each]
        if each in seen or not isinstance(box, Pointwise):
            continue
        seen.add(each)
        if box.operator in ("exp", "exp2"):
            exponent = box.operands[0]
            if not is_bounded_above(graph, exponent) and not _is_measured(graph, exponent):
                yield each
        elif box.operator in ("add", "sub", "mul", "neg", "max2"):
            pending += reversed(box.operands)
        elif box.operator == "where":
            pending += reversed(box.operands[1:])
        elif box.operator in ("div", "pow", "sqrt", "abs"):
            pending.append(box.operands[0])


def _is_measured(graph: Graph, exponent: int) -> bool:
    """Return whether an exponent is a distance from a row that is given, as a logsumexp that was kept."""
    box = graph[exponent]
    if not isinstance(box, Pointwise) or box.operator != "sub":
        return False
    left, right = (graph[operand] for operand in box.operands)
    return isinstance(right, Input) and set(right.axes) < set(left.axes)


def _warn(derivation: Derivation, each: int) -> Diagnostic:
    diagram = derivation.diagram
    printer = Printer(derivation.graph, diagram_names(diagram), fallback=fallback_names(diagram))
    box = derivation.graph[each]
    assert isinstance(box, Pointwise)
    assert derivation.stream is not None
    axis, argument = derivation.stream.axis, printer.text(box.operands[0])
    primary = _label(derivation, each)
    return Diagnostic(
        "N301",
        f"`{printer.definition(each)}` may overflow: subtract its maximum",
        diagram.source if primary is not None else None,
        primary,
        notes=(f"it is summed over `{axis}`, and nothing is known to keep its argument small",),
        help=f"write `{box.operator}({argument} - max[{axis}]({argument}))`",
        severity="warning",
    )


def _label(derivation: Derivation, each: int) -> Label | None:
    spans = derivation.diagram.spans
    if each >= len(spans) or spans[each] == Span(0, 0):
        return None
    return Label(spans[each], "no upper bound")
