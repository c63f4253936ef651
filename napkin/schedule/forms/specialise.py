"""A kernel shared out between warps: one that copies, and warpgroups that compute, each a share of the rows.

In: a `KernelPlan`. Out: a `Specialised` kernel, or the reason why there is none. It is everything that a
warp-specialised kernel does, decided: its tiles, the rings that the producer fills and who empties them,
the consumers' steps in order with their barriers and turns, registers, the stores that go through shared
memory. The work of a group is the rotated Program (`rotate`), which the NumPy executor runs as well.

Of the `shapes` that a kernel may have it takes the first whose sums, a chunk of scores and their rounded copy
fit a consumer's registers, and whose rings fit shared memory.

It is not asked here whether this form is faster than the plain one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from napkin.schedule.forms.nested import is_nested, nested_forms
from napkin.schedule.forms.shapes import ROWS, Shape, row_axis, shapes_of, tiling_of
from napkin.schedule.layout import build_layout
from napkin.schedule.lowering.bounds import join_bounds
from napkin.schedule.lowering.lower import lower
from napkin.schedule.program import EdgePosition, Load, Program
from napkin.schedule.roles.held import with_held_operands, with_held_rows
from napkin.schedule.roles.lag import moves_many_sums, with_lagging_references
from napkin.schedule.roles.led import with_chunks_together, with_led_vectors
from napkin.schedule.roles.maker import BARRIER_BYTES
from napkin.schedule.roles.obstacles import BESIDE_TILES, find_obstacle, tile_registers
from napkin.schedule.roles.passing import Passing
from napkin.schedule.roles.rotate import descend, rotate
from napkin.schedule.roles.slicing import Slicing, registers_beside
from napkin.schedule.roles.vectors import in_every_loop
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import KernelPlan, storage_types


def specialise(kernel: KernelPlan) -> Specialised | str:
    """Return the warp-specialised form of a kernel in its first shape, or in words why it has none."""
    found = specialise_in_shapes(kernel)
    return found if isinstance(found, str) else next(found)


def specialise_in_shapes(kernel: KernelPlan) -> Iterator[Specialised] | str:
    """Return the form of a kernel in every shape that fits, or in words why it has none.

    All but the first are made once they are asked for: mostly nobody does.
    """
    if not (kernel.machine.has("tma") and kernel.machine.has("wgmma")):
        return f"{kernel.machine.name} has no copy engine or no warpgroup contractions"
    rows = row_axis(kernel)
    if rows is None:
        return "no tile of rows is shared by every contraction"
    if dict(kernel.sizes)[rows] < ROWS:
        return f"`{rows}` fills no consumer: it is {dict(kernel.sizes)[rows]} long"
    if is_nested(kernel.program):
        nested = nested_forms(kernel, rows)
        return nested if isinstance(nested, str) else iter(nested)
    reason = "no chunk is small enough"
    tried = (_in_shape(kernel, rows, shape) for shape in shapes_of(kernel))
    for first in tried:
        if not isinstance(first, str):
            return chain([first], (each for each in tried if not isinstance(each, str)))
        reason = first
    return reason


def _in_shape(kernel: KernelPlan, rows: str, shape: Shape) -> Specialised | str:
    """Return the form of a kernel in a shape, or in words why it has none."""
    types = storage_types(kernel.derivation.diagram, kernel.dtype)
    limit = kernel.machine.limits.shared_per_block
    reason, found = "", list[Specialised]()
    for stages in shape.stages:
        tiling = tiling_of(kernel, rows, shape, stages)
        layout = build_layout(kernel.derivation, dict(kernel.sizes), types, tiling)
        program = lower(kernel.derivation, layout)
        made = specialise_program(program, rows, shape, limit, stages)
        if isinstance(made, str):
            reason = made
        else:
            found.append(_in_registers(made, kernel, shape))
    if not found:
        return reason
    return max(
        found, key=lambda each: len(each.staged)
    )  # the deepest rings of those whose stores go alike


def _in_registers(form: Specialised, kernel: KernelPlan, shape: Shape) -> Specialised:
    """Return a form with operands in registers and masks that take few, where it was faster so.

    In short chunks shared memory would bind. Where a mask bounds the stream it is tested a comparison at a
    time, and rows are held that fit whole.
    """
    together = with_chunks_together(form)
    if together is not form:
        return replace(together, tests_apart=form.tests_apart or shape.is_short)
    if shape.is_short:
        held = with_held_operands(with_led_vectors(form), kernel.machine)
        return replace(held, tests_apart=True)
    by_mask = any(isinstance(op, EdgePosition) for op in form.place)
    by_data = any(isinstance(op, Load) for op in form.place)
    delayed = not form.cuts and not form.parts
    if not by_mask or by_data or not delayed:
        return form
    return with_held_rows(replace(form, tests_apart=True))


def may_spill(form: Specialised) -> bool:
    """Return whether a consumer's tiles fit its registers only if a step's scores are made in parts."""
    words = tile_registers(form.program, form.consumers, together=True)
    return words + BESIDE_TILES[form.consumers] > form.registers[0]


def must_spill(form: Specialised) -> bool:
    """Return whether what a step needs at once takes all of a consumer's registers."""
    words = tile_registers(form.program, form.consumers, together=True)
    return words >= form.registers[0]


# --- a program --------------------------------------------------------------------------------------


def specialise_program(
    program: Program, rows: str, shape: Shape, shared_limit: int, stages: int
) -> Specialised | str:
    """Return the form of a program with these tiles and rings so deep, or in words why it has none."""
    order = descend if shape.is_sliced else rotate
    rotated = order(in_every_loop(join_bounds(program)))
    if isinstance(rotated, str):
        return rotated
    reason = find_obstacle(rotated, rows, reads_rows=True)
    if reason is not None:
        return reason
    maker = Slicing if shape.is_sliced else Passing
    parts = maker(rotated, rows, shape.consumers, stages)
    made = parts.run(shared_limit)
    if made.shared_bytes + BARRIER_BYTES > shared_limit:
        return f"the rings take {made.shared_bytes} bytes of shared memory"
    has_pairs = isinstance(parts, Passing) and parts.is_paired
    words = tile_registers(rotated, shape.consumers, masks=not has_pairs)
    words += registers_beside(rotated, shape.consumers) if shape.is_sliced else 0
    if words + BESIDE_TILES[shape.consumers] > made.registers[0]:
        return f"the tiles of a consumer take {words} registers a thread"
    if moves_many_sums(rotated) and not may_spill(made):
        lagging = with_lagging_references(rotated)
        return maker(lagging, rows, shape.consumers, stages).run(shared_limit)
    return made
