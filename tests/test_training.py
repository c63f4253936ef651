"""A small transformer trained with napkin's attention, beside the same model with PyTorch's."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from statistics import mean
from types import ModuleType

import pytest
import torch

from tests.programs import ROOT


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """Return the example's script as a module."""
    spec = spec_from_file_location("train", ROOT / "examples" / "training" / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def losses(training: ModuleType, name: str, shape: object, steps: int, device: str) -> list[float]:
    return [loss for _, loss in training.train(name, shape, steps, device)]


def test_the_losses_are_those_of_pytorch(training: ModuleType) -> None:
    ours, theirs = (
        losses(training, name, training.SMALL, 20, "cpu") for name in ("causal", "sdpa")
    )
    assert ours[-1] < ours[0] - 0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


def test_what_a_variant_takes_beside_is_learned(training: ModuleType) -> None:
    torch.manual_seed(0)
    layer = training.Attention(training.SMALL, "fading")
    assert len(layer.learned) == 2
    layer(torch.randn(2, 32, training.SMALL.width)).square().mean().backward()
    for each in layer.learned:
        assert each.grad is not None
        assert torch.isfinite(each.grad).all()
        assert (each.grad != 0).all()
    found = losses(training, "fading", training.SMALL, 20, "cpu")
    assert found[-1] < found[0] - 0.5


@pytest.mark.gpu
def test_two_hundred_steps_on_a_gpu_agree(training: ModuleType) -> None:
    shape = training.Shape()
    ours, theirs, again, other = (
        losses(training, name, shape, 200, "cuda") for name in ("causal", "sdpa", "sdpa", "fading")
    )
    assert ours[-1] < ours[0] - 2
    # What rounding alone makes of the same model: PyTorch's own two runs differ as well.
    noise = max(abs(a - b) for a, b in zip(theirs, again, strict=True))
    tail = abs(mean(ours[-50:]) - mean(theirs[-50:]))
    assert tail <= max(0.03, 2 * noise)
    assert mean(other[-50:]) < mean(theirs[-50:]) + 0.3
