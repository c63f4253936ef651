"""How pseudocode writes a Program's pieces: expressions, statements, labels, sizes.

In: statements and tiles. Out: lines of text in the diagram's notation: axes by name, reductions with
their axes in brackets, operators as the language writes them.

It lays out no page (`pseudo` does) and counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from napkin.emit.expressions import Define, Expression, Leaf, Statement
from napkin.operators import POINTWISE
from napkin.schedule.program import (
    Assign,
    Dot,
    EdgePosition,
    Fill,
    Fold,
    Length,
    Literal,
    Load,
    Loop,
    Operand,
    Positions,
    Program,
    Store,
)
from napkin.schedule.trips import remainders

_ATOM = 9  # binds tighter than any operator
_GROUPS_LEFT = {"add", "mul", "and", "or"}  # the others need brackets on the right of an equal
_GROUPS_NEITHER = {POINTWISE["lt"].precedence, POINTWISE["pow"].precedence}


class Notation:
    """Writes the statements of one program; `remainders` are its loops over what others leave."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.remainders = remainders(program)

    def statement(self, statement: Statement) -> str:
        """Return a statement on one line; of a loop its head."""
        match statement:
            case Define():
                return f"{statement.tile.name} = {expression(statement.value)}"
            case Load():
                places = ", ".join(statement.indices)
                ring = f" into {statement.buffer}" if statement.buffer else ""
                return f"{statement.tile.name} = load {statement.array}[{places}]{ring}"
            case Positions():
                return f"{statement.tile.name} = indices of {statement.axis}"
            case EdgePosition():
                return f"{statement.tile.name} = {statement.end} index of {statement.axis}"
            case Fold():
                over = self.axes(statement.over)
                return f"{statement.tile.name} = {statement.operator}[{over}]({statement.source})"
            case Dot():
                over = self.axes((statement.over,))
                total = f"sum[{over}]({statement.left} * {statement.right})"
                kept = f"{statement.accumulator} + " if statement.accumulator else ""
                return f"{statement.tile.name} = {kept}{total} in {statement.operand_type}"
            case Fill():
                return f"{statement.tile.name} = {number(statement.value)}"
            case Assign():
                return f"{statement.target} = {statement.source}"
            case Store():
                if statement.adds:
                    return f"add to {statement.array}: {operand(statement.source)}"
                return f"store {statement.array} = {operand(statement.source)}"
            case Loop():
                return self._loop(statement)
            case _:
                assert_never(statement)

    def _loop(self, loop: Loop) -> str:
        bounds = f"from {operand(loop.start)} to {operand(loop.stop)} by {loop.step}"
        return f"for {loop.axis} {bounds}{', masked' if id(loop) in self.remainders else ''}"

    def dims(self, dims: Sequence[str]) -> str:
        """Return the axes of dims with their tile sizes."""
        axes = [axis for dim in dims for axis in self.program.dim(dim).axes]
        return f"[{' '.join(f'{axis}:{self.program.axis(axis).tile}' for axis in axes)}]"

    def axes(self, dims: Sequence[str]) -> str:
        """Return the axes of dims."""
        return " ".join(axis for dim in dims for axis in self.program.dim(dim).axes)


def expression(tree: Expression) -> str:
    """Return an expression with no more brackets than it needs."""
    return _bound(tree)[0]


def operand(value: Operand) -> str:
    """Return a name, a number or an axis's length."""
    match value:
        case Literal():
            return number(value.value)
        case Length():
            return f"size({value.axis})"
        case _:
            return value


def number(value: float | int | bool) -> str:
    """Return a number, a real one to six digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, ".6g") if isinstance(value, float) else str(value)


def count(value: int) -> str:
    """Return an exact count, its digits in groups of three."""
    return f"{value:,}".replace(",", " ")


def byte_size(size: int) -> str:
    """Return bytes as `512 B`, `64.0 KB` or `1.5 MB`."""
    for unit, scale in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


def _bound(tree: Expression) -> tuple[str, int]:
    """Return an expression's text and how tightly its outermost operator binds."""
    if isinstance(tree, Leaf):
        text = operand(tree.operand)
        return text, 7 if text.startswith("-") else _ATOM
    row = POINTWISE[tree.operator]
    parts = [_bound(each) for each in tree.operands]
    if not row.precedence:
        return f"{row.symbol}({', '.join(text for text, _ in parts)})", _ATOM
    if row.arity == 1:
        space = " " if row.symbol.isalpha() else ""
        return f"{row.symbol}{space}{_bracketed(parts[0], row.precedence)}", row.precedence
    tighter = row.precedence + (tree.operator not in _GROUPS_LEFT)
    left = _bracketed(parts[0], row.precedence + (row.precedence in _GROUPS_NEITHER))
    return f"{left} {row.symbol} {_bracketed(parts[1], tighter)}", row.precedence


def _bracketed(part: tuple[str, int], least: int) -> str:
    text, precedence = part
    return text if precedence >= least else f"({text})"
