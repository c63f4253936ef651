"""One reduction's step as text: its rule, its separated terms, or why it was refused.

In: a `View` and what `streams` made of a reduction. Out: a `Step`. See docs/algebra.md,
"Separation" and "Hoist or carry".
"""

from __future__ import annotations

from collections.abc import Callable

from napkin.algebra.expressions import Printer, print_number
from napkin.algebra.states import (
    Accumulator,
    Pass,
    Refusal,
    Rule,
    SeparatedTerm,
    StreamedReduction,
)
from napkin.algebra.view import Step, View
from napkin.diagram import Constant, Pointwise, State

_PRODUCT = 6
_SEPARATION = 'docs/algebra.md, "Separation"'


def reduction_step(view: View, one: Pass, each: StreamedReduction, known: tuple[str, ...]) -> Step:
    """Return the step of a reduction that streams; `known` are the states up to it."""
    lines = _EXPLAIN[each.rule](view, one, each)
    value, name = view.graph[each.value], view.reductions[each.box]
    if not (isinstance(value, State) and value.name == name):
        lines.append(f"its value: {name} = {view.final.text(each.value)}")
    title = f"{each.rule.value}: {view.left_side(each.box)} = {view.own.definition(each.box)}"
    return Step(title, _REFERENCES[each.rule], tuple(lines), f"state ({', '.join(known)})")


def refusal_step(view: View, each: Refusal, axis: str, number: int) -> Step:
    """Return the step of a reduction that does not separate and waits for a later pass."""
    needs = [view.reductions[box] for box in each.depends_on if box in view.reductions]
    moves = "moves" if len(needs) == 1 else "move"
    lines = (
        f"it depends on {', '.join(needs)}, which {moves} while {axis} streams",
        f"the factor {view.own.text(each.factor)} holds {axis} and a running value, and does not"
        " split",
        "so it cannot stream in one pass with them: a result, not an error (napkin explain N302)",
    )
    title = f"cut into passes: {view.left_side(each.box)} = {view.own.definition(each.box)}"
    reference = f'{_SEPARATION} and "One pass or several"'
    return Step(title, reference, lines, f"it waits for pass {number}, where they are final")


def _explain_fold(view: View, one: Pass, each: StreamedReduction) -> list[str]:
    accumulator = _accumulator(one, each.accumulators[0])
    unit = print_number(accumulator.unit)
    return [
        "its operand holds nothing that still moves",
        f"{accumulator.name} folds with {accumulator.operator}, from {unit}",
    ]


def _explain_hoist(view: View, one: Pass, each: StreamedReduction) -> list[str]:
    if each.terms:
        return [*_explain_terms(view, one, each), "u leaves the sum, and is applied in the tail"]
    accumulator = _accumulator(one, each.accumulators[0])
    printer = view.moving(one)
    folded = printer.contribution(accumulator.operator, accumulator.factors, accumulator.over)
    return [f"{accumulator.name} = {folded}", "what is applied to it keeps the order of values"]


def _explain_carry(view: View, one: Pass, each: StreamedReduction) -> list[str]:
    return _explain_terms(view, one, each)


def _explain_shift(view: View, one: Pass, each: StreamedReduction) -> list[str]:
    assert each.centre is not None
    centre = view.own.text(each.centre)
    return [
        f"a polynomial in the distance from {centre}, whose raw powers would cancel:",
        "powers of the distance are summed, and move as it moves (Welford, Chan)",
        *_explain_terms(view, one, each),
    ]


_EXPLAIN: dict[Rule, Callable[[View, Pass, StreamedReduction], list[str]]] = {
    Rule.FOLD: _explain_fold,
    Rule.HOIST: _explain_hoist,
    Rule.CARRY: _explain_carry,
    Rule.SHIFT: _explain_shift,
}
_REFERENCES = {
    Rule.FOLD: "paper, section 4: partial sums",
    Rule.HOIST: f'{_SEPARATION} and "Hoist or carry"',
    Rule.CARRY: f'{_SEPARATION} and "Hoist or carry"',
    Rule.SHIFT: f'{_SEPARATION} and "Hoist or carry"',
}


def _explain_terms(view: View, one: Pass, each: StreamedReduction) -> list[str]:
    lines: list[str] = []
    for term in each.terms:
        lines += _explain_term(view, one, term)
    return lines


def _explain_term(view: View, one: Pass, term: SeparatedTerm) -> list[str]:
    stream = "1" if term.stream is None else view.own.text(term.stream)
    if not term.needed:
        return [f"{term.accumulator}: w = {stream}, for the others to move by"]
    lines = [f"{term.accumulator}: u = {_running(view, term)}, w = {stream}"]
    if term.carried is not None:
        carried = view.own.text(term.carried)
        moved = _move(view.moving(one), _accumulator(one, term.accumulator))
        lines.append(
            f"carry {carried}, since w alone has no bound: {term.accumulator} *= {moved} as it"
            " moves"
        )
    if term.hoisted is not None:
        lines.append(f"hoist {view.own.text(term.hoisted)}: it waits for the tail")
    return lines


def _running(view: View, term: SeparatedTerm) -> str:
    """Return u(R): what is carried times what is hoisted."""
    parts = [each for each in (term.carried, term.hoisted) if each is not None]
    if len(parts) < 2:
        return view.own.text(parts[0]) if parts else "1"
    carried = view.own.text(parts[0], _PRODUCT)
    inverse = view.graph[parts[1]]
    if isinstance(inverse, Pointwise) and inverse.operator == "div":
        numerator = view.graph[inverse.operands[0]]
        if isinstance(numerator, Constant) and numerator.value == 1:
            return f"{carried} / {view.own.factor(inverse.operands[1])}"
    return f"{carried} * {view.own.factor(parts[1])}"


def _move(printer: Printer, accumulator: Accumulator) -> str:
    own = next(each for each in accumulator.transport if each.source == accumulator.name)
    return "1" if own.factor is None else printer.text(own.factor)


def _accumulator(one: Pass, name: str) -> Accumulator:
    return next(each for each in one.accumulators if each.name == name)
