"""The derived backward beside hand-written ones and FlexAttention's, on the GPU at hand, in one run.

    python benchmarks/backward.py [DIAGRAM[/HEAD[/LENGTH]] ..] > benchmarks/results/DATE-backward.md

16k tokens in all, hidden size 2048, bf16: attention and causal attention by head size and length against
cuDNN and FlashAttention 4, if it is installed; then every variant that FlexAttention can express against
it, at 4k and 16k; `packed` and `document` hold eight sequences of random lengths side by side. What is timed
is `torch.autograd.grad` of each, by all real arguments but ALiBi's slopes, which are constants: all kernels
of the backward and what PyTorch puts around them. Beside hand-written ones, which add up dQ in no order,
napkin may do so too (`deterministic=False`); beside FlexAttention it does what it does by default. Every row
says how long napkin takes in order and in any order. All contenders of a row run in turn on the same random
data, each with a cold L2; a row holds medians, as TFLOP/s of five contractions where the forward has two, of
what the mask leaves. Kernels are planned and compiled before, side by side, so that the GPU waits for none.
Arguments keep the rows that they name.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from math import exp, log
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
import triton
from peers import EXAMPLES, FLEX, FORWARD, WORKERS, Case, data_of, left_flops

from napkin.algebra.derive import derive
from napkin.api import Diagram, load
from napkin.language.errors import NapkinError
from napkin.runtime.bench import run_in_turn
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.peers import find_contenders
from napkin.schedule.planning.flops import contraction_flops

# A graph that is walked more than once must not give its memory away.
torch._functorch.config.donated_buffer = False

BY_HAND = ("cudnn", "fa4")
ORDERS = {"in order": True, "any order": False}
PATIENCE_S = 240  # for all rows to be compiled

Backward = Callable[[], tuple[torch.Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one case: seconds by contender, and how far a gradient lies from napkin's."""

    seconds: dict[str, float]
    distances: dict[str, float]


ROWS = [replace(each, peers=BY_HAND) for each in FORWARD]
ROWS += [each for each in FLEX if each.peers == ("flex",)]


def diagram_of(case: Case) -> Diagram:
    """Return a case's diagram, its lengths written into it."""
    core = load(EXAMPLES / f"{case.name}.napkin").core
    sizes = {axis: size for axis, size in case.sizes.items() if axis in core.axes}
    return Diagram(replace(core, sizes=tuple((dict(core.sizes) | sizes).items())))


def backwards_of(case: Case) -> dict[str, Backward]:
    """Return the backward of napkin and of the case's libraries that are installed, the forward run."""
    diagram = diagram_of(case)
    sizes = axis_lengths(diagram.core, dict(diagram.core.sizes))
    given = random_arguments(diagram.core, sizes, dtype="bf16", device="cuda", seed=0)
    given |= data_of(case)
    asking = [
        each.requires_grad_()
        for name, each in given.items()
        if isinstance(each, torch.Tensor) and each.is_floating_point() and name != "slope"
    ]
    values = [given[each.name] for each in diagram.core.arguments]
    orders = {"napkin": False if case.peers == BY_HAND else None} | ORDERS
    forwards: dict[str, Callable[[], Any]] = {
        name: partial(diagram.compile(deterministic=order), *values)
        for name, order in orders.items()
    }
    for name in case.peers:
        try:
            (contender,) = find_contenders([name], diagram.core)
            forwards[name] = contender.prepare(values)
        except NapkinError as error:
            print(f"{name}: {error}", file=sys.stderr)
    seed: torch.Tensor | None = None
    found: dict[str, Backward] = {}
    for name, forward in forwards.items():
        try:
            output = forward()
            seed = torch.randn_like(output) if seed is None else seed
            found[name] = _backward(output, asking, seed)
            found[name]()
        except Exception as error:  # a library that fails must not lose the others
            found.pop(name, None)
            print(f"{case.name} {name}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
    return found


def _backward(output: torch.Tensor, asking: list[torch.Tensor], seed: torch.Tensor) -> Backward:
    return lambda: torch.autograd.grad(output, asking, seed, retain_graph=True)


def compile_ahead(case: Case) -> None:
    """Run a case once, so that its kernels lie in the compilers' caches."""
    backwards_of(case)
    torch.cuda.synchronize()


def compile_all(cases: list[Case]) -> None:
    """Compile every case side by side; what fails or takes too long is compiled when it is timed."""
    pool = ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))
    jobs = [pool.submit(compile_ahead, case) for case in cases]
    try:
        for future in as_completed(jobs, timeout=PATIENCE_S):
            if future.exception():
                print(f"ahead: {future.exception()}", file=sys.stderr)
    except TimeoutError:
        print("ahead: not all kernels were compiled", file=sys.stderr)
    pool.shutdown(wait=False, cancel_futures=True)


def run(case: Case) -> Row:
    """Measure a case; what torch has compiled for others would have FlexAttention run uncompiled."""
    torch._dynamo.reset()
    calls = backwards_of(case)
    results = {name: call() for name, call in calls.items()}
    own = results["napkin"]
    distances = {
        name: max(map(_distance, other, own)) for name, other in results.items() if other is not own
    }
    del results
    taken = run_in_turn(list(calls.values()))
    return Row(dict(zip(calls, map(median, taken), strict=True)), distances)


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def flops_of(case: Case) -> float:
    """Return the FLOPs of five contractions where the forward has two, of what the mask leaves."""
    core = diagram_of(case).core
    numbers = {name: each for name, each in data_of(case).items() if isinstance(each, int)}
    forward = left_flops(case, contraction_flops(derive(core), dict(core.sizes), numbers))
    return 2.5 * forward


def table(cases: list[Case]) -> None:
    """Print the rows of some cases, and the mean and the least of napkin's speed over the best peer's."""
    names = list(dict.fromkeys(name for case in cases for name in case.peers))
    rates_of = " | ".join(["napkin", *names])
    print(
        f"\n| diagram | head | length | ms | {', ms | '.join(ORDERS)}, ms | {rates_of} "
        "| napkin / best | distance |"
    )
    print("|---|---|---|---|---|" + "---|" * (len(ORDERS) + len(names) + 2))
    ratios: list[float] = []
    for case in cases:
        try:
            found = run(case)
        except Exception as error:  # one row that fails must not lose the others
            told = f"{type(error).__name__}: {str(error)[:120]}"
            print(f"| {case.name} | {case.head} | {case.length} | {told} |", flush=True)
            continue
        own = found.seconds["napkin"]
        orders = " | ".join(f"{found.seconds[name] * 1e3:.3f}" for name in ORDERS)
        rates = {name: flops_of(case) / each / 1e12 for name, each in found.seconds.items()}
        others = [rates[name] for name in names if name in rates]
        ratio = rates["napkin"] / max(others) if others else 0.0
        ratios += [ratio] if others else []
        cells = " | ".join(f"{rates[name]:.0f}" if name in rates else "" for name in names)
        print(
            f"| {case.name} | {case.head} | {case.length} | {own * 1e3:.3f} | {orders} "
            f"| {rates['napkin']:.0f} | {cells} | {ratio:.2f} "
            f"| {max(found.distances.values(), default=0.0):.1e} |",
            flush=True,
        )
    if ratios:
        mean = exp(sum(map(log, ratios)) / len(ratios))
        print(f"\nGeometric mean {mean:.3f}, least {min(ratios):.3f}, over {len(ratios)} rows.")


def is_named(case: Case, wanted: list[str]) -> bool:
    """Tell whether a row is asked for: by its diagram, its head size and its length, as far as given."""
    parts = (case.name, str(case.head), str(case.length))
    return not wanted or any(parts[: len(w)] == w for w in (tuple(e.split("/")) for e in wanted))


def main() -> None:
    """Print the tables as Markdown."""
    cases = [each for each in ROWS if is_named(each, sys.argv[1:])]
    compile_all(cases)
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"# The derived backward beside others on {torch.cuda.get_device_name()}\n")
    print(f"{datetime.date.today()}, {versions}, bf16, random data, median of runs with a cold L2.")
    print(
        "Command: `python benchmarks/backward.py`. TFLOP/s of five contractions, of what the mask"
    )
    print("leaves; `distance` is the largest of a gradient from napkin's, relative.")
    for peers in dict.fromkeys(each.peers for each in cases):
        table([each for each in cases if each.peers == peers])


if __name__ == "__main__":
    main()
