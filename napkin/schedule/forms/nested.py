"""Streams whose steps walk a loop of contractions, as warp-specialised kernels.

In: a `KernelPlan` each of whose stream's steps first adds up contractions of what an inner loop loads (the
logits of a linear loss, over the width), or does nothing but that (a sum over heads and their columns). Out:
its `Specialised` forms, the best first, or in words why there is none.

The producer fills the rings for every chunk of the inner loop, through all of a group's steps, so that the
next step's chunks arrive while consumers do with the sums what a step does. Inside the inner loop
contractions run on into the next chunk, as in streams that only add; they are done where it ends.
The loops are walked in the order in which they stand.

It is not asked here whether this form is faster than the plain one.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.schedule.count import extent, tile_bytes
from napkin.schedule.forms.shapes import ROWS, Shape, tiling_of
from napkin.schedule.layout import build_layout
from napkin.schedule.liveness import entry_of, rename, writes
from napkin.schedule.lowering.bounds import join_bounds
from napkin.schedule.lowering.lower import lower
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Fill, Load, Loop, Operation, Program, Store, tiles_of, walk
from napkin.schedule.roles.barriers import Slot, finished_sums, with_barriers, with_running_sums
from napkin.schedule.roles.maker import BARRIER_BYTES, Maker
from napkin.schedule.roles.obstacles import find_obstacle, place_of
from napkin.schedule.roles.rotate import only_adds
from napkin.schedule.roles.warps import Chunks, Nest, Ring, Specialised
from napkin.schedule.tiling.kernel import KernelPlan, storage_types

_REGISTERS = (240, 24)  # of a consumer's and the producer's threads
_BESIDE_TILES = 44  # registers of addresses, bounds and row values, read off compiled kernels
_DEPTHS = (4, 3, 2)
_COMPUTING = tuple(Shape(2, ROWS, chunk, _DEPTHS) for chunk in (256, 128))
_ADDING = tuple(Shape(2, rows, 64, _DEPTHS) for rows in (2 * ROWS, ROWS))


def is_nested(program: Program) -> bool:
    """Return whether each of a program's loops has in every step one loop, which only adds."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    return bool(loops) and all(_inner(loop) is not None for loop in loops)


def nested_forms(kernel: KernelPlan, rows: str) -> tuple[Specialised, ...] | str:
    """Return the form of such a kernel in every shape that fits, or in words why it has none."""
    types = storage_types(kernel.derivation.diagram, kernel.dtype)
    limit = kernel.machine.limits.shared_per_block
    reason, fitting = "no chunk is small enough", []
    loops = (op for op in kernel.program.operations if isinstance(op, Loop))
    for shape in _ADDING if all(len(loop.body) == 1 for loop in loops) else _COMPUTING:
        found: list[Specialised] = []
        for stages in shape.stages:
            tiling = tiling_of(kernel, rows, shape, stages)
            layout = build_layout(kernel.derivation, dict(kernel.sizes), types, tiling)
            program = join_bounds(lower(kernel.derivation, layout))
            made = _in_shape(program, rows, shape, stages, limit)
            if isinstance(made, str):
                reason = made
            else:
                found.append(made)
        if found:  # the deepest rings of those whose stores go alike
            fitting.append(max(found, key=lambda each: len(each.staged)))
    return tuple(fitting) or reason


def _in_shape(
    program: Program, rows: str, shape: Shape, stages: int, limit: int
) -> Specialised | str:
    if not is_nested(program):
        return "a step walks more than a loop that adds"
    reason = find_obstacle(program, rows) or _obstacle(program)
    if reason is not None:
        return reason
    words = _words(program, shape.consumers)
    if words + _BESIDE_TILES > _REGISTERS[0]:
        return f"the tiles of a consumer take {words} registers a thread"
    made = _NestedMaker(program, rows, shape.consumers, stages).run(limit)
    if made.shared_bytes + BARRIER_BYTES > limit:
        return f"the rings take {made.shared_bytes} bytes of shared memory"
    return made


def _inner(loop: Loop) -> Loop | None:
    """Return the one loop of a step, if it only adds."""
    found = [op for op in loop.body if isinstance(op, Loop)]
    return found[0] if len(found) == 1 and only_adds(found[0].body) else None


def _obstacle(program: Program) -> str | None:
    """Return what of such a program the form has no way to do."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    places = [number for number, op in enumerate(program.operations) if isinstance(op, Loop)]
    if places != list(range(places[0], places[0] + len(places))):
        return "the stream is walked more than once"
    inside = {
        id(op) for loop in loops for each in loop.body if isinstance(each, Loop) for op in each.body
    }
    if any(_is_shared(op) for op in walk(program.operations) if id(op) not in inside):
        return "a step reads a shared tile beside its loop"
    if any(isinstance(op, Store) for loop in loops for op in loop.body):
        return "a step stores"
    made = {writes(op) for loop in loops for op in loop.body}
    inner = [op for loop in loops for op in loop.body if isinstance(op, Loop)]
    if any({each.start, each.stop} & made for each in inner):
        return "a step computes where its loop ends"
    return None


def _is_shared(op: Operation) -> bool:
    return isinstance(op, Load | Fill) and op.tile.level == "shared"


def _words(program: Program, consumers: int) -> int:
    """Return the registers of a thread that sums take, wherever they start, and the widest mask."""
    operations = walk(program.operations)
    sums = {op.tile.name: op.tile for op in operations if isinstance(op, Fill)}
    held = sum(tile_bytes(tile, program) for tile in sums.values() if len(tile.dims) == 2)
    masks = (t for t in tiles_of(operations) if t.storage == "bool" and len(t.dims) == 2)
    widest = max((extent(tile.dims, program) // 8 for tile in masks), default=0)
    return (held + widest) // (4 * 128 * consumers)


class _NestedMaker(Maker):
    """Puts such a kernel together: the inner loops fill the rings, and steps stand as they are."""

    def run(self, shared_limit: int) -> Specialised:
        """Put the parts together."""
        inner = [op for loop in self.loops for op in loop.body if isinstance(op, Loop)]
        rings = self._rings_of(inner[0])
        staged = self._staged(rings, shared_limit)
        place = place_of(self.program)
        prelude, drain = self._ends(place, rings, staged, {})
        taken = {tile.name for tile in tiles_of(self.program.operations)}
        names = Names(RESERVED | taken)
        nests = tuple(self._nest(loop, rings, names) for loop in inner)
        slots = {name: slot for _, found in nests for name, slot in found.items()}
        return Specialised(
            self.program,
            self.rows,
            self.consumers,
            rings,
            staged,
            tuple(slots.items()),
            place,
            prelude,
            tuple(
                Chunks(loop, with_barriers(loop.body, {}, frozenset()), False)
                for loop in self.loops
            ),
            drain,
            _REGISTERS,
            nests=tuple(nest for nest, _ in nests),
        )

    def _rings_of(self, inner: Loop) -> tuple[Ring, ...]:
        loads = [op for op in inner.body if isinstance(op, Load)]
        return tuple(self._ring(op.buffer or f"{op.array.lower()}_buffer", op) for op in loads)

    def _nest(
        self, loop: Loop, rings: Sequence[Ring], names: Names
    ) -> tuple[Nest, dict[str, Slot]]:
        """Return a step's loop with a consumer's steps, and the slots of the tiles that they read.

        What its first chunk reads has names of its own: a name that is set before a loop is carried by it.
        """
        ring_of = {ring.load.array: ring.name for ring in rings}
        loads = [op for op in loop.body if isinstance(op, Load)]
        slots = {op.tile.name: Slot(ring_of[op.array], 0) for op in loads}
        kept = entry_of(loop.body)
        made = [tile.name for tile in tiles_of(loop.body) if tile.name not in kept]
        new = {name: names.fresh(f"{name}_first") for name in dict.fromkeys(made)}
        first = tuple(rename(op, new) for op in loop.body)
        early = {new[name]: slot for name, slot in slots.items()}
        nest = Nest(
            loop,
            with_running_sums(first, early, is_first=True),
            with_running_sums(loop.body, slots, is_first=False),
            finished_sums(loop.body, slots),
        )
        return nest, slots | early
