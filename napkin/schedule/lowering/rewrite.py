"""Cheap forms that hardware wants, found by rewriting boxes and never by name.

In: a derived stream. Out: an equal one whose boxes are cheaper:
- exp(a - b) becomes exp2(k a - k b), k = log2 e, with k folded into a multiplication that is there already;
- a maximum that feeds exponentials is kept in the same scaled units;
- a positive uniform scale moves out of `where(c, s, -inf)`, so that it can pass the maximum and meet the
  subtraction in one multiply-add;
- a quotient by something of fewer axes is a product with its reciprocal, made once a row; what is uniform in
  a product is multiplied first;
- a term of an exponent that its maximum's axes carry leaves the elements for the maximum (`row_term`);
- an affine comparison has the stream's index alone on one side, a row against a column;
- such a maximum starts at the lowest finite number and not at -inf, so that nothing minus nothing is
  finite inside an exponential and never NaN; where it is read otherwise it turns back into -inf. A maximum
  over an axis that lies whole on chip is kept from falling below that number inside an exponential.

Every rule keeps values up to rounding; `laws` still holds and tests check it on the rewritten stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce as fold
from math import inf, log2

from napkin.algebra.affine import isolate
from napkin.algebra.derive import Derivation
from napkin.algebra.states import Accumulator, Pass, Stream, Transport
from napkin.diagram import (
    Box,
    Constant,
    Edge,
    Gather,
    Graph,
    Index,
    Input,
    Pointwise,
    Reduce,
    State,
    operands_of,
    topological,
)
from napkin.operators import Kind
from napkin.schedule.lowering.factors import factors_of, multiplied, row_term, split_scale

LOG2E = log2(2.718281828459045)
LOWEST = -3.4028234663852886e38  # the lowest finite number of fp32


def rewrite(derivation: Derivation) -> Derivation:
    """Return the derivation with its stream in the cheap forms; its graph gains boxes."""
    graph = Graph(derivation.graph.boxes)
    stream = derivation.stream
    if stream is None:
        return replace(derivation, graph=graph)
    operators = {each.name: each.operator for each in stream.accumulators}
    rules = _Rules(graph, _scaled_states(graph, stream), stream.axis, operators)
    passes = tuple(_rewrite_pass(rules, one) for one in stream.passes)
    tail = tuple((number, rules.apply(box)) for number, box in stream.tail)
    conditions = tuple(
        None if each is None else rules.apply(each) for each in derivation.conditions
    )
    cheap = replace(stream, passes=passes, tail=tail)
    return replace(derivation, graph=graph, stream=cheap, conditions=conditions)


def _rewrite_pass(rules: _Rules, one: Pass) -> Pass:
    return Pass(
        tuple(_rewrite_accumulator(rules, each) for each in one.accumulators),
        tuple(replace(each, value=rules.apply(each.value)) for each in one.reductions),
        tuple((number, rules.apply(box)) for number, box in one.stores),
        tuple((number, _rewrite_accumulator(rules, each)) for number, each in one.parts),
    )


def _rewrite_accumulator(rules: _Rules, each: Accumulator) -> Accumulator:
    factors = tuple(rules.apply(factor) for factor in each.factors)
    start = each.start
    if each.name in rules.scaled:
        factors = (rules.scale(each.factors[0], LOG2E),)
        start = LOWEST if each.operator == "max" else -LOWEST
    transport = tuple(
        Transport(term.source, None if term.factor is None else rules.apply(term.factor))
        for term in each.transport
    )
    return replace(each, factors=factors, transport=transport, start=start)


def _scaled_states(graph: Graph, stream: Stream) -> frozenset[str]:
    """Return the maxima (minima) that some exponential of the stream reads: kept in log2 units."""
    roots = [factor for each in stream.folds for factor in each.factors]
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
    def __init__(
        self, graph: Graph, scaled: frozenset[str], axis: str, operators: dict[str, str]
    ) -> None:
        self.graph = graph
        self.operators = operators
        self.scaled = scaled
        self.axis = axis
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
            return self._unscaled(each, box)
        if isinstance(box, Pointwise) and box.operator == "exp":
            return self.graph.pointwise("exp2", self._exponent(box.operands[0]))
        children = [self._done[operand] for operand in operands_of(box)]
        if isinstance(box, Pointwise) and box.operator == "mul":
            return self.product(children[0], children[1])
        if isinstance(box, Pointwise) and box.operator == "div":
            return self.quotient(children[0], children[1])
        if box.kind is Kind.BOOL and isolate(self.graph, each, self.axis) != each:
            return isolate(self.graph, each, self.axis)
        if tuple(children) == operands_of(box):
            return each
        if isinstance(box, Pointwise):
            return self.graph.pointwise(box.operator, *children)
        if isinstance(box, Reduce):
            return self.graph.reduce(box.operator, children, box.over)
        assert isinstance(box, Gather)
        return self.graph.gather(children[0], children[1:])

    def _exponent(self, each: int) -> int:
        box = self.graph[each]
        if isinstance(box, Pointwise) and box.operator == "sub":
            left, right = (self.scale(operand, LOG2E) for operand in box.operands)
            right = self._finite(right, masked=self._is_masked(left))
            elsewhere = set(self.graph[left].axes) - set(self.graph[right].axes)
            parts = row_term(self.graph, left, elsewhere)
            if parts is not None:
                left, right = parts[0], self.graph.pointwise("sub", right, parts[1])
            return self.graph.pointwise("sub", left, right)
        return self.scale(each, LOG2E)

    def _is_masked(self, each: int) -> bool:
        boxes = (self.graph[i] for i in topological(self.graph, [each]))
        return any(box == Constant(-inf, Kind.FLOAT) for box in boxes)

    def _finite(self, each: int, *, masked: bool) -> int:
        """Keep a maximum over positions that are all masked finite: nothing minus nothing is NaN.

        So may an array be that a mask's values are measured against, such as a logsumexp from the forward.
        """
        graph = self.graph
        boxes = [graph[i] for i in topological(graph, [each])]
        given = masked and any(isinstance(box, Input) and box.axes for box in boxes)
        if given or any(isinstance(box, Reduce) and box.operator == "max" for box in boxes):
            return graph.pointwise("max2", each, graph.constant(LOWEST))
        return each

    def _unscaled(self, each: int, box: State) -> int:
        """Return a state that is kept in log2 units as what it stands for; where nothing was seen, -inf."""
        graph = self.graph
        extreme = LOWEST if self.operators[box.name] == "max" else -LOWEST
        nothing = graph.pointwise("eq", each, graph.constant(extreme))
        value = graph.pointwise("mul", each, graph.constant(1 / LOG2E))
        unit = graph.constant(-inf if extreme < 0 else inf)
        return graph.pointwise("where", nothing, unit, value)

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
        """Fold the factor into an operand of a product or quotient that has fewer axes than the result."""
        graph = self.graph
        left, right = box.operands
        if box.operator == "div":
            divisors = self._divisors(self.apply(right), box)
            if not divisors:
                return None
            first, *others = map(self._reciprocal, divisors)
            by = (multiplied(graph, first, graph.constant(factor)), *others)
            return fold(self.product, by, self.apply(left))
        for one, other in ((left, right), (right, left)):
            if isinstance(graph[one], Constant) and _linear_states(graph, other) & self.scaled:
                return graph.pointwise("mul", self.scale(other, factor), one)
        for one, other in ((left, right), (right, left)):
            if self._is_smaller(one, box):
                return self.product(self.apply(other), self.scale(one, factor))
        return None

    def _is_smaller(self, each: int, box: Box) -> bool:
        return len(self.graph[each].axes) < len(box.axes)

    def product(self, left: int, right: int) -> int:
        """Return left * right; a factor times an index difference parts into a row and a column.

        f (a - x) = f (a - x0) - f (x - x0), where x0 is the chunk's first position: two short vectors and one
        subtraction an element in place of an integer difference, its conversion and a product; and,
        unlike f a - f x, it does not cancel.
        """
        for factor, difference in ((left, right), (right, left)):
            parts = self._index_difference(difference)
            if parts is not None and self.axis not in self.graph[factor].axes:
                row, column = (self.graph.pointwise("mul", factor, part) for part in parts)
                return self.graph.pointwise("sub", row, column)
        return self._uniform_first(left, right)

    def _uniform_first(self, left: int, right: int) -> int:
        """Return left * right with the factors of fewer axes multiplied among themselves.

        A factor a row and one a column stay apart: their product would have as many elements as the whole.
        """
        graph = self.graph
        whole = graph.pointwise("mul", left, right)
        if graph[whole].kind is not Kind.FLOAT:
            return whole
        factors = sorted(
            (*factors_of(graph, left), *factors_of(graph, right)),
            key=lambda each: (-len(graph[each].axes), self.axis not in graph[each].axes),
        )
        small = [each for each in factors if self._is_smaller(each, graph[whole])]
        large = factors[: len(factors) - len(small)]
        if len(small) < 2 or not large:
            return whole
        uniform: list[int] = []
        for each in reversed(small):
            joined = multiplied(graph, uniform[-1], each) if uniform else each
            if uniform and self._is_smaller(joined, graph[whole]):
                uniform[-1] = joined
            else:
                uniform.append(each)
        return fold(lambda a, b: graph.pointwise("mul", a, b), (*large, *reversed(uniform)))

    def quotient(self, left: int, right: int) -> int:
        """Return left / right, as a product where the divisor has fewer axes or is a number."""
        graph = self.graph
        divided = graph.pointwise("div", left, right)
        divisor = graph[right]
        if isinstance(divisor, Constant) and divisor.value:
            return self.product(left, graph.constant(1 / divisor.value))
        divisors = self._divisors(right, graph[divided])
        if not divisors:
            return divided
        return fold(self.product, map(self._reciprocal, divisors), left)

    def _divisors(self, right: int, quotient: Box) -> list[int]:
        """Return the factors of a divisor if every one has fewer axes than the quotient, else none."""
        if self._is_smaller(right, quotient):
            return [right]
        factors = factors_of(self.graph, right)
        return factors if all(self._is_smaller(each, quotient) for each in factors) else []

    def _reciprocal(self, each: int) -> int:
        box = self.graph[each]
        if isinstance(box, Constant) and box.value:
            return self.graph.constant(1 / box.value)
        return self.graph.pointwise("reciprocal", each)

    def _index_difference(self, each: int) -> tuple[int, int] | None:
        """Return (a - x0, x - x0) of a box a - x, or (x0 - b, x0 - x) of a box x - b."""
        graph, box = self.graph, self.graph[each]
        if not isinstance(box, Pointwise) or box.operator != "sub" or box.kind is not Kind.INT:
            return None
        left, right = box.operands
        index, first = graph.add(Index(self.axis)), graph.add(Edge(self.axis, "first"))
        if right == index and self.axis not in graph[left].axes and graph[left].axes:
            return graph.pointwise("sub", left, first), graph.pointwise("sub", index, first)
        if left == index and self.axis not in graph[right].axes and graph[right].axes:
            return graph.pointwise("sub", first, right), graph.pointwise("sub", first, index)
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
