"""Two-level costs: every row of the paper's section 5, as an identity and by number."""

from __future__ import annotations

from pathlib import Path

import pytest
import sympy as sp

from napkin.algebra.derive import derive
from napkin.language import read
from napkin.language.source import Source
from napkin.model.costs import (
    Costs,
    Role,
    bind,
    optimum,
    size_symbol,
    tile_symbol,
    two_level_costs,
)
from napkin.operators import Pipeline

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))
MATMUL = "diagram matmul(A[a b], B[b c]) -> C[a c]\n    C[a c] = sum[b](A * B)\n"
ATTENTION = (
    "diagram attention(Q[{0} q d], K[{1} x d], V[{1} x {2}]) -> O[{0} q {2}]\n"
    "    S[{3} q x] = sum[d](Q * K) / sqrt(size(d))\n"
    "    O[{0} q {2}] = sum[x](softmax[x](S) * V)\n"
)
SINGLE = ATTENTION.format("", "", "v", "")
HEADS = ATTENTION.format("h", "h", "v", "h")
GROUPED = ATTENTION.format("(k g)", "k", "v", "k g")
MLP = (
    "diagram mlp(X[t m], U[m f], W[f e]) -> Y[t e]\n"
    "    H[t f] = gelu(sum[m](X * U))\n    Y[t e] = sum[f](H * W)\n"
)
M = sp.Symbol("M", positive=True)
a, b, c, d, e, f, g, h, k, m, q, t, v, x = (size_symbol(axis) for axis in "abcdefghkmqtvx")
g_a, g_c, g_g, g_q, g_t = (tile_symbol(axis, Role.GROUP) for axis in "acgqt")
s_b, s_f, s_x = (tile_symbol(axis, Role.STREAM) for axis in "bfx")


def costs_of(text: str, grouped: tuple[str, ...] | None = None) -> Costs:
    return two_level_costs(derive(read(Source("test", text))[0]), grouped)


def alike(left: sp.Expr, right: sp.Expr) -> bool:
    return bool(sp.simplify(left - right) == 0)


# --- the table ------------------------------------------------------------------------------------


def test_matmul() -> None:
    costs = costs_of(MATMUL)
    assert alike(costs.transferred, a * b * c * (1 / g_a + 1 / g_c) + a * c)
    assert alike(costs.memory.array_elements, g_a * g_c + g_a * s_b + s_b * g_c)
    assert costs.memory.temporaries == ()
    best = optimum(costs, M)
    assert best.tiles == (("g_a", sp.sqrt(M)), ("g_c", sp.sqrt(M)))
    assert alike(best.transferred, 2 * a * b * c / sp.sqrt(M) + a * c)
    assert best.is_closed


def test_attention() -> None:
    costs = costs_of(SINGLE)
    paper = {v: d}
    assert alike(costs.transferred.subs(paper), 2 * q * d + 2 * x * d * q / g_q)
    assert alike(costs.memory.array_elements.subs(paper), 2 * g_q * d + 2 * s_x * d)
    best = optimum(costs, M)
    assert alike(dict(best.tiles)["g_q"].subs(paper), M / (2 * d))
    assert alike(best.transferred.subs(paper), 2 * q * d + 4 * x * q * d**2 / M)


def test_attention_with_values_of_another_width() -> None:
    costs = costs_of(SINGLE)
    assert alike(costs.transferred, q * (d + v) + x * (d + v) * q / g_q)
    assert alike(costs.memory.array_elements, (g_q + s_x) * (d + v))
    assert {each.name: each.elements for each in costs.memory.temporaries} == {
        "t1": g_q * s_x,
        "m": g_q,
        "l": g_q,
    }


def test_many_heads() -> None:
    costs, one = costs_of(HEADS), costs_of(SINGLE)
    assert alike(costs.transferred, h * one.transferred)
    assert costs.memory.array_elements == one.memory.array_elements
    assert dict(costs.roles)["h"] is Role.SINGLE
    best = optimum(costs, M)
    expected = 2 * h * q * d + 4 * h * x * q * d**2 / M
    assert alike(best.transferred.subs({v: d}), expected)


def test_grouped_queries() -> None:
    costs = costs_of(GROUPED)
    heads = k * g
    paper = 2 * q * heads * d + 2 * x * q * heads * d / (g_q * g_g)
    assert alike(costs.transferred.subs({v: d}), paper)
    held = 2 * g_q * g_g * d + 2 * s_x * d
    assert alike(costs.memory.array_elements.subs({v: d}), held)
    best = optimum(costs, M)
    (tile,) = best.tiles
    others = {"g_g": g_q, "g_q": g_g}[tile[0]]
    assert alike((tile[1] * others).subs({v: d}), M / (2 * d))
    expected = 2 * heads * q * d + 4 * heads * x * q * d**2 / M
    assert alike(best.transferred.subs({v: d}), expected)


def test_an_mlp() -> None:
    costs = costs_of(MLP)
    paper = {e: m}
    assert alike(costs.transferred.subs(paper), (t / g_t) * (2 * g_t * m + 2 * m * f))
    assert alike(costs.memory.elements.subs(paper), 2 * g_t * m + 2 * m * s_f + g_t * s_f)
    assert alike(costs.memory.array_elements.subs(paper), 2 * g_t * m + 2 * m * s_f)
    assert alike(dict(optimum(costs, M).tiles)["g_t"].subs(paper), M / (2 * m))


def test_the_intensity_of_a_matmul() -> None:
    costs = costs_of(MATMUL)
    assert alike(costs.whole.contraction, 2 * a * b * c)
    best = optimum(costs, M).transferred
    assert alike(best / costs.whole.contraction, 1 / sp.sqrt(M) + 1 / (2 * b))


def test_the_papers_numbers() -> None:
    best = optimum(costs_of(MATMUL), 1024, sizes={"a": 1024, "b": 1024, "c": 1024})
    assert best.transferred == 68_157_440
    assert dict(best.tiles) == {"g_a": 32, "g_c": 32}
    sizes = {"q": 4096, "x": 4096, "d": 128, "v": 128}
    best = optimum(costs_of(SINGLE), 131_072, sizes=sizes)
    assert dict(best.tiles) == {"g_q": 512}
    assert best.transferred == 9_437_184


# --- per step, per group, whole -------------------------------------------------------------------


def test_steps_and_groups_make_up_the_whole() -> None:
    costs = costs_of(SINGLE)
    assert alike(costs.groups, q / g_q)
    assert alike(costs.steps, x / s_x)
    assert alike(costs.transferred_by_step, s_x * (d + v))
    assert alike(costs.transferred_by_group, g_q * (d + v) + x * (d + v))
    assert alike(costs.transferred_by_group * costs.groups, costs.transferred)
    by_array = {each.array: each for each in costs.transfers}
    assert by_array["Q"].step == 0
    assert alike(by_array["Q"].whole, q * d)
    assert alike(by_array["K"].whole, x * d * q / g_q)
    assert alike(by_array["O"].group, g_q * v)


def test_operations_of_attention() -> None:
    costs = costs_of(SINGLE)
    assert alike(costs.step.contraction, 2 * g_q * s_x * (d + v))
    assert alike(costs.whole.contraction, 2 * q * x * (d + v))
    assert costs.whole.by_pipeline[Pipeline.TENSOR] == costs.whole.contraction
    assert costs.whole.by_pipeline[Pipeline.SFU] == costs.whole.exponential
    # One exponential a score, and one a row and step to carry.
    assert alike(costs.step.exponential, g_q * s_x + g_q)
    assert alike(costs.whole.exponential, q * x + q * x / s_x)
    assert costs.whole.pointwise.subs({d: 0, v: 0}).subs({s_x: x}) != 0


def test_every_example_has_transfers_that_add_up() -> None:
    for path in EXAMPLES:
        for diagram in read(Source(path.name, path.read_text(encoding="utf-8"))):
            costs = two_level_costs(derive(diagram))
            assert alike(costs.transferred_by_group * costs.groups, costs.transferred)
            assert costs.memory.array_elements != 0
            names = {each.array for each in costs.transfers}
            assert {each.name for each in diagram.arguments if each.dims} >= names - {
                each.name for each in diagram.outputs
            }


# --- sharing --------------------------------------------------------------------------------------


def example(name: str) -> Costs:
    path = next(path for path in EXAMPLES if path.stem == name)
    return costs_of(path.read_text(encoding="utf-8"))


def test_an_array_with_two_uses_is_loaded_once() -> None:
    latent = [each for each in example("mla").transfers if each.array == "C"]
    assert len(latent) == 1
    size = {axis: size_symbol(axis) for axis in "bchqx"}
    tiles = tile_symbol("h", Role.GROUP) * tile_symbol("q", Role.GROUP)
    groups = size["b"] * size["h"] * size["q"] / tiles
    assert alike(latent[0].whole, groups * size["x"] * size["c"])


def test_what_two_passes_read_is_transferred_twice() -> None:
    by_array = {each.array: each.whole for each in example("softmax").transfers}
    rows, length = size_symbol("b"), size_symbol("x")
    assert alike(by_array["S"], 2 * rows * length)
    assert alike(by_array["P"], rows * length)


def test_a_paged_array_costs_what_is_read_of_it() -> None:
    costs = example("paged_decode")
    (keys,) = [each for each in costs.transfers if each.array == "K"]
    assert alike(keys.step, s_x * d)
    assert all(each.array not in ("p", "s") for each in costs.transfers)


def test_a_small_table_is_held_whole() -> None:
    (bias,) = [each for each in example("relative_bias").transfers if each.array == "bias"]
    assert bias.step == 0
    assert alike(bias.group, size_symbol("r"))


# --- relabellings ---------------------------------------------------------------------------------


def test_axes_are_grouped_where_that_gives_reuse() -> None:
    roles = dict(costs_of(GROUPED).roles)
    assert roles == {
        "k": Role.SINGLE,
        "g": Role.GROUP,
        "q": Role.GROUP,
        "d": Role.WHOLE,
        "x": Role.STREAM,
        "v": Role.WHOLE,
    }


def test_another_grouping_may_be_asked_for_and_repeats_what_it_must() -> None:
    costs = costs_of(SINGLE, ("q", "v"))
    g_v = tile_symbol("v", Role.GROUP)
    assert alike(costs.groups, q * v / (g_q * g_v))
    # Q K is computed again for every group of v.
    assert alike(costs.whole.contraction, 2 * q * x * d * v / g_v + 2 * q * x * v)
    assert dict(costs_of(GROUPED, ("q",)).roles)["g"] is Role.SINGLE


def test_an_axis_that_is_not_woven_cannot_be_grouped() -> None:
    with pytest.raises(ValueError, match="no group partition of x is legal"):
        costs_of(SINGLE, ("x",))


def test_an_axis_may_have_the_name_of_a_tile() -> None:
    costs = costs_of("diagram f(A[a g_a], B[g_a c]) -> C[a c]\n    C[a c] = sum[g_a](A * B)\n")
    assert len({each for each in costs.transferred.free_symbols if each.name == "g_a"}) == 2


def test_elementwise_work_moves_everything_once() -> None:
    costs = costs_of("diagram f(A[q x], B[x]) -> C[q x]\n    C[q x] = A * B\n")
    assert costs.steps == 1
    assert alike(bind(costs.transferred, {"q": 4, "x": 8}), 4 * 8 * 2 + 4 * 8)


# --- the optimum ----------------------------------------------------------------------------------


def test_a_search_finds_what_the_closed_form_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from napkin.model import optimum as module

    sizes = {"a": 4096, "b": 512, "c": 1024}
    closed = optimum(costs_of(MATMUL), 16_384, sizes=sizes)
    monkeypatch.setattr(module, "solve_exactly", lambda *_: None)
    searched = optimum(costs_of(MATMUL), 16_384, sizes=sizes)
    assert not searched.is_closed
    assert searched.transferred == pytest.approx(float(closed.transferred), rel=1e-3)


def test_a_search_needs_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from napkin.model import optimum as module

    monkeypatch.setattr(module, "solve_exactly", lambda *_: None)
    with pytest.raises(ValueError, match="give numbers for M, a, b, c"):
        optimum(costs_of(MATMUL), M)


def test_no_tiles_no_choice() -> None:
    costs = example("softmax")
    assert optimum(costs, M).tiles == ()
    assert alike(optimum(costs, M).transferred, costs.transferred)
