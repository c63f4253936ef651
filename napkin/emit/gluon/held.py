"""Contractions whose left side lies in registers in part.

In: a `Specialised` kernel and its names. Out: a printer of steps that reads a resident tile's first columns
into registers once a group, and contracts them, then the rest, with the same positions.
"""

from __future__ import annotations

from napkin.emit.expressions import Statement
from napkin.emit.gluon.names import GluonNames
from napkin.emit.gluon.steps import StepPrinter
from napkin.schedule.program import Dot
from napkin.schedule.roles.barriers import Await, Sync
from napkin.schedule.roles.warps import Specialised


class HeldPrinter(StepPrinter):
    """Prints contractions in two or more parts, the first with what registers hold."""

    def __init__(
        self, kernel: Specialised, lane: str | None, names: GluonNames, *, approximate: bool
    ) -> None:
        super().__init__(kernel, lane, names, approximate=approximate)
        self.held = {each.tile: each.columns for each in kernel.held}

    def _sync(self, each: Sync) -> None:
        super()._sync(each)
        if isinstance(each, Await) and self.rings[each.slot.ring].resident:
            name = self.rings[each.slot.ring].load.tile.name
            if name in self.held:
                self._print_held(name)

    def _print_held(self, name: str) -> None:
        """Print how a resident tile's first columns are read into registers."""
        dot = next(dot for dot in self.dots if dot.left == name)
        operand = f"gl.DotOperandLayout(0, {self.words.layouts[dot.tile.dims]}, 2)"
        columns = self.program.dim(dot.over).extent
        part = self._part(name, 0, self.held[name], columns, 1)
        self._line(
            f"{self.words.held[name]} = {self._helper('packed', '_packed', [f'{part}.load({operand})'])}"
        )

    def _statement(self, each: Statement) -> None:
        super()._statement(each)
        if isinstance(each, Dot) and each.left in self.held:
            self.issued[-1] = len(self._columns(each))

    def _dot(self, each: Dot) -> str:
        if each.left not in self.held:
            return super()._dot(each)
        result, whole = each.accumulator, self.program.dim(each.over).extent
        for start, count in self._columns(each):
            left = self._part(each.left, start, count, whole, 1)
            left = left if start else self.words.held[each.left]
            dims = self.rings[self.slots[each.right].ring].load.tile.dims
            right = self._part(each.right, start, count, whole, dims.index(each.over))
            result = self._contracted(left, self._turned(right, each, each.right, 0), result, each)
        assert result is not None
        return result

    def _columns(self, dot: Dot) -> list[tuple[int, int]]:
        """Return where a contraction's parts start and how wide they are, multiples of their widths."""
        start = self.held[dot.left]
        parts = [(0, start)]
        while start < self.program.dim(dot.over).extent:
            parts.append((start, start))
            start *= 2
        return parts

    def _part(self, name: str, start: int, count: int, whole: int, dim: int) -> str:
        """Return a tile's columns from `start` on, or all of it."""
        return name if count == whole else f"{name}.slice({start}, {count}, dim={dim})"
