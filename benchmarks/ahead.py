"""Compile the kernels of a grid where there is no GPU, for a machine whose GPU is there for minutes only.

    python benchmarks/ahead.py FOLDER [--part 0/2]      on any machine with the same Triton, a part a process
    python benchmarks/model_error.py --ahead FOLDER     beside the GPU, in the same version of this repository

FOLDER gets the jobs, plans and predictions included, and a Triton cache. Triton's own keys name Python and
the libraries that compiled; here a key is the kernel's source with its constants and types, so that another
Python finds it. An entry function is run on empty tensors with a stand-in for the GPU's driver, which starts
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import nullcontext
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import compiler

from napkin.machine import load_machine
from napkin.runtime.data import TORCH_TYPES, axis_lengths
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.schedule.planning.plan import Plan
from napkin.schedule.tiling.kernel import storage_types


def find_ahead(folder: str) -> None:
    """Let this process take kernels from a folder, whatever Python and machine compiled them."""
    os.environ["TRITON_CACHE_DIR"] = str(Path(folder).resolve() / "cache")

    def key(source: Any, backend: Any, options: Any, env_vars: Any) -> str:
        del backend, env_vars
        return f"{source.hash()}-{options.num_warps}-{options.num_stages}-{options.maxnreg}"

    compiler.get_cache_key = key


def settle(folder: str) -> None:
    """Write the paths of a folder's kernels anew, since it may have moved."""
    for group in Path(folder).resolve().glob("cache/*/__grp__*.json"):
        names = json.loads(group.read_text(encoding="utf-8"))["child_paths"]
        paths = {name: str(group.parent / name) for name in names}
        group.write_text(json.dumps({"child_paths": paths}), encoding="utf-8")


def jobs_ahead(folder: str) -> Iterator[Any]:
    """Yield the jobs that were compiled into a folder."""
    for path in sorted(Path(folder).glob("*.pickle")):
        with path.open("rb") as file:
            yield pickle.load(file)


def pretend_gpu(machine: str) -> None:
    """Put a driver in place that compiles for a machine and launches nothing."""
    found = load_machine(machine)
    target = GPUTarget("cuda", found.capability, 32)
    utils = SimpleNamespace(
        load_binary=lambda *_: (1, 2, 3, 0, 1024),
        get_device_properties=lambda _: {
            "max_shared_mem": found.limits.shared_per_block,
            "multiprocessor_count": found.units,
        },
    )
    triton.runtime.driver.set_active(
        SimpleNamespace(
            launcher_cls=lambda *_: lambda *_: None,
            utils=utils,
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda _: 0,
            get_active_torch_device=lambda: torch.device("cpu"),
        )
    )
    properties = SimpleNamespace(multi_processor_count=found.units)
    torch.cuda.get_device_properties = lambda *_: properties  # type: ignore[assignment,return-value]
    torch.cuda.device_of = lambda *_: nullcontext()  # type: ignore[assignment,misc]
    torch.zeros = torch.empty


def compile_for(plan: Plan) -> None:
    """Compile a plan's kernels by calling its entry on tensors that nobody fills."""
    diagram, types = plan.diagram, storage_types(plan.diagram, plan.dtype)
    sizes = axis_lengths(diagram, dict(plan.sizes))
    arguments = []
    for each in diagram.arguments:
        if each.dtype in ("int", "float"):
            arguments.append(16 if each.dtype == "int" else 1.5)
            continue
        shape = [prod(sizes[axis] for axis in dim) for dim in each.dims]
        arguments.append(torch.empty(shape, dtype=TORCH_TYPES[types[each.name]]))
    load_kernel(kernel_source(plan), diagram)(*arguments)


def main() -> None:
    """Compile a part of the grid's jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--machine", default="h200")
    parser.add_argument("--part", default="0/1", help="which of how many processes this is")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    os.environ["TRITON_STORE_BINARY_ONLY"] = "1"
    find_ahead(given.folder)
    pretend_gpu(given.machine)
    from model_error import jobs_of
    from sweep import grid

    Path(given.folder).mkdir(parents=True, exist_ok=True)
    for number, point in enumerate(grid()):
        if number % parts != part:
            continue
        for job in jobs_of(point, given.machine):
            compile_for(job.plan)
            name = f"{number:03}-{job.point.example}-{job.what}"
            with Path(given.folder, f"{name}.pickle").open("wb") as file:
                pickle.dump(job, file)
            print(name, flush=True)


if __name__ == "__main__":
    main()
