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


def test_a_masked_row_has_gradients_of_zero() -> None:
    document = napkin.compile(EXAMPLES / "document.napkin")
    q, k, v = (torch.randn(1, 1, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    here = torch.zeros(1, 4, dtype=torch.int32)
    there = torch.tensor([[0, 0, 7, 0]], dtype=torch.int32)
    found = document(q, k, v, there, here)
    given = torch.autograd.grad(found.sum(), (q, k, v))
    assert bool((given[0][0, 0, 2] == 0).all())
    assert all(bool(each.isfinite().all()) for each in given)


# --- long sequences -------------------------------------------------------------------------------


# In fp16 the probabilities of so many keys fall below 2^-14, where it has fewer digits.
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "allowed"), [("bf16", 0.0), ("fp16", 4e-3)])
def test_long_sequences_keep_the_bound(dtype: str, allowed: float) -> None:
    from napkin.runtime.gpus import machine_at_hand
    from napkin.runtime.verify import verify

    front = napkin.load(EXAMPLES / "attention.napkin")
    sizes = {"b": 1, "h": 1, "q": 128, "x": 262_144}
    found = verify(front.plan(machine_at_hand().name, sizes=sizes, dtype=dtype), sizes=sizes)
    (check,) = found.checks
    assert check.error <= max(allowed, check.bound), str(found)
