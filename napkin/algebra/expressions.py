"""Boxes as text, written as the language writes them, with the fewest brackets.

In: a graph and the names of some boxes. Out: a `Printer`, whose `text(box)` stops at named boxes
and whose `definition(box)` opens the box itself. A long part is abbreviated by its fallback name
and remembered, so that a text stays short however much its boxes share.

It knows nothing of streams: a derivation says what its states are called before and after a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from napkin.diagram import (
    Box,
    Constant,
    Edge,
    Extreme,
    Gather,
    Graph,
    Index,
    Input,
    Pointwise,
    Reduce,
    Size,
    State,
    operands_of,
    print_constant,
)
from napkin.language.errors import InternalError
from napkin.operators import POINTWISE

_ATOM = 9
_SIGN = 7
_PRODUCT = 6
_COMPARISON = 4
_LONG = 76
_WHOLE = 1e15  # past this a whole float is clearer with its exponent


@dataclass(frozen=True, slots=True)
class _Text:
    """An expression's text, and how tightly it holds together."""

    text: str
    precedence: int = _ATOM

    def inside(self, least: int) -> str:
        """Return the text, in brackets if it holds less tightly than its place asks."""
        return self.text if self.precedence >= least else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Versions:
    """How a state is written before (`old`) and after (`new`) a step: formats of its name.

    States in `settled` do not move in this step, and go by their names.
    """

    old: str = "{}_old"
    new: str = "{}_new"
    settled: frozenset[str] = frozenset()

    def write(self, state: State) -> str:
        """Return a state's name in its version."""
        if state.name in self.settled:
            return state.name
        return (self.old if state.version == "old" else self.new).format(state.name)


class Printer:
    """Prints boxes of one graph. `names` are always used, `fallback` only for what is long.

    `shortened` gathers the names that stand for long parts, for several printers at once.
    """

    def __init__(
        self,
        graph: Graph,
        names: Mapping[int, str],
        versions: Versions = Versions(),
        *,
        fallback: Mapping[int, str] | None = None,
        shortened: dict[str, tuple[Printer, int]] | None = None,
    ) -> None:
        self.graph = graph
        self.names = names
        self.versions = versions
        self.fallback = fallback or {}
        self.shortened = {} if shortened is None else shortened
        self._done: dict[int, _Text] = {}

    def text(self, box: int, least: int = 0) -> str:
        """Return a box as an expression, in brackets if it is looser than `least`."""
        return self._open(box).inside(least)

    def factor(self, box: int) -> str:
        """Return a box as it stands to the right of `*`."""
        return self.text(box, _PRODUCT + 1)

    def definition(self, box: int) -> str:
        """Return what a box is made of, even if it has a name."""
        for operand in operands_of(self.graph[box]):
            self._read(operand)
        return self._write(box).text

    def _open(self, box: int) -> _Text:
        """Return a box by its name or as it is written, however long that is."""
        if box in self.names:
            return _Text(self.names[box])
        for operand in operands_of(self.graph[box]):
            self._read(operand)
        return self._write(box)

    def contribution(self, operator: str, factors: tuple[int, ...], over: tuple[str, ...]) -> str:
        """Return a reduction of a product that need not be a box of the graph."""
        return _reduction(operator, [self._open(each) for each in factors], over)

    def _read(self, root: int) -> _Text:
        pending = [(root, False)]
        while pending:
            each, ready = pending.pop()
            if each in self._done:
                continue
            if each in self.names:
                self._done[each] = _Text(self.names[each])
            elif ready:
                self._done[each] = self._shorten(each, self._write(each))
            else:
                pending.append((each, True))
                pending += [(operand, False) for operand in operands_of(self.graph[each])]
        return self._done[root]

    def _shorten(self, each: int, written: _Text) -> _Text:
        if len(written.text) <= _LONG:
            return written
        name = self.fallback.get(each, f"e{len(self.shortened) + 1}")
        self.shortened.setdefault(name, (self, each))
        return _Text(name)

    def _write(self, each: int) -> _Text:
        box = self.graph[each]
        match box:
            case Pointwise():
                return self._operator(box)
            case Reduce():
                factors = [self._done[each] for each in box.operands]
                return _Text(_reduction(box.operator, factors, box.over))
            case Gather():
                indices = ", ".join(self._done[index].text for index in box.indices)
                return _Text(f"{self._done[box.array].text}[{indices}]")
            case Extreme():
                return _Text(f"{box.end}({self._done[box.operand].text})")
            case _:
                return self._leaf(box)

    def _leaf(self, box: Box) -> _Text:
        match box:
            case Input():
                return _Text(box.name)
            case State():
                return _Text(self.versions.write(box))
            case Edge():
                return _Text(f"{box.end}({box.axis})")
            case Index():
                return _Text(box.axis)
            case Size():
                return _Text(f"size({box.axis})")
            case Constant():
                text = print_number(box.value)
                return _Text(text, _SIGN if text.startswith("-") else _ATOM)
            case _:
                raise InternalError(f"not a leaf: {box}")

    def _operator(self, box: Pointwise) -> _Text:
        row = POINTWISE[box.operator]
        operands = [self._done[each] for each in box.operands]
        if not row.precedence:
            return _Text(f"{row.symbol}({', '.join(each.text for each in operands)})")
        if row.arity == 1:
            space = " " if row.symbol.isalpha() else ""
            return _Text(
                f"{row.symbol}{space}{operands[0].inside(row.precedence + 1)}", row.precedence
            )
        left, right = _bounds(box.operator)
        text = f"{operands[0].inside(left)} {row.symbol} {operands[1].inside(right)}"
        return _Text(text, row.precedence)


def print_number(value: float | int | bool) -> str:
    """Return a constant as people write it: a whole number without a point, no brackets.

    >>> print_number(1.0), print_number(-3), print_number(float("-inf"))
    ('1', '-3', '-inf')
    """
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE
    return print_constant(int(value) if whole else value).strip("()")


def _reduction(operator: str, factors: Sequence[_Text], over: Sequence[str]) -> str:
    return f"{operator}[{' '.join(over)}]({_product(factors)})"


def _product(factors: Sequence[_Text]) -> str:
    if len(factors) == 1:
        return factors[0].text
    rest = (each.inside(_PRODUCT + 1) for each in factors[1:])
    return " * ".join((factors[0].inside(_PRODUCT), *rest))


def _bounds(operator: str) -> tuple[int, int]:
    """Return how tight the left and right operands of an infix operator must be."""
    precedence = POINTWISE[operator].precedence
    if operator == "pow":
        return _ATOM, _SIGN
    if precedence == _COMPARISON:
        return precedence + 1, precedence + 1
    return precedence, precedence + 1
