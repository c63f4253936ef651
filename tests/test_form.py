"""Which form of a kernel a plan chooses, why, and what every command then shows of it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest

from napkin.algebra.derive import derive
from napkin.api import load
from napkin.diagram import Diagram
from napkin.emit.module import emit_module
from napkin.emit.pseudo import pseudo_of_plan
from napkin.emit.triton import emit_triton
from napkin.machine import load_machine
from napkin.runtime.kernels import kernel_source
from napkin.schedule.forms.form import FASTER, NEAR, NEARLY, find_form
from napkin.schedule.forms.specialise import may_spill, specialise
from napkin.schedule.planning.cost import cost_of
from napkin.schedule.planning.plan import Plan, make_plan
from napkin.schedule.planning.show import form_line, show_plan
from napkin.schedule.program import Program
from napkin.schedule.timing.predict import predict_specialised
from tests.conftest import Golden
from tests.programs import ROOT, arguments_of, diagram_of, example, run, sizes_of
from tests.test_specialise import FORMED

# Those whose plain loop is predicted to be as fast: one wave of groups, too few to overlap.
SLOWER = ("gated_mlp", "mlp")


def plan_of(diagram: Diagram, machine: str, dtype: str = "bf16") -> Plan:
    return make_plan(derive(diagram), load_machine(machine), dtype=dtype)


@cache
def planned(name: str, machine: str = "hopper") -> Plan:
    return plan_of(example(name), machine)


# --- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMED)
def test_what_has_the_form_takes_it_where_it_is_predicted_to_be_faster(name: str) -> None:
    *_, kernel = planned(name).kernels  # one that finds its mask's hull may stand before it
    found = find_form(kernel)
    assert not isinstance(found, str), found
    share = found.prediction.seconds / kernel.prediction.seconds
    assert (share < NEAR) is (name not in SLOWER)
    assert kernel.form == (found if share < NEAR else None)
    if share < NEAR:
        assert kernel.why == (FASTER if share < 1 else NEARLY)
        first = specialise(kernel)
        assert not isinstance(first, str)
        unordered, plain_order = (
            replace(each, program=replace(each.program, band=None)) for each in (found.warps, first)
        )
        assert unordered == plain_order or (may_spill(first) and not may_spill(found.warps))
        assert kernel.expected == found.prediction
        assert kernel.printed == found.warps.program
    else:
        took = f"{found.prediction.seconds * 1e3:.3f} ms"
        assert kernel.why == f"warp-specialised it is predicted to take {took}"


@pytest.mark.parametrize("machine", ["h200", "h100"])
def test_attention_is_warp_specialised_on_hopper(machine: str) -> None:
    (kernel,) = planned("attention", machine).kernels
    assert kernel.form is not None
    assert kernel.form.warps.consumers == 2


@pytest.mark.parametrize(
    ("name", "machine", "why"),
    [
        ("matmul", "a100", "`A` is streamed along its rows"),
        ("paged_decode", "hopper", "`q` fills no consumer: it is 1 long"),
        ("softmax", "hopper", "no tile of rows is shared by every contraction"),
    ],
)
def test_a_plain_loop_says_why(name: str, machine: str, why: str) -> None:
    plan = planned(name, machine)
    for kernel in plan.kernels:
        assert kernel.form is None
        assert kernel.why == why
        assert kernel.expected == kernel.prediction
        assert kernel.printed == kernel.program
    assert f"plain loop: {why}" in show_plan(plan)
    assert f"plain loop: {why}" in pseudo_of_plan(plan)


def test_arrays_of_fp32_stay_with_the_plain_loop() -> None:
    (kernel,) = plan_of(example("attention"), "hopper", dtype="fp32").kernels
    assert kernel.form is None
    assert "takes fp32" in kernel.why


def test_an_on_block_keeps_the_plain_loop() -> None:
    text = str(example("attention")) + "\non hopper\n    group q by 128\n    stream x by 64\n"
    (kernel,) = plan_of(diagram_of(text), "hopper").kernels
    assert kernel.form is None
    assert kernel.why == "its `on` block fixes the plain loop's tiles"


def test_every_kernel_of_a_cut_has_a_form_of_its_own() -> None:
    plan = planned("attention_block")
    assert all(each.form is not None for each in plan.kernels)
    tiles = {each.name: form_line(each) for each in plan.kernels}
    assert "tiles q 256, d 128, e 64" in tiles["attention_block_1"]
    assert "tiles q 128, v 128, x 128, d 128" in tiles["attention_block_4"]
    assert "tiles q 128, f 256, v 64" in tiles["attention_block_5"]
    assert all(line in show_plan(plan) for line in tiles.values())


# --- the prediction -------------------------------------------------------------------------------


def said(program: Program, sizes: Mapping[str, int]) -> dict[str, float]:
    return dict(predict_specialised(program, load_machine("h200"), sizes, 2, 0).parts)


def test_the_prediction_is_near_what_was_measured_at_head_128() -> None:
    for name, measured in (("attention", 0.785e-3), ("causal", 0.485e-3)):
        (kernel,) = planned(name, "h200").kernels
        assert kernel.expected.seconds == pytest.approx(measured, rel=0.15)
        parts = kernel.expected.parts
        assert sum(seconds for _, seconds in parts) == pytest.approx(kernel.expected.seconds)


def test_what_is_shorter_is_mostly_hidden() -> None:
    kernel = planned("attention", "h200").kernels[0]
    sizes = dict(kernel.sizes)
    parts, twice = (said(kernel.printed, sizes | {"x": n}) for n in (8192, 16384))
    assert parts["contractions"] > parts["other arithmetic"]
    assert twice["contractions"] == pytest.approx(2 * parts["contractions"])
    capped = said(planned("softcap", "h200").kernels[0].printed, sizes)
    assert capped["contractions"] < capped["other arithmetic"]


# --- what is shown --------------------------------------------------------------------------------


def test_a_plan_shows_its_form() -> None:
    plan = planned("attention")
    line = form_line(plan.kernels[0])
    assert line.startswith("warp-specialised: a producer and 2 consumers, tiles q 128,")
    assert line in show_plan(plan)
    assert line in pseudo_of_plan(plan)
    assert line in kernel_source(plan)
    shown = cost_of(plan).as_json()["plan"]
    assert shown["form"] == "warp-specialised"
    assert shown["why"] == FASTER
    assert (shown["warps"], shown["stages"], shown["registers"]) == (12, 2, 168)
    assert shown["shared_bytes"] == plan.kernels[0].expected.shared_bytes
    assert cost_of(plan.plain).as_json()["plan"]["form"] == "plain loop"


def test_a_cost_counts_the_program_that_is_printed() -> None:
    diagram = example("causal")
    sizes = {"b": 1, "h": 2, "q": 150, "x": 300, "d": 16, "v": 16}
    plan = make_plan(derive(diagram), load_machine("hopper"), sizes=sizes)
    form = find_form(plan.kernels[0])
    assert not isinstance(form, str), form
    plan = replace(plan, kernels=(replace(plan.kernels[0], form=form),))
    arguments = arguments_of(diagram, sizes_of(diagram, sizes, 16), {}, 0)
    done = run(form.warps.program, arguments, sizes)
    shared = next(each for each in cost_of(plan).levels if each.level == "shared")
    moved = [each for each in done.totals.transfers if "shared" in (each.source, each.target)]
    assert shared.transfer_elements == sum(each.elements for each in moved)


# --- the module -----------------------------------------------------------------------------------


def test_a_module_is_printed_in_the_plan_s_form() -> None:
    plan = planned("attention")
    assert "gluon.jit" in emit_module(plan)
    assert emit_module(plan.plain) == emit_triton(plan) == emit_triton(plan.plain)
    for name in ("softmax", "layernorm"):
        assert emit_module(planned(name)) == emit_triton(planned(name))


def test_a_warp_specialised_module_is_as_before(golden: Golden) -> None:
    text = emit_module(planned("attention"))
    ast.parse(text)
    golden(ROOT / "tests" / "golden" / "attention" / "hopper_specialised.py", text)


def test_a_device_that_lacks_the_form_gets_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from napkin.runtime import gpus

    plan, cpu, cuda = planned("attention"), torch.device("cpu"), torch.device("cuda", 0)
    assert gpus.runnable(plan, cpu) == plan.plain
    monkeypatch.setattr(gpus, "_has_gluon", lambda: True)
    for capability, wanted in (((9, 0), plan), ((10, 0), plan.plain)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert gpus.runnable(plan, cuda) == wanted
    monkeypatch.setattr(gpus, "_has_gluon", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert gpus.runnable(plan, cuda) == plan.plain


def test_the_lengths_that_a_form_fixes_are_those_of_its_own_program() -> None:
    from napkin.runtime.planning import misfits

    plan = planned("attention")
    sizes = dict(plan.sizes)
    assert misfits(plan, sizes | {"q": 17, "x": 999, "b": 1}) == []
    assert misfits(plan, sizes | {"d": 64}) == ["d"]
    (kernel,) = plan.kernels
    free = tuple(replace(each, size=None) for each in kernel.program.axes)
    loose = replace(kernel, program=replace(kernel.program, axes=free))
    assert misfits(replace(plan, kernels=(loose,)), sizes | {"d": 64}) == ["d"]


@pytest.mark.parametrize(("head", "chunk"), [(64, 64), (128, 64)])
def test_a_shape_that_may_spill_stands_back_for_one_as_fast(head: int, chunk: int) -> None:
    # Four contractions a step: at head 64, 128 queries a chunk spill 2 KB and 64 are as fast; at head 128 the
    # shape that never spills has 32, which is 17 % slower by the prediction.
    sizes = {"b": 4, "h": 2048 // head, "q": 4096, "x": 4096, "d": head, "v": head}
    backward = load(ROOT / "examples" / "attention.napkin").gradient().backward
    plan = backward.plan("hopper", sizes=sizes, deterministic=True)
    forms = [kernel.form for kernel in plan.kernels if kernel.form is not None]
    (form,) = (each for each in forms if each.warps.program.outputs[-1].name == "dV")
    assert form.warps.program.axis("q").tile == chunk
    assert may_spill(form.warps) == (head == 128)
