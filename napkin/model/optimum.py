"""The tiles that transfer least under a memory limit: the optimum of the two-level model.

In: `Costs` and a limit M in values. Out: `Optimum`, in closed form where the leading terms have one, with
its power law H* = sum of alpha_t M^-beta_t (paper, sections 5 and 6); else numbers, which need sizes.
Stream tiles count as small: transfers do not depend on them. Not here: tiles that hardware allows, more
levels (`hierarchy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from napkin.model.measures import Costs
from napkin.model.programme import Monomial, monomials, solve_exactly, solve_numerically
from napkin.model.roles import Role, bind, size_symbol, tile_symbol

Expression = Any
MEMORY = sp.Symbol("M", positive=True)


@dataclass(frozen=True, slots=True)
class PowerTerm:
    """alpha M^-beta, in values of the sizes' symbols; beta is 0 for what every tiling transfers."""

    alpha: Expression
    beta: Expression


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """H* = sum of alpha_t M^-beta_t, the least transfers by the memory M of the lower level."""

    terms: tuple[PowerTerm, ...]

    def at(self, memory: Expression) -> Expression:
        """Return the least transfers where the lower level holds `memory` values."""
        return sp.Add(*(each.alpha * memory**-each.beta for each in self.terms))

    def bound(self, sizes: Mapping[str, Expression]) -> PowerLaw:
        """Return the law with sizes in place of their symbols."""
        return PowerLaw(tuple(PowerTerm(bind(each.alpha, sizes), each.beta) for each in self.terms))

    def __str__(self) -> str:
        return " + ".join(_printed(each) for each in self.terms)


@dataclass(frozen=True, slots=True)
class Optimum:
    """Tiles by name, the transfers they lead to, and whether they are a closed form.

    A tile that is missing is free: only its product with the others counts. `exponent` tells how the
    transfers that tiles can save fall with the memory.
    """

    tiles: tuple[tuple[str, Expression], ...]
    transferred: Expression
    is_closed: bool
    exponent: Expression = 0


def optimum(costs: Costs, memory: Expression, *, sizes: Mapping[str, int] | None = None) -> Optimum:
    """Return the best group tiles where the leading terms of M must not pass `memory`.

    Raises ValueError where there is no closed form and a size is not given.
    """
    tiles = [tile_symbol(axis, role) for axis, role in costs.roles if role is Role.GROUP]
    numbers = dict(sizes or {})
    transferred = bind(costs.transferred, numbers)
    held = monomials(bind(_leading_memory(costs, tiles), numbers), tiles)
    if not tiles or not any(any(each.powers) for each in held):
        return Optimum((), transferred, True)
    solution = None
    if len(held) == 1:
        leading = _leading_transfers(monomials(transferred, tiles))
        solution = solve_exactly(leading, held[0], tiles, memory)
    if solution is None:
        return _by_number(costs, held, tiles, memory, numbers)
    best = sp.expand(sp.powsimp(transferred.subs(dict(solution.variables))))
    named = tuple((each.name, value) for each, value in solution.variables)
    return Optimum(named, best, True, solution.exponent)


def power_law(costs: Costs) -> PowerLaw | None:
    """Return the law of the least transfers in the memory M, or None where there is no closed form."""
    try:
        best = optimum(costs, MEMORY)
    except ValueError:
        return None
    by_power: dict[Expression, Expression] = {}
    for term in sp.Add.make_args(best.transferred):
        alpha, power = term.as_coeff_exponent(MEMORY)
        by_power[-power] = by_power.get(-power, sp.Integer(0)) + alpha
    ordered = sorted(by_power, key=lambda beta: -beta)
    return PowerLaw(tuple(PowerTerm(sp.factor(by_power[beta]), beta) for beta in ordered))


def _leading_memory(costs: Costs, tiles: Sequence[Expression]) -> Expression:
    """Return the part of M that grows fastest with the group tiles; stream tiles are small.

    It is that of the arrays, or of the row statistics where no array is held.
    """
    streams = [tile_symbol(axis, role) for axis, role in costs.roles if role is Role.STREAM]
    none_streamed = dict.fromkeys(streams, 0)
    held = sp.expand(costs.memory.array_elements.subs(none_streamed))
    if not held.free_symbols & set(tiles):
        held = sp.expand(costs.memory.elements.subs(none_streamed))
    parts = monomials(held, tiles)
    most = max(each.degree for each in parts)
    return sp.Add(*(_value(each, tiles) for each in parts if each.degree == most))


def _leading_transfers(terms: Sequence[Monomial]) -> list[Monomial]:
    """Return the part of H that falls slowest with the group tiles."""
    falling = [each for each in terms if each.degree < 0]
    slowest = max(each.degree for each in falling)
    return [each for each in falling if each.degree == slowest]


def _value(monomial: Monomial, variables: Sequence[Expression]) -> Expression:
    powers = zip(variables, monomial.powers, strict=True)
    return monomial.coefficient * sp.Mul(*(each**power for each, power in powers))


def _by_number(
    costs: Costs,
    held: Sequence[Monomial],
    tiles: Sequence[Expression],
    memory: Expression,
    numbers: Mapping[str, int],
) -> Optimum:
    """Solve the geometric programme with every size a number; a tile is no longer than its axis."""
    transferred = bind(costs.transferred, numbers)
    limit = sp.sympify(memory)
    unknown = transferred.free_symbols | limit.free_symbols
    unknown |= {symbol for each in held for symbol in each.coefficient.free_symbols}
    unknown -= set(tiles)
    if unknown:
        names = ", ".join(sorted(each.name for each in unknown))
        raise ValueError(f"no closed form here: give numbers for {names}")
    axes = [axis for axis, role in costs.roles if role is Role.GROUP]
    upper = {
        tile: float(bind(size_symbol(axis), numbers))
        for axis, tile in zip(axes, tiles, strict=True)
    }
    terms = [each for each in monomials(transferred, tiles) if any(each.powers)]
    solution = solve_numerically(terms, held, tiles, float(limit), upper)
    chosen = dict(solution.variables)
    named = tuple((each.name, value) for each, value in chosen.items())
    return Optimum(named, float(transferred.subs(chosen)), False, solution.exponent)


def _printed(term: PowerTerm) -> str:
    if term.beta == 0:
        return str(term.alpha)
    alpha = f"({term.alpha})" if isinstance(term.alpha, sp.Add) else str(term.alpha)
    if term.beta == 1:
        return f"{alpha}/M"
    return f"{alpha}/M^({term.beta})"
