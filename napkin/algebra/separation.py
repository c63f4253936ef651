"""Separation: does a reduction's operand split into what streams and what runs?

In: the operand of a reduction over a stream axis as a SymPy expression over x-leaves (carry the axis) and
R-leaves (running values). Out: `Separated`, terms u_k(R) w_k(x), or `Refused` with the factor that holds
both. For sums every term must factor; for max and min an added u(R) passes, and so does a factor known
to be positive, and a monotone function; for prod, powers. See docs/algebra.md, "Separation".

No rule here names an algorithm. What the terms are used for is `streams`' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from napkin.algebra.symbols import Symbols

Expression = Any
_MAX_SHIFT_DEGREE = 4
_INCREASING = (sp.exp, sp.log, sp.tanh)


@dataclass(frozen=True, slots=True)
class Term:
    """One accumulator: `stream` is summed along the axis, `running` multiplies (or is added to) the result."""

    stream: Expression
    running: Expression


@dataclass(frozen=True, slots=True)
class Shift:
    """The operand is a polynomial of this degree in `stream` - `centre`, a running value."""

    stream: Expression
    centre: Expression
    degree: int


@dataclass(frozen=True, slots=True)
class Separated:
    """The operand as terms; with a `shift` they are written in the shifted leaf."""

    terms: tuple[Term, ...]
    shift: Shift | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the operand does not separate: this factor holds the stream and a running value."""

    factor: str


def expand_terms(expression: Expression) -> tuple[Expression, ...]:
    """Return the expression as a sum of products with exponentials and logarithms opened."""
    opened = sp.expand(expression, power_exp=True, power_base=True)
    opened = sp.expand_log(opened, force=True)
    return tuple(sp.Add.make_args(sp.expand(opened, power_exp=True)))


def separate_sum(expression: Expression, symbols: Symbols) -> Separated | Refused:
    """Separate the operand of a sum; prefer the shifted form where raw moments would cancel."""
    shift = _find_shift(expression, symbols)
    if shift is not None:
        shifted = expression.subs(shift.stream, shift.stream + shift.centre)
        separated = _separate_terms(expand_terms(shifted), symbols)
        if isinstance(separated, Separated):
            return Separated(separated.terms, shift)
    return _separate_terms(expand_terms(expression), symbols)


def _separate_terms(terms: tuple[Expression, ...], symbols: Symbols) -> Separated | Refused:
    collected: dict[Expression, Expression] = {}
    for term in terms:
        stream, running = sp.Integer(1), sp.Integer(1)
        for factor in sp.Mul.make_args(term):
            names = factor.free_symbols
            if names & symbols.stream_symbols:
                if names & symbols.running_symbols:
                    return Refused(describe(factor, symbols))
                stream *= factor
            else:
                running *= factor
        collected[stream] = collected.get(stream, sp.Integer(0)) + running
    return Separated(_merge_equal_factors(collected))


def _merge_equal_factors(collected: dict[Expression, Expression]) -> tuple[Term, ...]:
    """Join terms with one running factor into one accumulator where their sum stays a product."""
    by_running: dict[Expression, list[Expression]] = {}
    for stream, running in collected.items():
        by_running.setdefault(sp.factor(running), []).append(stream)
    terms: list[Term] = []
    for running, streams in by_running.items():
        if running == 0:
            continue
        joined = sp.factor_terms(sp.Add(*streams))
        if len(streams) > 1 and isinstance(joined, sp.Mul):
            terms.append(Term(joined, running))
        else:
            terms += [Term(stream, running) for stream in streams]
    return tuple(terms)


def _find_shift(expression: Expression, symbols: Symbols) -> Shift | None:
    """Find a leaf w and a running value c such that the operand is a polynomial in w - c of degree two or more."""
    free = expression.free_symbols
    for stream in _sorted(free & symbols.stream_symbols):
        if not expression.is_polynomial(stream):
            continue
        degree = sp.degree(sp.expand(expression), stream)
        if not 2 <= degree <= _MAX_SHIFT_DEGREE:
            continue
        for centre in _sorted(free & symbols.running_symbols):
            shifted = sp.expand(expression.subs(stream, stream + centre))
            if centre not in shifted.free_symbols:
                return Shift(stream, centre, int(degree))
    return None


def separate_extremum(expression: Expression, symbols: Symbols) -> Separated | Refused:
    """Separate the operand of a max or min: terms[0] passes as an added value, or as a positive factor.

    The result is one `Term(stream, running)`; `running` is applied with `apply_extremum`.
    """
    if isinstance(expression, _INCREASING):
        inner = separate_extremum(expression.args[0], symbols)
        if isinstance(inner, Refused):
            return inner
        (term,) = inner.terms
        return Separated((Term(term.stream, expression.func(term.running)),))
    factored = _split_factor(expression, symbols)
    if factored is not None:
        return factored
    stream, running = sp.Integer(0), sp.Integer(0)
    for term in expand_terms(expression):
        names = term.free_symbols
        if names & symbols.stream_symbols and names & symbols.running_symbols:
            return Refused(describe(term, symbols))
        if names & symbols.stream_symbols:
            stream += term
        else:
            running += term
    return Separated((Term(stream, HOLE + running),))


HOLE: Expression = sp.Symbol("hole", real=True)


def _split_factor(expression: Expression, symbols: Symbols) -> Separated | None:
    """Split stream * positive running factor, opening an exponential of a sum first."""
    stream, running = sp.Integer(1), sp.Integer(1)
    for factor in sp.Mul.make_args(sp.factor_terms(sp.expand(expression, power_exp=True))):
        names = factor.free_symbols
        if names & symbols.stream_symbols:
            if names & symbols.running_symbols:
                return None
            stream *= factor
        else:
            running *= factor
    if running == 1 or not (running.is_nonnegative or running.is_positive):
        return None
    inner = separate_extremum(stream, symbols) if stream.free_symbols else None
    if not isinstance(inner, Separated):
        return None
    (term,) = inner.terms
    return Separated((Term(term.stream, term.running * running),))


def separate_product(expression: Expression, symbols: Symbols) -> Separated | Refused:
    """Separate the operand of a prod: only a factor free of running values passes unchanged."""
    names = expression.free_symbols
    if names & symbols.running_symbols:
        return Refused(describe(expression, symbols))
    return Separated((Term(expression, HOLE),))


def split_carried(running: Expression) -> tuple[Expression, Expression]:
    """Split a running factor into what must be carried (exponentials) and what waits for the tail."""
    carried = [each for each in sp.Mul.make_args(running) if isinstance(each, sp.exp)]
    rest = [each for each in sp.Mul.make_args(running) if not isinstance(each, sp.exp)]
    return sp.Mul(*carried), sp.Mul(*rest)


def describe(expression: Expression, symbols: Symbols) -> str:
    """Return an expression with its leaves written as the diagram's boxes (see `names`)."""
    names = {s: sp.Symbol(f"@{symbols.box_of(s)}@") for s in _leaves(expression, symbols)}
    return str(expression.xreplace(names))


def _leaves(expression: Expression, symbols: Symbols) -> list[Expression]:
    known = symbols.stream_symbols | symbols.running_symbols
    return [each for each in _sorted(expression.free_symbols) if each in known]


def _sorted(names: set[Expression]) -> list[Expression]:
    return sorted(names, key=lambda symbol: (len(symbol.name), symbol.name))
