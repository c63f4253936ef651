"""How compile time grows with a diagram: chains of pointwise boxes between two contractions.

    python benchmarks/compile_time.py > benchmarks/results/DATE-compile-time.md

Every row is one diagram, compiled for Hopper in this process: parse, derive, plan (every tiling lowered and
judged), and print the kernel. No GPU is used.
"""

from __future__ import annotations

import datetime
import platform
import time
from itertools import pairwise

from napkin.api import parse
from napkin.runtime.kernels import kernel_source

BOXES = (25, 50, 100, 200, 400)
STEPS = ("{} * 1.01 + s", "tanh({}) + {}", "{} - 0.5 * s", "max2({}, s) * 0.9")


def chain(boxes: int) -> str:
    """Return attention whose scores pass through about this many boxes."""
    lines = [
        "diagram chain(Q[b h q d], K[b h x d], V[b h x v], s[h]) -> O[b h q v]",
        "    S0[b h q x] = sum[d](Q * K) / sqrt(size(d))",
    ]
    count = max(0, (boxes - 16) // 2)
    for number in range(1, count + 1):
        step = STEPS[number % len(STEPS)].format(*[f"S{number - 1}"] * 2)
        lines.append(f"    S{number}[b h q x] = {step}")
    lines += [
        f"    P[b h q x] = softmax[x](S{count})",
        "    O[b h q v] = sum[x](P * V)",
        "",
        "sizes b=4 h=16 q=4096 x=4096 d=128 v=128",
    ]
    return "\n".join(lines)


def stages(text: str) -> tuple[int, list[float]]:
    """Return a diagram's boxes, and the seconds of parse, derive, plan and print."""
    marks = [time.perf_counter()]
    diagram = parse(text)
    marks.append(time.perf_counter())
    diagram.derive()
    marks.append(time.perf_counter())
    plan = diagram.plan("hopper")
    marks.append(time.perf_counter())
    kernel_source(plan)
    marks.append(time.perf_counter())
    return len(diagram.core.boxes), [after - before for before, after in pairwise(marks)]


def main() -> None:
    """Print the table as Markdown."""
    stages(chain(BOXES[0]))  # imports and the grammar are not what is measured
    print("# Compile time against boxes\n")
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, {platform.machine()}, two cores."
    )
    print("Command: `python benchmarks/compile_time.py`.\n")
    print("| boxes | parse s | derive s | plan s | print s | total s |\n|---|---|---|---|---|---|")
    for boxes in BOXES:
        count, seconds = stages(chain(boxes))
        cells = " | ".join(f"{each:.2f}" for each in (*seconds, sum(seconds)))
        print(f"| {count} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
