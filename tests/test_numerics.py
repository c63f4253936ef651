"""The numerics contract, docs/numerics.md: each of its statements is a test."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import napkin
from tests.numerics import EXAMPLES, STATEMENTS, Kernels, Run

ROOT = Path(__file__).parent.parent
NAMES = [each.__name__ for each in STATEMENTS]


@cache
def interpreted() -> dict[str, bool]:
    """Return what holds of kernels in Triton's interpreter."""
    command = [sys.executable, "-m", "tests.numerics"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {line["statement"]: line["holds"] for line in lines}


def called_on(device: str) -> Kernels:
    """Return an example by name as a function of CPU tensors that runs on a device."""

    def kernel(name: str) -> Run:
        compiled = napkin.compile(EXAMPLES / f"{name}.napkin")

        def call(*values: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = compiled(*(each.to(device) for each in values))
            return found.cpu()

        return call

    return kernel


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_of_kernels_in_the_interpreter(name: str) -> None:
    assert interpreted()[name]


@pytest.mark.parametrize("statement", STATEMENTS, ids=NAMES)
def test_it_holds_of_cpu_tensors(statement) -> None:  # type: ignore[no-untyped-def]
    assert statement(called_on("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("statement", STATEMENTS, ids=NAMES)
def test_it_holds_of_kernels_on_a_gpu(statement) -> None:  # type: ignore[no-untyped-def]
    assert statement(called_on("cuda"))


def test_every_statement_stands_in_the_page() -> None:
    page = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in page] == []


# --- gradients at the edges -----------------------------------------------------------------------


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def leaves(device: str) -> list[torch.Tensor]:
    """Return Q, K and V that gradients are taken by, in bf16."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, 2, 200, 64, generator=generator).bfloat16() for _ in range(3)]
    return [each.to(device).requires_grad_() for each in drawn]


@pytest.mark.parametrize("device", DEVICES)
def test_a_masked_row_has_gradients_of_zero(device: str) -> None:
    document = napkin.compile(EXAMPLES / "document.napkin")
    values = leaves(device)
    here = torch.zeros(1, 200, dtype=torch.int32, device=device)
    there = here.clone()
    there[0, 2] = 7
    found = document(*values, there, here)
    given = torch.autograd.grad(found.float().square().sum(), values)
    assert bool((given[0][:, :, 2] == 0).all())
    assert bool((given[0][:, :, 3] != 0).any())
    assert all(bool(each.isfinite().all()) for each in given)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_above_a_query_stays_out_of_the_gradients_of_others(device: str) -> None:
    causal = napkin.compile(EXAMPLES / "causal.napkin", deterministic=True)
    values = leaves(device)
    above = torch.ones_like(values[0])
    clean = torch.autograd.grad(causal(*values), values, above)
    above[0, 1, 150] = float("nan")
    queries, keys, _ = torch.autograd.grad(causal(*values), values, above)
    assert bool(queries[0, 1, 150].isnan().all())
    assert bool(keys[0, 1, :151].isnan().all())
    queries[0, 1, 150] = clean[0][0, 1, 150]
    assert torch.equal(queries, clean[0])
    assert torch.equal(keys[0, 0], clean[1][0, 0])


# --- long sequences -------------------------------------------------------------------------------


# In fp16 the probabilities of so many keys fall below 2^-14, where it has fewer digits.
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "allowed"), [("bf16", 2 * 2.0**-8), ("fp16", 4e-3)])
def test_long_sequences_keep_the_bound(dtype: str, allowed: float) -> None:
    from napkin.runtime.gpus import machine_at_hand
    from napkin.runtime.verify import verify

    front = napkin.load(EXAMPLES / "attention.napkin")
    sizes = {"b": 1, "h": 1, "q": 128, "x": 262_144}
    found = verify(front.plan(machine_at_hand().name, sizes=sizes, dtype=dtype), sizes=sizes)
    (check,) = found.checks
    assert check.error <= allowed, str(found)
