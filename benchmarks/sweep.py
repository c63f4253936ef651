"""What the benchmarks of the model share: points of a grid, kernels compiled side by side and timed in turn.

A kernel is compiled by running it once in a pool of processes with one cache folder (`TRITON_CACHE_DIR`);
the process that times finds it there. Times are medians of runs with a cold L2 cache, each kernel warmed up
for as long as it is timed, so that the clock has fallen to where its power holds it. Before every run the
GPU idles a while, so that a short kernel does not wait for its launch.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ahead import find_ahead

from napkin.api import load
from napkin.runtime.data import axis_lengths, indexing_arguments, random_arguments
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.schedule.liveness import reads, writes
from napkin.schedule.planning.plan import Plan
from napkin.schedule.program import Load, Loop, walk

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENS, HIDDEN = 16384, 2048
HEADS, LENGTHS = (64, 128, 256), (1024, 4096, 16384)
ATTENTIONS = (
    "attention", "causal", "alibi", "softcap", "sinks", "document", "window", "gqa", "sigmoid", "spherical",
    "relative_bias", "attention_lse", "differential", "fading", "packed", "gemma", "llama",
)  # fmt: skip
OTHERS = ("matmul", "chain", "mlp", "gated_mlp", "rmsnorm_linear", "layernorm_linear", "cross_entropy",
          "softmax", "layernorm")  # fmt: skip

_GROUPED = {"gqa": 4, "llama": 4, "gemma": 2}  # heads of queries for one of keys

_PATIENCE_S = 300  # for all jobs to compile and to run once
_FEWEST, _MOST = 10, 500  # timed runs
_CACHE_BYTES = 256 << 20  # written between runs
_HEAD_START = 600_000  # clocks that the GPU idles before a run, while Python launches it


@dataclass(frozen=True, slots=True)
class Point:
    """An example at some lengths; `head` and `length` are None where these axes do not apply."""

    example: str
    head: int | None
    length: int | None
    sizes: tuple[tuple[str, int], ...]

    def plan(self, machine: str) -> Plan:
        """Return the example's plan at these lengths."""
        diagram = load(EXAMPLES / f"{self.example}.napkin")
        return diagram.plan(machine, sizes=dict(self.sizes), dtype="bf16")


def point(example: str, head: int | None = None, length: int | None = None) -> Point:
    """Return an example at 16k tokens in all and hidden size 2048, or at its own lengths."""
    sizes = _lengths(example, head, length) if length else {}
    return Point(example, head, length, tuple(sizes.items()))


def _lengths(example: str, head: int | None, length: int) -> dict[str, int]:
    if example == "mla":
        return {"x": length}
    assert head is not None
    if example == "decode":
        return {"x": length, "d": head, "v": head}
    if example == "paged_decode":
        return {"x": length, "n": length // 16, "p": 2 * length, "d": head, "v": head}
    heads = HIDDEN // head
    sizes = {"b": TOKENS // length, "h": heads, "q": length, "x": length, "d": head, "v": head}
    if example == "differential":
        return sizes | {"d": head // 2}
    if example in _GROUPED:
        del sizes["h"]
        return sizes | {"k": heads // _GROUPED[example], "g": _GROUPED[example]}
    return sizes


def grid() -> list[Point]:
    """Return every example by head size and length where it has them, else at its own lengths."""
    by_head = (*ATTENTIONS, "attention_block", "decode", "paged_decode")
    points = [point(name, head, length) for name in by_head for head in HEADS for length in LENGTHS]
    points += [point("mla", None, length) for length in LENGTHS]
    return points + [point(name) for name in OTHERS]


@dataclass(frozen=True, slots=True)
class Job:
    """A plan to time at a point, what it is there (`chosen`, `plain`, a rank), and its roofline's seconds."""

    point: Point
    what: str
    plan: Plan
    roofline: float = 0.0


@dataclass(frozen=True, slots=True)
class Compiled:
    """A job's module, and what its kernels took of a block: registers, shared bytes, spilled words."""

    job: Job
    text: str
    resources: tuple[tuple[int, int, int], ...]
    failure: str


def pool(processes: int, ahead: str | None = None) -> ProcessPoolExecutor:
    """Return a pool of fresh processes, which may use a GPU, and find the kernels of a folder (`ahead`)."""
    context = multiprocessing.get_context("spawn")
    found = (find_ahead, (ahead,)) if ahead else (None, ())
    return ProcessPoolExecutor(processes, context, *found)


def compile_all(jobs: Iterable[Job], workers: ProcessPoolExecutor) -> Iterator[Compiled]:
    """Compile every job in the pool, and yield them as they are ready; what takes too long is given up."""
    waiting: dict[Future[Compiled], Job] = {workers.submit(_compile, job): job for job in jobs}
    try:
        for each in as_completed(waiting, timeout=_PATIENCE_S):
            yield each.result()
    except TimeoutError:
        for process in multiprocessing.active_children():
            process.terminate()
        for future, job in waiting.items():
            if not future.done():
                yield Compiled(job, "", (), f"neither compiled nor run within {_PATIENCE_S} s")


def _compile(job: Job) -> Compiled:
    text = ""
    try:
        text = kernel_source(job.plan)
        call = _call(job, text)
        call()
        torch.cuda.synchronize()
        return Compiled(job, text, tuple(_resources(text, job)), "")
    except Exception as error:
        return Compiled(job, text, (), f"{type(error).__name__}: {str(error)[:200]}")
    finally:
        torch.cuda.empty_cache()


def _call(job: Job, text: str) -> Callable[[], Any]:
    """Return the call of a job's kernels on random data."""
    diagram = job.plan.diagram
    sizes = axis_lengths(diagram, dict(job.plan.sizes))
    arguments = random_arguments(diagram, sizes, dtype=job.plan.dtype, device="cuda")
    for name, value in unmasked(job.plan).items():
        if name in arguments:
            arguments[name].fill_(value)
    entry = load_kernel(text, diagram)
    given = [arguments[each.name] for each in diagram.arguments]
    return lambda: entry(*given)


def unmasked(plan: Plan) -> dict[str, int]:
    """Return the whole numbers that decide a mask, with values at which it masks nothing, as predicted.

    Labels that are compared with one another are alike; what bounds a stream leaves all of it.
    """
    labels = [each.name for each in plan.diagram.arguments if each.dtype == "int32" and each.dims]
    found = dict.fromkeys(set(labels) - {name for name, _ in indexing_arguments(plan.diagram)}, 0)
    for kernel in plan.kernels:
        operations = walk(kernel.program.operations)
        needed = _outer_ends([op for op in operations if isinstance(op, Loop)], dict(kernel.sizes))
        for op in reversed(operations):
            bound = needed.get(writes(op) or "")
            if bound is not None and not isinstance(op, Loop):
                needed |= dict.fromkeys(reads(op), bound)
                found |= {op.array: bound} if isinstance(op, Load) else {}
    return found


def _outer_ends(loops: Sequence[Loop], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return what the first loop over an axis starts at and the last one stops at, where it is computed."""
    first = {loop.axis: loop.start for loop in reversed(loops)}
    last = {loop.axis: loop.stop for loop in loops}
    ends = [(name, 0) for name in first.values()]
    ends += [(name, sizes[axis]) for axis, name in last.items()]
    return {name: bound for name, bound in ends if isinstance(name, str)}


def _resources(text: str, job: Job) -> Iterator[tuple[int, int, int]]:
    """Yield the registers, shared bytes and spills of the kernels that a module has compiled."""
    module = load_kernel(text, job.plan.diagram).__globals__
    for function in module.values():
        for cache in getattr(function, "device_caches", {}).values():
            for kernel in cache[0].values():
                yield kernel.n_regs, kernel.metadata.shared, kernel.n_spills


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and quartiles in seconds, and the clock (MHz) and power (W) in the middle of the runs."""

    seconds: float
    low: float
    high: float
    clock: int
    power: float


def time_job(compiled: Compiled, seconds: float) -> Timing:
    """Time a compiled job for about so many seconds, after as many of warming up."""
    call = _call(compiled.job, compiled.text)
    cache = torch.empty(_CACHE_BYTES, dtype=torch.int8, device="cuda")
    call()
    once = max(_seconds([_recorded(call, cache)])[0], 1e-6)
    rounds = min(max(int(seconds / (once + 1e-4)), _FEWEST), _MOST)
    for _ in range(rounds):
        call()
    pairs = [_recorded(call, cache) for _ in range(rounds)]
    clock, power = _state()
    taken = sorted(_seconds(pairs))
    quarter = len(taken) // 4
    return Timing(median(taken), taken[quarter], taken[-1 - quarter], clock, power)


def _recorded(
    call: Callable[[], Any], cache: torch.Tensor
) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    cache.zero_()
    torch.cuda._sleep(_HEAD_START)
    start.record()
    call()
    end.record()
    return start, end


def _seconds(pairs: Iterable[tuple[torch.cuda.Event, torch.cuda.Event]]) -> list[float]:
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e-3 for start, end in pairs]


def _state() -> tuple[int, float]:
    """Return the GPU's clock and power while it works, zeros where the driver tells nothing."""
    try:
        return torch.cuda.clock_rate(), torch.cuda.power_draw() / 1000
    except (ImportError, RuntimeError):
        return 0, 0.0
