"""Power laws over several levels: every figure of the paper's section 6."""

from __future__ import annotations

import pytest
import sympy as sp

from napkin.algebra.derive import derive
from napkin.language import read
from napkin.language.source import Source
from napkin.machine import load_machine
from napkin.model.costs import Costs, size_symbol, two_level_costs
from napkin.model.hierarchy import (
    FedLevel,
    balanced_memory,
    balanced_size,
    best_group,
    cached,
    cross_transfer_saving,
    cross_transfer_seconds,
    quantization_gain,
    quantized,
    transfer_seconds,
)
from napkin.model.optimum import MEMORY, PowerLaw, PowerTerm, power_law
from napkin.operators import Pipeline

MATMUL = "diagram matmul(A[a b], B[b c]) -> C[a c]\n    C[a c] = sum[b](A * B)\n"
ATTENTION = (
    "diagram attention(Q[q d], K[x d], V[x v]) -> O[q v]\n"
    "    S[q x] = sum[d](Q * K) / sqrt(size(d))\n"
    "    O[q v] = sum[x](softmax[x](S) * V)\n"
)
a, b, c, d, q, v, x = (size_symbol(axis) for axis in "abcdqvx")
M, N, r, r_above, r_cross = sp.symbols("M N r r_above r_cross", positive=True)
TERA = 1e12


def costs_of(text: str) -> Costs:
    return two_level_costs(derive(read(Source("test", text))[0]))


def law_of(text: str) -> PowerLaw:
    law = power_law(costs_of(text))
    assert law is not None
    return law


def alike(left: sp.Expr, right: sp.Expr) -> bool:
    return bool(sp.simplify(left - right) == 0)


# --- the law --------------------------------------------------------------------------------------


def test_two_grouped_axes_that_trade_off_fall_with_the_root() -> None:
    law = law_of(MATMUL)
    assert law.terms == (
        PowerTerm(2 * a * b * c, sp.Rational(1, 2)),
        PowerTerm(a * c, sp.Integer(0)),
    )
    assert str(law) == "2*a*b*c/M^(1/2) + a*c"


def test_one_operand_that_is_broadcast_to_all_falls_with_the_memory() -> None:
    law = law_of(ATTENTION)
    assert [each.beta for each in law.terms] == [1, 0]
    assert alike(law.terms[0].alpha, q * x * (d + v) ** 2)
    assert alike(law.at(MEMORY).subs(v, d), 2 * q * d + 4 * x * q * d**2 / MEMORY)


def test_a_law_takes_numbers() -> None:
    law = law_of(ATTENTION).bound({"q": 4096, "x": 4096, "d": 128, "v": 128})
    assert law.at(131_072) == 9_437_184


# --- levels ---------------------------------------------------------------------------------------


def test_levels_add_each_with_its_own_memory() -> None:
    law = law_of(ATTENTION)
    r_1, m_1, r_2, m_2 = sp.symbols("r_1 m_1 r_2 m_2", positive=True)
    found = transfer_seconds(law, [FedLevel(m_1, r_1), FedLevel(m_2, r_2)])
    moved, kept = q * x * (d + v) ** 2, q * (d + v)
    assert alike(found, (moved / m_1 + kept) / r_1 + (moved / m_2 + kept) / r_2)


@pytest.mark.parametrize(("text", "beta"), [(ATTENTION, 1), (MATMUL, sp.Rational(1, 2))])
def test_a_term_costs_with_the_width_of_values_to_one_plus_beta(text: str, beta: sp.Expr) -> None:
    falling = PowerLaw(law_of(text).terms[:1])
    width = sp.Symbol("width", positive=True)
    seconds = transfer_seconds(falling, [quantized(M, r, width)])
    assert alike(seconds, width ** (1 + beta) * transfer_seconds(falling, [quantized(M, r, 1)]))


def test_half_the_width_saves_four_times_for_attention_and_less_for_matmul() -> None:
    assert quantization_gain(1, 2) == 4
    assert float(quantization_gain(sp.Rational(1, 2), 2)) == pytest.approx(2.83, abs=2e-3)


def test_a_cache_acts_with_the_memory_of_all_its_children() -> None:
    law = law_of(ATTENTION)
    child = FedLevel(M, r)
    through = transfer_seconds(law, [cached(child, N, r_above)])
    assert alike(through, law.at(N * M) / r_above)


# --- links between neighbours ---------------------------------------------------------------------


def test_a_link_costs_what_the_theorem_says() -> None:
    law, child = law_of(ATTENTION), FedLevel(M, r_above)
    found = cross_transfer_seconds(law, child, r_cross, N)
    kept = q * (d + v)
    falling = PowerLaw(law.terms[:1])
    saved = cross_transfer_saving(1, r_above, r_cross, N) * falling.at(M)
    assert alike(found, law.at(M) / r_above - saved)
    assert alike(found, (1 / r_above - 1 / r_cross) * law.at(N * M) + law.at(M) / r_cross)
    # What every tiling transfers is not repeated, so no link can save it.
    assert alike(found.subs(x, 0), kept / r_above)


@pytest.mark.parametrize(
    ("beta", "count", "cross", "saving"),
    [
        (1, 2, 3.27, 0.0922),
        (0.5, 2, 3.27, 0.0540),
        (1, 4, 2.65, 0.0846),
        (0.5, 4, 2.65, 0.0564),
    ],
)
def test_the_papers_savings_in_seconds_for_each_terabyte(
    beta: float, count: int, cross: float, saving: float
) -> None:
    assert cross_transfer_saving(beta, 2.04, cross, count) == pytest.approx(saving, abs=5e-5)


@pytest.mark.parametrize(("text", "size"), [(ATTENTION, 2), (MATMUL, 4)])
def test_pairs_for_attention_and_fours_for_matmul(text: str, size: int) -> None:
    sizes = dict.fromkeys("abcqx", 8192) | {"d": 128, "v": 128}
    law = law_of(text).bound(sizes)
    child = quantized(227 * 1024, 2.04 * TERA, 2)
    rates = {2: 3.27 * TERA / 2, 4: 2.65 * TERA / 2}
    count, seconds = best_group(law, child, rates)
    assert count == size
    assert seconds < law.at(child.memory) / child.rate


def test_a_slow_link_joins_nobody() -> None:
    law = law_of(MATMUL).bound({"a": 1024, "b": 1024, "c": 1024})
    assert best_group(law, FedLevel(1024, 2.0), {2: 1.0, 4: 1.5})[0] == 1


# --- minima ---------------------------------------------------------------------------------------

PEAK = 989 * TERA
WORK = 2 * a * b * c


def allowed(byte_rate: float) -> sp.Expr:
    """Return the FP16 values that may move while the tensor cores do a matmul."""
    return WORK * sp.Float(byte_rate / 2 / PEAK)


def test_the_least_depth_and_memory_of_a_matmul_on_a_h100() -> None:
    law = law_of(MATMUL)
    assert float(balanced_size(law, sp.oo, allowed(3.35 * TERA), "b")) == pytest.approx(295, abs=1)
    assert float(balanced_size(law, sp.oo, allowed(12 * TERA), "b")) == pytest.approx(82, abs=1)
    values = 256 * 1024 // 2
    assert float(balanced_size(law, values, allowed(12 * TERA), "b")) == pytest.approx(151, abs=1)
    deep = sp.limit(balanced_memory(law, allowed(3.35 * TERA)), b, sp.oo)
    assert float(deep) * 2 / 1024 == pytest.approx(681, abs=1)


def test_too_shallow_a_matmul_is_never_fast_enough() -> None:
    law = law_of(MATMUL).bound({"a": 4096, "b": 200, "c": 4096})
    work = allowed(3.35 * TERA).subs({a: 4096, b: 200, c: 4096})
    assert balanced_memory(law, work) == sp.oo
    with pytest.raises(ValueError, match="no length of q"):
        balanced_size(law, sp.Integer(1024), work, "q")


def test_several_falling_powers_have_no_one_balance() -> None:
    law = PowerLaw((PowerTerm(a, sp.Integer(1)), PowerTerm(b, sp.Rational(1, 2))))
    assert balanced_memory(law, c) is None


def test_the_machine_file_gives_the_papers_balance() -> None:
    machine = load_machine("h100")
    rate = machine.nominal_bandwidth("dram")
    peak = machine.nominal_peak(Pipeline.TENSOR, "fp16")
    depth = balanced_size(law_of(MATMUL), sp.oo, WORK * sp.Float(rate / 2 / peak), "b")
    assert float(depth) == pytest.approx(295, abs=1)
