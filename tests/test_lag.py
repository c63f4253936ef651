"""References that lag behind a running maximum: the same results, and sums that are mostly left alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napkin.api import load
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.runtime.inspect import inspect_plan
from napkin.schedule.forms.specialise import specialise
from napkin.schedule.program import Compute, Fill, Loop, Program
from napkin.schedule.roles import lag
from napkin.schedule.roles.lag import mostly_one, with_lagging_references
from napkin.schedule.roles.rotate import rotate
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import KernelPlan
from tests.programs import (
    Tiles,
    arguments_of,
    diagram_of,
    example,
    program_of,
    run,
    sizes_of,
    worst_error,
)
from tests.test_gluon import needs_triton
from tests.test_specialise import FORMED, LIMITS, SIZES, kernel_of, rotated

ROOT = Path(__file__).resolve().parent.parent
LAGGING = sorted(
    set(FORMED) - {"fading", "gated_mlp", "matmul", "mlp", "sigmoid", "sinks", "spherical"}
)  # what has a running maximum that starts at the least number


def lagging(program: Program) -> Program:
    return with_lagging_references(rotated(program))


@pytest.mark.parametrize("name", FORMED)
def test_a_stream_with_lagging_references_gives_what_the_reference_gives(name: str) -> None:
    diagram, sizes = example(name), sizes_of(example(name), SIZES, 5)
    arguments = arguments_of(diagram, sizes, LIMITS, 0)
    for tiles in (Tiles(16, 16), Tiles(8, 4)):
        program = lagging(program_of(diagram, sizes, tiles))
        assert worst_error(run(program, arguments, sizes).outputs, diagram, arguments) < 1e-12


@pytest.mark.parametrize("name", FORMED)
def test_every_loop_of_a_running_maximum_keeps_its_reference(name: str) -> None:
    program = lagging(program_of(example(name), sizes_of(example(name), SIZES, 5), Tiles(8, 8)))
    factors = mostly_one(program)
    loops = [op for op in program.operations if isinstance(op, Loop)]
    scaled = [
        [op for op in loop.body if isinstance(op, Compute) and factors & set(op.operands)]
        for loop in loops
    ]
    assert not scaled[0]  # the first chunk moves every reference
    assert all(scaled[1:]) if name in LAGGING else not any(scaled)
    assert bool(factors) == (name in LAGGING)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.01, 300),
    trend=st.floats(-20, 20),
    tile=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 99),
)
def test_however_scores_grow_the_same_is_given(
    scale: float, trend: float, tile: int, seed: int
) -> None:
    diagram = diagram_of(
        "diagram f(Q[q d], K[x d], V[x v]) -> O[q v], L[q], N[q]\n"
        "    S[q x] = sum[d](Q * K) + x * 0\n"
        "    M[q x] = where(x <= q + 3, S, -inf)\n"
        "    O[q v] = sum[x](softmax[x](M) * V)\n"
        "    L[q] = logsumexp[x](M)\n"
        "    N[q] = max[x](M)\n"
    )
    sizes = {"q": 13, "x": 29, "d": 3, "v": 2}
    arguments = arguments_of(diagram, sizes, {}, seed)
    arguments["Q"] = arguments["Q"] * scale
    arguments["K"] = arguments["K"] + trend * np.arange(29)[:, None] / 29
    program = lagging(program_of(diagram, sizes, Tiles(4, tile)))
    assert mostly_one(program)
    assert worst_error(run(program, arguments, sizes).outputs, diagram, arguments) < 1e-9


@pytest.mark.parametrize("most", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("name", LAGGING)
def test_however_far_a_reference_lags_the_same_is_given(
    name: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "_LAG", most)
    diagram, sizes = example(name), sizes_of(example(name), SIZES, 5)
    arguments = arguments_of(diagram, sizes, LIMITS, 0)
    program = lagging(program_of(diagram, sizes, Tiles(8, 4)))
    assert worst_error(run(program, arguments, sizes).outputs, diagram, arguments) < 1e-12


@pytest.mark.parametrize(("name", "follows"), [("attention", False), ("attention_lse", True)])
def test_the_maximum_is_followed_only_where_an_output_needs_it(name: str, follows: bool) -> None:
    program = lagging(program_of(example(name), sizes_of(example(name), SIZES, 5), Tiles(8, 8)))
    fills = {op.tile.name for op in program.operations if isinstance(op, Fill)}
    assert ("m_most" in fills) == follows


@pytest.mark.parametrize(
    ("operand", "lags"),
    [("E", True), ("E * w", False), ("where(x <= q, E, 0)", False)],
)
def test_what_may_outgrow_its_type_keeps_the_maximum(operand: str, lags: bool) -> None:
    diagram = diagram_of(
        "diagram f(Q[q d], K[x d], V[x v], w[x]) -> O[q v]\n"
        "    S[q x] = sum[d](Q * K) + w * 0\n"
        "    E[q x] = exp(S - max[x](S))\n"
        f"    P[q x] = {operand}\n"
        "    O[q v] = sum[x](P * V) / sum[x](E)\n"
    )
    sizes = {"q": 13, "x": 29, "d": 3, "v": 2}
    assert bool(mostly_one(lagging(program_of(diagram, sizes, Tiles(4, 4))))) == lags


def test_a_step_that_makes_as_many_scores_as_it_has_sums_keeps_the_maximum() -> None:
    for head, lags in ((64, False), (128, False), (256, True)):
        sizes = {"b": 4, "h": 2048 // head, "d": head, "v": head}
        form = specialise(kernel_of("causal", sizes))
        assert isinstance(form, Specialised)
        assert bool(mostly_one(form.program)) == lags


def test_a_factor_that_does_more_than_move_sums_keeps_the_maximum() -> None:
    plain = rotate(
        program_of(example("attention"), sizes_of(example("attention"), SIZES, 5), Tiles(8, 8))
    )
    assert not isinstance(plain, str)
    changed = []
    for op in plain.operations:
        if isinstance(op, Loop):
            factor = next(
                each
                for each in op.body
                if isinstance(each, Compute)
                and each.operator == "exp2"
                and len(each.tile.dims) == 1
            )
            extra = Compute(
                replace(factor.tile, name=f"{factor.tile.name}_more"), "neg", (factor.tile.name,)
            )
            op = replace(op, body=(*op.body, extra))
        changed.append(op)
    program = replace(plain, operations=tuple(changed))
    assert with_lagging_references(program) == program


def test_a_warp_multiplies_every_sum_or_none() -> None:
    kernel = kernel_of("causal", {"b": 4, "h": 8, "d": 256, "v": 256})
    form = specialise(kernel)
    assert isinstance(form, Specialised)
    text = emit_gluon(plan_in_form(kernel, form))
    consume = text[text.index("def causal_consume(") : text.index("def causal_kernel(")]
    walked = [each for each in form.chunks if each.loop.body and not each.is_single]
    assert consume.count("o = _moved(o, ") == len(walked)
    helper = text[text.index("def _moved(") : text.index("pack=32")]
    products = re.findall(r"mul\.f32 \$(\d+), \$(\d+), \$(\d+);", helper)
    assert [tuple(map(int, each)) for each in products] == [(i, i, 64 + i) for i in range(32)]
    assert "_moved(" not in emit_gluon(plan_in_form(*narrow()))


def narrow() -> tuple[KernelPlan, Specialised]:
    kernel = kernel_of("causal", {"b": 4, "h": 16, "d": 128, "v": 128})
    form = specialise(kernel)
    assert isinstance(form, Specialised)
    return kernel, form


@needs_triton
@pytest.mark.parametrize("name", ["attention", "causal", "attention_lse"])
def test_a_form_whose_references_lag_compiles_without_spills(name: str) -> None:
    sizes = {"b": 4, "h": 8, "q": 4096, "x": 4096, "d": 256, "v": 256}
    plan = load(ROOT / "examples" / f"{name}.napkin").plan("h200", sizes=sizes, dtype="bf16")
    form = plan.kernels[-1].form
    assert form is not None
    assert mostly_one(form.warps.program)
    found = inspect_plan(plan)[-1].resources
    assert not any("C75" in warning for warning in found.warnings), found.warnings
    assert found.unwritten == ()
    assert found.spill_store_bytes + found.spill_load_bytes == 0
