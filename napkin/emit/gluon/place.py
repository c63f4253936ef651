"""The function `place` of a warp-specialised kernel: where a group stands, and where its stream ends.

In: a `Specialised` kernel and its names. Out: a printer of the lines that turn a group's number into the
positions of its tiles, the longest streams first, and of the numbers that bound its stream. All warps run
them.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.emit.expressions import inline
from napkin.emit.gluon.held import HeldPrinter
from napkin.emit.triton.spelling import as_integer, literal
from napkin.operators import POINTWISE, REDUCTIONS
from napkin.schedule.liveness import reads, writes
from napkin.schedule.order import uneven_axis
from napkin.schedule.program import Compute, EdgePosition, Fold, Load, Operation, Positions

_BAND = 8  # tiles of a band, measured on an H200 (docs/hopper.md)


class PlacePrinter(HeldPrinter):
    """Prints what finds a group's place."""

    def _edge(self, each: EdgePosition) -> str:
        """Return an edge of the tile at hand; one that is not of the place is of a consumer's own rows."""
        is_of_all = each in self.kernel.place
        if is_of_all or each.axis != self.kernel.rows or each.end == "first":
            return super()._edge(each)
        start = self.names.starts[each.axis]
        return f"tl.minimum({start} + ROWS, {self._size(each.axis)}) - 1"

    def row_values(self) -> tuple[Operation, ...]:
        """Return the operations of a group's place that make row values, or fold them."""
        return tuple(
            op
            for op in self.kernel.place
            if isinstance(op, Fold) or (isinstance(op, Compute | Load | Positions) and op.tile.dims)
        )

    def print_group(self) -> None:
        """Print the position of a group, and the whole numbers that its stream's ends need."""
        self._split(self.words.group)
        self._line("")
        values = self.row_values()
        behind = {name for op in values if isinstance(op, Fold) for name in [op.tile.name]}
        late: list[Operation] = []
        for op in self.kernel.place:
            if op not in values and behind & set(reads(op)):
                late.append(op)
                behind.add(writes(op) or "")
        early = [op for op in self.kernel.place if op not in values and op not in late]
        self._print_place(early)
        if values:
            self._fold_rows(values)
        self._print_place(late)

    def _print_place(self, operations: Sequence[Operation]) -> None:
        own = (op for op in self.kernel.prelude if isinstance(op, Compute))
        kept = {name for op in own for name in reads(op)}
        for each in inline(operations, self._read_elsewhere(operations) | kept):
            self._statement(each)

    def _fold_rows(self, values: Sequence[Operation]) -> None:
        """Print the least and greatest of row values, the rows of one consumer after the other."""
        folds = [op for op in values if isinstance(op, Fold)]
        for op in folds:
            unit = literal(as_integer(REDUCTIONS[op.operator].unit))
            self._line(f"{op.tile.name} = {unit}")
        if self.own_folds():
            for number in range(self.kernel.consumers):
                self._line(f"# rows of consumer {number}")
                self._fold_share(str(number), values, number)
            return
        self._line(f"for {self.words.consumer} in gl.static_range(CONSUMERS):")
        self.depth += 1
        self._fold_share(self.words.consumer, values, None)
        self.depth -= 1

    def _fold_share(self, share: str, values: Sequence[Operation], number: int | None) -> None:
        """Print what a consumer's share of the rows adds to the least and greatest of all.

        Where consumers need those of their own rows, they keep names by the consumer's number.
        """
        folds = [op for op in values if isinstance(op, Fold)]
        own = {(op.operator, op.source): self.by_consumer(op) for op in self.own_folds()}
        lane = f"tl.arange(0, ROWS, {self.words.rows})"
        self._line(f"{self.names.lanes[self.kernel.rows]} = {share} * ROWS + {lane}")
        made = [op for op in values if not isinstance(op, Fold)]
        for each in inline(made, {op.source for op in folds}):
            self._statement(each)
        for op in folds:
            self.tiles[op.tile.name] = op.tile
            joined = REDUCTIONS[op.operator].combine
            text = REDUCTIONS[op.operator].triton.format(op.source, 0)
            names = own.get((op.operator, op.source))
            if names is not None and number is not None:
                self._line(f"{names[number]} = {text}")
                text = names[number]
            name = op.tile.name
            self._line(f"{name} = {POINTWISE[joined].triton.format(name, text)}")

    def own_folds(self) -> tuple[Fold, ...]:
        """Return the least and greatest of a consumer's own rows' values, which it is handed."""
        return tuple(op for op in self.kernel.prelude if isinstance(op, Fold) and not op.tile.dims)

    def by_consumer(self, op: Fold) -> tuple[str, ...]:
        """Return the names of such a number of every consumer."""
        return tuple(f"{op.tile.name}_{number}" for number in range(self.kernel.consumers))

    def _split(self, number: str) -> None:
        """Split a group's number into tile starts, the fastest axis first.

        Where one axis has tiles with longer streams, the longest of all come first. Where that would have too
        many streams read at a time, they come in bands: a band's tiles read one stream together, from L2.
        """
        axes, axis = list(self.program.grid), uneven_axis(self.program)
        if self.program.band is not None:
            self._banded(number, self.program.band)
            return
        if axis is None:
            self._divide(number, axes)
            return
        words, from_end = self.words, axis in self.program.descending
        name, others = self.names.starts[axis], [each for each in axes if each != axis]
        streams = f"({' * '.join(self.count_of(each) for each in others) or '1'})"
        many = f"{streams} * {_BAND} > tl.num_programs(0)"
        self._line(f"{words.tiles} = {self.count_of(axis)}")
        self._line(f"{words.band} = tl.where({many}, {_BAND}, 1)")
        self._line(f"{words.whole} = {words.tiles} // {words.band} * {words.band}")
        inside = f"{number} < {words.whole} * {streams}"
        self._line(
            f"{words.behind} = tl.where({inside}, 0, {words.whole})  # the last band may be narrower"
        )
        self._line(
            f"{words.band} = tl.where({inside}, {words.band}, {words.tiles} - {words.whole})"
        )
        self._line(f"{number} = {number} - {words.behind} * {streams}")
        first, sign = (f"{words.tiles} - 1 - ", "-") if from_end else ("", "+")
        self._line(f"{name} = {first}{words.behind} {sign} {number} % {words.band}")
        self._line(f"{number} = {number} // {words.band}")
        self._divide(number, others, is_last=False)
        self._line(
            f"{name} = ({name} {sign} {number} * {words.band}) * {self._block(axis)}  # longest first"
        )

    def _divide(self, number: str, axes: Sequence[str], *, is_last: bool = True) -> None:
        """Print the position of every axis; the last one takes all that is left, if nothing follows."""
        for place, axis in enumerate(axes):
            name, count = self.names.starts[axis], self.count_of(axis)
            takes_all = is_last and place == len(axes) - 1
            index = number if takes_all else f"{number} % {count}"
            scalar = self.program.axis(axis).dim is None
            self._line(
                f"{name} = {index}" if scalar else f"{name} = ({index}) * {self._block(axis)}"
            )
            if not takes_all:
                self._line(f"{number} = {number} // {count}")
