"""The tiles that transfer least under a memory limit: the optimum of the two-level model.

In: `Costs` and a limit M in values. Out: `Optimum`, in closed form where the leading terms have one
free tile, or tiles that count only by their product, or two that trade off (paper, section 5); else
a number from a search, which needs sizes. Stream tiles count as small: transfers do not depend on
them. Not here: tiles that hardware allows, more levels (the performance model's business).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from napkin.model.measures import Costs
from napkin.model.roles import Role, bind, tile_symbol

Expression = Any
_POINTS = 33
_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Optimum:
    """Tiles by name, the transfers they lead to, and whether they are a closed form.

    A tile that is missing is free: only its product with the others counts.
    """

    tiles: tuple[tuple[str, Expression], ...]
    transferred: Expression
    is_closed: bool


def optimum(costs: Costs, memory: Expression, *, sizes: Mapping[str, int] | None = None) -> Optimum:
    """Return the best group tiles where the leading terms of M must not pass `memory`."""
    tiles = [tile_symbol(axis, role) for axis, role in costs.roles if role is Role.GROUP]
    numbers = dict(sizes or {})
    transferred = bind(costs.transferred, numbers)
    if not tiles:
        return Optimum((), transferred, True)
    held = bind(_leading_memory(costs, tiles), numbers)
    if not held.free_symbols & set(tiles):
        return Optimum((), transferred, True)
    solved = _by_product(transferred, held, tiles, memory)
    solved = solved or _by_trade(_leading_transfers(transferred, tiles), held, tiles, memory)
    if solved is None:
        return _search(transferred, held, tiles, memory)
    best = sp.simplify(transferred.subs(solved))
    return Optimum(tuple((each.name, value) for each, value in solved.items()), best, True)


def _leading_memory(costs: Costs, tiles: list[Expression]) -> Expression:
    """Return the part of M that grows fastest with the group tiles; stream tiles are small.

    It is that of the arrays, or of the row statistics where no array is held.
    """
    streams = [tile_symbol(axis, role) for axis, role in costs.roles if role is Role.STREAM]
    none_streamed = dict.fromkeys(streams, 0)
    held = sp.expand(costs.memory.array_elements.subs(none_streamed))
    if not held.free_symbols & set(tiles):
        held = sp.expand(costs.memory.elements.subs(none_streamed))
    degrees = _by_degree(held, tiles)
    return degrees[max(degrees)]


def _leading_transfers(transferred: Expression, tiles: list[Expression]) -> Expression:
    """Return the part of H that falls slowest with the group tiles."""
    inverses = {each: 1 / each for each in tiles}
    degrees = _by_degree(sp.expand(transferred.subs(inverses, simultaneous=True)), tiles)
    falling = min(degree for degree in degrees if degree > 0)
    return degrees[falling].subs(inverses, simultaneous=True)


def _by_degree(polynomial: Expression, tiles: list[Expression]) -> dict[int, Expression]:
    """Split a polynomial in the tiles by total degree."""
    degrees: dict[int, Expression] = {}
    for powers, coefficient in sp.Poly(polynomial, *tiles).terms():
        term = coefficient * sp.Mul(*(t**p for t, p in zip(tiles, powers, strict=True)))
        degrees[sum(powers)] = degrees.get(sum(powers), sp.Integer(0)) + term
    return degrees


def _by_product(
    transferred: Expression, held: Expression, tiles: list[Expression], memory: Expression
) -> dict[Expression, Expression] | None:
    """Solve where transfers and memory hold the tiles only as one product (one tile included)."""
    first, rest = tiles[0], tiles[1:]
    product = sp.Symbol("product", positive=True)
    others = sp.Mul(*rest)
    inside = [sp.simplify(each.subs(first, product / others)) for each in (transferred, held)]
    if any(each.free_symbols & set(rest) for each in inside):
        return None
    factor = sp.simplify(inside[1] / product)
    if product in factor.free_symbols:
        return None
    return {first: memory / factor / others}


def _by_trade(
    transferred: Expression, held: Expression, tiles: list[Expression], memory: Expression
) -> dict[Expression, Expression] | None:
    """Solve c + A/g + B/k under a limit on g k, which gives g = sqrt(A limit / B)."""
    if len(tiles) != 2:
        return None
    first, second = tiles
    factor = sp.simplify(held / (first * second))
    parts = [sp.simplify(-sp.diff(transferred, each) * each**2) for each in tiles]
    if any(each.free_symbols & set(tiles) for each in (factor, *parts)) or 0 in parts:
        return None
    limit = memory / factor
    return {
        first: sp.sqrt(limit * parts[0] / parts[1]),
        second: sp.sqrt(limit * parts[1] / parts[0]),
    }


def _search(
    transferred: Expression, held: Expression, tiles: list[Expression], memory: Expression
) -> Optimum:
    """Refine a geometric grid round its best point; all but the tiles must be numbers."""
    limit = sp.sympify(memory)
    unknown = (transferred.free_symbols | held.free_symbols | limit.free_symbols) - set(tiles)
    if unknown:
        names = ", ".join(sorted(each.name for each in unknown))
        raise ValueError(f"no closed form here: give numbers for {names}")
    count, room = (sp.lambdify(tiles, each, "numpy") for each in (transferred, held))
    width = np.log2(float(limit)) / 2 + 1
    centre = np.full(len(tiles), width)
    for _ in range(_ROUNDS):
        axes = [np.linspace(each - width, each + width, _POINTS) for each in centre]
        grid = np.meshgrid(*(np.exp2(np.maximum(each, 0.0)) for each in axes), indexing="ij")
        allowed = np.where(room(*grid) <= float(limit), count(*grid), np.inf)
        place = np.unravel_index(int(np.argmin(allowed)), allowed.shape)
        centre = np.log2([each[place] for each in grid])
        width /= 4
    chosen = {each: float(value) for each, value in zip(tiles, np.exp2(centre), strict=True)}
    named = tuple((each.name, value) for each, value in chosen.items())
    return Optimum(named, float(transferred.subs(chosen)), False)
