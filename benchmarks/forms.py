"""The form that a plan chose beside its plain loop and other libraries', on the GPU at hand.

    python benchmarks/forms.py > benchmarks/results/DATE-forms.md

16k tokens in all, hidden size 2048, bf16: attention and causal attention by head and length, then every other
example at its own sizes. All kernels of a row run in turn, so that a clock that falls meets them alike, and
results are held against napkin's. FLOPs are those of the contractions that a mask leaves.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from napkin.api import load
from napkin.runtime.bench import Measurement, measure
from napkin.runtime.gpus import machine_at_hand
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.runtime.peers import Contender, find_contenders
from napkin.schedule.planning.plan import Plan

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENS, HIDDEN = 16384, 2048
GRID = [
    (name, head, length)
    for head in (128, 64, 256)
    for name in ("attention", "causal")
    for length in (4096, 16384)
]
PEERS = {
    "attention": "cudnn",
    "causal": "cudnn",
    "gqa": "cudnn",
    "alibi": "flex",
    "softcap": "flex",
    "window": "flex",
    "document": "flex",
    "matmul": "torch",
    "softmax": "torch",
}


def plain_loop(plan: Plan) -> Contender:
    """Return the plan's plain loops as a contender."""

    def prepare(arguments: Sequence[Any]) -> Callable[[], Any]:
        entry = load_kernel(kernel_source(plan.plain), plan.diagram)
        return lambda: entry(*arguments)

    return Contender("plain", prepare)


def row(name: str, head: int | None, length: int | None) -> str:
    """Measure one example and return its line of the table."""
    sizes = None
    if head and length:
        sizes = {"b": TOKENS // length, "h": HIDDEN // head, "q": length, "x": length}
        sizes |= {"d": head, "v": head}
    plan = load(EXAMPLES / f"{name}.napkin").plan(machine_at_hand().name, sizes=sizes, dtype="bf16")
    formed = sum(kernel.form is not None for kernel in plan.kernels)
    contenders = [plain_loop(plan)] if formed else []
    if name in PEERS:
        contenders += find_contenders([PEERS[name]], plan.diagram)
    found = measure(plan, contenders)
    form = f"{formed} of {len(plan.kernels)} warp-specialised"
    return f"| {name} | {head or ''} | {length or ''} | {form} | {cells(found)} |"


def cells(found: Measurement) -> str:
    """Return what was measured as cells of a table."""
    results = {each.name: each for each in found.results}
    others = [name for name in results if name not in ("napkin", "plain")]
    named = [results.get("napkin"), results.get("plain"), *(results[name] for name in others)]
    rates = [f"{found.flops / each.seconds / 1e12:.0f}" if each else "" for each in named]
    rates += [""] * (3 - len(rates))
    other = f"{others[0]} {rates[2]}" if others else ""
    times = f"{found.seconds * 1e3:.3f} | {found.predicted_seconds * 1e3:.3f}"
    return f"{times} | {rates[0]} | {rates[1]} | {other}"


def main() -> None:
    """Print the table as Markdown."""
    print(f"# Forms on {torch.cuda.get_device_name()}\n")
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{datetime.date.today()}, {versions}, bf16, random data, median of runs with a cold L2.")
    print("Command: `python benchmarks/forms.py`.\n")
    print("| diagram | head | length | form | ms | predicted ms | TFLOP/s | plain loop | peer |")
    print("|---|---|---|---|---|---|---|---|---|")
    others = [each.stem for each in sorted(EXAMPLES.glob("*.napkin"))]
    rows = [*GRID, *((name, None, None) for name in others if name not in ("attention", "causal"))]
    for name, head, length in rows:
        try:
            print(row(name, head, length), flush=True)
        except Exception as error:
            told = f"failed: {type(error).__name__} {str(error)[:100]}"
            print(f"| {name} | {head or ''} | {length or ''} | {told} | | | | | |", flush=True)


if __name__ == "__main__":
    main()
