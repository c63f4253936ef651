"""Gradients on a GPU, of every example: near float64, as near as PyTorch's own, the same bits each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import napkin
from napkin.runtime.compiled import Kernel
from napkin.runtime.data import random_arguments
from napkin.runtime.reference import torch_reference

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))
NAMES = [each.stem for each in EXAMPLES]
# What PyTorch has a backward of its own for, and how it is called.
FLASH: dict[str, Callable[..., torch.Tensor]] = {
    "attention": scaled_dot_product_attention,
    "causal": partial(scaled_dot_product_attention, is_causal=True),
    "gqa": partial(scaled_dot_product_attention, is_causal=True, enable_gqa=True),
}
# As the bound of an output (docs/numerics.md): a gradient is one, of operands that were rounded once.
BOUND = 2 * 2.0**-8 + 2.0**-16
RUNS = 20
# Those whose narrower heads have other plans: in one pass or two, with a statistic of rows apart or not.
OF_ANY_HEAD = ("window", "sinks", "softcap", "differential", "attention_lse")
# Those whose backward adds up sums in memory where it may.
ADDING = ("attention", "causal", "document", "gqa", "packed", "sinks", "window")

pytestmark = pytest.mark.gpu


@dataclass(frozen=True, slots=True)
class Trained:
    """An example's kernel, its arguments, those that gradients are taken by, and the outputs' seeds."""

    kernel: Kernel
    values: dict[str, Any]
    wanted: tuple[str, ...]
    seeds: tuple[torch.Tensor, ...]

    def gradients(self) -> tuple[torch.Tensor, ...]:
        """Return the gradients by napkin's kernels."""
        return self._through(self.kernel, self.values, self.seeds)

    def rounded_once(self) -> tuple[torch.Tensor, ...]:
        """Return the gradients by the reference: float64, but for what the types of stored arrays round."""
        values = {
            name: each.detach().cpu().requires_grad_(each.requires_grad)
            if isinstance(each, torch.Tensor)
            else each
            for name, each in self.values.items()
        }
        return self._through(self.kernel, values, [each.cpu() for each in self.seeds])

    def exact(self) -> tuple[torch.Tensor, ...]:
        """Return the gradients by torch in float64, of the reference."""
        wide = {
            name: each.detach().double() if name in self.wanted else each
            for name, each in self.values.items()
        }
        for name in self.wanted:
            wide[name].requires_grad_()
        diagram = self.kernel.operator.diagram
        seeds = [each.double() for each in self.seeds]
        return self._through(lambda *_: torch_reference(diagram, wide), wide, seeds)

    def _through(
        self,
        function: Callable[..., Any],
        values: Mapping[str, Any],
        seeds: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        found = function(*values.values())
        outputs = found if isinstance(found, tuple) else (found,)
        real = [each for each in outputs if each.requires_grad]
        return torch.autograd.grad(real, [values[name] for name in self.wanted], seeds)


@cache
def trained(name: str, deterministic: bool | None = None, head: int | None = None) -> Trained:
    """Return an example at lengths that no tile divides, but for those that its kernels fix.

    A `head` replaces the width of its queries, keys and values.
    """
    from napkin.runtime.gpus import machine_at_hand
    from napkin.runtime.verify import _few_tiles

    front = napkin.load(EXAMPLES[0].with_stem(name))
    wide = {} if head is None else {"d": head, "v": head}
    sizes, _ = _few_tiles(front.plan(machine_at_hand().name, sizes=wide), wide)
    values = random_arguments(front.core, sizes, device="cuda", seed=3)
    wanted = [
        name
        for name, each in values.items()
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    ]
    for each in wanted:
        values[each].requires_grad_()  # type: ignore[union-attr]
    kernel = front.compile(deterministic=deterministic)
    found = kernel(*values.values())
    outputs = found if isinstance(found, tuple) else (found,)
    generator = torch.Generator("cuda").manual_seed(4)
    seeds = tuple(
        torch.randn(each.shape, generator=generator, device="cuda").to(each.dtype)
        for each in outputs
        if each.requires_grad
    )
    return Trained(kernel, values, tuple(wanted), seeds)


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    off, size = (found.double() - wanted).norm(), wanted.norm()
    return float(off / size) if size else float(off)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_keep_the_bound_of_an_output(name: str) -> None:
    assert_keeps_the_bound(trained(name))


@pytest.mark.parametrize(("head", "deterministic"), [(64, None), (64, False), (80, None)])
@pytest.mark.parametrize("name", OF_ANY_HEAD)
def test_gradients_keep_the_bound_at_other_heads(
    name: str, head: int, deterministic: bool | None
) -> None:
    assert_keeps_the_bound(trained(name, deterministic, head))


@pytest.mark.parametrize("name", ADDING)
def test_gradients_that_are_added_up_in_memory_keep_the_bound(name: str) -> None:
    assert_keeps_the_bound(trained(name, deterministic=False))


def assert_keeps_the_bound(case: Trained) -> None:
    ours, exact = case.gradients(), case.exact()
    found = dict(zip(case.wanted, map(distance, ours, exact), strict=True))
    if max(found.values()) > BOUND:
        # A sum may cancel so far that the rounding of what is stored, such as the output, is most of it.
        least = map(distance, case.rounded_once(), (each.cpu() for each in exact))
        bounds = [max(BOUND, 1.2 * each) for each in least]
        pairs = dict(zip(case.wanted, zip(found.values(), bounds, strict=True), strict=True))
        assert all(each <= bound for each, bound in pairs.values()), pairs


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_same_bits_every_time(name: str) -> None:
    case = trained(name, deterministic=True)
    first = case.gradients()
    for _ in range(RUNS):
        assert all(map(torch.equal, case.gradients(), first))


@pytest.mark.parametrize("head", [64, 128, 256])
@pytest.mark.parametrize("name", FLASH)
def test_gradients_are_as_near_float64_as_flash_attentions(name: str, head: int) -> None:
    kernel = napkin.compile(EXAMPLES[0].with_stem(name))
    off = {length: beside_flash(kernel, head, length) for length in (512, 777, 2048)}
    assert all(own <= 1.2 * other for pairs in off.values() for own, other in pairs), off


def beside_flash(kernel: Kernel, head: int, length: int) -> list[tuple[float, float]]:
    """Return how far from float64 every gradient is, and how far that of PyTorch's flash attention."""
    attend = FLASH[kernel.name]
    generator = torch.Generator("cuda").manual_seed(5)
    heads = (8, 2) if kernel.name == "gqa" else (2, 2)
    shapes = [(2, each, length, head) for each in (heads[0], heads[1], heads[1], heads[0])]
    drawn = [torch.randn(each, generator=generator, device="cuda") for each in shapes]
    *values, seed = (each.bfloat16() for each in drawn)
    leaves = [each.requires_grad_() for each in values]
    ours = torch.autograd.grad(kernel(*leaves), leaves, seed)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        flash = attend(*leaves)
    theirs = torch.autograd.grad(flash, leaves, seed)
    wide = [each.detach().double().requires_grad_() for each in leaves]
    with sdpa_kernel(SDPBackend.MATH):
        truth = attend(*wide)
    exact = torch.autograd.grad(truth, wide, seed.double())
    return [(distance(a, c), distance(b, c)) for a, b, c in zip(ours, theirs, exact, strict=True)]
