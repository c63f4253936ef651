"""Which form of a kernel is printed: the plain loop, or warps that each have a role.

In: the kernels that a plan runs. Out: the same, each with its form and the reason for it. The
warp-specialised form is taken where a kernel has one, nothing asks for the plain loop, and its time is
predicted below the plain loop's or hardly above, or it adds to an output. Of its shapes it has the first that
fits; the next, if that one is in slices and the next is predicted to be no slower; a smaller one if the first
may spill and that one, which does not, is as fast by the prediction, or the first can't but spill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from math import inf

from napkin.schedule.forms.adding import adding_forms
from napkin.schedule.forms.shared_form import find_shared_form, has_shared_form
from napkin.schedule.forms.specialise import may_spill, must_spill, specialise_in_shapes
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import Form, KernelPlan
from napkin.schedule.timing.banding import in_best_order
from napkin.schedule.timing.occupancy import blocks_per_unit
from napkin.schedule.timing.predict import average_steps, predict
from napkin.schedule.timing.predict_adding import ADDING_PARTS
from napkin.schedule.timing.predict_roles import is_of_several, predict_roles

FASTER = "it is predicted to be faster than the plain loop"
NEARLY = "where the two were predicted so near it was faster than the plain loop"
ADDS = "threads add more slowly than is predicted of the plain loop"
BY_HAND = "its `on` block fixes the plain loop's tiles"
NEAR = 1.05  # of a plain loop's time: of five forms so near three were faster (docs/model.md)
_AS_FAST = 1.02  # nearer than predictions are to the truth (docs/model.md)
ASKED = "asked for in place of the warp-specialised form"
ASKED_LOOP = "asked for in place of the loop that reads operands from shared memory"
AS_FAST = "it was faster than Triton's own loop wherever both were timed"


def with_forms(kernels: Sequence[KernelPlan], *, by_hand: bool) -> tuple[KernelPlan, ...]:
    """Return a plan's kernels with the form of each; `by_hand` says that an `on` block fixes its tiles."""
    return tuple(_in_order(_with_form(each, by_hand=by_hand)) for each in kernels)


def in_plain_form(kernel: KernelPlan) -> KernelPlan:
    """Return the kernel as Triton's own loop."""
    if kernel.stead is not None:
        return replace(kernel.stead, why=ASKED_LOOP)
    return kernel if kernel.form is None else replace(kernel, form=None, why=ASKED)


def _with_form(kernel: KernelPlan, *, by_hand: bool) -> KernelPlan:
    found = find_form(kernel)
    if isinstance(found, str) and has_shared_form(kernel.machine):
        return _from_shared(kernel, by_hand=by_hand)
    if isinstance(found, str):
        return replace(kernel, form=None, why=found)
    if by_hand:
        return replace(kernel, form=None, why=BY_HAND)
    if found.prediction.seconds >= NEAR * kernel.prediction.seconds:
        if kernel.program.accumulated:
            return replace(kernel, form=found, why=ADDS)
        took = f"{found.prediction.seconds * 1e3:.3f} ms"
        return replace(kernel, form=None, why=f"warp-specialised it is predicted to take {took}")
    is_faster = found.prediction.seconds < kernel.prediction.seconds
    return replace(kernel, form=found, why=FASTER if is_faster else NEARLY)


def _from_shared(kernel: KernelPlan, *, by_hand: bool) -> KernelPlan:
    """Return the kernel as a loop that reads operands from shared memory, or as Triton's own."""
    found = find_shared_form(kernel)
    if isinstance(found, str):
        return replace(kernel, why=found)
    if by_hand:
        return replace(kernel, why=BY_HAND)
    return replace(found, why=AS_FAST)


def _in_order(kernel: KernelPlan) -> KernelPlan:
    """Return the kernel with its plain loop's groups in the order that moves the fewest bytes."""
    if kernel.loop is not None:
        return kernel  # bands have not been tried beside several blocks a unit
    machine, sizes, said = kernel.machine, dict(kernel.sizes), kernel.prediction
    blocks = blocks_per_unit(machine, kernel.warps, said.shared_bytes, said.registers)
    program = in_best_order(kernel.program, machine, sizes, machine.units * blocks)
    if program is not kernel.program:
        walked = average_steps(program, sizes)
        again = predict(program, machine, sizes, kernel.warps, walked)
        more = [each for each in said.parts if each[0] in ADDING_PARTS]
        seconds, parts = again.seconds + sum(each for _, each in more), (*again.parts, *more)
        said = replace(again, registers=said.registers, seconds=seconds, parts=parts)
        kernel = replace(kernel, program=program, prediction=said)
    return kernel


def _form_in_order(kernel: KernelPlan, form: Form) -> Form:
    """Return a form with its groups in the order that moves the fewest bytes."""
    machine, warps = kernel.machine, form.warps
    program = in_best_order(warps.program, machine, dict(kernel.sizes), machine.units)
    if program is warps.program:
        return form
    return _predicted(kernel, replace(warps, program=program))


def find_form(kernel: KernelPlan) -> Form | str:
    """Return the warp-specialised form of a kernel with its prediction, or in words why it has none."""
    adds = kernel.program.accumulated
    shapes = adding_forms(kernel) if adds else specialise_in_shapes(kernel)
    if isinstance(shapes, str):
        return shapes
    others: Iterator[Form] = (
        _predicted(kernel, each) for each in shapes
    )  # each is made once it is asked for
    first = next(others)
    if first.warps.cuts:
        for second in islice(others, 1):
            # A mask cuts more of taller tiles, and they may fill a wave less.
            is_slower = second.prediction.seconds > first.prediction.seconds
            first, others = (first, chain([second], others)) if is_slower else (second, others)
    if not adds and may_spill(first.warps):
        is_stuck = is_of_several(first.warps) and must_spill(first.warps)
        limit = inf if is_stuck else _AS_FAST * first.prediction.seconds
        fitting = [each for each in others if not may_spill(each.warps)]
        near = [each for each in fitting if each.prediction.seconds <= limit]
        if near:
            best = min(near, key=lambda each: each.prediction.seconds)
            return _form_in_order(kernel, best if is_stuck else near[0])
    return _form_in_order(kernel, first)


def _predicted(kernel: KernelPlan, warps: Specialised) -> Form:
    return Form(warps, predict_roles(warps, kernel.machine, dict(kernel.sizes)))
