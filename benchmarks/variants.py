"""Every variant of attention beside napkin's own plain kernel and FlexAttention, on the GPU at hand.

    python benchmarks/variants.py > benchmarks/results/DATE-variants.md

16k tokens in all, bf16, heads of 128; `mla` is causal attention with keys of 192 and values of 128. The
plain kernel beside a variant is `causal`, or `attention` where the variant masks nothing, of the same
lengths and as many heads. All three run in turn on random data with a cold L2. Speeds are medians in
TFLOP/s, counted twice: of the pairs of a query and a key that the mask leaves, and of the tiles of 64 x 64
that hold such a pair, which is what any kernel of that grain has to compute. FlexAttention's block masks
are made before; what napkin finds out of a mask's data it finds within its time. `packed` and `document`
hold eight sequences of random lengths.

What a variant computes beside its contractions, the plain kernel does not. So its least time on every
pipeline is told as well: the operations of the cost model (`napkin cost`) for the pairs of those tiles, at
the pipeline's rate; masks are counted in every tile. A variant's share of the longest of these times stands
beside the plain kernel's share of its own.
"""

from __future__ import annotations

import datetime
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
import triton
from peers import HIDDEN, TOKENS, WINDOW, WORKERS, Case, compile_ahead, contender, data_of

from napkin.algebra.derive import derive
from napkin.model.ideal import Ideal, ideal
from napkin.operators import Pipeline
from napkin.runtime.bench import run_in_turn
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.runtime.peers.libraries import Call
from napkin.schedule.tiling.kernel import storage_types

TILE = 64
LENGTHS = (1024, 4096, 16384)
HALF_HEADS = "differential"  # two maps of scores, each of half a head
PIPELINES = (Pipeline.TENSOR, Pipeline.SFU, Pipeline.FP32)


@dataclass(frozen=True, slots=True)
class Row:
    """A variant, the plain kernel that it is held against, and which of `left_work`'s masks it has."""

    label: str
    case: Case
    plain: Case
    mask: str


def rows() -> list[Row]:
    """Return the rows of the table, short streams first."""
    found = []
    for length in LENGTHS:
        causal = Case("causal", (), 128, length)
        for name in ("alibi", "softcap", "gqa", "sinks"):
            found.append(Row(name, Case(name, ("flex",), 128, length), causal, "causal"))
        for name in ("window", "packed", "document"):
            found.append(Row(name, Case(name, ("flex",), 128, length), causal, name))
        half = Case("attention", (), 64, length, 128)
        found.append(Row(HALF_HEADS, Case(HALF_HEADS, ("flex",), 128, length), half, "full"))
        wide = Case("causal", ("flex",), 192, length, 128)
        found.append(Row("mla", wide, causal, "causal"))
    return found


def call_of(case: Case) -> tuple[Call, list[Any]]:
    """Return a call of napkin's kernel for a case on random data, and the data."""
    plan = case.plan()
    sizes = axis_lengths(plan.diagram, dict(plan.sizes))
    given = random_arguments(plan.diagram, sizes, dtype=plan.dtype, device="cuda", seed=0)
    given |= data_of(case)
    values = [given[each.name] for each in plan.diagram.arguments]
    entry = load_kernel(kernel_source(plan), plan.diagram)
    return lambda: entry(*values), values


def left_work(mask: str, case: Case) -> tuple[float, float]:
    """Return the pairs of a query and a key that a mask leaves in all batches, and those of its tiles."""
    length, batches = case.length, TOKENS // case.length
    if mask == "full":
        return (float(batches * length**2),) * 2
    data = data_of(case)
    table = next((each for each in data.values() if isinstance(each, torch.Tensor)), None)
    place = torch.arange(length, device="cuda")
    pairs = tiles = 0.0
    for batch in range(batches):
        for start in range(0, length, TILE):
            row = place[start : start + TILE, None]
            left = place <= row
            if mask == "window":
                left &= row - place < WINDOW
            if mask == "packed" and table is not None:
                left &= table[batch, row] <= place
            if mask == "document" and table is not None:
                left &= table[batch, row] == table[batch]
            pairs += float(left.sum())
            tiles += float(left.view(TILE, -1, TILE).any(dim=2).any(dim=0).sum())
    return pairs, tiles * TILE**2


def flops_a_pair(case: Case) -> float:
    """Return the FLOPs of a query and a key in all heads."""
    value = case.value or case.head
    width = case.head + (2 * value if case.name == HALF_HEADS else value)
    return 2.0 * width * HIDDEN / value


def least_work(case: Case, pairs: float) -> Ideal:
    """Return what a case must do on every pipeline for so many pairs of a query and a key."""
    plan = case.plan()
    share = pairs / (TOKENS * case.length)
    types = storage_types(plan.diagram, plan.dtype)
    return ideal(derive(plan.diagram), plan.machine, dict(plan.sizes), types, share)


def microseconds(work: Ideal) -> dict[Pipeline, float]:
    """Return the least time on every pipeline."""
    return {each.pipeline: 1e6 * (each.seconds or 0.0) for each in work.pipelines}


def print_row(row: Row) -> None:
    """Measure a row and print it."""
    torch._dynamo.reset()
    mine, values = call_of(row.case)
    plain, _ = call_of(row.plain)
    calls = {"napkin": mine, "plain": plain}
    flex = contender("flex", row.case.plan())
    if flex is not None:
        calls["flex"] = flex.prepare(values)
    taken = dict(zip(calls, map(median, run_in_turn(list(calls.values()))), strict=True))
    pairs, tiles = left_work(row.mask, row.case)
    known, known_tiles = left_work("causal" if row.plain.name == "causal" else "full", row.plain)
    flops = flops_a_pair(row.case) / 1e12
    rate, base = flops / taken["napkin"], flops_a_pair(row.plain) / 1e12 / taken["plain"]
    cells = [f"{pairs * rate:.0f}", f"{tiles * rate:.0f}", f"{known * base:.0f}"]
    cells.append(f"{tiles * rate / (known_tiles * base):.2f}")
    least = microseconds(least_work(row.case, tiles))
    base_least = microseconds(least_work(row.plain, known_tiles))
    cells += [f"{least[each]:.0f}" for each in PIPELINES]
    shares = (
        max(times.values()) / 1e6 / taken[name]
        for name, times in (("napkin", least), ("plain", base_least))
    )
    cells += [f"{share:.2f}" for share in shares]
    if "flex" in taken:
        result = mine().float()
        distance = float((result - calls["flex"]().float()).norm() / result.norm())
        cells += [f"{pairs * flops / taken['flex']:.0f}", f"{taken['flex'] / taken['napkin']:.2f}"]
        cells.append(f"{distance:.1e}")
    print(f"| {row.label} | {row.case.length} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table as Markdown; arguments keep the variants and the lengths that they name."""
    wanted = sys.argv[1:]
    kept = [
        each for each in rows() if not wanted or {each.label, str(each.case.length)} & set(wanted)
    ]
    cases = list(dict.fromkeys(case for row in kept for case in (row.case, row.plain)))
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(compile_ahead, case) for case in cases]:
            if future.exception():
                print(f"ahead: {future.exception()}", file=sys.stderr)
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(
        f"# Variants beside the plain kernel and FlexAttention on {torch.cuda.get_device_name()}\n"
    )
    print(f"{datetime.date.today()}, {versions}, bf16. Command: `python benchmarks/variants.py`.\n")
    print(
        "| diagram | length | TFLOP/s | of tiles | plain | of its tiles, variant / plain "
        "| least on tensor cores, us | special functions | FP32 | share of the longest | plain's share "
        "| FlexAttention | napkin / it | distance |"
    )
    print("|" + "---|" * 14)
    for row in kept:
        try:
            print_row(row)
        except Exception as error:  # one row that fails must not lose the others
            told = f"{type(error).__name__}: {str(error)[:120]}"
            print(f"| {row.label} | {row.case.length} | {told} |", flush=True)


if __name__ == "__main__":
    main()
