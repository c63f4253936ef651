"""Which form of a kernel is printed: the plain loop, or warps that each have a role.

In: the kernels that a plan runs. Out: the same, each with its form and the reason for it. The
warp-specialised form is taken where a kernel has one, nothing asks for the plain loop, and its time is
predicted below the plain loop's or it adds to an output. Of its shapes it has the first that fits; the next,
if that one is in slices and the next is predicted to be no slower; a smaller one if the first may spill and
that one, which does not, is as fast by the prediction, or the first can't but spill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from napkin.schedule.count import extent
from napkin.schedule.forms.adding import adding_forms
from napkin.schedule.forms.shared_form import find_shared_form, has_shared_form
from napkin.schedule.forms.specialise import may_spill, must_spill, specialise_in_shapes
from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import Dot, Operation
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import Form, KernelPlan
from napkin.schedule.timing.banding import in_best_order
from napkin.schedule.timing.occupancy import blocks_per_unit
from napkin.schedule.timing.predict import Prediction, average_steps, predict, predict_specialised
from napkin.schedule.timing.predict_adding import ADDING_PARTS, predict_adding

FASTER = "it is predicted to be faster than the plain loop"
ADDS = "threads add more slowly than is predicted of the plain loop"
BY_HAND = "its `on` block fixes the plain loop's tiles"
_AS_FAST = 1.02  # nearer than predictions are to the truth (docs/model.md)
# Columns of sums, and times as long as predicted: kernels of gradients at heads of 64 took 1.08 to 1.32.
_NARROW, _SLOWER = 64, 1.2
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
    if found.prediction.seconds >= kernel.prediction.seconds:
        if kernel.program.accumulated:
            return replace(kernel, form=found, why=ADDS)
        took = f"{found.prediction.seconds * 1e3:.3f} ms"
        return replace(kernel, form=None, why=f"warp-specialised it is predicted to take {took}")
    return replace(kernel, form=found, why=FASTER)


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
    first, *others = (_predicted(kernel, each) for each in shapes)
    if first.warps.cuts and others and others[0].prediction.seconds <= first.prediction.seconds:
        first, *others = others  # a mask cuts more of taller tiles, and they may fill a wave less
    if not adds and may_spill(first.warps):
        is_stuck = _is_of_several(first.warps) and must_spill(first.warps)
        limit = inf if is_stuck else _AS_FAST * first.prediction.seconds
        fitting = [each for each in others if not may_spill(each.warps)]
        near = [each for each in fitting if each.prediction.seconds <= limit]
        if near:
            best = min(near, key=lambda each: each.prediction.seconds)
            return _form_in_order(kernel, best if is_stuck else near[0])
    return _form_in_order(kernel, first)


def _predicted(kernel: KernelPlan, warps: Specialised) -> Form:
    if warps.parts:
        return Form(warps, predict_adding(warps, kernel.machine, dict(kernel.sizes)))
    needs = (warps.consumers, warps.shared_bytes)
    shares_slot = any(each.ring is not None for each in warps.staged)
    sizes = dict(kernel.sizes)
    said = predict_specialised(
        warps.program,
        kernel.machine,
        sizes,
        *needs,
        shares_slot=shares_slot,
        is_sliced=bool(warps.cuts),
    )
    is_slower = _is_of_several(warps) and _has_narrow_sums(warps)
    return Form(warps, _with_narrow_sums(said) if is_slower else said)


def _is_of_several(warps: Specialised) -> bool:
    """Return whether a step's sum takes what is made of several contractions."""
    body = _body(warps)
    made_of: dict[str, frozenset[str]] = {}
    for op in body:
        name = writes(op)
        if name is not None:
            is_score = isinstance(op, Dot) and op.accumulator is None
            read = (made_of.get(each, frozenset()) for each in reads(op))
            made_of[name] = frozenset({name}) if is_score else frozenset().union(*read)
    return any(len(made_of.get(dot.left, ())) > 1 for dot in _sums(body))


def _has_narrow_sums(warps: Specialised) -> bool:
    return all(extent(dot.tile.dims[1:], warps.program) <= _NARROW for dot in _sums(_body(warps)))


def _body(warps: Specialised) -> tuple[Operation, ...]:
    return next((each.loop.body for each in reversed(warps.chunks) if each.loop.body), ())


def _sums(body: Sequence[Operation]) -> list[Dot]:
    return [op for op in body if isinstance(op, Dot) and op.accumulator is not None]


def _with_narrow_sums(said: Prediction) -> Prediction:
    """Return the prediction of a step whose short contractions wait for one another."""
    more = (_SLOWER - 1) * said.seconds
    parts = (*said.parts, ("waiting for short contractions", more))
    return replace(said, seconds=said.seconds + more, parts=parts)
