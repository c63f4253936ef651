"""How long `napkin plan` and `napkin cost` take as whole processes, and how many plans are judged a second.

    python benchmarks/planning.py > benchmarks/results/DATE-planning.md

Processor time, since other work may run beside: the least of a few runs. No GPU is used.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from napkin.api import load
from napkin.machine import load_machine
from napkin.schedule.kernel import rank_kernels

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.napkin"))
MACHINES = ("hopper", "a100")
RUNS = 2
RATES = ("attention", "causal", "gqa", "matmul", "mlp")


def process_seconds(*arguments: str) -> float:
    """Return the processor seconds of a command, the least of a few runs."""
    command = [sys.executable, "-m", "napkin", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    best = float("inf")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        best = min(best, spent)
    return best


def importing() -> float:
    """Return the processor seconds of a process that imports SymPy alone: how busy the machine is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import sympy"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def judged(name: str, machine: str) -> tuple[int, int, float]:
    """Return the plans of a diagram, those that fit, and the processor seconds to rank them."""
    diagram = load(ROOT / "examples" / f"{name}.napkin")
    derivation, gpu = diagram.derive(), load_machine(machine)
    lengths = {axis: dict(diagram.core.sizes).get(axis, 4096) for axis in diagram.core.axes}
    best = float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        ranking = rank_kernels(derivation, gpu, lengths, "bf16")
        best = min(best, time.process_time() - start)
    return ranking.considered, len(ranking.kernels), best


def main() -> None:
    """Print the tables as Markdown."""
    print("# Planning and costing\n")
    print(
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} cores, other work beside.\n"
        f"Command: `python benchmarks/planning.py`. Processor seconds, the least of {RUNS} runs.\n"
    )
    print("## Plans a second\n")
    print(
        "| diagram | machine | plans | fit | seconds | plans a second |\n|---|---|---|---|---|---|"
    )
    for name in RATES:
        for machine in MACHINES:
            plans, fit, seconds = judged(name, machine)
            print(
                f"| {name} | {machine} | {plans} | {fit} | {seconds:.3f} | {plans / seconds:,.0f} |"
            )
    print("\n## Whole processes\n")
    heads = [f"{verb} {machine}" for verb in ("plan", "cost") for machine in MACHINES]
    print(f"| diagram | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for path in EXAMPLES:
        cells = [
            f"{process_seconds(verb, str(path), '--machine', machine):.2f}"
            for verb in ("plan", "cost")
            for machine in MACHINES
        ]
        print(f"| {path.stem} | {' | '.join(cells)} |", flush=True)
    print(f"\nBeside them, a process that imports SymPy and ends took {importing():.2f}.")


if __name__ == "__main__":
    main()
