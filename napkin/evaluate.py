"""What a diagram means: boxes evaluated on whole arrays, slowly and plainly.

In: boxes, the values of their inputs (axes in the order of each box) and axis lengths. Out: the value of
every box asked for. It is the reference that bodies, Programs and kernels are held against, so it knows
nothing of tiles, streams or rewriting. `Arithmetic` is the array library; `NumpyArithmetic` computes in
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napkin.diagram import (
    Box,
    Constant,
    Diagram,
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
    implied_sizes,
    topological,
)
from napkin.language.errors import InternalError
from napkin.operators import POINTWISE, REDUCTIONS, Kind

Value = Any  # an array of the arithmetic's library
Stored = Callable[[int, Value], Value]


class Arithmetic(Protocol):
    """The array library that boxes are evaluated with; axes of an array are positions."""

    def constant(self, value: float | int | bool) -> Value:
        """Return a rank-0 array."""

    def arange(self, length: int) -> Value:
        """Return 0 .. length - 1."""

    def arrange(self, value: Value, order: Sequence[int | None]) -> Value:
        """Return the array with its axes in this order; None inserts an axis of length one."""

    def pointwise(self, operator: str, operands: Sequence[Value]) -> Value:
        """Apply a pointwise operator to arrays that broadcast."""

    def reduce(self, operator: str, value: Value, positions: tuple[int, ...]) -> Value:
        """Reduce over the positions."""

    def contract(self, factors: Sequence[tuple[Value, str]], result: str) -> Value:
        """Sum a product, einsum letters per factor."""

    def gather(self, array: Value, indices: Sequence[Value]) -> Value:
        """Index every axis of the array by index arrays that broadcast (clamped into range)."""


class NumpyArithmetic:
    """NumPy, floats in float64."""

    def constant(self, value: float | int | bool) -> Value:
        """Return a rank-0 array."""
        return np.asarray(value)

    def arange(self, length: int) -> Value:
        """Return 0 .. length - 1."""
        return np.arange(length)

    def arrange(self, value: Value, order: Sequence[int | None]) -> Value:
        """Return the array with its axes in this order; None inserts an axis of length one."""
        moved = np.transpose(value, [each for each in order if each is not None])
        return np.expand_dims(moved, tuple(i for i, each in enumerate(order) if each is None))

    def pointwise(self, operator: str, operands: Sequence[Value]) -> Value:
        """Apply a pointwise operator to arrays that broadcast."""
        return np.asarray(POINTWISE[operator].numpy(*operands))

    def reduce(self, operator: str, value: Value, positions: tuple[int, ...]) -> Value:
        """Reduce over the positions; an empty axis gives the unit."""
        row = REDUCTIONS[operator]
        if operator in ("any", "all"):
            return row.numpy(value, axis=positions)
        if np.issubdtype(value.dtype, np.integer) and np.isinf(row.unit):
            value = value.astype(np.float64)  # an integer type has no infinity to start from
        return row.numpy(value, axis=positions, initial=row.unit)

    def contract(self, factors: Sequence[tuple[Value, str]], result: str) -> Value:
        """Sum a product, einsum letters per factor."""
        terms = ",".join(letters for _, letters in factors)
        with np.errstate(all="ignore"):
            return np.einsum(f"{terms}->{result}", *(value for value, _ in factors), optimize=True)

    def gather(self, array: Value, indices: Sequence[Value]) -> Value:
        """Index every axis of the array by index arrays that broadcast (clamped into range)."""
        limits = array.shape
        bounded = [np.clip(i, 0, max(n - 1, 0)) for i, n in zip(indices, limits, strict=True)]
        return array[tuple(bounded)]


def evaluate(
    graph: Graph | Sequence[Box],
    roots: Iterable[int],
    inputs: Mapping[str, Value],
    sizes: Mapping[str, int],
    *,
    states: Mapping[tuple[str, str], Value] | None = None,
    indices: Mapping[str, Value] | None = None,
    whole: Mapping[str, Value] | None = None,
    edges: Mapping[tuple[str, str], int] | None = None,
    arithmetic: Arithmetic | None = None,
    stored: Stored | None = None,
) -> dict[int, Value]:
    """Return the value of every box that the roots need.

    `inputs` maps a name to its array with axes in the order of the Input box (composite dims opened);
    `states` maps (name, version) likewise. To evaluate on a chunk of an axis, slice the inputs, give the
    chunk's index array in `indices`, keep the whole length in `sizes`, and give the unsliced arrays that
    are read by position in `whole`. What others read of a box is what `stored` makes of its value.
    """
    library = arithmetic or NumpyArithmetic()
    values: dict[int, Value] = {}
    for each in topological(graph, roots):
        box = graph[each]
        match box:
            case Input():
                values[each] = inputs[box.name]
            case State():
                values[each] = (states or {})[box.name, box.version]
            case Edge():
                values[each] = library.constant((edges or {})[box.axis, box.end])
            case Extreme():
                everything = range(len(graph[box.operand].axes))
                values[each] = library.reduce(
                    "min" if box.end == "least" else "max", values[box.operand], tuple(everything)
                )
            case Constant():
                values[each] = library.constant(box.value)
            case Index():
                override = (indices or {}).get(box.axis)
                values[each] = library.arange(sizes[box.axis]) if override is None else override
            case Size():
                values[each] = library.constant(sizes[box.axis])
            case Pointwise():
                aligned = [
                    _align(library, values[i], graph[i].axes, box.axes) for i in box.operands
                ]
                values[each] = library.pointwise(box.operator, aligned)
            case Reduce():
                values[each] = _reduce(library, graph, box, values)
            case Gather():
                positions = [
                    _align(library, values[i], graph[i].axes, box.axes) for i in box.indices
                ]
                array = graph[box.array]
                assert isinstance(array, Input)
                source = (whole or {}).get(array.name)
                read = values[box.array] if source is None else source
                values[each] = library.gather(read, positions)
        if stored is not None:
            values[each] = stored(each, values[each])
    return values


def _align(
    library: Arithmetic, value: Value, axes: tuple[str, ...], target: tuple[str, ...]
) -> Value:
    if axes == target:
        return value
    return library.arrange(value, [axes.index(axis) if axis in axes else None for axis in target])


def _reduce(
    library: Arithmetic, graph: Graph | Sequence[Box], box: Reduce, values: Mapping[int, Value]
) -> Value:
    if len(box.operands) == 1:
        operand = graph[box.operands[0]]
        positions = tuple(operand.axes.index(axis) for axis in box.over)
        reduced = library.reduce(box.operator, values[box.operands[0]], positions)
        left = tuple(axis for axis in operand.axes if axis not in box.over)
        return _align(library, reduced, left, box.axes)
    if box.operator != "sum":
        raise InternalError(f"a product under {box.operator}")
    letters: dict[str, str] = {}
    for i in box.operands:
        for axis in graph[i].axes:
            letters.setdefault(axis, chr(ord("a") + len(letters)))
    factors = [(values[i], "".join(letters[axis] for axis in graph[i].axes)) for i in box.operands]
    return library.contract(factors, "".join(letters[axis] for axis in box.axes))


def open_dims(value: Value, dims: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> Value:
    """Return an argument's array with its composite dims opened into their axes."""
    return value.reshape([sizes[axis] for dim in dims for axis in dim])


def axis_sizes(diagram: Diagram, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return every axis's length from the arguments' shapes (one number a dim).

    Raises ValueError, with the dim named, where shapes disagree or do not divide.
    """
    sizes: dict[str, int] = {}
    pending = [
        (argument.name, dim, shapes[argument.name][position])
        for argument in diagram.arguments
        for position, dim in enumerate(argument.dims)
    ]
    while pending:
        rest = []
        for name, dim, length in pending:
            unknown = [axis for axis in dim if axis not in sizes]
            known = prod(sizes[axis] for axis in dim if axis in sizes)
            if len(unknown) > 1:
                rest.append((name, dim, length))
                continue
            if unknown:
                sizes[unknown[0]] = length // known if known else 0
                known *= sizes[unknown[0]]
            if known != length:
                raise ValueError(
                    f"`{name}` has {length} along `{' '.join(dim)}`, which should be {known}"
                )
        if len(rest) == len(pending):
            raise InternalError("an axis has no length")
        pending = rest
    for axis, implied in implied_sizes(diagram).items():
        sizes[axis] = implied.length(sizes)
    return sizes


def reference(
    diagram: Diagram,
    arrays: Mapping[str, npt.ArrayLike],
    arithmetic: Arithmetic | None = None,
    stored: Stored | None = None,
) -> dict[str, Value]:
    """Return every output of a diagram, memory order and composite dims as in its signature.

    Arrays are taken as they are; pass float64 ones for a float64 reference. `stored` is as in `evaluate`.
    """
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    sizes = axis_sizes(diagram, shapes)
    opened: dict[str, Value] = {}
    for argument in diagram.arguments:
        value = arrays[argument.name]
        if arithmetic is None:
            value = np.asarray(value)
            if argument.kind is Kind.FLOAT:
                value = value.astype(np.float64)
        opened[argument.name] = open_dims(value, argument.dims, sizes)
    library = arithmetic or NumpyArithmetic()
    roots = [output.box for output in diagram.outputs]
    values = evaluate(diagram.boxes, roots, opened, sizes, arithmetic=library, stored=stored)
    results: dict[str, Value] = {}
    for output in diagram.outputs:
        whole = _align(library, values[output.box], diagram.boxes[output.box].axes, output.axes)
        shape = [prod(sizes[axis] for axis in dim) for dim in output.dims]
        results[output.name] = whole.reshape(shape)
    return results
