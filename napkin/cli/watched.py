"""A program that runs one kernel of a plan once, for a profiler to watch (napkin.runtime.counters).

In: one argument, a `Watched` as JSON. Out: nothing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from napkin.api import load


def run(text: str) -> None:
    """Run a kernel once, the last of the process."""
    import torch

    from napkin.runtime.counters import Watched
    from napkin.runtime.data import axis_lengths, random_arguments
    from napkin.runtime.kernels import kernel_source, load_kernel

    watched = Watched(**json.loads(text))
    core = load(watched.file, watched.diagram)
    plan = core.plan(watched.machine, sizes=watched.sizes, dtype=watched.dtype)
    kernel = plan.kernels[watched.place]
    diagram = kernel.derivation.diagram
    alone = replace(plan, diagram=diagram, sizes=kernel.sizes, kernels=(kernel,), turned_down=None)
    lengths = axis_lengths(diagram, dict(kernel.sizes))
    arguments = random_arguments(diagram, lengths, dtype=kernel.dtype, device="cuda")
    entry = load_kernel(kernel_source(alone), diagram)
    entry(*(arguments[each.name] for each in diagram.arguments))
    torch.cuda.synchronize()


if __name__ == "__main__":
    run(sys.argv[1])
