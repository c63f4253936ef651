"""Axes in panels: which axes lie in them, and contractions of panels issued and awaited in order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from napkin.algebra.derive import derive
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.machine import load_machine
from napkin.schedule.forms.specialise import specialise
from napkin.schedule.roles.panels import Panels, is_contracted_alone, panelled, panels_of
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import KernelPlan, rank_kernels
from tests.programs import arguments_of, diagram_of, example, run, worst_error

LENGTHS = {"b": 2, "h": 8, "q": 4096, "x": 4096, "y": 4096, "n": 4096}


@cache
def formed(name: str, key: int, value: int) -> tuple[KernelPlan, Specialised]:
    diagram = example(name)
    sizes = {axis: LENGTHS.get(axis, key) for axis in diagram.axes} | {"v": value}
    kernel = rank_kernels(derive(diagram), load_machine("h200"), sizes, "bf16").kernels[0]
    form = specialise(kernel)
    assert not isinstance(form, str), form
    return kernel, form


def emitted(name: str, key: int, value: int) -> str:
    return emit_gluon(plan_in_form(*formed(name, key, value)))


@pytest.mark.parametrize(
    ("size", "tile"),
    [(192, 192), (96, 96), (160, 160), (224, 224), (128, None), (80, None), (24, None), (1, None)],
)
def test_a_length_lies_in_panels_if_they_are_wide(size: int, tile: int | None) -> None:
    assert panelled(size) == tile


@pytest.mark.parametrize(
    ("key", "value", "panels"),
    [(192, 128, {"d": Panels(64, 3)}), (96, 128, {"d": Panels(32, 3)}), (128, 192, {})],
)
def test_only_what_is_contracted_alone_lies_in_panels(
    key: int, value: int, panels: dict[str, Panels]
) -> None:
    kernel, form = formed("causal", key, value)
    assert panels_of(form.program) == panels
    assert is_contracted_alone(kernel.program, "d")
    assert not is_contracted_alone(kernel.program, "v")
    assert not is_contracted_alone(kernel.program, "q")


def test_an_array_that_is_also_summed_over_has_no_panels() -> None:
    diagram = diagram_of(
        "diagram f(Q[h q d], C[h x d]) -> O[h q d]\n"
        "    S[h q x] = sum[d](Q * C) / 8\n"
        "    O[h q d] = sum[x](softmax[x](S) * C)\n"
    )
    sizes = {"h": 4, "q": 4096, "x": 4096, "d": 192}
    kernel = rank_kernels(derive(diagram), load_machine("h200"), sizes, "bf16").kernels[0]
    assert not is_contracted_alone(kernel.program, "d")


def test_panels_take_less_shared_memory_and_leave_room_for_longer_chunks() -> None:
    _, form = formed("causal", 192, 128)
    found = {ring.load.array: ring.slot_bytes for ring in form.rings}
    assert found == {"Q": 64 * 192 * 2, "K": 128 * 192 * 2, "V": 128 * 128 * 2}


@pytest.mark.parametrize("name", ["causal", "attention", "alibi"])
def test_a_form_with_panels_gives_what_the_diagram_means(name: str) -> None:
    _, form = formed(name, 96, 32)
    diagram = example(name)
    sizes = dict.fromkeys(diagram.axes, 3) | {"q": 70, "x": 150, "d": 96, "v": 32}
    arguments = arguments_of(diagram, sizes, {}, 0)
    found = run(form.program, arguments, sizes).outputs
    assert worst_error(found, diagram, arguments) < 1e-12


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("causal", 192, 128), ("attention", 96, 96), ("causal", 128, 128), ("differential", 96, 64)],
)
def test_a_wait_is_for_every_contraction_of_a_result_and_no_later_one(
    name: str, key: int, value: int
) -> None:
    """Every `warpgroup_mma` is a group of its own, and groups finish in order."""
    waits = 0
    for body in bodies(emitted(name, key, value)):
        issued: list[str] = []
        for each in body:
            called = contractions(each)
            if not isinstance(each, ast.Assign) or not called:
                continue
            (target,) = each.targets
            names = re.findall(r"\w+", ast.unparse(target))
            if called[0] == "warpgroup_mma":
                issued += names * len(called)
                continue
            assert isinstance(each.value, ast.Call)
            behind = int(ast.unparse(each.value.args[0]))
            running = issued[len(issued) - behind :]
            assert len(running) == behind
            assert not set(names) & set(running), "a result is read before it is there"
            assert behind == len(issued) or issued[-behind - 1] in names, "a later one is awaited"
            waits += 1
    assert waits


def bodies(text: str) -> Iterator[list[ast.stmt]]:
    """Yield every list of statements of a module."""
    for each in ast.walk(ast.parse(text)):
        if isinstance(each, ast.FunctionDef | ast.For | ast.While):
            yield each.body


def contractions(statement: ast.stmt) -> list[str]:
    """Return the contractions that a statement issues or waits for."""
    if isinstance(statement, ast.For | ast.While):
        return []
    calls = (each for each in ast.walk(statement) if isinstance(each, ast.Call))
    names = (each.func.id for each in calls if isinstance(each.func, ast.Name))
    return [each for each in names if each.startswith("warpgroup_mma")]
