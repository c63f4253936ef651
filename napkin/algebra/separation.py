"""Separation: does a reduction's operand split into what streams and what runs?

In: the operand of a reduction over a stream axis as a SymPy expression over x-leaves (carry the
axis) and R-leaves (running values). Out: `Separated`, terms u_k(R) w_k(x), or `Refused` with the
factor that holds both. For sums every term must factor; for max and min an added u(R) passes, and
so does a factor known to be positive, and a monotone function. See docs/algebra.md, "Separation".

No rule here names an algorithm. What the terms are used for is `streams`' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, prod
from typing import Any

import sympy as sp

from napkin.algebra.symbols import Symbols, is_exponential

Expression = Any
_MAX_SHIFT_DEGREE = 4
_MAX_TERMS = 16  # accumulators of one reduction: past this a second pass is cheaper, and more exact
_INCREASING = (sp.exp, sp.log, sp.tanh)


@dataclass(frozen=True, slots=True)
class Term:
    """One accumulator: `stream` is reduced along the axis, `running` is applied to the result.

    For a sum `running` is a factor; for an extremum it is an expression over `HOLE`, the result.
    """

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

    factor: Expression


def expand_terms(expression: Expression) -> tuple[Expression, ...]:
    """Return the expression as a sum of products with exponentials and logarithms opened."""
    opened = sp.expand(expression, power_exp=True, power_base=True)
    # Not by force: log(a b) is log(a) + log(b) only where both are known to be positive.
    opened = sp.expand_log(opened)
    return tuple(sp.Add.make_args(sp.expand(opened, power_exp=True)))


def count_terms(expression: Expression) -> int:
    """Return how many terms the expression has once its products and powers are opened.

    >>> a, b = sp.symbols("a b")
    >>> count_terms((a + b) ** 3 * (a - 1))
    8
    """
    if expression.is_Add:
        return sum(count_terms(each) for each in expression.args)
    if expression.is_Mul:
        return prod(count_terms(each) for each in expression.args)
    if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
        terms = count_terms(expression.base)
        return comb(int(expression.exp) + terms - 1, terms - 1)
    return 1


def separate_sum(expression: Expression, symbols: Symbols) -> Separated | Refused:
    """Separate the operand of a sum; prefer the shifted form where raw moments would cancel."""
    if count_terms(expression) > _MAX_TERMS:
        return Refused(expression)
    shift = _find_shift(expression, symbols)
    if shift is not None:
        shifted = expression.subs(shift.stream, shift.stream + shift.centre)
        collected = _collect_terms(expand_terms(shifted), symbols)
        if not isinstance(collected, Refused):
            # Terms stay apart: each must be one power of the shifted leaf.
            return Separated(
                tuple(Term(*each) for each in collected.items() if each[1] != 0), shift
            )
    collected = _collect_terms(expand_terms(expression), symbols)
    if isinstance(collected, Refused):
        return collected
    return Separated(_merge_equal_factors(collected))


def _collect_terms(
    terms: tuple[Expression, ...], symbols: Symbols
) -> dict[Expression, Expression] | Refused:
    """Return u(R) by w(x) for terms that all factor, or the first factor that does not."""
    collected: dict[Expression, Expression] = {}
    for term in terms:
        stream, running = sp.Integer(1), sp.Integer(1)
        for factor in sp.Mul.make_args(term):
            names = factor.free_symbols
            if names & symbols.stream_symbols:
                if names & symbols.running_symbols or _is_endless(factor, symbols):
                    return Refused(factor)
                stream *= factor
            else:
                running *= factor
        if _may_be_infinite_unread(stream, running, symbols):
            return Refused(term)
        collected[stream] = collected.get(stream, sp.Integer(0)) + running
    return collected


def _may_be_infinite_unread(stream: Expression, running: Expression, symbols: Symbols) -> bool:
    """Return whether a hoisted exponential would meet a sum that a condition keeps at 0.

    `where(c, exp(R), 0)` never reads an infinite exp(R) where c is false; 0 times it would.
    """
    guarded = any(symbols.is_condition(each) for each in stream.free_symbols)
    if not guarded or has_exponential(stream):
        return False
    return has_exponential(running) or any(map(symbols.may_overflow, running.free_symbols))


def _is_endless(factor: Expression, symbols: Symbols) -> bool:
    """Return whether a penalty of -inf stands outside an exponential, where no sum is finite."""
    outside = factor.replace(sp.exp, lambda _: sp.Integer(1))
    return bool(outside.free_symbols & symbols.penalties)


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
    """Find a leaf w and a running value c so that the operand is a polynomial in w - c."""
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
    """Separate the operand of a max or min, as one term whose `running` is written over `HOLE`."""
    if count_terms(expression) > _MAX_TERMS:
        return Refused(expression)
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
            return Refused(term)
        if names & symbols.stream_symbols:
            stream += term
        else:
            running += term
    return Separated((Term(stream, HOLE + running),))


HOLE: Expression = sp.Symbol("hole", real=True)


def _split_factor(expression: Expression, symbols: Symbols) -> Separated | None:
    """Split stream * positive running factor; exponentials stay one, for `_INCREASING` to open."""
    factors = sp.Mul.make_args(sp.factor_terms(sp.expand(expression, power_exp=True)))
    exponents = [each.args[0] for each in factors if isinstance(each, sp.exp)]
    stream, running = sp.exp(sp.Add(*exponents)) if exponents else sp.Integer(1), sp.Integer(1)
    for factor in factors:
        names = factor.free_symbols
        if isinstance(factor, sp.exp):
            continue
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
        return Refused(expression)
    return Separated((Term(expression, HOLE),))


def split_carried(running: Expression) -> tuple[Expression, Expression]:
    """Split a running factor into what must be carried, its exponentials, and the rest."""
    factors = sp.Mul.make_args(running)
    carried = [each for each in factors if is_exponential(each)]
    return sp.Mul(*carried), sp.Mul(*(each for each in factors if not is_exponential(each)))


def has_exponential(expression: Expression) -> bool:
    """Return whether the expression holds an exponential.

    >>> a = sp.Symbol("a")
    >>> has_exponential(a * sp.exp(a)), has_exponential(1 + 2**-a), has_exponential(a**2)
    (True, True, False)
    """
    return any(is_exponential(each) for each in sp.preorder_traversal(expression))


def _sorted(names: set[Expression]) -> list[Expression]:
    return sorted(names, key=lambda symbol: (len(symbol.name), symbol.name))
