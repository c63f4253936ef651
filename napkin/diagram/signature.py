"""A diagram: its signature, boxes, sizes and relabellings by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

from napkin.diagram.boxes import (
    SCALAR_TYPES,
    STORAGE_TYPES,
    Box,
    Constant,
    Gather,
    Index,
    Pointwise,
    Reduce,
    Size,
)
from napkin.language.source import NOWHERE, Source, Span
from napkin.operators import Kind


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
    """A result: its name, dims in memory order, the box that gives it; `dtype` None for the inputs' type.

    `added` are axes that its box sums, and whose parts of the sum are added up in memory, in no fixed order:
    a kernel may then be grouped over them.
    """

    name: str
    dims: tuple[tuple[str, ...], ...]
    dtype: str | None
    box: int
    span: Span = field(default=NOWHERE, compare=False)
    added: tuple[str, ...] = ()

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
            if isinstance(item, Size):
                seen[item.axis] = None
        return tuple(seen)

    def argument(self, name: str) -> Argument:
        """Return the argument of that name."""
        return next(each for each in self.arguments if each.name == name)

    def __str__(self) -> str:
        from napkin.diagram.printing import print_diagram  # which reads diagrams

        return print_diagram(self)


def storage_types(diagram: Diagram, dtype: str) -> dict[str, str]:
    """Return every array's storage type: its own, or `dtype` for rank two and more and fp32 for the rest."""
    types: dict[str, str] = {}
    for each in diagram.arguments:
        types[each.name] = each.dtype or (dtype if len(each.dims) > 1 else "fp32")
    for output in diagram.outputs:
        kind = diagram.boxes[output.box].kind
        default = {Kind.INT: "int64", Kind.BOOL: "bool"}.get(
            kind, dtype if len(output.dims) > 1 else "fp32"
        )
        types[output.name] = output.dtype or default
    return types


@dataclass(frozen=True, slots=True)
class Implied:
    """A length that follows from those of other axes: their product, a number of times."""

    axes: tuple[str, ...]
    count: int = 1

    def length(self, lengths: Mapping[str, int]) -> int:
        """Return the length, where those of the other axes are known."""
        return prod(lengths[axis] for axis in self.axes) * self.count

    @property
    def is_bare(self) -> bool:
        """Whether it is the length of one other axis."""
        return len(self.axes) == self.count == 1


def implied_sizes(diagram: Diagram) -> dict[str, Implied]:
    """Return the axes that no argument carries and whose length a read implies.

    `K[page[b, x // 16], x % 16, k, d]` with `page[b n]` gives `{"x": Implied(("n",), 16)}`: x is 16 times as
    long as n. `page[r // size(n), r % size(n)]` makes r as long as b and n together. A bare label,
    `H[b, q, d]` with `H[b t d]`, gives `{"q": Implied(("t",))}`. A bare label decides before a count, and of
    several reads the first.
    """
    carried = {axis for argument in diagram.arguments for axis in argument.axes}
    found: dict[str, Implied] = {}
    for box in diagram.boxes:
        if not isinstance(box, Gather):
            continue
        for read, index in zip(diagram.boxes[box.array].axes, box.indices, strict=True):
            walked = _walked_axis(diagram, diagram.boxes[index])
            if walked is not None and walked[0] not in carried:
                axis, steps = walked
                bare, known = isinstance(diagram.boxes[index], Index), axis in found
                if not known or (bare and not found[axis].is_bare):
                    found[axis] = replace(steps, axes=(read, *steps.axes))
    return found


def _walked_axis(diagram: Diagram, index: Box) -> tuple[str, Implied] | None:
    """Return an axis and what is a step of it, if an index walks an array once in such steps."""
    if isinstance(index, Index):
        return index.axis, Implied(())
    if isinstance(index, Pointwise) and index.operator == "floordiv":
        axis, count = (diagram.boxes[each] for each in index.operands)
        steps = _steps(diagram, count)
        if isinstance(axis, Index) and steps is not None:
            return axis.axis, steps
    return None


def _steps(diagram: Diagram, count: Box) -> Implied | None:
    """Return a product of lengths and a whole number, None for what is none."""
    if isinstance(count, Constant) and count.value > 0:
        return Implied((), int(count.value))
    if isinstance(count, Size):
        return Implied((count.axis,))
    if isinstance(count, Pointwise) and count.operator == "mul":
        one, other = (_steps(diagram, diagram.boxes[each]) for each in count.operands)
        if one is not None and other is not None:
            return Implied((*one.axes, *other.axes), one.count * other.count)
    return None
