"""What the planner's choice costs: the chosen plan beside the best of those that it could have chosen.

    python benchmarks/regret.py [--json F] > benchmarks/results/DATE-regret.md

For every setting the plans that the planner enumerated are ranked; the first twenty are timed, and others
spread evenly over the rest that is predicted to take up to four times as long. Regret is the chosen plan's
time over the fastest one's. The chosen plan may be warp-specialised or of several kernels; the others are
plain loops of one kernel, and the chosen tiling's own plain loop.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import exp, log
from pathlib import Path

import torch
import triton
from model_error import Row, row_of
from sweep import Job, Point, compile_all, point, pool, time_job

from napkin.runtime.gpus import machine_at_hand
from napkin.schedule.tiling.kernel import rank_kernels

FIRST, SPREAD, WITHIN = 20, 6, 4.0
TIMED_SECONDS = 0.05
SETTINGS = [
    point("attention", 64, 4096), point("attention", 256, 4096), point("causal", 64, 1024),
    point("causal", 128, 4096), point("softcap", 128, 1024), point("differential", 128, 1024),
    point("relative_bias", 64, 1024), point("decode", 128, 4096), point("matmul"), point("mlp"),
    point("gated_mlp"), point("rmsnorm_linear"), point("cross_entropy"), point("softmax"),
    point("layernorm"),
]  # fmt: skip


def jobs_of(setting: Point, machine: str) -> list[Job]:
    """Return the chosen plan, the first of the ranking and a spread of the rest."""
    plan = setting.plan(machine)
    jobs = [Job(setting, "chosen", plan)]
    if plan != plan.plain:
        jobs.append(Job(setting, "plain", plan.plain))
    whole = plan.turned_down or plan.kernels[0]
    ranked = rank_kernels(whole.derivation, plan.machine, dict(plan.sizes), plan.dtype).kernels
    if not ranked:
        return jobs
    near = [e for e in ranked if e.prediction.seconds <= WITHIN * ranked[0].prediction.seconds]
    first, rest = near[:FIRST], near[FIRST:]
    spread = [rest[len(rest) * place // SPREAD] for place in range(min(SPREAD, len(rest)))]
    own = {(each.layout, each.warps) for each in plan.plain.kernels if len(plan.kernels) == 1}
    for each in (*first, *spread):
        if (each.layout, each.warps) not in own:
            alone = replace(plan, kernels=(each,), turned_down=None)
            jobs.append(Job(setting, f"rank {ranked.index(each)}", alone))
    return jobs


def table(rows: Sequence[Row]) -> tuple[list[str], list[float]]:
    """Return a line for every setting, and their regrets."""
    lines, regrets = [], []
    for key in dict.fromkeys((each.example, each.head, each.length) for each in rows):
        found = [each for each in rows if (each.example, each.head, each.length) == key]
        chosen = [each for each in found if each.what == "chosen"]
        if not chosen:
            continue
        best = min(found, key=lambda each: each.measured)
        regrets.append(chosen[0].measured / best.measured)
        where = " | ".join(str(each or "") for each in key)
        took = f"{chosen[0].measured * 1e3:.4f} | {best.measured * 1e3:.4f}"
        which = "the chosen one" if best is chosen[0] else f"{best.what}: {best.tiles}"
        lines.append(f"| {where} | {len(found)} | {took} | {regrets[-1]:.3f} | {which} |")
    return lines, regrets


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows as JSON to this file")
    target = parser.parse_args().json
    machine = machine_at_hand()
    with pool(os.cpu_count() or 1) as workers:
        planned = workers.map(jobs_of, SETTINGS, [machine.name] * len(SETTINGS))
        jobs = [job for found in planned for job in found]
        compiled = list(compile_all(jobs, workers))
    order = {(job.point, job.what): place for place, job in enumerate(jobs)}
    compiled.sort(key=lambda each: order[each.job.point, each.job.what])
    rows = [row_of(e, time_job(e, TIMED_SECONDS)) for e in compiled if not e.failure]
    if target:
        target.write_text(json.dumps([asdict(each) for each in rows]), encoding="utf-8")
    lines, regrets = table(rows)
    print(f"# Regret of the planner's choice, on {torch.cuda.get_device_name()}\n")
    print(f"{datetime.date.today()}, torch {torch.__version__}, triton {triton.__version__}, bf16,")
    print("random data, cold L2. Command: `python benchmarks/regret.py`.")
    print(f"{machine.calibrated or 'Figures as shipped'}.\n")
    mean = exp(sum(map(log, regrets)) / len(regrets))
    print(f"{len(rows)} plans of {len(regrets)} settings: geometric mean {mean:.3f}, ", end="")
    print(f"worst {max(regrets):.3f}.\n")
    print("| diagram | head | length | plans | chosen ms | best ms | regret | best plan |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(lines))
    failures = [each for each in compiled if each.failure]
    print("\n".join(f"\nfailed: {e.job.point.example} {e.job.what}: {e.failure}" for e in failures))


if __name__ == "__main__":
    main()
