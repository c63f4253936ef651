"""The figures that the predictor takes of a machine, measured on the GPU at hand.

In: a machine and its GPU. Out: a `Calibration`: rates of contractions, exponentials and multiply-adds, of
memory and cache, and the latencies that nothing hides. Each figure is one micro-benchmark (`probes`), run
at two lengths where a start must fall away. None is fitted to a diagram's kernels.

There are two tensor rates. The first products run before power lowers the clock, as contractions do in a
kernel that does other things as well; the products after some time are what power lets last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from napkin.language.errors import Diagnostic, NapkinError
from napkin.machine import Correction, Machine
from napkin.machine.calibration import (
    Calibration,
    calibration_path,
    describe,
    write_calibration,
)
from napkin.operators import Pipeline
from napkin.runtime.bench import require_gpu
from napkin.runtime.gpus import runs_on
from napkin.runtime.kernels import make_folder, write_text
from napkin.schedule.units import table

_PRODUCT_TYPES = ("bf16", "fp16", "tf32", "fp8e4m3", "fp8e5m2")
_SIDE = 8192  # of the products whose rate is taken
_SUSTAINED_SECONDS = 0.4  # of products, until power has lowered the clock
_CHAINED = 64  # rows, columns and depth of the products that wait for one another
_IN_CACHE = 16 << 20
_OUT_OF_CACHE = 1 << 30


@dataclass(frozen=True, slots=True)
class Sample:
    """A probe's run: how often it did its one thing, and in how many seconds."""

    count: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Probe:
    """A figure's micro-benchmark: its runs, and in words what they do."""

    figure: str
    samples: tuple[Sample, ...]
    how: str


def calibrate(machine: Machine, *, today: date) -> Calibration:
    """Measure the machine's figures; raises NapkinError (N606, N608) without a GPU that it describes."""
    require_gpu()
    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    if not runs_on(machine, device):
        message = f"`{name}` is no {machine.name}, so it cannot be calibrated on it"
        raise NapkinError([Diagnostic("N606", message, help="leave --machine out")])
    versions = f"torch {torch.__version__}, triton {version('triton')}"
    return Calibration(
        machine.name, name, today, versions, figures(machine, run_probes(machine), today)
    )


def save(calibration: Calibration) -> Path:
    """Write a calibration where `load_machine` finds it, whole or not at all, and return the place."""
    path = calibration_path(calibration.machine)
    make_folder(path.parent)
    write_text(path, write_calibration(calibration))
    return path


def show(machine: Machine, calibration: Calibration) -> str:
    """Return a calibration as a table beside the figures that napkin ships."""
    rows = describe(machine, calibration.corrections)
    return "\n".join([f"{machine.name} {calibration.headline}", "", *table(rows)])


def figures(machine: Machine, probes: Sequence[Probe], today: date) -> tuple[Correction, ...]:
    """Return the figures that samples give.

    A rate is counts over seconds, a latency its inverse; of two runs of different length the difference
    counts, so that what a kernel takes to start falls away. The latency of a contraction is what a
    chain of them takes beyond the work.
    """
    by_name = {each.figure: each for each in probes}
    found: list[Correction] = []
    for each in probes:
        value = seconds_each(each.samples)
        if each.figure == "contraction.latency":
            rate = 1 / seconds_each(by_name["tensor.bf16"].samples) / machine.units
            value -= 2 * _CHAINED**3 / rate
        elif not each.figure.endswith(".latency"):
            value = 1 / value
        if value <= 0:
            message = (
                f"`{each.figure}` came out as {value:.3g}: the GPU is at work on something else"
            )
            raise NapkinError([Diagnostic("N616", message, help="run it again on an idle GPU")])
        found.append(Correction(each.figure, value, today, each.how))
    return tuple(found)


def seconds_each(samples: Sequence[Sample]) -> float:
    """Return the seconds of one count: of one sample its quotient, of several the slope by least squares."""
    if len(samples) == 1:
        return samples[0].seconds / samples[0].count
    mean = sum(each.count for each in samples) / len(samples)
    level = sum(each.seconds for each in samples) / len(samples)
    rise = sum((each.count - mean) * (each.seconds - level) for each in samples)
    return rise / sum((each.count - mean) ** 2 for each in samples)


def run_probes(machine: Machine) -> tuple[Probe, ...]:
    """Run every micro-benchmark that the machine has instructions for."""
    from napkin.runtime import probes as p  # which imports triton

    units = machine.units
    found: list[Probe] = []
    products = f"products of {_SIDE} x {_SIDE} matrices by PyTorch"
    for kind in (each for each in _PRODUCT_TYPES if machine.has_rate(Pipeline.TENSOR, each)):
        first, last = p.products(kind, _SIDE), p.sustained_products(kind, _SIDE, _SUSTAINED_SECONDS)
        found.append(Probe(f"tensor.{kind}", (first,), f"the first {products}"))
        found.append(
            Probe(f"sustained.{kind}", (last,), f"{products} after {_SUSTAINED_SECONDS} s")
        )

    def add(figure: str, how: str, run: Callable[[int], Sample], *lengths: int) -> None:
        found.append(Probe(figure, tuple(run(each) for each in lengths), how))

    exponentials = "exponentials of many elements, each with the subtraction before it"
    add("sfu.fp32", exponentials, lambda n: p.exponentials(units, n), 2000, 6000)
    add("fp32.fp32", "multiply-adds", lambda n: p.multiply_adds(units, n), 2000, 6000)
    add("dram.bandwidth", "copies, bytes read and written", p.memory_copies, 1 << 29, 1 << 31)
    reads = "reads by all units of 16 MB that the cache holds"
    add("l2.bandwidth", reads, lambda n: p.cache_reads(units, _IN_CACHE, n), 50, 150)
    found.append(
        Probe(
            "launch.latency", (p.launches(),), "a kernel of a thousand instructions, the cache cold"
        )
    )
    chased = "loads that each wait for the one before, out of the cache"
    add("load.latency", chased, lambda n: p.loads(_OUT_OF_CACHE, n), 4000, 12000)
    if machine.has("tma"):
        add("copy.latency", "copies of 64 x 64 that wait for one another", p.copies, 4000, 12000)
    chained = f"products of {_CHAINED} x {_CHAINED} x {_CHAINED} that wait for one another"
    run = p.chained_products
    add("contraction.latency", chained, lambda n: run(_CHAINED, n), 4000, 12000)
    return tuple(found)
