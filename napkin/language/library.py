"""The functions a file may call: its own definitions and diagrams, then the prelude's.

In: the syntax of a file. Out: a `Library` that finds a function by name and number of arguments,
the order in which to check a file's functions (those called first), and the mistakes that show
without any call: a function that reaches itself, a definition that uses what it was not given.

A name inside the function of that very name means the prelude's: `def gelu(x) = 2 * gelu(x)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from napkin.language import syntax
from napkin.language.errors import Diagnostic, Label, did_you_mean
from napkin.language.report import MAX_SHOWN
from napkin.language.source import Source
from napkin.operators import CALLS, REDUCTIONS

Function = syntax.Definition | syntax.DiagramText
Key = tuple[str, int | None]  # a definition's name and number of parameters; None for a diagram
BUILT_IN = frozenset({*CALLS, *REDUCTIONS, "mean", "size"})


@dataclass(frozen=True, slots=True)
class Library:
    """Definitions and diagrams by key; `lost` names those whose first line could not be read."""

    own: Mapping[Key, Function]
    prelude: Mapping[Key, syntax.Definition]
    lost: frozenset[str]

    def find(self, name: str, count: int, owner: Key | None) -> Key | None:
        """Return the key of the function that a call in `owner`'s text means."""
        candidates: list[Key] = [(name, count)]
        if owner is not None and owner[0] != name:
            candidates.append((name, None))
        for key in candidates:
            if owner is not None and key in self.own and key != owner:
                return key
        if (name, count) in self.prelude:
            return name, count
        # A function that calls itself is found, to be refused as recursive.
        return owner if owner in ((name, count), (name, None)) else None

    def in_prelude(self, key: Key, owner: Key | None) -> bool:
        """Return whether a key that `find` gave for `owner` is the prelude's."""
        return owner is None or key not in self.own or (key == owner and key in self.prelude)

    def names(self) -> set[str]:
        """Return every name that may be called."""
        return {name for name, _ in (*self.own, *self.prelude)} | BUILT_IN

    def counts(self, name: str) -> list[int]:
        """Return the numbers of arguments with which a definition of that name may be called."""
        keys = (*self.own, *self.prelude)
        return sorted({count for known, count in keys if known == name and count is not None})


def collect(
    file: syntax.File, source: Source, prelude: Mapping[Key, syntax.Definition]
) -> tuple[Library, list[Diagnostic]]:
    """Return the file's library and what is wrong with the names in it."""
    own: dict[Key, Function] = {}
    diagnostics: list[Diagnostic] = []
    functions: list[Function] = [*file.definitions, *file.diagrams]
    for function in sorted(functions, key=lambda each: each.span.start):
        key, name = key_of(function), _name(function)
        fact: str | None = None
        others: tuple[Label, ...] = ()
        if key in own:
            fact = f"`{name.name}` is defined twice"
            others = (Label(_name(own[key]).span, "first defined here"),)
        elif name.name in BUILT_IN and isinstance(function, syntax.Definition):
            fact = f"`{name.name}` is built in and cannot be defined"
        if fact:
            place = Label(name.span)
            diagnostics.append(
                Diagnostic("N221", fact, source, place, others, help="choose another name")
            )
        else:
            own[key] = function
    return Library(own, prelude, file.lost), diagnostics


def key_of(function: Function) -> Key:
    """Return a function's key."""
    if isinstance(function, syntax.Definition):
        return function.name.name, len(function.parameters)
    return function.head.name.name, None


def _name(function: Function) -> syntax.Identifier:
    return function.name if isinstance(function, syntax.Definition) else function.head.name


# --- recursion ------------------------------------------------------------------------------------


def checking_order(library: Library, source: Source) -> tuple[list[Key], list[Diagnostic]]:
    """Return the file's functions, called ones first, without those that reach themselves."""
    calls = {key: _called(library, key) for key in library.own}
    diagnostics: list[Diagnostic] = []
    while True:
        try:
            return list(TopologicalSorter(calls).static_order()), diagnostics
        except CycleError as error:
            cycle: list[Key] = error.args[1]
        if len(diagnostics) >= MAX_SHOWN:
            return [], diagnostics
        first = min(cycle, key=list(library.own).index)
        diagnostics.append(_recursion(library, source, first, calls[first]))
        for key in cycle:
            calls.pop(key, None)
        calls = {key: [each for each in below if each in calls] for key, below in calls.items()}


def _called(library: Library, key: Key) -> list[Key]:
    found = (
        library.find(call.function.name, len(call.arguments), key)
        for call in _calls(library, key)
        if call.function.name not in BUILT_IN
    )
    return [each for each in found if each is not None and not library.in_prelude(each, key)]


def _calls(library: Library, key: Key) -> Iterator[syntax.Call]:
    for expression in expressions_of(library.own[key]):
        for each, _ in syntax.walk(expression):
            if isinstance(each, syntax.Call):
                yield each


def expressions_of(function: Function) -> Iterator[syntax.Expression]:
    """Yield the expressions that make up a function's text."""
    if isinstance(function, syntax.Definition):
        yield function.body
        return
    for statement in function.statements:
        if statement.value is not None:
            yield statement.value


def _recursion(library: Library, source: Source, key: Key, below: list[Key]) -> Diagnostic:
    name = key[0]
    how = "itself" if key in below else "itself through others"
    place = Label(_name(library.own[key]).span)
    help_line = "definitions expand in place, so none may reach itself"
    return Diagnostic("N217", f"`{name}` calls {how}", source, place, help=help_line)


# --- definitions ----------------------------------------------------------------------------------


def judge_definition(library: Library, source: Source, key: Key) -> list[Diagnostic]:
    """Return what is wrong with a definition before anyone calls it."""
    function = library.own[key]
    assert isinstance(function, syntax.Definition)
    judge = _DefinitionJudge(library, source, key, function)
    judge.repeats()
    for expression, _ in syntax.walk(function.body):
        if len(judge.diagnostics) <= MAX_SHOWN:
            judge.expression(expression)
    return judge.diagnostics


class _DefinitionJudge:
    def __init__(
        self, library: Library, source: Source, key: Key, function: syntax.Definition
    ) -> None:
        self.library, self.source, self.key = library, source, key
        self.axes = {axis.name for axis in function.axes}
        self.parameters = {each.name for each in function.parameters}
        self.function = function
        self.diagnostics: list[Diagnostic] = []

    def repeats(self) -> None:
        """Refuse a name given twice."""
        seen: dict[str, syntax.Identifier] = {}
        for each in (*self.function.axes, *self.function.parameters):
            if each.name in seen:
                fact = f"`{self.function.name.name}` takes `{each.name}` twice"
                first = Label(seen[each.name].span, "first here")
                self.diagnostics.append(
                    Diagnostic("N207", fact, self.source, Label(each.span), (first,))
                )
            seen.setdefault(each.name, each)

    def expression(self, expression: syntax.Expression) -> None:
        match expression:
            case syntax.Reference() if expression.name not in self.parameters | self.axes:
                self._refuse_name(syntax.Identifier(expression.span, expression.name))
            case syntax.Element() if expression.array.name not in self.parameters:
                self._refuse_name(expression.array)
            case syntax.Call():
                self._call(expression)
            case _:
                pass

    def _call(self, call: syntax.Call) -> None:
        name, library = call.function.name, self.library
        for axis in call.axes:
            if axis.name not in self.axes:
                self._refuse_axis(axis)
        if name in BUILT_IN or name in library.lost:
            return
        if library.find(name, len(call.arguments), self.key) is None and not library.counts(name):
            self.diagnostics.append(unknown_function(library, self.source, call.function))

    def _refuse_name(self, name: syntax.Identifier) -> None:
        known = self.parameters | self.axes
        fact = f"`{name.name}` is not a parameter of `{self.function.name.name}`"
        help_line = did_you_mean(name.name, known) or "a definition sees only what it is given"
        self.diagnostics.append(
            Diagnostic("N201", fact, self.source, Label(name.span), help=help_line)
        )

    def _refuse_axis(self, axis: syntax.Identifier) -> None:
        fact = f"`{axis.name}` is not an axis of `{self.function.name.name}`"
        axes = " ".join((*(each.name for each in self.function.axes), axis.name))
        help_line = did_you_mean(axis.name, self.axes)
        help_line = help_line or f"take it: `def {self.function.name.name}[{axes}](..)`"
        self.diagnostics.append(
            Diagnostic("N226", fact, self.source, Label(axis.span), help=help_line)
        )


def unknown_function(library: Library, source: Source, name: syntax.Identifier) -> Diagnostic:
    """Return the diagnostic for a call of nothing known."""
    help_line = did_you_mean(name.name, library.names())
    fact = f"unknown function `{name.name}`"
    return Diagnostic("N202", fact, source, Label(name.span), help=help_line)
