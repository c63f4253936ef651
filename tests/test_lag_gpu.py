"""Kernels whose references lag, on a GPU: whichever way scores grow, they keep the bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import napkin

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["attention", "causal"])
@pytest.mark.parametrize("trend", [-60.0, 0.0, 60.0])
def test_scores_that_grow_and_shrink_keep_the_bound_on_a_gpu(
    name: str, dtype: str, trend: float
) -> None:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (2, 4, 1111, 256)
    q, k, v = (torch.randn(shape, generator=generator, device="cuda") for _ in range(3))
    along = torch.randn(256, generator=generator, device="cuda")
    along = along / along.norm()
    place = torch.linspace(0, 1, 1111, device="cuda")[:, None]
    q = q + 4 * torch.rand(2, 4, 1111, 1, generator=generator, device="cuda") * along
    k = k + trend * place * along
    values = [each.to(kind) for each in (q, k, v)]
    found = napkin.compile(ROOT / "examples" / f"{name}.napkin")(*values)
    q, k, v = (each.double() for each in values)
    scores = q @ k.mT / 16
    seen = torch.ones_like(scores[0, 0], dtype=torch.bool)
    seen = seen.tril() if name == "causal" else seen
    exact = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
    unit = {"bf16": 2.0**-8, "fp16": 2.0**-11}[dtype]
    assert (found - exact).norm() <= (2 * unit + 2.0**-16) * exact.norm()
