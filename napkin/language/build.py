"""Build the syntax tree of one line while Lark parses it.

In: the tokens and nodes of each rule of grammars/napkin.lark, as LALR reduces it. Out: a
`syntax.Line`. Lark runs these methods during the parse, so no tree is ever walked by recursion.

A fact that the grammar cannot state (a number out of range, an axis that is no name) is raised as
`Refused`, one a line like any syntax error.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf

from lark import Token, Transformer, Tree

from napkin.language import syntax
from napkin.language.source import Span

MAX_INTEGER = 2**63 - 1

Node = (
    syntax.Expression
    | syntax.Line
    | syntax.Identifier
    | syntax.Dim
    | syntax.Parameter
    | syntax.AxisSize
    | syntax.Tiles
)
Child = Token | Node | Tree[Token]
_WORDS: dict[str, float | bool] = {"true": True, "false": False, "inf": inf}


@dataclass
class Refused(Exception):
    """A line that has the right shape and says something impossible."""

    code: str
    message: str
    span: Span
    help: str | None = None


class Builder(Transformer[Token, syntax.Line]):
    """One method for a rule or alias of the grammar, each from children to a node."""

    def line(self, children: list[Child]) -> Child:
        return children[0]

    # --- signatures -------------------------------------------------------------------------------

    def diagram(self, children: list[Child]) -> syntax.Head:
        arrow = next(i for i, each in enumerate(children) if _is(each, "ARROW"))
        arguments, outputs = _parameters(children[:arrow]), _parameters(children[arrow:])
        return syntax.Head(_span(children), _names(children)[0], arguments, outputs)

    def parameter(self, children: list[Child]) -> syntax.Parameter:
        names = _names(children)
        dtype = names[1] if len(names) > 1 else None
        return syntax.Parameter(_span(children), names[0], _dims(children), dtype)

    def dim(self, children: list[Child]) -> syntax.Dim:
        return syntax.Dim(_span(children), tuple(_names(children)))

    # --- statements and definitions ---------------------------------------------------------------

    def statement(self, children: list[Child]) -> syntax.Statement:
        value = _expressions(children[-1:])[0]
        return syntax.Statement(_span(children), _names(children)[0], _dims(children), value)

    def definition(self, children: list[Child]) -> syntax.Definition:
        return syntax.Definition(
            _span(children),
            _names(children)[0],
            _listed(children, "names"),
            _listed(children, "list"),
            _expressions(children[-1:])[0],
        )

    # --- expressions ------------------------------------------------------------------------------

    def binary(self, children: list[Child]) -> syntax.Binary:
        left, right = _expressions(children)
        return syntax.Binary(_span(children), str(children[1]), left, right)

    def unary(self, children: list[Child]) -> syntax.Unary:
        return syntax.Unary(_span(children), str(children[0]), _expressions(children)[0])

    def integer(self, children: list[Child]) -> syntax.Literal:
        return syntax.Literal(_span(children), _integer(children[0]))

    def real(self, children: list[Child]) -> syntax.Literal:
        value = float(str(children[0]))
        if isinf(value):
            raise Refused(
                "N110", f"`{children[0]}` overflows a 64-bit float", _span(children), "write `inf`"
            )
        return syntax.Literal(_span(children), value)

    def word(self, children: list[Child]) -> syntax.Literal:
        return syntax.Literal(_span(children), _WORDS[str(children[0])])

    def reference(self, children: list[Child]) -> syntax.Reference:
        return syntax.Reference(_span(children), str(children[0]))

    def element(self, children: list[Child]) -> syntax.Element:
        return syntax.Element(_span(children), _names(children)[0], _arguments(children))

    def call(self, children: list[Child]) -> syntax.Call:
        return syntax.Call(_span(children), _names(children)[0], (), _arguments(children))

    def call_over(self, children: list[Child]) -> syntax.Call:
        axes = _listed(children, "two_names")
        return syntax.Call(_span(children), _names(children)[0], axes, _arguments(children))

    def call_over_one(self, children: list[Child]) -> syntax.Call:
        # `f[x]` looks like an element of an array until the bracket after it: one rule reads both.
        axes = tuple(_axis(each) for each in _arguments(children[:4]))
        if len(axes) > 1:
            fact = "the axes of a call are separated by blanks, not by commas"
            words = " ".join(axis.name for axis in axes)
            raise Refused("N116", fact, axes[0].span.cover(axes[-1].span), f"write `[{words}]`")
        return syntax.Call(_span(children), _names(children)[0], axes, _arguments(children[4:]))

    def brackets(self, children: list[Child]) -> syntax.Expression:
        return _expressions(children)[0]

    # --- sizes and relabellings -------------------------------------------------------------------

    def sizes(self, children: list[Child]) -> syntax.Sizes:
        found = tuple(each for each in children if isinstance(each, syntax.AxisSize))
        return syntax.Sizes(_span(children), found)

    def size(self, children: list[Child]) -> syntax.AxisSize:
        return syntax.AxisSize(_span(children), _names(children)[0], _integer(children[-1]))

    def on(self, children: list[Child]) -> syntax.On:
        return syntax.On(_span(children), _names(children)[0])

    def tilings(self, children: list[Child]) -> syntax.Tilings:
        found = tuple(each for each in children if isinstance(each, syntax.Tiles))
        return syntax.Tilings(_span(children), str(children[0]), found)

    def tiling(self, children: list[Child]) -> syntax.Tiles:
        return syntax.Tiles(_span(children), tuple(_names(children)), _integer(children[-1]))

    def placement(self, children: list[Child]) -> syntax.Place:
        return syntax.Place(_span(children), _names(children)[0], _listed(children, "list"))

    def count(self, children: list[Child]) -> syntax.Count:
        return syntax.Count(_span(children), str(children[0]), _integer(children[-1]))


# --- children of a rule ---------------------------------------------------------------------------


def _is(child: Child, terminal: str) -> bool:
    return isinstance(child, Token) and child.type == terminal


def _start(child: Child) -> int | None:
    """Return where a child starts; an empty rule is nowhere."""
    if isinstance(child, Tree):
        return next((at for each in child.children if (at := _start(each)) is not None), None)
    return child.start_pos if isinstance(child, Token) else child.span.start


def _end(child: Child) -> int | None:
    if isinstance(child, Tree):
        ends = (_end(each) for each in reversed(child.children))
        return next((at for at in ends if at is not None), None)
    return child.end_pos if isinstance(child, Token) else child.span.end


def _span(children: list[Child]) -> Span:
    start, end = _start(children[0]), _end(children[-1])
    assert start is not None
    assert end is not None
    return Span(start, end)


def _names(children: list[Child]) -> list[syntax.Identifier]:
    return [syntax.Identifier(_span([each]), str(each)) for each in children if _is(each, "NAME")]


def _below(children: list[Child], rule: str) -> list[Child]:
    found = (each for each in children if isinstance(each, Tree) and each.data == rule)
    return next((list(each.children) for each in found), [])


def _listed(children: list[Child], rule: str) -> tuple[syntax.Identifier, ...]:
    return tuple(_names(_below(children, rule)))


def _dims(children: list[Child]) -> tuple[syntax.Dim, ...]:
    return tuple(each for each in _below(children, "dims") if isinstance(each, syntax.Dim))


def _parameters(children: list[Child]) -> tuple[syntax.Parameter, ...]:
    below = _below(children, "parameters")
    return tuple(each for each in below if isinstance(each, syntax.Parameter))


def _expressions(children: list[Child]) -> list[syntax.Expression]:
    return [each for each in children if isinstance(each, syntax.Expression)]


def _arguments(children: list[Child]) -> tuple[syntax.Expression, ...]:
    return tuple(_expressions(_below(children, "arguments")))


def _axis(expression: syntax.Expression) -> syntax.Identifier:
    if isinstance(expression, syntax.Reference):
        return syntax.Identifier(expression.span, expression.name)
    raise Refused("N116", "the axes of a call are names, not expressions", expression.span)


def _integer(child: Child) -> int:
    value = int(str(child))
    if value > MAX_INTEGER:
        raise Refused("N110", f"`{child}` does not fit in 64 bits", _span([child]))
    return value
