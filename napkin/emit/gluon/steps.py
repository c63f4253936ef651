"""A consumer's steps as lines of Gluon: operations with layouts, barriers, turns, asynchronous contractions.

In: a `Specialised` kernel and its names. Out: a printer of steps. Operators, pointers and masks are
printed as the plain Triton printer prints them. What Gluon adds: every tile has a layout in registers,
that of the contraction's result over its dims, and slices of it for values of rows and of columns; a
contraction reads its operands from slots of shared memory, its left one from registers if it was computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import assert_never

from napkin.emit.expressions import Define, Statement, inline
from napkin.emit.gluon.names import GluonNames
from napkin.emit.triton.body import BodyPrinter
from napkin.emit.triton.spelling import TRITON_TYPES, as_integer, literal
from napkin.language.errors import InternalError
from napkin.operators import Kind
from napkin.schedule.barriers import (
    Await,
    Finish,
    PassTurn,
    Release,
    Share,
    Slice,
    Slot,
    Step,
    Sync,
    TakeTurn,
)
from napkin.schedule.liveness import entry_of, reads
from napkin.schedule.panels import panels_of
from napkin.schedule.program import (
    Array,
    Assign,
    Dot,
    Fill,
    Fold,
    Load,
    Loop,
    Operation,
    Store,
    Tile,
    walk,
)
from napkin.schedule.warps import Ring, Specialised, Staged

_SYNC = (Await, Release, Finish, TakeTurn, PassTurn, Share, Slice)


class StepPrinter(BodyPrinter):
    """Prints lists of steps; tensors' rows are one consumer's share."""

    def __init__(
        self, kernel: Specialised, lane: str | None, names: GluonNames, *, approximate: bool
    ) -> None:
        super().__init__(kernel.program, approximate=approximate)
        self.kernel = kernel
        self.lane = lane
        self.words = names
        self.rings = {ring.name: ring for ring in kernel.rings}
        self.slots = dict(kernel.slots)
        self.dots = [op for op in walk(self.program.operations) if isinstance(op, Dot)]
        self.staged = {each.store.array: each for each in kernel.staged}
        self.cuts = dict(kernel.cuts)
        self.carried = self._carried()
        self.bound: set[str] = set()
        self.panels = panels_of(self.program)
        self.issued: list[int] = []  # asynchronous contractions of every `Dot` of a list

    def _carried(self) -> dict[str, Tile]:
        """Return the operands in registers that are carried over to the next chunk."""
        lefts = {dot.left for dot in self.dots} - set(self.slots)
        fills = [op.tile for op in self.program.operations if isinstance(op, Fill)]
        return {tile.name: tile for tile in fills if tile.name in lefts}

    def print_steps(self, steps: Sequence[Step]) -> None:
        """Print operations, single-use computations inside their reader, and what stands between them."""
        self.bound, self.issued = set(), []
        operations: list[Operation] = [each for each in steps if not isinstance(each, _SYNC)]
        cut = {each.source for each in steps if isinstance(each, Slice)}
        statements = inline(operations, self._read_elsewhere(operations) | cut)
        place = 0
        for each in steps:
            if isinstance(each, _SYNC):
                self._sync(each)
            elif place < len(statements) and _stands_for(statements[place], each):
                self._statement(statements[place])
                place += 1

    def _read_elsewhere(self, operations: Sequence[Operation]) -> frozenset[str]:
        """Return the names that other lists read of this one: they keep a line of their own."""
        mine = {id(op) for op in operations}
        read = {name for op in self.program.operations if id(op) not in mine for name in reads(op)}
        loops = (op for op in self.program.operations if isinstance(op, Loop))
        return frozenset(read.union(*(entry_of(loop.body) for loop in loops)))

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
            case Share():
                raise InternalError("what consumers share is printed by a printer of its own")
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

    def _slot(self, slot: Slot) -> tuple[str, str]:
        """Return a slot's index and the phase of its full barrier."""
        words, ring = self.words, self.rings[slot.ring]
        if ring.resident:
            return self.resident_slot(ring)
        if slot.age:
            return words.last_slot, words.last_phase
        return words.slot, words.phase

    def resident_slot(self, ring: Ring) -> tuple[str, str]:
        """Return the slot and the phase of a ring that is filled once a group."""
        if ring.slots > self._filled(ring):
            return self.words.places[ring.name]
        return (self.words.consumer if ring.by_rows else "0"), f"({self.words.turn} & 1)"

    def print_ring_place(self, ring: Ring) -> None:
        """Print the slot and the phase of a resident ring that holds more than one group's tiles."""
        if ring.slots <= self._filled(ring):
            return
        words, count = self.words, self.words.counts[ring.name]
        slot, phase = words.places[ring.name]
        number = f"({words.turn} * CONSUMERS + {words.consumer})" if ring.by_rows else words.turn
        self._line(f"{slot} = {number} % {count}")
        self._line(f"{phase} = {number} // {count} & 1")

    def _filled(self, ring: Ring) -> int:
        """Return the slots of a resident ring that a group fills."""
        return self.kernel.consumers if ring.by_rows else 1

    # --- shapes and layouts -------------------------------------------------------------------------

    def box(self, array: Array, *, by_rows: bool) -> tuple[str, ...]:
        """Return the box of an array that one copy moves: extents by name, 1 along scalar axes."""
        return tuple(
            "1" if self.program.axis(axis).dim is None else self._box_extent(axis, by_rows=by_rows)
            for axis in array.axes
        )

    def _box_extent(self, key: str, *, by_rows: bool) -> str:
        """Return the extent of a box along a dim by name: a panel's width, where it lies in panels."""
        found = self.words.panels.get(key)
        return self._extent_of(key, by_rows=by_rows) if found is None else found

    def panel_count(self, ring: Ring) -> int:
        """Return the boxes that make up a tile in a slot."""
        return prod(self.panels[dim].count for dim in ring.load.tile.dims if dim in self.panels)

    def _extent_of(self, key: str, *, by_rows: bool = True) -> str:
        """Return the extent of a dim (or axis) by name: a consumer holds its share of the rows."""
        return "ROWS" if by_rows and key == self.kernel.rows else self._block(key)

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

    def _bind_slot(self, name: str) -> None:
        """Name the slot that a contraction reads as a matrix, once a list."""
        slot = self.slots.get(name)
        if slot is None or name in self.bound or self.rings[slot.ring].resident:
            return
        self.bound.add(name)
        self.view(name, self.rings[slot.ring], self._slot(slot)[0])

    def box_number(self, ring: Ring, slot: str, panel: str) -> str:
        """Return a box's number in a ring: a streamed slot by rows holds those of every consumer."""
        count = self.panel_count(ring)
        if not ring.resident and ring.by_rows:
            slot = f"{slot} * CONSUMERS + {self.words.consumer}"
            slot = f"({slot})" if count > 1 else slot
        return slot if count == 1 else f"{slot} * {count} + {panel}"

    def view(self, name: str, ring: Ring, slot: str) -> None:
        """Name a slot as a matrix."""
        dims = ring.load.tile.dims
        shape = tuple(self._box_extent(dim, by_rows=ring.by_rows) for dim in dims)
        for panel, part in enumerate(self.words.panel_tiles.get(name, (name,))):
            number = self.box_number(ring, slot, str(panel))
            text = f"{self.words.buffers[ring.name]}.index({number})"
            if shape != self.box(self.program.array(ring.load.array), by_rows=ring.by_rows):
                text += f".reshape([{', '.join(shape)}])"
            self._line(f"{part} = {text}")

    def _assign(self, each: Assign) -> None:
        target = self.carried.get(each.target)
        if target is None:
            self._line(f"{each.target} = {each.source}")
            return
        dot = next(dot for dot in self.dots if dot.left == each.target)
        self.tiles[each.target] = target
        self._line(f"{each.target} = {self._as_left(each.source, dot)}")

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
        return f"{view}.reshape({self._shape(each.tile.dims)}).load({self.layout(each.tile.dims)})"

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


def _stands_for(statement: Statement, operation: Operation) -> bool:
    """Return whether a statement is an operation, or the expression that ends in it."""
    if isinstance(statement, Define):
        return not isinstance(operation, Assign | Store) and _tile(operation) is statement.tile
    return statement is operation


def _tile(operation: Operation) -> Tile | None:
    return getattr(operation, "tile", None)
