"""Sums that are added up in memory: one kernel that walks two axes gives outputs that sum either one."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import napkin
from napkin.algebra.cut import cut
from napkin.algebra.derive import derive
from napkin.algebra.gradient import differentiate
from napkin.algebra.parts import added_axes, core_sum
from napkin.diagram import Diagram
from napkin.emit.pseudo import pseudo_of_plan
from napkin.emit.triton import emit_triton
from napkin.evaluate import reference
from napkin.language.errors import InternalError, NapkinError
from napkin.machine import load_machine
from napkin.runtime import operator_kernels
from napkin.runtime.launch import layout_of
from napkin.schedule.count import totals
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.planning.cost import cost_of
from napkin.schedule.planning.cuts import Found, Setting, find_cut
from napkin.schedule.planning.plan import Plan, make_plan, storage_types
from tests.gradients import backward_arguments, relative_error, seeds_of
from tests.programs import ROOT, Tiles, arguments_of, diagram_of, example, lower_by, run, sizes_of
from tests.test_schedule_cuts import run_kernels

# Two outputs over one intermediate of two long axes: U sums the one, W the other.
BOTH = """diagram both(A[b q d], C[b x d], E[b x e], F[b q e]) -> U[b q e], W[b x e]
    S[b q x] = {score}
    U[b q e] = sum[x](S * E){tail}
    W[b x e] = sum[q](S * F)
sizes b=4 q=8192 x=8192 d=64 e=64
"""
SCORES = (
    "exp(sum[d](A * C))",
    "where(x <= q, exp(sum[d](A * C)), 0)",
    "where(q - x < 40 and x <= q, sum[d](A * C), 0)",
    "1 / (1 + sum[d](A * C) ** 2)",
)


def text_of(score: str = SCORES[0], tail: str = " * 0.5") -> str:
    return BOTH.format(score=score, tail=tail)


def found_for(diagram: Diagram, machine: str, dtype: str = "bf16") -> Found:
    lengths = sizes_of(diagram, dict(diagram.sizes), 4096)
    found = find_cut(diagram, Setting(load_machine(machine), lengths, lengths, dtype), None)
    assert isinstance(found, Found)
    return found


def adding(diagram: Diagram, machine: str = "hopper", dtype: str = "bf16") -> Plan:
    """Return the plan that adds up sums in memory, as plain loops, whether or not it is the faster one."""
    found = found_for(diagram, machine, dtype)
    lengths = sizes_of(diagram, dict(diagram.sizes), 4096)
    return Plan(
        diagram, load_machine(machine), tuple(lengths.items()), dtype, found.adding[0].kernels
    )


@cache
def backward(name: str, dtype: str | None = "bf16") -> Diagram:
    """Return the backward of an example by its matrices, at lengths that ask for several kernels."""
    made = differentiate(example(name), ("Q", "K", "V")).backward
    sizes = {
        axis: {"q": 4096, "x": 4096, "d": 64, "v": 64, "h": 16}.get(axis, 4) for axis in made.axes
    }
    outputs = tuple(replace(each, dtype=dtype) for each in made.outputs)
    return replace(made, outputs=outputs, sizes=tuple(sizes.items()))


# --- what one kernel may give ---------------------------------------------------------------------


def test_a_sum_over_a_grouped_axis_is_found_behind_pointwise_steps() -> None:
    diagram = diagram_of(text_of())
    named = dict(zip(diagram.names, range(len(diagram.names)), strict=True))
    core = core_sum(diagram.boxes, named["U"])
    assert core not in (None, named["U"])
    assert core_sum(diagram.boxes, named["W"]) == named["W"]
    roots = (named["U"], named["W"])
    assert added_axes(diagram.boxes, roots, (), "q") == {named["U"]: ("x",), named["W"]: ()}
    assert added_axes(diagram.boxes, roots, (), "x") == {named["U"]: (), named["W"]: ("q",)}


def test_a_sum_that_its_own_kernel_reads_is_not_added_up() -> None:
    text = """diagram back(A[q d], C[x d], E[x e]) -> U[q e], W[x e]
    S[q x] = sum[d](A * C)
    U[q e] = sum[x](S * E)
    W[x e] = sum[q](S * U)
"""
    diagram = diagram_of(text)
    roots = [each.box for each in diagram.outputs]
    assert added_axes(diagram.boxes, roots, (), "q") is None


def test_what_is_no_sum_has_no_parts() -> None:
    diagram = diagram_of(text_of().replace("sum[x](S * E) * 0.5", "max[x](S * E)"))
    with pytest.raises(InternalError, match="no sum"):
        cut(
            diagram,
            [each.box for each in diagram.outputs],
            storage_types(diagram, "bf16"),
            [[each.box for each in diagram.outputs]],
            {diagram.outputs[0].box: ("x",)},
        )


def test_an_output_that_is_a_sum_itself_is_added_up_in_fp32_and_then_rounded() -> None:
    plan = adding(diagram_of(text_of(tail="")))
    main, last = plan.kernels[-2:]
    (added,) = main.program.accumulated
    assert main.program.array(added).dtype == "fp32"
    assert [each.name for each in last.program.arrays] == [added]
    assert [(each.name, each.dtype) for each in last.program.outputs] == [("U", "bf16")]


def test_an_output_in_fp32_that_is_a_sum_itself_needs_no_further_kernel() -> None:
    plan = adding(diagram_of(text_of(tail="").replace("U[b q e],", "U[b q e]: fp32,")))
    (kernel,) = plan.kernels
    assert kernel.program.accumulated == ("U",)


# --- what the kernels compute ---------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_kernels_that_add_give_what_the_reference_gives(score: str, machine: str) -> None:
    diagram = diagram_of(text_of(score))
    plan = adding(diagram, machine)
    assert not plan.is_deterministic
    check(plan, {"b": 2, "q": 150, "x": 190, "d": 64, "e": 64})


def check(plan: Plan, sizes: Mapping[str, int]) -> None:
    arguments = arguments_of(plan.diagram, sizes, {}, 0)
    got = run_kernels(plan, arguments, sizes)
    for name, wanted in reference(plan.diagram, arguments).items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["attention", "causal", "window", "alibi", "softcap", "sigmoid"])
def test_a_derived_backward_in_one_pass_is_the_reference_s(name: str) -> None:
    diagram = backward(name)
    plan = adding(diagram)
    fixed = {t.axis: t.size for k in plan.kernels for t in k.program.axes if t.size is not None}
    sizes = sizes_of(diagram, {"b": 1, "h": 2, "q": 100, "x": 100} | fixed, 3)
    gradient = differentiate(example(name), ("Q", "K", "V"))
    arrays = arguments_of(example(name), sizes, {}, 0)
    outputs = reference(gradient.forward, arrays)
    passed = backward_arguments(gradient, arrays, outputs, seeds_of(gradient, outputs))
    got = run_kernels(plan, passed, sizes)
    for each, wanted in reference(gradient.backward, passed).items():
        assert relative_error(got[each], wanted) < 1e-9, each


@given(
    st.sampled_from(SCORES),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([16, 32]),
    st.sampled_from([16, 32]),
)
@settings(max_examples=12, deadline=None)
def test_parts_add_up_at_every_length_and_tile(
    score: str, queries: int, keys: int, row: int, stream: int
) -> None:
    (piece,) = pieces_of(score)
    sizes = {"b": 2, "q": queries, "x": keys, "d": 3, "e": 5}
    program = lower_by(rewrite(derive(piece)), sizes, Tiles(row, stream))
    assert program.accumulated == ("U",)
    arguments = arguments_of(piece, sizes, {}, 1)
    done = run(program, arguments, sizes)
    for name, wanted in reference(piece, arguments).items():
        np.testing.assert_allclose(
            done.outputs[name], wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max()
        )
    assert done.totals == replace(totals(program, sizes), is_exact=True)


def pieces_of(score: str) -> tuple[Diagram, ...]:
    """Return the two outputs as one piece, the first added up over x."""
    diagram = diagram_of(text_of(score, "").replace("U[b q e],", "U[b q e]: fp32,"))
    boxes = [each.box for each in diagram.outputs]
    types = storage_types(diagram, "bf16")
    return cut(diagram, boxes, types, [boxes], {boxes[0]: ("x",)})


# --- choice ---------------------------------------------------------------------------------------


def test_a_deterministic_plan_adds_nothing_up_in_memory() -> None:
    diagram = diagram_of(text_of())
    plan = make_plan(derive(diagram), load_machine("hopper"), deterministic=True)
    assert plan.is_deterministic


def test_attention_s_backward_is_one_pass_unless_the_same_bits_are_asked_for() -> None:
    diagram = backward("attention")
    sizes = dict(diagram.sizes)
    derivation = derive(diagram)
    free, ordered = (
        make_plan(derivation, load_machine("h200"), sizes=sizes, deterministic=order)
        for order in (None, True)
    )
    assert not free.is_deterministic
    assert ordered.is_deterministic
    (main,) = (each for each in free.kernels if each.form is not None)
    assert main.printed.accumulated
    assert {"dK", "dV"} <= {each.name for each in main.printed.outputs}


@pytest.mark.parametrize("order", [None, False])
@pytest.mark.parametrize(("positions", "in_order"), [(4096, True), (16384, False)])
def test_streams_that_data_bound_are_guessed_to_be_short(
    positions: int, in_order: bool, order: bool | None
) -> None:
    derivation = derive(backward("packed"))
    sizes = {"b": 1, "h": 16, "q": positions, "x": positions, "d": 128, "v": 128}
    plan = make_plan(derivation, load_machine("h200"), sizes=sizes, deterministic=order)
    assert plan.is_deterministic == in_order


def test_what_is_added_to_is_cleared_written_and_read() -> None:
    plan = adding(diagram_of(text_of()))
    sizes = dict(plan.sizes)
    added = sizes["b"] * sizes["q"] * sizes["e"]
    level = next(each for each in cost_of(plan).levels if each.level == "dram")
    arrays = [a for k in plan.kernels for a in (*k.printed.arrays, *k.printed.outputs)]
    once = sum(int(np.prod([sizes[axis] for axis in each.axes])) for each in arrays)
    assert level.transfer_elements == once + added
    main = next(each for each in plan.kernels if each.program.accumulated)
    assert dict(main.prediction.parts)["clearing"] > 0


# --- what is printed ------------------------------------------------------------------------------


def test_a_module_adds_to_an_array_of_zeros() -> None:
    plan = adding(diagram_of(text_of()))
    text = emit_triton(plan)
    ast.parse(text)
    assert text.count("torch.zeros(") == 1
    assert "tl.atomic_add(" in text


def test_a_derivation_says_what_groups_add() -> None:
    (piece,) = pieces_of(SCORES[0])
    text = str(derive(piece))
    assert "U[b q e] += sum[x](S * E)" in text
    assert "U sums x: every group adds its part, in no fixed order" in text


def test_a_plan_says_that_the_order_is_left_open() -> None:
    text = str(adding(diagram_of(text_of())))
    assert "every group over x adds its part to sum_x" in text


def test_pseudocode_tells_adding_from_storing() -> None:
    text = pseudo_of_plan(adding(diagram_of(text_of())))
    assert "add to sum_x" in text


# --- which it is at a call ------------------------------------------------------------------------


def test_a_kernel_keeps_what_was_asked_for_in_copies_and_gradients() -> None:
    free, ordered = (
        napkin.compile(ROOT / "examples/causal.napkin", deterministic=o) for o in (None, True)
    )
    assert free.operator.name != ordered.operator.name
    again = pickle.loads(pickle.dumps(ordered))
    assert again.operator is ordered.operator
    rule = ordered.operator.rule(("Q",), wide=False)
    assert rule.forward.kernels.deterministic is True
    assert rule.backward_for((torch.float32,)).kernels.deterministic is True


@pytest.mark.parametrize(
    ("asked", "told", "wanted"), [(None, False, None), (None, True, True), (False, True, False)]
)
def test_torch_s_word_counts_where_nothing_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: bool | None, told: bool, wanted: bool | None
) -> None:
    seen: list[bool | None] = []

    def made_for(*arguments: Any) -> Any:
        seen.append(arguments[-1])
        raise NapkinError([])

    monkeypatch.setattr(operator_kernels, "made_for", made_for)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: told)
    diagram = diagram_of(text_of())
    kernels = operator_kernels.Kernels(diagram, None, asked)
    monkeypatch.setattr(kernels, "_machine_for", lambda _: load_machine("h200"))
    with pytest.raises(NapkinError):
        kernels.kernel(diagram, "bf16", {}, torch.device("cpu"))
    assert seen == [wanted]


def test_a_recorded_call_is_of_the_order_that_torch_asked_for() -> None:
    tensor = torch.zeros(4)
    before = layout_of([tensor])
    torch.use_deterministic_algorithms(True)
    try:
        assert layout_of([tensor]) != before
    finally:
        torch.use_deterministic_algorithms(False)
    assert layout_of([tensor]) == before
