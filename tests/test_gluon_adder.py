"""Kernels whose parts of sums a warpgroup of its own contracts and adds: consumers, adder, printing."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from napkin.algebra.derive import derive
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.machine import load_machine
from napkin.runtime.inspect import inspect_specialised
from napkin.schedule.planning.plan import make_plan
from napkin.schedule.program import Dot, Store
from napkin.schedule.roles.allocation import allocated_bytes
from napkin.schedule.roles.barriers import Ahead, Finish, Share
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import KernelPlan
from tests.test_adding import backward
from tests.test_gluon_adding import forms_of, kernel_of, of_head

needs_triton = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)


def adder_of(name: str, head: int = 64) -> tuple[KernelPlan, Specialised | None]:
    kernel = kernel_of(of_head(backward(name), head))
    return kernel, next((form for form in forms_of(kernel) if form.adder is not None), None)


@pytest.mark.parametrize("name", ["attention", "causal", "window", "sinks", "sigmoid"])
def test_heads_of_64_have_an_adder_first(name: str) -> None:
    kernel, form = adder_of(name)
    assert form is not None
    assert form == forms_of(kernel)[0]
    assert not {each.store.array for each in form.staged} & set(form.program.accumulated)


@pytest.mark.parametrize(("name", "head"), [("attention", 128), ("alibi", 64)])
def test_there_is_none_without_registers_for_what_stays(name: str, head: int) -> None:
    _, form = adder_of(name, head)
    assert form is None


@pytest.mark.parametrize("name", ["attention", "causal"])
def test_consumers_contract_no_part_and_the_adder_nothing_else(name: str) -> None:
    _, form = adder_of(name)
    assert form is not None
    assert form.adder is not None
    parts = [step for step in form.adder.steps if isinstance(step, Dot)]
    stores = [step for step in form.adder.steps if isinstance(step, Store)]
    assert [part.tile.name for part in parts] == [store.source for store in stores]
    for chunks in form.chunks:
        made = [step.tile.name for step in chunks.steps if isinstance(step, Dot)]
        assert not set(made) & {part.tile.name for part in parts}
        assert not any(isinstance(step, Store) for step in chunks.steps)
        kinds = [type(step) for step in chunks.steps if isinstance(step, Share | Ahead | Finish)]
        assert kinds.index(Share) < kinds.index(Ahead)
    shared = {ring.load.tile.name: ring for ring in form.rings}
    assert shared[parts[0].right].arrivals == form.consumers + 1
    assert [ring.slots for ring in form.rings if ring.resident] == [2, form.consumers]
    assert {each.tile for each in form.held} == {
        ring.load.tile.name for ring in form.rings if ring.resident
    }


@pytest.mark.parametrize("name", ["attention", "causal"])
def test_consumers_and_adder_meet_at_barriers_of_the_slots_alone(name: str) -> None:
    kernel, form = adder_of(name)
    assert form is not None
    text = emit_gluon(plan_in_form(kernel, form))
    ast.parse(text)
    assert "_meet" not in text
    assert text.count("gl.atomic_add(") == 1
    assert "        [4, 4, 1],\n        [208, 72, 24],\n" in text
    assert "1 warpgroup adds (72)" in text
    (shared,) = (part.tile.name for part in form.parts)
    loops = len(form.chunks)
    assert text.count(f"mbarrier.wait({shared}_empty.index(slot), phase ^ 1)") == loops
    assert text.count(f"mbarrier.arrive({shared}_full.index(slot), count=1)") == loops
    assert text.count(f"mbarrier.wait({shared}_full.index(slot), phase)") == 1
    assert text.count(f"mbarrier.arrive({shared}_empty.index(slot), count=1)") == 1
    assert f"mbarrier.init({shared}_full.index(slot), count=CONSUMERS)" in text


SPILLED = {"attention": 16, "causal": 56, "sinks": 56}  # bytes


@needs_triton
@pytest.mark.parametrize("name", ["attention", "causal", "sinks", "sigmoid"])
def test_a_form_with_an_adder_takes_what_was_said_and_spills_what_was_measured(name: str) -> None:
    kernel, form = adder_of(name)
    assert form is not None
    found = inspect_specialised(kernel, form)
    assert found.spill_store_bytes + found.spill_load_bytes <= SPILLED.get(name, 0)
    assert not found.warnings
    assert found.unwritten == ()
    assert found.shared_bytes == allocated_bytes(form, dict(kernel.sizes))
    assert found.instructions["REDG"]
    assert not found.instructions["UTMAREDG"]


@pytest.mark.parametrize(("deterministic", "adds"), [(False, True), (None, False), (True, False)])
def test_one_pass_is_taken_where_it_is_asked_for_and_predicted_nearly_as_fast(
    deterministic: bool | None, adds: bool
) -> None:
    diagram = backward("attention")
    outputs = tuple(replace(each, dtype="bf16") for each in diagram.outputs)
    sizes = {"b": 8, "h": 16, "q": 2048, "x": 2048, "d": 128, "v": 128}
    diagram = replace(diagram, outputs=outputs, sizes=tuple(sizes.items()))
    plan = make_plan(derive(diagram), load_machine("h200"), deterministic=deterministic)
    assert any(kernel.program.accumulated for kernel in plan.kernels) == adds
