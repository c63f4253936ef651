"""Expressions of a Triton kernel: operators over tiles, broadcast by `[:, None]`.

In: expressions over a Program's tiles. Out: text. It keeps what every part of a kernel's printer shares:
the lines so far, the tiles that have a name, the helper functions that are called.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from napkin.emit.expressions import Call, Expression, Leaf
from napkin.emit.triton.spelling import NARROW, as_integer, literal, spell
from napkin.operators import POINTWISE, Kind
from napkin.schedule.program import Length, Literal, Operand, Program, Tile

_MAX_POWER = 8


@dataclass
class KernelText:
    """The kernel's parameters (in order) and body lines, and the helper functions that it calls.

    `aligned` are the arrays whose rows must be whole vectors of 16 bytes, one after the other.
    """

    parameters: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    blocks: dict[str, int] = field(default_factory=dict)
    aligned: set[str] = field(default_factory=set)


class ValuePrinter:
    """Prints values; what a warp-specialised kernel prints otherwise overrides it."""

    def __init__(self, program: Program, *, approximate: bool) -> None:
        self.program = program
        self.approximate = approximate
        self.names = spell(program)
        self.text = KernelText()
        self.tiles: dict[str, Tile] = {}
        self.values: dict[str, Call] = {}
        self.unsettled: frozenset[str] = frozenset()
        self.depth = 1

    def _line(self, text: str) -> None:
        self.text.body.append("    " * self.depth + text if text else "")

    def _expression(self, each: Expression, dims: tuple[str, ...]) -> str:
        """Return an expression that broadcasts to the dims; what is compound stands in brackets."""
        if isinstance(each, Leaf):
            return self._leaf(each.operand, dims)
        text = self._call(each)
        if _same(each.dims, dims):
            return text
        is_call = POINTWISE[each.operator].triton.endswith(")")
        return self._expand(text if is_call else f"({text})", each.dims, dims)

    def _call(self, each: Call) -> str:
        operands = [self._operand(operand, each) for operand in each.operands]
        special = _SPECIAL.get(each.operator)
        text = special(self, each, operands) if special else None
        return text or POINTWISE[each.operator].triton.format(*operands)

    def _operand(self, operand: Expression, parent: Call) -> str:
        if isinstance(operand, Leaf) and isinstance(operand.operand, Literal):
            value = operand.operand.value
            whole = parent.tile.kind is Kind.INT and isinstance(value, float)
            return literal(as_integer(value) if whole else value)
        if parent.tile.kind is Kind.BOOL and not parent.dims and self._is_float_scalar(operand):
            # The interpreter leaves it a number of Python's, whose truth values `~` and `&` mistake.
            return self._helper("float", "_float", [self._expression(operand, ())])
        text = self._expression(operand, parent.dims)
        infix = isinstance(operand, Call) and not text.endswith(")")
        compound = isinstance(operand, Call) and " " in text
        call_parent = POINTWISE[parent.operator].triton.endswith(")")
        return f"({text})" if (infix or compound) and not call_parent else text

    def _is_float_scalar(self, each: Expression) -> bool:
        return isinstance(each, Leaf) and (each.operand, "float") in self.program.scalars

    def _leaf(self, operand: Operand, dims: tuple[str, ...]) -> str:
        if isinstance(operand, Literal):
            return literal(operand.value)
        if isinstance(operand, Length):
            return self.names.sizes[operand.axis]
        if operand not in self.tiles:
            return self.names.scalars[operand]
        tile = self.tiles[operand]
        name = tile.name
        if tile.storage in NARROW:
            name += ".to(tl.float32)" if tile.kind is Kind.FLOAT else ".to(tl.int32)"
        return self._expand(name, tile.dims, dims)

    def _expand(self, text: str, dims: tuple[str, ...], target: tuple[str, ...]) -> str:
        """Broadcast a value to a list of dims by inserting axes (after a transpose if the order differs)."""
        if not dims or dims == target:
            return text
        order = tuple(dim for dim in target if dim in dims)
        if order != dims:
            positions = ", ".join(str(dims.index(dim)) for dim in order)
            text = f"tl.permute({text}, ({positions}))"
        if order == target:
            return text
        return f"{text}[{', '.join(':' if dim in dims else 'None' for dim in target)}]"

    # --- operators that need more than a format -----------------------------------------------------

    def divide(self, each: Call, operands: list[str]) -> str:
        """Print a division; 0 / 0 is 0 unless the divisor cannot be 0."""
        divisor = each.operands[1]
        sure = isinstance(divisor, Leaf) and isinstance(divisor.operand, (Literal, Length))
        if sure:
            return f"{operands[0]} / {operands[1]}"
        return self._helper("divide", "_divide", operands)

    def floor_divide(self, each: Call, operands: list[str]) -> str:
        """Print a division that rounds down."""
        if each.tile.kind is Kind.FLOAT:
            return f"tl.floor({operands[0]} / {operands[1]})"
        return self._helper("floordiv", "_floordiv", operands)

    def modulo(self, each: Call, operands: list[str]) -> str:
        """Print the remainder of a division that rounds down."""
        if each.tile.kind is Kind.FLOAT:
            quotient = f"tl.floor({operands[0]} / {operands[1]})"
            return f"{operands[0]} - {quotient} * {operands[1]}"
        return self._helper("modulo", "_modulo", operands)

    def power(self, each: Call, operands: list[str]) -> str:
        """Print a power: small whole exponents by multiplication."""
        exponent = each.operands[1]
        if isinstance(exponent, Leaf) and isinstance(exponent.operand, Literal):
            value = exponent.operand.value
            if value == int(value) and 1 <= value <= _MAX_POWER:
                return " * ".join([operands[0]] * int(value))
            if value == 0.5:
                return f"tl.sqrt({operands[0]})"
        return self._helper("power", "_power", operands)

    def unary(self, each: Call, operands: list[str]) -> str:
        """Print a function of a float; a scalar operand is made one first."""
        (operand,) = operands
        row = POINTWISE[each.operator]
        inner = each.operands[0]
        if not each.dims and not (isinstance(inner, Call) and inner.tile.kind is Kind.FLOAT):
            operand = self._helper("float", "_float", operands)
        elif self._kind(inner) is not Kind.FLOAT:
            operand = f"tl.cast({operand}, tl.float32)"
        if each.operator in ("tanh", "sigmoid", "reciprocal"):
            fragment = each.operator
            if each.operator == "tanh" and self.approximate:
                fragment = "tanh_approximate"
            self.text.helpers.add(fragment)
        return row.triton.format(operand)

    def _kind(self, each: Expression) -> Kind:
        """Return the kind of an expression over tiles."""
        if isinstance(each, Call):
            return each.tile.kind
        tile = self.tiles.get(each.operand) if isinstance(each.operand, str) else None
        return tile.kind if tile else Kind.FLOAT

    def _helper(self, fragment: str, name: str, operands: list[str]) -> str:
        self.text.helpers.add(fragment)
        return f"{name}({', '.join(operands)})"


_SPECIAL = {
    "div": ValuePrinter.divide,
    "floordiv": ValuePrinter.floor_divide,
    "mod": ValuePrinter.modulo,
    "pow": ValuePrinter.power,
    **dict.fromkeys(
        ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "reciprocal"),
        ValuePrinter.unary,
    ),
}


def _same(dims: tuple[str, ...], target: tuple[str, ...]) -> bool:
    return not dims or dims == target
