"""Whether the parts of an expression fit together: kinds, numbers of arguments, axes.

In: an operator or a call with the values of its operands, and the scope it stands in. Out: whether they fit;
what does not is reported to the workspace.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.diagram import join_axes
from napkin.language import syntax
from napkin.language.calling import axes_in_words
from napkin.language.errors import Label, did_you_mean
from napkin.language.source import Span
from napkin.language.workspace import MAX_AXES, Scope, Value, Workspace
from napkin.operators import REDUCTIONS, Kind, PointwiseOperator

_MAX_LABELS = 4


def kinds_fit(
    space: Workspace,
    row: PointwiseOperator,
    operands: Sequence[syntax.Expression],
    values: Sequence[Value],
    scope: Scope,
) -> bool:
    """Return whether an operator takes values of these kinds."""
    kinds = [space.kind(each) for each in values]
    if row.name == "where":
        wanted = [Kind.BOOL, *[Kind.BOOL if kinds[1] is Kind.BOOL else Kind.FLOAT] * 2]
    else:
        wanted = [row.takes or Kind.FLOAT] * row.arity
    for operand, kind, want in zip(operands, kinds, wanted, strict=True):
        if (kind is Kind.BOOL) != (want is Kind.BOOL):
            _refuse_kind(space, f"`{row.symbol}`", operand.span, kind, scope)
            return False
    return True


def _refuse_kind(space: Workspace, taker: str, span: Span, kind: Kind, scope: Scope) -> None:
    if kind is Kind.BOOL:
        fact = f"{taker} takes numbers, not truth values"
        help_line = "choose numbers by a truth value: `where(c, 1, 0)`"
    else:
        fact = f"{taker} takes truth values, not numbers"
        help_line = "compare the number: `a != 0`"
    label = Label(span, f"this is {kind.value}")
    space.refuse(scope, "N210", fact, label, help=help_line)


def too_many_axes(space: Workspace, values: Sequence[Value], span: Span, scope: Scope) -> bool:
    """Return whether values together carry more axes than a box may have."""
    axes = join_axes([space.axes(each) for each in values])
    if len(axes) <= MAX_AXES:
        return False
    fact = f"this has {len(axes)} axes, more than {MAX_AXES}"
    space.refuse(scope, "N219", fact, Label(span))
    return True


def counts_fit(
    space: Workspace, call: syntax.Call, scope: Scope, *, axes: int | None, arguments: int
) -> bool:
    """Judge the numbers of a call's axes (None: one or more) and arguments."""
    name, given = call.function.name, len(call.arguments)
    help_line = None
    if axes is None and not call.axes:
        fact, help_line = f"`{name}` needs axes", f"name them: `{name}[x](..)`"
    elif axes is not None and len(call.axes) != axes:
        taken = f"{axes or 'no'} {'axis' if axes == 1 else 'axes'}"
        fact = f"`{name}` takes {taken}, {len(call.axes)} given"
        if axes:
            help_line = f"name them: `{name}[x](..)`"
    elif given != arguments:
        fact = f"`{name}` takes {_arguments(arguments)}, {given} given"
    else:
        return True
    space.refuse(scope, "N212", fact, Label(call.span), help=help_line)
    return False


def reducible(
    space: Workspace,
    call: syntax.Call,
    over: Sequence[str],
    factors: Sequence[syntax.Expression],
    values: Sequence[Value],
    scope: Scope,
) -> bool:
    """Return whether a reduction takes its operands' kinds, and each of its axes is carried by one."""
    name = call.function.name
    truths = name in REDUCTIONS and REDUCTIONS[name].takes is Kind.BOOL
    for factor, value in zip(factors, values, strict=True):
        kind = space.kind(value)
        if (kind is Kind.BOOL) != truths:
            _refuse_kind(space, f"`{name}`", factor.span, kind, scope)
            return False
    if too_many_axes(space, values, call.span, scope):
        return False
    carried = {axis for each in values for axis in space.axes(each)}
    for axis, label in zip(over, call.axes, strict=True):
        if axis not in carried:
            _refuse_axis(space, name, axis, label, factors, values, scope)
            return False
    return True


def _refuse_axis(
    space: Workspace,
    name: str,
    axis: str,
    label: syntax.Identifier,
    factors: Sequence[syntax.Expression],
    values: Sequence[Value],
    scope: Scope,
) -> None:
    who = "the operand" if len(values) == 1 else "any operand"
    carried = [axis for each in values for axis in space.axes(each)]
    space.refuse(
        scope,
        "N203",
        f"axis `{axis}` is not carried by {who} of `{name}`",
        Label(label.span, "no operand has this axis" if len(values) > 1 else ""),
        others=[
            Label(factor.span, f"carries {axes_in_words(space.axes(value))}")
            for factor, value in list(zip(factors, values, strict=True))[:_MAX_LABELS]
        ],
        help=did_you_mean(axis, carried),
    )


def _arguments(count: int) -> str:
    return f"{count} argument{'s' * (count != 1)}"
