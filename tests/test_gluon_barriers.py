"""Barriers in shared memory: a module makes none that nothing uses.

Triton lays data over a barrier that nothing uses. A GPU that goes over to another process and comes back
writes the barrier's word there again, among the data (docs/hopper.md, "What the compiler needed").
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from napkin.api import load
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.schedule.roles.barriers import Release
from tests.test_adding import backward
from tests.test_gluon import emitted
from tests.test_gluon_adding import forms_of, kernel_of, of_head
from tests.test_specialise import FORMED

MADE = re.compile(r"(\w+) = gl\.allocate_shared_memory\(gl\.int64,")
EXAMPLES = Path(__file__).parents[1] / "examples"
SIZES = {"b": 4, "h": 16, "q": 4096, "x": 4096, "d": 128, "v": 128}
BACKWARDS = ("attention", "causal", "window", "sinks", "gqa", "alibi")


def unused(text: str) -> set[str]:
    """Return the barriers of a module that nothing waits for, or at which nothing arrives."""
    made = set(MADE.findall(text))
    assert made
    waited = set(re.findall(r"mbarrier\.wait\(\s*(\w+)\.", text))
    reached = set(re.findall(r"mbarrier\.(?:arrive|expect)\(\s*(\w+)\.", text))
    return made - (waited & reached)


@pytest.mark.parametrize("name", FORMED)
def test_every_barrier_of_an_example_is_used(name: str) -> None:
    assert unused(emitted(name)) == set()


@pytest.mark.parametrize("head", [64, 128])
@pytest.mark.parametrize("name", BACKWARDS)
def test_every_barrier_of_a_backward_in_one_pass_is_used(name: str, head: int) -> None:
    kernel = kernel_of(of_head(backward(name), head))
    for form in forms_of(kernel):
        assert unused(emit_gluon(plan_in_form(kernel, form))) == set()


@pytest.mark.parametrize(("name", "grad"), [("document", True), ("packed", False)])
def test_a_chunk_lets_go_of_a_ring_once(name: str, grad: bool) -> None:
    """Two arrivals for one chunk let the producer fill a slot that is read, and stand still later."""
    diagram = load(EXAMPLES / f"{name}.napkin")
    if grad:
        diagram = diagram.gradient().backward
    plan = diagram.plan("h200", sizes=SIZES, deterministic=True)
    forms = [kernel.form.warps for kernel in plan.kernels if kernel.form]
    assert forms
    for chunks in (each for form in forms for each in (*form.chunks, *form.behind)):
        released = [step.slot.ring for step in chunks.steps if isinstance(step, Release)]
        assert len(released) == len(set(released))


def test_a_barrier_that_nothing_waits_for_is_seen() -> None:
    text = emitted("attention")
    waits = re.compile(r"^ *mbarrier\.wait\(v_full\..*\n", re.MULTILINE)
    assert waits.search(text)
    assert unused(waits.sub("", text)) == {"v_full"}
