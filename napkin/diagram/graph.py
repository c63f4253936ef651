"""A growing list of boxes in which equal boxes have one id (hash-consing), and walks over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from napkin.diagram.boxes import Box, Constant, Extreme, Gather, Pointwise, Reduce, operands_of
from napkin.language.errors import InternalError
from napkin.operators import POINTWISE, Kind, result_kind


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


def renumbered(box: Box, new: Mapping[int, int]) -> Box:
    """Return a box with its operands renumbered, as another list of boxes has them."""
    match box:
        case Gather():
            return replace(box, array=new[box.array], indices=tuple(new[i] for i in box.indices))
        case Pointwise() | Reduce():
            return replace(box, operands=tuple(new[each] for each in box.operands))
        case Extreme():
            return replace(box, operand=new[box.operand])
        case _:
            return box


def _rebuild(graph: Graph, box: Box, children: tuple[int, ...]) -> int:
    match box:
        case Pointwise():
            return graph.pointwise(box.operator, *children)
        case Reduce():
            return graph.reduce(box.operator, children, box.over)
        case Gather():
            return graph.gather(children[0], children[1:])
        case Extreme():
            return graph.add(replace(box, operand=children[0]))
        case _:
            raise InternalError(f"a leaf box has operands: {box}")
