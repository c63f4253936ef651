"""What passes between memory and the cache: against a cache that is run, bounds, and what a GPU counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napkin.api import load, parse
from napkin.emit.triton.bands import band_lines
from napkin.machine import Machine, load_machine
from napkin.runtime.kernels import kernel_source
from napkin.schedule.forms.form import find_form
from napkin.schedule.order import specialised_order, tile_order
from napkin.schedule.planning.plan import Plan
from napkin.schedule.program import Band, Program
from napkin.schedule.tiling.figures import traffic_of
from napkin.schedule.tiling.kernel import KernelPlan, rank_kernels
from napkin.schedule.timing.predict import guessed_scalars
from napkin.schedule.timing.traffic import dram_traffic, least_traffic, most_traffic
from napkin.schedule.trips import tile_count
from tests.test_gluon import emitted, scheduling

EXAMPLES = Path(__file__).parent.parent / "examples"
H200 = load_machine("h200")
PRODUCT = """
diagram product(A[m k], B[k n]) -> C[m n]
    C[m n] = sum[k](A * B)

sizes m={} n={} k=1024
"""


@cache
def planned(name: str, sizes: tuple[tuple[str, int], ...] = ()) -> Plan:
    return load(EXAMPLES / f"{name}.napkin").plan("h200", sizes=dict(sizes) or None)


@cache
def product_of(m: int, n: int) -> KernelPlan:
    """Return a product of few rows and columns, in tiles of 64 x 64."""
    diagram = parse(PRODUCT.format(m, n))
    lengths = dict(diagram.core.sizes)
    for each in rank_kernels(diagram.derive(), H200, lengths, "bf16").kernels:
        if all(each.program.axis(axis).tile == 64 for axis in "mnk"):
            return each
    raise AssertionError("no tiles of 64 x 64")


def with_cache(capacity: int, copies: int = 1) -> Machine:
    levels = tuple(
        replace(each, published_capacity=capacity, copies=copies) if each.name == "l2" else each
        for each in H200.levels
    )
    return replace(H200, levels=levels)


# --- against a cache that is run ------------------------------------------------------------------


def misses(lines: Iterable[tuple[object, int]], capacity: int) -> int:
    """Return the bytes that a cache misses which gives up what was used longest ago."""
    held: OrderedDict[object, int] = OrderedDict()
    missed = 0
    for line, size in lines:
        if line in held:
            held.move_to_end(line)
            continue
        missed += size
        held[line] = size
        while sum(held.values()) > capacity:
            held.popitem(last=False)
    return missed


def lines_of(
    program: Program, sizes: dict[str, int], together: int
) -> Iterator[tuple[object, int]]:
    """Yield what waves of a product read, chunk by chunk, and what they then write."""
    order = tile_order(program, sizes)
    groups = len(order["m"])
    for first in range(0, groups, together):
        wave = range(first, min(first + together, groups))
        for chunk in range(sizes["k"] // 64):
            for group in wave:
                yield ("A", order["m"][group], chunk), 64 * 64 * 2
                yield ("B", order["n"][group], chunk), 64 * 64 * 2
        for group in wave:
            yield ("C", group), 64 * 64 * 2


@pytest.mark.parametrize("band", [None, Band("m", 2, ("n",)), Band("m", 3, ("n",))])
@pytest.mark.parametrize("capacity", [3, 10, 100])
@pytest.mark.parametrize("together", [4, 12])
def test_it_reads_what_a_cache_that_is_run_misses(
    together: int, capacity: int, band: Band | None
) -> None:
    # Capacities are in slabs of 64 rows, and far from what a wave holds, where it turns over.
    kernel = product_of(512, 640)
    program, sizes = replace(kernel.program, band=band), dict(kernel.sizes)
    size = capacity * 64 * 1024 * 2
    found = dram_traffic(program, with_cache(size), sizes, together, {})
    run = misses(lines_of(program, sizes, together), size)
    assert found.bytes == pytest.approx(run, rel=0.06)


# --- bounds and laws ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(each.stem for each in EXAMPLES.glob("*.napkin")))
def test_it_lies_between_its_bounds(name: str) -> None:
    plan = planned(name)
    for kernel in (*plan.kernels, *plan.plain.kernels):
        program, sizes = kernel.printed, dict(kernel.sizes)
        scalars = guessed_scalars(program, sizes)
        for together in (1, 132, 10**6):
            found = dram_traffic(program, H200, sizes, together, scalars)
            read = sum(count for _, count in found.read)
            assert 0 <= found.kept <= sum(count for _, count in found.written)
            assert read <= most_traffic(program, sizes, together)
            assert found.bytes <= most_traffic(program, sizes, together)
        whole = dram_traffic(program, with_cache(10**12), sizes, 132, scalars)
        assert whole.bytes <= least_traffic(program, sizes) * 1.001


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(20, 30))
def test_a_larger_cache_reads_no_more(together: int, logarithm: int) -> None:
    kernel = product_of(1024, 1280)
    sizes = dict(kernel.sizes)
    small, large = (
        dram_traffic(kernel.program, with_cache(1 << size), sizes, together, {})
        for size in (logarithm, logarithm + 1)
    )
    assert large.bytes_read <= small.bytes_read


def test_lines_that_both_partitions_hold_take_room_twice() -> None:
    kernel = product_of(1024, 1280)
    sizes, held = dict(kernel.sizes), 8_000_000
    one, two = (
        dram_traffic(kernel.program, with_cache(held, copies), sizes, 132, {}) for copies in (1, 2)
    )
    assert one.bytes_read < two.bytes_read


# --- order ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 9))
def test_every_order_runs_every_group_once(m: int, n: int, tiles: int) -> None:
    program = replace(product_of(512, 512).program, band=Band("m", tiles, ("n",)))
    sizes = {"m": m, "n": n, "k": 64}
    order = tile_order(program, sizes)
    found = set(zip(order["m"].tolist(), order["n"].tolist(), strict=True))
    assert len(found) == len(order["m"]) == prod(tile_count(program, a, sizes) for a in "mn")


LAYERS = """
diagram layers(A[l m k], B[l k n]) -> C[l m n]
    C[l m n] = sum[k](A * B)

sizes l=3 m=512 n=640 k=64
"""


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from([1, 2, 3, 8]),
    st.booleans(),
    st.sampled_from([(), ("m",), ("l", "n")]),
)
def test_a_kernel_prints_the_order_of_its_band(
    m: int, n: int, tiles: int, is_outer: bool, last: tuple[str, ...]
) -> None:
    # Bands of m for all of n, and bands of l for all of m and n.
    (kernel,) = parse(LAYERS).plan("h200").plain.kernels
    program = replace(kernel.program, descending=last)
    band = Band("l", tiles, ("n", "m")) if is_outer else Band("m", tiles, ("n",))
    sizes = {"l": 5, "m": m, "n": n, "k": 64}
    tile = {axis: program.axis(axis).tile for axis in "mn"}
    starts = {axis: f"{axis}_start" for axis in program.grid}
    lines = band_lines(
        replace(program, band=band),
        band,
        "pid",
        starts,
        lambda axis: str(tile_count(program, axis, sizes)),
        lambda axis, index: f"({index}) * {tile.get(axis, 1)}",
    )
    code = "\n".join(lines)
    order = tile_order(replace(program, band=band), sizes)
    for number in range(len(order["m"])):
        names: dict[str, Any] = {"pid": number, "tl": SimpleNamespace(minimum=min)}
        exec(code, names)  # lines of our own: plain arithmetic
        for axis, start in starts.items():
            assert names[start] == order[axis][number] * tile.get(axis, 1)


@pytest.mark.parametrize(("name", "form"), [("matmul", True), ("matmul", False)])
def test_a_product_runs_in_the_band_that_reads_least(name: str, form: bool) -> None:
    plan = planned(name)
    (kernel,) = plan.kernels if form else plan.plain.kernels
    assert kernel.printed.band == Band("m", 16, ("n",))
    alone = replace(kernel.printed, band=None)
    sizes = dict(kernel.sizes)
    before, after = (
        dram_traffic(each, H200, sizes, 132, {}).bytes_read for each in (alone, kernel.printed)
    )
    assert after < 0.9 * before
    assert "bands of 16 tiles" in kernel_source(plan if form else plan.plain)


@pytest.mark.parametrize("name", ["attention", "decode", "softmax"])
def test_what_reads_memory_once_keeps_its_order(name: str) -> None:
    plan = planned(name)
    assert all(each.printed.band is None for each in plan.kernels)


@pytest.mark.parametrize(("heads", "rows"), [(3, 333), (16, 2048), (64, 1500), (64, 1024)])
def test_a_kernel_with_roles_walks_groups_in_this_order(heads: int, rows: int) -> None:
    (kernel,) = planned("causal").kernels
    assert kernel.form is not None
    place = scheduling(emitted("causal"), 0, 132)["causal_place"]
    sizes = dict(kernel.sizes) | {"b": 2, "h": heads, "q": rows, "x": rows}
    order = tile_order(specialised_order(kernel.form.warps.program, sizes, 132), sizes)
    walked = [place(group, 2, heads, rows, rows)[:3] for group in range(len(order["q"]))]
    assert walked == list(
        zip(order["b"].tolist(), order["h"].tolist(), (order["q"] * 128).tolist(), strict=True)
    )


# --- what a GPU counted ---------------------------------------------------------------------------

# Tiles, warps and stages of the kernels that were counted.
COUNTED_AS = {
    "attention": ({"q": 128, "x": 64}, 4, 2),
    "causal": ({"q": 64, "x": 64}, 4, 3),
    "relative_bias": ({"q": 64, "x": 64}, 4, 2),
    "softmax": ({"b": 1, "x": 4096}, 4, 1),
    "layernorm": ({"t": 1, "d": 4096}, 4, 1),
    "mlp": ({"t": 64, "e": 256, "f": 64}, 4, 3),
    "gated_mlp": ({"t": 64, "e": 256, "f": 32}, 4, 3),
    "matmul": ({"m": 128, "n": 256, "k": 64}, 8, 3),
    "rmsnorm_linear": ({"t": 128, "n": 256, "d": 64}, 8, 3),
}
# Millions of bytes read and written by ncu, on an H200 (benchmarks/results/2026-11-23-traffic.md), by
# example, form, tiles of a band (0: the grid's order) and lengths that are not the file's.
LONG, STREAMS = {"m": 8192, "n": 8192, "k": 8192}, {"b": 1, "q": 16384, "x": 16384}
COUNTED = [
    ("attention", "form", 0, {}, 201.5, 56.1),
    ("attention", "plain", 0, {}, 204.3, 53.9),
    ("attention", "form", 0, STREAMS, 205.4, 57.9),
    ("causal", "form", 0, {}, 399.3, 54.6),
    ("causal", "plain", 0, {}, 201.4, 58.0),
    ("relative_bias", "form", 0, {}, 201.7, 56.9),
    ("relative_bias", "plain", 0, {}, 201.6, 56.9),
    ("softmax", "plain", 0, {}, 67.2, 42.0),
    ("layernorm", "plain", 0, {}, 67.2, 43.6),
    ("mlp", "plain", 0, {}, 5.3, 0.0),
    ("gated_mlp", "plain", 0, {}, 5.8, 0.0),
    ("matmul", "plain", 0, {}, 170.9, 28.2),
    ("matmul", "form", 0, {}, 170.9, 26.3),
    ("matmul", "plain", 8, {}, 186.2, 26.0),
    ("matmul", "form", 8, {}, 185.1, 25.7),
    ("matmul", "plain", 16, {}, 145.7, 25.8),
    ("matmul", "form", 16, {}, 144.0, 25.2),
    ("matmul", "plain", 32, {}, 174.0, 26.0),
    ("matmul", "form", 32, {}, 174.1, 27.7),
    ("matmul", "plain", 0, LONG, 2336.1, 129.9),
    ("matmul", "plain", 8, LONG, 1493.3, 129.8),
    ("matmul", "plain", 16, LONG, 1224.9, 130.1),
    ("matmul", "plain", 32, LONG, 1468.6, 130.1),
    ("rmsnorm_linear", "plain", 0, {}, 342.0, 60.9),
    ("rmsnorm_linear", "plain", 8, {}, 383.5, 60.2),
    ("rmsnorm_linear", "plain", 16, {}, 318.6, 59.7),
    ("rmsnorm_linear", "plain", 32, {}, 367.1, 60.6),
]


@pytest.mark.parametrize(("name", "form", "tiles", "sizes", "read", "written"), COUNTED)
def test_it_is_what_a_gpu_counted(
    name: str, form: str, tiles: int, sizes: dict[str, int], read: float, written: float
) -> None:
    kernel = kernel_of(name, tuple(sizes.items()))
    if form == "form":
        found = find_form(kernel)
        assert not isinstance(found, str)
        unordered = replace(found.warps, program=replace(found.warps.program, band=None))
        kernel = replace(kernel, form=replace(found, warps=unordered))
    if tiles:
        kernel = in_bands(kernel, tiles)
    said = traffic_of(kernel, {})
    assert said.bytes_read == pytest.approx(read * 1e6, rel=0.05)
    assert said.bytes_read + said.bytes_written == pytest.approx((read + written) * 1e6, rel=0.05)


@cache
def kernel_of(name: str, sizes: tuple[tuple[str, int], ...]) -> KernelPlan:
    """Return an example's plain loop as it was when it was counted."""
    diagram = load(EXAMPLES / f"{name}.napkin")
    tiles, warps, stages = COUNTED_AS[name]
    lengths = dict(diagram.core.sizes) | dict(sizes)
    for each in rank_kernels(diagram.derive(), H200, lengths, "bf16").kernels:
        own = {axis: each.program.axis(axis).tile for axis in tiles}
        if (own, each.warps, each.stages) == (tiles, warps, stages):
            return each
    raise AssertionError(f"no such kernel of {name}")


def in_bands(kernel: KernelPlan, tiles: int) -> KernelPlan:
    """Return a kernel whose groups run in bands of the slower grid axis."""
    fast, slow = kernel.program.grid
    band = Band(slow, tiles, (fast,))
    form = kernel.form
    if form is not None:
        warps = replace(form.warps, program=replace(form.warps.program, band=band))
        form = replace(form, warps=warps)
    return replace(kernel, program=replace(kernel.program, band=band), form=form)
