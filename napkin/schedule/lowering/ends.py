"""What lies past an axis's end, where loads read zero: masked out of sums, and kept finite in products.

In: the factors that accumulators fold, an axis that a tile may pass the end of. Out: the same factors,
which fold nothing there. Zeros that loads read do so by themselves, unless what they multiply may be
infinite: that is masked where it is made, once for all that read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from napkin.algebra.conditions import poles, vanishes
from napkin.algebra.masks import FARTHEST
from napkin.algebra.states import Accumulator, Pass
from napkin.diagram import (
    Constant,
    Extreme,
    Graph,
    Index,
    Input,
    Pointwise,
    Size,
    operands_of,
    substitute,
    topological,
)
from napkin.operators import Kind
from napkin.schedule.program import AxisRole, AxisTile

_LARGEST_INT = 2**31 - 1


def padded_groups(
    graph: Graph, axes: Mapping[str, AxisTile], one: Pass, groups: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Mask the padding of the whole axes that an accumulator folds beside the stream's own."""
    for axis in dict.fromkeys(axis for each in one.folds for axis in _padded_axes(axes, each)):
        groups = finite_groups(graph, one, groups, axis)
    return tuple(
        padded(graph, axes, replace(each, factors=group))
        for each, group in zip(one.folds, groups, strict=True)
    )


def _padded_axes(axes: Mapping[str, AxisTile], each: Accumulator) -> list[str]:
    """Return the axes that a fold sums whole or by groups, and whose tiles may reach past their ends."""
    return [
        axis
        for axis in each.over
        if axes[axis].role is not AxisRole.STREAM and not axes[axis].is_exact
    ]


def padded(graph: Graph, axes: Mapping[str, AxisTile], each: Accumulator) -> tuple[int, ...]:
    """Mask a reduction's padding along whole and split axes, unless the loads' zeros do it."""
    factors = each.factors
    for axis in _padded_axes(axes, each):
        swaps = _without_poles(graph, each, factors, axis)
        factors = replaced(graph, factors, swaps) if swaps else factors
        factors = mask_end(graph, each, factors, inside_of(graph, axis), axis)
    return factors


def finite_groups(
    graph: Graph, one: Pass, groups: Sequence[tuple[int, ...]], axis: str
) -> list[tuple[int, ...]]:
    """Make finite past an axis's end what loads' zeros multiply there, once for all that read it."""
    swaps: dict[int, int] = {}
    for each, group in zip(one.folds, groups, strict=True):
        if axis in each.over:
            swaps |= _without_poles(graph, each, group, axis)
    return [replaced(graph, group, swaps) for group in groups] if swaps else list(groups)


def _without_poles(
    graph: Graph, each: Accumulator, factors: tuple[int, ...], axis: str
) -> dict[int, int]:
    """Return the swaps that keep a product's factors finite past an axis's end."""
    if len(factors) < 2:
        return {}
    inside, zero = inside_of(graph, axis), graph.constant(unit_of(each))
    found = {pole for factor in factors for pole in poles(graph, factor, inside, axis)}
    return {pole: graph.pointwise("where", inside, pole, zero) for pole in sorted(found)}


def within_ends(graph: Graph, axes: Mapping[str, AxisTile], extreme: Extreme) -> int:
    """Return what an extreme over a tile is taken of, with no say for positions past an axis's end."""
    value = extreme.operand
    farthest = FARTHEST if extreme.bounds else _LARGEST_INT
    unit = graph.constant(farthest if extreme.end == "least" else -farthest)
    for axis in graph[value].axes:
        if not axes[axis].is_exact:
            value = graph.pointwise("where", inside_of(graph, axis), value, unit)
    return value


def inside_of(graph: Graph, axis: str) -> int:
    return graph.pointwise("lt", graph.add(Index(axis)), graph.add(Size(axis)))


def mask_end(
    graph: Graph, each: Accumulator, factors: tuple[int, ...], inside: int, axis: str
) -> tuple[int, ...]:
    """Make a chunk the unit past an axis's end, where loads read zero."""
    unit = graph.constant(unit_of(each))
    if vanishes(graph, replace(each, factors=factors), inside, zero_filled=axis):
        return factors
    chosen = next(
        (
            i
            for i, factor in enumerate(factors)
            if axis in graph[factor].axes and not isinstance(graph[factor], Input)
        ),
        next(i for i, factor in enumerate(factors) if axis in graph[factor].axes),
    )
    cut = graph.pointwise("where", inside, factors[chosen], unit)
    return (*factors[:chosen], cut, *factors[chosen + 1 :])


def unit_of(each: Accumulator) -> float | int | bool:
    """Return a fold's unit as its kind holds it: among integers, the ends of their range."""
    if each.kind is not Kind.INT:
        return each.unit
    return int(max(min(each.unit, _LARGEST_INT), -_LARGEST_INT - 1))


def replaced(graph: Graph, group: tuple[int, ...], swaps: dict[int, int]) -> tuple[int, ...]:
    return tuple(simplify(graph, each) for each in substitute(graph, group, swaps))


def simplify(graph: Graph, root: int) -> int:
    """Fold truth constants and trivial integer arithmetic out of a box."""
    done: dict[int, int] = {}
    for each in topological(graph, [root]):
        box = graph[each]
        if not isinstance(box, Pointwise):
            (done[each],) = substitute(graph, [each], done) if operands_of(box) else (each,)
            continue
        operands = [done[operand] for operand in box.operands]
        done[each] = _simplified(graph, box.operator, operands)
    return done[root]


def _simplified(graph: Graph, operator: str, operands: list[int]) -> int:
    boxes = [graph[each] for each in operands]
    values = [box.value if isinstance(box, Constant) else None for box in boxes]
    if operator == "where" and values[0] is not None:
        return operands[1] if values[0] else operands[2]
    if operator == "and" and any(value is True for value in values):
        return operands[1] if values[0] is True else operands[0]
    if operator in ("add", "sub") and values[1] == 0 and boxes[1].kind is Kind.INT:
        return operands[0]
    if operator in ("min2", "max2") and operands[0] == operands[1]:
        return operands[0]
    first = boxes[0]
    if operator == "neg" and isinstance(first, Pointwise) and first.operator == "neg":
        return first.operands[0]
    integers = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
    if len(integers) == 2 and operator in ("add", "sub", "mul", "floordiv"):
        a, b = integers
        result = {"add": a + b, "sub": a - b, "mul": a * b, "floordiv": a // b if b else 0}
        return graph.constant(result[operator])
    return graph.pointwise(operator, *operands)
