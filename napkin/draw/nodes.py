"""What a picture shows of a diagram: its nodes, and which array each of them reads.

In: a diagram. Out: its nodes in dependency order, each with a glyph and a few words. It knows no
positions: they are the layout's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from napkin.diagram import Argument, Diagram, Gather, Input, Leaf, Output, Reduce
from napkin.draw.formula import write_formula
from napkin.draw.parts import Part
from napkin.draw.reading import Reading, read_boxes

ANONYMOUS = "·"  # stands in a formula for the one array that comes in without a name
_POWERS = {1: "", 2: f" of {ANONYMOUS}²", 3: f" of {ANONYMOUS}³"}


class Shape(StrEnum):
    """The glyph of a node."""

    ARGUMENT = "argument"
    CONTRACTION = "contraction"
    REDUCTION = "reduction"
    NORMALISATION = "normalisation"
    FORMULA = "formula"
    GATHER = "gather"
    LOAD = "load"
    SAVE = "save"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Node:
    """One glyph: the nodes it reads, the axes of what it gives, and those it works along (`over`).

    `name` is that of its array, empty where neither the text nor a formula names it. `woven` are the
    axes that an argument or output has besides, which the whole picture is mapped over (weave.py).
    """

    shape: Shape
    name: str
    text: str
    inputs: tuple[int, ...]
    axes: tuple[str, ...]
    over: tuple[str, ...] = ()
    dtype: str = ""
    woven: tuple[str, ...] = ()

    @property
    def is_end(self) -> bool:
        """Whether it is an argument or an output."""
        return self.shape in (Shape.ARGUMENT, Shape.OUTPUT)

    @property
    def is_scalar(self) -> bool:
        """Whether it is a number, not an array."""
        return not self.axes and not self.woven


def build_nodes(diagram: Diagram) -> tuple[Node, ...]:
    """Return the nodes of a diagram's picture: the arguments first, the outputs last."""
    reading = read_boxes(diagram)
    named = _named_boxes(reading)
    nodes = [_end(Shape.ARGUMENT, each, ()) for each in diagram.arguments]
    arguments = {each.name: place for place, each in enumerate(diagram.arguments)}
    places: dict[int, int] = {}
    for each, box in enumerate(diagram.boxes):
        if isinstance(box, Input):
            places[each] = arguments[box.name]
        elif each in reading.drawn:
            places[each] = len(nodes)
            nodes.append(_node(reading, each, named, places))
    outputs = [_end(Shape.OUTPUT, each, (places[each.box],)) for each in diagram.outputs]
    return _name_once((*nodes, *outputs))


def _name_once(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes, those that only an output reads without a name: the output shows it."""
    readers: dict[int, set[Shape]] = {}
    for each in nodes:
        for source in each.inputs:
            readers.setdefault(source, set()).add(each.shape)
    return tuple(
        replace(node, name="")
        if readers.get(place) == {Shape.OUTPUT} and node.shape is not Shape.ARGUMENT
        else node
        for place, node in enumerate(nodes)
    )


def _end(shape: Shape, each: Argument | Output, inputs: tuple[int, ...]) -> Node:
    return Node(shape, each.name, "", inputs, each.axes, (), each.dtype or "")


def _node(reading: Reading, root: int, named: frozenset[int], places: Mapping[int, int]) -> Node:
    incoming = reading.incoming(root)
    shape, text, over = _glyph(reading, root, incoming)
    return Node(
        shape,
        reading.diagram.names[root] if root in named else "",
        text,
        tuple(places[each] for each in incoming),
        reading.diagram.boxes[root].axes,
        over,
    )


# --- names ----------------------------------------------------------------------------------------


def _named_boxes(reading: Reading) -> frozenset[int]:
    """Return the boxes that carry a name: the text's, or the listing's if a formula needs one."""
    named: set[int] = set()
    for each in reading.drawn:
        if _is_given(reading.diagram, each):
            named.add(each)
        if reading.has_formula(each):
            unnamed = _unnamed(reading, each)
            named |= set(unnamed) if len(unnamed) > 1 else set()
    return frozenset(named)


def _unnamed(reading: Reading, root: int) -> tuple[int, ...]:
    incoming = reading.incoming(root)
    return tuple(each for each in incoming if not _is_given(reading.diagram, each))


def _is_given(diagram: Diagram, box: int) -> bool:
    """Return whether the text names a box: the listing calls all others t1, t2, .."""
    if isinstance(diagram.boxes[box], Leaf):
        return isinstance(diagram.boxes[box], Input)
    return not re.fullmatch(r"t\d+", diagram.names[box])


# --- glyphs ---------------------------------------------------------------------------------------


def _glyph(
    reading: Reading, root: int, incoming: tuple[int, ...]
) -> tuple[Shape, str, tuple[str, ...]]:
    """Return the glyph of a box, its words and the axes that it works along."""
    part = reading.parts.get(root)
    if part is not None and part.axes and not reading.has_formula(root):
        return _part_glyph(reading, root, part)
    if reading.has_formula(root) and not isinstance(reading.diagram.boxes[root], Gather):
        return Shape.FORMULA, _formula(reading, root), ()
    match reading.diagram.boxes[root]:
        case Reduce() as box if len(incoming) > 1:
            return Shape.CONTRACTION, f"contract {' '.join(box.over)}", box.over
        case Reduce() as box:
            count = len(box.operands)
            power = _POWERS.get(count, f" of {ANONYMOUS}^{count}")
            return Shape.REDUCTION, f"{box.operator} {' '.join(box.over)}{power}", box.over
        case _:
            return Shape.GATHER, _formula(reading, root), ()


def _part_glyph(reading: Reading, root: int, part: Part) -> tuple[Shape, str, tuple[str, ...]]:
    is_kept = set(part.axes) <= set(reading.diagram.boxes[root].axes)
    shape = Shape.NORMALISATION if is_kept else Shape.REDUCTION
    return shape, f"{part.name} {' '.join(part.axes)}", part.axes


def _formula(reading: Reading, root: int) -> str:
    unnamed = _unnamed(reading, root)
    words = {each: reading.diagram.names[each] for each in reading.incoming(root)}
    if len(unnamed) == 1:
        words[unnamed[0]] = ANONYMOUS
    members = reading.members(root)
    return write_formula(reading.diagram, root, members=members, parts=reading.parts, words=words)
