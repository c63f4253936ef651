"""How a box lies in memory if it is kept there: its storage type, and the order of its axes.

In: a diagram's boxes. Out: for every box the type in which keeping it costs no result its precision, and its
axes as what reads them likes them. Which boxes to keep is not asked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from napkin.diagram import (
    STORAGE_BYTES,
    Box,
    Diagram,
    Gather,
    Input,
    Pointwise,
    Reduce,
    operands_of,
    topological,
)
from napkin.operators import Kind

_AS_COMPUTED, _AS_ROUNDED = (
    "as computed",
    "as rounded",
)  # how a reader takes a box that it does not round


def stored_types(diagram: Diagram, types: Mapping[str, str]) -> dict[int, str]:
    """Return, for every box, the type in which keeping it costs no result its precision.

    A contraction rounds what it multiplies to the type of its operands; it may be stored so, and other sums
    of products then multiply the very numbers that the contraction does: what they give is as far off as
    it is, and where one is taken from the other the rounding is the same on both sides. All else is kept as
    it is computed: fp32, int32, bool.
    """
    boxes = diagram.boxes
    needed = topological(boxes, [each.box for each in diagram.outputs])
    wanted: dict[int, set[str]] = {each: set() for each in needed}
    for each in needed:
        for operand in operands_of(boxes[each]):
            wanted[operand].add(_rounds(boxes, boxes[each], types) or _multiplies(boxes[each]))
    plain = {Kind.FLOAT: "fp32", Kind.INT: "int32", Kind.BOOL: "bool"}
    found: dict[int, str] = {}
    for each, ways in wanted.items():
        rounded = ways - {_AS_ROUNDED}
        alike = len(rounded) == 1 and _AS_COMPUTED not in rounded
        found[each] = rounded.pop() if alike else plain[boxes[each].kind]
    return found


def _multiplies(box: Box) -> str:
    """Return how a box that rounds nothing takes what it reads: a sum of products takes it rounded."""
    is_product = isinstance(box, Reduce) and box.operator == "sum" and len(box.operands) > 1
    return _AS_ROUNDED if is_product else _AS_COMPUTED


def _rounds(boxes: Sequence[Box], box: Box, types: Mapping[str, str]) -> str | None:
    """Return the type to which a contraction of two matrices rounds its operands, else None."""
    if not isinstance(box, Reduce) or len(box.operands) != 2 or box.operator != "sum":
        return None
    left, right = (frozenset(boxes[each].axes) - set(box.over) for each in box.operands)
    summed = all(set(boxes[each].axes) & set(box.over) for each in box.operands)
    if not summed or not left - right or not right - left:
        return None
    direct = _input_types(boxes, box.operands, types)
    found = direct or _input_types(boxes, topological(boxes, box.operands), types)
    return min(found, key=lambda each: STORAGE_BYTES[each]) if found else None


def _input_types(boxes: Sequence[Box], among: Iterable[int], types: Mapping[str, str]) -> list[str]:
    """Return the storage types of the real arrays that the boxes are or read."""
    found: list[str] = []
    for each in among:
        box = boxes[each]
        source = boxes[box.array] if isinstance(box, Gather) else box
        if isinstance(source, Input) and source.kind is Kind.FLOAT:
            found += [types[source.name]] if types[source.name] in STORAGE_BYTES else []
    return found


def memory_order(boxes: Sequence[Box], readers: Iterable[int], each: int) -> tuple[str, ...]:
    """Return a kept box's axes, outermost those that contractions take one at a time.

    The matrices that they multiply then lie side by side, as hardware that copies tiles likes it, and so do
    the values of rows that what is multiplied is made of elementwise. The axes of a matrix lie as they do in
    an array of the same axes: as keys do, so do their gradients.
    """
    axes = next(
        (
            box.axes
            for box in boxes
            if isinstance(box, Input) and {*box.axes} == {*boxes[each].axes}
        ),
        boxes[each].axes,
    )
    batch = set(axes)
    for box in _made_elementwise(boxes, readers):
        if not isinstance(box, Reduce) or len(box.operands) < 2:
            return axes
        for operand in box.operands:
            if boxes[operand].axes:  # a number is alike in every matrix
                batch &= set(boxes[operand].axes) - set(box.over)
    return tuple(sorted(axes, key=lambda axis: axis not in batch))


def _made_elementwise(boxes: Sequence[Box], readers: Iterable[int]) -> list[Box]:
    """Return the readers, in the stead of one that is elementwise those that read what it makes."""
    found: list[Box] = []
    pending, seen = list(readers), set[int]()
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        if isinstance(boxes[each], Pointwise):
            pending += [place for place, box in enumerate(boxes) if each in operands_of(box)]
        else:
            found.append(boxes[each])
    return found
