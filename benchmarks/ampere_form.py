"""The Ampere form of attention beside FlashAttention 2, both as code for sm_80, on the GPU at hand.

    python benchmarks/ampere_form.py > benchmarks/results/DATE-ampere-form.md

The plan is the A100's, compiled as for sm_80: no copy engine, no warpgroup contractions (the PTX is checked);
the assembler then makes code for the GPU at hand of it, as a driver does of an older card's PTX. FA2 is
PyTorch's flash SDPA, whose kernels are sm_80's too. 16k tokens in all, hidden size 2048, bf16, in one run.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from math import exp, log
from pathlib import Path
from typing import Any

os.environ["TRITON_OVERRIDE_ARCH"] = "sm80"

import torch
import triton
from triton.backends.nvidia.compiler import CUDABackend

from napkin.api import load
from napkin.runtime.bench import run_in_turn
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.runtime.peers import find_contenders
from napkin.schedule.flops import contraction_flops

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENS, HIDDEN = 16384, 2048
NEAR = 2e-2  # relative distance of the two results, rounding to bf16 included


def refuse_newer_instructions() -> None:
    """Hold every kernel that Triton assembles to what sm_80 has."""
    original: Callable[..., Any] = CUDABackend.make_cubin

    def make_cubin(self: Any, ptx: str, *others: Any) -> Any:
        assert "mma.sync" in ptx, "no contraction of Ampere's"
        for newer in ("wgmma", "cp.async.bulk"):
            assert newer not in ptx, f"{newer} is not Ampere's"
        return original(self, ptx, *others)

    setattr(CUDABackend, "make_cubin", make_cubin)  # noqa: B010


def row(name: str, head: int, length: int) -> float:
    """Print one row of the table; return napkin's speed over FA2's."""
    diagram = load(EXAMPLES / f"{name}.napkin")
    sizes = {"b": TOKENS // length, "h": HIDDEN // head, "q": length, "x": length}
    plan = diagram.plan("a100", sizes=sizes | {"d": head, "v": head}, dtype="bf16")
    lengths = axis_lengths(plan.diagram, dict(plan.sizes))
    arguments = random_arguments(plan.diagram, lengths, dtype="bf16", device="cuda", seed=0)
    given: Sequence[Any] = [arguments[each.name] for each in plan.diagram.arguments]
    entry = load_kernel(kernel_source(plan), plan.diagram)
    (flash,) = find_contenders(["fa2"], plan.diagram)
    calls: list[Callable[[], Any]] = [lambda: entry(*given), flash.prepare(given)]
    mine, other = (call().double() for call in calls)
    distance = float((mine - other).norm() / other.norm())
    assert distance < NEAR, f"{name} {head} {length}: results differ by {distance}"
    ours, theirs = (sorted(each)[len(each) // 2] for each in run_in_turn(calls))
    flops = contraction_flops(diagram.derive(), lengths, {})
    rates = [flops / each / 1e12 for each in (ours, theirs)]
    print(
        f"| {name} | {head} | {length} | {rates[0]:.0f} | {rates[1]:.0f} | {theirs / ours:.2f} |",
        flush=True,
    )
    return theirs / ours


def main() -> None:
    """Print the table as Markdown."""
    refuse_newer_instructions()
    print(f"# The Ampere form beside FlashAttention 2 on {torch.cuda.get_device_name()}\n")
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{datetime.date.today()}, {versions}, bf16, random data, median of runs with a cold L2.")
    print("Command: `python benchmarks/ampere_form.py`. TFLOP/s of what the mask leaves.\n")
    print("| diagram | head | length | napkin for sm_80 | FA2 | napkin / FA2 |")
    print("|---|---|---|---|---|---|")
    ratios = [
        row(name, head, length)
        for head in (64, 128, 256)
        for name in ("attention", "causal")
        for length in (1024, 4096, 16384)
    ]
    mean = exp(sum(map(log, ratios)) / len(ratios))
    print(f"\nGeometric mean {mean:.3f}, least {min(ratios):.3f}.")


if __name__ == "__main__":
    main()
