"""The predictor: laws that any prediction keeps, whatever its constants."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napkin.api import load, parse
from napkin.machine import load_machine
from napkin.schedule.forms.form import find_form
from napkin.schedule.program import Load
from napkin.schedule.program import Path as CopyPath
from napkin.schedule.tiling.kernel import Form, KernelPlan, rank_kernels
from napkin.schedule.timing.clocks import weigh, work_of
from napkin.schedule.timing.code_length import fetch_clocks
from napkin.schedule.timing.occupancy import blocks_per_unit, elements
from napkin.schedule.timing.plain_loops import (
    CUT_WAIT,
    own_bytes,
    read_again,
    rows_read,
    start_seconds,
)
from napkin.schedule.timing.predict import REST, _norm, average_steps, predict
from napkin.schedule.timing.predict_roles import without_moves
from napkin.schedule.timing.traffic import dram_traffic

EXAMPLES = Path(__file__).parent.parent / "examples"
H200 = load_machine("h200")


def ranked(name: str, sizes: dict[str, int] | None = None) -> tuple[KernelPlan, ...]:
    diagram = load(EXAMPLES / f"{name}.napkin")
    lengths = dict(diagram.core.sizes) | (sizes or {})
    return rank_kernels(diagram.derive(), H200, lengths, "bf16").kernels


def again(kernel: KernelPlan, sizes: dict[str, int], stages: int | None = None) -> float:
    """Return the seconds of a kernel's plain loop at other lengths or with rings of another depth."""
    program = kernel.program
    if stages is not None:
        rings = tuple(replace(each, stages=stages) for each in program.buffers)
        program = replace(program, buffers=rings)
    lengths = dict(kernel.sizes) | sizes
    steps = average_steps(program, lengths)
    return predict(program, H200, lengths, kernel.warps, steps).seconds


@pytest.mark.parametrize("name", ["attention", "causal", "rmsnorm_linear", "softmax", "mla"])
def test_parts_add_up_and_none_is_negative(name: str) -> None:
    for kernel in ranked(name)[:20]:
        said = kernel.prediction
        assert sum(seconds for _, seconds in said.parts) == pytest.approx(said.seconds)
        assert all(seconds >= 0 for _, seconds in said.parts)
        assert said.seconds > H200.latency("launch")


@pytest.mark.parametrize("name", ["attention", "causal", "relative_bias"])
def test_longer_streams_and_more_groups_take_longer(name: str) -> None:
    for kernel in ranked(name)[:8]:
        seconds = [again(kernel, {"q": n, "x": n}) for n in (512, 1024, 2048, 4096)]
        assert seconds == sorted(seconds)
        assert again(kernel, {"b": 8}) > 1.8 * again(kernel, {"b": 4})


def test_a_few_blocks_take_no_less_time_than_one_wave() -> None:
    kernel = ranked("attention")[0]
    one, two = (again(kernel, {"b": 1, "h": heads}) for heads in (1, 4))
    assert two == pytest.approx(one, rel=0.02)


@pytest.mark.parametrize("name", ["rmsnorm_linear", "matmul", "attention"])
def test_a_deeper_ring_is_never_slower_where_blocks_are_as_many(name: str) -> None:
    for kernel in ranked(name)[:8]:
        if kernel.prediction.shared_bytes > H200.limits.shared_per_block // 2:
            assert again(kernel, {}, 3) <= again(kernel, {}, 2) or again(kernel, {}, 3) == inf


def test_an_operand_computed_past_shared_memory_needs_room_to_change_hands() -> None:
    text = """
diagram weighted(V[b x v], M[b h q x]: fp32) -> O[b h q v]
    O[b h q v] = sum[x](softmax[x](M) * V)

sizes b=16 h=32 q=4 x=4096 v=256
"""
    diagram = parse(text)
    lengths = dict(diagram.core.sizes)
    for kernel in rank_kernels(diagram.derive(), H200, lengths, "bf16").kernels:
        tiles = {each.axis: each.tile for each in kernel.program.axes}
        rings = sum(each.tile_bytes * each.stages for each in kernel.program.buffers)
        rows = tiles["h"] * tiles["q"]
        if rows >= 64:
            assert kernel.prediction.shared_bytes >= rings + rows * tiles["x"] * 2


def test_blocks_share_all_of_a_unit_s_memory() -> None:
    # 2 x (115,256 + 1,024) bytes fit the 228 KB of a unit, but not the 227 that one block may have.
    assert blocks_per_unit(H200, 4, 115_256, 128) == 2
    assert blocks_per_unit(H200, 4, 0, 255) == 2
    assert blocks_per_unit(H200, 8, 0, 16) == 8


def test_even_blocks_load_their_rows_at_once() -> None:
    program = ranked("attention")[0].program
    even, uneven = (start_seconds(program, H200, 2, is_even=is_even) for is_even in (True, False))
    assert even > uneven


def test_a_second_pass_finds_rows_on_the_unit_if_they_fit() -> None:
    kernels = {{e.axis: e.tile for e in k.program.axes}["b"]: k for k in ranked("softmax")}
    sizes = {"b": 8192, "x": 4096}
    steps = {rows: average_steps(kernels[rows].program, sizes) for rows in (2, 8)}
    found = {
        rows: read_again(kernels[rows].program, H200, sizes, steps[rows], 4) for rows in (2, 8)
    }
    assert found[2] == 2 * 4096 * 2
    assert found[8] == 0.0


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.integers(1, 4))
def test_pipelines_overlap_between_not_at_all_and_wholly(one: float, other: float, n: int) -> None:
    both = _norm(one, other, n)
    assert max(one, other) * (1 - 1e-9) <= both <= (one + other) * (1 + 1e-9)
    assert _norm(one, other, n + 1) <= both * (1 + 1e-9)


TWO_WAYS = """
diagram two(A[b x]: fp32, B[b x]: fp32) -> O[b x]
    O[b x] = {0}

sizes b=4096 x=1024
"""


def vector(expression: str, machine: str) -> float:
    """Return the clocks of a kernel's arithmetic, written as one line."""
    diagram = parse(TWO_WAYS.format(expression))
    gpu = load_machine(machine)
    kernel = rank_kernels(diagram.derive(), gpu, dict(diagram.core.sizes), "bf16").kernels[0]
    tile = kernel.program
    work = work_of(tile.operations, tile, gpu, {}, kernel.warps)
    return work.vector / elements(tile, [each.name for each in tile.dims])


def test_a_product_that_a_sum_takes_costs_nothing_more() -> None:
    assert vector("A * B + A", "h200") == pytest.approx(vector("A + B", "h200"))
    assert vector("A * B + exp(A * B)", "h200") > 2 * vector("A + B", "h200")


@pytest.mark.parametrize(("machine", "times"), [("h200", 2), ("a100", 1)])
def test_choices_run_at_the_rate_of_whole_numbers(machine: str, times: int) -> None:
    assert vector("max2(A, B)", machine) == pytest.approx(times * vector("A + B", machine))


def test_pages_that_a_step_reads_first_leave_memory_idle() -> None:
    kernel = ranked("paged_decode")[0]
    said = dict(kernel.prediction.parts)
    assert said["waiting for DRAM"] > 0
    memory = dram_traffic(
        kernel.program, H200, dict(kernel.sizes), 10**6, {}
    ).bytes / H200.bandwidth("dram")
    assert kernel.prediction.seconds > 1.03 * memory


# --- what was learned from whole grids ------------------------------------------------------------


def form_of(name: str, sizes: dict[str, int]) -> tuple[KernelPlan, Form]:
    kernel = ranked(name, sizes)[0]
    form = find_form(kernel)
    assert isinstance(form, Form)
    return kernel, form


def test_references_that_lag_move_their_sums_in_the_first_chunk_alone() -> None:
    vectors = []
    for head in (128, 256):
        kernel, form = form_of("attention", {"d": head, "v": head})
        program = form.warps.program
        lean = without_moves(program)
        steps = [average_steps(each, dict(kernel.sizes)) for each in (program, lean)]
        works = [
            work_of(each.operations, each, H200, walked, 8)
            for each, walked in zip((program, lean), steps, strict=True)
        ]
        assert works[0].tensor == works[1].tensor
        vectors.append(works[1].vector / works[0].vector)
    assert vectors[0] == 1.0
    assert vectors[1] < 0.8


def test_rows_that_leave_through_their_slot_wait_for_the_next_rows_alone() -> None:
    _, form = form_of("attention", {"d": 256, "v": 256})
    program = form.warps.program
    assert rows_read(program) == own_bytes(program) / 2  # as many bytes come in as go out


def test_a_unit_fetches_code_again_that_is_longer_than_it_keeps() -> None:
    for name, is_longer in (("attention", False), ("causal", False), ("fading", True)):
        kernel, form = form_of(name, {})
        steps = average_steps(form.warps.program, dict(kernel.sizes))
        assert bool(fetch_clocks(form.warps.program, steps, 256)) is is_longer


def test_nothing_is_fetched_ahead_of_a_step_that_stores() -> None:
    text = """
diagram weights(Q[b q d], K[b x d]) -> P[b q x]
    S[b q x] = sum[d](Q * K)
    P[b q x] = softmax[x](S)

sizes b=64 q=4096 x=4096 d=128
"""
    diagram = parse(text)
    sizes = dict(diagram.core.sizes)
    kernel = rank_kernels(diagram.derive(), H200, sizes, "bf16").kernels[0]
    tile = {each.axis: each.tile for each in kernel.program.axes}
    groups = 64 * 4096 / tile["q"] / H200.units
    waited = dict(kernel.prediction.parts)["waiting"]
    assert (
        waited * H200.clock > groups * 4096 / tile["x"] * CUT_WAIT / 4
    )  # blocks that share a unit


def test_a_short_kernel_has_power_saved_for_it() -> None:
    for side in (4096, 16384):
        (kernel,) = ranked("matmul", dict.fromkeys("mnk", side))[:1]
        told = dict(kernel.prediction.parts)
        assert ("waiting for power" in told) is (side == 16384)
    assert kernel.prediction.seconds > 2 * side**3 / H200.sustained("bf16") - REST


SUMMED = """diagram summed(A[b h q v], B[b h q v]) -> C[b h]
    C[b h] = sum[q v](A * B)

sizes b=4 h=16 q=4096 v=128
"""


def test_copies_that_are_awaited_one_by_one_take_their_latencies() -> None:
    diagram = parse(SUMMED)
    kernels = rank_kernels(diagram.derive(), H200, dict(diagram.core.sizes), "bf16").kernels
    copied = [each for each in kernels if awaited_copies(each) > 8]
    assert copied
    latency = H200.latency("load") + H200.latency("copy")
    for each in copied:
        assert each.prediction.seconds > (awaited_copies(each) - 2) * latency


def awaited_copies(kernel: KernelPlan) -> float:
    walked = average_steps(kernel.program, dict(kernel.sizes))
    work = weigh(kernel.program.operations, walked, 1.0)
    loads = [(op, times) for op, times in work if isinstance(op, Load)]
    return sum(times for op, times in loads if op.path is CopyPath.DESCRIPTOR)
