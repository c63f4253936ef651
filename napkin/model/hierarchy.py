"""Several memory levels: what the least transfers of each cost together (paper, section 6).

In: a `PowerLaw` and, for each level, the values that it holds and the values a second that its parent
feeds it. Out: sums, and what narrower types, caches in between and links between neighbours change.
Every level is tiled for its own memory. The sums weigh transfers and nothing else: they are seconds if
no transfer overlaps another.

Symbols may stand wherever numbers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from napkin.model.optimum import PowerLaw
from napkin.model.roles import size_symbol

Expression = Any


@dataclass(frozen=True, slots=True)
class FedLevel:
    """A level below another: `memory` in values an instance, `rate` in values a second for all of them."""

    memory: Expression
    rate: Expression


def quantized(memory_bytes: Expression, byte_rate: Expression, value_bytes: Expression) -> FedLevel:
    """Return a level of so many bytes and bytes a second in values of `value_bytes`."""
    return FedLevel(memory_bytes / value_bytes, byte_rate / value_bytes)


def cached(child: FedLevel, count: Expression, rate: Expression) -> FedLevel:
    """Return a level that only holds what passes to and from its `count` children.

    It acts with the memory of all of them together (paper, section 6.4).
    """
    return FedLevel(child.memory * count, rate)


def transfer_seconds(law: PowerLaw, levels: Sequence[FedLevel]) -> Expression:
    """Return the seconds of all levels' least transfers, one after another (section 6.2)."""
    return sum(law.at(each.memory) / each.rate for each in levels)


def quantization_gain(beta: Expression, narrower: Expression) -> Expression:
    """Return how much faster a term is with values `narrower` times as small (section 6.3).

    >>> quantization_gain(1, 2)
    4
    """
    return narrower ** (1 + beta)


# --- links between neighbours ---------------------------------------------------------------------


def cross_transfer_seconds(
    law: PowerLaw, child: FedLevel, cross_rate: Expression, count: Expression
) -> Expression:
    """Return the seconds of feeding children that pass on to each other in groups of `count`.

    What is new comes from above once a group, everything else over the link (section 6.5):
    (1/r_above - 1/r_cross) H*(N M) + (1/r_cross) H*(M).
    """
    new = law.at(count * child.memory) * (1 / child.rate - 1 / cross_rate)
    return new + law.at(child.memory) / cross_rate


def cross_transfer_saving(
    beta: Expression, rate: Expression, cross_rate: Expression, count: Expression
) -> Expression:
    """Return the seconds saved for each value that a term transfers without the link."""
    return (1 / rate - 1 / cross_rate) * (1 - count**-beta)


def best_group(
    law: PowerLaw, child: FedLevel, cross_rates: Mapping[int, float]
) -> tuple[int, Expression]:
    """Return how many children to join, and the seconds then; 1 if no link helps.

    `cross_rates` gives the link's values a second by the number that it joins.
    """
    alone = law.at(child.memory) / child.rate
    joined = {
        count: cross_transfer_seconds(law, child, rate, count)
        for count, rate in cross_rates.items()
    }
    return min([(1, alone), *joined.items()], key=lambda found: (found[1], found[0]))


# --- what keeps the tensor cores busy -------------------------------------------------------------


def balanced_memory(law: PowerLaw, allowed: Expression) -> Expression | None:
    """Return the memory in values at which the least transfers are `allowed` (section 6.6).

    With `allowed` the operations times the level's rate over the peak, that is the least memory which
    keeps the pipeline busy. None if several powers fall, infinity if no memory suffices.
    """
    falling = [each for each in law.terms if each.beta != 0]
    left = allowed - sum(each.alpha for each in law.terms if each.beta == 0)
    if len(falling) != 1:
        return None
    if left.is_positive is False:
        return sp.oo
    return (falling[0].alpha / left) ** (1 / falling[0].beta)


def balanced_size(law: PowerLaw, memory: Expression, allowed: Expression, axis: str) -> Expression:
    """Return the length of an axis at which the least transfers are `allowed` (section 6.6).

    Raises ValueError if no length balances them.
    """
    length = sp.Dummy(axis, positive=True)  # not a whole number, as sizes are
    excess = sp.expand(law.at(memory) - allowed).subs(size_symbol(axis), length)
    positive = [each for each in sp.solve(excess, length) if each.is_positive is not False]
    if len(positive) != 1:
        raise ValueError(f"no length of {axis} balances transfers and work")
    return positive[0]
