"""The arrays of a diagram that may be worth keeping in memory between kernels.

In: a diagram. Out: boxes of it. What a machine makes of them is the search's matter (`cuts`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from napkin.algebra.naming import diagram_names
from napkin.diagram import Box, Diagram, Pointwise, Reduce, operands_of, topological
from napkin.model.roles import is_contraction

_SHORT_WAY = 8  # boxes between one that is read twice and where its readers meet again


def cut_points(diagram: Diagram) -> tuple[int, ...]:
    """Return the boxes worth keeping: what reductions give, and arrays that are made of it.

    Those are reductions, arrays with a name, and computed operands of contractions. A box that one
    pointwise step alone reads stands back for that step, which has the same size.
    """
    boxes = diagram.boxes
    roots = [each.box for each in diagram.outputs]
    needed = topological(boxes, roots)
    readers: dict[int, set[int]] = {each: set() for each in needed}
    reducing: set[int] = set()
    for each in needed:
        for operand in operands_of(boxes[each]):
            readers[operand].add(each)
        if isinstance(boxes[each], Reduce) or reducing & set(operands_of(boxes[each])):
            reducing.add(each)
    named = diagram_names(diagram)
    wished = {each for each in reducing if isinstance(boxes[each], Reduce) or each in named}
    wished |= _contracted(boxes, needed) & reducing
    found: dict[int, None] = {}
    for each in sorted(wished):
        last = each
        while (
            step := _only_step(boxes, last, readers, reducing)
        ) is not None and last not in roots:
            last = step
        if last not in roots or readers[last] or len(set(roots)) > 1:
            found[last] = None
    return tuple(sorted(found))


def _contracted(boxes: Sequence[Box], needed: Iterable[int]) -> set[int]:
    """Return the operands of contractions."""
    found: set[int] = set()
    for each in needed:
        box = boxes[each]
        if isinstance(box, Reduce) and is_contraction(boxes, box.operands, box.over):
            found |= set(box.operands)
    return found


def _only_step(
    boxes: Sequence[Box], each: int, readers: Mapping[int, set[int]], reducing: Collection[int]
) -> int | None:
    """Return the pointwise box where all that reads a box meets, of its axes and with nothing else reduced.

    A `where` is no such step: the kernel that reads what it masks may then skip what it leaves out.
    """
    waiting, passed = set(readers[each]), {each}
    for _ in range(_SHORT_WAY):
        if not waiting:
            return None
        first = min(waiting)  # operands come before what reads them
        box = boxes[first]
        if not isinstance(box, Pointwise) or box.operator == "where":
            return None
        if set(box.axes) != set(boxes[each].axes) or box.kind != boxes[each].kind:
            return None
        if any(other in reducing and other not in passed for other in box.operands):
            return None
        if len(waiting) == 1:
            return first
        waiting = (waiting - {first}) | readers[first]
        passed.add(first)
    return None
