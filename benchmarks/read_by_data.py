"""The gradient of arrays read at positions from data, beside PyTorch's.

    python benchmarks/read_by_data.py > benchmarks/results/DATE-read-by-data.md

bf16, random data, L2 cleared before every call; the median of many calls, the two in turn. First a cache's
pages, `examples/paged_decode.napkin`, by queries, keys and values: the backward alone, PyTorch's by autograd
through reads of whole pages and its operators in bf16; then a table's rows, as an embedding has them, of
which one is read by a twentieth of all reads. The errors are those of the gradient by the values' pages, or
by the table, relative to PyTorch's in fp32 on the same data.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import triton

import napkin

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ROUNDS = 20
TABLE = """diagram embedding(X[q d], T[v d], index[q]: int32) -> O[q d]
    O[q d] = X + T[index[q], d]

sizes q=16384 d=2048 v=50304
"""
PAGES = ((32, 256, 8192), (32, 256, 16384), (8, 256, 8192))
TABLES = ((16384, 2048, 50304), (16384, 2048, 8192))


def attend(q: Any, k: Any, v: Any, page: Any, length: Any) -> torch.Tensor:
    """Return decoding from pages, by reads of whole pages and operators."""
    b, n = page.shape
    slots, heads, width = k.shape[1:]
    keys, values = (each[page.long()].reshape(b, n * slots, heads, width) for each in (k, v))
    rows = q.reshape(b, heads, -1, width)
    scores = torch.einsum("bkgd,bxkd->bkgx", rows, keys) * width**-0.5
    beyond = torch.arange(n * slots, device=q.device) >= length[:, None]
    weights = scores.masked_fill(beyond[:, None, None], -torch.inf).softmax(-1)
    return torch.einsum("bkgx,bxkv->bkgv", weights, values).reshape(q.shape)


def embed(x: Any, table: Any, index: Any) -> torch.Tensor:
    """Return rows of a table added."""
    found: torch.Tensor = x + torch.nn.functional.embedding(index, table)
    return found


def backward(function: Callable[..., Any], arguments: Sequence[Any]) -> Callable[[], Any]:
    """Return a call of the backward alone."""
    leaves = [
        each.detach().requires_grad_() if each.is_floating_point() else each for each in arguments
    ]
    output = function(*leaves)
    seed = torch.randn(
        output.shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda"
    )
    wanted = [each for each in leaves if each.requires_grad]
    return lambda: torch.autograd.grad(output, wanted, seed.to(output.dtype), retain_graph=True)


def timed(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Return the median milliseconds of calls made in turn, L2 cleared before each."""
    clear = torch.empty(2**28, dtype=torch.int8, device="cuda")
    took: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for each, times in zip(calls, took, strict=True):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            clear.zero_()
            start.record()
            each()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop))
    return [median(each) for each in took]


def row(name: str, own: Any, peer: Any, arguments: Sequence[Any], place: int) -> None:
    """Print what both take, and how far both are from fp32."""
    calls = [backward(own, arguments), backward(peer, arguments)]
    wide = [each.float() if each.is_floating_point() else each for each in arguments]
    truth = backward(peer, wide)()[place]
    off = [float((each()[place].float() - truth).norm() / truth.norm()) for each in calls]
    del truth, wide
    took = timed(calls)
    cells = f"{took[0]:.3f} | {took[1]:.3f} | {off[0]:.2e} | {off[1]:.2e}"
    print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    """Print the table as Markdown."""
    print(
        f"# Gradients of arrays read at positions from data, on an {torch.cuda.get_device_name()}\n"
    )
    print(f"{datetime.date.today()}, torch {torch.__version__}, triton {triton.__version__}, bf16.")
    print("Command: `python benchmarks/read_by_data.py`, which says what is measured.\n")
    print("| | napkin, ms | PyTorch, ms | napkin, error | PyTorch, error |\n|---|---|---|---|---|")
    torch.manual_seed(0)
    decode = napkin.load(EXAMPLES / "paged_decode.napkin").compile()
    for b, n, p in PAGES:
        q, k, v = (
            torch.randn(shape, device="cuda", dtype=torch.bfloat16)
            for shape in ((b, 32, 1, 128), *[(p, 16, 8, 128)] * 2)
        )
        page = torch.randint(p, (b, n), device="cuda", dtype=torch.int32)
        length = torch.randint(8 * n, 16 * n + 1, (b,), device="cuda", dtype=torch.int32)
        name = f"{b} sequences of {16 * n}, {p} pages"
        row(name, decode, attend, (q, k, v, page, length), 2)
        torch.cuda.empty_cache()
    added = napkin.parse(TABLE).compile()
    for reads, width, rows in TABLES:
        x, table = (
            torch.randn(size, width, device="cuda", dtype=torch.bfloat16) for size in (reads, rows)
        )
        index = torch.randint(rows, (reads,), device="cuda", dtype=torch.int32)
        index[::20] = 7
        row(f"{reads} reads of {rows} rows of {width}", added, embed, (x, table, index), 1)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
