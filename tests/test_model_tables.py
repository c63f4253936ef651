"""Configuration and throughput tables: the paper's section 7, digit for digit, and laws for the rest."""

from __future__ import annotations

from dataclasses import replace
from math import isinf
from pathlib import Path

import pytest

from napkin.algebra.derive import derive
from napkin.diagram import Diagram
from napkin.language import read
from napkin.language.source import Source
from napkin.machine import load_machine
from napkin.model.configuration import Configuration, Scope
from napkin.model.hand import configure_by_hand, labels_by_hand
from napkin.model.throughput import Stage, Throughput, contraction_rate, merged, vector_rate
from napkin.operators import Pipeline
from napkin.schedule.lowering.rewrite import rewrite

KIB = 1024
ATTENTION = """
diagram attention(Q[q d]: {qk}, K[x d]: {qk}, V[x v]: {pv}) -> O[q v]: {pv}
    S[q x] = sum[d](Q * K) / sqrt(size(d))
    P[q x] = softmax[x](S)
    O[q v] = sum[x](P * V)

sizes q=4096 x=4096 d={d} v={d}
"""
HOPPER = """
on hopper
    group q by 128
    stream x by 64
    split d by 8, v by 32
    at shared: Q, K, V, S, P
    at register: S, P, O
    warps 4
    stages 2
"""
AMPERE = """
on ampere
    group q by 32
    stream x by 64
    split d by 8, v by 32
    at shared: Q, K, V
    at register: S, P, O
    warps 1
    stages 1
"""


def tables_of(text: str, machine: str, computed: str = "fp16") -> tuple[Configuration, Throughput]:
    """Return the tables of a diagram's `on` block; the paper takes two bytes for what is computed."""
    (diagram,) = read(Source("test", text))
    gpu = load_machine(machine)
    derivation = rewrite(derive(diagram))
    labels = labels_by_hand(
        derivation,
        gpu,
        diagram.relabellings[0],
        dict(diagram.sizes),
        types_of(diagram),
        computed,
    )
    return configure_by_hand(derivation, gpu, labels)


def types_of(diagram: Diagram) -> dict[str, str]:
    given = {each.name: each.dtype or "bf16" for each in diagram.arguments}
    return given | {each.name: each.dtype or "bf16" for each in diagram.outputs}


def attention(qk: str, pv: str, block: str, d: int = 128) -> str:
    return ATTENTION.format(qk=qk, pv=pv, d=d) + block


MIXED = attention("fp8e4m3", "fp16", HOPPER)


# --- the Hopper test case -------------------------------------------------------------------------


def test_the_shared_memory_of_the_hopper_case() -> None:
    configuration, _ = tables_of(MIXED, "hopper")
    by_name = {each.name: each for each in configuration.variables if each.level == "shared"}
    assert {name: each.bytes // KIB for name, each in by_name.items()} == {
        "Q": 16,
        "K": 2 * 8,
        "V": 2 * 16,
        "S": 16,
        "P": 16,
    }
    assert {name for name, each in by_name.items() if each.scope is Scope.BLOCK} == {"K", "V"}
    shared = configuration.fit("shared")
    assert (shared.block, shared.share) == (48 * KIB, 48 * KIB)
    assert shared.capacity == 227 * KIB


def test_the_registers_of_the_hopper_case() -> None:
    configuration, _ = tables_of(MIXED, "hopper")
    held = [each for each in configuration.variables if each.level == "register"]
    each_thread = {each.name: each.elements // configuration.threads for each in held}
    assert each_thread == {
        "o": 128,
        "t1": 64,
        "exp2 q x": 64,
        "o chunk": 32,
        "Q chunk": 8,
        "m": 1,
        "l": 1,
        "exp2 q": 1,
    }
    assert configuration.register_bytes == 598
    assert configuration.registers == 149.5
    assert configuration.fit("register").share == 74.75 * KIB
    assert configuration.fit("register").capacity == 256 * KIB


def test_three_warpgroups_fit_the_hopper_case() -> None:
    configuration, _ = tables_of(MIXED, "hopper")
    assert configuration.unit == "warpgroup"
    assert configuration.threads == 128
    assert configuration.fit("shared").most == pytest.approx(3.7, abs=0.05)
    assert configuration.fit("register").most == pytest.approx(3.4, abs=0.05)
    assert configuration.bound_by == "register"
    assert configuration.most == 3
    assert configuration.tile == 384


def clocks_of(throughput: Throughput) -> dict[tuple[str, Pipeline], float]:
    return {(each.name, each.pipeline): each.clocks for each in throughput.stages}


def test_the_clocks_of_the_hopper_case() -> None:
    _, throughput = tables_of(MIXED, "hopper")
    by_name = {(each.name, each.pipeline): each for each in throughput.stages}
    assert by_name["t1", Pipeline.TENSOR].operations == 16_384
    assert by_name["t1", Pipeline.TENSOR].clocks == 2
    assert by_name["o", Pipeline.TENSOR].operations == 16_384
    assert by_name["o", Pipeline.TENSOR].clocks == 4
    assert by_name["exp2 q x", Pipeline.SFU].clocks == 64 / 16
    assert by_name["exp2 q", Pipeline.SFU].clocks == 1 / 16
    assert by_name["o moves", Pipeline.FP32].clocks == 0.5
    assert throughput.clocks[Pipeline.SFU] == 65 / 16
    assert throughput.clocks[Pipeline.TENSOR] == 6
    assert throughput.bound_by is Pipeline.TENSOR


def test_the_stages_come_in_the_order_of_a_step() -> None:
    _, throughput = tables_of(MIXED, "hopper")
    names = [each.name for each in throughput.stages]
    assert names.index("t1") < names.index("m") < names.index("exp2 q x") < names.index("o")


def test_the_bandwidth_bound_of_the_hopper_case() -> None:
    configuration, throughput = tables_of(MIXED, "hopper")
    assert (throughput.block_bytes, throughput.share_bytes) == (24_576, 0)
    assert throughput.least_tile == pytest.approx(295, abs=0.5)
    assert throughput.compute_seconds(configuration.tile) == pytest.approx(1.26e-6, abs=5e-9)
    assert throughput.transfer_seconds(configuration.tile) == pytest.approx(0.97e-6, abs=5e-9)


def test_the_ideal_of_the_hopper_case_is_the_harmonic_mean_of_the_peaks() -> None:
    _, throughput = tables_of(MIXED, "hopper")
    assert throughput.flops == 32_768
    assert throughput.ideal == pytest.approx(32_768 * 132 * 1.83e9 / 6)
    assert throughput.ideal == pytest.approx(1.32e15, rel=1e-3)
    hopper = load_machine("hopper")
    peaks = [hopper.nominal_peak(Pipeline.TENSOR, kind) for kind in ("fp8e4m3", "fp16")]
    assert throughput.ideal == pytest.approx(2 / sum(1 / each for each in peaks))


@pytest.mark.parametrize(
    ("qk", "pv", "slack"),
    [("fp8e4m3", "fp16", 0.5), ("fp16", "fp16", 1.0), ("fp8e4m3", "fp8e4m3", 0.0)],
)
def test_the_slack_of_the_exponentials(qk: str, pv: str, slack: float) -> None:
    _, throughput = tables_of(attention(qk, pv, HOPPER), "hopper")
    tensor = throughput.clocks[Pipeline.TENSOR]
    exponentials = clocks_of(throughput)["exp2 q x", Pipeline.SFU]
    assert tensor / exponentials - 1 == slack
    if throughput.bound_by is Pipeline.TENSOR:
        assert throughput.slack(exponentials) == slack


# --- pipelining -----------------------------------------------------------------------------------


def with_softmax(qk: str, pv: str, overhead: float) -> Throughput:
    """Return a throughput of QK, exponentials that take so much longer, and PV, as the paper reads it."""
    _, throughput = tables_of(attention(qk, pv, HOPPER), "hopper")
    tensor = [each for each in throughput.stages if each.pipeline is Pipeline.TENSOR]
    clocks = throughput.clocks[Pipeline.SFU] * (1 + overhead)
    softmax = Stage("softmax", "", Pipeline.SFU, clocks, 1.0)
    return replace(throughput, stages=(tensor[0], softmax, tensor[1]))


def test_flash_attention_3_read_with_one_assumption() -> None:
    half = with_softmax("fp16", "fp16", 0.66)
    assert half.clocks[Pipeline.TENSOR] / half.overlapped == pytest.approx(0.75, abs=0.01)
    eighth = with_softmax("fp8e4m3", "fp8e4m3", 0.66)
    assert eighth.clocks[Pipeline.TENSOR] / eighth.longest == pytest.approx(0.60, abs=0.01)


def test_overlap_is_never_slower_than_none_nor_faster_than_the_longest_pipeline() -> None:
    _, throughput = tables_of(MIXED, "hopper")
    assert throughput.longest <= throughput.overlapped <= throughput.serial
    only = replace(throughput, stages=throughput.stages[:1])
    assert only.longest == only.overlapped == only.serial


# --- Ampere, and the model's predictions ----------------------------------------------------------


def test_thirteen_warps_against_eight_on_ampere() -> None:
    configuration, _ = tables_of(attention("fp16", "fp16", AMPERE), "ampere")
    assert configuration.unit == "warp"
    assert configuration.registers == 149.5
    assert configuration.fit("register").most == pytest.approx(13.7, abs=0.05)
    assert configuration.most == 13
    assert configuration.most_at_full == 8


@pytest.mark.parametrize(("machine", "least"), [("a100_40gb", 200.6), ("a100", 153), ("h200", 206)])
def test_the_least_tile_of_fp16_attention(machine: str, least: float) -> None:
    block = HOPPER.replace("hopper", machine)
    _, throughput = tables_of(attention("fp16", "fp16", block), machine)
    assert throughput.clocks[Pipeline.TENSOR] > throughput.clocks[Pipeline.SFU]
    assert throughput.least_tile == pytest.approx(least, abs=0.5)


@pytest.mark.parametrize(("d", "tensor"), [(128, 8), (64, 4)])
def test_short_heads_are_bound_by_exponentials_on_hopper(d: int, tensor: float) -> None:
    _, throughput = tables_of(attention("fp16", "fp16", HOPPER, d), "hopper")
    assert throughput.clocks[Pipeline.TENSOR] == tensor
    assert throughput.clocks[Pipeline.SFU] == pytest.approx(4.06, abs=5e-3)
    bound = Pipeline.TENSOR if d == 128 else Pipeline.SFU
    assert throughput.bound_by is bound


# --- any diagram ----------------------------------------------------------------------------------

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))


def test_every_streaming_example_has_tables() -> None:
    for path in EXAMPLES:
        diagram = read(Source(path.name, path.read_text(encoding="utf-8")))[-1]
        derivation = rewrite(derive(diagram))
        if derivation.stream is None:
            continue
        rows = derivation.group[-1]
        block = f"\non hopper\n    group {rows} by 64\n    stream {derivation.stream.axis} by 64\n"
        configuration, throughput = tables_of(str(diagram) + block, "hopper", "fp32")
        assert configuration.register_bytes > 0, path.name
        assert throughput.longest > 0, path.name
        assert all(each.bytes > 0 for each in configuration.variables)
        # What is shared out among warps carries the rows.
        shared_out = [each for each in configuration.variables if each.scope is Scope.SHARE]
        assert all(rows in dict(each.extents) or each.level == "register" for each in shared_out), (
            path.name
        )


def test_a_matmul_shares_out_the_rows_of_one_operand() -> None:
    text = (
        "diagram matmul(A[m k]: fp16, B[k n]: fp16) -> C[m n]\n    C[m n] = sum[k](A * B)\n\n"
        "sizes m=4096 n=4096 k=4096\n\n"
        "on hopper\n    group m by 128, n by 256\n    stream k by 64\n    warps 8\n    stages 4\n"
    )
    configuration, throughput = tables_of(text, "hopper", "fp32")
    by_name = {each.name: each for each in configuration.variables}
    assert configuration.rows == 64
    assert by_name["A"].scope is Scope.SHARE
    assert by_name["A"].bytes == 4 * 64 * 64 * 2
    assert by_name["B"].scope is Scope.BLOCK
    assert by_name["B"].bytes == 4 * 64 * 256 * 2
    assert configuration.registers == 64 * 256 / 128
    assert throughput.bound_by is Pipeline.TENSOR
    assert throughput.block_bytes == 64 * 256 * 2
    assert throughput.share_bytes == 64 * 64 * 2
    # From the least tile on, the tensor cores bind; a share's own loads grow with it.
    tile = throughput.least_tile
    assert throughput.transfer_seconds(tile) == pytest.approx(throughput.compute_seconds(tile))
    slow = replace(throughput, bandwidth=throughput.bandwidth / 100)
    assert isinf(slow.least_tile)


def test_rows_of_two_axes_are_shared_out_one_after_the_other() -> None:
    text = (
        "diagram gqa(Q[(k g) q d], K[k x d], V[k x v]) -> O[(k g) q v]\n"
        "    S[k g q x] = sum[d](Q * K)\n    O[k g q v] = sum[x](softmax[x](S) * V)\n\n"
        "sizes k=2 g=4 q=1024 x=1024 d=64 v=64\n\n"
        "on hopper\n    group k by 1, g q by 4\n    stream x by 64\n    warps 32\n"
    )
    configuration, _ = tables_of(text, "hopper", "fp32")
    # Eight warpgroups share out 4 x 4 rows: all of g's, and q's in halves.
    assert configuration.rows == 2
    held = {each.name: dict(each.extents) for each in configuration.variables}
    assert held["Q"] == {"q": 2, "d": 64}
    assert held["K"] == {"x": 64, "d": 64}


def test_a_level_that_shares_take_nothing_of_never_binds() -> None:
    text = "diagram total(A[b x]) -> S[b]\n    S[b] = sum[x](A)\n\nsizes b=64 x=4096\n"
    block = "\non hopper\n    group b by 64\n    stream x by 64\n"
    configuration, _ = tables_of(text + block, "hopper", "fp32")
    assert isinf(configuration.fit("shared").most)
    assert configuration.bound_by == "register"
    assert configuration.most == 8


# --- rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "storage", "pipeline", "rate"),
    [
        ("h100", "fp8e5m2", Pipeline.TENSOR, 8192),
        ("a100", "fp8e5m2", Pipeline.TENSOR, 2048),  # widened
        ("h100", "fp32", Pipeline.FP32, 256),  # exact: multiply-adds
        ("h100", "fp64", Pipeline.FP32, 128),
        ("mi300x", "bf16", Pipeline.TENSOR, 2048),
    ],
)
def test_where_a_contraction_runs(
    machine: str, storage: str, pipeline: Pipeline, rate: float
) -> None:
    assert contraction_rate(load_machine(machine), storage) == (pipeline, rate)


def test_vectors_of_a_type_without_a_rate_run_as_fp32() -> None:
    assert vector_rate(load_machine("h100"), "fp16") == 256
    assert vector_rate(load_machine("mi300x"), "fp16") == 128


def test_stages_of_one_name_add_up_in_clocks() -> None:
    one = Stage("exp", "q x", Pipeline.SFU, 32.0, 16.0)
    two = Stage("exp", "q x", Pipeline.SFU, 8.0, 4.0)
    (both,) = merged([one, two])
    assert both.clocks == one.clocks + two.clocks
    assert len(merged([one, replace(two, pipeline=Pipeline.FP32)])) == 2
