"""Find the parts of a diagram that the prelude has a word for, so that a picture can use it.

In: a diagram. Out: for the last box of each part its name, the axes it works along and the boxes
it reads. The prelude's own definitions are the patterns: each is read as a diagram and looked for
box by box. A part is found only if nothing outside it reads what is inside.

It names, no more: the compiler never asks whether something is a softmax.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from napkin.diagram import Constant, Diagram, Input, Leaf, Pointwise, Reduce, Size, operands_of
from napkin.language import read
from napkin.language.errors import NapkinError
from napkin.language.prelude import prelude
from napkin.language.source import Source


@dataclass(frozen=True, slots=True)
class Part:
    """`name[axes](arguments)`; `inside` are the boxes that it stands for, all but the last."""

    name: str
    axes: tuple[str, ...]
    arguments: tuple[int, ...]
    inside: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A definition of the prelude as a diagram; its first argument carries all axes."""

    name: str
    diagram: Diagram

    @property
    def root(self) -> int:
        return self.diagram.outputs[0].box

    @property
    def size(self) -> int:
        return sum(not isinstance(box, Leaf) for box in self.diagram.boxes)


def find_parts(diagram: Diagram) -> dict[int, Part]:
    """Return the parts of a diagram by their last box; the larger of two that overlap is taken."""
    readers = _readers(diagram)
    found: dict[int, Part] = {}
    taken: set[int] = set()
    for root in reversed(range(len(diagram.boxes))):
        if root in taken or isinstance(diagram.boxes[root], Leaf):
            continue
        for pattern in _patterns():
            part = _match(diagram, root, pattern)
            if part and not part.inside & taken and _is_closed(part, root, readers):
                found[root] = part
                taken |= part.inside
                break
    return found


def _readers(diagram: Diagram) -> Mapping[int, set[int]]:
    """Return the boxes that read each box; the diagram's outputs are read by -1."""
    readers: dict[int, set[int]] = {each: set() for each in range(len(diagram.boxes))}
    for each, box in enumerate(diagram.boxes):
        for operand in operands_of(box):
            readers[operand].add(each)
    for output in diagram.outputs:
        readers[output.box].add(-1)
    return readers


def _is_closed(part: Part, root: int, readers: Mapping[int, set[int]]) -> bool:
    return all(readers[each] <= part.inside | {root} for each in part.inside)


# --- matching -------------------------------------------------------------------------------------


def _match(diagram: Diagram, root: int, pattern: _Pattern) -> Part | None:
    """Return the part that ends in `root`, if the boxes before it are the pattern's."""
    bound: dict[int, int] = {}
    along: dict[str, tuple[str, ...]] = {}
    pending = [(pattern.root, root)]
    while pending:
        wanted, given = pending.pop()
        if bound.setdefault(wanted, given) != given:
            return None
        children = _step(pattern.diagram, wanted, diagram, given, along)
        if children is None:
            return None
        pending += children
    if not _sizes_agree(pattern.diagram, diagram, bound, along):
        return None
    return _part(pattern, bound, along, root)


def _step(
    pattern: Diagram, wanted: int, diagram: Diagram, given: int, along: dict[str, tuple[str, ...]]
) -> Iterable[tuple[int, int]] | None:
    """Return what must agree if the two boxes do, None if they do not."""
    match pattern.boxes[wanted], diagram.boxes[given]:
        case Input(), _:
            return ()
        case Constant() as one, Constant() as other:
            return () if one == other and type(one.value) is type(other.value) else None
        case Size(), Size():
            return ()
        case Pointwise() as one, Pointwise() as other if one.operator == other.operator:
            return zip(one.operands, other.operands, strict=True)
        case Reduce() as one, Reduce() as other if one.operator == other.operator:
            if len(one.operands) != len(other.operands):
                return None
            if along.setdefault(one.over[0], other.over) != other.over:
                return None
            return zip(one.operands, other.operands, strict=True)
        case _:
            return None


def _sizes_agree(
    pattern: Diagram,
    diagram: Diagram,
    bound: Mapping[int, int],
    along: Mapping[str, tuple[str, ...]],
) -> bool:
    pairs = ((pattern.boxes[wanted], diagram.boxes[given]) for wanted, given in bound.items())
    return all(
        along.get(one.axis) == (other.axis,)
        for one, other in pairs
        if isinstance(one, Size) and isinstance(other, Size)
    )


def _part(
    pattern: _Pattern, bound: Mapping[int, int], along: Mapping[str, tuple[str, ...]], root: int
) -> Part | None:
    boxes = pattern.diagram.boxes
    inside = {bound[each] for each in bound if not isinstance(boxes[each], Leaf)} - {root}
    by_name = {
        box.name: bound[each]
        for each, box in enumerate(boxes)
        if isinstance(box, Input) and each in bound
    }
    arguments = tuple(by_name[each.name] for each in pattern.diagram.arguments)
    if inside & set(arguments) or root in arguments:
        return None
    axes = tuple(axis for over in along.values() for axis in over)
    return Part(pattern.name, axes, arguments, frozenset(inside))


# --- patterns -------------------------------------------------------------------------------------


@cache
def _patterns() -> tuple[_Pattern, ...]:
    """Return the prelude's definitions as diagrams, those of most boxes first."""
    made = [
        _Pattern(name, _expand(name, tuple(each.name for each in definition.axes), count or 0))
        for (name, count), definition in prelude().items()
    ]
    # Of two forms the one with fewer arguments says more: its epsilon is the usual one.
    return tuple(
        sorted(made, key=lambda each: (-each.size, len(each.diagram.arguments), each.name))
    )


def _expand(name: str, axes: tuple[str, ...], count: int) -> Diagram:
    """Return a diagram that does nothing but call a definition of the prelude."""
    along = " ".join(f"along_{number}" for number in range(len(axes)))
    values = [f"value_{number}" for number in range(count)]
    arguments = [f"{each}[rest {'' if number else along}]" for number, each in enumerate(values)]
    call = f"{name}{f'[{along}]' if along else ''}({', '.join(values)})"
    # A definition keeps the axes that it works along, as softmax does, or reduces them.
    for result in (f"result[rest {along}]", "result[rest]"):
        text = f"diagram pattern({', '.join(arguments)}) -> {result}\n    {result} = {call}\n"
        try:
            return read(Source(name, text))[0]
        except NapkinError as error:
            refused = error
    raise refused
