"""Boxes to SymPy and back.

Inside one reduction over a stream axis x, everything that carries x and no running value is one
opaque symbol (an x-leaf), everything without x is another (an R-leaf); see docs/algebra.md, "Normal
form". `Symbols` makes them, remembers the box of each, and turns SymPy's answer back into boxes.
SymPy's expressions are `Any` to the type checker; of the algebra, only `separation` and `streams`
touch them too.

A condition that guards a mixed value becomes an indicator: where(c, f, g) = [c] f + [not c] g. On
the way back a factor [c] turns into where(c, rest, 0), which is 0 even where the rest is not
finite. A branch of -inf becomes a penalty instead, an added leaf that is 0 or -inf. What SymPy
can't say (other infinities, complex numbers, expressions past a size) stays closed: one leaf, or
one unknown function.
"""

from __future__ import annotations

from functools import reduce as fold
from math import inf, isinf
from typing import Any

import sympy as sp

from napkin.algebra.signs import is_bounded_above, is_nonnegative
from napkin.diagram import Constant, Graph, Pointwise, operands_of, topological
from napkin.language.errors import InternalError
from napkin.operators import POINTWISE, Kind

Expression = Any


class Symbols:
    """A two-way table between boxes and SymPy symbols, for one reduction.

    `over` are the axes it reduces, the stream's among them; what carries any of them stays inside.
    `running` holds the ids that depend on a value which still moves
    along it.
    """

    def __init__(self, graph: Graph, over: tuple[str, ...], running: set[int]) -> None:
        self.graph = graph
        self._over = frozenset(over)
        self._running = running
        self._symbols: dict[int, Expression] = {}
        self._boxes: dict[Expression, int] = {}
        self._conditions: dict[Expression, int] = {}
        self._cache: dict[int, Expression] = {}
        self._weights: dict[int, int] = {}
        self.penalties: set[Expression] = set()
        self.stream_symbols: set[Expression] = set()
        self.running_symbols: set[Expression] = set()

    def box_of(self, symbol: Expression) -> int:
        """Return the leaf box behind a symbol."""
        return self._boxes[symbol]

    def bind(self, name: str, box: int) -> Expression:
        """Return a new symbol for a box that the expression did not hold."""
        symbol = sp.Symbol(name, real=True)
        self._boxes[symbol] = box
        return symbol

    def alias(self, symbol: Expression, box: int, version: str) -> Expression:
        """Return a symbol like a leaf's, for another version of its box."""
        other = self.bind(f"{symbol.name}_{version}", box)
        if symbol in self._conditions:
            self._conditions[other] = box
        return other

    def is_condition(self, symbol: Expression) -> bool:
        """Return whether a symbol is an indicator."""
        return symbol in self._conditions

    def may_overflow(self, symbol: Expression) -> bool:
        """Return whether a leaf is made with an exponential whose argument may be large."""
        pending = [self._boxes[symbol]]
        while pending:
            box = self.graph[pending.pop()]
            if not isinstance(box, Pointwise):
                continue
            exponential = box.operator in ("exp", "exp2")
            if exponential and not is_bounded_above(self.graph, box.operands[0]):
                return True
            pending += box.operands
        return False

    def is_mixed(self, box: int) -> bool:
        """Return whether a box carries a reduced axis and depends on a running value."""
        return self._is_inside(box) and box in self._running

    def _is_inside(self, box: int) -> bool:
        return not self._over.isdisjoint(self.graph[box].axes)

    def product(self, factors: tuple[int, ...]) -> Expression:
        """Return the product of boxes as an expression over leaf symbols."""
        return fold(lambda a, b: a * b, (self.expression(each) for each in factors), sp.Integer(1))

    def expression(self, root: int) -> Expression:
        """Return a box as an expression over leaf symbols: mixed boxes open, operands first."""
        pending = [(root, False)]
        while pending:
            each, ready = pending.pop()
            if each in self._cache:
                continue
            if not self._opens(each):
                self._cache[each] = self._leaf(each)
            elif ready:
                self._cache[each] = self._open_or_close(each)
            else:
                pending.append((each, True))
                pending += [(operand, False) for operand in operands_of(self.graph[each])]
        return self._cache[root]

    def _opens(self, each: int) -> bool:
        box = self.graph[each]
        constant = isinstance(box, Constant) and box.kind is not Kind.BOOL
        return constant or (self.is_mixed(each) and isinstance(box, Pointwise))

    def _open_or_close(self, each: int) -> Expression:
        """Open a box unless it is too large for SymPy: then it is a leaf that streams and runs."""
        operands = operands_of(self.graph[each])
        weight = 1 + sum(self._weights.get(operand, 1) for operand in operands)
        if weight > _MAX_WEIGHT:
            return self._leaf(each)
        self._weights[each] = weight
        return self._open(each)

    def _leaf(self, each: int) -> Expression:
        if each not in self._symbols:
            sign = {"positive": True} if is_nonnegative(self.graph, each) else {}
            symbol = sp.Symbol(f"b{each}", real=True, **sign)
            self._symbols[each] = symbol
            self._boxes[symbol] = each
            if self._is_inside(each):
                self.stream_symbols.add(symbol)
            if each in self._running:
                self.running_symbols.add(symbol)
        return self._symbols[each]

    def _open(self, each: int) -> Expression:
        box = self.graph[each]
        if isinstance(box, Constant):
            return _number(box.value)
        if not isinstance(box, Pointwise):
            raise InternalError(f"only pointwise boxes open: {box}")
        if box.operator == "where":
            return self._open_where(box)
        operands = [self._cache[operand] for operand in box.operands]
        rule = TO_SYMPY.get(box.operator)
        opened = rule(*operands) if rule else None
        if opened is None or opened.has(*_UNSOUND):
            return sp.Function(box.operator)(*operands)
        return opened

    def _open_where(self, box: Pointwise) -> Expression:
        condition, yes, no = box.operands
        if self.is_mixed(condition):
            return sp.Function("where")(*(self._cache[operand] for operand in box.operands))
        then, other = self._cache[yes], self._cache[no]
        # A penalty that comes and goes with a running value would lose what it had sent to -inf.
        if condition not in self._running:
            if other == -sp.oo:
                return then + self._penalty(condition)
            if then == -sp.oo:
                return other + self._penalty(self._negate(condition))
        if then.has(sp.oo, -sp.oo) or other.has(sp.oo, -sp.oo):
            return sp.Function("where")(self._leaf(condition), then, other)
        held, failed = self._indicator(condition), self._indicator(self._negate(condition))
        return held * then + failed * other

    def _penalty(self, condition: int) -> Expression:
        zero, nothing = self.graph.constant(0.0), self.graph.constant(-inf)
        penalty = self._leaf(self.graph.pointwise("where", condition, zero, nothing))
        self.penalties.add(penalty)
        return penalty

    def _negate(self, condition: int) -> int:
        negated = self.graph.pointwise("not", condition)
        self._mark_like(negated, condition)
        return negated

    def _mark_like(self, new: int, old: int) -> None:
        if old in self._running:
            self._running.add(new)

    def _indicator(self, condition: int) -> Expression:
        symbol = self._leaf(condition)
        self._conditions[symbol] = condition
        return symbol

    # --- and back ---------------------------------------------------------------------------------

    def is_expressible(self, expression: Expression) -> bool:
        """Return whether boxes can say an expression: real numbers, leaves and known operators."""
        if expression.is_number:
            return bool(expression.is_extended_real)
        if expression.is_Symbol:
            return expression in self._boxes
        if expression.is_Pow and expression.base.is_negative and not expression.exp.is_integer:
            return False
        name = _FROM_SYMPY.get(expression.func, expression.func.__name__)
        known = expression.is_Add or expression.is_Mul or expression.is_Pow or name in POINTWISE
        return known and all(self.is_expressible(each) for each in expression.args)

    def factors(self, expression: Expression) -> tuple[int, ...]:
        """Return an expression as boxes whose product it is; exponentials of a base are joined."""
        plain: list[int] = []
        exponents: dict[Expression, Expression] = {}
        divisors: list[Expression] = []
        conditions: list[int] = []
        for factor in sp.Mul.make_args(expression):
            if factor in self._conditions:
                conditions.append(self._conditions[factor])
            elif is_exponential(factor):
                base, exponent = factor.as_base_exp()
                exponents[base] = exponents.get(base, sp.Integer(0)) + exponent
            elif isinstance(factor, sp.Pow) and factor.exp.is_number and factor.exp < 0:
                divisors.append(factor)
            elif factor != 1:
                plain.append(self.box(factor))
        plain[:0] = [self.box(base**exponent) for base, exponent in exponents.items()]
        if divisors or not plain:
            base = plain.pop() if plain else self.graph.constant(1.0)
            for divisor in divisors:
                base = self.graph.pointwise("div", base, self.box(1 / divisor))
            plain.append(base)
        for condition in conditions:
            plain = [
                self._guarded(condition, each) if place == 0 or self._holds_infinity(each) else each
                for place, each in enumerate(plain)
            ]
        return tuple(plain)

    def _guarded(self, condition: int, each: int) -> int:
        return self.graph.pointwise("where", condition, each, self.graph.constant(0.0))

    def _holds_infinity(self, each: int) -> bool:
        """Return whether a factor is made with an infinite constant, which 0 times would be NaN."""
        boxes = (self.graph[i] for i in topological(self.graph, [each]))
        return any(isinstance(box, Constant) and isinf(box.value) for box in boxes)

    def box(self, expression: Expression) -> int:
        """Return an expression as one box."""
        graph = self.graph
        if expression in self._boxes:
            each = self._boxes[expression]
            if expression not in self._conditions:
                return each
            return graph.pointwise("where", each, graph.constant(1.0), graph.constant(0.0))
        if expression.is_number:
            return graph.constant(_python_number(expression))
        if isinstance(expression, sp.Add):
            return self._sum(expression)
        if isinstance(expression, sp.Mul):
            if expression.could_extract_minus_sign():
                return graph.pointwise("neg", self.box(-expression))
            return fold(lambda a, b: graph.pointwise("mul", a, b), self.factors(expression))
        if isinstance(expression, sp.Pow):
            return self._power(expression)
        return graph.pointwise(
            _FROM_SYMPY.get(expression.func, expression.func.__name__),
            *(self.box(each) for each in expression.args),
        )

    def _sum(self, expression: Expression) -> int:
        terms = sorted(expression.args, key=self._order)
        positive = [each for each in terms if not each.could_extract_minus_sign()]
        negative = [-each for each in terms if each.could_extract_minus_sign()]
        graph = self.graph
        if positive:
            total = fold(lambda a, b: graph.pointwise("add", a, b), map(self.box, positive))
        else:
            total = graph.pointwise("neg", self.box(negative.pop(0)))
        return fold(lambda a, b: graph.pointwise("sub", a, b), map(self.box, negative), total)

    def _order(self, expression: Expression) -> tuple[int, str]:
        ids = [self._boxes[each] for each in expression.free_symbols if each in self._boxes]
        return (min(ids, default=-1), str(expression))

    def _power(self, expression: Expression) -> int:
        graph, base, exponent = self.graph, expression.base, expression.exp
        if exponent.is_number and exponent < 0:
            one = graph.constant(1.0)
            return graph.pointwise("div", one, self.box(base ** (-exponent)))
        if exponent == sp.Rational(1, 2):
            return graph.pointwise("sqrt", self.box(base))
        if base == 2:
            return graph.pointwise("exp2", self.box(exponent))
        return graph.pointwise("pow", self.box(base), self.box(exponent))


def is_exponential(expression: Expression) -> bool:
    """Return whether the expression is a positive number to a power that varies."""
    if isinstance(expression, sp.exp):
        return True
    power = expression.is_Pow and bool(expression.base.is_positive)
    return power and expression.base.is_number and not expression.exp.is_number


def _number(value: float | int | bool) -> Expression:
    if value == inf:
        return sp.oo
    if value == -inf:
        return -sp.oo
    return sp.Rational(value) if isinstance(value, float) else sp.Integer(value)


def _python_number(value: Expression) -> float | int:
    if value in (sp.oo, -sp.oo):
        return inf if value == sp.oo else -inf
    return int(value) if value.is_Integer else float(value)


_MAX_WEIGHT = 150  # operators opened in one expression
_UNSOUND = (sp.zoo, sp.nan, sp.I)

TO_SYMPY: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pow": lambda a, b: a**b,
    "exp": sp.exp,
    "exp2": lambda a: sp.Integer(2) ** a,
    "log": sp.log,
    "log2": lambda a: sp.log(a) / sp.log(2),
    "sqrt": sp.sqrt,
    "rsqrt": lambda a: 1 / sp.sqrt(a),
    "tanh": sp.tanh,
    "sigmoid": lambda a: 1 / (1 + sp.exp(-a)),
    "abs": sp.Abs,
}
_FROM_SYMPY: dict[Any, str] = {
    sp.exp: "exp",
    sp.log: "log",
    sp.tanh: "tanh",
    sp.Abs: "abs",
}
