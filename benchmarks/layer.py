"""A whole layer of attention, forward and backward, beside PyTorch's, on the GPU at hand.

    python benchmarks/layer.py > benchmarks/results/DATE-layer.md

`examples/attention_block.napkin` at its own lengths in bf16, random data: projections, attention and the
projection of its result. PyTorch's is `@` and `scaled_dot_product_attention`, as it is and by
`torch.compile`. All run in turn, each with a cold L2; a row holds the median, and the largest relative
distance of a result from PyTorch's.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
import torch._functorch.config
import triton
from torch.nn.functional import scaled_dot_product_attention

import napkin
from napkin.runtime.bench import run_in_turn

# A graph that is walked more than once must not give its memory away.
torch._functorch.config.donated_buffer = False

BATCH, LENGTH, WIDTH, HEADS, HEAD = 4, 4096, 2048, 16, 128
DIAGRAM = Path(__file__).parent.parent / "examples" / "attention_block.napkin"


def layer(
    x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor, wo: torch.Tensor
) -> torch.Tensor:
    """Return what the diagram says, by PyTorch's operators."""

    def projected(weights: torch.Tensor, scale: float) -> torch.Tensor:
        flat = (x @ weights.reshape(WIDTH, HEADS * HEAD)) * scale
        return flat.view(BATCH, LENGTH, HEADS, HEAD).transpose(1, 2)

    scale = WIDTH**-0.5
    found = scaled_dot_product_attention(
        projected(wq, scale), projected(wk, scale), projected(wv, 1.0)
    )
    return found.transpose(1, 2).reshape(BATCH, LENGTH, -1) @ wo.reshape(HEADS * HEAD, WIDTH)


def random_values() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the layer's arguments, which ask for gradients, and the gradient of its result."""
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(BATCH, LENGTH, WIDTH), *[(WIDTH, HEADS, HEAD)] * 3, (HEADS, HEAD, WIDTH)]
    drawn = [torch.randn(each, generator=generator, device="cuda") for each in (*shapes, shapes[0])]
    *values, seed = (each.bfloat16() for each in drawn)
    return [each.requires_grad_() for each in values], seed


def distance(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Return the largest relative distance of two lists of results."""
    pairs = zip(one, other, strict=True)
    return max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in pairs)


def main() -> None:
    """Time the three layers, both ways, and print the table."""
    values, seed = random_values()
    contenders = {
        "napkin": napkin.compile(DIAGRAM),
        "PyTorch": layer,
        "torch.compile": torch.compile(layer),
    }
    results = {name: call(*values) for name, call in contenders.items()}

    def gradients(name: str) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(results[name], values, seed, retain_graph=True)

    calls = [lambda name=name: contenders[name](*values) for name in contenders]
    calls += [lambda name=name: gradients(name) for name in contenders]
    off = {name: distance([results[name]], [results["PyTorch"]]) for name in contenders}
    off_back = {name: distance(gradients(name), gradients("PyTorch")) for name in contenders}
    taken = run_in_turn(calls)
    print(f"# A layer of attention beside PyTorch's, on an {torch.cuda.get_device_name()}\n")
    print(
        f"{datetime.date.today()}, torch {torch.__version__}, triton {triton.__version__}, bf16.\n"
    )
    print("| layer | forward ms | backward ms | distance | of gradients |")
    print("|---|---|---|---|---|")
    for place, name in enumerate(contenders):
        forward, backward = (median(taken[i]) * 1e3 for i in (place, place + len(contenders)))
        print(
            f"| {name} | {forward:.3f} | {backward:.3f} | {off[name]:.1e} | {off_back[name]:.1e} |"
        )


if __name__ == "__main__":
    main()
