"""How axes become tiles: the part of a plan that lowering needs.

In: a derivation, axis lengths and a tile for every axis. Out: a `Layout`: each axis's role and dim, the dims
(grouped axes that always travel together share one), the arrays with their storage types, which of them go
through shared memory, and by which path they travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from napkin.algebra.derive import Derivation
from napkin.diagram import (
    SCALAR_TYPES,
    STORAGE_BYTES,
    Diagram,
    Gather,
    Graph,
    Input,
    Reduce,
    topological,
)
from napkin.operators import Kind
from napkin.schedule.program import Array, AxisRole, AxisTile, Dim, Path

TYPE_BYTES = STORAGE_BYTES
MAX_DESCRIPTOR_RANK = 5
MAX_DESCRIPTOR_EXTENT = 256
MIN_DESCRIPTOR_BYTES = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """Axes, dims and arrays as tiles see them; `grid` lists the grouped axes, fastest first."""

    axes: tuple[AxisTile, ...]
    dims: tuple[Dim, ...]
    arrays: tuple[Array, ...]
    outputs: tuple[Array, ...]
    grid: tuple[str, ...]
    shared: frozenset[str]
    descriptors: bool
    stages: int

    def bytes_of(self, dtype: str) -> int:
        """Return the bytes of one element of a storage type."""
        return TYPE_BYTES[dtype]

    def path(self, array: Array, indices: Sequence[str], gathered: Sequence[bool]) -> Path:
        """Return how a tile of an array travels: by descriptor where the hardware's box can hold it."""
        if not self.descriptors or any(gathered) or len(array.axes) > MAX_DESCRIPTOR_RANK:
            return Path.POINTER
        if array.name not in self.shared or tuple(indices) != array.axes or not array.axes:
            return Path.POINTER
        tiles = [self._tile(axis) for axis in array.axes]
        if any(tile > MAX_DESCRIPTOR_EXTENT for tile in tiles):
            return Path.POINTER
        if tiles[-1] * self.bytes_of(array.dtype) < MIN_DESCRIPTOR_BYTES:
            return Path.POINTER
        return Path.DESCRIPTOR if self._has_own_dims(array) else Path.POINTER

    def _tile(self, axis: str) -> int:
        each = next(each for each in self.axes if each.axis == axis)
        return each.tile

    def _has_own_dims(self, array: Array) -> bool:
        """Return whether every axis with a dim has it alone.

        Axes side by side in one dim would make the copy's box a reshape of the tile, which Triton 3.6 has
        been seen to miscompile (an illegal address for 16 x 4 rows beside 32 columns); pointers are as fast
        for what is loaded once.
        """
        shared = {axis for dim in self.dims if len(dim.axes) > 1 for axis in dim.axes}
        return not shared & set(array.axes)


# --- contractions and what they say of the axes ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contraction:
    """A sum of a product: the axes of each factor, and the axes summed."""

    factors: tuple[frozenset[str], ...]
    over: frozenset[str]

    def is_free(self, axis: str) -> bool:
        """Return whether some factor carries the axis and another, that has axes to share, does not."""
        rich = [axes for axes in self.factors if axes]
        return any(axis in axes for axes in rich) and any(
            axis not in axes and axes - self.over for axes in rich
        )


def contractions(derivation: Derivation) -> tuple[Contraction, ...]:
    """Return every contraction of the body, the prologue and the tail, in order."""
    graph = derivation.graph
    found: list[Contraction] = []
    roots: list[int] = []
    if derivation.stream is not None:
        for each in derivation.stream.folds:
            roots += each.factors
            if each.operator == "sum" and len(each.factors) > 1:
                found.append(_contraction(graph, each.factors, each.over))
        roots += [box for _, box in derivation.stream.tail]
        roots += [box for one in derivation.stream.passes for _, box in one.stores]
    else:
        roots += list(derivation.outputs)
    for each_box in topological(graph, roots):
        box = graph[each_box]
        if isinstance(box, Reduce) and box.operator == "sum" and len(box.operands) > 1:
            found.append(_contraction(graph, box.operands, box.over))
    return tuple(found)


def _contraction(graph: Graph, factors: Sequence[int], over: Sequence[str]) -> Contraction:
    return Contraction(tuple(frozenset(graph[f].axes) for f in factors), frozenset(over))


def dot_axes(derivation: Derivation) -> frozenset[str]:
    """Return the axes that take part in a contraction of two sides with free axes each."""
    found: set[str] = set()
    for each in contractions(derivation):
        free = [axes - each.over for axes in each.factors if axes - each.over]
        if len(free) > 1 and any(a - b for a in free for b in free):
            found |= {axis for axes in each.factors for axis in axes}
    return frozenset(found)


def free_axes(derivation: Derivation) -> tuple[str, ...]:
    """Return the grouped axes over which some operand of a contraction is reused, in output order."""
    known = contractions(derivation)
    return tuple(a for a in derivation.group if any(each.is_free(a) for each in known))


def bundles(derivation: Derivation) -> tuple[tuple[str, ...], ...]:
    """Return the free grouped axes, those that always travel together side by side.

    Axes that no contraction misses, since another one of the same side is there, are taken one by one.
    """
    known = contractions(derivation)
    groups: list[list[str]] = []
    for axis in free_axes(derivation):
        for group in groups:
            if _travel_together(axis, group[0], known):
                group.append(axis)
                break
        else:
            groups.append([axis])
    needed = tuple(tuple(group) for group in groups if _is_a_side(group, known))
    return needed or tuple(tuple(group) for group in groups)


def _is_a_side(group: Sequence[str], known: Sequence[Contraction]) -> bool:
    """Return whether the axes are all that one of a contraction's two sides has of its own."""
    for each in known:
        shared = frozenset.intersection(*each.factors)
        sides = [own for axes in each.factors if (own := axes - each.over - shared)]
        if len(sides) > 1 and any(side <= set(group) for side in sides):
            return True
    return False


def _travel_together(a: str, b: str, known: Sequence[Contraction]) -> bool:
    return all((a in axes) == (b in axes) for each in known for axes in each.factors)


# --- building -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tiling:
    """The free choices of a layout: a tile for every axis, the axes fixed to their whole length, stages."""

    tiles: tuple[tuple[str, int], ...]
    whole: tuple[str, ...]
    split: tuple[str, ...]
    stages: int
    descriptors: bool


def build_layout(
    derivation: Derivation,
    sizes: Mapping[str, int],
    dtypes: Mapping[str, str],
    tiling: Tiling,
) -> Layout:
    """Return the layout of a tiling; `dtypes` gives every array's and output's storage type."""
    return Layouts(derivation, sizes, dtypes).of(tiling)


class Layouts:
    """The layouts of one derivation: what tilings have in common is found once."""

    def __init__(
        self, derivation: Derivation, sizes: Mapping[str, int], dtypes: Mapping[str, str]
    ) -> None:
        self._derivation, self._sizes = derivation, sizes
        self._bundles = bundles(derivation)
        self._arrays = argument_arrays(derivation.diagram, dtypes)
        self._outputs = output_arrays(derivation.diagram, dtypes)
        self._shared = _shared_arrays(derivation)

    def of(self, tiling: Tiling) -> Layout:
        """Return the layout of a tiling."""
        derivation, tiles = self._derivation, dict(tiling.tiles)
        dims = _dims(derivation, self._bundles, tiles, tiling)
        by_axis = {axis: dim.name for dim in dims for axis in dim.axes}
        axes = tuple(
            _axis_tile(derivation, axis, tiles[axis], by_axis.get(axis), tiling, self._sizes)
            for axis in tiles
        )
        grid = tuple(axis for axis in reversed(derivation.group) if axis not in tiling.whole)
        return Layout(
            axes,
            dims,
            self._arrays,
            self._outputs,
            _fastest_first(grid, by_axis),
            self._shared,
            tiling.descriptors,
            tiling.stages,
        )


def argument_arrays(diagram: Diagram, dtypes: Mapping[str, str]) -> tuple[Array, ...]:
    """Return the arguments that lie in global memory, which typed scalars do not."""
    return tuple(
        Array(each.name, each.dims, dtypes[each.name], each.kind)
        for each in diagram.arguments
        if each.dims or each.dtype not in SCALAR_TYPES
    )


def output_arrays(diagram: Diagram, dtypes: Mapping[str, str]) -> tuple[Array, ...]:
    """Return the outputs as arrays in global memory."""
    return tuple(
        Array(each.name, each.dims, dtypes[each.name], diagram.boxes[each.box].kind)
        for each in diagram.outputs
    )


def _axis_tile(
    derivation: Derivation,
    axis: str,
    tile: int,
    dim: str | None,
    tiling: Tiling,
    sizes: Mapping[str, int],
) -> AxisTile:
    stream = derivation.stream
    if stream is not None and axis == stream.axis:
        return AxisTile(axis, AxisRole.STREAM, tile, dim)
    if axis in tiling.split:
        return AxisTile(axis, AxisRole.SPLIT, tile, dim, sizes[axis])
    if axis in tiling.whole:
        return AxisTile(axis, AxisRole.WHOLE, tile, dim, sizes[axis])
    return AxisTile(axis, AxisRole.GROUP, tile, dim)


def _dims(
    derivation: Derivation,
    side_by_side: Sequence[tuple[str, ...]],
    tiles: Mapping[str, int],
    tiling: Tiling,
) -> tuple[Dim, ...]:
    """Return a dim for every axis with a tile, bundles of grouped axes sharing one."""
    together = {
        axis: tuple(each for each in bundle if tiles[each] > 1 and each not in tiling.whole)
        for bundle in side_by_side
        for axis in bundle
        if axis not in tiling.whole
    }
    stream = derivation.stream
    seen: dict[tuple[str, ...], None] = {}
    for axis, tile in tiles.items():
        streamed = stream is not None and axis == stream.axis
        if tile > 1 or streamed:
            seen[together.get(axis, (axis,)) or (axis,)] = None
    return tuple(Dim("_".join(axes), axes, prod(tiles[axis] for axis in axes)) for axes in seen)


def _fastest_first(grid: tuple[str, ...], by_axis: Mapping[str, str]) -> tuple[str, ...]:
    """Put tiled axes first: neighbours on the grid then share what is not woven over them."""
    tiled = [axis for axis in grid if axis in by_axis]
    return (*tiled, *(axis for axis in grid if axis not in by_axis))


def _shared_arrays(derivation: Derivation) -> frozenset[str]:
    """Return the arrays that a contraction multiplies as they are: they go through shared memory."""
    graph = derivation.graph
    names: set[str] = set()
    factors: list[int] = []
    if derivation.stream is not None:
        for each in derivation.stream.folds:
            if each.operator == "sum" and len(each.factors) > 1:
                factors += each.factors
    for box in graph.boxes:
        if isinstance(box, Reduce) and box.operator == "sum" and len(box.operands) > 1:
            factors += box.operands
    for factor in factors:
        box = graph[factor]
        source = graph[box.array] if isinstance(box, Gather) else box
        if isinstance(source, Input) and len(source.axes) > 1 and source.kind is Kind.FLOAT:
            names.add(source.name)
    return frozenset(names)
