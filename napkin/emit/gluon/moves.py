"""Sums that are mostly left as they are, where a step moves them to a reference that lags.

In: a `Specialised` kernel. Out: a printer of products by a factor that is 1 unless a reference has moved: a
warp whose rows all keep theirs branches past the multiplications.
"""

from __future__ import annotations

from functools import cached_property

from napkin.emit.expressions import Call, Expression
from napkin.emit.triton.body import BodyPrinter
from napkin.schedule.roles.lag import mostly_one

_COLUMNS = 64  # at least: 32 elements a thread, of which all are multiplied or none


class MovePrinter(BodyPrinter):
    """Prints products of sums by such factors."""

    @cached_property
    def _mostly_one(self) -> frozenset[str]:
        return mostly_one(self.program)

    def _call(self, each: Call) -> str:
        if each.operator != "mul" or len(each.dims) != 2:
            return super()._call(each)
        sums, factor = each.operands
        wide = self.program.dim(each.dims[1]).extent >= _COLUMNS
        if not wide or _name(factor) not in self._mostly_one or _name(sums) != each.tile.name:
            return super()._call(each)
        operands = [self._expression(operand, each.dims) for operand in each.operands]
        return self._helper("moved", "_moved", operands)


def _name(operand: Expression) -> str:
    """Return the name of the tile that an expression gives."""
    return operand.tile.name if isinstance(operand, Call) else str(operand.operand)
