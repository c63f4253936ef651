"""Resident rows in registers: when a form holds some, and how their contractions are printed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from napkin.api import load
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.machine import load_machine
from napkin.runtime.inspect import inspect_plan
from napkin.schedule.forms.specialise import specialise
from napkin.schedule.roles.held import with_held_operands
from napkin.schedule.roles.warps import Held, Specialised
from napkin.schedule.tiling.kernel import KernelPlan
from tests.test_gluon import needs_triton
from tests.test_specialise import kernel_of

ROOT = Path(__file__).resolve().parent.parent


def formed(name: str, head: int = 128) -> tuple[KernelPlan, Specialised]:
    sizes = {"b": 4, "h": 2048 // head, "q": 4096, "x": 4096, "d": head, "v": head}
    kernel = kernel_of(name, sizes)
    form = specialise(kernel)
    assert isinstance(form, Specialised), form
    return kernel, form


@pytest.mark.parametrize(
    ("name", "head", "columns"),
    [
        (
            "packed",
            128,
            64,
        ),  # 64 positions a chunk: shared memory would be read at the whole of its rate
        ("attention", 256, 128),
        ("attention", 128, 0),  # 128 positions a chunk: at 7/8 of it
        ("attention", 64, 0),
    ],
)
def test_rows_are_held_where_shared_memory_would_bind(name: str, head: int, columns: int) -> None:
    _, form = formed(name, head)
    held = with_held_operands(replace(form, held=()), load_machine("h200")).held
    assert held == ((Held("q", columns),) if columns else ())


@pytest.mark.parametrize(
    ("name", "head", "columns"),
    [
        ("packed", 128, 64),  # short chunks
        ("causal", 128, 128),  # a mask bounds the stream: rows are held whole
        ("window", 128, 128),
        ("causal", 256, 0),  # there is no room for them
        ("attention", 128, 0),
        ("attention", 256, 0),
    ],
)
def test_plans_hold_rows_in_short_chunks_and_where_a_mask_bounds_the_stream(
    name: str, head: int, columns: int
) -> None:
    _, form = formed(name, head)
    assert form.held == ((Held("q", columns),) if columns else ())
    assert form.tests_apart == (name != "attention")  # whether a mask cuts its chunks


def test_values_of_a_chunk_s_positions_leave_whole_rows_no_registers() -> None:
    _, form = formed("alibi")
    assert not form.held
    assert form.tests_apart


def test_rows_that_are_held_whole_are_read_once_and_contracted_at_once() -> None:
    kernel, form = formed("causal")
    text = emit_gluon(plan_in_form(kernel, form))
    assert text.count("q_held = _packed(q.load(gl.DotOperandLayout(0, LAYOUT_Q_X, 2)))") == 1
    flat = re.sub(r"\s+", " ", text).replace("( ", "(")
    assert len(re.findall(r"warpgroup_mma\(q_held, k\w*\.permute", flat)) == len(form.chunks)
    assert "warpgroup_mma(q," not in flat


def test_no_more_is_held_than_registers_are_free() -> None:
    _, form = formed("attention", 256)
    machine = load_machine("h200")
    for registers, columns in ((240, 128), (224, 64), (208, 0)):
        less = replace(form, registers=(registers, 24))
        held = with_held_operands(less, machine).held
        assert held == ((Held("q", columns),) if columns else ())


def test_what_is_held_is_contracted_before_the_rest() -> None:
    kernel, form = formed("packed")
    text = emit_gluon(plan_in_form(kernel, form))
    consume = text[text.index("def packed_consume(") : text.index("def packed_dispatch(")]
    flat = re.sub(r"\s+", " ", consume).replace("( ", "(").replace(" )", ")")
    assert flat.count("q_held = _packed(q.slice(0, 64, dim=1).load(") == 1
    pattern = r"warpgroup_mma\((q[^,]*(?:, \d+, dim=1\))?), (k\w*)\.slice\((\d+), (\d+)"
    parts = re.findall(pattern, flat)
    assert len(parts) == 2 * len([each for each in form.chunks if each.loop.body])
    for rest, held in zip(
        parts[::2], parts[1::2], strict=True
    ):  # the rest is added to the first part
        assert (held[0], *held[2:]) == ("q_held", "0", "64")
        assert (rest[0], *rest[2:]) == ("q.slice(64, 64, dim=1)", "64", "64")
        assert held[1] == rest[1]


def test_a_narrower_share_leaves_the_rest_in_powers_of_two() -> None:
    kernel, form = formed("attention", 256)
    text = emit_gluon(plan_in_form(kernel, replace(form, held=(Held("q", 64),))))
    starts = re.findall(r"k_first\.slice\((\d+), (\d+), dim=1\)", text)
    assert starts == [("128", "128"), ("64", "64"), ("0", "64")]  # the innermost is issued first
    assert "t1 = warpgroup_mma_wait(1, [t1])" in text  # what was issued behind all parts still runs


@needs_triton
@pytest.mark.parametrize(("name", "spilled"), [("packed", 0), ("document", 40)])
def test_short_chunks_compile_with_operands_in_registers(name: str, spilled: int) -> None:
    sizes = {"b": 4, "h": 16, "q": 4096, "x": 4096, "d": 128, "v": 128}
    plan = load(ROOT / "examples" / f"{name}.napkin").plan("h200", sizes=sizes, dtype="bf16")
    form = plan.kernels[-1].form
    assert form is not None
    assert form.warps.held == (Held("q", 64),)
    found = inspect_plan(plan)[-1].resources
    assert not any("C75" in warning for warning in found.warnings), found.warnings
    assert found.unwritten == ()
    assert found.spill_store_bytes + found.spill_load_bytes <= spilled
