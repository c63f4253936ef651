"""Micro-benchmarks of a GPU: small kernels that each do one thing again and again.

In: the GPU at hand. Out: for every probe how often it did its one thing, and the median seconds of several
runs; `calibrate` makes figures of them. What a kernel computes is of no use; it is stored so that no compiler
leaves it out. Elements of a thread are so many that no chain of them waits for itself.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from napkin.runtime.calibrate import Sample

_RUNS = 9
_ELEMENTS = 16  # of a thread
_UNROLLED = 8  # multiply-adds of a step
_BLOCKS_A_UNIT = 8
_CACHE_BYTES = 256 << 20  # written before a run that must find nothing in the cache
_HEAD_START = (
    400_000  # clocks that the GPU idles, so that the launch waits for it and not it for the launch
)
_LINE = 32  # integers of a cache line


@triton.jit  # type: ignore[untyped-decorator]
def _straight(out, BLOCK: tl.constexpr, LENGTH: tl.constexpr):
    x = tl.arange(0, BLOCK).to(tl.float32) * 0.001
    for _ in tl.static_range(LENGTH):
        x = x * 0.5 + 0.25
    tl.store(out + tl.arange(0, BLOCK), x)


@triton.jit  # type: ignore[untyped-decorator]
def _exponentials(out, steps, BLOCK: tl.constexpr):
    x = tl.arange(0, BLOCK).to(tl.float32) * 0.001
    for _ in range(steps):
        x = tl.exp2(x - 1.0)
    tl.store(out + tl.arange(0, BLOCK), x)


@triton.jit  # type: ignore[untyped-decorator]
def _multiply_adds(out, steps, BLOCK: tl.constexpr, UNROLLED: tl.constexpr):
    x = tl.arange(0, BLOCK).to(tl.float32) * 0.001
    for _ in range(steps):
        for _ in tl.static_range(UNROLLED):
            x = x * 0.5 + 0.25
    tl.store(out + tl.arange(0, BLOCK), x)


@triton.jit
def _chase(table, out, steps):
    place = tl.load(table)
    for _ in range(steps):
        place = tl.load(table + place)
    tl.store(out, place)


@triton.jit  # type: ignore[untyped-decorator]
def _read(table, out, rounds, tiles, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float32)
    place = tl.program_id(0) % tiles
    for _ in range(rounds):
        total += tl.load(table + place * BLOCK + tl.arange(0, BLOCK))
        place = (place + 7) % tiles
    tl.store(out + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), total)


@triton.jit  # type: ignore[untyped-decorator]
def _copies(source, out, steps, rows, ROWS: tl.constexpr, SIDE: tl.constexpr):
    total = tl.zeros([ROWS, SIDE], tl.float32)
    row = 0
    for _ in tl.range(0, steps, num_stages=1):
        total += source.load([row, 0])
        row = (row + ROWS) % rows
    place = tl.arange(0, ROWS)[:, None] * SIDE + tl.arange(0, SIDE)
    tl.store(out + place, total)


@triton.jit  # type: ignore[untyped-decorator]
def _chain(left, right, out, steps, SIDE: tl.constexpr):
    place = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)
    p, k = tl.load(left + place), tl.load(right + place)
    for _ in range(steps):
        p = tl.dot(p, k).to(p.dtype)
    tl.store(out + place, p)


# --- what is measured -----------------------------------------------------------------------------


def products(kind: str, side: int) -> Sample:
    """Return the first products of square matrices by PyTorch, before power lowers the clock; FLOPs."""
    a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
    return Sample(2.0 * side**3, _seconds(_product(kind, a, b)))


def sustained_products(kind: str, side: int, seconds: float) -> Sample:
    """Return products of square matrices by PyTorch after so many seconds of them; FLOPs."""
    a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
    call = _product(kind, a, b)
    count = max(int(seconds / _seconds(call)), _RUNS)
    pairs = [_timed(call) for _ in range(count)]
    return Sample(2.0 * side**3, _middle(pairs[-_RUNS:]))


def _product(kind: str, a: torch.Tensor, b: torch.Tensor) -> Callable[[], Any]:
    if kind.startswith("fp8"):
        one = torch.ones((), device="cuda")
        small = {"fp8e4m3": torch.float8_e4m3fn, "fp8e5m2": torch.float8_e5m2}[kind]
        left, right = a.to(small), b.to(torch.float8_e4m3fn).t()
        return lambda: torch._scaled_mm(left, right, one, one, out_dtype=torch.bfloat16)
    if kind == "tf32":
        return lambda: _in_tf32(a, b)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[kind]
    left, right = a.to(half), b.to(half)
    return lambda: torch.matmul(left, right)


def _in_tf32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return torch.matmul(a, b)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def exponentials(units: int, steps: int) -> Sample:
    """Return exponentials, each with the subtraction before it, of every thread of full units."""
    blocks, block, out = _full(units)
    taken = _seconds(lambda: _exponentials[(blocks,)](out, steps, block, num_warps=8))
    return Sample(blocks * block * steps, taken)


def multiply_adds(units: int, steps: int) -> Sample:
    """Return multiply-adds of every thread of full units."""
    blocks, block, out = _full(units)
    taken = _seconds(lambda: _multiply_adds[(blocks,)](out, steps, block, _UNROLLED, num_warps=8))
    return Sample(blocks * block * steps * _UNROLLED, taken)


def _full(units: int) -> tuple[int, int, torch.Tensor]:
    block = _ELEMENTS * 32 * 8
    return units * _BLOCKS_A_UNIT, block, torch.empty(block, device="cuda")


def cache_reads(units: int, size: int, rounds: int) -> Sample:
    """Return bytes that all units read of a table of `size` bytes, which the L2 cache holds."""
    block, blocks = 4096, units * _BLOCKS_A_UNIT
    table, out = torch.rand(size // 4, device="cuda"), torch.empty(blocks * block, device="cuda")
    tiles = size // 4 // block
    taken = _seconds(lambda: _read[(blocks,)](table, out, rounds, tiles, block, num_warps=8))
    return Sample(4.0 * block * blocks * rounds, taken)


def memory_copies(size: int) -> Sample:
    """Return bytes read and written by a copy of `size` bytes."""
    source = torch.rand(size // 4, device="cuda")
    target = torch.empty_like(source)
    return Sample(2.0 * size, _seconds(lambda: target.copy_(source)))


def launches() -> Sample:
    """Return the launch of a kernel of a thousand instructions, which must come from memory first."""
    block = _ELEMENTS * 32 * 4
    out, length = torch.empty(block, device="cuda"), 1000 // _ELEMENTS
    taken = _seconds(lambda: _straight[(1,)](out, block, length, num_warps=4), runs=31, cold=True)
    return Sample(1, taken)


def loads(size: int, steps: int) -> Sample:
    """Return loads that each wait for the one before, through a table of `size` bytes out of the cache."""
    count = size // 4
    order = torch.randperm(count // _LINE, device="cuda", dtype=torch.int32) * _LINE
    table = torch.zeros(count, dtype=torch.int32, device="cuda")
    table[order.long()] = order.roll(-1)
    out = torch.empty(1, dtype=torch.int32, device="cuda")
    taken = _seconds(lambda: _chase[(1,)](table, out, steps, num_warps=1), runs=3, cold=True)
    return Sample(steps, taken)


def copies(steps: int) -> Sample:
    """Return copies of a tile into shared memory by the copy engine, each waiting for the one before."""
    side, rows = 64, 4096
    source = torch.randn(rows, side, device="cuda").to(torch.bfloat16)
    descriptor = TensorDescriptor.from_tensor(source, [side, side])
    out = torch.empty(side, side, device="cuda")
    taken = _seconds(lambda: _copies[(1,)](descriptor, out, steps, rows, side, side, num_warps=4))
    return Sample(steps, taken)


def chained_products(side: int, steps: int) -> Sample:
    """Return products of side x side x side by one warpgroup, each of the result of the one before."""
    left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    right *= side**-0.5
    out = torch.empty_like(left)
    taken = _seconds(lambda: _chain[(1,)](left, right, out, steps, side, num_warps=4))
    return Sample(steps, taken)


Events = tuple[torch.cuda.Event, torch.cuda.Event]


def _seconds(call: Callable[[], Any], *, runs: int = _RUNS, cold: bool = False) -> float:
    """Return the median seconds of a call's runs, once it is compiled."""
    call()
    cache = torch.empty(_CACHE_BYTES if cold else 1, dtype=torch.int8, device="cuda")
    torch.cuda.synchronize()
    pairs = []
    for _ in range(runs):
        cache.zero_()
        torch.cuda._sleep(_HEAD_START)
        pairs.append(_timed(call))
    return _middle(pairs)


def _timed(call: Callable[[], Any]) -> Events:
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    return start, end


def _middle(pairs: Sequence[Events]) -> float:
    torch.cuda.synchronize()
    return float(median(start.elapsed_time(end) * 1e-3 for start, end in pairs))
