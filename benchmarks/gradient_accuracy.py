"""How far every example's gradients are from float64, beside PyTorch's, and whether they repeat bit for bit.

    python benchmarks/gradient_accuracy.py [DIAGRAM ..] > benchmarks/results/DATE-gradient-accuracy.md

bf16, random data, every example in `examples/`. Where PyTorch's flash attention computes the diagram, alone
or among other operators, its gradients are what napkin's are held against; elsewhere those of PyTorch's
operators in bf16, one after the other, as `napkin.runtime.reference` calls them. Errors are relative to the
gradient by torch's autograd in float64, on the same data, at the file's lengths but for batch, which is two,
and positions, at most 2048. A row holds the gradient whose ratio is the largest; then, where there are
queries, keys and values, the largest error of any gradient beside the largest of flash attention's on the
same queries, keys and values, with the same factor of the scores. Then the backward runs 20 times at the
file's lengths, in four sequences and a thousand pages at most, with `deterministic=True`, and every run must
give the same bits. Examples share the GPU, since nothing is timed.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

import napkin
from napkin.api import Diagram
from napkin.runtime.compiled import Kernel
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.reference import torch_reference

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# An attention's axes where float64 keeps scores, and where the backward runs again and again. The first of a
# batch's lengths is zero, so that there are two.
FEW = {"b": 2, "k": 2, "p": 256, "q": 2048, "x": 2048}
MANY = {"b": 4, "p": 1024}
RANK = 4  # of scores: batch, heads, queries and keys
RUNS = 20
WORKERS = 4

Function = Callable[..., Any]


# --- what PyTorch's flash attention computes ------------------------------------------------------


def window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, width: int) -> torch.Tensor:
    """Return causal attention to the last keys, by the operator below PyTorch's function."""
    heads_last = [each.transpose(1, 2) for each in (q, k, v)]
    found, *_ = torch.ops.aten._flash_attention_forward(
        *heads_last, None, None, q.shape[2], k.shape[2], 0.0, True, False,
        window_size_left=width - 1, window_size_right=0,
    )  # fmt: skip
    return found.transpose(1, 2)  # type: ignore[no-any-return]


def differential(
    q1: torch.Tensor,
    k1: torch.Tensor,
    q2: torch.Tensor,
    k2: torch.Tensor,
    v: torch.Tensor,
    factor: float,
) -> torch.Tensor:
    """Return the difference of two attentions to the same values."""
    scale, wider = q1.shape[-1] ** -0.5, (0, v.shape[-1] - q1.shape[-1])
    one, two = (
        scaled_dot_product_attention(pad(q, wider), pad(k, wider), v, scale=scale)
        for q, k in ((q1, k1), (q2, k2))
    )
    return one - factor * two


def attention_block(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, wo: torch.Tensor
) -> torch.Tensor:
    """Return attention between its projections."""
    scale = x.shape[-1] ** -0.5
    q, k, v = (torch.einsum("bqe,ehd->bhqd", x, each) for each in (wq, wk, wv))
    return torch.einsum("bhqv,hvf->bqf", scaled_dot_product_attention(q * scale, k * scale, v), wo)


FLASH: dict[str, Function] = {
    "attention": scaled_dot_product_attention,
    "attention_block": attention_block,
    "causal": partial(scaled_dot_product_attention, is_causal=True),
    "differential": differential,
    "gqa": partial(scaled_dot_product_attention, is_causal=True, enable_gqa=True),
    "window": window,
}


# --- gradients ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Training:
    """An example's arguments, those that gradients are taken by, and the outputs' seeds."""

    values: dict[str, Any]
    wanted: tuple[str, ...]
    seeds: tuple[torch.Tensor, ...]

    def gradients(
        self, function: Function, dtype: torch.dtype | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return the gradients of a function of the arguments, those that are real in another type."""
        values = dict(self.values)
        for name in self.wanted:
            values[name] = values[name].detach().to(dtype or values[name].dtype).requires_grad_()
        outputs = real_outputs(function(*values.values()))
        seeds = [seed.to(output.dtype) for seed, output in zip(self.seeds, outputs, strict=True)]
        return torch.autograd.grad(outputs, [values[name] for name in self.wanted], seeds)


def real_outputs(found: Any) -> list[torch.Tensor]:
    """Return those of a function's results that lead to gradients."""
    return [
        each for each in (found if isinstance(found, tuple) else (found,)) if each.requires_grad
    ]


def lengths_of(front: Diagram, few: Mapping[str, int]) -> dict[str, int]:
    """Return an example's lengths; where it has scores of heads, none is more than a few."""
    has_heads = any(len(each.axes) >= RANK for each in front.core.boxes)
    given = {
        axis: min(size, few.get(axis, size)) if has_heads else size
        for axis, size in front.core.sizes
    }
    return axis_lengths(front.core, given)


def training_of(front: Diagram, kernel: Kernel, sizes: Mapping[str, int]) -> Training:
    """Return random arguments and seeds of an example at these lengths, all of which bf16 holds."""
    values = random_arguments(front.core, dict(sizes), dtype="bf16", device="cuda", seed=0)
    wanted = tuple(
        name
        for name, each in values.items()
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    )
    for name in wanted:
        values[name] = held_by_bf16(values[name]).requires_grad_()
    outputs = real_outputs(kernel(*values.values()))
    generator = torch.Generator("cuda").manual_seed(1)
    seeds = [torch.randn(each.shape, generator=generator, device="cuda") for each in outputs]
    return Training(
        values,
        wanted,
        tuple(held_by_bf16(seed).to(each.dtype) for seed, each in zip(seeds, outputs, strict=True)),
    )


def held_by_bf16(values: Any) -> torch.Tensor:
    """Return numbers that bf16 holds, in the type that they had."""
    rounded: torch.Tensor = values.bfloat16().to(values.dtype)
    return rounded


def eager(front: Diagram, dtype: torch.dtype) -> Function:
    """Return the diagram as PyTorch's operators one after the other, all in one type."""
    names = [each.name for each in front.core.arguments]
    return lambda *values: torch_reference(
        front.core, dict(zip(names, values, strict=True)), dtype=dtype
    )


def by_flash(function: Function) -> Function:
    """Return a function of which PyTorch computes every attention by its flash attention."""

    def call(*values: torch.Tensor) -> Any:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return function(*values)

    return call


def plain_attention(training: Training) -> float | None:
    """Return the largest error of flash attention's gradients on an example's queries, keys and values.

    None where its arguments are others.
    """
    given = [training.values[name] for name in "QKV" if name in training.values]
    if len(given) < 3 or given[0].ndim != RANK or given[1].shape[-2] != given[2].shape[-2]:
        return None
    q, k, v = (each if each.ndim == RANK else each[:, None] for each in given)
    if not q.shape[0] == k.shape[0] == v.shape[0]:  # keys lie in pages
        return None
    seed = torch.randn(q.shape, generator=torch.Generator("cuda").manual_seed(2), device="cuda")
    alone = Training({"Q": q, "K": k, "V": v}, ("Q", "K", "V"), (held_by_bf16(seed),))
    scale = training.values.get("scale")
    attend = partial(scaled_dot_product_attention, enable_gqa=True, scale=scale)
    with sdpa_kernel(SDPBackend.MATH):
        truth = alone.gradients(attend, torch.float64)
    return max(errors(alone.gradients(by_flash(attend), torch.bfloat16), truth))


def errors(found: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> list[float]:
    """Return how far each gradient is from the true one, relative to it."""
    return [distance(*pair) for pair in zip(found, truth, strict=True)]


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Return how far a gradient is from the true one, relative to it."""
    off, size = (found.double() - truth).norm(), truth.norm()
    return float(off / size) if size else float(off)


# --- the table ------------------------------------------------------------------------------------


def accuracy(name: str) -> str:
    """Return an example's cells: which gradient, its errors and their ratio; the largest errors."""
    front = napkin.load(EXAMPLES / f"{name}.napkin")
    kernel = front.compile()
    training = training_of(front, kernel, lengths_of(front, FEW))
    truth = training.gradients(eager(front, torch.float64), torch.float64)
    own = errors(training.gradients(kernel), truth)
    peer = by_flash(FLASH[name]) if name in FLASH else eager(front, torch.bfloat16)
    beside = errors(training.gradients(peer, torch.bfloat16), truth)
    ratios = [one / two if two else float(one > 0) for one, two in zip(own, beside, strict=True)]
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    cells = [
        "flash" if name in FLASH else "operators",
        f"d{training.wanted[worst]}",
        f"{own[worst]:.2e}",
        f"{beside[worst]:.2e}",
        f"{ratios[worst]:.2f}",
    ]
    plain = plain_attention(training)
    largest = max(range(len(own)), key=own.__getitem__)
    cells += [f"d{training.wanted[largest]} {own[largest]:.2e}"]
    cells += [f"{plain:.2e}" if plain is not None else ""]
    return " | ".join(cells)


def repeats(name: str, runs: int) -> str:
    """Return how many runs of a deterministic backward, at many positions, gave the first one's bits."""
    front = napkin.load(EXAMPLES / f"{name}.napkin")
    kernel = front.compile(deterministic=True)
    training = training_of(front, kernel, lengths_of(front, MANY))
    outputs = real_outputs(kernel(*training.values.values()))
    leaves = [training.values[each] for each in training.wanted]

    def run() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(outputs, leaves, training.seeds, retain_graph=True)

    first = run()
    alike = sum(all(map(torch.equal, run(), first)) for _ in range(runs))
    return f"{alike} of {runs}"


def row(name: str) -> str:
    """Return an example's row; what fails is said in its cells."""
    cells = []
    for measured in (accuracy, partial(repeats, runs=RUNS)):
        try:
            cells.append(measured(name))
        except Exception as error:  # one example that fails must not lose the others
            cells.append(f"{type(error).__name__}: {str(error)[:120]}")
        torch.cuda.empty_cache()
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table as Markdown."""
    names = sys.argv[1:] or sorted(each.stem for each in EXAMPLES.glob("*.napkin"))
    print(f"# Gradients beside float64, on an {torch.cuda.get_device_name()}\n")
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{datetime.date.today()}, {versions}, bf16, random data.")
    print("Command: `python benchmarks/gradient_accuracy.py`, which says what the columns are.\n")
    print("| diagram | beside | gradient | napkin | PyTorch | ratio ", end="")
    print("| largest error | flash's on Q, K, V | the same bits |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        for each in pool.map(row, names):
            print(each, flush=True)


if __name__ == "__main__":
    main()
