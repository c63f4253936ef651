"""Warp-specialised kernels beside plain ones and other libraries', on the Hopper GPU at hand.

    python benchmarks/specialised_forms.py > benchmarks/results/DATE-specialised-forms.md

16k tokens in all, hidden size 2048, bf16: attention and causal attention at every head and length, every
variant at its own sizes. All kernels of a row run in turn, so that a clock that falls meets them alike.
Results are held against the plain kernel's. Every row is a process of its own with a time limit: warps that
wait for one another for ever hang nothing but their row.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napkin.api import load
from napkin.emit.gluon import emit_gluon
from napkin.runtime.bench import measure
from napkin.runtime.gpus import machine_at_hand
from napkin.runtime.kernels import load_kernel
from napkin.runtime.peers import Contender, find_contenders
from napkin.schedule.specialise import specialise

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENS, HIDDEN = 16384, 2048
LIMIT_S = 60
VARIANTS = (
    "attention_lse", "gqa", "alibi", "softcap", "sinks", "document", "window", "sigmoid", "spherical",
    "differential", "relative_bias", "mlp", "gated_mlp",
)  # fmt: skip
ROWS = [
    (name, head, length)
    for name in ("attention", "causal")
    for head in (64, 128, 256)
    for length in (1024, 4096, 16384)
]


def row(name: str, head: int, length: int) -> str:
    """Measure one example (at its own sizes if `head` is 0) and return its line of the table."""
    sizes = None
    if head:
        sizes = {"b": TOKENS // length, "h": HIDDEN // head, "q": length, "x": length}
        sizes |= {"d": head, "v": head}
    plan = load(EXAMPLES / f"{name}.napkin").plan(machine_at_hand().name, sizes=sizes, dtype="bf16")
    (kernel,) = plan.kernels
    form = specialise(kernel)
    if isinstance(form, str):
        return f"| {name} {head or ''} {length or ''} | {form} |"

    def prepare(arguments: Sequence[Any]) -> Callable[[], Any]:
        entry = load_kernel(emit_gluon(kernel, form), plan.diagram)
        return lambda: entry(*arguments)

    others = find_contenders(["cudnn"], plan.diagram) if head else ()
    found = measure(plan, [Contender("gluon", prepare), *others])
    rates = " | ".join(
        f"{each.name} {found.flops / each.seconds / 1e12:.0f} ({each.distance:.0e})"
        for each in found.results
    )
    return f"| {name} {head or ''} {length or ''} | {rates} |"


def main() -> None:
    """Print a line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", nargs=3, metavar=("NAME", "HEAD", "LENGTH"), help="one row only")
    asked = parser.parse_args().row
    if asked:
        print(row(asked[0], int(asked[1]), int(asked[2])))
        return
    print(
        "# Warp-specialised forms, TFLOP/s of what the mask leaves (distance from the plain kernel)\n"
    )
    for each in [*ROWS, *((name, 0, 0) for name in VARIANTS)]:
        command = [sys.executable, __file__, "--row", *(str(part) for part in each)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
            said = done.stdout.strip() or f"| {each} | failed: {done.stderr.strip()[-200:]} |"
        except subprocess.TimeoutExpired:
            said = f"| {each} | no answer in {LIMIT_S} s |"
        print(said, flush=True)


if __name__ == "__main__":
    main()
