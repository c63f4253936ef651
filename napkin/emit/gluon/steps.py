"""A consumer's steps as lines of Gluon: operations with layouts, barriers, turns, asynchronous contractions.

In: a `Specialised` kernel and its names. Out: a printer of steps. Operators, pointers and masks are
printed as the plain Triton printer prints them. What Gluon adds: every tile has a layout in registers,
that of the contraction's result over its dims, and slices of it for values of rows and of columns; a
contraction reads its operands from slots of shared memory, its left one from registers if it was computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from napkin.emit.expressions import Define, Statement, inline
from napkin.emit.gluon.masks import tests_apart, whole_conditions, without_tests
from napkin.emit.gluon.names import GluonNames
from napkin.emit.gluon.slots import SlotPrinter
from napkin.emit.triton.spelling import NARROW, TRITON_TYPES, as_integer, literal
from napkin.language.errors import InternalError
from napkin.operators import Kind
from napkin.schedule.liveness import entry_of, reads
from napkin.schedule.program import (
    Assign,
    Dot,
    Fill,
    Fold,
    Load,
    Loop,
    Operand,
    Operation,
    Store,
    Tile,
    walk,
)
from napkin.schedule.roles.barriers import (
    Ahead,
    Await,
    Finish,
    PassTurn,
    Release,
    Share,
    Slice,
    Step,
    Sync,
    TakeTurn,
)
from napkin.schedule.roles.warps import Specialised, Staged

_SYNC = (Await, Release, Finish, TakeTurn, PassTurn, Share, Ahead, Slice)


class StepPrinter(SlotPrinter):
    """Prints lists of steps; tensors' rows are one consumer's share."""

    def __init__(
        self, kernel: Specialised, lane: str | None, names: GluonNames, *, approximate: bool
    ) -> None:
        super().__init__(kernel, names, approximate=approximate)
        self.lane = lane
        self.dots = [op for op in walk(self.program.operations) if isinstance(op, Dot)]
        self.staged = {each.store.array: each for each in kernel.staged}
        self.cuts = dict(kernel.cuts)
        self.carried = self._carried()
        self.issued: list[int] = []  # asynchronous contractions of every `Dot` of a list

    @property
    def tests_apart(self) -> bool:
        """Whether the form's masks are tested a comparison at a time."""
        return self.kernel.tests_apart and super().tests_apart

    def _carried(self) -> dict[str, Tile]:
        """Return the operands in registers that are carried over to the next chunk."""
        lefts = {dot.left for dot in self.dots} - set(self.slots)
        fills = [op.tile for op in self.program.operations if isinstance(op, Fill)]
        return {tile.name: tile for tile in fills if tile.name in lefts}

    def print_steps(self, steps: Sequence[Step]) -> None:
        """Print operations, single-use computations inside their reader, and what stands between them."""
        self.bound, self.issued = set(), []
        cut = {each.source for each in steps if isinstance(each, Slice)}
        kept = cut | self._read_elsewhere([each for each in steps if not isinstance(each, _SYNC)])
        if self.tests_apart:
            found = whole_conditions(
                steps, kept, lambda dim: self.program.dim(dim).extent, self.tiles
            )
            steps = tests_apart(without_tests(steps, found), kept)
            kept |= {name for each in found for name in each.sides}
            self.whole = {each.condition: each for each in found}
        statements = inline([each for each in steps if not isinstance(each, _SYNC)], kept)
        place = 0
        for each in steps:
            if isinstance(each, _SYNC):
                self._sync(each)
            elif place < len(statements) and stands_for(statements[place], each):
                self._statement(statements[place])
                place += 1

    def _read_elsewhere(self, operations: Sequence[Operation]) -> frozenset[str]:
        """Return the names that other lists read of this one: they keep a line of their own."""
        mine = {id(op) for op in operations}
        read = {name for op in self.program.operations if id(op) not in mine for name in reads(op)}
        loops = [op for op in self.program.operations if isinstance(op, Loop)]
        bounds = (reads(each.loop) for each in self.kernel.chunks)
        return frozenset(read.union(*bounds, *(entry_of(loop.body) for loop in loops)))

    def print_counters(self, steps: Sequence[Step]) -> None:
        """Print which slots of the rings the steps are about to use."""
        words = self.words
        slots = [each.slot for each in steps if isinstance(each, (Await, Release))]
        ages = {slot.age for slot in slots if not self.rings[slot.ring].resident}
        awaited = {each.slot.age for each in steps if isinstance(each, Await)}
        if 0 in ages:
            self._line(f"{words.slot} = {words.step} % STAGES")
            self._line(f"{words.phase} = {words.step} // STAGES & 1")
        if 1 in ages:
            self._line(f"{words.last_slot} = ({words.step} - 1) % STAGES")
        if 1 in ages & awaited:
            self._line(f"{words.last_phase} = ({words.step} - 1) // STAGES & 1")

    # --- barriers ---------------------------------------------------------------------------------

    def _sync(self, each: Sync) -> None:
        words = self.words
        match each:
            case Await():
                slot, phase = self._slot(each.slot)
                self._line(f"mbarrier.wait({words.full[each.slot.ring]}.index({slot}), {phase})")
            case Release():
                slot, _ = self._slot(each.slot)
                self._line(f"mbarrier.arrive({words.empty[each.slot.ring]}.index({slot}), count=1)")
            case Finish():
                names = ", ".join(each.tiles)
                behind = sum(self.issued[-each.behind :]) if each.behind else 0
                self._line(f"{names} = warpgroup_mma_wait({behind}, [{names}])")
            case TakeTurn():
                self._line(f"_take_turn({words.consumer}, CONSUMERS)")
            case PassTurn():
                self._line(f"_pass_turn({words.consumer}, CONSUMERS)")
            case Slice():
                self._slice(each)
            case Share() | Ahead():
                raise InternalError("what adds to an output is printed by a printer of its own")
            case _:
                assert_never(each)

    def _slice(self, each: Slice) -> None:
        """Print one of the slices of a tile's columns, or of the positions that a slot holds."""
        self.tiles[each.tile.name], dims = each.tile, each.tile.dims
        is_row = len(dims) == 1  # read from its slot whole, as no contraction's operand is
        if each.source not in self.slots or is_row:
            place = f"{each.number}, {each.count.bit_length() - 1}, {self.layout(dims)}"
            text = self._helper("slice", "_slice", [each.source, place])
        else:
            self._bind_slot(each.source)
            self.bound.add(each.tile.name)
            axis = next(axis for axis, dim in enumerate(dims) if dim in self.cuts)
            width = self._block(dims[axis])
            text = f"{each.source}.slice({each.number} * {width}, {width}, dim={axis})"
        self._line(f"{each.tile.name} = {text}")

    # --- shapes and layouts -------------------------------------------------------------------------

    def _shape(self, dims: Sequence[str]) -> str:
        return f"[{', '.join(self._extent_of(dim) for dim in dims)}]"

    def layout(self, dims: tuple[str, ...]) -> str:
        """Return the layout that tiles over these dims are kept in."""
        if self.lane in dims:
            kept = next(tile for tile in self.tiles.values() if self.lane in tile.dims)
            return f"{kept.name}.type.layout"
        if dims in self.words.layouts:
            return self.words.layouts[dims]
        if dims == (self.kernel.rows,):
            return self.words.row_layout
        parent = next(each for each in self.words.layouts if each[1:] == dims)
        return f"gl.SliceLayout(0, {self.words.layouts[parent]})"

    def home(self) -> tuple[str, ...]:
        """Return the dims of the result whose slice row values are kept in: the first contraction's."""
        return next(iter(self.words.layouts))

    def _expand(self, text: str, dims: tuple[str, ...], target: tuple[str, ...]) -> str:
        if dims == (self.kernel.rows,) and len(target) == 2 and target != self.home():
            row = f"gl.SliceLayout(1, {self.layout(target)})"
            text = f"tl.convert_layout({text}, {row})"
        return super()._expand(text, dims, target)

    def _leaf(self, operand: Operand, dims: tuple[str, ...]) -> str:
        """Return an operand; elements of a tile that lies in a slot for contractions are read from there."""
        slot = self.slots.get(operand) if isinstance(operand, str) else None
        if slot is None or operand in self.tiles:
            return super()._leaf(operand, dims)
        tile = self.rings[slot.ring].load.tile
        text = f"{operand}.load({self.layout(tile.dims)})"
        text += ".to(tl.float32)" if tile.storage in NARROW else ""
        return self._expand(text, tile.dims, dims)

    # --- operations -------------------------------------------------------------------------------

    def _statement(self, each: Statement) -> None:
        match each:
            case Assign():
                self._assign(each)
            case Fill() if each.tile.name in self.carried:
                self.tiles[each.tile.name] = each.tile
            case Dot():
                for side in (each.left, each.right):
                    self._bind_slot(side)
                self.issued.append(self.panels[each.over].count if each.over in self.panels else 1)
                super()._statement(each)
            case _:
                super()._statement(each)

    def _assign(self, each: Assign) -> None:
        """Print what a state takes; an operand stays packed on its way to the next chunk."""
        target = self.carried.get(each.target)
        if target is None:
            self._line(f"{each.target} = {each.source}")
            return
        dot = next(dot for dot in self.dots if dot.left == each.target)
        self.tiles[each.target] = target
        operand = self._as_left(each.source, dot)
        if self._contracts_twice():
            operand = self._helper("packed", "_packed", [operand])
        self._line(f"{each.target} = {operand}")

    def _contracts_twice(self) -> bool:
        """Tell whether a chunk is contracted in its own step and in the next one, as in gradients in order.

        There the compiler takes what is carried apart at a step's end, and packs it in the next.
        """
        sides = {side for dot in self.dots for side in (dot.left, dot.right)}
        read = [slot for name, slot in self.slots.items() if name in sides]
        rings = [{slot.ring for slot in read if slot.age == age} for age in (0, 1)]
        return bool(rings[0] & rings[1])

    def _as_left(self, source: str, dot: Dot) -> str:
        """Return a computed tile as a contraction's left operand: rounded, in its own layout."""
        kind = TRITON_TYPES[dot.operand_type]
        operand = f"gl.DotOperandLayout(0, {self.words.layouts[dot.tile.dims]}, 2)"
        return f"tl.convert_layout({source}.to({kind}), {operand})"

    def _dot(self, each: Dot) -> str:
        result = each.accumulator
        if each.over not in self.panels:
            return self._contracted(self._left(each), self._right(each), result, each)
        parts = (self.words.panel_tiles[side] for side in (each.left, each.right))
        for left, right in zip(*parts, strict=True):
            sides = self._turned(left, each, each.left, 1), self._turned(right, each, each.right, 0)
            result = self._contracted(*sides, result, each)
        assert result is not None
        return result

    def _contracted(self, left: str, right: str, result: str | None, each: Dot) -> str:
        """Return a contraction added to a result, or without one by itself."""
        if result is not None:
            return f"warpgroup_mma({left}, {right}, {result}, is_async=True)"
        zeros = (
            f"tl.zeros({self._shape(each.tile.dims)}, tl.float32, {self.layout(each.tile.dims)})"
        )
        return f"warpgroup_mma({left}, {right}, {zeros}, use_acc=False, is_async=True)"

    def _turned(self, part: str, dot: Dot, side: str, place: int) -> str:
        """Return a side's part as it is contracted: transposed unless its dim `place` is the one."""
        dims = self.rings[self.slots[side].ring].load.tile.dims
        is_so = dims[place] == self.cuts.get(dot.over, dot.over)
        return part if is_so else f"{part}.permute((1, 0))"

    def _left(self, dot: Dot) -> str:
        if dot.left in self.slots:
            return self._turned(dot.left, dot, dot.left, 1)
        if dot.left not in self.carried:
            return self._as_left(dot.left, dot)
        first = next(each for each in self.dots if each.left == dot.left)
        if first.tile.dims == dot.tile.dims:
            return dot.left
        layout = f"gl.DotOperandLayout(0, {self.words.layouts[dot.tile.dims]}, 2)"
        return f"tl.convert_layout({dot.left}, {layout})"

    def _right(self, dot: Dot) -> str:
        return self._turned(dot.right, dot, dot.right, 0)

    def _fill(self, each: Fill) -> str:
        if self.lane in each.tile.dims:
            home = self.home()
            zeros = f"tl.zeros({self._shape(home)}, tl.float32, {self.layout(home)})"
            return self._helper("lane_sum", "_lane_sum", [zeros])
        value = as_integer(each.value) if each.tile.kind is Kind.INT else each.value
        kind, layout = TRITON_TYPES[each.tile.storage], self.layout(each.tile.dims)
        return f"tl.full({self._shape(each.tile.dims)}, {literal(value)}, {kind}, {layout})"

    def _fold(self, each: Fold) -> str:
        if self.lane in each.tile.dims:
            text = self._helper("lane_sum", "_lane_sum", [each.source])
            is_home = self.tiles[each.source].dims == self.home()
            return text if is_home else f"tl.convert_layout({text}, {self.layout(each.tile.dims)})"
        text = super()._fold(each)
        if each.tile.dims == (self.kernel.rows,) and self.tiles[each.source].dims != self.home():
            return f"tl.convert_layout({text}, {self.words.row_layout})"
        return text

    def _load(self, each: Load) -> str:
        slot = self.slots.get(each.tile.name)
        if slot is None:
            return super()._load(each)
        view = f"{self.words.buffers[slot.ring]}.index({self._slot(slot)[0]})"
        text = f"{view}.reshape({self._shape(each.tile.dims)}).load({self.layout(each.tile.dims)})"
        return f"{text} != 0" if each.tile.kind is Kind.BOOL else text

    # --- stores -----------------------------------------------------------------------------------

    def _store(self, each: Store) -> None:
        staged = self.staged.get(each.array)
        if staged is None:
            super()._store(each)
            return
        self._store_staged(each, staged)

    def _store_staged(self, each: Store, staged: Staged) -> None:
        """Print a store by the copy engine, which leaves out what lies past an end."""
        words, array = self.words, self.program.array(each.array)
        box = self.box(array, by_rows=True)
        name = words.stages[each.array] if staged.ring is None else words.buffers[staged.ring]
        number = (
            words.consumer
            if staged.ring is None
            else self.resident_slot(self.rings[staged.ring])[0]
        )
        slot = f"{name}.index({number})"
        matrix = tuple(self._extent_of(dim) for dim in each.source_dims)
        if staged.ring is not None:
            other = self.box(self.program.array(self.rings[staged.ring].load.array), by_rows=True)
            if len(other) != len(box):
                slot += f".reshape([{', '.join(box)}])"
        view = slot if matrix == box else f"{slot}.reshape([{', '.join(matrix)}])"
        corner = ", ".join(self._start(axis) for axis in array.axes)
        value = f"{self._leaf(each.source, each.source_dims)}.to({TRITON_TYPES[array.dtype]})"
        if staged.ring is None:
            self._line("tma.store_wait(0)")  # of the group before
        self._line(f"{view}.store({value})")
        self._line("fence_async_shared()")
        descriptor = self.names.descriptors[each.array]
        self._line(f"tma.async_copy_shared_to_global({descriptor}, [{corner}], {slot})")
        if staged.ring is not None:
            self._line("tma.store_wait(0)")


def stands_for(statement: Statement, operation: Operation) -> bool:
    """Return whether a statement is an operation, or the expression that ends in it."""
    if isinstance(statement, Define):
        return not isinstance(operation, Assign | Store) and _tile(operation) is statement.tile
    return statement is operation


def _tile(operation: Operation) -> Tile | None:
    return getattr(operation, "tile", None)
