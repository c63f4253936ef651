"""A diagram as text: a listing in single-assignment form that is itself a napkin file.

Parsing it gives an equal diagram.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isinf

from napkin.diagram.boxes import (
    SCALAR_TYPES,
    Box,
    Constant,
    Gather,
    Index,
    Leaf,
    Pointwise,
    Reduce,
    Size,
)
from napkin.diagram.signature import Argument, Diagram, Output, Relabelling, Tiling
from napkin.language.errors import InternalError
from napkin.operators import POINTWISE


def print_diagram(diagram: Diagram) -> str:
    """Return the single-assignment listing, itself a napkin file."""
    lines = [_header(diagram)]
    for each, box in enumerate(diagram.boxes):
        if not isinstance(box, Leaf):
            lines.append(
                f"    {diagram.names[each]}[{' '.join(box.axes)}] = {_right(diagram, box)}"
            )
    for output in diagram.outputs:
        # An output that is itself a leaf, or a second name of one box, still needs its line.
        if diagram.names[output.box] != output.name:
            axes = " ".join(output.axes)
            lines.append(f"    {output.name}[{axes}] = {_operand(diagram, output.box)}")
    if diagram.sizes:
        lines += ["", "sizes " + " ".join(f"{axis}={size}" for axis, size in diagram.sizes)]
    for relabelling in diagram.relabellings:
        lines += ["", *_print_relabelling(relabelling)]
    return "\n".join(lines) + "\n"


def print_dims(dims: Sequence[Sequence[str]]) -> str:
    """Return dims as they are written: `b (k g) q d`."""
    return " ".join(dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in dims)


def _header(diagram: Diagram) -> str:
    arguments = ", ".join(_print_argument(each) for each in diagram.arguments)
    outputs = ", ".join(_print_argument(each) for each in diagram.outputs)
    return f"diagram {diagram.name}({arguments}) -> {outputs}"


def _print_argument(argument: Argument | Output) -> str:
    dtype = f": {argument.dtype}" if argument.dtype else ""
    if not argument.dims and argument.dtype in SCALAR_TYPES:
        return f"{argument.name}{dtype}"
    return f"{argument.name}[{print_dims(argument.dims)}]{dtype}"


def _right(diagram: Diagram, box: Box) -> str:
    match box:
        case Pointwise():
            return print_call(box.operator, [_operand(diagram, each) for each in box.operands])
        case Reduce():
            product = " * ".join(_operand(diagram, each) for each in box.operands)
            return f"{box.operator}[{' '.join(box.over)}]({product})"
        case Gather():
            indices = ", ".join(_operand(diagram, each) for each in box.indices)
            return f"{diagram.names[box.array]}[{indices}]"
        case _:
            raise InternalError(f"a leaf has no right side: {box}")


def print_call(operator: str, operands: Sequence[str]) -> str:
    """Return one operator applied to atoms, as the language writes it."""
    row = POINTWISE[operator]
    if not row.precedence:
        return f"{row.symbol}({', '.join(operands)})"
    if row.arity == 1:
        space = " " if row.symbol.isalpha() else ""
        return f"{row.symbol}{space}{operands[0]}"
    return f"{operands[0]} {row.symbol} {operands[1]}"


def _operand(diagram: Diagram, each: int) -> str:
    box = diagram.boxes[each]
    match box:
        case Constant():
            return print_constant(box.value)
        case Index():
            return box.axis
        case Size():
            return f"size({box.axis})"
        case _:
            return diagram.names[each]


def print_constant(value: float | int | bool) -> str:
    """Return a constant as the language writes it; a negative number in brackets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and isinf(value):
        return "inf" if value == inf else "(-inf)"
    return repr(value) if value >= 0 else f"({value!r})"


def _print_relabelling(relabelling: Relabelling) -> list[str]:
    lines = [f"on {relabelling.machine}"]
    for word in ("group", "stream", "split"):
        tilings: tuple[Tiling, ...] = getattr(relabelling, word)
        if tilings:
            phrases = ", ".join(f"{' '.join(each.axes)} by {each.tile}" for each in tilings)
            lines.append(f"    {word} {phrases}")
    for placement in relabelling.placements:
        lines.append(f"    at {placement.level}: {', '.join(placement.names)}")
    for word, count in (("warps", relabelling.warps), ("stages", relabelling.stages)):
        if count is not None:
            lines.append(f"    {word} {count}")
    return lines
