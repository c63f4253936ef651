"""What a call costs beside its kernel: napkin's operator against PyTorch's attention at tiny sizes.

    python benchmarks/overhead.py > benchmarks/results/DATE-overhead.md

Every row is one way to call attention on (1, 1, 64, 64) tensors in bf16, random data. A round makes
many calls and waits for the GPU once; rounds of all rows are taken in turn. The GPU's work is a few
microseconds a call, so what is measured is the host's, but for CUDA graphs, where it is the GPU's. Then
the first call of a new diagram, and the first call of a second process.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles

import torch
import triton
from torch.nn.functional import scaled_dot_product_attention

import napkin

SHAPE = (1, 1, 64, 64)
CALLS, ROUNDS = 500, 15
EXAMPLES = Path(__file__).parent.parent / "examples"
FIRST_CALL = """
import sys, time
import torch
torch.zeros(1, device="cuda")
heads = (4, 2, 2) if "gqa" in sys.argv[1] else (4, 4, 4)
given = [torch.randn(2, h, 300, 64, device="cuda", dtype=torch.bfloat16) for h in heads]
for each in given:
    each.requires_grad_(sys.argv[3] == "gradients")
started = time.perf_counter()
import napkin
text = open(sys.argv[1]).read().replace("Q * K", f"{sys.argv[2]} * Q * K")
found = napkin.parse(text).compile()(*given)
if found.requires_grad:
    found.sum().backward()
torch.cuda.synchronize()
print(time.perf_counter() - started)
"""


def microseconds(contenders: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return every contender's microseconds a call, a number a round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        for _ in range(20):
            call()
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(CALLS):
                call()
            torch.cuda.synchronize()
            found[name].append((time.perf_counter() - started) / CALLS * 1e6)
    return found


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call as a CUDA graph that makes it ten times."""
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            call()
    return graph.replay


def contenders() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    kernel = napkin.compile(EXAMPLES / "attention.napkin")
    values = [torch.randn(SHAPE, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    leaves = [each.clone().requires_grad_() for each in values]
    seed = torch.randn(SHAPE, device="cuda", dtype=torch.bfloat16)
    kernel(*values)
    compiled = torch.compile(lambda *given: kernel(*given), fullgraph=True)
    peer = torch.compile(lambda *given: scaled_dot_product_attention(*given), fullgraph=True)
    entry = next(iter(kernel.operator.kernels.loaded.values()))[0].entry

    def trained(function: Callable[..., torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(*leaves), leaves, seed)

    return {
        "PyTorch": lambda: scaled_dot_product_attention(*values),
        "napkin": lambda: kernel(*values),
        "napkin, through torch's dispatcher": lambda: kernel.operator.overload(*values),
        "PyTorch, compiled by torch": lambda: peer(*values),
        "napkin, compiled by torch": lambda: compiled(*values),
        "the generated module's function": lambda: entry(*values),
        "PyTorch, forward with a graph": lambda: scaled_dot_product_attention(*leaves),
        "napkin, forward with a graph": lambda: kernel(*leaves),
        "PyTorch, forward and backward": trained(scaled_dot_product_attention),
        "napkin, forward and backward": trained(kernel),
        "PyTorch, ten calls in a CUDA graph": captured(
            lambda: scaled_dot_product_attention(*values)
        ),
        "napkin, ten calls in a CUDA graph": captured(lambda: kernel(*values)),
    }


def first_calls() -> Iterator[tuple[str, str, float, float]]:
    """Give (diagram, what is asked, seconds of the first call ever, seconds of a second process's first)."""
    for name, asked in (("causal", "forward"), ("causal", "gradients"), ("gqa", "gradients")):
        factor = f"1.{time.time_ns() % 1_000_000:06d}"  # a diagram that no cache has seen
        path = str(EXAMPLES / f"{name}.napkin")
        command = [sys.executable, "-c", FIRST_CALL, path, factor, asked]
        seconds = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(2)
        ]
        yield name, asked, seconds[0], seconds[1]


def main() -> None:
    """Print both tables as Markdown."""
    print("# What a call costs\n")
    print(f"{datetime.date.today()}, {torch.cuda.get_device_name()}, torch {torch.__version__},")
    print(f"triton {triton.__version__}. Command: `python benchmarks/overhead.py`.\n")
    print(
        f"Attention on {SHAPE} tensors in bf16: the median of {ROUNDS} rounds of {CALLS} calls.\n"
    )
    print("| call | us | quartiles |\n|---|---|---|")
    for name, found in microseconds(contenders()).items():
        low, _, high = quantiles(found, n=4)
        print(f"| {name} | {median(found):.1f} | {low:.1f} to {high:.1f} |", flush=True)
    print(
        "\nFirst calls, seconds, from `import napkin` to the result (torch is imported before):\n"
    )
    print("| diagram | asked | new | second process |\n|---|---|---|---|")
    for name, asked, new, second in first_calls():
        print(f"| {name} | {asked} | {new:.1f} | {second:.2f} |", flush=True)


if __name__ == "__main__":
    main()
