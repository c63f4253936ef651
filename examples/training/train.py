"""Train a small transformer on the bytes of napkin's own pages, with attention by napkin or by PyTorch.

    python examples/training/train.py --attention sdpa
    python examples/training/train.py --attention causal
    python examples/training/train.py --attention fading

`sdpa` is PyTorch's scaled_dot_product_attention. Any other name is a file of `examples/` that takes queries,
keys and values; what else it takes (a rate and a sink for each head) is learned with the model. The same seed
gives the same weights and batches, so that the losses of `sdpa` and `causal` may be laid side by side.

On a GPU the model has 3.4 million parameters and runs in bf16 under autocast; `--small` is for a CPU, where
the attention is computed by the reference.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import napkin

ROOT = Path(__file__).resolve().parents[2]
BYTES = 256  # the vocabulary


@dataclass(frozen=True, slots=True)
class Shape:
    """The model and its batches: layers, heads and their size, positions, sequences a step."""

    layers: int = 4
    heads: int = 4
    head: int = 64
    length: int = 512
    batch: int = 16

    @property
    def width(self) -> int:
        """The features of a position."""
        return self.heads * self.head


SMALL = Shape(layers=2, heads=2, head=16, length=64, batch=4)


class Attention(nn.Module):
    """Causal self-attention: by PyTorch, or by a diagram whose other arguments are learned."""

    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__()
        self.shape = shape
        self.mix = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.learned = nn.ParameterList()
        self.attend: Callable[..., Tensor] = _sdpa
        if name != "sdpa":
            diagram = napkin.load(ROOT / "examples" / f"{name}.napkin")
            self.attend = napkin.compile(diagram)
            for each in diagram.core.arguments[3:]:
                assert each.axes == ("h",), f"{each.name} is not one number a head"
                self.learned.append(nn.Parameter(torch.zeros(shape.heads)))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        split = self.mix(x).view(batch, length, 3, self.shape.heads, self.shape.head)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = self.attend(q, k, v, *self.learned).transpose(1, 2)
        mixed = mixed.reshape(batch, length, self.shape.width)
        result: Tensor = self.out(mixed.to(x.dtype))
        return result


class Block(nn.Module):
    """Attention and a perceptron, each with a norm before and a way round."""

    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__()
        width = shape.width
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(shape, name)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        result: Tensor = x + self.perceptron(self.between(x))
        return result


class Model(nn.Module):
    """A transformer over bytes."""

    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__()
        self.bytes = nn.Embedding(BYTES, shape.width)
        self.places = nn.Embedding(shape.length, shape.width)
        self.blocks = nn.Sequential(*(Block(shape, name) for _ in range(shape.layers)))
        self.head = nn.Sequential(nn.LayerNorm(shape.width), nn.Linear(shape.width, BYTES))

    def forward(self, text: Tensor) -> Tensor:
        places = torch.arange(text.shape[1], device=text.device)
        logits: Tensor = self.head(self.blocks(self.bytes(text) + self.places(places)))
        return logits


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def own_text() -> Tensor:
    """Return the bytes of the repository's pages and examples."""
    files = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    files += sorted(ROOT.glob("examples/*.napkin"))
    return torch.tensor(list(b"\n".join(each.read_bytes() for each in files)))


def train(
    name: str, shape: Shape, steps: int, device: str, *, seed: int = 0
) -> Iterator[tuple[int, float]]:
    """Train and yield each step's number and loss, in nats a byte."""
    torch.manual_seed(seed)
    model = Model(shape, name).to(device)
    text = own_text().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    window = torch.arange(shape.length + 1, device=device)
    for step in range(steps):
        starts = torch.randint(len(text) - shape.length - 1, (shape.batch, 1), generator=generator)
        batch = text[starts.to(device) + window]
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = model(batch[:, :-1])
        loss = cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield step, loss.item()


def main() -> None:
    """Train as the command line says; print the loss of every tenth step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--attention", default="causal", help="sdpa, or an example (causal)")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--small", action="store_true", help="a model for a CPU")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SMALL if arguments.small else Shape()
    for step, loss in train(arguments.attention, shape, arguments.steps, device):
        if step % 10 == 0 or step == arguments.steps - 1:
            print(f"step {step:4}  loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
