"""The syntax tree: what a napkin file says, before anything is judged.

In: nothing; `parse` builds these nodes. Out: frozen nodes that hold the text's own words, each
with its span. The sets are closed: `Expression` and `Clause` are unions walked by `match`.

Deliberately absent: meaning. A call may be an operator, a reduction, a definition or a diagram,
and a name an array or an axis; `check` decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from napkin.language.source import Span

# --- names and signatures -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identifier:
    """A name where it stands."""

    span: Span
    name: str


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension in memory: an axis, or several in brackets, `(k g)`."""

    span: Span
    axes: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument or an output: `Q[b (k g) q d]: bf16`, or a scalar, `cap: float`."""

    span: Span
    name: Identifier
    dims: tuple[Dim, ...]
    dtype: Identifier | None

    @property
    def axes(self) -> tuple[Identifier, ...]:
        """Every axis in memory order, composite dims opened."""
        return tuple(axis for dim in self.dims for axis in dim.axes)


# --- expressions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, a truth value or `inf`."""

    span: Span
    value: float | int | bool


@dataclass(frozen=True, slots=True)
class Reference:
    """A bare name: an array, or the index of an axis."""

    span: Span
    name: str


@dataclass(frozen=True, slots=True)
class Element:
    """An array read at positions: `K[page[b, x // 16], x % 16, k, d]`."""

    span: Span
    array: Identifier
    indices: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function applied: `exp(s)`, `softmax[x](S)`, `attention(Q, K, V)`."""

    span: Span
    function: Identifier
    axes: tuple[Identifier, ...]
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Unary:
    """A prefix operator, by its symbol."""

    span: Span
    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary:
    """An infix operator, by its symbol."""

    span: Span
    operator: str
    left: Expression
    right: Expression


Expression = Literal | Reference | Element | Call | Unary | Binary


def children(expression: Expression) -> tuple[Expression, ...]:
    """Return the expressions right below one."""
    match expression:
        case Element():
            return expression.indices
        case Call():
            return expression.arguments
        case Unary():
            return (expression.operand,)
        case Binary():
            return (expression.left, expression.right)
        case _:
            return ()


def walk(expression: Expression) -> Iterator[tuple[Expression, int]]:
    """Yield every expression in a tree, left to right, with its depth; no recursion."""
    stack = [(expression, 1)]
    while stack:
        each, depth = stack.pop()
        yield each, depth
        stack += [(child, depth + 1) for child in reversed(children(each))]


# --- lines ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """The line that opens a diagram."""

    span: Span
    name: Identifier
    arguments: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """An assignment: `S[b h q x] = ...`; a scalar has no dims.

    `value` is None where the line could not be read: its target is then known, its value is not.
    """

    span: Span
    target: Identifier
    dims: tuple[Dim, ...]
    value: Expression | None

    @property
    def axes(self) -> tuple[Identifier, ...]:
        """Every axis of the left side, composite dims opened."""
        return tuple(axis for dim in self.dims for axis in dim.axes)


@dataclass(frozen=True, slots=True)
class Definition:
    """`def softmax[x](s) = ...`."""

    span: Span
    name: Identifier
    axes: tuple[Identifier, ...]
    parameters: tuple[Identifier, ...]
    body: Expression


@dataclass(frozen=True, slots=True)
class AxisSize:
    """`q=4096` of a `sizes` line."""

    span: Span
    axis: Identifier
    size: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """A `sizes` line."""

    span: Span
    sizes: tuple[AxisSize, ...]


@dataclass(frozen=True, slots=True)
class Tiles:
    """`b h by 1`."""

    span: Span
    axes: tuple[Identifier, ...]
    tile: int


@dataclass(frozen=True, slots=True)
class Tilings:
    """A `group`, `stream` or `split` line."""

    span: Span
    word: str
    tilings: tuple[Tiles, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """`at shared: Q, K, V`."""

    span: Span
    level: Identifier
    names: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """`warps 8` or `stages 2`."""

    span: Span
    word: str
    count: int


Clause = Tilings | Place | Count


@dataclass(frozen=True, slots=True)
class On:
    """An `on` line; its clauses follow on lines of their own."""

    span: Span
    machine: Identifier


Line = Head | Statement | Definition | Sizes | On | Clause


# --- the whole ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OnBlock:
    """A machine with its clauses."""

    span: Span
    machine: Identifier
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class DiagramText:
    """One diagram as written. `whole` is False where a line of it could not be read."""

    span: Span
    head: Head
    statements: tuple[Statement, ...]
    sizes: tuple[AxisSize, ...]
    blocks: tuple[OnBlock, ...]
    comment: str
    whole: bool


@dataclass(frozen=True, slots=True)
class File:
    """A file: its definitions and diagrams, each in the order written.

    `lost` names what unreadable lines would have defined, so that their users stay silent.
    """

    span: Span
    definitions: tuple[Definition, ...]
    diagrams: tuple[DiagramText, ...]
    lost: frozenset[str] = frozenset()
