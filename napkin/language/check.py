"""Syntax tree to diagrams: every judgement on labels, names and kinds is passed here.

In: `syntax.File`. Out: its diagrams in the order written, or a NapkinError with all that is
wrong. A diagram's signature is judged first, then each statement (`elaborate` makes its boxes),
then the outputs, the sizes and the relabellings; `canonical` puts the boxes in their one order.

Deliberately absent: machines. Whether a tile fits, or a level exists, is the plan's business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from napkin.diagram import (
    Argument,
    Constant,
    Diagram,
    Index,
    Input,
    Output,
    Relabelling,
    Size,
    verify,
)
from napkin.language import syntax
from napkin.language.calling import declared_axes
from napkin.language.canonical import Canonical, canonicalise
from napkin.language.elaborate import Elaborator
from napkin.language.errors import Diagnostic, Label, NapkinError, closest
from napkin.language.library import Key, Library, checking_order, collect, judge_definition
from napkin.language.prelude import prelude
from napkin.language.relabel import relabel, size_axes
from napkin.language.report import MAX_SHOWN, gather
from napkin.language.sizing import every_axis, sized_axes
from napkin.language.source import Source, Span
from napkin.language.storage import storage_type
from napkin.language.workspace import MAX_AXES, Enough, Scope, TooLarge, Value, Workspace


@dataclass(frozen=True, slots=True)
class Checked:
    """The diagrams that are sound, and what is wrong with the others."""

    diagrams: tuple[Diagram, ...]
    diagnostics: tuple[Diagnostic, ...]


def check(file: syntax.File, source: Source) -> tuple[Diagram, ...]:
    """Return the diagrams of a file; raise NapkinError if any is wrong."""
    checked = check_what_checks(file, source)
    if checked.diagnostics:
        raise NapkinError(gather(checked.diagnostics))
    return checked.diagrams


def check_what_checks(file: syntax.File, source: Source) -> Checked:
    """Return the diagrams of a file that are sound, and the diagnostics of the rest."""
    library, diagnostics = collect(file, source, prelude())
    order, recursions = checking_order(library, source)
    diagnostics += recursions
    broken = frozenset(set(library.own) - set(order))
    diagrams: dict[Key, Diagram] = {}
    for key in order:
        if len(diagnostics) > MAX_SHOWN:
            break
        function = library.own[key]
        if isinstance(function, syntax.Definition):
            found = judge_definition(library, source, key)
        else:
            checking = _DiagramCheck(function, source, library, broken)
            diagram, found = checking.run(), checking.space.diagnostics
            if diagram is not None:
                diagrams[key] = diagram
        if found or (not isinstance(function, syntax.Definition) and key not in diagrams):
            broken |= {key}
        diagnostics += found
    written = (diagrams.get((each.head.name.name, None)) for each in file.diagrams)
    return Checked(tuple(each for each in written if each is not None), tuple(diagnostics))


@dataclass(slots=True)
class _DiagramCheck:
    """The checking of one diagram."""

    text: syntax.DiagramText
    source: Source
    library: Library
    broken: frozenset[Key]
    space: Workspace = field(init=False)
    axes: dict[str, Span] = field(init=False)
    names: dict[str, Value | None] = field(default_factory=dict)
    assigned: dict[str, int] = field(default_factory=dict)
    complete: bool = True

    def __post_init__(self) -> None:
        self.space = Workspace(self.source)
        self.axes = declared_axes(self.text)

    def run(self) -> Diagram | None:
        """Return the diagram, or None with diagnostics in the workspace."""
        self._refuse_clashes()
        arguments = tuple(self._argument(each) for each in self.text.head.arguments)
        for parameter, argument in zip(self.text.head.arguments, arguments, strict=True):
            box = self.space.graph.add(Input(argument.name, argument.axes, argument.kind))
            self.space.spans += [argument.span] * (len(self.space.graph) - len(self.space.spans))
            # An array of unknown type, or a second one of a name, is wrong: its users stay silent.
            wrong = argument.name in self.names or argument.dtype != _dtype_name(parameter)
            self.names[argument.name] = None if wrong else Value(box, argument.axes)
        for output in self.text.head.outputs:
            self._dims(output.name.name, output.dims, output.dtype)
            storage_type(output, self.source, self.space.diagnostics)
        try:
            self._statements()
        except TooLarge as error:
            place = Label(self.text.head.name.span)
            fact = f"`{self.text.head.name.name}` is too large: {error.fact}"
            self.space.diagnostics.append(Diagnostic("N218", fact, self.source, place))
            return None
        except Enough:
            return None
        self._outputs()
        sizes = size_axes(self.text, self.source, self.axes, self.space.diagnostics)
        if self.space.diagnostics or not self.complete or not self.text.whole:
            names = {each: each for each in (*self.names, *self._targets())}
            self._relabel(self.axes, names)
            return None
        return self._finish(arguments, sizes)

    # --- signature --------------------------------------------------------------------------------

    def _refuse(
        self, code: str, fact: str, at: Span, *others: Label, help: str | None = None
    ) -> None:
        self.space.diagnostics.append(
            Diagnostic(code, fact, self.source, Label(at), others, help=help)
        )

    def _refuse_clashes(self) -> None:
        """Refuse a name that stands for two things."""
        seen: dict[str, Span] = {}
        for parameter in (*self.text.head.arguments, *self.text.head.outputs):
            name, span = parameter.name.name, parameter.name.span
            if name in seen:
                label = Label(seen[name], "first here")
                self._refuse("N207", f"`{name}` is declared twice", span, label)
            seen.setdefault(name, span)
        for statement in self.text.statements:
            seen.setdefault(statement.target.name, statement.target.span)
        for name, span in seen.items():
            if name in self.axes:
                label = Label(self.axes[name], "an axis here")
                help_line = "give the array another name: labels and arrays share expressions"
                fact = f"`{name}` is both an array and an axis"
                self._refuse("N206", fact, span, label, help=help_line)

    def _argument(self, parameter: syntax.Parameter) -> Argument:
        dims = self._dims(parameter.name.name, parameter.dims, parameter.dtype)
        return Argument(
            parameter.name.name,
            dims,
            storage_type(parameter, self.source, self.space.diagnostics),
            parameter.span,
        )

    def _dims(
        self, name: str, dims: tuple[syntax.Dim, ...], dtype: syntax.Identifier | None
    ) -> tuple[tuple[str, ...], ...]:
        """Judge the axes of an array and return its dims, repeated axes left out."""
        seen: dict[str, Span] = {}
        kept: list[tuple[str, ...]] = []
        for dim in dims:
            fresh: list[str] = []
            for axis in dim.axes:
                if axis.name in seen:
                    label = Label(seen[axis.name], "first here")
                    help_line = "a matrix of one axis by itself needs two labels"
                    fact = f"`{name}` carries axis `{axis.name}` twice"
                    self._refuse("N205", fact, axis.span, label, help=help_line)
                else:
                    seen[axis.name] = axis.span
                    fresh.append(axis.name)
            kept += [tuple(fresh)] if fresh else []
        if len(seen) > MAX_AXES:
            fact = f"`{name}` has {len(seen)} axes, more than {MAX_AXES}"
            self._refuse("N219", fact, dims[0].span.cover(dims[-1].span))
        return tuple(kept)

    # --- statements -------------------------------------------------------------------------------

    def _statements(self) -> None:
        elaborator = Elaborator(self.space, self.library, self.broken)
        later = {each.target.name: each.target.span for each in reversed(self.text.statements)}
        later = {output.name.name: output.name.span for output in self.text.head.outputs} | later
        first = {each.name.name: each.name.span for each in self.text.head.arguments}
        scope = Scope(
            self.names,
            {axis: axis for axis in self.axes},
            (self.text.head.name.name, None),
            later=later,
        )
        for statement in self.text.statements:
            name = statement.target
            self._dims(name.name, statement.dims, None)
            value = self._value(elaborator, statement, scope)
            if name.name in first:
                label = Label(first[name.name], "first here")
                fact = f"`{name.name}` is assigned twice"
                help_line = "each name stands for one array: choose another"
                self._refuse("N207", fact, name.span, label, help=help_line)
                continue
            first[name.name] = name.span
            self.names[name.name] = value
            if value is not None:
                self.assigned[name.name] = value.box

    def _value(
        self, elaborator: Elaborator, statement: syntax.Statement, scope: Scope
    ) -> Value | None:
        if statement.value is None:
            self.complete = False
            return None
        value = elaborator.value(statement.value, scope)
        if value is None:
            self.complete = False
            return None
        left = tuple(dict.fromkeys(axis.name for axis in statement.axes))
        if set(left) != set(self.space.axes(value)):
            self._refuse_sides(statement, left, self.space.axes(value))
            return None
        return Value(value.box, left)

    def _refuse_sides(
        self, statement: syntax.Statement, left: tuple[str, ...], right: tuple[str, ...]
    ) -> None:
        name = statement.target.name
        extra = [axis for axis in right if axis not in left]
        missing = [axis for axis in left if axis not in right]
        if extra:
            axis = extra[0]
            fact = f"axis `{axis}` is on the right of `{name}` but not on its left"
            labels = list(self._carriers(statement, axis))
            primary = statement.target.span
            help_line = f"reduce over it, `sum[{axis}](..)`, or add it to `{name}[..]`"
        else:
            axis = missing[0]
            fact = f"axis `{axis}` is on the left of `{name}` but not on its right"
            primary = next(each.span for each in statement.axes if each.name == axis)
            assert statement.value is not None
            words = ", ".join(f"`{each}`" for each in right) or "no axis"
            labels = [Label(statement.value.span, f"carries {words}")]
            help_line = "the axes of both sides must be the same"
        if len(extra) + len(missing) > 1:
            words = ", ".join(f"`{each}`" for each in (*extra, *missing))
            fact = f"axes {words} are not on both sides of `{name}`"
        self._refuse("N204", fact, primary, *labels, help=help_line)

    def _carriers(self, statement: syntax.Statement, axis: str) -> Iterator[Label]:
        """Yield labels at the names on the right that carry an axis, the first two."""
        assert statement.value is not None
        shown = 0
        for expression, _ in syntax.walk(statement.value):
            if not isinstance(expression, syntax.Reference) or shown == 2:
                continue
            value = self.names.get(expression.name)
            if expression.name == axis or (value is not None and axis in value.order):
                shown += 1
                yield Label(expression.span, f"carries `{axis}`")

    # --- outputs ----------------------------------------------------------------------------------

    def _outputs(self) -> None:
        targets = {each.target.name: each for each in self.text.statements}
        for output in self.text.head.outputs:
            name = output.name.name
            statement = targets.get(name)
            if statement is None and not self.text.whole:
                continue  # the line that could not be read may have assigned it
            if statement is None:
                help_line = f"add a statement `{name}[..] = ..`"
                if (other := closest(name, set(targets))) is not None:
                    help_line = f"did you mean `{other}`?"
                fact = f"output `{name}` is never assigned"
                self._refuse("N209", fact, output.name.span, help=help_line)
            elif self.names.get(name) is not None:
                self._judge_output(output, statement)

    def _judge_output(self, output: syntax.Parameter, statement: syntax.Statement) -> None:
        value = self.names[output.name.name]
        assert value is not None
        declared = [axis.name for axis in output.axes]
        if set(declared) != set(value.order):
            odd = sorted(set(declared) ^ set(value.order))
            words = ", ".join(f"`{axis}`" for axis in odd)
            fact = f"output `{output.name.name}` and its statement differ in {words}"
            label = Label(statement.target.span, "assigned here")
            self._refuse("N204", fact, output.span, label)
        truth = self.space.kind(value).value == "bool"
        if output.dtype is not None and (output.dtype.name == "bool") != truth:
            what = "truth values" if truth else "numbers"
            fact = f"output `{output.name.name}` is `{output.dtype.name}` and holds {what}"
            label = Label(statement.target.span, "assigned here")
            self._refuse("N211", fact, output.dtype.span, label)

    # --- the whole --------------------------------------------------------------------------------

    def _finish(
        self, arguments: tuple[Argument, ...], sizes: tuple[tuple[str, int], ...]
    ) -> Diagram | None:
        text = self.text
        outputs = {each.name.name: self.assigned[each.name.name] for each in text.head.outputs}
        taken = {*outputs, *self.axes, *(each.name for each in arguments)}
        canonical = canonicalise(
            self.space.graph,
            self.space.spans,
            outputs=outputs,
            assigned=self.assigned,
            taken=taken,
        )
        diagram = Diagram(
            name=text.head.name.name,
            arguments=arguments,
            outputs=tuple(self._output(each, canonical) for each in text.head.outputs),
            boxes=canonical.boxes,
            names=canonical.names,
            comment=text.comment,
            spans=canonical.spans,
            source=self.source,
        )
        self._refuse_unsized(diagram)
        placeable = {
            name: canonical.names[canonical.ids[value.box]]
            for name, value in self.names.items()
            if value is not None
            and value.box in canonical.ids
            and not isinstance(self.space.graph[value.box], Constant | Index | Size)
        }
        relabelled = self._relabel(every_axis(diagram), placeable)
        kept = tuple(each for each in sizes if each[0] in every_axis(diagram))
        if self.space.diagnostics:
            return None
        return verify(replace(diagram, sizes=kept, relabellings=relabelled))

    def _relabel(
        self, axes: Collection[str], placeable: Mapping[str, str]
    ) -> tuple[Relabelling, ...]:
        found = self.space.diagnostics
        return relabel(self.text, self.source, axes=axes, placeable=placeable, diagnostics=found)

    def _targets(self) -> Iterator[str]:
        return (each.target.name for each in self.text.statements)

    def _output(self, output: syntax.Parameter, canonical: Canonical) -> Output:
        return Output(
            output.name.name,
            tuple(tuple(axis.name for axis in dim.axes) for dim in output.dims),
            output.dtype.name if output.dtype else None,
            canonical.ids[self.assigned[output.name.name]],
            output.span,
        )

    def _refuse_unsized(self, diagram: Diagram) -> None:
        known = sized_axes(diagram)
        for axis in every_axis(diagram):
            if axis not in known:
                help_line = "an argument must carry it, or be read at it"
                fact = f"the size of axis `{axis}` cannot be found from the arguments"
                place = self.axes.get(axis, self.text.head.name.span)
                self._refuse("N216", fact, place, help=help_line)


def _dtype_name(parameter: syntax.Parameter) -> str | None:
    return parameter.dtype.name if parameter.dtype else None
