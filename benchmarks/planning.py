"""How long `napkin plan` and `napkin cost` take as whole processes, and how many plans are judged a second.

    python benchmarks/planning.py > benchmarks/results/DATE-planning.md

Processor time, user and system, since other work may run beside: the least of a few runs. Python's bytecode
is cached before, as an installed package has it. No GPU is used.
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
from tempfile import TemporaryDirectory

from napkin.api import load
from napkin.machine import load_machine
from napkin.schedule.tiling.kernel import rank_kernels

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.napkin"))
MACHINES = ("hopper", "a100")
RUNS = 2
BYTECODE = TemporaryDirectory()
RATES = ("attention", "causal", "gqa", "matmul", "mlp")


def process_seconds(*command: str) -> float:
    """Return the processor seconds of Python with these arguments, the least of a few runs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": BYTECODE.name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    best = float("inf")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = [sys.executable, *command]
        subprocess.run(run, env=environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        best = min(best, spent)
    return best


def command_seconds(verb: str, path: Path, machine: str) -> float:
    """Return the processor seconds of a command of napkin's on a file."""
    return process_seconds("-m", "napkin", verb, str(path), "--machine", machine)


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
    print("The last column is a process that imports SymPy and ends: how busy the machine was.\n")
    heads = [f"{verb} {machine}" for verb in ("plan", "cost") for machine in MACHINES]
    print(f"| diagram | {' | '.join(heads)} | SymPy |\n|---|{'---|' * len(heads)}---|")
    for path in EXAMPLES:
        cells = [
            command_seconds(verb, path, machine)
            for verb in ("plan", "cost")
            for machine in MACHINES
        ]
        cells.append(process_seconds("-c", "import sympy"))
        print(f"| {path.stem} | {' | '.join(f'{each:.2f}' for each in cells)} |", flush=True)


if __name__ == "__main__":
    main()
