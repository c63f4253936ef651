"""Geometric programmes: the least of a posynomial of tiles while another keeps under a limit.

In: sums of monomials in the tiles, as SymPy expressions. Out: `Solution` in closed form where the dual
has one point, which gives the weights and the exponent of the limit at once (a trade of two tiles, a
product of several and any chain of them are such cases), else numbers. In logarithms the problem is
convex, so a numeric solution is the best one. Paper, sections 5 and 6.

Deliberately absent: what the sums mean, and whole numbers. Tiles are real here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy as sp

Expression = Any
Numbers = npt.NDArray[np.float64]
_BARRIERS = tuple(0.2**step for step in range(14))
_NEWTON_STEPS = 40
_SLACK = 1e-12
_RIDGE = 1e-10


@dataclass(frozen=True, slots=True)
class Monomial:
    """A coefficient times powers of the variables, in the variables' order."""

    coefficient: Expression
    powers: tuple[Expression, ...]

    @property
    def degree(self) -> Expression:
        """The sum of its powers."""
        return sum(self.powers)


@dataclass(frozen=True, slots=True)
class Solution:
    """The best variables, and `exponent`: a limit twice as large divides the least by 2^exponent.

    A variable that is missing is free: only its product with the others counts.
    """

    variables: tuple[tuple[Expression, Expression], ...]
    exponent: Expression


def monomials(expression: Expression, variables: Sequence[Expression]) -> tuple[Monomial, ...]:
    """Split a posynomial into monomials, those of equal powers added up.

    >>> x, y = sp.symbols("x y", positive=True)
    >>> [(each.coefficient, each.powers) for each in monomials(3 / x + 2 * x / y, (x, y))]
    [(2, (1, -1)), (3, (-1, 0))]
    """
    found: dict[tuple[Expression, ...], Expression] = {}
    for term in sp.Add.make_args(sp.expand(expression)):
        by_base = term.as_powers_dict()
        powers = tuple(by_base.get(each, sp.Integer(0)) for each in variables)
        rest = term / sp.Mul(*(each**p for each, p in zip(variables, powers, strict=True)))
        found[powers] = found.get(powers, sp.Integer(0)) + rest
    ordered = sorted(found, key=lambda powers: [-p for p in powers])
    return tuple(Monomial(found[powers], powers) for powers in ordered)


# --- in closed form -------------------------------------------------------------------------------


def solve_exactly(
    terms: Sequence[Monomial],
    held: Monomial,
    variables: Sequence[Expression],
    limit: Expression,
) -> Solution | None:
    """Return the least of the terms' sum while `held` keeps under the limit; None if no closed form.

    The dual weighs every term: the weights add up to one, and each variable's powers, weighted, cancel
    against those of the limit. One point of the dual is a closed form (zero degrees of difficulty).
    """
    count = len(terms)
    rows = [[*(each.powers[j] for each in terms), held.powers[j]] for j in range(len(variables))]
    balance = sp.Matrix([[1] * count + [0], *rows])
    target = sp.Matrix([1] + [0] * len(variables))
    symbols = sp.symbols(f"weight:{count + 1}")
    points = list(sp.linsolve((balance, target), *symbols))
    if not points or points[0].free_symbols or any(each <= 0 for each in points[0]):
        return None
    *weights, exponent = points[0]
    ratio = held.coefficient / limit
    factors = [(t.coefficient / w) ** w for t, w in zip(terms, weights, strict=True)]
    least = sp.Mul(*factors) * ratio**exponent
    shares = [w * least / t.coefficient for t, w in zip(terms, weights, strict=True)]
    powers = sp.Matrix([*(each.powers for each in terms), held.powers])
    return Solution(_from_products(powers, [*shares, 1 / ratio], variables), exponent)


def _from_products(
    powers: Expression, products: Sequence[Expression], variables: Sequence[Expression]
) -> tuple[tuple[Expression, Expression], ...]:
    """Return the variables whose powers, row by row, multiply to these products."""
    count = len(variables)
    reduced, pivots = powers.row_join(sp.eye(powers.rows)).rref(pivots=True)
    solved = []
    for row, column in enumerate(each for each in pivots if each < count):
        value = sp.Mul(*(p ** reduced[row, count + i] for i, p in enumerate(products)))
        free = (variables[j] ** -reduced[row, j] for j in range(column + 1, count))
        solved.append((variables[column], sp.powsimp(value * sp.Mul(*free))))
    return tuple(solved)


# --- by number ------------------------------------------------------------------------------------


def solve_numerically(
    terms: Sequence[Monomial],
    held: Sequence[Monomial],
    variables: Sequence[Expression],
    limit: float,
    upper: Mapping[Expression, float],
) -> Solution:
    """Return the least of the terms' sum, all coefficients numbers, variables from 1 to `upper`.

    An interior-point method in the variables' logarithms. Where even variables of 1 pass the limit, they
    are the solution.
    """
    free = [each for each in variables if upper[each] > 1.0]
    width = np.log([upper[each] for each in free])
    places = [list(variables).index(each) for each in free]
    rising = [each for each in terms if each.coefficient != 0]
    objective = _Logarithm(rising, places, 1.0)
    constraint = _Logarithm(held, places, limit)
    start = _inside(constraint, width)
    if start is None:
        return Solution(tuple((each, 1.0) for each in variables), 0.0)
    point, exponent = _descend(objective, constraint, start, width)
    best = dict(zip(free, np.exp(point), strict=True))
    return Solution(tuple((each, float(best.get(each, 1.0))) for each in variables), exponent)


class _Logarithm:
    """log(sum / scale) of monomials at variables exp(y): convex in y."""

    def __init__(self, terms: Sequence[Monomial], places: list[int], scale: float) -> None:
        powers = [[float(each.powers[place]) for place in places] for each in terms]
        self.powers = np.array(powers, dtype=np.float64).reshape(len(terms), len(places))
        self.logs = np.log([float(each.coefficient) for each in terms]) - np.log(scale)

    def value(self, point: Numbers) -> float:
        return float(np.logaddexp.reduce(self.powers @ point + self.logs))

    def slopes(self, point: Numbers) -> tuple[Numbers, Numbers]:
        """Return the gradient and the curvature."""
        exponents = self.powers @ point + self.logs
        weights = np.exp(exponents - np.logaddexp.reduce(exponents))
        gradient = self.powers.T @ weights
        curvature = (self.powers.T * weights) @ self.powers - np.outer(gradient, gradient)
        return gradient, curvature


def _inside(constraint: _Logarithm, width: Numbers) -> Numbers | None:
    """Return a point strictly under the limit and between the bounds."""
    share = 0.5
    while share > _SLACK:
        if constraint.value(share * width) < -_SLACK:
            return share * width
        share /= 2
    return None


def _descend(
    objective: _Logarithm, constraint: _Logarithm, point: Numbers, width: Numbers
) -> tuple[Numbers, float]:
    """Follow the central path; return its end and the limit's multiplier."""
    for barrier in _BARRIERS:

        def height(at: Numbers, barrier: float = barrier) -> float:
            room = -constraint.value(at)
            if room <= 0 or np.any(at <= 0) or np.any(at >= width):
                return np.inf
            walls = np.log(room) + np.log(at).sum() + np.log(width - at).sum()
            return objective.value(at) - barrier * float(walls)

        for _ in range(_NEWTON_STEPS):
            gradient, curvature = objective.slopes(point)
            slope, bend = constraint.slopes(point)
            room = -constraint.value(point)
            gradient = gradient + barrier * (slope / room - 1 / point + 1 / (width - point))
            curvature = curvature + barrier * (
                bend / room
                + np.outer(slope, slope) / room**2
                + np.diag(1 / point**2 + 1 / (width - point) ** 2)
            )
            # Where only a product counts, the curvature along it vanishes with the barrier.
            ridge = _RIDGE * float(np.trace(curvature)) * np.eye(len(point))
            move = -np.linalg.solve(curvature + ridge, gradient)
            decrease = float(-gradient @ move)
            step, here = 1.0, height(point)
            while step > _SLACK and height(point + step * move) > here - 0.1 * step * decrease:
                step /= 2
            if step <= _SLACK or decrease < barrier * 1e-9:
                break
            point = point + step * move
    return point, _BARRIERS[-1] / max(-constraint.value(point), _SLACK)
