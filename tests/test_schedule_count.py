"""Counting a Program gives the paper's formulas (section 5), and what the executor counts."""

from __future__ import annotations

import pytest

from napkin.operators import Kind, Pipeline
from napkin.schedule.count import Totals, Transfer, columns, peak, totals, work
from napkin.schedule.liveness import entry_of, live_after
from napkin.schedule.program import Assign, Compute, Dot, Fill, Literal, Loop, Region, Tile, walk
from napkin.schedule.trips import multiplicity, remainders
from tests.programs import Tiles, arguments_of, diagram_of, example, program_of, run

ATTENTION = """diagram attention(Q[q d], K[x d], V[x v]) -> O[q v]
    O[q v] = sum[x](softmax[x](sum[d](Q * K)) * V)
"""
GROUPED = """diagram grouped(Q[k g q d], K[k x d], V[k x v]) -> O[k g q v]
    O[k g q v] = sum[x](softmax[x](sum[d](Q * K)) * V)
"""
PERCEPTRON = """diagram perceptron(X[t d], U[d f], W[f e]) -> Y[t e]
    Y[t e] = sum[f](gelu(sum[d](X * U)) * W)
"""


def counted(text: str, sizes: dict[str, int], tiles: Tiles) -> Totals:
    return totals(program_of(diagram_of(text), sizes, tiles), sizes)


# --- H: the paper's table -------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n", "k", "tile"), [(1024, 1024, 1024, 32), (256, 512, 128, 64)])
def test_a_matmul_moves_what_the_paper_says(m: int, n: int, k: int, tile: int) -> None:
    sizes = {"m": m, "n": n, "k": k}
    total = totals(program_of(example("matmul"), sizes, Tiles(tile, 16)), sizes)
    assert total.elements == 2 * m * n * k // tile + m * n
    assert total.on(Pipeline.TENSOR) == 2 * m * n * k


def test_the_papers_own_figure_for_matmul() -> None:
    sizes = {"m": 1024, "n": 1024, "k": 1024}
    assert totals(program_of(example("matmul"), sizes, Tiles(32, 16)), sizes).elements == 68157440


def test_the_papers_own_figure_for_attention() -> None:
    sizes = {"q": 4096, "x": 4096, "d": 128, "v": 128}
    assert counted(ATTENTION, sizes, Tiles(512, 64)).elements == 9437184


@pytest.mark.parametrize(("tile", "step"), [(64, 16), (128, 32), (16, 128)])
def test_attention_moves_what_the_paper_says(tile: int, step: int) -> None:
    q, x, dk, dv = 256, 512, 64, 32
    sizes = {"q": q, "x": x, "d": dk, "v": dv}
    total = counted(ATTENTION, sizes, Tiles(tile, step, own=(("v", dv),)))
    assert total.elements == q * (dk + dv) + x * (dk + dv) * q // tile
    assert total.bytes == 2 * total.elements
    assert total.on(Pipeline.TENSOR) == 2 * q * x * (dk + dv)


def test_the_length_of_a_stream_step_moves_nothing_more() -> None:
    sizes = {"q": 256, "x": 512, "d": 64, "v": 64}
    moved = {step: counted(ATTENTION, sizes, Tiles(64, step)).elements for step in (16, 32, 512)}
    assert len(set(moved.values())) == 1


def test_heads_that_share_keys_share_their_loads() -> None:
    k, g, q, x, d = 2, 4, 64, 128, 32
    sizes = {"k": k, "g": g, "q": q, "x": x, "d": d, "v": d}
    total = counted(GROUPED, sizes, Tiles(16, 16, own=(("g", 4), ("q", 16), ("v", d))))
    assert total.elements == 2 * k * g * q * d + 2 * x * q * k * g * d // (16 * 4)


def test_a_perceptron_keeps_its_hidden_layer_on_chip() -> None:
    t, d, f = 128, 32, 256
    sizes = {"t": t, "d": d, "f": f, "e": d}
    total = counted(PERCEPTRON, sizes, Tiles(16, 64, own=(("e", d),)))
    assert total.elements == t // 16 * (2 * 16 * d + 2 * d * f)


def test_a_causal_mask_halves_the_loads() -> None:
    q, tile, d = 256, 16, 8
    sizes = {"b": 1, "h": 1, "q": q, "x": q, "d": d, "v": d}
    tiles = Tiles(tile, tile, own=(("v", d),))
    total = totals(program_of(example("causal"), sizes, tiles), sizes)
    rows = q // tile
    assert total.of_array("K") == d * tile * rows * (rows + 1) // 2
    assert total.is_exact


def test_a_window_needs_its_width_to_be_counted() -> None:
    sizes = {"b": 2, "h": 1, "q": 64, "x": 64, "d": 8, "v": 8}
    diagram = example("window")
    program = program_of(diagram, sizes, Tiles(16, 16))
    arguments = arguments_of(diagram, sizes, {}, 0)
    exact = totals(program, sizes, {"width": arguments["width"]})
    assert exact.is_exact
    assert exact == run(program, arguments, sizes).totals
    whole = totals(program, sizes)
    assert not whole.is_exact
    assert whole.elements >= exact.elements


@pytest.mark.parametrize("name", ["attention", "causal", "layernorm", "mlp", "cross_entropy"])
def test_the_executor_counts_the_same(name: str) -> None:
    diagram = example(name)
    sizes = dict.fromkeys(diagram.axes, 11) | {"b": 2}
    program = program_of(diagram, sizes, Tiles(4, 4, 4))
    execution = run(program, arguments_of(diagram, sizes, {}, 0), sizes)
    assert execution.totals == totals(program, sizes)


# --- M: what is resident --------------------------------------------------------------------------


def test_attention_keeps_what_the_paper_says_on_chip() -> None:
    rows, step, d = 128, 64, 128
    sizes = {"q": 1024, "x": 1024, "d": d, "v": d}
    program = program_of(diagram_of(ATTENTION), sizes, Tiles(rows, step))
    most = dict(peak(program))
    stages = program.buffers[0].stages
    assert most["shared"] == 2 * (rows * d + stages * 2 * step * d)
    state, scores, statistics = rows * d, rows * step, rows
    assert most["register"] >= 4 * (state + scores + 2 * statistics)
    assert most["register"] < 4 * (state + 2 * scores + 8 * statistics)


def test_states_are_alive_from_one_step_to_the_next() -> None:
    tile = Tile("m", (), Kind.FLOAT, "fp32")
    new = Tile("n", (), Kind.FLOAT, "fp32")
    body = (Compute(new, "add", ("m", Literal(1.0))), Assign("m", "n"))
    loop = Loop("x", Literal(0), Literal(4), 1, Region.FULL, body)
    assert entry_of(body) == {"m"}
    after = live_after((Fill(tile, 0.0), loop), frozenset())
    assert after == [frozenset({"m"}), frozenset()]
    assert live_after(body, entry_of(body)) == [frozenset({"n"}), frozenset({"m"})]


def test_every_operation_but_loops_has_its_column() -> None:
    program = program_of(example("causal"), dict.fromkeys("bhqxdv", 64), Tiles(16, 16))
    plain = [each for each in walk(program.operations) if not isinstance(each, Loop)]
    assert [each.operation for each in columns(program)] == plain


# --- the parts ------------------------------------------------------------------------------------


def test_a_multiplicity_reads_as_a_product() -> None:
    program = program_of(
        example("causal"), dict.fromkeys("bhqxdv", 64), Tiles(16, 32, own=(("v", 64),))
    )
    loops = [each for each in program.operations if isinstance(each, Loop)]
    product = multiplicity(program, loops[:1])
    assert str(product) == "b h q/16 v/64 x/32"
    assert product.number({"b": 2, "h": 3, "q": 33, "x": 64, "v": 64}) == 2 * 3 * 3 * 2
    assert str(multiplicity(program)) == "b h q/16 v/64"


def test_only_what_another_loop_leaves_is_a_remainder() -> None:
    """Layernorm's second pass walks the axis by one loop, which stores: that is no remainder."""
    program = program_of(example("layernorm"), {"t": 8, "d": 64}, Tiles(2, 16))
    loops = [each for each in program.operations if isinstance(each, Loop)]
    assert [each.region for each in loops] == [Region.FULL, Region.PARTIAL, Region.PARTIAL]
    assert [id(each) in remainders(program) for each in loops] == [False, True, False]


def test_an_exact_contraction_is_no_tensor_work() -> None:
    sizes = {"m": 32, "n": 32, "k": 32}
    for dtype, pipeline in (("bf16", Pipeline.TENSOR), ("fp32", Pipeline.FP32)):
        program = program_of(example("matmul"), sizes, Tiles(16, 16), dtype)
        dot = next(each for each in walk(program.operations) if isinstance(each, Dot))
        assert work(dot, program).operations == ((pipeline, 2 * 16**3),)


def test_totals_add() -> None:
    load = Transfer("A", "global", "shared", 4, 8, 6)
    one = Totals((load,), ((Pipeline.SFU, 1),))
    two = one + Totals((load,), ((Pipeline.FP32, 2), (Pipeline.SFU, 3)), is_exact=False)
    assert two.transfers == (Transfer("A", "global", "shared", 8, 16, 12),)
    assert (two.elements, two.bytes, two.of_array("B")) == (8, 16, 0)
    assert two.on(Pipeline.SFU) == 4
    assert not two.is_exact
