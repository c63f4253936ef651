"""The Ampere form of attention beside FlashAttention 2, both as code for sm_80, on the GPU at hand.

    python benchmarks/ampere_form.py > benchmarks/results/DATE-ampere-form.md

The plan is the A100's, compiled as for sm_80: no copy engine, no warpgroup contractions (the PTX is checked);
the assembler then makes code for the GPU at hand of it, as a driver does of an older card's PTX. FA2 is
PyTorch's flash SDPA, whose kernels are sm_80's too. 16k tokens in all, hidden size 2048, bf16, in one run;
the kernels are compiled before, side by side, so that the GPU waits for none.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from math import exp, log
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["TRITON_OVERRIDE_ARCH"] = "sm80"

import torch
import triton
from model_error import layout
from triton.backends.nvidia.compiler import CUDABackend

from napkin.algebra.derive import derive
from napkin.api import load
from napkin.runtime.bench import run_in_turn
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.runtime.peers import find_contenders
from napkin.schedule.planning.flops import contraction_flops
from napkin.schedule.planning.plan import Plan

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


def plan_of(name: str, head: int, length: int) -> Plan:
    """Return an example's plan for the A100."""
    sizes = {"b": TOKENS // length, "h": HIDDEN // head, "q": length, "x": length}
    diagram = load(EXAMPLES / f"{name}.napkin")
    return diagram.plan("a100", sizes=sizes | {"d": head, "v": head}, dtype="bf16")


def prepare(plan: Plan) -> tuple[Callable[[], Any], list[Any]]:
    """Return the call of a plan's kernels on random data, and that data."""
    lengths = axis_lengths(plan.diagram, dict(plan.sizes))
    arguments = random_arguments(plan.diagram, lengths, dtype="bf16", device="cuda", seed=0)
    given: list[Any] = [arguments[each.name] for each in plan.diagram.arguments]
    entry = load_kernel(kernel_source(plan), plan.diagram)
    return lambda: entry(*given), given


def compile_ahead(name: str, head: int, length: int) -> None:
    """Run a point's kernels once, so that they lie in the compiler's cache."""
    refuse_newer_instructions()
    prepare(plan_of(name, head, length))[0]()
    torch.cuda.synchronize()


def row(name: str, head: int, length: int) -> float:
    """Print one row of the table; return napkin's speed over FA2's."""
    plan = plan_of(name, head, length)
    call, given = prepare(plan)
    (flash,) = find_contenders(["fa2"], plan.diagram)
    calls: list[Callable[[], Any]] = [call, flash.prepare(given)]
    mine, other = (each().double() for each in calls)
    distance = float((mine - other).norm() / other.norm())
    assert distance < NEAR, f"{name} {head} {length}: results differ by {distance}"
    ours, theirs = (sorted(each)[len(each) // 2] for each in run_in_turn(calls))
    flops = contraction_flops(
        derive(plan.diagram), axis_lengths(plan.diagram, dict(plan.sizes)), {}
    )
    rates = [flops / each / 1e12 for each in (ours, theirs)]
    (kernel,) = plan.kernels
    print(
        f"| {name} | {head} | {length} | {rates[0]:.0f} | {rates[1]:.0f} | {theirs / ours:.2f} "
        f"| {layout(kernel)} |",
        flush=True,
    )
    return theirs / ours


def main() -> None:
    """Print the table as Markdown."""
    points = [
        (name, head, length)
        for head in (64, 128, 256)
        for name in ("attention", "causal")
        for length in (1024, 4096, 16384)
    ]
    with ProcessPoolExecutor(12, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(compile_ahead, *each) for each in points]:
            if future.exception():
                print(f"ahead: {future.exception()}", file=sys.stderr)
    refuse_newer_instructions()
    print(f"# The Ampere form beside FlashAttention 2 on {torch.cuda.get_device_name()}\n")
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{datetime.date.today()}, {versions}, bf16, random data, median of runs with a cold L2.")
    print("Command: `python benchmarks/ampere_form.py`. TFLOP/s of what the mask leaves.\n")
    print("| diagram | head | length | napkin for sm_80 | FA2 | napkin / FA2 | plan |")
    print("|---|---|---|---|---|---|---|")
    ratios = [row(*each) for each in points]
    mean = exp(sum(map(log, ratios)) / len(ratios))
    print(f"\nGeometric mean {mean:.3f}, least {min(ratios):.3f}.")


if __name__ == "__main__":
    main()
