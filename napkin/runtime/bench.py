"""How long a plan's kernel takes on the GPU at hand, on fresh random data.

In: a `Plan`. Out: `Measurement`: the median of many runs, each with a cold L2 cache, and the rate
that the diagram's contractions reach. The FLOPs are those that a mask leaves, so that causal
attention counts half.

Deliberately absent: other libraries' kernels, and clocks; say which GPU you measured, and let it
run cool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from napkin.language.errors import Diagnostic, NapkinError
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.gpus import runs_on
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.schedule.cost import contraction_flops
from napkin.schedule.plan import Plan

_WARM_UP_MS = 100
_RUN_MS = 500


@dataclass(frozen=True, slots=True)
class Measurement:
    """The median seconds of a kernel, beside its prediction."""

    diagram: str
    machine: str
    device: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    flops: int
    seconds: float
    predicted_seconds: float

    @property
    def rate(self) -> float:
        """FLOP/s of the contractions."""
        return self.flops / self.seconds

    def as_json(self) -> dict[str, Any]:
        """Return the measurement as `napkin bench --json` writes it."""
        return {
            "diagram": self.diagram,
            "machine": self.machine,
            "device": self.device,
            "dtype": self.dtype,
            "sizes": dict(self.sizes),
            "flops": self.flops,
            "predicted_seconds": self.predicted_seconds,
            "results": [{"name": "napkin", "seconds": self.seconds, "flops_per_second": self.rate}],
        }

    def __str__(self) -> str:
        sizes = " ".join(f"{axis}={size}" for axis, size in self.sizes)
        rate = f", {self.rate / 1e12:.1f} TFLOP/s" if self.flops else ""
        predicted = f"predicted {self.predicted_seconds * 1e3:.3f} ms"
        return (
            f"{self.diagram} on {self.device}, {self.dtype}: {sizes}\n"
            f"  napkin  {self.seconds * 1e3:.3f} ms{rate} ({predicted})"
        )


def measure(plan: Plan, *, seed: int = 0) -> Measurement:
    """Time the plan's kernel; without a GPU that runs it, a NapkinError."""
    require_gpu()
    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    if not runs_on(plan.machine, device):
        message = f"a kernel for {plan.machine.name} does not run on `{name}`"
        raise NapkinError([Diagnostic("N606", message, help="leave --machine out")])
    from triton.testing import do_bench

    diagram = plan.derivation.diagram
    sizes = axis_lengths(diagram, dict(plan.sizes))
    arguments = random_arguments(diagram, sizes, dtype=plan.dtype, device=device, seed=seed)
    entry = load_kernel(kernel_source(plan), diagram)
    given = [arguments[each.name] for each in diagram.arguments]
    milliseconds = do_bench(
        lambda: entry(*given), warmup=_WARM_UP_MS, rep=_RUN_MS, return_mode="median"
    )
    return Measurement(
        diagram.name,
        plan.machine.name,
        name,
        plan.dtype,
        tuple((axis, sizes[axis]) for axis in diagram.axes),
        contraction_flops(plan.derivation, sizes, _numbers(arguments)),
        milliseconds * 1e-3,
        plan.prediction.seconds,
    )


def require_gpu() -> None:
    """Refuse to go on without a GPU."""
    if not torch.cuda.is_available():
        help_line = "run it on a machine with an NVIDIA GPU; `napkin cost` predicts without one"
        message = "a benchmark needs a GPU, and torch finds none here"
        raise NapkinError([Diagnostic("N608", message, help=help_line)])


def _numbers(arguments: Mapping[str, Any]) -> dict[str, float | int]:
    return {name: each for name, each in arguments.items() if isinstance(each, int | float)}
