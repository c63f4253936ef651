"""Kernels that take in a statistic of their rows: which plans have one, what it waits for, what it gives."""

from __future__ import annotations

import re

import pytest

from napkin.algebra.derive import derive
from napkin.algebra.gradient import differentiate
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.evaluate import reference
from napkin.machine import load_machine
from napkin.runtime.inspect import inspect_plan
from napkin.schedule.planning.plan import KernelPlan, Plan, make_plan
from napkin.schedule.roles.barriers import Await, Release
from napkin.schedule.roles.rows_read import tiles_read
from napkin.schedule.roles.warps import Specialised
from tests.gradients import backward_arguments, float_arguments, relative_error, seeds_of
from tests.programs import arguments_of, example
from tests.test_gluon import needs_triton
from tests.test_schedule_cuts import run_kernels

SIZES = {"b": 4, "h": 16, "q": 4096, "x": 4096, "d": 128, "v": 128}


def backward_plan(name: str, machine: str = "hopper", **sizes: int) -> Plan:
    backward = differentiate(example(name)).backward
    known = SIZES | sizes
    lengths = {axis: size for axis, size in known.items() if axis in backward.axes}
    return make_plan(derive(backward), load_machine(machine), sizes=lengths, deterministic=True)


def taking(plan: Plan) -> KernelPlan:
    (found,) = [each for each in plan.kernels if tiles_read(each.printed)]
    return found


def form_of(kernel: KernelPlan) -> Specialised:
    assert kernel.form is not None
    return kernel.form.warps


@pytest.mark.parametrize("name", ["window", "document", "packed", "causal"])
def test_the_statistic_of_rows_is_made_by_the_kernel_that_holds_them(name: str) -> None:
    plan = backward_plan(name)
    kernel = taking(plan)
    assert [each.name for each in kernel.program.outputs] == ["sum_v", "dQ"]
    assert sum("sum_v" in [a.name for a in each.program.outputs] for each in plan.kernels) == 1
    later = plan.kernels[plan.kernels.index(kernel) + 1 :]
    assert any("sum_v" in [a.name for a in each.program.arrays] for each in later)


def test_a_kernel_with_no_room_for_the_rows_reads_a_statistic_of_its_own_kernel() -> None:
    plan = backward_plan("differential", d=64)
    assert not any(tiles_read(each.printed) for each in plan.kernels)
    assert any([a.name for a in each.program.outputs] == ["sum_v"] for each in plan.kernels)


def test_rows_that_nothing_contracts_are_fetched_first_and_given_back_before_the_stream() -> None:
    form = form_of(taking(backward_plan("window")))
    rings = {ring.load.array: ring for ring in form.rings if ring.resident}
    assert next(iter(rings)) == "O"
    syncs = [step for step in form.prelude if isinstance(step, Await | Release)]
    waits = [step.slot.ring for step in syncs if isinstance(step, Await)]
    assert waits == [ring.name for ring in rings.values()]
    assert [step.slot.ring for step in syncs if isinstance(step, Release)] == [rings["O"].name]
    assert isinstance(syncs[-1], Release)
    behind = [step.slot.ring for step in form.drain if isinstance(step, Release)]
    assert rings["O"].name not in behind
    assert {rings["Q"].name, rings["dO"].name} <= set(behind)


def test_elements_are_read_once_their_rows_have_come() -> None:
    kernel = taking(backward_plan("window"))
    text = emit_gluon(plan_in_form(kernel, form_of(kernel)))
    read = re.search(r"product = do\.load\((\w+)\).* \* o\.load\(\1\)", text)
    assert read is not None
    waited = [text.index(f"mbarrier.wait({name}_full") for name in ("o", "do")]
    assert max(text.rindex(f"mbarrier.wait({name}_full", 0, read.start()) for name in ("o", "do"))
    assert all(place < read.start() for place in waited)
    assert read.start() < text.index("mbarrier.arrive(o_empty")
    assert text.count("tl.store(sum_v_tile") + text.count("gl.store(sum_v_tile") == 1


def test_a_plan_says_what_is_taken_in() -> None:
    said = "window_backward_1 makes sum_v of the rows that it holds, before its stream"
    assert said in str(backward_plan("window"))
    assert "of the rows that it holds" not in str(backward_plan("differential", d=64))


@pytest.mark.parametrize("name", ["window", "causal"])
def test_the_kernels_of_a_plan_that_takes_one_in_give_the_gradient(name: str) -> None:
    diagram = example(name)
    gradient = differentiate(diagram)
    sizes = {"b": 1, "h": 2, "q": 70, "x": 70, "d": 128, "v": 128}
    given = float_arguments(arguments_of(diagram, sizes, {"width": 30}, 0))
    outputs = reference(gradient.forward, given)
    seeds = seeds_of(gradient, outputs)
    passed = backward_arguments(gradient, given, outputs, seeds)
    got = run_kernels(backward_plan(name), passed, sizes)
    truth = reference(gradient.backward, passed)
    for each in gradient.backward.outputs:
        assert relative_error(got[each.name], truth[each.name]) < 1e-4


@needs_triton
def test_a_kernel_that_reads_elements_of_its_rows_compiles_as_its_form_said() -> None:
    plan = backward_plan("window")
    number = plan.kernels.index(taking(plan))
    found = inspect_plan(plan)[number]
    assert not found.spills
    assert not found.resources.warnings
    assert found.resources.shared_bytes == found.prediction.shared_bytes


def test_a_kernel_is_taken_in_where_that_is_predicted_to_be_faster_alone() -> None:
    plan = backward_plan("causal", machine="a100")
    assert [a.name for a in plan.kernels[0].program.outputs] == ["sum_v"]
