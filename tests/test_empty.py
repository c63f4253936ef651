"""Streams of length 0: no key to see. Results and gradients are defined, and zero."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import napkin
from napkin.runtime.data import axis_lengths, random_arguments

EXAMPLES = Path(__file__).parent.parent / "examples"
# Every example that streams keys of their own, which need not be there.
STREAMS = (
    *("alibi", "attention", "attention_lse", "causal", "decode", "differential", "document"),
    *("fading", "gemma", "gqa", "llama", "mla", "packed", "relative_bias", "sigmoid", "sinks"),
    *("softcap", "spherical", "window"),
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", STREAMS)
def test_no_keys_give_zeros(name: str, device: str) -> None:
    front = napkin.load(EXAMPLES / f"{name}.napkin")
    few = {axis: min(size, 8) for axis, size in front.core.sizes}
    sizes = axis_lengths(front.core, few | {"x": 0})
    values = random_arguments(front.core, sizes, device=device, seed=0)
    leaves = [
        each.requires_grad_()
        for each in values.values()
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    ]
    kernel = front.compile()
    for _ in range(2):  # the second call is not one that was recorded
        found = kernel(*values.values())
        output, *rest = found if isinstance(found, tuple) else (found,)
        assert output.numel()
        assert not output.any()
        assert all(bool((each == -torch.inf).all()) for each in rest)  # a sum of no exponentials
        given = torch.autograd.grad(output, leaves, torch.ones_like(output))
        assert [each.shape for each in given] == [each.shape for each in leaves]
        assert not any(bool(each.any()) for each in given)
