"""Which test holds which figure of the paper (arXiv 2412.03317), and those that no other test holds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import sympy as sp

from napkin.algebra.derive import derive
from napkin.language import read
from napkin.language.source import Source
from napkin.model.costs import Costs, bind, optimum, size_symbol, tile_symbol, two_level_costs
from napkin.model.roles import Role

TESTS = Path(__file__).parent

# The sections' tables and figures, in order, by the tests that hold them.
HELD = {
    "3: a contraction of length k costs 2k": "costs: operations_of_attention",
    "4: H does not depend on the stream's tile, and M does": "paper: a_stream_s_tile_costs_memory_alone",
    "4: two grouped axes a and b": "paper: two_grouped_axes_repeat_what_each_lacks",
    "5: matmul": "costs: matmul",
    "5: attention": "costs: attention",
    "5: multi-head attention": "costs: many_heads",
    "5: grouped queries": "costs: grouped_queries",
    "5: grouped queries, few of them": "paper: few_queries_of_a_group_still_share_keys",
    "5: keys and values of other widths": "costs: attention_with_values_of_another_width",
    "5: MLP": "costs: an_mlp",
    "5: intensity of matmul": "costs: the_intensity_of_a_matmul",
    "5: H of matmul 1024 and of attention 4096": "costs: the_papers_numbers",
    "6.1: beta 1/2": "hierarchy: two_grouped_axes_that_trade_off_fall_with_the_root",
    "6.1: beta 1": "hierarchy: one_operand_that_is_broadcast_to_all_falls_with_the_memory",
    "6.2: the sum over levels": "hierarchy: levels_add_each_with_its_own_memory",
    "6.3: q to the 1 + beta": "hierarchy: a_term_costs_with_the_width_of_values_to_one_plus_beta",
    "6.3: 4 times and 2.83 times": (
        "hierarchy: half_the_width_saves_four_times_for_attention_and_less_for_matmul"
    ),
    "6.4: caching of what passes": "hierarchy: a_cache_acts_with_the_memory_of_all_its_children",
    "6.5: cross-transfer": "hierarchy: a_link_costs_what_the_theorem_says",
    "6.5: four savings": "hierarchy: the_papers_savings_in_seconds_for_each_terabyte",
    "6.5: pairs for attention, fours for matmul": (
        "hierarchy: pairs_for_attention_and_fours_for_matmul"
    ),
    "6.6: 295, 82 and 151 deep, 681 KB": (
        "hierarchy: the_least_depth_and_memory_of_a_matmul_on_a_h100"
    ),
    "7: coalescing and instruction shapes": "machine: a_matrix_instruction_is_deeper_for_narrower_types",
    "7: shared memory, 48 KB and 48 KB": "tables: the_shared_memory_of_the_hopper_case",
    "7: registers, 74.75 KB, 149.5": "tables: the_registers_of_the_hopper_case",
    "7: N_max 3.7 and 3.4, three warpgroups, 384 rows": "tables: three_warpgroups_fit_the_hopper_case",
    "7: clocks 2, 4.06, 4, 0.5": "tables: the_clocks_of_the_hopper_case",
    "7: 295 rows, 1.26 us and 0.97 us": "tables: the_bandwidth_bound_of_the_hopper_case",
    "7: 1.32 PFLOP/s": "tables: the_ideal_of_the_hopper_case_is_the_harmonic_mean_of_the_peaks",
    "7: slack 50, 100 and 0 %": "tables: the_slack_of_the_exponentials",
    "7: the same from a file": "report: the_tables_of_an_on_block_need_no_kernel",
    "7: ping-pong and overlap": (
        "tables: overlap_is_never_slower_than_none_nor_faster_than_the_longest_pipeline"
    ),
    "7: FlashAttention-3, 75 and 60 %": "tables: flash_attention_3_read_with_one_assumption",
    "7: 8 and 13 warps on Ampere": "tables: thirteen_warps_against_eight_on_ampere",
    "8: hardware figures": "machine: the_papers_hardware_figures",
    "8: peaks": "machine: tensor_peaks_are_those_of_the_data_sheets",
    "8: DRAM": "machine: memory_is_as_fast_as_on_the_data_sheet",
    "8: 200.6, 153 and 206 rows": "tables: the_least_tile_of_fp16_attention",
    "8: head 64 is bound by exponentials": "tables: short_heads_are_bound_by_exponentials_on_hopper",
}


def file_of(name: str) -> Path:
    prefix = "test_" if name == "machine" else "test_model_"
    return TESTS / f"{prefix}{name}.py"


@pytest.mark.parametrize("figure", HELD)
def test_every_figure_of_the_paper_has_its_test(figure: str) -> None:
    file, _, name = HELD[figure].partition(": ")
    tree = ast.parse(file_of(file).read_text(encoding="utf-8"))
    found = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    (test,) = [each for each in found if each.name == f"test_{name}"]
    assert any(isinstance(each, ast.Assert) for each in ast.walk(test))


# --- what no other test holds ---------------------------------------------------------------------


def costs_of(text: str, grouped: tuple[str, ...] | None = None) -> Costs:
    return two_level_costs(derive(read(Source("paper", text))[0]), grouped)


def alike(left: sp.Expr, right: sp.Expr) -> bool:
    return bool(sp.simplify(left - right) == 0)


ATTENTION = (
    "diagram attention(Q[q d], K[x d], V[x v]) -> O[q v]\n"
    "    O[q v] = sum[x](softmax[x](sum[d](Q * K)) * V)\n"
)
GROUPED = (
    "diagram gqa(Q[(k g) q d], K[k x d], V[k x v]) -> O[(k g) q v]\n"
    "    O[k g q v] = sum[x](softmax[x](sum[d](Q * K)) * V)\n"
)


def test_a_stream_s_tile_costs_memory_alone() -> None:
    costs, s_x = costs_of(ATTENTION), tile_symbol("x", Role.STREAM)
    assert s_x not in costs.transferred.free_symbols
    assert costs.memory.elements.diff(s_x) != 0
    assert s_x in costs.transferred_by_step.free_symbols


def test_two_grouped_axes_repeat_what_each_lacks() -> None:
    # H = a b x (1/g_a + 1/g_b) + a b y: slices x of what lacks the one or the other axis, y of the output.
    text = "diagram f(A[a k m], B[b k]) -> C[a b m]\n    C[a b m] = sum[k](A * B)\n"
    a, b, k, m = (size_symbol(axis) for axis in "abkm")
    g_a, g_b = (tile_symbol(axis, Role.GROUP) for axis in "ab")
    costs = costs_of(text, ("a", "b"))
    by_array = {each.array: each.whole for each in costs.transfers}
    assert alike(by_array["A"], a * b * (k * m) / g_b)
    assert alike(by_array["C"], a * b * m)
    # `m` is taken one at a time, and B lacks it as well.
    assert alike(by_array["B"], a * b * k * m / g_a)


def test_few_queries_of_a_group_still_share_keys() -> None:
    sizes = {"k": 8, "g": 8, "q": 4, "x": 4096, "d": 128, "v": 128}
    costs = costs_of(GROUPED)
    alone = float(bind(costs.transferred, {**sizes, "g_q": 4, "g_g": 1}))
    shared = float(bind(costs.transferred, {**sizes, "g_q": 4, "g_g": 8}))
    kept = 2 * 64 * 4 * 128
    assert alone - kept == 8 * (shared - kept)
    best = optimum(costs, 2 * 32 * 128, sizes=sizes)
    assert float(best.transferred) == pytest.approx(shared)
