"""Cheap forms that hardware wants, found by rewriting boxes and never by name.

In: a derived stream. Out: an equal one whose boxes are cheaper:
- exp(a - b) becomes exp2(k a - k b), k = log2 e, with k folded into a multiplication that is there already;
- a maximum that feeds exponentials is kept in the same scaled units;
- a positive uniform scale moves out of `where(c, s, -inf)`, so that it can pass the maximum and meet the
  subtraction in one multiply-add;
- inside an exponential a running maximum of -inf (nothing seen yet) counts as 0, so that nothing minus
  nothing is nothing and never NaN.

Every rule keeps values up to rounding; `laws` still holds and tests check it on the rewritten stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, log2

from napkin.algebra.derive import Derivation
from napkin.algebra.signs import is_nonnegative
from napkin.algebra.states import Accumulator, Pass, Stream, StreamedReduction, Transport
from napkin.diagram import Constant, Graph, Pointwise, State, operands_of, topological
from napkin.operators import Kind

LOG2E = log2(2.718281828459045)


def rewrite(derivation: Derivation) -> Derivation:
    """Return the derivation with its stream in the cheap forms; its graph gains boxes."""
    graph = Graph(derivation.graph.boxes)
    stream = derivation.stream
    if stream is None:
        return replace(derivation, graph=graph)
    rules = _Rules(graph, _scaled_states(graph, stream))
    passes = tuple(_rewrite_pass(rules, one) for one in stream.passes)
    tail = tuple((number, rules.apply(box)) for number, box in stream.tail)
    return replace(derivation, graph=graph, stream=replace(stream, passes=passes, tail=tail))


def _rewrite_pass(rules: _Rules, one: Pass) -> Pass:
    return Pass(
        tuple(_rewrite_accumulator(rules, each) for each in one.accumulators),
        tuple(
            StreamedReduction(each.box, each.rule, each.accumulators, rules.apply(each.value))
            for each in one.reductions
        ),
        tuple((number, rules.apply(box)) for number, box in one.stores),
    )


def _rewrite_accumulator(rules: _Rules, each: Accumulator) -> Accumulator:
    factors = tuple(rules.apply(factor) for factor in each.factors)
    if each.name in rules.scaled:
        factors = (rules.scale(each.factors[0], LOG2E),)
    transport = tuple(
        Transport(term.source, None if term.factor is None else rules.apply(term.factor))
        for term in each.transport
    )
    return replace(each, factors=factors, transport=transport)


def _scaled_states(graph: Graph, stream: Stream) -> frozenset[str]:
    """Return the maxima (minima) that some exponential of the stream reads: kept in log2 units."""
    roots = [factor for each in stream.accumulators for factor in each.factors]
    roots += [term.factor for each in stream.accumulators for term in each.transport if term.factor]
    roots += [box for _, box in stream.tail]
    roots += [box for one in stream.passes for _, box in one.stores]
    read: set[str] = set()
    for each in topological(graph, roots):
        box = graph[each]
        if isinstance(box, Pointwise) and box.operator == "exp":
            read |= _linear_states(graph, box.operands[0])
    extrema = {
        each.name
        for each in stream.accumulators
        if each.operator in ("max", "min") and each.kind is Kind.FLOAT
    }
    return frozenset(read & extrema)


def _linear_states(graph: Graph, each: int) -> set[str]:
    """Return the states that an exponent holds as a term of its own."""
    box = graph[each]
    if isinstance(box, State):
        return {box.name}
    linear = ("add", "sub", "neg", "max2", "min2")
    if isinstance(box, Pointwise) and box.operator in linear:
        return set().union(*(_linear_states(graph, operand) for operand in box.operands))
    return set()


class _Rules:
    def __init__(self, graph: Graph, scaled: frozenset[str]) -> None:
        self.graph = graph
        self.scaled = scaled
        self._done: dict[int, int] = {}

    def apply(self, root: int) -> int:
        """Return the box rewritten, operands first."""
        for each in topological(self.graph, [root]):
            if each not in self._done:
                self._done[each] = self._rewritten(each)
        return self._done[root]

    def _rewritten(self, each: int) -> int:
        box = self.graph[each]
        if isinstance(box, State) and box.name in self.scaled:
            return self.graph.pointwise("mul", each, self.graph.constant(1 / LOG2E))
        if isinstance(box, Pointwise) and box.operator == "exp":
            return self.graph.pointwise("exp2", self._exponent(box.operands[0]))
        children = [self._done[operand] for operand in operands_of(box)]
        if tuple(children) == operands_of(box):
            return each
        if isinstance(box, Pointwise):
            return self.graph.pointwise(box.operator, *children)
        from napkin.diagram import Gather, Reduce

        if isinstance(box, Reduce):
            return self.graph.reduce(box.operator, children, box.over)
        assert isinstance(box, Gather)
        return self.graph.gather(children[0], children[1:])

    def _exponent(self, each: int) -> int:
        box = self.graph[each]
        if isinstance(box, Pointwise) and box.operator == "sub":
            left, right = (self.scale(operand, LOG2E) for operand in box.operands)
            return self.graph.pointwise("sub", left, self._finite(right))
        return self.scale(each, LOG2E)

    def _finite(self, each: int) -> int:
        """Return a running maximum with -inf replaced by 0 (what lies below it is -inf as well)."""
        if not self._may_be_unseen(each):
            return each
        graph = self.graph
        nothing = graph.pointwise("eq", each, graph.constant(-inf))
        return graph.pointwise("where", nothing, graph.constant(0.0), each)

    def _may_be_unseen(self, each: int) -> bool:
        return bool(_linear_states(self.graph, each) & self.scaled)

    # --- scaling by a constant, pushed to where it costs nothing -----------------------------------

    def scale(self, each: int, factor: float) -> int:
        """Return factor * box with the factor folded in as deep as it goes."""
        box = self.graph[each]
        graph = self.graph
        if isinstance(box, State) and box.name in self.scaled and factor == LOG2E:
            return each
        if isinstance(box, Constant) and box.kind is not Kind.BOOL:
            return graph.constant(float(box.value) * factor)
        if isinstance(box, Pointwise):
            rule = _SCALE.get(box.operator)
            scaled = rule(self, box, factor) if rule else None
            if scaled is not None:
                return scaled
        return graph.pointwise("mul", self.apply(each), graph.constant(factor))

    def all_scaled(self, box: Pointwise, factor: float) -> int:
        """Scale every operand."""
        operands = [self.scale(operand, factor) for operand in box.operands]
        return self.graph.pointwise(box.operator, *operands)

    def scaled_product(self, box: Pointwise, factor: float) -> int | None:
        """Fold the factor into a uniform (rank 0) operand of a product or quotient."""
        graph = self.graph
        left, right = box.operands
        if box.operator == "div":
            if graph[right].axes:
                return None
            by = graph.pointwise("div", graph.constant(factor), self.apply(right))
            return graph.pointwise("mul", self.apply(left), by)
        for one, other in ((left, right), (right, left)):
            if not graph[one].axes:
                return graph.pointwise("mul", self.apply(other), self.scale(one, factor))
        return None

    def scaled_choice(self, box: Pointwise, factor: float) -> int:
        """Scale the branches; a positive uniform factor common to a branch and -inf moves outside."""
        graph = self.graph
        condition = self.apply(box.operands[0])
        yes, no = (self.scale(each, factor) for each in box.operands[1:])
        if graph[no] == Constant(-inf, Kind.FLOAT):
            pulled = split_scale(graph, yes)
            if pulled is not None:
                core, uniform = pulled
                kept = graph.pointwise("where", condition, core, no)
                return graph.pointwise("mul", kept, uniform)
        return graph.pointwise("where", condition, yes, no)


def split_scale(graph: Graph, each: int) -> tuple[int, int] | None:
    """Return (core, uniform) if the box is core times a uniform factor that is known to be positive."""
    box = graph[each]
    if not isinstance(box, Pointwise) or box.operator != "mul":
        return None
    for core, uniform in (box.operands, box.operands[::-1]):
        if not graph[uniform].axes and is_nonnegative(graph, uniform) and graph[core].axes:
            return core, uniform
    return None


_SCALE: dict[str, Callable[[_Rules, Pointwise, float], int | None]] = {
    "add": _Rules.all_scaled,
    "sub": _Rules.all_scaled,
    "neg": _Rules.all_scaled,
    "max2": _Rules.all_scaled,
    "min2": _Rules.all_scaled,
    "mul": _Rules.scaled_product,
    "div": _Rules.scaled_product,
    "where": _Rules.scaled_choice,
}


def uses(graph: Graph, roots: Sequence[int]) -> dict[int, int]:
    """Return how many boxes under the roots read each box."""
    counts: dict[int, int] = {}
    for each in topological(graph, roots):
        for operand in operands_of(graph[each]):
            counts[operand] = counts.get(operand, 0) + 1
    return counts
