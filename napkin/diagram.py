"""The typed diagram: arrays of labelled axes, boxes, woven axes. It knows no machine.

In: boxes made through a `Graph`, which gives one id to equal boxes (hash-consing). Out: `Diagram`, an
immutable list of boxes in dependency order, with its signature, outputs, sizes and hand relabellings.
`print_diagram` gives a listing in single-assignment form that is itself a napkin file: parsing it gives
an equal diagram. `verify` checks every invariant and is run after every stage that makes one.

Notation: paper sections 2 and 3. An operand that lacks an axis of its box is woven (broadcast) over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isinf

from napkin.language.errors import InternalError
from napkin.language.source import NOWHERE, Source, Span
from napkin.operators import POINTWISE, REDUCTIONS, Kind, result_kind

STORAGE_TYPES: dict[str, Kind] = {
    "bf16": Kind.FLOAT,
    "fp16": Kind.FLOAT,
    "fp32": Kind.FLOAT,
    "fp64": Kind.FLOAT,
    "fp8e4m3": Kind.FLOAT,
    "fp8e5m2": Kind.FLOAT,
    "int8": Kind.INT,
    "int32": Kind.INT,
    "int64": Kind.INT,
    "bool": Kind.BOOL,
}
SCALAR_TYPES: dict[str, Kind] = {"int": Kind.INT, "float": Kind.FLOAT}


# --- boxes: a closed set, walked by `match` -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Input:
    """An argument, as a whole array (its axes in memory order) or a scalar (no axes)."""

    name: str
    axes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class State:
    """The value of a stream's state variable, before (`old`) or after (`new`) a step; only in derivations."""

    name: str
    version: str
    axes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Edge:
    """The `first` or `last` index of an axis inside the tile at hand; only in derivations."""

    axis: str
    end: str
    kind: Kind = Kind.INT
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, infinity or a truth value."""

    value: float | int | bool
    kind: Kind
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """The index array of one axis: 0, 1, .. size - 1."""

    axis: str
    kind: Kind = Kind.INT

    @property
    def axes(self) -> tuple[str, ...]:
        """The one axis."""
        return (self.axis,)


@dataclass(frozen=True, slots=True)
class Size:
    """The length of an axis."""

    axis: str
    kind: Kind = Kind.INT
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pointwise:
    """An operator woven over the union of its operands' axes."""

    operator: str
    operands: tuple[int, ...]
    axes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction of the product of its operands over some axes; with two factors or more, a contraction."""

    operator: str
    operands: tuple[int, ...]
    over: tuple[str, ...]
    axes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Gather:
    """An argument read at computed positions, one index box for each axis of the argument."""

    array: int
    indices: tuple[int, ...]
    axes: tuple[str, ...]
    kind: Kind


Box = Input | State | Edge | Constant | Index | Size | Pointwise | Reduce | Gather
Leaf = (Input, State, Edge, Constant, Index, Size)


def operands_of(box: Box) -> tuple[int, ...]:
    """Return the ids that a box reads."""
    match box:
        case Pointwise() | Reduce():
            return box.operands
        case Gather():
            return (box.array, *box.indices)
        case _:
            return ()


# --- signature ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter of a diagram: dims in memory order, outermost first; a composite dim lists several axes.

    `dtype` is a storage type, `int` or `float` for a typed scalar, None for the caller's type.
    """

    name: str
    dims: tuple[tuple[str, ...], ...]
    dtype: str | None
    span: Span = field(default=NOWHERE, compare=False)

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis in memory order, composite dims opened."""
        return tuple(axis for dim in self.dims for axis in dim)

    @property
    def kind(self) -> Kind:
        """The kind its elements have when computed with."""
        if self.dtype is None:
            return Kind.FLOAT
        return (STORAGE_TYPES | SCALAR_TYPES)[self.dtype]


@dataclass(frozen=True, slots=True)
class Output:
    """A result: its name, dims in memory order, the box that gives it; `dtype` None for the inputs' type."""

    name: str
    dims: tuple[tuple[str, ...], ...]
    dtype: str | None
    box: int
    span: Span = field(default=NOWHERE, compare=False)

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis in memory order, composite dims opened."""
        return tuple(axis for dim in self.dims for axis in dim)


@dataclass(frozen=True, slots=True)
class Tiling:
    """One phrase of an `on` block: these axes by this tile."""

    axes: tuple[str, ...]
    tile: int
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Placement:
    """`at LEVEL: names` of an `on` block."""

    level: str
    names: tuple[str, ...]
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Relabelling:
    """A relabelling by hand for one machine; what is left out is derived.

    `split` names axes that are walked in chunks inside a step (the paper's sub-loop, u_a).
    """

    machine: str
    group: tuple[Tiling, ...] = ()
    stream: tuple[Tiling, ...] = ()
    split: tuple[Tiling, ...] = ()
    placements: tuple[Placement, ...] = ()
    warps: int | None = None
    stages: int | None = None
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Diagram:
    """A whole diagram: `names[i]` is box i's single-assignment name, `spans[i]` its place in `source`."""

    name: str
    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    boxes: tuple[Box, ...]
    names: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...] = ()
    relabellings: tuple[Relabelling, ...] = ()
    comment: str = field(default="", compare=False)
    spans: tuple[Span, ...] = field(default=(), compare=False, repr=False)
    source: Source | None = field(default=None, compare=False, repr=False)

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis, in order of first appearance in the signature, then in the boxes."""
        seen: dict[str, None] = {}
        for item in (*self.arguments, *self.outputs, *self.boxes):
            seen |= dict.fromkeys(item.axes)
            if isinstance(item, Reduce):
                seen |= dict.fromkeys(item.over)
        return tuple(seen)

    def argument(self, name: str) -> Argument:
        """Return the argument of that name."""
        return next(each for each in self.arguments if each.name == name)

    def __str__(self) -> str:
        return print_diagram(self)


def implied_sizes(diagram: Diagram) -> dict[str, tuple[str, int]]:
    """Return the axes that no argument carries and whose length a read implies.

    `K[page[b, x // 16], x % 16, k, d]` with `page[b n]` gives `{"x": ("n", 16)}`: x is 16 times as long as
    n. A bare label, `H[b, q, d]` with `H[b t d]`, gives `{"q": ("t", 1)}`. The first read decides.
    """
    carried = {axis for argument in diagram.arguments for axis in argument.axes}
    found: dict[str, tuple[str, int]] = {}
    for box in diagram.boxes:
        if not isinstance(box, Gather):
            continue
        for read, index in zip(diagram.boxes[box.array].axes, box.indices, strict=True):
            walked = _walked_axis(diagram, diagram.boxes[index])
            if walked is not None and walked[0] not in carried:
                found.setdefault(walked[0], (read, walked[1]))
    return found


def _walked_axis(diagram: Diagram, index: Box) -> tuple[str, int] | None:
    """Return (axis, count) if an index walks an array once in steps of `count` of the axis."""
    if isinstance(index, Index):
        return index.axis, 1
    if isinstance(index, Pointwise) and index.operator == "floordiv":
        axis, count = (diagram.boxes[each] for each in index.operands)
        if isinstance(axis, Index) and isinstance(count, Constant) and count.value > 0:
            return axis.axis, int(count.value)
    return None


# --- building -------------------------------------------------------------------------------------


class Graph:
    """A growing list of boxes in which equal boxes have one id."""

    def __init__(self, boxes: Iterable[Box] = ()) -> None:
        self.boxes: list[Box] = []
        self._ids: dict[tuple[type, Box], int] = {}
        for box in boxes:
            self.boxes.append(box)
            self._ids.setdefault(_identity(box), len(self.boxes) - 1)

    def __getitem__(self, box: int) -> Box:
        return self.boxes[box]

    def __len__(self) -> int:
        return len(self.boxes)

    def add(self, box: Box) -> int:
        """Return the id of the box, a new one only if no equal box is there."""
        key = _identity(box)
        if key not in self._ids:
            self._ids[key] = len(self.boxes)
            self.boxes.append(box)
        return self._ids[key]

    def constant(self, value: float | int | bool) -> int:
        """Add a number or truth value."""
        kind = {bool: Kind.BOOL, int: Kind.INT}.get(type(value), Kind.FLOAT)
        return self.add(Constant(value, kind))

    def pointwise(self, operator: str, *operands: int) -> int:
        """Add a pointwise box; its axes are the longest operand's, then what the others add."""
        boxes = [self.boxes[each] for each in operands]
        axes = join_axes([box.axes for box in boxes])
        row = POINTWISE[operator]
        kinds = tuple(box.kind for box in boxes)
        return self.add(Pointwise(operator, operands, axes, result_kind(row, kinds)))

    def reduce(self, operator: str, operands: Sequence[int], over: Sequence[str]) -> int:
        """Add a reduction of the operands' product over the axes (which the product must carry)."""
        boxes = [self.boxes[each] for each in operands]
        axes = tuple(a for a in join_axes([box.axes for box in boxes]) if a not in over)
        kind = max((box.kind for box in boxes), key=[Kind.BOOL, Kind.INT, Kind.FLOAT].index)
        return self.add(Reduce(operator, tuple(operands), tuple(over), axes, kind))

    def gather(self, array: int, indices: Sequence[int]) -> int:
        """Add a read of an argument at computed positions."""
        axes = join_axes([self.boxes[each].axes for each in indices])
        return self.add(Gather(array, tuple(indices), axes, self.boxes[array].kind))


def _identity(box: Box) -> tuple[type, Box]:
    # 1 == 1.0 == True in Python: the value's own type keeps such constants apart.
    return (type(box.value) if isinstance(box, Constant) else type(box), box)


def join_axes(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the union of axis lists: the longest first (the earliest of equals), then what others add."""
    if not lists:
        return ()
    longest = max(lists, key=len)
    return tuple(dict.fromkeys((*longest, *(axis for axes in lists for axis in axes))))


def topological(graph: Graph | Sequence[Box], roots: Iterable[int]) -> list[int]:
    """Return every box that the roots need, operands first, in a deterministic order, without recursion."""
    done: dict[int, None] = {}
    for root in roots:
        stack = [(root, False)]
        while stack:
            box, ready = stack.pop()
            if box in done:
                continue
            if ready:
                done[box] = None
                continue
            stack.append((box, True))
            stack += [(each, False) for each in reversed(operands_of(graph[box]))]
    return list(done)


def substitute(graph: Graph, roots: Sequence[int], replacement: Mapping[int, int]) -> list[int]:
    """Rebuild the roots with some boxes replaced (replacements are taken as they are); return the new ids."""
    new: dict[int, int] = dict(replacement)
    pending = [(root, False) for root in reversed(roots)]
    while pending:
        each, ready = pending.pop()
        if each in new:
            continue
        box = graph[each]
        if not ready:
            pending.append((each, True))
            pending += [(child, False) for child in reversed(operands_of(box)) if child not in new]
            continue
        children = tuple(new[child] for child in operands_of(box))
        new[each] = each if children == operands_of(box) else _rebuild(graph, box, children)
    return [new[root] for root in roots]


def _rebuild(graph: Graph, box: Box, children: tuple[int, ...]) -> int:
    match box:
        case Pointwise():
            return graph.pointwise(box.operator, *children)
        case Reduce():
            return graph.reduce(box.operator, children, box.over)
        case Gather():
            return graph.gather(children[0], children[1:])
        case _:
            raise InternalError(f"a leaf box has operands: {box}")


# --- printing -------------------------------------------------------------------------------------


def print_diagram(diagram: Diagram) -> str:
    """Return the single-assignment listing, itself a napkin file."""
    lines = [_header(diagram)]
    for each, box in enumerate(diagram.boxes):
        if not isinstance(box, Leaf):
            lines.append(
                f"    {diagram.names[each]}[{' '.join(box.axes)}] = {_right(diagram, box)}"
            )
    for output in diagram.outputs:
        # An output that is itself a leaf, or a second name of one box, still needs its line.
        if diagram.names[output.box] != output.name:
            axes = " ".join(output.axes)
            lines.append(f"    {output.name}[{axes}] = {_operand(diagram, output.box)}")
    if diagram.sizes:
        lines += ["", "sizes " + " ".join(f"{axis}={size}" for axis, size in diagram.sizes)]
    for relabelling in diagram.relabellings:
        lines += ["", *_print_relabelling(relabelling)]
    return "\n".join(lines) + "\n"


def print_dims(dims: Sequence[Sequence[str]]) -> str:
    """Return dims as they are written: `b (k g) q d`."""
    return " ".join(dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in dims)


def _header(diagram: Diagram) -> str:
    arguments = ", ".join(_print_argument(each) for each in diagram.arguments)
    outputs = ", ".join(_print_argument(each) for each in diagram.outputs)
    return f"diagram {diagram.name}({arguments}) -> {outputs}"


def _print_argument(argument: Argument | Output) -> str:
    dtype = f": {argument.dtype}" if argument.dtype else ""
    if not argument.dims and argument.dtype in SCALAR_TYPES:
        return f"{argument.name}{dtype}"
    return f"{argument.name}[{print_dims(argument.dims)}]{dtype}"


def _right(diagram: Diagram, box: Box) -> str:
    match box:
        case Pointwise():
            return print_call(box.operator, [_operand(diagram, each) for each in box.operands])
        case Reduce():
            product = " * ".join(_operand(diagram, each) for each in box.operands)
            return f"{box.operator}[{' '.join(box.over)}]({product})"
        case Gather():
            indices = ", ".join(_operand(diagram, each) for each in box.indices)
            return f"{diagram.names[box.array]}[{indices}]"
        case _:
            raise InternalError(f"a leaf has no right side: {box}")


def print_call(operator: str, operands: Sequence[str]) -> str:
    """Return one operator applied to atoms, as the language writes it."""
    row = POINTWISE[operator]
    if not row.precedence:
        return f"{row.symbol}({', '.join(operands)})"
    if row.arity == 1:
        space = " " if row.symbol.isalpha() else ""
        return f"{row.symbol}{space}{operands[0]}"
    return f"{operands[0]} {row.symbol} {operands[1]}"


def _operand(diagram: Diagram, each: int) -> str:
    box = diagram.boxes[each]
    match box:
        case Constant():
            return print_constant(box.value)
        case Index():
            return box.axis
        case Size():
            return f"size({box.axis})"
        case _:
            return diagram.names[each]


def print_constant(value: float | int | bool) -> str:
    """Return a constant as the language writes it; a negative number in brackets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and isinf(value):
        return "inf" if value == inf else "(-inf)"
    return repr(value) if value >= 0 else f"({value!r})"


def _print_relabelling(relabelling: Relabelling) -> list[str]:
    lines = [f"on {relabelling.machine}"]
    for word in ("group", "stream", "split"):
        tilings: tuple[Tiling, ...] = getattr(relabelling, word)
        if tilings:
            phrases = ", ".join(f"{' '.join(each.axes)} by {each.tile}" for each in tilings)
            lines.append(f"    {word} {phrases}")
    for placement in relabelling.placements:
        lines.append(f"    at {placement.level}: {', '.join(placement.names)}")
    for word, count in (("warps", relabelling.warps), ("stages", relabelling.stages)):
        if count is not None:
            lines.append(f"    {word} {count}")
    return lines


# --- verifying ------------------------------------------------------------------------------------


def verify(diagram: Diagram) -> Diagram:
    """Return the diagram if every invariant holds; raise InternalError otherwise."""
    if len(diagram.names) != len(diagram.boxes):
        raise InternalError("names and boxes differ in number")
    for each, box in enumerate(diagram.boxes):
        if any(operand >= each for operand in operands_of(box)):
            raise InternalError(f"box {each} reads a later box")
        if len(set(box.axes)) != len(box.axes):
            raise InternalError(f"box {each} repeats an axis")
        _verify_axes(diagram, box)
    for output in diagram.outputs:
        if set(output.axes) != set(diagram.boxes[output.box].axes):
            raise InternalError(f"output {output.name} differs from its box in axes")
    return diagram


def _verify_axes(diagram: Diagram, box: Box) -> None:
    read = {axis for each in operands_of(box) for axis in diagram.boxes[each].axes}
    match box:
        case Pointwise():
            good = set(box.axes) == read and len(box.operands) == POINTWISE[box.operator].arity
        case Reduce():
            good = set(box.axes) == read - set(box.over) and set(box.over) <= read
            good = good and box.operator in REDUCTIONS
            good = good and (len(box.operands) == 1 or box.operator == "sum")
        case Gather():
            indexed = {axis for each in box.indices for axis in diagram.boxes[each].axes}
            array = diagram.boxes[box.array]
            good = set(box.axes) == indexed and isinstance(array, Input)
            good = good and len(box.indices) == len(array.axes)
        case State() | Edge():
            good = False
        case _:
            good = True
    if not good:
        raise InternalError(f"axes do not fit: {box}")
