"""Adjoints in their short form: sums of products, uniform factors outside, sums that exist used again.

In: a graph, the adjoints' boxes, and the boxes that they were derived from, which stay as they are. Out:
equal boxes. The rules know products and sums only:
- numbers, signs and quotients gather in one product; a factor that a sum's axes do not touch leaves it;
- a normalised exponential is joined (`weights`), and a product that is 0 where a condition fails
  needs no `where` for it;
- terms with a common factor are one product;
- sum_x a_x sum_v b_v c_xv is sum_v b_v (sum_x a_x c_xv) where the inner sum is there already
  (docs/algebra.md, "Gradients").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce as fold

from napkin.algebra.gradient.kept import Extents
from napkin.algebra.gradient.monomials import (
    ONE,
    Forms,
    Monomial,
    common_factor,
    like_terms,
)
from napkin.algebra.gradient.weights import is_weight
from napkin.diagram import (
    Constant,
    Gather,
    Graph,
    Leaf,
    Pointwise,
    Reduce,
    Size,
    operands_of,
    topological,
)
from napkin.language.errors import InternalError
from napkin.operators import Kind


def tidy(graph: Graph, roots: Iterable[int], given: set[int], extents: Extents) -> dict[int, int]:
    """Return the roots, and all boxes behind them that are not given, in their short form.

    Sums that the forward had better give too are added to `given`.
    """
    roots, known = list(roots), -1
    while known < len(given):
        known = len(given)
        short = _Tidier(graph, given, extents).run(roots)
    return short


class _Tidier:
    def __init__(self, graph: Graph, given: set[int], extents: Extents) -> None:
        self.graph = graph
        self.given = given
        self.extents = extents
        self.sums = [each for each in sorted(self.given) if self._is_sum(each)]
        self.forms = Forms(graph, given)
        self.new: dict[int, int] = {}

    def run(self, roots: list[int]) -> dict[int, int]:
        for each in topological(self.graph, roots):
            self.new[each] = each if each in self.given else self._short(each)
        return self.new

    def _is_sum(self, each: int) -> bool:
        box = self.graph[each]
        return isinstance(box, Reduce) and box.operator == "sum" and box.kind is Kind.FLOAT

    def _short(self, each: int) -> int:
        box = self.graph[each]
        if isinstance(box, Leaf):
            return each
        operands = [self.new[operand] for operand in operands_of(box)]
        match box:
            case Reduce(operator="sum", kind=Kind.FLOAT):
                return self.forms.write(self._sum(operands, box.over))
            case Reduce():
                return self.graph.reduce(box.operator, operands, box.over)
            case Gather():
                return self.graph.gather(operands[0], operands[1:])
            case Pointwise(operator="add" | "sub", kind=Kind.FLOAT):
                return self.forms.write(self._total(self._terms(each, 1.0)))
            case Pointwise():
                return self._product(self.graph.pointwise(box.operator, *operands))
            case _:
                raise InternalError(f"no adjoint is made of this: {box}")

    def _product(self, each: int) -> int:
        product = self.forms.open(each)
        return each if product.powers == ((each, ONE),) else self.forms.write(product)

    # --- sums of several terms --------------------------------------------------------------------

    def _total(self, terms: list[Monomial]) -> Monomial:
        """Return a sum of terms with their common factor outside."""
        terms = self._one_sum(like_terms(terms))
        if not terms:
            return Monomial(0.0)
        common = common_factor(terms)
        rest = [term.over(common) for term in terms]
        if len(rest) == 1:
            return common.times(rest[0])
        rest.sort(key=lambda term: term.number < 0)
        total = self.forms.write(rest[0])
        for term in rest[1:]:
            operator = "sub" if term.number < 0 else "add"
            size = replace(term, number=abs(term.number))
            total = self.graph.pointwise(operator, total, self.forms.write(size))
        return common.times(Monomial(powers=((total, ONE),)))

    def _terms(self, each: int, sign: float) -> list[Monomial]:
        """Return the terms of a sum that was not given, through sums behind it."""
        box = self.graph[each]
        if isinstance(box, Pointwise) and each not in self.given:
            if box.operator in ("add", "sub"):
                left, right = box.operands
                other = -sign if box.operator == "sub" else sign
                return [*self._terms(left, sign), *self._terms(right, other)]
            if box.operator == "neg":
                return self._terms(box.operands[0], -sign)
        return [Monomial(sign).times(self.forms.open(self.new[each]))]

    def _one_sum(self, terms: list[Monomial]) -> list[Monomial]:
        """Return terms with sums over the same axes that share a factor made one sum."""
        for place, term in enumerate(terms):
            for later in range(place + 1, len(terms)):
                joined = self._shared_sum(term, terms[later])
                if joined is not None:
                    rest = [*terms[:place], joined, *terms[place + 1 : later], *terms[later + 1 :]]
                    return self._one_sum(rest)
        return terms

    def _shared_sum(self, one: Monomial, two: Monomial) -> Monomial | None:
        """Return sum_x a b + sum_x a c as sum_x a (b + c), and u sum_x b + sum_x c as sum_x (u b + c)."""
        first, second = self._parted(one), self._parted(two)
        if first is None or second is None:
            return None
        (outer, box), (other, twin) = first, second
        if set(box.over) != set(twin.over) or set(box.axes) != set(twin.axes):
            return None
        common = [each for each in box.operands if each in twin.operands]
        uniform = not outer.powers and not other.powers
        if not (common and uniform):
            common = []
            if not (self._is_elementwise(box) and self._is_elementwise(twin)):
                return None
            beside = {a for i, _ in (*outer.powers, *other.powers) for a in self.graph[i].axes}
            if not beside <= set(box.axes):
                return None
        sides = []
        for rest, each in ((outer, box), (other, twin)):
            own = (self.forms.open(i) for i in each.operands if i not in common)
            sides.append(fold(Monomial.times, own, rest))
        both = self.forms.write(self._total(sides))
        if not set(box.over) <= {axis for i in (both, *common) for axis in self.graph[i].axes}:
            return None
        return self._sum([both, *common], box.over)

    def _is_elementwise(self, box: Reduce) -> bool:
        """Return whether one factor of a sum carries all axes, so that the others only scale it."""
        axes = {*box.axes, *box.over}
        return any(axes == set(self.graph[each].axes) for each in box.operands)

    def _parted(self, term: Monomial) -> tuple[Monomial, Reduce] | None:
        """Return a term as what stands before its one sum, and the sum."""
        sums = [each for each, power in term.powers if power == 1 and self._is_sum(each)]
        if len(sums) != 1 or sums[0] in self.given or term.guards:
            return None
        box = self.graph[sums[0]]
        assert isinstance(box, Reduce)
        return term.over(Monomial(powers=((sums[0], ONE),))), box

    # --- reductions -------------------------------------------------------------------------------

    def _sum(self, operands: Sequence[int], over: Sequence[str]) -> Monomial:
        """Return a sum of a product with its uniform factors outside."""
        outside, inside = Monomial(), []
        products, over = self._flat([self.forms.open(each) for each in operands], over)
        for product in products:
            own, rest = self._part(product, over)
            outside = outside.times(own)
            inside.append(rest)
        if outside.number == 0:
            return outside
        over, alike = self._part_axes(inside, over)
        outside = fold(Monomial.times, alike, outside)
        if not over:
            return fold(Monomial.times, inside, outside)
        inside = self._with_divisors_at_weights(inside)
        shorter = self._reassociated(inside, over)
        if shorter is not None:
            return outside.times(shorter)
        factors = [each for each in map(self.forms.write, inside) if self.graph[each] != _UNIT]
        return outside.times(Monomial(powers=((self.graph.reduce("sum", factors, over), ONE),)))

    def _with_divisors_at_weights(self, inside: list[Monomial]) -> list[Monomial]:
        """Return factors with what normalises an exponential beside it, wherever it stood."""
        for place, term in enumerate(inside):
            for other, source in enumerate(inside):
                for divisor, power in source.powers:
                    weights = (each for each, own in term.powers if own >= 1)
                    if other == place or power > -1:
                        continue
                    if any(is_weight(self.graph, each, divisor) for each in weights):
                        moved = Monomial(powers=((divisor, -ONE),))
                        inside = list(inside)
                        inside[place], inside[other] = term.times(moved), source.over(moved)
                        return self._with_divisors_at_weights(inside)
        return inside

    def _carried(self, terms: Iterable[Monomial]) -> set[str]:
        boxes = (each for term in terms for each, _ in (*term.powers, *term.guards))
        return {axis for each in boxes for axis in self.graph[each].axes}

    def _part_axes(
        self, inside: Sequence[Monomial], over: Sequence[str]
    ) -> tuple[tuple[str, ...], list[Monomial]]:
        """Return the axes that the factors carry, and the lengths of those along which they are alike."""
        carried = self._carried(inside)
        lengths = [self.graph.add(Size(axis)) for axis in over if axis not in carried]
        left = tuple(axis for axis in over if axis in carried)
        return left, [Monomial(powers=((each, ONE),)) for each in lengths]

    def _flat(
        self, products: list[Monomial], over: Sequence[str]
    ) -> tuple[list[Monomial], tuple[str, ...]]:
        """Return a sum's factors and axes with sums of one operand among the factors joined to it."""
        over = tuple(over)
        for place, product in enumerate(products):
            for each, power in product.powers:
                box = self.graph[each]
                if power != 1 or each in self.given or not self._is_sum(each):
                    continue
                assert isinstance(box, Reduce)
                beside = [product.over(Monomial(powers=((each, ONE),))), *products[:place]]
                meets = self._carried([*beside, *products[place + 1 :]]) | set(over)
                if len(box.operands) == 1 and meets.isdisjoint(box.over):
                    joined = beside[0].times(self.forms.open(box.operands[0]))
                    rest = [*products[:place], joined, *products[place + 1 :]]
                    return self._flat(rest, (*over, *box.over))
        return products, over

    def _part(self, product: Monomial, over: Sequence[str]) -> tuple[Monomial, Monomial]:
        """Part a product into what carries none of the axes, and the rest."""
        product = self.forms.joined(product)

        def is_uniform(each: int) -> bool:
            return set(over).isdisjoint(self.graph[each].axes)

        outside = Monomial(
            product.number,
            tuple(pair for pair in product.powers if is_uniform(pair[0])),
            tuple(pair for pair in product.guards if is_uniform(pair[0])),
        )
        inside = Monomial(
            1.0,
            tuple(pair for pair in product.powers if not is_uniform(pair[0])),
            tuple(pair for pair in product.guards if not is_uniform(pair[0])),
        )
        return outside, inside

    def _reassociated(self, inside: Sequence[Monomial], over: Sequence[str]) -> Monomial | None:
        """Return a nested sum by way of a sum that was given, if one is a part of it."""
        product = fold(Monomial.times, inside, Monomial())
        for each, power in product.powers:
            box = self.graph[each]
            if power != 1 or each in self.given or not self._is_sum(each):
                continue
            assert isinstance(box, Reduce)
            nested = fold(Monomial.times, (self.forms.open(i) for i in box.operands), Monomial())
            beside = product.over(Monomial(powers=((each, ONE),)))
            flat = beside.times(nested)
            if set(box.over) & (self._carried([beside]) | set(over)):
                continue
            shorter = self._by_given_sum(flat, (*over, *box.over))
            shorter = shorter or self._by_new_sum(flat, over, box.over)
            if shorter is not None:
                return shorter
        return None

    def _by_given_sum(self, flat: Monomial, over: Sequence[str]) -> Monomial | None:
        opened = self._opened(flat)
        for each in self.sums:
            box = self.graph[each]
            assert isinstance(box, Reduce)
            if not set(box.over) < set(over):
                continue
            own = self._opened(
                fold(Monomial.times, (self.forms.open(i) for i in box.operands), Monomial())
            )
            uniform, core = self._part(own, box.over)
            outside, part = self._part(opened, box.over)
            if sorted(part.powers) != sorted(core.powers) or set(part.guards) != set(core.guards):
                continue
            foreign = self._carried([uniform]) - self._carried([opened])
            if foreign or not uniform.divides(outside):
                continue
            left = outside.over(uniform).times(Monomial(powers=((each, ONE),)))
            rest = [axis for axis in over if axis not in box.over]
            return self._sum_of_factors(left, rest)
        return None

    def _by_new_sum(
        self, flat: Monomial, over: Sequence[str], inner: Sequence[str]
    ) -> Monomial | None:
        """Return a nested sum by way of one that the forward could give, if that leaves a row's product.

        All that carries the outer axes must be the forward's, and what is left of as many axes.
        """
        outside, part = self._part(flat, over)
        if part.guards or any(each not in self.given for each, _ in part.powers):
            return None
        factors = [self.forms.power(each, power) for each, power in part.powers if power > 0]
        if len(factors) != 2 or len(part.powers) != 2:
            return None
        new = self.graph.reduce("sum", factors, over)
        axes = set(self.graph[new].axes)
        beside = [
            each for each, _ in outside.powers if not set(inner).isdisjoint(self.graph[each].axes)
        ]
        if (
            len(beside) != 1
            or set(self.graph[beside[0]].axes) != axes
            or not self.extents.is_small(axes)
        ):
            return None
        self.given.add(new)
        self.sums.append(new)
        return self._sum_of_factors(outside.times(Monomial(powers=((new, ONE),))), inner)

    def _opened(self, product: Monomial) -> Monomial:
        """Return a product with what was given opened too."""
        total = Monomial(product.number, (), product.guards)
        for each, power in product.powers:
            inner = self.forms.open(each, deep=True)
            whole = inner.number == 1 and not inner.guards
            total = total.times(inner.to_the(power) if whole else Monomial(powers=((each, power),)))
        return total

    def _sum_of_factors(self, product: Monomial, over: Sequence[str]) -> Monomial:
        outside, inside = self._part(product, over)
        factors = [
            self.forms.write(Monomial(powers=((each, power),))) for each, power in inside.powers
        ]
        if inside.guards:
            factors = [self.forms.write(inside)]
        total = self.graph.reduce("sum", factors, over)
        return outside.times(Monomial(powers=((total, ONE),)))


_UNIT = Constant(1.0, Kind.FLOAT)
