"""The functions of a warp-specialised kernel: a `Specialised` kernel as lines of Python.

In: a `Specialised` kernel. Out: `ModuleText`, four functions. `place` finds a group's position and the
ends of its stream; `produce` runs on one warp and fills the rings; `consume` runs on every warpgroup that
computes; the kernel allocates, makes the barriers and starts them. What a function takes is what its lines
name; `place` gives back what its callers read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from napkin.emit.gluon.lanes import keep_by_lane
from napkin.emit.gluon.lines import listed, without_unused, wrapped
from napkin.emit.gluon.names import name_all
from napkin.emit.gluon.rows import matrix_layout
from napkin.emit.gluon.walks import WalkPrinter
from napkin.emit.triton.spelling import Spelling, spell, uses
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.program import Region, tiles_of
from napkin.schedule.roles.barriers import TakeTurn
from napkin.schedule.roles.warps import Chunks, Ring, Specialised

_HELPERS = {"group", "hand_over", "handed_over", "pass_turn", "rounds", "take_turn"}
_UNPACK = "unpack the group's place"
_CHUNKS = {
    Region.FULL: "stream {axis}: chunks that need no mask",
    Region.PARTIAL: "stream {axis}: chunks that a mask or the end cuts",
}
_PASSED = "stream {axis}: chunks that none of these rows sees"


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the module, printed."""

    name: str
    parameters: tuple[str, ...]
    body: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """What a descriptor copies at a time: its extents by name, and its layout in shared memory."""

    array: str
    extents: tuple[str, ...]
    swizzle: int
    bits: int


@dataclass(frozen=True, slots=True)
class ModuleText:
    """A kernel's functions, callees first and itself last, its constants, helpers and boxes.

    `counter` is the parameter that groups are taken from, if they are.
    """

    functions: tuple[Function, ...]
    constants: tuple[tuple[str, str], ...]
    helpers: frozenset[str]
    boxes: tuple[Box, ...]
    spelling: Spelling
    counter: str | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """What the kernel takes."""
        return self.functions[-1].parameters


def print_functions(kernel: Specialised, name: str, *, approximate: bool) -> ModuleText:
    """Return the functions of a kernel called `name`."""
    by_lane, lane = keep_by_lane(kernel)
    words = name_all(by_lane, spell(by_lane.program), name)
    return ModulePrinter(by_lane, lane, words, approximate=approximate).print_module()


class ModulePrinter(WalkPrinter):
    def print_module(self) -> ModuleText:
        """Print the functions: their lines say what they take, and what `place` gives them."""
        place = self._lines(self.print_group)
        produce, consume = self._lines(self._produce), self._lines(self._consume)
        given = self._given(place, (*produce, *consume))
        place = [*without_unused(place, given), f"    return {listed(given)}"]
        words = self.words
        rows = (f"{words.rows}: gl.constexpr",) if self.row_values() else ()
        parts = [self._function(words.place, (words.group, *rows), place)]
        own = (f"{words.consumer}: gl.constexpr",)
        walks = ((words.produce, (), 1, produce), (words.consume, own, 4, consume))
        for name, mine, warps, lines in (*walks, *self._other_walks()):
            whole = [
                part for line in lines for part in self._unpacked(line, parts[0], given, warps)
            ]
            parts.append(self._function(name, mine, whole))
        if self.is_dispatched:
            call = self._call_place(parts[0], 1)
            lines = self._lines(lambda: self.print_dispatch(call, given))
            parts.append(self._function(words.dispatch, (), lines))
        kernel = self._lines(lambda: self._kernel(parts[1:], given))
        parts.append(self._function(words.kernel, (), kernel))
        boxes = self._boxes()
        helpers = self._helpers(parts)
        counter = words.counter if self.is_dispatched else None
        constants = self._constants(parts, boxes)
        return ModuleText(tuple(parts), constants, helpers, boxes, self.names, counter)

    def _other_walks(self) -> Iterator[tuple[str, tuple[str, ...], int, list[str]]]:
        """Yield other partitions that walk groups: names, own parameters, warps and lines."""
        yield from ()

    def _call_place(self, place: Function, warps: int) -> str:
        """Return a call of `place` by a partition of so many warps, which hold its row values."""
        rows = [f"gl.BlockedLayout([1], [32], [{warps}], [0])"] if self.row_values() else []
        passed = place.parameters[1 + len(rows) :]
        group = self.words.group if self.is_dispatched else f"_group({self.words.turn})"
        return f"{self.words.place}({', '.join((group, *rows, *passed))})"

    def _unpacked(self, line: str, place: Function, given: Sequence[str], warps: int) -> list[str]:
        """Return a line, the group's place in the stead of the one that stands for it."""
        if line.strip() != _UNPACK:
            return [line]
        if not self.is_dispatched:
            return [line.replace(_UNPACK, f"{', '.join(given)} = {self._call_place(place, warps)}")]
        return [line.replace(_UNPACK, each) for each in self.taken_over(given, warps)]

    def _lines(self, part: Callable[[], None]) -> list[str]:
        """Return the lines that a part prints, in Gluon's spelling: `gl` has what `tl` has."""
        self.text.body, self.depth = [], 1
        part()
        self._drop_unused_lanes()
        return [re.sub(r"\btl\.", "gl.", line) for line in self.text.body]

    def _given(self, place: Sequence[str], lines: Sequence[str]) -> list[str]:
        """Return the positions and numbers that callers read of a group's place."""
        text = "\n".join(lines)
        assigned = {line.partition(" = ")[0].strip() for line in place}  # the rest was put in place
        starts = [self.names.starts[axis] for axis in reversed(self.program.grid)]
        made = [tile.name for tile in tiles_of(self.kernel.place) if not tile.dims]
        names = dict.fromkeys((*starts, *made))
        found = [name for name in names if name in assigned and uses(text, name)]
        return [*found, *(name for op in self.own_folds() for name in self.by_consumer(op))]

    def _function(self, name: str, own: tuple[str, ...], lines: Sequence[str]) -> Function:
        """Return a function with what its lines name of all that is passed on."""
        text = "\n".join(lines)
        made = {match for line in lines for match in re.findall(r"^\s*(\w+) = ", line)}
        passed = (each for each in self._passable() if uses(text, each) and each not in made)
        return Function(
            name, (*own, *passed), tuple(part for line in lines for part in wrapped(line))
        )

    def _passable(self) -> list[str]:
        """Return everything that a function may take, in signature order."""
        spelled, words = self.names, self.words
        arrays = (*self.program.arrays, *self.program.outputs)
        names: list[str] = []
        for array in arrays:
            names += [spelled.descriptors[array.name], spelled.pointers[array.name]]
        names += [spelled.scalars[name] for name, _ in self.program.scalars]
        names += [spelled.strides[array.name, axis] for array in arrays for axis in array.axes]
        names += spelled.sizes.values()
        for ring in self.rings:
            names += [words.buffers[ring], words.full[ring], words.empty[ring]]
        handed = (words.place_buffer, words.place_full, words.place_empty)
        found = [words.counter, *names, *words.stages.values(), *handed, words.groups]
        return list(dict.fromkeys(found))

    def _helpers(self, functions: Sequence[Function]) -> frozenset[str]:
        text = "\n".join(line for each in functions for line in each.body)
        return frozenset(self.text.helpers | {each for each in _HELPERS if uses(text, f"_{each}")})

    def _constants(
        self, functions: Sequence[Function], boxes: Sequence[Box]
    ) -> tuple[tuple[str, str], ...]:
        """Return the module's constants that something names: extents, then layouts."""
        kernel, words = self.kernel, self.words
        found = {
            "CONSUMERS": str(kernel.consumers),
            "ROWS": str(self.program.dim(kernel.rows).extent // kernel.consumers),
            "STAGES": str(kernel.stages),
        }
        found |= {name: str(self._extent(key)) for key, name in self.names.blocks.items()}
        found |= {name: str(self.panels[dim].width) for dim, name in words.panels.items()}
        for dims, name in words.layouts.items():
            found[name] = matrix_layout(kernel, dims)
        found[words.row_layout] = f"gl.SliceLayout(1, {words.layouts[self.home()]})"
        found |= {
            words.counts[ring.name]: str(ring.slots) for ring in kernel.rings if ring.resident
        }
        lines = [line for each in functions for line in each.body]
        text = "\n".join(
            [*lines, *found.values(), *(name for box in boxes for name in box.extents)]
        )
        return tuple((name, value) for name, value in found.items() if uses(text, name))

    def _boxes(self) -> tuple[Box, ...]:
        """Return what every descriptor copies."""
        shares = [(ring.load.array, ring.by_rows) for ring in self.kernel.rings]
        vectors = {ring.load.array for ring in self.kernel.rings if ring.is_vector}
        shares += [(each.store.array, True) for each in self.kernel.staged]
        found: dict[str, Box] = {}
        for name, by_rows in shares:
            array = self.program.array(name)
            size = TYPE_BYTES[array.dtype]
            last = self.program.axis(array.axes[-1])
            in_panels = last.axis in self.panels
            width = size * (self.panels[last.axis].width if in_panels else last.tile)
            swizzle = next(each for each in (128, 64, 32, width) if width % each == 0)
            swizzle = 0 if name in vectors else swizzle
            found[name] = Box(name, self.box(array, by_rows=by_rows), swizzle, 8 * size)
        return tuple(found.values())

    # --- the kernel -------------------------------------------------------------------------------

    def _kernel(self, partitions: Sequence[Function], given: Sequence[str]) -> None:
        words = self.words
        counts = " * ".join(self.count_of(axis) for axis in self.program.grid) or "1"
        self._line(f"{words.groups} = {counts}")
        for name, ring in self.rings.items():
            box = self.box(self.program.array(ring.load.array), by_rows=ring.by_rows)
            count = self._slot_count(ring)
            count += " * CONSUMERS" if ring.by_rows and not ring.resident else ""
            count += f" * {self.panel_count(ring)}" if self.panel_count(ring) > 1 else ""
            self._allocate(words.buffers[name], ring.load.array, (count, *box))
        for array, name in words.stages.items():
            box = self.box(self.program.array(array), by_rows=True)
            self._allocate(name, array, ("CONSUMERS", *box))
        self._line("")
        for name, ring in self.rings.items():
            if ring.leader is None:
                self._barriers(words.full[name], words.empty[name], ring)
        if self.is_dispatched:
            self.print_handing_over(1 + len(given))
        self._line("")
        self._start_partitions(*partitions)

    def _allocate(self, name: str, array: str, shape: Sequence[str]) -> None:
        box = self.names.descriptors[array]
        self._line(
            f"{name} = gl.allocate_shared_memory({box}.dtype, [{', '.join(shape)}], {box}.layout)"
        )

    def _slot_count(self, ring: Ring) -> str:
        """Return the number of a ring's slots by name."""
        if not ring.resident:
            return "STAGES"
        if ring.slots > self._filled(ring):
            return self.words.counts[ring.name]
        return "CONSUMERS" if ring.by_rows else "1"

    def _barriers(self, full: str, empty: str, ring: Ring) -> None:
        count, slot = self._slot_count(ring), self.words.slot
        layout = "mbarrier.MBarrierLayout()"
        for name in (full, empty):
            self._line(f"{name} = gl.allocate_shared_memory(gl.int64, [{count}, 1], {layout})")
        self._line(f"for {slot} in gl.static_range({count}):")
        self._line(f"    mbarrier.init({full}.index({slot}), count=1)")
        self._line(f"    mbarrier.init({empty}.index({slot}), count={ring.arrivals})")

    def _start_partitions(self, produce: Function, consume: Function, *others: Function) -> None:
        """Print the partitions: consumers, the first of them in the kernel's own warps, then single warps."""
        count = self.kernel.consumers
        self._line("gl.warp_specialize(")
        self._line("    [")
        for number in range(count):
            arguments = ", ".join((str(number), *consume.parameters[1:]))
            self._line(f"        ({consume.name}, ({arguments})),")
        for each in (produce, *others):
            self._line(f"        ({each.name}, ({', '.join(each.parameters)})),")
        self._line("    ],")
        mine, producers = self.kernel.registers
        alone = 1 + len(others)
        self._line(f"    {[4] * (count - 1) + [1] * alone},")
        self._line(f"    {[mine] * (count - 1) + [producers] * alone},")
        self._line(")")

    # --- the producer -----------------------------------------------------------------------------

    def _produce(self) -> None:
        words = self.words
        self._groups(warps=1)
        for ring in self.rings.values():
            if ring.resident and ring.by_rows:
                self._line(f"for {words.consumer} in gl.static_range(CONSUMERS):")
                self.depth += 1
            if ring.resident:
                self.print_ring_place(ring)
                self._fill_slot(ring, *self.resident_slot(ring))
                self.depth = 2
        start = self.names.starts[self.kernel.chunks[0].loop.axis]
        self._line(f"for {start} in {self._all_chunks()}:")
        self.depth += 1
        self._line(f"{words.slot} = {words.step} % STAGES")
        self._line(f"{words.phase} = {words.step} // STAGES & 1")
        for ring in self.rings.values():
            if not ring.resident:
                self._fill_slot(ring, words.slot, words.phase)
        self._line(f"{words.step} += 1")
        self.depth -= 1
        self.print_next_group(warps=1)

    def _groups(self, warps: int) -> None:
        """Print the head of the walk over groups of a partition of so many warps."""
        self._line(f"{self.words.step} = 0")
        self.print_groups(_UNPACK, warps)

    def _fill_slot(self, ring: Ring, slot: str, phase: str) -> None:
        """Print the wait for an empty slot and the copy into it."""
        words, box = self.words, self.names.descriptors[ring.load.array]
        full = f"{words.full[ring.name]}.index({slot})"
        number = self.box_number(ring, slot, words.panel)
        buffer = f"{words.buffers[ring.name]}.index({number})"
        corner = ", ".join(self._corner(ring, axis) for axis in ring.load.indices)
        panels = self.panel_count(ring)
        if ring.leader is None:
            led = [each for each in self.rings.values() if ring.name in (each.name, each.leader)]
            self._line(f"mbarrier.wait({words.empty[ring.name]}.index({slot}), {phase} ^ 1)")
            self._line(f"mbarrier.expect({full}, {' + '.join(map(self._slot_bytes, led))})")
        depth = self.depth
        if ring.by_rows and not ring.resident:
            self._line(f"for {words.consumer} in gl.static_range(CONSUMERS):")
            self.depth += 1
        if panels > 1:
            self._line(f"for {words.panel} in gl.static_range({panels}):")
            self.depth += 1
        self._line(f"tma.async_copy_global_to_shared({box}, [{corner}], {full}, {buffer})")
        self.depth = depth

    def _slot_bytes(self, ring: Ring) -> str:
        """Return the bytes that fill a slot, by the boxes that are copied."""
        boxes = "CONSUMERS * " if ring.by_rows and not ring.resident else ""
        panels = f"{self.panel_count(ring)} * " if self.panel_count(ring) > 1 else ""
        return f"{boxes}{panels}{self.names.descriptors[ring.load.array]}.block_type.nbytes"

    def _corner(self, ring: Ring, axis: str) -> str:
        """Return where a slot's tile starts along an axis."""
        mine = ring.by_rows and axis == self.kernel.rows
        if axis in self.words.panels:
            return f"{self.words.panel} * {self.words.panels[axis]}"
        return f"{self._start(axis)} + {self.words.consumer} * ROWS" if mine else self._start(axis)

    # --- a consumer -------------------------------------------------------------------------------

    def _consume(self) -> None:
        words, kernel = self.words, self.kernel
        if any(isinstance(step, TakeTurn) for each in kernel.chunks for step in each.steps):
            self._line(f"if {words.consumer} == CONSUMERS - 1:")
            self._line(f"    _pass_turn({words.consumer}, CONSUMERS)  # the first one's turn")
        self._groups(warps=4)
        start = self.names.starts[kernel.rows]
        self._line(f"{start} = {start} + {words.consumer} * ROWS")
        self._lanes()
        for ring in kernel.rings:
            if ring.resident:
                self.print_ring_place(ring)
                self.view(ring.load.tile.name, ring, self.resident_slot(ring)[0])
        self.print_prelude()
        for each in kernel.chunks:
            self._chunks(each)
        self._line("")
        self._line(f"# {self._left_to_do(each)}")
        self.print_counters(kernel.drain)
        self.print_steps(kernel.drain)
        for each in kernel.behind:
            self._chunks(each)
        self.print_next_group(warps=4)
        if self.words.stages:
            self.depth -= 1
            self._line("tma.store_wait(0)")

    def _lanes(self) -> None:
        known = {self.kernel.rows, *(dims[1] for dims in self.words.layouts)}
        for dim in self.program.dims:
            if dim.name in known and len(dim.axes) == 1:
                extent, layout = self._extent_of(dim.name), self.layout((dim.name,))
                self._line(f"{self.names.lanes[dim.name]} = tl.arange(0, {extent}, {layout})")

    def _chunks(self, each: Chunks) -> None:
        """Print one chunk alone, or a loop over chunks from the last to the first."""
        loop, start = each.loop, self.names.starts[each.loop.axis]
        self._line("")
        if each.is_single:
            self._line(f"# stream {loop.axis}: the last chunk, with nothing to add yet")
            self._line(f"{start} = {self._leaf(loop.start, ())}")
        else:
            what = _CHUNKS[loop.region] if loop.body else _PASSED
            self._line(f"# {what.format(axis=loop.axis)}")
            for name in self.carried if loop.body else ():
                self._line(f"{name} = {self._helper('packed', '_packed', [name])}")
            self._line(f"for {start} in {self._range(self._from_end(loop), loop)}:")
            self.depth += 1
        self.print_counters(each.steps)
        self.print_steps(each.steps)
        self._line(f"{self.words.step} += 1")
        self.depth = 2
