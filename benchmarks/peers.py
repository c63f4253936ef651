"""napkin's forward kernels beside the best hand-written ones, on the GPU at hand, in one run.

    python benchmarks/peers.py > benchmarks/results/DATE-peers.md

16k tokens in all, hidden size 2048, bf16. Attention and causal attention by head size and length against
cuDNN, FlashAttention 3 and 4, whichever are installed (`forward`); then every variant that FlexAttention can
express against it, at 4k and 16k (`flex`; `packed` and `document` hold eight sequences of random lengths side
by side); then diagrams without attention, at their own sizes, against what `torch.compile` makes of them
(`compiled`). All contenders of a row run in turn on the same random data, each with a cold L2; a row holds
medians in TFLOP/s of the contractions that the mask leaves, or milliseconds where there are none. Kernels are
compiled before, side by side, so that the GPU waits for none.
"""

from __future__ import annotations

import datetime
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import exp, log
from multiprocessing import get_context
from pathlib import Path

import torch
import triton

from napkin.api import load
from napkin.language.errors import NapkinError
from napkin.runtime.bench import Measurement, measure
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.gpus import machine_at_hand
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.runtime.peers import Contender, find_contenders
from napkin.schedule.planning.plan import Plan

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENS, HIDDEN = 16384, 2048
BY_HAND = ("cudnn", "fa3", "fa4")
VARIANTS = (
    "alibi", "softcap", "window", "packed", "document", "gqa", "sinks", "differential", "relative_bias",
)  # fmt: skip
OTHERS = (
    "matmul", "chain", "mlp", "gated_mlp", "rmsnorm_linear", "layernorm_linear", "cross_entropy",
    "layernorm", "softmax",
)  # fmt: skip
SEQUENCES, WINDOW = 8, 1024
WORKERS = 12


@dataclass(frozen=True, slots=True)
class Case:
    """One row: an example and the libraries asked for, at a head size and a length or at its own sizes."""

    name: str
    peers: tuple[str, ...]
    head: int = 0
    length: int = 0
    value: int = 0  # the head of the values, where it is another

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of the example's axes; none stands for its own."""
        if not self.length:
            return {}
        value = self.value or self.head
        sizes = {"b": TOKENS // self.length, "q": self.length, "x": self.length}
        sizes |= {"d": self.head // 2 if self.name == "differential" else self.head, "v": value}
        heads = HIDDEN // value
        return sizes | ({"k": heads // 8, "g": 8} if self.name == "gqa" else {"h": heads})

    def plan(self) -> Plan:
        """Return the plan for the GPU at hand."""
        diagram = load(EXAMPLES / f"{self.name}.napkin")
        return diagram.plan(machine_at_hand().name, sizes=self.sizes, dtype="bf16")

    def __str__(self) -> str:
        head = f"{self.head}/{self.value}" if self.value else str(self.head or "")
        return f"{self.name} | {head} | {self.length or ''}"


FORWARD = [
    Case(name, BY_HAND, head, length)
    for head in (64, 128, 256)
    for name in ("attention", "causal")
    for length in (1024, 4096, 16384)
]
FLEX = [
    Case(name, ("flex",), head, length)
    for name in VARIANTS
    for head in (128, 64)
    for length in (4096, 16384)
] + [Case("causal", ("flex", "cudnn", "fa3"), 192, length, 128) for length in (4096, 16384)]
COMPILED = [Case(name, ("compile",)) for name in OTHERS]
PARTS = {"forward": FORWARD, "flex": FLEX, "compiled": COMPILED}


def data_of(case: Case) -> dict[str, torch.Tensor | int]:
    """Return the arguments that a mask is made of: sequences of random lengths, a window."""
    if case.name == "window":
        return {"width": WINDOW}
    if case.name not in ("packed", "document"):
        return {}
    rows = []
    for batch in range(TOKENS // case.length):
        cuts = torch.randperm(case.length - 1, generator=torch.Generator().manual_seed(batch))
        starts = torch.cat([torch.zeros(1), (cuts[: SEQUENCES - 1] + 1).sort().values]).int()
        lengths = torch.diff(starts, append=torch.tensor([case.length]))
        values = starts if case.name == "packed" else torch.arange(SEQUENCES)
        rows.append(values.repeat_interleave(lengths))
    table = torch.stack(rows).int().cuda()
    names = ("start",) if case.name == "packed" else ("doc_q", "doc_x")
    return dict.fromkeys(names, table)


def left_flops(case: Case, by_position: float) -> float:
    """Return the FLOPs that the mask leaves; where it is read from data, by counting pairs."""
    if case.name not in ("packed", "document"):
        return by_position
    table = next(iter(data_of(case).values()))
    assert isinstance(table, torch.Tensor)
    pairs = 0
    for row in table:
        _, counts = row.unique_consecutive(return_counts=True)
        pairs += int((counts * (counts + 1) // 2).sum())
    return 4.0 * pairs * HIDDEN


def contenders_of(case: Case, plan: Plan) -> list[Contender]:
    """Return those of a case's libraries that are installed."""
    return [each for name in case.peers if (each := contender(name, plan)) is not None]


def contender(name: str, plan: Plan) -> Contender | None:
    """Return a library's contender, None where the library is not installed."""
    try:
        return find_contenders([name], plan.diagram)[0]
    except NapkinError:
        return None


def compile_ahead(case: Case) -> None:
    """Run a case once, so that its kernels lie in the compilers' caches."""
    torch._dynamo.reset()
    plan = case.plan()
    diagram = plan.diagram
    sizes = axis_lengths(diagram, dict(plan.sizes))
    arguments = random_arguments(diagram, sizes, dtype=plan.dtype, device="cuda", seed=0)
    arguments |= data_of(case)
    values = [arguments[each.name] for each in diagram.arguments]
    load_kernel(kernel_source(plan), diagram)(*values)
    for each in contenders_of(case, plan):
        each.prepare(values)()
    torch.cuda.synchronize()


def run(case: Case) -> Measurement:
    """Measure a case against those of its libraries that are installed."""
    torch._dynamo.reset()  # a function compiled for more shapes than torch's limit would run uncompiled
    plan = case.plan()
    return measure(plan, contenders_of(case, plan), given=data_of(case))


def table(cases: list[Case]) -> None:
    """Print the rows of some cases, and the mean and the least of napkin's speed over the best peer's."""
    names = list(dict.fromkeys(name for case in cases for name in case.peers))
    print(f"\n| diagram | head | length | napkin | {' | '.join(names)} | napkin / best |")
    print("|---|---|---|---|" + "---|" * (len(names) + 1))
    ratios: list[float] = []
    for case in cases:
        try:
            found = run(case)
        except Exception as error:  # one row that fails must not lose the others
            print(f"| {case} | {type(error).__name__}: {str(error)[:120]} |", flush=True)
            continue
        taken = {each.name: each.seconds for each in found.results}
        others = [taken[name] for name in names if name in taken]
        ratio = min(others) / taken["napkin"] if others else 0.0
        ratios += [ratio] if others else []
        flops = left_flops(case, found.flops)
        cells = " | ".join(
            speed(taken[name], flops) if name in taken else "" for name in ("napkin", *names)
        )
        print(f"| {case} | {cells} | {ratio:.2f} |", flush=True)
    if ratios:
        mean = exp(sum(map(log, ratios)) / len(ratios))
        print(f"\nGeometric mean {mean:.3f}, least {min(ratios):.3f}, over {len(ratios)} rows.")


def speed(seconds: float, flops: float) -> str:
    """Return TFLOP/s, or milliseconds where there are no contractions."""
    return f"{flops / seconds / 1e12:.0f}" if flops else f"{seconds * 1e3:.3f} ms"


def main() -> None:
    """Print the tables as Markdown; arguments keep the diagrams and the tables that they name."""
    wanted = sys.argv[1:]
    parts = [
        [each for each in part if not wanted or each.name in wanted or name in wanted]
        for name, part in PARTS.items()
    ]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(compile_ahead, case) for part in parts for case in part]:
            if future.exception():
                print(f"ahead: {future.exception()}", file=sys.stderr)
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"# Forward kernels beside hand-written ones on {torch.cuda.get_device_name()}\n")
    print(f"{datetime.date.today()}, {versions}, bf16, random data, median of runs with a cold L2.")
    print(
        "Command: `python benchmarks/peers.py`. TFLOP/s of the contractions that the mask leaves."
    )
    for part in parts:
        if part:
            table(part)


if __name__ == "__main__":
    main()
