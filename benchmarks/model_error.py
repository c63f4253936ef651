"""How far the predictor is off: every example by head size and length, on the GPU at hand.

    python benchmarks/model_error.py [--json F] [--ahead FOLDER] > benchmarks/results/DATE-model-error.md

16k tokens in all, hidden size 2048, bf16; where an example has no head or no length, its own sizes. Every
plan as it is chosen, and its plain loop where another form was chosen. What was planned and compiled ahead
(`ahead.py`) is timed as it was then predicted. Beside the predictor's error stands
the plain roofline's: contractions at the data sheet's rate, or every array once, whichever takes longer.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
from ahead import find_ahead, jobs_ahead, settle
from sweep import Compiled, Job, Point, Timing, compile_all, grid, pool, time_job

from napkin.runtime.gpus import machine_at_hand
from napkin.runtime.verify_model import Errors, roofline_seconds
from napkin.schedule.planning.plan import KernelPlan

TIMED_SECONDS = 0.08


@dataclass(frozen=True, slots=True)
class Row:
    """A plan at a point: seconds as measured, predicted and by the roofline, and how it is laid out."""

    example: str
    head: int | None
    length: int | None
    what: str
    form: str
    kernels: int
    measured: float
    predicted: float
    roofline: float
    clock: int
    power: float
    tiles: str
    resources: tuple[tuple[int, int, int], ...]

    @property
    def error(self) -> float:
        """How far the prediction is off."""
        return self.predicted / self.measured - 1

    @property
    def roofline_error(self) -> float:
        """How far the roofline is off."""
        return self.roofline / self.measured - 1

    def __str__(self) -> str:
        took = f"{self.measured * 1e3:.4f} | {self.predicted * 1e3:.4f} | {self.error:+.1%}"
        where = f"{self.example} | {self.head or ''} | {self.length or ''} | {self.what}"
        return f"| {where} | {self.form} | {took} | {self.roofline_error:+.0%} | {self.clock} |"


def jobs_of(point: Point, machine: str) -> list[Job]:
    """Return the plan as it is chosen, and of a kernel in another form its plain loop."""
    plan = point.plan(machine)
    roofline = roofline_seconds(plan)
    chosen = [Job(point, "chosen", plan, roofline)]
    formed = len(plan.kernels) == 1 and plan != plan.plain
    return chosen + ([Job(point, "plain", plan.plain, roofline)] if formed else [])


def row_of(compiled: Compiled, timing: Timing) -> Row:
    """Return a timed job as a row."""
    job = compiled.job
    kernels = job.plan.kernels
    formed = sum(each.form is not None for each in kernels)
    form = "plain loop" if not formed else "warp-specialised"
    if len(kernels) > 1:
        form = f"{len(kernels)} kernels, {formed} warp-specialised"
    return Row(
        job.point.example,
        job.point.head,
        job.point.length,
        job.what,
        form,
        len(kernels),
        timing.seconds,
        job.plan.seconds,
        job.roofline,
        timing.clock,
        timing.power,
        "; ".join(map(layout, kernels)),
        compiled.resources,
    )


def layout(kernel: KernelPlan) -> str:
    """Return a kernel's tiles, warps and stages in short."""
    tiles = " ".join(f"{each.axis}{each.tile}" for each in kernel.printed.axes if each.tile > 1)
    return f"{tiles} w{kernel.warps} s{kernel.stages}"


def measured_rows(machine: str, ahead: str | None) -> Iterator[Row | str]:
    """Yield a row for every job, or what went wrong with it."""
    if ahead:
        settle(ahead)
        find_ahead(ahead)
    with pool(os.cpu_count() or 1, ahead) as workers:
        planned = workers.map(jobs_of, grid(), [machine] * len(grid())) if not ahead else ()
        jobs = jobs_ahead(ahead) if ahead else (job for jobs in planned for job in jobs)
        compiled = list(compile_all(jobs, workers))
    compiled.sort(key=lambda each: (str(each.job.point), each.job.what))
    for each in compiled:
        if each.failure:
            yield f"{each.job.point.example} {each.job.point.sizes} {each.job.what}: {each.failure}"
        else:
            yield row_of(each, time_job(each, TIMED_SECONDS))


def summary(rows: Sequence[Row]) -> list[str]:
    """Return the errors of groups of rows as lines of a table."""
    groups = {
        "chosen": [each for each in rows if each.what == "chosen"],
        "of these, warp-specialised": [e for e in rows if e.form == "warp-specialised"],
        "of these, plain loops": [e for e in rows if e.what == "chosen" and e.form == "plain loop"],
        "plain loops in place of chosen forms": [e for e in rows if e.what == "plain"],
        "all": list(rows),
    }
    lines = ["| plans | count | predictor | roofline |", "|---|---|---|---|"]
    for name, found in groups.items():
        if found:
            own = Errors.of([each.error for each in found])
            other = Errors.of([each.roofline_error for each in found])
            lines.append(f"| {name} | {len(found)} | {own} | {other} |")
    return lines


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="add the rows to this file, a line of JSON each")
    parser.add_argument("--ahead", help="the folder in which `ahead.py` compiled the grid")
    given = parser.parse_args()
    target = given.json
    machine = machine_at_hand()
    print(f"# How far the predictor is off, on {torch.cuda.get_device_name()}\n")
    print(f"{datetime.date.today()}, torch {torch.__version__}, triton {triton.__version__}, bf16,")
    print("random data, cold L2. Command: `python benchmarks/model_error.py`.")
    print(f"{machine.calibrated or 'Figures as shipped'}.\n")
    found: list[Row | str] = []
    for each in measured_rows(machine.name, given.ahead):
        found.append(each)
        if target and isinstance(each, Row):
            with target.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(each)) + "\n")
    rows = [each for each in found if isinstance(each, Row)]
    print("\n".join(summary(rows)))
    print("\n| diagram | head | length | plan | form | ms | predicted | error | roofline | MHz |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(map(str, rows)))
    print("\n".join(f"\nfailed: {each}" for each in found if isinstance(each, str)))


if __name__ == "__main__":
    main()
