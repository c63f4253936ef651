"""How far every example's gradients are from float64, beside PyTorch's, and whether they repeat bit for bit.

    python benchmarks/gradient_accuracy.py [DIAGRAM ..] > benchmarks/results/DATE-gradient-accuracy.md

bf16, random data, every example in `examples/`. Where PyTorch's flash attention computes the diagram, its
gradients are what napkin's are held against; elsewhere those of PyTorch's operators in bf16, one after the
other, as `napkin.runtime.reference` calls them. Errors are relative to the gradient by torch's autograd in
float64, on the same data, at the file's lengths but for batch and heads, which are few, and positions, at
most 2048. A row holds the gradient whose ratio is the largest. Then the backward runs 20 times at all of the
file's lengths with `deterministic=True`, and every run must give the same bits. Each example is compiled in a
process of its own before, so that the GPU waits for none.
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
from torch.nn.functional import scaled_dot_product_attention

import napkin
from napkin.api import Diagram
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.reference import torch_reference

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FLASH: dict[str, Callable[..., torch.Tensor]] = {
    "attention": scaled_dot_product_attention,
    "causal": partial(scaled_dot_product_attention, is_causal=True),
    "gqa": partial(scaled_dot_product_attention, is_causal=True, enable_gqa=True),
}
FEW = {"b": 1, "h": 2, "k": 2, "q": 2048, "x": 2048}  # of an attention's axes: float64 keeps scores
RANK = 4  # of scores: batch, heads, queries and keys
RUNS = 20
WORKERS = 12

Function = Callable[..., Any]


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


def training_of(front: Diagram, sizes: Mapping[str, int]) -> Training:
    """Return random arguments and seeds of an example at these lengths."""
    values = random_arguments(front.core, dict(sizes), dtype="bf16", device="cuda", seed=0)
    wanted = tuple(
        name
        for name, each in values.items()
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    )
    for name in wanted:
        values[name].requires_grad_()  # type: ignore[union-attr]
    outputs = real_outputs(front.compile()(*values.values()))
    generator = torch.Generator("cuda").manual_seed(1)
    seeds = [torch.randn(each.shape, generator=generator, device="cuda") for each in outputs]
    return Training(
        values,
        wanted,
        tuple(seed.to(each.dtype) for seed, each in zip(seeds, outputs, strict=True)),
    )


def eager(front: Diagram, dtype: torch.dtype) -> Function:
    """Return the diagram as PyTorch's operators one after the other, all in one type."""
    names = [each.name for each in front.core.arguments]
    return lambda *values: torch_reference(
        front.core, dict(zip(names, values, strict=True)), dtype=dtype
    )


def flash(name: str) -> Function:
    """Return PyTorch's flash attention as it computes the diagram."""

    def call(*values: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return FLASH[name](*values)

    return call


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Return how far a gradient is from the true one, relative to it."""
    off, size = (found.double() - truth).norm(), truth.norm()
    return float(off / size) if size else float(off)


def accuracy(name: str) -> str:
    """Return an example's cells: beside what, which gradient, its errors, their ratio."""
    front = napkin.load(EXAMPLES / f"{name}.napkin")
    training = training_of(front, lengths_of(front, FEW))
    truth = training.gradients(eager(front, torch.float64), torch.float64)
    own = errors(training.gradients(front.compile()), truth)
    peer, other = "eager", eager(front, torch.bfloat16)
    if name in FLASH:
        peer, other = "flash", flash(name)
    beside = errors(training.gradients(other, torch.bfloat16), truth)
    ratios = [one / two if two else float(one > 0) for one, two in zip(own, beside, strict=True)]
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    return (
        f"{peer} | d{training.wanted[worst]} | {own[worst]:.2e} | {beside[worst]:.2e} "
        f"| {ratios[worst]:.2f}"
    )


def errors(found: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> list[float]:
    """Return how far each gradient is from the true one."""
    return [distance(*pair) for pair in zip(found, truth, strict=True)]


def repeats(name: str, runs: int) -> str:
    """Return how many runs of a deterministic backward, at the file's lengths, gave the first one's bits."""
    front = napkin.load(EXAMPLES / f"{name}.napkin")
    training = training_of(front, lengths_of(front, {}))
    kernel = front.compile(deterministic=True)
    outputs = real_outputs(kernel(*training.values.values()))
    leaves = [training.values[each] for each in training.wanted]

    def run() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(outputs, leaves, training.seeds, retain_graph=True)

    first = run()
    alike = sum(all(map(torch.equal, run(), first)) for _ in range(runs))
    return f"{alike} of {runs}"


def compile_ahead(name: str) -> None:
    """Run an example's backwards once, so that their kernels lie in the compilers' caches."""
    front = napkin.load(EXAMPLES / f"{name}.napkin")
    training = training_of(front, lengths_of(front, FEW))
    for order in (None, True):
        training.gradients(front.compile(deterministic=order))
    torch.cuda.synchronize()


def main() -> None:
    """Print the table as Markdown."""
    names = sys.argv[1:] or sorted(each.stem for each in EXAMPLES.glob("*.napkin"))
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        for name, job in [(name, pool.submit(compile_ahead, name)) for name in names]:
            if (error := job.exception()) is not None:
                print(f"{name}: {error}", file=sys.stderr)
    print(f"# Gradients beside float64, on an {torch.cuda.get_device_name()}\n")
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{datetime.date.today()}, {versions}, bf16, random data.")
    print("Command: `python benchmarks/gradient_accuracy.py`, which says what the columns are.\n")
    print("| diagram | beside | gradient | napkin | PyTorch | ratio | the same bits |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        cells = []
        for measured in (accuracy, partial(repeats, runs=RUNS)):
            try:
                cells.append(measured(name))
            except Exception as error:  # one example that fails must not lose the others
                cells.append(f"{type(error).__name__}: {str(error)[:120]}")
            torch.cuda.empty_cache()
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
