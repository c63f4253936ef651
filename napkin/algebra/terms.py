"""The terms of a separated sum, gathered into accumulators' shapes.

In: a `Separated` sum. Out: `Group`, terms that differ only in the power of a shifted leaf, and what a
reader is told of each (`SeparatedTerm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from napkin.algebra.separation import (
    HOLE,
    Separated,
    Shift,
    has_exponential,
    split_carried,
)
from napkin.algebra.states import SeparatedTerm
from napkin.algebra.symbols import Symbols

Expression = Any


@dataclass(frozen=True, slots=True)
class Group:
    """Terms of one sum that share their stream part but for the power of the shifted leaf."""

    stream: Expression
    carried: Expression
    tails: tuple[tuple[int, Expression], ...]

    @property
    def degree(self) -> int:
        """The highest power of the shifted leaf."""
        return max(degree for degree, _ in self.tails)


def box_or_one(symbols: Symbols, factor: Expression) -> int | None:
    """Return a factor's box, None for 1."""
    return None if factor == 1 else symbols.box(factor)


def is_expressible(separated: Separated, symbols: Symbols) -> bool:
    """Return whether boxes can say every term (an extremum's `HOLE` aside)."""
    return all(
        symbols.is_expressible(part.subs(HOLE, 1))
        for term in separated.terms
        for part in (term.stream, term.running)
    )


def describe_terms(
    symbols: Symbols, shift: Shift | None, group: Group, names: Sequence[str]
) -> list[SeparatedTerm]:
    """Return a group's terms as a reader is shown them, one an accumulator."""
    tails = dict(group.tails)
    terms: list[SeparatedTerm] = []
    for degree, name in enumerate(names):
        power = 1 if shift is None else (shift.stream - shift.centre) ** degree
        parts = (group.stream * power, group.carried, tails.get(degree, sp.Integer(1)))
        stream, carried, hoisted = (box_or_one(symbols, part) for part in parts)
        terms.append(SeparatedTerm(name, stream, carried, hoisted, degree in tails))
    return terms


def group_terms(separated: Separated) -> tuple[Group, ...]:
    """Gather the terms that differ only in the power of the shifted leaf."""
    shift = separated.shift
    groups: dict[tuple[Expression, Expression], list[tuple[int, Expression]]] = {}
    for term in separated.terms:
        degree, stream = 0, term.stream
        if shift is not None:
            degree = int(sp.degree(stream, shift.stream)) if stream.has(shift.stream) else 0
            stream = sp.cancel(stream / shift.stream**degree)
        carried, tail = split_carried(term.running)
        if not has_exponential(stream):
            carried, tail = sp.Integer(1), term.running
        groups.setdefault((stream, carried), []).append((degree, tail))
    return tuple(
        Group(stream, carried, tuple(members)) for (stream, carried), members in groups.items()
    )
