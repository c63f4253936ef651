"""Sums of which every group of a kernel gives a part, to be added up in memory.

In: a diagram whose outputs say over which axes their parts are added up; or, to find such axes, the
boxes that one kernel is to give. Out: the stream with such outputs as parts of its passes; the axes
that may be grouped.

A kernel is grouped over an axis if every output carries it. An output that sums the axis has one
value for all groups; since addition is associative, the groups' sums may still be added up in
memory, in any order. That lets one walk over two axes serve outputs that sum the one and outputs
that sum the other: no scores are computed twice. Rounding then depends on the order, so that
results are not the same bits every time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from napkin.algebra.states import Accumulator, Pass, Stream, Transport
from napkin.diagram import Box, Graph, Output, Pointwise, Reduce, State, operands_of, topological
from napkin.operators import Kind

# --- the stream -----------------------------------------------------------------------------------


def with_parts(graph: Graph, stream: Stream, outputs: Sequence[Output]) -> Stream | None:
    """Return the stream with the outputs that are added up, and carry its axis, as parts of its passes.

    None if what is to be added up is no plain sum here: a group's running values would be in it.
    """
    plain = {each.name for each in stream.accumulators if not each.is_carried}
    ends = [(number, box) for one in stream.passes for number, box in one.stores]
    for number, each in (*ends, *stream.tail):
        box = graph[each]
        is_sum = isinstance(box, Reduce) and box.operator == "sum"
        if (
            outputs[number].added
            and not is_sum
            and not (isinstance(box, State) and box.name in plain)
        ):
            return None
    return replace(stream, passes=tuple(_with_parts(graph, one, outputs) for one in stream.passes))


def _with_parts(graph: Graph, one: Pass, outputs: Sequence[Output]) -> Pass:
    parts = [(number, box) for number, box in one.stores if outputs[number].added]
    return replace(
        one,
        stores=tuple(each for each in one.stores if each not in parts),
        parts=tuple((number, _part(graph, box, outputs[number])) for number, box in parts),
    )


def _part(graph: Graph, each: int, output: Output) -> Accumulator:
    box = graph[each]
    assert isinstance(box, Reduce)
    kept = (Transport(output.name, None),)
    return Accumulator(output.name, "sum", box.operands, box.over, box.axes, box.kind, kept)


def summed_axes(boxes: Sequence[Box], outputs: Sequence[Output]) -> set[str]:
    """Return the axes that some box reduces, but for what outputs leave to be added up in memory."""
    added = {each.box: set(each.added) for each in outputs}
    found: set[str] = set()
    for each, box in enumerate(boxes):
        found |= set(_over(box)) - added.get(each, set())
    return found


# --- which axes -----------------------------------------------------------------------------------


def core_sum(boxes: Sequence[Box], each: int) -> int | None:
    """Return the one sum that a box is, or is computed from by pointwise steps of no more axes; else None."""
    found: set[int] = set()
    pending = [each]
    while pending:
        current = pending.pop()
        box = boxes[current]
        if isinstance(box, Reduce):
            found.add(current)
        elif isinstance(box, Pointwise) and _reduces(boxes, current):
            pending += [operand for operand in box.operands if _reduces(boxes, operand)]
    if len(found) != 1:
        return None
    (core,) = found
    box = boxes[core]
    assert isinstance(box, Reduce)
    is_sum = box.operator == "sum" and box.kind is Kind.FLOAT
    return core if is_sum and set(box.axes) == set(boxes[each].axes) else None


def _reduces(boxes: Sequence[Box], each: int) -> bool:
    return any(isinstance(boxes[i], Reduce) for i in topological(boxes, [each]))


def added_axes(
    boxes: Sequence[Box], roots: Collection[int], edge: Collection[int], stream: str
) -> dict[int, tuple[str, ...]] | None:
    """Return for every root the axes over which its parts may be added up, if one kernel gives them all.

    That kernel streams `stream` and is grouped over every axis that each root carries or sums itself, and
    that nothing else reduces. What lies behind the boxes in `edge` is not computed in it. None if no root
    needs its parts to be added up.
    """
    cores = {each: core_sum(boxes, each) for each in roots}
    inside = _inside(boxes, roots, edge)
    reduced = {axis for each in inside if each not in cores.values() for axis in _over(boxes[each])}
    legal: set[str] | None = None
    for root, core in cores.items():
        own = set(boxes[root].axes) | (set() if core is None else set(_over(boxes[core])))
        legal = own if legal is None else legal & own
    grouped = (legal or set()) - reduced - {stream}
    found = {
        root: () if core is None else tuple(a for a in _over(boxes[core]) if a in grouped)
        for root, core in cores.items()
    }
    made = [cores[root] if axes else root for root, axes in found.items()]
    new = {each for each in made if each is not None}
    parts = new - set(roots) | {root for root, axes in found.items() if axes and root in new}
    read = {i for each in _inside(boxes, new, edge) for i in operands_of(boxes[each])}
    return found if parts and not parts & read else None


def _inside(boxes: Sequence[Box], roots: Collection[int], edge: Collection[int]) -> set[int]:
    """Return the boxes that a kernel computes for its roots."""
    needed: set[int] = set()
    pending = list(roots)
    while pending:
        each = pending.pop()
        if each not in needed:
            needed.add(each)
            pending += [i for i in operands_of(boxes[each]) if i not in edge or i in roots]
    return needed


def _over(box: Box) -> tuple[str, ...]:
    return box.over if isinstance(box, Reduce) else ()
