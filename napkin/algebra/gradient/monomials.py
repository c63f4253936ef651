"""Products as monomials: a number times powers of boxes, and the conditions without which they are 0.

In: boxes. Out: monomials of them, and boxes again, large factors before small ones and divisors last. Written
as boxes, an exponential that is divided by its row's sum is joined with it (`weights`), and what is
0 where a condition fails anyway gets no `where`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce as fold

from napkin.algebra.conditions import is_zero_where
from napkin.algebra.gradient.rules import inverse
from napkin.algebra.gradient.weights import is_weight, join_weight
from napkin.diagram import Box, Constant, Graph, Pointwise, Size, topological
from napkin.operators import Kind

ONE = Fraction(1)
_HALF = Fraction(1, 2)
_HUGE = 1e30  # what stands for infinity
_MOST_FACTORS = 4  # of one box written out


@dataclass(frozen=True, slots=True)
class Monomial:
    """A number times powers of boxes, and the conditions (with their truth) without which it is 0."""

    number: float = 1.0
    powers: tuple[tuple[int, Fraction], ...] = ()
    guards: tuple[tuple[int, bool], ...] = ()

    def times(self, other: Monomial) -> Monomial:
        """Return the product."""
        powers = dict(self.powers)
        for each, power in other.powers:
            powers[each] = powers.get(each, Fraction(0)) + power
        left = tuple((each, power) for each, power in powers.items() if power)
        guards = tuple(dict.fromkeys((*self.guards, *other.guards)))
        return Monomial(self.number * other.number, left, guards)

    def to_the(self, power: Fraction) -> Monomial:
        """Return a power; of a number or condition only a whole positive one or -1."""
        powers = tuple((each, own * power) for each, own in self.powers)
        return Monomial(self.number ** float(power), powers, self.guards)

    def divides(self, other: Monomial) -> bool:
        """Return whether another monomial can be divided by this one wherever they are defined."""
        powers = dict(other.powers)
        whole = all(power < 0 or powers.get(each, 0) >= power for each, power in self.powers)
        return bool(self.number) and whole and set(self.guards) <= set(other.guards)

    def over(self, other: Monomial) -> Monomial:
        """Return the quotient by a factor of this monomial."""
        left = replace(other, guards=()).to_the(Fraction(-1))
        guards = tuple(each for each in self.guards if each not in other.guards)
        return replace(self, guards=guards).times(left)


class Forms:
    """Leads from boxes to monomials and back; boxes that are `given` stay closed."""

    def __init__(self, graph: Graph, given: Collection[int]) -> None:
        self.graph = graph
        self.given = given

    def open(self, each: int, *, deep: bool = False) -> Monomial:
        """Return a box as a product; `deep` opens what was given too."""
        box = self.graph[each]
        atom = Monomial(powers=((each, ONE),))
        if box.kind is not Kind.FLOAT:
            return (
                Monomial(float(box.value)) if isinstance(box, Constant) and _is_whole(box) else atom
            )
        if isinstance(box, Constant):
            return Monomial(float(box.value)) if abs(box.value) < _HUGE else atom
        if not isinstance(box, Pointwise) or (each in self.given and not deep):
            return atom
        return self._open(box, atom, deep)

    def _open(self, box: Pointwise, atom: Monomial, deep: bool) -> Monomial:
        first = box.operands[0]
        match box.operator:
            case "mul":
                left, right = (self.open(operand, deep=deep) for operand in box.operands)
                return left.times(right)
            case "div":
                left, right = (self.open(operand, deep=deep) for operand in box.operands)
                return left.times(right.to_the(Fraction(-1))) if right.number else atom
            case "neg":
                return Monomial(-1.0).times(self.open(first, deep=deep))
            case "sqrt" | "rsqrt" if deep:
                inner = self.open(first, deep=True)
                power = _HALF if box.operator == "sqrt" else -_HALF
                return inner.to_the(power) if inner.number == 1 and not inner.guards else atom
            case "where":
                return self._open_choice(box, atom, deep)
            case _:
                return atom

    def _open_choice(self, box: Pointwise, atom: Monomial, deep: bool) -> Monomial:
        condition, yes, no = box.operands
        graph = self.graph
        if _is_zero(graph, no) or _is_zero(graph, yes):
            held = _is_zero(graph, no)
            taken = yes if held else no
            divisor = self._inverted(condition, taken) if not held else None
            if divisor is not None:
                opened = self.open(divisor, deep=deep)
                return opened.to_the(Fraction(-1)) if opened.number else atom
            return self.open(taken, deep=deep).times(Monomial(guards=((condition, held),)))
        return atom

    def _inverted(self, condition: int, quotient: int) -> int | None:
        """Return b of where(b == 0, 0, 1 / b)."""
        test, ratio = self.graph[condition], self.graph[quotient]
        if not isinstance(test, Pointwise) or not isinstance(ratio, Pointwise):
            return None
        if test.operator != "eq" or ratio.operator != "div":
            return None
        one, by = ratio.operands
        alike = test.operands[0] == by and _is_zero(self.graph, test.operands[1])
        return by if alike and self.graph[one] == Constant(1.0, Kind.FLOAT) else None

    def write(self, product: Monomial) -> int:
        """Return a product as boxes: large factors first, then those of fewer axes, then divisors."""
        graph = self.graph
        if product.number == 0:
            return graph.constant(0.0)
        product = self.joined(product)
        above = [pair for pair in product.powers if pair[1] > 0]
        below = [(each, -power) for each, power in product.powers if power < 0]
        factors = [self.power(each, power) for each, power in above]
        factors.sort(key=lambda each: (-len(graph[each].axes), each))
        sign, number = (-1.0 if product.number < 0 else 1.0), abs(product.number)
        divisors = [self.power(each, power) for each, power in below]
        plain = [each for each in divisors if self._is_length(each)]
        factors += [inverse(graph, each) for each in divisors if each not in plain]
        if number != 1 or not factors:
            factors.append(graph.constant(number))
        total = fold(lambda a, b: graph.pointwise("mul", a, b), factors)
        total = fold(lambda a, b: graph.pointwise("div", a, b), plain, total)
        if sign < 0:
            known = graph[total]
            total = (
                graph.constant(-number)
                if isinstance(known, Constant)
                else graph.pointwise("neg", total)
            )
        return self._guarded(total, product.guards)

    def _guarded(self, total: int, guards: Sequence[tuple[int, bool]]) -> int:
        graph, zero = self.graph, self.graph.constant(0.0)
        for condition, held in guards:
            if not is_zero_where(graph, total, condition, not held):
                branches = (total, zero) if held else (zero, total)
                total = graph.pointwise("where", condition, *branches)
        return total

    def joined(self, product: Monomial) -> Monomial:
        """Return a product with every exponential that one of its divisors normalises joined with it."""
        for each, power in product.powers:
            for divisor, below in product.powers:
                if power >= 1 and below <= -1 and is_weight(self.graph, each, divisor):
                    weight = Monomial(powers=((join_weight(self.graph, each, divisor), ONE),))
                    quotient = Monomial(powers=((each, ONE), (divisor, -ONE)))
                    return self.joined(product.over(quotient).times(weight))
        return product

    def power(self, each: int, power: Fraction) -> int:
        graph = self.graph
        if power.denominator == 2:
            root = graph.pointwise("sqrt", each)
            return (
                root
                if power == _HALF
                else graph.pointwise("mul", self.power(each, power - _HALF), root)
            )
        if power > _MOST_FACTORS:
            return graph.pointwise("pow", each, graph.constant(int(power)))
        return fold(lambda a, b: graph.pointwise("mul", a, b), [each] * int(power))

    def _is_length(self, each: int) -> bool:
        """Return whether a box is made of lengths and numbers alone, so that it is never 0."""
        leaves = (self.graph[i] for i in topological(self.graph, [each]))
        return all(isinstance(box, Size | Constant | Pointwise) for box in leaves)


def _is_whole(box: Box) -> bool:
    return isinstance(box, Constant) and box.kind is Kind.INT


def _is_zero(graph: Graph, each: int) -> bool:
    box = graph[each]
    return isinstance(box, Constant) and box.kind is not Kind.BOOL and box.value == 0


def like_terms(terms: Sequence[Monomial]) -> list[Monomial]:
    """Return the terms with those that differ in their number alone added up."""
    found: dict[tuple[object, ...], Monomial] = {}
    for term in terms:
        key = (frozenset(term.powers), frozenset(term.guards))
        number = term.number + (found[key].number if key in found else 0.0)
        found[key] = replace(term, number=number)
    return [term for term in found.values() if term.number]


def common_factor(terms: Sequence[Monomial]) -> Monomial:
    """Return the factor that all terms share."""
    powers: list[tuple[int, Fraction]] = []
    for each, power in terms[0].powers:
        others = [dict(term.powers).get(each, Fraction(0)) for term in terms[1:]]
        least = min((power, *others), key=abs)
        if least and all(other * least > 0 for other in (power, *others)):
            powers.append((each, least))
    guards = tuple(
        guard for guard in terms[0].guards if all(guard in term.guards for term in terms)
    )
    sizes = {abs(term.number) for term in terms}
    number = sizes.pop() if len(sizes) == 1 else 1.0
    if all(term.number < 0 for term in terms):
        number = -number
    return Monomial(number, tuple(powers), guards)
