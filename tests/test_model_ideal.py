"""What any one kernel must cost: the least of each level and pipeline, and geometric programmes."""

from __future__ import annotations

from pathlib import Path

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from napkin.algebra.derive import Derivation, derive
from napkin.api import load
from napkin.emit.report import show_comparison, show_unplanned
from napkin.language import read
from napkin.language.source import Source
from napkin.machine import load_machine, machine_names
from napkin.model.costs import two_level_costs
from napkin.model.ideal import Ideal, acting_memory, ideal
from napkin.model.optimum import optimum
from napkin.model.programme import monomials, solve_exactly, solve_numerically
from napkin.model.roles import bind, operand_type, size_symbol
from napkin.operators import Pipeline

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))
MATMUL = "diagram matmul(A[a b], B[b c]) -> C[a c]\n    C[a c] = sum[b](A * B)\n"
ATTENTION = (
    "diagram attention(Q[q d], K[x d], V[x v]) -> O[q v]\n"
    "    S[q x] = sum[d](Q * K) / sqrt(size(d))\n"
    "    O[q v] = sum[x](softmax[x](S) * V)\n"
)
SIZES = {"q": 8192, "x": 8192, "d": 128, "v": 128}
BF16 = dict.fromkeys("QKVO", "bf16")


def derived(text: str) -> Derivation:
    return derive(read(Source("test", text))[0])


def attention_on(machine: str, types: dict[str, str] = BF16) -> Ideal:
    return ideal(derived(ATTENTION), load_machine(machine), SIZES, types)


# --- levels ---------------------------------------------------------------------------------------


def test_a_level_transfers_what_the_closed_form_says_and_what_statistics_take_besides() -> None:
    (shared,) = [each for each in attention_on("h100").levels if each.level == "shared"]
    assert shared.held == pytest.approx(233_472)
    costs = two_level_costs(derived(ATTENTION)).in_bytes(dict.fromkeys("QKVO", 2))
    closed = optimum(costs, 233_472, sizes=SIZES)
    assert float(closed.transferred) < shared.bytes < 2.5 * float(closed.transferred)
    assert shared.bytes == 2 * shared.elements


def test_a_cache_acts_with_the_shared_memory_of_all_units() -> None:
    h100, mi300x = load_machine("h100"), load_machine("mi300x")
    assert acting_memory(h100, h100.level("l2")) == 132 * 228 * 1024
    assert acting_memory(h100, h100.level("register")) == 256 * 1024
    assert acting_memory(mi300x, mi300x.level("l2")) == 38 * 64 * 1024


def test_what_fits_a_cache_whole_is_loaded_once() -> None:
    (l2,) = [each for each in attention_on("h100").levels if each.level == "l2"]
    assert l2.bytes == pytest.approx(2 * 4 * 8192 * 128, rel=1e-6)
    assert dict(l2.tiles)["q"] == pytest.approx(8192, rel=1e-6)


def test_a_level_too_small_for_single_elements_says_so() -> None:
    sizes = SIZES | {"d": 65_536, "v": 65_536}
    found = ideal(derived(ATTENTION), load_machine("m4_max"), sizes, BF16)
    shared = found.levels[-1]
    assert not shared.fits
    assert shared.held > shared.memory
    assert dict(shared.tiles) == {"q": 1.0}
    assert shared.seconds is None
    assert not found.fits
    assert attention_on("h100").fits


def test_the_factors_of_a_contraction_are_multiplied_where_that_is_cheapest() -> None:
    text = "diagram f(X[t d], W[d n], g[d]) -> Y[t n]\n    Y[t n] = sum[d](X * W * g)\n"
    t, d = (size_symbol(axis) for axis in "td")
    for order in ("X * W * g", "g * X * W", "W * g * X"):
        costs = two_level_costs(derived(text.replace("X * W * g", order)))
        ahead = bind(costs.whole.pointwise, {"g_t": t, "g_n": size_symbol("n")})
        # g is multiplied into X or W, not into their product.
        assert sp.expand(ahead) in (t * d, size_symbol("n") * d)


def test_every_level_and_pipeline_takes_part_in_the_bound() -> None:
    found = attention_on("h100")
    assert found.seconds == max(found.times.values()) == found.times[found.bound_by]
    assert found.transfer_seconds == pytest.approx(
        sum(found.times[each.fed_by] for each in found.levels)
    )
    tensor = 2 * 2 * 8192 * 8192 * 128 / load_machine("h100").nominal_peak(Pipeline.TENSOR, "bf16")
    assert found.times["tensor"] == pytest.approx(tensor)


def test_what_has_no_published_rate_has_no_seconds() -> None:
    found = attention_on("m4_max")
    assert set(found.times) == {"dram"}
    assert found.bound_by == "dram"
    assert {each.pipeline for each in found.pipelines} == {
        Pipeline.TENSOR,
        Pipeline.SFU,
        Pipeline.FP32,
    }
    assert "sfu" not in attention_on("mi300x").times


def test_a_level_that_feeds_two_counts_with_the_slower() -> None:
    found = attention_on("b200")
    fed = [each for each in found.levels if each.fed_by == "shared"]
    assert {each.level for each in fed} == {"register", "fragment"}
    assert found.times["shared"] == max(each.seconds or 0.0 for each in fed)


def test_a_mask_halves_the_operations() -> None:
    machine = load_machine("h100")
    whole = ideal(derived(ATTENTION), machine, SIZES, BF16)
    half = ideal(derived(ATTENTION), machine, SIZES, BF16, unmasked=0.5)
    assert half.times["tensor"] == pytest.approx(whole.times["tensor"] / 2)
    assert half.levels == whole.levels


def test_eight_bits_double_the_tensor_rate_where_there_is_one() -> None:
    eight = BF16 | dict.fromkeys("QKV", "fp8e4m3")
    wide, narrow = attention_on("h100"), attention_on("h100", eight)
    assert narrow.times["tensor"] == pytest.approx(wide.times["tensor"] / 2)
    assert attention_on("a100", eight).times["tensor"] == attention_on("a100").times["tensor"]


def test_each_contraction_runs_at_the_rate_of_its_own_type() -> None:
    mixed = BF16 | dict.fromkeys("QK", "fp8e4m3")
    wide, narrow = attention_on("h100"), attention_on("h100", mixed)
    assert narrow.times["tensor"] == pytest.approx(wide.times["tensor"] * 0.75)
    graph = derived(ATTENTION).graph
    names = {getattr(box, "name", ""): i for i, box in enumerate(graph.boxes)}
    assert operand_type(graph, (names["Q"], names["K"]), mixed) == "fp8e4m3"
    assert operand_type(graph, (), mixed) is None


@pytest.mark.parametrize("machine", machine_names())
def test_every_example_has_an_ideal_on_every_machine(machine: str) -> None:
    for path in EXAMPLES:
        if path.stem not in ("matmul", "gqa", "mla", "mlp", "layernorm_linear", "softmax"):
            continue
        diagram = read(Source(path.name, path.read_text(encoding="utf-8")))[-1]
        sizes = {axis: dict(diagram.sizes).get(axis, 4096) for axis in diagram.axes}
        arrays = [each.name for each in diagram.arguments] + [e.name for e in diagram.outputs]
        types = dict.fromkeys(arrays, "bf16")
        found = ideal(derive(diagram), load_machine(machine), sizes, types)
        assert found.seconds > 0
        moved = [each.bytes for each in found.levels if each.level in ("l3", "l2", "shared")]
        assert moved == sorted(moved), "what is nearer a unit holds less, so more passes"


def test_what_fits_no_level_of_a_machine_without_rates_takes_an_unknown_time() -> None:
    layer = load(EXAMPLES[0].parent / "attention_block.napkin")
    found = layer.cost_without_plan("m4_max", sizes={})
    assert found.ideal.times == {}
    assert found.ideal.bound_by == "capacity"
    assert found.as_json()["predicted_seconds"] is None
    assert "no rate is published" in show_unplanned(found)
    both = show_comparison([found.as_cost(), layer.cost_without_plan("h100", sizes={}).as_cost()])
    assert "an unknown time" in both
    assert "nan" not in both


# --- bytes ----------------------------------------------------------------------------------------


def test_elements_and_bytes_are_apart() -> None:
    costs = two_level_costs(derived(ATTENTION))
    in_bytes = costs.in_bytes({"Q": 1, "K": 1, "V": 2, "O": 2})
    elements = {each.array: each.whole for each in costs.transfers}
    for each in in_bytes.transfers:
        assert each.whole == elements[each.array] * (2 if each.array in "VO" else 1)
    held = {each.name: each.elements for each in costs.memory.temporaries}
    assert {each.name: each.elements for each in in_bytes.memory.temporaries} == {
        name: 4 * count for name, count in held.items()
    }
    assert in_bytes.whole == costs.whole


# --- geometric programmes -------------------------------------------------------------------------

g, h, k = sp.symbols("g h k", positive=True)


def test_a_trade_of_three_tiles_has_a_closed_form() -> None:
    # The least of A/g + B/h + C/k where g h k keeps under M: each term the same, so 3 (ABC/M)^(1/3).
    terms = monomials(2 / g + 4 / h + 8 / k, (g, h, k))
    (held,) = monomials(g * h * k, (g, h, k))
    found = solve_exactly(terms, held, (g, h, k), sp.Integer(512))
    assert found is not None
    assert found.exponent == sp.Rational(1, 3)
    tiles = dict(found.variables)
    assert sp.simplify(tiles[g] * tiles[h] * tiles[k] - 512) == 0
    assert sp.simplify(2 / tiles[g] - 4 / tiles[h]) == 0
    assert sp.simplify(2 / tiles[g] - sp.Rational(1, 2)) == 0


def test_more_terms_than_tiles_have_no_closed_form() -> None:
    terms = monomials(1 / g + 1 / h + 1 / (g * h), (g, h))
    (held,) = monomials(g * h, (g, h))
    assert solve_exactly(terms, held, (g, h), sp.Integer(64)) is None


def test_a_tile_that_the_memory_does_not_see_has_no_optimum() -> None:
    terms = monomials(1 / g + 1 / h, (g, h))
    (held,) = monomials(g, (g, h))
    assert solve_exactly(terms, held, (g, h), sp.Integer(64)) is None


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(0.1, 1e4)] * 2),
    st.floats(64.0, 1e6),
    st.floats(0.5, 8.0),
)
def test_numbers_and_closed_form_agree(
    weights: tuple[float, float], limit: float, factor: float
) -> None:
    terms = monomials(weights[0] / g + weights[1] / h, (g, h))
    (held,) = monomials(factor * g * h, (g, h))
    exact = solve_exactly(terms, held, (g, h), limit)
    assert exact is not None
    tiles = {each: float(value) for each, value in exact.variables}
    if min(tiles.values()) < 1:
        return
    wide = {g: 1e12, h: 1e12}
    found = dict(solve_numerically(terms, [held], (g, h), limit, wide).variables)
    least = weights[0] / tiles[g] + weights[1] / tiles[h]
    assert weights[0] / found[g] + weights[1] / found[h] == pytest.approx(least, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 100.0), min_size=5, max_size=5), st.floats(200.0, 1e5))
def test_no_other_tiles_are_better(weights: list[float], limit: float) -> None:
    a, b, c, d, e = weights
    terms = monomials(a / g + b / h + c / (g * h), (g, h))
    held = monomials(g * h + d * g + e * h, (g, h))
    upper = {g: 500.0, h: 40.0}
    found = dict(solve_numerically(terms, held, (g, h), limit, upper).variables)

    def moved(first: float, second: float) -> float:
        return a / first + b / second + c / (first * second)

    assert found[g] * found[h] + d * found[g] + e * found[h] <= max(limit, 1 + d + e) * (1 + 1e-9)
    for first in (1.0, 3.0, 10.0, 30.0, 100.0, 500.0):
        second = min(40.0, (limit - d * first) / (first + e))
        if second >= 1:
            assert moved(found[g], found[h]) <= moved(first, second) * (1 + 1e-6)


def test_tiles_stop_at_their_axes() -> None:
    terms = monomials(1 / g + 1 / h, (g, h))
    held = monomials(g * h, (g, h))
    found = solve_numerically(terms, held, (g, h), 1e6, {g: 8.0, h: 1.0})
    assert dict(found.variables) == {g: pytest.approx(8.0, rel=1e-6), h: 1.0}


def test_the_exponent_is_what_memory_is_worth() -> None:
    terms = monomials(1 / g + 1 / h, (g, h))
    held = monomials(g * h, (g, h))
    found = solve_numerically(terms, held, (g, h), 1e6, {g: 1e6, h: 1e6})
    assert float(found.exponent) == pytest.approx(0.5, rel=1e-3)


def test_tiles_of_one_where_nothing_fits() -> None:
    terms, held = monomials(1 / g, (g,)), monomials(100 * g, (g,))
    assert solve_numerically(terms, held, (g,), 50.0, {g: 64.0}).variables == ((g, 1.0),)
