"""Where a pass walks its stream, and what a chunk folds there: masks and ends settled before lowering.

In: a pass, its condition and the bounds of that. Out: the loops, as boxes for their ends (`walks`), and for
each loop the factors that every accumulator folds there (`settle`): without the mask where it holds
throughout, with it and the axis's end where it holds in part (`ends`).

It works on boxes alone and knows no tile's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.algebra.affine import Variation
from napkin.algebra.conditions import vanishes
from napkin.algebra.derive import Derivation
from napkin.algebra.masks import FARTHEST, Bounds, interval
from napkin.algebra.states import Accumulator, Pass
from napkin.diagram import (
    Constant,
    Edge,
    Extreme,
    Gather,
    Graph,
    Index,
    Input,
    Pointwise,
    Size,
    topological,
)
from napkin.operators import REDUCTIONS, Kind
from napkin.schedule.lowering.ends import (
    finite_groups,
    inside_of,
    mask_end,
    padded_groups,
    replaced,
    unit_of,
)
from napkin.schedule.lowering.factors import split_scale
from napkin.schedule.program import AxisTile, Region


@dataclass(frozen=True, slots=True)
class Walk:
    """One loop over the stream: from box `start` to box `stop`, with names wished for the two.

    In a partial region that `holds` only the axis's end cuts chunks: the condition is true throughout.
    """

    region: Region
    start: int
    stop: int
    wishes: tuple[str, str]
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A pass's chunk with its masks settled: what is folded into each state and part, and what is stored."""

    region: Region
    factors: tuple[tuple[int, ...], ...]
    stores: tuple[tuple[int, int], ...]


def walks(graph: Graph, axes: Mapping[str, AxisTile], axis: str, bounds: Bounds) -> list[Walk]:
    """Return the loops of a pass in order, aligned to the axis's tile."""
    tile = axes[axis].tile
    step = graph.constant(tile)
    begin, end = f"{axis}_begin", f"{axis}_end"
    full_begin, full_end = f"{axis}_full_begin", f"{axis}_full_end"
    size = graph.add(Size(axis))
    zero = graph.constant(0)
    stop = size
    if bounds.any.stop is not None:
        # Never below zero: a tile that sees nothing walks no chunk.
        any_stop = _added_to(graph, bounds.any.stop)
        stop = graph.pointwise("max2", graph.pointwise("min2", any_stop, size), zero)
    any_start = zero
    if bounds.any.start is not None:
        # Never behind the last chunk: where nothing is to be seen, every loop ends where it starts.
        any_start = _align(graph, bounds.any.start, step, up=False)
        any_start = graph.pointwise("max2", any_start, zero)
        any_start = graph.pointwise("min2", any_start, _align(graph, stop, step, up=True))
    if bounds.full is None:
        return [Walk(Region.PARTIAL, any_start, stop, (begin, end))]
    full_stop = size
    if bounds.full.stop is not None:
        full_stop = graph.pointwise("min2", _added_to(graph, bounds.full.stop), size)
    full_stop = _align(graph, full_stop, step, up=False)
    loops: list[Walk] = []
    full_start = any_start
    if bounds.full.start is not None and not _starts_whole(graph, axes, tile, bounds):
        full_start = _align(graph, bounds.full.start, step, up=True)
        full_start = graph.pointwise("max2", full_start, any_start)
        last = _align(graph, stop, step, up=True)
        full_start = graph.pointwise("min2", full_start, last)
        low_stop = graph.pointwise("min2", full_start, stop)
        loops.append(Walk(Region.PARTIAL, any_start, low_stop, (begin, full_begin)))
    if full_start != zero or bounds.full.stop is not None:
        full_stop = graph.pointwise("max2", full_stop, full_start)
    loops.append(Walk(Region.FULL, full_start, full_stop, (full_begin, full_end)))
    holds = bounds.full.stop is None and bounds.any.stop is None and bounds.residual is None
    if holds and full_stop == stop:
        return loops  # of single positions, none of which reaches past the end
    loops.append(Walk(Region.PARTIAL, full_stop, stop, (full_end, end), holds))
    return loops


def _added_to(graph: Graph, end: int) -> int:
    """Return the end of a walk with the caller's numbers cut to what a sum of them can hold."""
    box = graph[end]
    if not isinstance(box, Pointwise):
        return end
    limit = graph.constant(FARTHEST)
    held = [
        graph.pointwise("min2", each, limit)
        if isinstance(graph[each], Input | Gather)
        else _added_to(graph, each)
        for each in box.operands
    ]
    return end if held == list(box.operands) else graph.pointwise(box.operator, *held)


def _starts_whole(graph: Graph, axes: Mapping[str, AxisTile], tile: int, bounds: Bounds) -> bool:
    """Return whether no first chunk is cut: the start is one number, a multiple of the tile."""
    ends = (bounds.any.start, bounds.full.start if bounds.full is not None else None)
    starts = {_of_tile(graph, axes, each) for each in ends if each is not None}
    return len(starts) == 1 and all(_is_multiple(graph, each, tile) for each in starts)


def _of_tile(graph: Graph, axes: Mapping[str, AxisTile], each: int) -> int:
    """Return the number itself where a tile's least and greatest are of one number."""
    box = graph[each]
    if isinstance(box, Extreme) and all(axes[axis].dim is None for axis in graph[box.operand].axes):
        return box.operand
    return each


def _is_multiple(graph: Graph, each: int, tile: int) -> bool:
    """Return whether a whole number is surely a multiple of the tile."""
    box = graph[each]
    if isinstance(box, Constant):
        return box.value % tile == 0
    if not isinstance(box, Pointwise):
        return False
    held = [_is_multiple(graph, operand, tile) for operand in box.operands]
    if box.operator == "mul":
        return any(held)
    return box.operator in ("add", "sub", "min2", "max2", "neg") and all(held)


def descending(derivation: Derivation, variation: Callable[[int], Variation]) -> tuple[str, ...]:
    """Return grid axes to walk from the end: where a later tile has the longer stream."""
    bounds = _bounds_of_passes(derivation, variation)
    stops = [each.any.stop for each in bounds if each.any.start is None]
    return _moved_by(derivation.graph, stops, "last")


def shrinking(derivation: Derivation, variation: Callable[[int], Variation]) -> tuple[str, ...]:
    """Return grid axes where a later tile has the shorter stream."""
    bounds = _bounds_of_passes(derivation, variation)
    starts = [each.any.start for each in bounds if each.any.stop is None]
    return _moved_by(derivation.graph, starts, "first")


def _bounds_of_passes(
    derivation: Derivation, variation: Callable[[int], Variation]
) -> list[Bounds]:
    stream, hulls = derivation.stream, dict(derivation.hulls)
    if stream is None:
        return []
    return [
        interval(derivation.graph, condition, stream.axis, variation, hulls)
        for condition in derivation.conditions
    ]


def _moved_by(graph: Graph, ends: Sequence[int | None], end: str) -> tuple[str, ...]:
    """Return the axes by the first or last index of whose tiles these ends of streams are computed."""
    boxes = (
        graph[each] for root in ends if root is not None for each in topological(graph, [root])
    )
    found = [each.axis for each in boxes if isinstance(each, Edge) and each.end == end]
    return tuple(dict.fromkeys(found))


def settle(
    graph: Graph,
    axes: Mapping[str, AxisTile],
    axis: str,
    one: Pass,
    condition: int | None,
    bounds: Bounds,
    walk: Walk,
) -> Body:
    """Settle the masks of a chunk: gone in full regions, joined with the axis's end in partial ones."""
    groups = [each.factors for each in one.folds]
    stores, region = one.stores, walk.region
    holds = walk.holds or region is Region.FULL
    if holds and condition is not None and bounds.residual != condition:
        swaps = _held(graph, condition, bounds.residual)
        groups = [
            _carried(graph, each, replaced(graph, group, swaps))
            for each, group in zip(one.folds, groups, strict=True)
        ]
    if region is Region.FULL:
        return Body(region, padded_groups(graph, axes, one, groups), stores)
    inside = inside_of(graph, axis)
    if condition is not None and not holds:
        both = graph.pointwise("and", condition, inside)
        groups = [replaced(graph, group, {condition: both}) for group in groups]
    else:
        swaps = _masked_extrema(graph, one, inside)
        groups = [
            _masked_alike(graph, each, group, swaps, axis)
            for each, group in zip(one.folds, groups, strict=True)
        ]
    groups = finite_groups(graph, one, groups, axis)
    settled = [  # a part is stored with its ends masked
        mask_end(graph, each, group, inside, axis) if axis in each.over else group
        for each, group in zip(one.folds, groups, strict=True)
    ]
    return Body(region, padded_groups(graph, axes, one, settled), stores)


def _carried(graph: Graph, each: Accumulator, group: tuple[int, ...]) -> tuple[int, ...]:
    """Let a group still carry every axis that is folded, where the mask that is gone alone did."""
    unit, zero = graph.constant(unit_of(each)), graph.constant(0)
    for axis in each.over:
        if all(axis not in graph[factor].axes for factor in group):
            everywhere = graph.pointwise("ge", graph.add(Index(axis)), zero)
            first = graph.pointwise("where", everywhere, group[0], unit)
            group = (first, *group[1:])
    return group


def _held(graph: Graph, condition: int, residual: int | None) -> dict[int, int]:
    """Return the swaps where a condition holds but for a residual: every mask of those that it joins goes."""
    left = _joined(graph, residual)
    whole = graph.constant(True) if residual is None else residual
    swaps = {condition: whole} if condition not in left else {}
    for each in _joined(graph, condition):
        if each in left:
            continue
        swaps.setdefault(each, graph.constant(True))
        box = graph[each]
        if isinstance(box, Pointwise) and box.operator == "not":
            swaps[box.operands[0]] = graph.constant(False)
    return swaps


def _joined(graph: Graph, condition: int | None) -> list[int]:
    """Return the conditions that an `and` joins, however deep."""
    pending, found = [] if condition is None else [condition], list[int]()
    while pending:
        each = pending.pop()
        box = graph[each]
        if isinstance(box, Pointwise) and box.operator == "and":
            pending += box.operands
        else:
            found.append(each)
    return found


def _masked_extrema(graph: Graph, one: Pass, inside: int) -> dict[int, int]:
    """Mask what a maximum folds where it is made, so that what reads it too needs no mask of its own."""
    swaps: dict[int, int] = {}
    for each in one.accumulators:
        if each.operator in ("max", "min") and each.kind is Kind.FLOAT:
            core = each.factors[0]
            pulled = split_scale(graph, core)
            core = pulled[0] if pulled else core
            if _is_gathered(graph, core):
                continue  # what is read by position elsewhere must stay the array that it is
            unit = graph.constant(REDUCTIONS[each.operator].unit)
            swaps[core] = graph.pointwise("where", inside, core, unit)
    return swaps


def _masked_alike(
    graph: Graph, each: Accumulator, group: tuple[int, ...], swaps: dict[int, int], axis: str
) -> tuple[int, ...]:
    """Read the masked values too, save in a factor of a sum that they would make infinite."""
    swapped = replaced(graph, group, swaps)
    if each.operator != "sum":
        return swapped
    inside = inside_of(graph, axis)
    return tuple(
        new if vanishes(graph, replace(each, factors=(new,)), inside) else old
        for old, new in zip(group, swapped, strict=True)
    )


def _is_gathered(graph: Graph, each: int) -> bool:
    return any(isinstance(box, Gather) and box.array == each for box in graph.boxes)


def _align(graph: Graph, value: int | None, step: int, *, up: bool) -> int:
    """Round a position down (or up) to a multiple of the step (a box)."""
    assert value is not None
    if up:
        constant = graph[step]
        assert isinstance(constant, Constant)
        value = graph.pointwise("add", value, graph.constant(int(constant.value) - 1))
    if step == graph.constant(1):
        return value
    return graph.pointwise("mul", graph.pointwise("floordiv", value, step), step)
