"""A diagram called by another: whose axes its own become.

In: the called diagram's text and the caller's values. Out: the callee's axes in the caller's
labels, by position, or a mistake reported; axes that only the callee knows get labels of their
own.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.diagram import SCALAR_TYPES, STORAGE_TYPES
from napkin.language import syntax
from napkin.language.errors import Label
from napkin.language.source import Span
from napkin.language.workspace import Scope, Value, Workspace
from napkin.operators import Kind


def match_axes(
    space: Workspace,
    function: syntax.DiagramText,
    call: syntax.Call,
    values: Sequence[Value],
    scope: Scope,
) -> dict[str, str] | None:
    """Return the callee's axes in the caller's labels, by position in each argument."""
    found: dict[str, str] = {}
    for parameter, value, argument in zip(
        function.head.arguments, values, call.arguments, strict=True
    ):
        fact = _mismatch(space, function, parameter, value, found)
        if fact is not None:
            label = Label(argument.span, f"carries {axes_in_words(value.order)}")
            space.refuse(scope, "N220", fact, label)
            return None
    return found


def _mismatch(
    space: Workspace,
    function: syntax.DiagramText,
    parameter: syntax.Parameter,
    value: Value,
    found: dict[str, str],
) -> str | None:
    name = f"`{function.head.name.name}`"
    if len(parameter.axes) != len(value.order):
        wanted = axes_in_words([axis.name for axis in parameter.axes])
        return f"argument `{parameter.name.name}` of {name} carries {wanted}"
    if kind := _kind_mismatch(parameter, space.kind(value)):
        return f"argument `{parameter.name.name}` of {name} {kind}"
    for axis, actual in zip(parameter.axes, value.order, strict=True):
        known = found.setdefault(axis.name, actual)
        if known != actual:
            return f"axis `{axis.name}` of {name} would be both `{known}` and `{actual}`"
        twin = next((a for a, b in found.items() if b == actual and a != axis.name), None)
        if twin is not None:
            return f"axes `{twin}` and `{axis.name}` of {name} would both be `{actual}`"
    return None


def _kind_mismatch(parameter: syntax.Parameter, given: Kind) -> str | None:
    dtype = parameter.dtype.name if parameter.dtype else "float"
    wanted = (STORAGE_TYPES | SCALAR_TYPES)[dtype]
    if wanted is given or (wanted is Kind.FLOAT and given is Kind.INT):
        return None
    return f"is {wanted.value}, {given.value} given"


def name_inner_axes(
    function: syntax.DiagramText, axes: dict[str, str], values: Sequence[Value]
) -> None:
    """Give each axis that only the callee knows a label that the caller's arrays don't use."""
    taken = {axis for value in values for axis in value.order} | set(axes.values())
    for axis in declared_axes(function):
        if axis in axes:
            continue
        label, count = axis, 2
        while label in taken:
            label, count = f"{axis}{count}", count + 1
        axes[axis] = label
        taken.add(label)


def declared_axes(diagram: syntax.DiagramText) -> dict[str, Span]:
    """Return every axis a diagram names (signature, left sides, calls) and its first place."""
    found: dict[str, Span] = {}
    for parameter in (*diagram.head.arguments, *diagram.head.outputs):
        for axis in parameter.axes:
            found.setdefault(axis.name, axis.span)
    for statement in diagram.statements:
        for axis in statement.axes:
            found.setdefault(axis.name, axis.span)
        for expression, _ in syntax.walk(statement.value) if statement.value else ():
            if isinstance(expression, syntax.Call):
                for axis in expression.axes:
                    found.setdefault(axis.name, axis.span)
    return found


def axes_in_words(axes: Sequence[str]) -> str:
    return ", ".join(f"`{axis}`" for axis in axes) or "no axis"
