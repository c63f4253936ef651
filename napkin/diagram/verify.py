"""The invariants of a diagram, checked after every stage that makes one."""

from __future__ import annotations

from napkin.diagram.boxes import (
    Box,
    Edge,
    Extreme,
    Gather,
    Input,
    Pointwise,
    Reduce,
    State,
    operands_of,
)
from napkin.diagram.signature import Diagram
from napkin.language.errors import InternalError
from napkin.operators import POINTWISE, REDUCTIONS


def verify(diagram: Diagram) -> Diagram:
    """Return the diagram if every invariant holds; raise InternalError otherwise."""
    if len(diagram.names) != len(diagram.boxes):
        raise InternalError("names and boxes differ in number")
    for each, box in enumerate(diagram.boxes):
        if any(operand >= each for operand in operands_of(box)):
            raise InternalError(f"box {each} reads a later box")
        if len(set(box.axes)) != len(box.axes):
            raise InternalError(f"box {each} repeats an axis")
        _verify_axes(diagram, box)
    for output in diagram.outputs:
        if set(output.axes) != set(diagram.boxes[output.box].axes):
            raise InternalError(f"output {output.name} differs from its box in axes")
        if not set(output.added) <= _summed(diagram.boxes[output.box]):
            raise InternalError(
                f"output {output.name} is no sum over what its parts are added up over"
            )
    return diagram


def _summed(box: Box) -> set[str]:
    return set(box.over) if isinstance(box, Reduce) and box.operator == "sum" else set()


def _verify_axes(diagram: Diagram, box: Box) -> None:
    read = {axis for each in operands_of(box) for axis in diagram.boxes[each].axes}
    match box:
        case Pointwise():
            good = set(box.axes) == read and len(box.operands) == POINTWISE[box.operator].arity
        case Reduce():
            good = set(box.axes) == read - set(box.over) and set(box.over) <= read
            good = good and box.operator in REDUCTIONS
            good = good and (len(box.operands) == 1 or box.operator == "sum")
        case Gather():
            indexed = {axis for each in box.indices for axis in diagram.boxes[each].axes}
            array = diagram.boxes[box.array]
            good = set(box.axes) == indexed and isinstance(array, Input)
            good = good and len(box.indices) == len(array.axes)
        case State() | Edge() | Extreme():
            good = False
        case _:
            good = True
    if not good:
        raise InternalError(f"axes do not fit: {box}")
