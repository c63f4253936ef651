"""Values that outputs are known not to depend on: a maximum that is subtracted and divided out again.

In: a graph and its outputs. Out: boxes through which no gradient flows. For each extremum the boxes that
read it are written as expressions of it, with everything else opaque; a sum keeps factors of it outside,
as in docs/algebra.md, "Separation". Where the derivative by it is 0, as SymPy finds, it has left the
expression; if it leaves all of them before an output, its adjoint is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from napkin.algebra.signs import is_nonnegative
from napkin.algebra.symbols import TO_SYMPY
from napkin.diagram import Constant, Graph, Pointwise, Reduce, operands_of, topological
from napkin.operators import Kind

Expression = Any
_HUGE = 1e30  # what stands for infinity
_MOST_READERS = 60  # boxes between an extremum and where it must have left


def still_boxes(graph: Graph, outputs: Sequence[int]) -> frozenset[int]:
    """Return the extrema that none of the outputs depends on."""
    order = topological(graph, outputs)
    found: set[int] = set()
    for each in order:
        if _is_extremum(graph, each) and _Departure(graph, order, each).leaves(outputs):
            found.add(each)
    return frozenset(found)


def _is_extremum(graph: Graph, each: int) -> bool:
    box = graph[each]
    if isinstance(box, Reduce):
        return box.operator in ("max", "min") and box.kind is Kind.FLOAT
    return isinstance(box, Pointwise) and box.operator in ("max2", "min2")


class _Departure:
    """The boxes that read one value, as expressions of it for as long as they depend on it."""

    def __init__(self, graph: Graph, order: Sequence[int], centre: int) -> None:
        self.graph = graph
        self.order = order
        self.centre = centre
        self.symbol = sp.Symbol("centre", real=True)
        self.known: dict[int, Expression] = {centre: self.symbol}
        self.names: dict[Expression, tuple[str, ...]] = {self.symbol: graph[centre].axes}
        self.sums: dict[Expression, Expression] = {}

    def leaves(self, outputs: Sequence[int]) -> bool:
        """Return whether the value has left every expression before an output."""
        if self.centre in outputs:
            return False
        for each in self.order[self.order.index(self.centre) + 1 :]:
            if not any(operand in self.known for operand in operands_of(self.graph[each])):
                continue
            expression = self._expression(each)
            if expression is None or len(self.known) > _MOST_READERS:
                return False
            if not self._has_left(expression):
                if each in outputs:
                    return False
                self.known[each] = expression
        return True

    def _has_left(self, expression: Expression) -> bool:
        slope = sp.diff(expression, self.symbol)
        if slope == 0:
            return True
        names = sorted(slope.free_symbols, key=str)
        trial = slope.subs({name: sp.Rational(3 + i, 7 + 2 * i) for i, name in enumerate(names)})
        value = trial.evalf()
        if not value.is_number or abs(value) > 1e-9:
            return False
        return bool(sp.simplify(slope) == 0)

    def _opaque(self, each: int) -> Expression:
        box = self.graph[each]
        if isinstance(box, Constant) and box.kind is not Kind.BOOL and not self._is_infinite(each):
            return sp.Rational(box.value)
        # The name tells SymPy's own order; a value that may be 0 counts as positive almost everywhere.
        positive = is_nonnegative(self.graph, each) or None
        symbol = sp.Symbol(f"a{each}", real=True, positive=positive)
        self.names[symbol] = box.axes
        return symbol

    def _operand(self, each: int) -> Expression:
        return self.known[each] if each in self.known else self._opaque(each)

    def _expression(self, each: int) -> Expression | None:
        """Return a box as an expression of the value, None where it cannot be told."""
        box = self.graph[each]
        if isinstance(box, Reduce):
            return self._sum(box) if box.operator == "sum" else None
        if isinstance(box, Pointwise) and box.operator == "where":
            return self._choice(box)
        if not isinstance(box, Pointwise) or box.operator not in TO_SYMPY:
            return None
        return TO_SYMPY[box.operator](*(self._operand(operand) for operand in box.operands))

    def _choice(self, box: Pointwise) -> Expression | None:
        """Return where(c, a, b) as [c] a + [not c] b."""
        condition, yes, no = box.operands
        if condition in self.known or any(self._is_infinite(each) for each in (yes, no)):
            return None
        held, failed = (sp.Symbol(f"{way}{condition}", positive=True) for way in ("is", "not"))
        self.names |= dict.fromkeys((held, failed), self.graph[condition].axes)
        return held * self._operand(yes) + failed * self._operand(no)

    def _is_infinite(self, each: int) -> bool:
        box = self.graph[each]
        return isinstance(box, Constant) and abs(box.value) > _HUGE

    def _sum(self, box: Reduce) -> Expression | None:
        """Return a sum with the factors that hold the value outside, if they carry nothing summed."""
        product = sp.Mul(*(self._operand(each) for each in box.operands))
        total = sp.Integer(0)
        for term in sp.Add.make_args(sp.expand(sp.expand(product, power_exp=True), deep=False)):
            inside, outside = sp.Integer(1), sp.Integer(1)
            for factor in sp.Mul.make_args(sp.expand(term, power_exp=True)):
                if self.symbol in factor.free_symbols:
                    outside *= factor
                else:
                    inside *= factor
            carried = {axis for name in outside.free_symbols for axis in self.names[name]}
            if carried & set(box.over):
                return None
            total += outside * self._summed(inside, box.over)
        return total

    def _summed(self, inside: Expression, over: Sequence[str]) -> Expression:
        key = sp.Tuple(inside, *(sp.Symbol(f"axis_{axis}") for axis in sorted(over)))
        if key not in self.sums:
            positive = inside.is_positive or None
            self.sums[key] = sp.Symbol(f"w{len(self.sums)}", real=True, positive=positive)
            axes = {axis for name in inside.free_symbols for axis in self.names[name]}
            self.names[self.sums[key]] = tuple(sorted(axes - set(over)))
        return self.sums[key]
