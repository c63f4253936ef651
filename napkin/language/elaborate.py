"""Expressions to boxes: names resolved, labels and kinds judged, definitions expanded in place.

In: an expression, the scope it stands in and a workspace. Out: a `Value`, or None for an
expression that is wrong and has been reported (so that one mistake is reported once).

A sum over a product becomes one `Reduce` with the factors as operands: a contraction. Expansions
of one definition over the same boxes are shared, so a definition that doubles on every level
stays small.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from napkin.diagram import Index, Size
from napkin.language import syntax
from napkin.language.calling import match_axes, name_inner_axes
from napkin.language.errors import Label, did_you_mean
from napkin.language.indexing import read_element
from napkin.language.judging import counts_fit, kinds_fit, reducible, too_many_axes
from napkin.language.library import Function, Key, Library, unknown_function
from napkin.language.source import Span
from napkin.language.workspace import MAX_LEVELS, Scope, Site, TooLarge, Value, Workspace
from napkin.operators import CALLS, INFIX, REDUCTIONS, PointwiseOperator

# An expression whose value a step waits for, and the steps that lead to a value.
Request = tuple[syntax.Expression, Scope]
Steps = Generator[Request, Value | None, Value | None]


@dataclass(slots=True)
class Elaborator:
    """Turns the expressions of one diagram into boxes."""

    workspace: Workspace
    library: Library
    broken: frozenset[Key]
    _expanded: dict[tuple[Key, bool, tuple[str, ...], tuple[Value, ...]], Value | None] = field(
        default_factory=dict
    )

    def value(self, expression: syntax.Expression, scope: Scope) -> Value | None:
        """Return the value of an expression."""
        # The steps wait on a stack of their own: how deep a text nests is no business of Python's.
        stack = [self._steps(expression, scope)]
        result: Value | None = None
        while stack:
            try:
                request = stack[-1].send(result)
            except StopIteration as finished:
                stack.pop()
                result = finished.value
                continue
            if len(stack) > MAX_LEVELS:
                raise TooLarge(f"its definitions expand more than {MAX_LEVELS} levels deep")
            stack.append(self._steps(*request))
            result = None
        return result

    def _steps(self, expression: syntax.Expression, scope: Scope) -> Steps:
        if scope.site is not None:
            self.workspace.step()
        match expression:
            case syntax.Literal():
                box = self.workspace.graph.constant(expression.value)
                return self.workspace.made(box, expression.span, scope)
            case syntax.Reference():
                return self._reference(expression, scope)
            case syntax.Element():
                return (yield from self._element(expression, scope))
            case syntax.Unary():
                row = INFIX[expression.operator, 1]
                operands: tuple[syntax.Expression, ...] = (expression.operand,)
                return (yield from self._pointwise(row, operands, expression.span, scope))
            case syntax.Binary():
                row = INFIX[expression.operator, 2]
                operands = (expression.left, expression.right)
                return (yield from self._pointwise(row, operands, expression.span, scope))
            case syntax.Call():
                return (yield from self._call(expression, scope))

    def _values(
        self, expressions: Sequence[syntax.Expression], scope: Scope
    ) -> Generator[Request, Value | None, tuple[Value, ...] | None]:
        """Return the values of all expressions, or None if any is wrong."""
        values: list[Value | None] = []
        for each in expressions:
            values.append((yield each, scope))
        sound = tuple(each for each in values if each is not None)
        return sound if len(sound) == len(values) else None

    # --- names ------------------------------------------------------------------------------------

    def _reference(self, reference: syntax.Reference, scope: Scope) -> Value | None:
        name = reference.name
        if name in scope.names:
            return scope.names[name]
        if name in scope.axes:
            box = self.workspace.graph.add(Index(scope.axes[name]))
            return self.workspace.made(box, reference.span, scope)
        self._refuse_name(syntax.Identifier(reference.span, name), scope)
        return None

    def _element(self, element: syntax.Element, scope: Scope) -> Steps:
        indices = yield from self._values(element.indices, scope)
        name = element.array.name
        if name not in scope.names:
            self._refuse_name(element.array, scope)
            return None
        array = scope.names[name]
        if array is None or indices is None:
            return None
        return read_element(self.workspace, element, array, indices, scope)

    def _refuse_name(self, name: syntax.Identifier, scope: Scope) -> None:
        place = Label(name.span)
        if name.name in scope.axes:
            fact = f"`{name.name}` is an axis, not an array"
            self.workspace.refuse(scope, "N201", fact, place)
        elif name.name in scope.later:
            fact = f"`{name.name}` is used before it is assigned"
            there = Label(scope.later[name.name], "assigned here")
            self.workspace.refuse(
                scope, "N208", fact, place, others=[there], help="move its statement up"
            )
        else:
            help_line = did_you_mean(name.name, (*scope.names, *scope.axes))
            if help_line is None and name.name in self.library.names():
                help_line = f"a function is called with brackets: `{name.name}(..)`"
            self.workspace.refuse(
                scope, "N201", f"unknown name `{name.name}`", place, help=help_line
            )

    # --- pointwise --------------------------------------------------------------------------------

    def _pointwise(
        self,
        row: PointwiseOperator,
        operands: Sequence[syntax.Expression],
        span: Span,
        scope: Scope,
    ) -> Steps:
        values = yield from self._values(operands, scope)
        if values is None or not kinds_fit(self.workspace, row, operands, values, scope):
            return None
        space = self.workspace
        if row.name == "neg" and (number := space.negated(values[0])) is not None:
            return space.made(space.graph.constant(number), span, scope)
        if too_many_axes(self.workspace, values, span, scope):
            return None
        box = space.graph.pointwise(row.name, *(each.box for each in values))
        return space.made(box, span, scope)

    # --- calls ------------------------------------------------------------------------------------

    def _call(self, call: syntax.Call, scope: Scope) -> Steps:
        name = call.function.name
        if name == "size":
            return self._size(call, scope)
        if name in CALLS:
            row = CALLS[name]
            if not counts_fit(self.workspace, call, scope, axes=0, arguments=row.arity):
                return None
            return (yield from self._pointwise(row, call.arguments, call.span, scope))
        if name in REDUCTIONS or name == "mean":
            return (yield from self._reduction(call, scope))
        return (yield from self._function(call, scope))

    def _size(self, call: syntax.Call, scope: Scope) -> Value | None:
        if not counts_fit(self.workspace, call, scope, axes=0, arguments=1):
            return None
        argument = call.arguments[0]
        if isinstance(argument, syntax.Reference) and argument.name in scope.axes:
            box = self.workspace.graph.add(Size(scope.axes[argument.name]))
            return self.workspace.made(box, call.span, scope)
        help_line = None
        fact = "`size` takes the label of an axis"
        if isinstance(argument, syntax.Reference):
            help_line = did_you_mean(argument.name, scope.axes)
            fact = f"{fact}, and `{argument.name}` is none"
        self.workspace.refuse(scope, "N226", fact, Label(argument.span), help=help_line)
        return None

    def _axes(self, call: syntax.Call, scope: Scope) -> tuple[str, ...] | None:
        axes: list[str] = []
        for axis in call.axes:
            actual = scope.axes.get(axis.name)
            if actual is None:
                fact = f"`{axis.name}` is not an axis"
                help_line = did_you_mean(axis.name, scope.axes)
                self.workspace.refuse(scope, "N226", fact, Label(axis.span), help=help_line)
                return None
            if actual in axes:
                fact = f"`{call.function.name}` names axis `{axis.name}` twice"
                self.workspace.refuse(scope, "N205", fact, Label(axis.span))
                return None
            axes.append(actual)
        return tuple(axes)

    # --- reductions -------------------------------------------------------------------------------

    def _reduction(self, call: syntax.Call, scope: Scope) -> Steps:
        if not counts_fit(self.workspace, call, scope, axes=None, arguments=1):
            return None
        name = "sum" if call.function.name == "mean" else call.function.name
        over = self._axes(call, scope)
        factors = _factors(call.arguments[0]) if name == "sum" else [call.arguments[0]]
        values = yield from self._values(factors, scope)
        if over is None or values is None:
            return None
        if not reducible(self.workspace, call, over, factors, values, scope):
            return None
        space = self.workspace
        box = space.graph.reduce(name, [each.box for each in values], over)
        total = space.made(box, call.span, scope)
        return self._mean(total, over, call.span, scope) if call.function.name == "mean" else total

    def _mean(self, total: Value, over: Sequence[str], span: Span, scope: Scope) -> Value:
        graph = self.workspace.graph
        sizes = [graph.add(Size(axis)) for axis in over]
        count = sizes[0]
        for size in sizes[1:]:
            count = graph.pointwise("mul", count, size)
        return self.workspace.made(graph.pointwise("div", total.box, count), span, scope)

    # --- definitions and diagrams -----------------------------------------------------------------

    def _function(self, call: syntax.Call, scope: Scope) -> Steps:
        values = yield from self._values(call.arguments, scope)
        key = self._find(call, scope)
        axes = self._axes(call, scope)
        if key is None or axes is None or values is None:
            return None
        in_prelude = self.library.in_prelude(key, scope.owner)
        if not in_prelude and key in self.broken:
            return None
        function = (self.library.prelude if in_prelude else self.library.own)[key]
        if not self._shape_fits(function, call, scope):
            return None
        memo = (key, in_prelude, axes, values)
        if memo not in self._expanded:
            site = scope.site or Site(call.span, call.function.name)
            owner = None if in_prelude else key
            self._expanded[memo] = yield from (
                self._expand(function, axes, values, owner, site)
                if isinstance(function, syntax.Definition)
                else self._expand_diagram(function, call, values, scope, site)
            )
        return self._expanded[memo]

    def _shape_fits(self, function: Function, call: syntax.Call, scope: Scope) -> bool:
        if isinstance(function, syntax.Definition):
            axes, arguments = len(function.axes), len(function.parameters)
        else:
            axes, arguments = 0, len(function.head.arguments)
        return counts_fit(self.workspace, call, scope, axes=axes, arguments=arguments)

    def _find(self, call: syntax.Call, scope: Scope) -> Key | None:
        name = call.function.name
        key = self.library.find(name, len(call.arguments), scope.owner)
        if key is not None or name in self.library.lost:
            return key
        if counts := self.library.counts(name):
            taken = " or ".join(str(each) for each in counts)
            fact = f"`{name}` takes {taken} argument{'s' * (counts != [1])}"
            fact = f"{fact}, {len(call.arguments)} given"
            self.workspace.refuse(scope, "N212", fact, Label(call.span))
            return None
        diagnostic = unknown_function(self.library, self.workspace.source, call.function)
        assert diagnostic.primary is not None
        help_line = diagnostic.help
        if name in scope.names:
            help_line = f"`{name}` is an array: index it by `[..]`"
        self.workspace.refuse(
            scope, diagnostic.code, diagnostic.message, diagnostic.primary, help=help_line
        )
        return None

    def _expand(
        self,
        function: syntax.Definition,
        axes: Sequence[str],
        values: Sequence[Value],
        owner: Key | None,
        site: Site,
    ) -> Steps:
        parameters = (each.name for each in function.parameters)
        names = dict(zip(parameters, values, strict=True))
        labels = dict(zip((each.name for each in function.axes), axes, strict=True))
        return (yield function.body, Scope(names, labels, owner, site))

    def _expand_diagram(
        self,
        function: syntax.DiagramText,
        call: syntax.Call,
        values: Sequence[Value],
        scope: Scope,
        site: Site,
    ) -> Steps:
        if len(function.head.outputs) != 1:
            fact = f"`{function.head.name.name}` has {len(function.head.outputs)} outputs"
            help_line = "only a diagram with one output can stand in an expression"
            self.workspace.refuse(scope, "N225", fact, Label(call.span), help=help_line)
            return None
        axes = match_axes(self.workspace, function, call, values, scope)
        if axes is None:
            return None
        name_inner_axes(function, axes, values)
        parameters = (each.name.name for each in function.head.arguments)
        names: dict[str, Value | None] = dict(zip(parameters, values, strict=True))
        inner = Scope(names, axes, (function.head.name.name, None), site)
        for statement in function.statements:
            if statement.value is None:
                return None
            value = yield statement.value, inner
            order = tuple(axes[axis.name] for axis in statement.axes)
            names[statement.target.name] = value and Value(value.box, order)
        output = function.head.outputs[0]
        value = names.get(output.name.name)
        return value and Value(value.box, tuple(axes[axis.name] for axis in output.axes))


def _factors(expression: syntax.Expression) -> list[syntax.Expression]:
    """Return the factors of a product, left to right; anything else is its own only factor."""
    factors: list[syntax.Expression] = []
    stack = [expression]
    while stack:
        each = stack.pop()
        if isinstance(each, syntax.Binary) and each.operator == "*":
            stack += [each.right, each.left]
        else:
            factors.append(each)
    return factors
