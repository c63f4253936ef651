"""Warp-specialised kernels that add to an output: consumers share what they sum, the copy engine adds."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from napkin.algebra.derive import derive
from napkin.algebra.gradient import differentiate
from napkin.diagram import Diagram
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.evaluate import reference
from napkin.machine import load_machine
from napkin.operators import Kind
from napkin.runtime.inspect import inspect_specialised
from napkin.schedule.forms.adding import adding_forms
from napkin.schedule.forms.form import find_form
from napkin.schedule.forms.specialise import must_spill
from napkin.schedule.planning.plan import make_plan
from napkin.schedule.program import Compute, Dot, Loop, Store, walk
from napkin.schedule.roles.adding_steps import cut_at_end
from napkin.schedule.roles.barriers import Await, Release, Share
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import Form, KernelPlan
from tests.programs import arguments_of, diagram_of, example, run
from tests.test_adding import SCORES, adding, backward, found_for, text_of

needs_triton = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)


@cache
def kernel_of(diagram: Diagram) -> KernelPlan:
    """Return the kernel that adds to one output in a form, of the first plan that has one."""
    return next(
        each
        for option in found_for(diagram, "hopper").adding
        for each in option.kernels
        if len(each.program.accumulated) == 1 and not isinstance(adding_forms(each), str)
    )


def of_head(diagram: Diagram, head: int) -> Diagram:
    return replace(diagram, sizes=tuple((dict(diagram.sizes) | {"d": head, "v": head}).items()))


def forms_of(kernel: KernelPlan) -> tuple[Specialised, ...]:
    found = adding_forms(kernel)
    assert not isinstance(found, str), found
    return found


def meeting_form_of(kernel: KernelPlan) -> Specialised:
    """Return the first form whose consumers contract the parts."""
    return next(form for form in forms_of(kernel) if form.adder is None)


def test_the_parts_sum_the_rows_of_all_consumers() -> None:
    kernel = kernel_of(diagram_of(text_of()))
    form = meeting_form_of(kernel)
    (part,) = form.parts
    assert part.tile.dims == ("x", "q")
    assert part.arrays == kernel.program.accumulated
    rings = {ring.load.array: ring for ring in form.rings}
    assert rings["E"].slots == 1  # summed over its rows: those of all consumers lie in one slot
    assert not rings["E"].by_rows
    assert rings["C"].by_rows
    for chunks in form.chunks:
        (share,) = (step for step in chunks.steps if isinstance(step, Share))
        place = chunks.steps.index(share)
        part_dots = [
            i
            for i, step in enumerate(chunks.steps)
            if isinstance(step, Dot) and step.left == share.tile.name and step.over == "x"
        ]
        assert part_dots
        assert min(part_dots) > place


def test_chunks_that_differ_in_what_the_copy_engine_masks_are_one_loop() -> None:
    full, causal = (kernel_of(diagram_of(text_of(score))) for score in SCORES[:2])
    assert [len(meeting_form_of(each).chunks) for each in (full, causal)] == [1, 2]


@pytest.mark.parametrize("score", SCORES)
def test_a_form_s_program_gives_what_the_reference_gives(score: str) -> None:
    kernel = kernel_of(diagram_of(text_of(score)))
    piece = kernel.derivation.diagram
    sizes = {"b": 2, "q": 150, "x": 190, "d": 64, "e": 64}
    arguments = arguments_of(piece, sizes, {}, 0)
    for form in forms_of(kernel):
        got = run(form.program, arguments, sizes).outputs
        for name, wanted in reference(piece, arguments).items():
            atol = 1e-9 * np.abs(wanted).max()
            np.testing.assert_allclose(got[name], wanted, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("name", ["attention", "causal", "window"])
@pytest.mark.parametrize("head", [64, 128])
def test_threads_add_what_every_loop_leaves_registers_for(name: str, head: int) -> None:
    form = meeting_form_of(kernel_of(of_head(backward(name), head)))
    staged = {each.store.array for each in form.staged}
    by_threads = not staged & set(form.program.accumulated)
    assert by_threads == (name == "attention" or (name == "causal" and head == 128))


def test_a_form_adds_by_the_copy_engine_to_zeros() -> None:
    kernel = kernel_of(of_head(backward("causal"), 64))
    text = emit_gluon(plan_in_form(kernel, meeting_form_of(kernel)))
    ast.parse(text)
    added = sum(
        isinstance(op, Store) and op.adds for op in walk(meeting_form_of(kernel).program.operations)
    )
    loops = sum(isinstance(op, Loop) for op in meeting_form_of(kernel).program.operations)
    assert added == loops
    assert text.count("_add_tile(") == 1 + added
    assert [part.slots for part in meeting_form_of(kernel).parts] == [2]
    assert text.count("_meet()") == 1 + added
    assert "torch.zeros(" in text


def test_threads_add_to_zeros_by_vectors() -> None:
    kernel = kernel_of(of_head(backward("attention"), 64))
    text = emit_gluon(plan_in_form(kernel, meeting_form_of(kernel)))
    ast.parse(text)
    assert "_add_tile(" not in text
    assert text.count("gl.atomic_add(") == 1
    assert "torch.zeros(" in text


def test_why_there_is_no_form_is_told() -> None:
    narrow = text_of().replace("e=64", "e=32")
    reasons = {
        "no copy engine": adding(diagram_of(text_of()), "ampere"),
        "no box that the copy engine could add to": adding(diagram_of(narrow)),
    }
    for reason, plan in reasons.items():
        kernel = next(each for each in plan.kernels if each.program.accumulated)
        assert reason in str(find_form(kernel))


@pytest.mark.parametrize(("name", "slots"), [("attention", 2), ("causal", 2), ("window", 1)])
@pytest.mark.parametrize("head", [64, 128])
def test_what_is_shared_has_a_slot_a_stage_unless_several_loops_mask(
    name: str, slots: int, head: int
) -> None:
    (part,) = meeting_form_of(kernel_of(of_head(backward(name), head))).parts
    assert part.slots == slots


@pytest.mark.parametrize("name", ["attention", "causal", "window"])
@pytest.mark.parametrize("head", [64, 128])
def test_what_arrives_with_a_chunk_is_filled_and_emptied_together(name: str, head: int) -> None:
    kernel = kernel_of(of_head(backward(name), head))
    form = meeting_form_of(kernel)
    streamed = {ring.name: ring for ring in form.rings if not ring.resident}
    (leader,) = (ring.name for ring in streamed.values() if ring.leader is None)
    assert len(streamed) == 4  # two matrices, and a statistic of each
    assert {ring.leader for ring in streamed.values()} == {None, leader}
    for chunks in form.chunks:
        handled = [
            step
            for step in chunks.steps
            if isinstance(step, Await | Release) and step.slot.ring in streamed
        ]
        assert {step.slot.ring for step in handled} == {leader}
        assert sum(isinstance(step, Release) for step in handled) == 1
    text = emit_gluon(plan_in_form(kernel, form))
    ast.parse(text)
    assert text.count(" = gl.allocate_shared_memory(gl.int64, [STAGES, 1]") == 2


@pytest.mark.parametrize(
    ("head", "left", "right"),
    [
        (64, ".slice(consumer * ROWS, ROWS, 1).permute((1, 0))", "k_buffer.index(zero)"),
        (128, ".permute((1, 0))", ".slice(consumer * SHARE_D, SHARE_D, 1)"),
    ],
)
def test_consumers_share_out_the_rows_of_a_part_if_each_has_enough(
    head: int, left: str, right: str
) -> None:
    kernel = kernel_of(of_head(backward("attention"), head))
    text = emit_gluon(plan_in_form(kernel, meeting_form_of(kernel)))
    (made,) = (part for part in text.split("warpgroup_mma(") if "_shared.index(" in part[:40])
    assert left in made
    assert right in made
    assert (
        ", [], [64, 64])" in text
    )  # half the rows of a chunk of 128, half the columns of one of 64


@pytest.mark.parametrize("name", ["causal", "window", "sinks", "gqa"])
def test_the_one_pass_form_is_found_among_cuts_of_as_little_work(name: str) -> None:
    kernel = kernel_of(of_head(backward(name), 128))
    assert len(kernel.program.accumulated) == 1  # dQ, before it is scaled
    assert len(kernel.program.outputs) == 3


@pytest.mark.parametrize("name", ["attention", "causal"])
def test_a_kernel_in_its_form_takes_in_what_it_computes_for_others(name: str) -> None:
    machine = load_machine("hopper")
    plan = make_plan(derive(of_head(backward(name), 128)), machine, deterministic=True)
    formed = {
        tuple(each.name for each in kernel.program.outputs): kernel.form is not None
        for kernel in plan.kernels
    }
    assert formed == {("sum_v", "dQ"): True, ("dK", "dV"): True}


@pytest.mark.parametrize("head", [64, 128])
def test_short_contractions_that_wait_for_one_another_take_longer(head: int) -> None:
    found = found_for(of_head(backward("attention"), head), "hopper")
    (apart,) = found.apart
    forms = [find_form(each) for each in apart.kernels if len(each.program.outputs[0].axes) == 4]
    for form in forms:
        assert isinstance(form, Form)
        waits = "waiting for short contractions" in dict(form.prediction.parts)
        assert waits == (head == 64)
        assert not must_spill(form.warps)
    assert len(forms) == 2


@pytest.mark.parametrize("name", ["document", "packed"])
def test_values_of_positions_come_by_a_ring_and_groups_are_handed_out(name: str) -> None:
    diagram = differentiate(example(name), ("Q", "K", "V")).backward
    sizes = {**dict(diagram.sizes), "q": 16384, "x": 16384}
    plan = make_plan(derive(diagram), load_machine("hopper"), sizes=sizes, deterministic=False)
    (kernel,) = (each for each in plan.kernels if each.program.accumulated)
    assert kernel.form is not None
    form = kernel.form.warps
    assert form.dispatched
    whole = [ring for ring in form.rings if ring.load.tile.kind is Kind.INT]
    assert [ring.is_vector for ring in whole] == [True]
    text = emit_gluon(plan_in_form(kernel, form))
    ast.parse(text)
    assert "_hand_over(" in text


SPILLED = {
    ("attention", 64): 72,
    ("attention", 128): 24,
    ("causal", 128): 212,
    ("sinks", 128): 212,
}  # bytes


@needs_triton
@pytest.mark.parametrize("name", ["attention", "causal", "sinks"])
@pytest.mark.parametrize("head", [64, 128])
def test_a_backward_in_one_pass_spills_no_more_than_what_was_measured(name: str, head: int) -> None:
    kernel = kernel_of(of_head(backward(name), head))
    assert {"dK", "dV"} <= {each.name for each in kernel.program.outputs}
    found = inspect_specialised(kernel, meeting_form_of(kernel))
    assert found.spill_store_bytes + found.spill_load_bytes <= SPILLED.get((name, head), 0)
    assert not found.warnings
    assert found.unwritten == ()
    by_threads = {each.store.array for each in meeting_form_of(kernel).staged}.isdisjoint(
        kernel.program.accumulated
    )
    assert found.instructions["REDG" if by_threads else "UTMAREDG"]
    assert by_threads == (not found.instructions["UTMAREDG"])
    assert found.instructions["HGMMA"]


def test_a_choice_by_the_stream_s_end_takes_no_loop_of_its_own() -> None:
    kernel = kernel_of(of_head(backward("alibi"), 128))
    form = meeting_form_of(kernel)
    _, rest = form.chunks
    by_end = cut_at_end(rest.loop.body, "q")
    (choice,) = (op for op in rest.loop.body if isinstance(op, Compute) and op.tile.name in by_end)
    assert choice.tile.dims == ("q",)  # what exponents are measured against: no score is chosen
    text = emit_gluon(plan_in_form(kernel, form))
    assert text.count('gl.where(offs_q < size_q, t23, float("inf"))') == 1
    assert "gl.atomic_add(" in text  # two loops leave room for addresses
    piece = kernel.derivation.diagram
    for length in (1, 65, 200):
        sizes = dict(kernel.sizes) | {"b": 1, "h": 2, "q": length, "x": length}
        arguments = arguments_of(piece, sizes, {}, 0)
        got = run(form.program, arguments, sizes).outputs
        for name, wanted in reference(piece, arguments).items():
            assert np.abs(got[name] - wanted).max() <= 0.02 * np.abs(wanted).max(), (name, length)


@needs_triton
@pytest.mark.parametrize(
    ("name", "bytes_spilled"),
    [("attention", 32), ("causal", 68), ("window", 184), ("document", 84)],
)
def test_gradients_of_keys_and_values_in_pairs_wait_for_no_registers(
    name: str, bytes_spilled: int
) -> None:
    plan = make_plan(derive(of_head(backward(name), 128)), load_machine("h200"), deterministic=True)
    (kernel,) = (each for each in plan.kernels if each.program.outputs[-1].name == "dV")
    assert kernel.form is not None
    found = inspect_specialised(kernel, kernel.form.warps)
    assert found.spill_store_bytes <= bytes_spilled
    assert found.warnings == ()  # that contractions are serialised for want of registers
