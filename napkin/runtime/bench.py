"""How long a plan's kernels take on the GPU at hand, on fresh random data, beside other libraries'.

In: a `Plan`, and contenders. Out: `Measurement`: for napkin and each contender the median of many runs with
its quartiles, each run with a cold L2 cache, taken in turn so that a clock that falls meets all alike;
the rate that the diagram's contractions reach; how far each result lies from napkin's. The FLOPs are
those that a mask leaves, so that causal attention counts half.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch

from napkin.algebra.derive import derive
from napkin.language.errors import Diagnostic, NapkinError
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.gpus import runnable, runs_on
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.runtime.peers import Contender
from napkin.schedule.planning.flops import contraction_flops
from napkin.schedule.planning.plan import Plan

_WARM_UP_RUNS = 10
_RUN_SECONDS = 0.5  # of a contender, all its runs together
_FEWEST, _MOST = 20, 1000  # runs
_HEAD_START = (
    200_000  # clocks that the GPU idles, so that a short kernel does not wait for its launch
)
_CACHE_BYTES = 256 << 20  # written between runs, so that none finds its data in L2


@dataclass(frozen=True, slots=True)
class Result:
    """The seconds of one contender: median and quartiles. `distance` is relative, from napkin's result."""

    name: str
    seconds: float
    low: float
    high: float
    distance: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured, napkin's result first, beside its prediction.

    `clocks` says what the driver told of the GPU after the runs, nothing where it told nothing.
    """

    diagram: str
    machine: str
    device: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    flops: int
    results: tuple[Result, ...]
    predicted_seconds: float
    clocks: str

    @property
    def seconds(self) -> float:
        """The median seconds of napkin's kernels together."""
        return self.results[0].seconds

    @property
    def rate(self) -> float:
        """FLOP/s of the contractions by napkin's kernels."""
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
            "clocks": self.clocks,
            "results": [
                {
                    "name": each.name,
                    "seconds": each.seconds,
                    "quartiles": [each.low, each.high],
                    "flops_per_second": self.flops / each.seconds,
                    "distance": each.distance,
                }
                for each in self.results
            ],
        }

    def __str__(self) -> str:
        sizes = " ".join(f"{axis}={size}" for axis, size in self.sizes)
        lines = [f"{self.diagram} on {self.device}, {self.dtype}: {sizes}"]
        lines += [self._line(each) for each in self.results]
        lines.append(f"  predicted {self.predicted_seconds * 1e3:.3f} ms")
        return "\n".join([*lines, *([f"  {self.clocks}"] if self.clocks else [])])

    def _line(self, each: Result) -> str:
        rate = f"  {self.flops / each.seconds / 1e12:6.1f} TFLOP/s" if self.flops else ""
        times = f"{each.seconds * 1e3:9.3f} ms ({each.low * 1e3:.3f} to {each.high * 1e3:.3f})"
        beside = ""
        if each is not self.results[0]:
            speed = each.seconds / self.seconds
            beside = f"  napkin is {speed:.2f} times as fast; results differ by {each.distance:.1e}"
        return f"  {each.name:<8}{times}{rate}{beside}"


def measure(
    plan: Plan,
    contenders: Sequence[Contender] = (),
    *,
    seed: int = 0,
    given: Mapping[str, torch.Tensor | int] | None = None,
) -> Measurement:
    """Time the plan's kernels and the contenders'; without a GPU that runs it, a NapkinError.

    `given` are arguments in place of random ones, where a kernel's time depends on what they hold.
    """
    require_gpu()
    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    if not runs_on(plan.machine, device):
        message = f"a kernel for {plan.machine.name} does not run on `{name}`"
        raise NapkinError([Diagnostic("N606", message, help="leave --machine out")])
    plan = runnable(plan, device)
    diagram = plan.diagram
    sizes = axis_lengths(diagram, dict(plan.sizes))
    arguments = random_arguments(diagram, sizes, dtype=plan.dtype, device=device, seed=seed)
    arguments |= given or {}
    entry = load_kernel(kernel_source(plan), diagram)
    values = [arguments[each.name] for each in diagram.arguments]
    calls = {"napkin": lambda: entry(*values)}
    calls |= {each.name: each.prepare(values) for each in contenders}
    distances = _distances(calls)
    taken = run_in_turn(list(calls.values()))
    return Measurement(
        diagram.name,
        plan.machine.name,
        name,
        plan.dtype,
        tuple((axis, sizes[axis]) for axis in diagram.axes),
        contraction_flops(derive(diagram), sizes, _numbers(arguments)),
        tuple(
            _result(each, seconds, distances[each])
            for each, seconds in zip(calls, taken, strict=True)
        ),
        plan.seconds,
        _clocks(),
    )


def require_gpu() -> None:
    """Refuse to go on without a GPU."""
    if not torch.cuda.is_available():
        help_line = "run it on a machine with an NVIDIA GPU; `napkin cost` predicts without one"
        message = "a benchmark needs a GPU, and torch finds none here"
        raise NapkinError([Diagnostic("N608", message, help=help_line)])


def run_in_turn(calls: Sequence[Callable[[], Any]]) -> list[list[float]]:
    """Return the seconds of every run of every call, the calls taken in turn, the L2 cache cold."""
    cache = torch.empty(_CACHE_BYTES, dtype=torch.int8, device="cuda")
    for call in calls:
        for _ in range(_WARM_UP_RUNS):
            call()
    slowest = max(_once(call, cache) for call in calls)
    rounds = min(max(int(_RUN_SECONDS / slowest), _FEWEST), _MOST)
    pairs = [[_recorded(call, cache) for call in calls] for _ in range(rounds)]
    torch.cuda.synchronize()
    return [
        [pair[place][0].elapsed_time(pair[place][1]) * 1e-3 for pair in pairs]
        for place in range(len(calls))
    ]


def _once(call: Callable[[], Any], cache: torch.Tensor) -> float:
    start, end = _recorded(call, cache)
    torch.cuda.synchronize()
    seconds: float = start.elapsed_time(end) * 1e-3
    return max(seconds, 1e-7)


def _recorded(
    call: Callable[[], Any], cache: torch.Tensor
) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """Run a call between two events of the stream, its data out of the L2 cache."""
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    cache.zero_()
    torch.cuda._sleep(_HEAD_START)  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    return start, end


def _result(name: str, seconds: Sequence[float], distance: float) -> Result:
    low, middle, high = quantiles(seconds, n=4)
    return Result(name, middle, low, high, distance)


def _distances(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return how far each call's (first) result lies from napkin's, relative in the Euclidean norm."""
    results = {name: _first(call()) for name, call in calls.items()}
    own = results["napkin"]
    return {
        name: float((each.float() - own).norm() / own.norm().clamp(min=1e-30))
        for name, each in results.items()
    }


def _first(result: Any) -> torch.Tensor:
    first: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return first.float()


def _clocks() -> str:
    """Return the GPU's clock and power as the driver tells them, nothing where it does not."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    index = torch.cuda.current_device()
    lines = told.stdout.strip().splitlines()
    return f"clock and power after the runs: {lines[index].strip()}" if index < len(lines) else ""


def _numbers(arguments: Mapping[str, Any]) -> dict[str, float | int]:
    return {name: each for name, each in arguments.items() if isinstance(each, int | float)}
