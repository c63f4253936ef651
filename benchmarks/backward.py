"""The derived backward of attention beside cuDNN's, on the GPU at hand.

    python benchmarks/backward.py > benchmarks/results/DATE-backward.md

16k tokens in all, hidden size 2048, bf16: `torch.autograd.grad` of each, all kernels of the backward and what
PyTorch puts around them, in turn on the same random data. TFLOP/s count five contractions where the forward
has two, and half of them under a causal mask, as is usual; napkin's two kernels compute the scores twice.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import napkin
from napkin.runtime.bench import run_in_turn

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENS, HIDDEN = 16384, 2048


def row(name: str, head: int, length: int) -> str:
    """Measure one point and return its line of the table."""
    shape = (TOKENS // length, HIDDEN // head, length, head)
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    q, k, v = (each.requires_grad_() for each in inputs)
    seed = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    ours = napkin.compile(EXAMPLES / f"{name}.napkin")(q, k, v)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        theirs = scaled_dot_product_attention(q, k, v, is_causal=name == "causal")

    def backward(output: torch.Tensor) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(output, (q, k, v), seed, retain_graph=True)

    calls = [backward(ours), backward(theirs)]
    pairs = zip(*(call() for call in calls), strict=True)
    distance = max(float((a - b).double().norm() / b.double().norm()) for a, b in pairs)
    mine, other = (sorted(each)[len(each) // 2] for each in run_in_turn(calls))
    flops = 10.0 * HIDDEN * TOKENS * length * (0.5 if name == "causal" else 1)
    rates = [f"{flops / each / 1e12:.0f}" for each in (mine, other)]
    cells = f"{mine * 1e3:.3f} | {other * 1e3:.3f} | {rates[0]} | {rates[1]} | {other / mine:.2f}"
    return f"| {name} | {head} | {length} | {cells} | {distance:.1e} |"


def main() -> None:
    """Print the table as Markdown."""
    print(f"# The derived backward beside cuDNN's on {torch.cuda.get_device_name()}\n")
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{datetime.date.today()}, {versions}, bf16, random data, median of runs with a cold L2.")
    print("Command: `python benchmarks/backward.py`.\n")
    print("| diagram | head | length | ms | cuDNN ms | TFLOP/s | cuDNN | ratio | distance |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ("attention", "causal"):
        for head in (128, 64, 256):
            for length in (1024, 4096, 16384):
                try:
                    print(row(name, head, length), flush=True)
                except Exception as error:  # one row that fails must not lose the others
                    told = f"{type(error).__name__}: {str(error)[:100]}"
                    print(f"| {name} | {head} | {length} | {told} |", flush=True)


if __name__ == "__main__":
    main()
