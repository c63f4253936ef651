"""Diagrams as one would write them in PyTorch, for `torch.compile` to fuse.

In: tensors laid out as the diagrams of `known.napkin` say. Out: `FUNCTIONS`, the plain functions, and
`compiled_kernels`, which hands them to `torch.compile` with everything that it tunes.

Deliberately absent: tricks. Each is what the operators' own documentation would write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as functional

Tensor = torch.Tensor


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    return left @ right


def _chain(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    return (first @ second) @ third


def _mlp(rows: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
    return functional.gelu(rows @ up + bias.to(rows.dtype)) @ down


def _gated_mlp(rows: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (functional.silu(rows @ gate) * (rows @ up)) @ down


def _rms_linear(rows: Tensor, gain: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(rows, rows.shape[-1:], gain.to(rows.dtype), 1e-6) @ weight


def _layer_norm(rows: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    gain, offset = gain.to(rows.dtype), offset.to(rows.dtype)
    return functional.layer_norm(rows, rows.shape[-1:], gain, offset, 1e-5)


def _layer_linear(rows: Tensor, gain: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return _layer_norm(rows, gain, offset) @ weight


def _linear_loss(rows: Tensor, weight: Tensor, label: Tensor) -> Tensor:
    # Not `cross_entropy`: the diagram gives a label that names no column the score 0, PyTorch traps.
    scores = (rows @ weight).float()
    inside = (label >= 0) & (label < scores.shape[1])
    picked = scores.gather(1, label.clamp(0, scores.shape[1] - 1)[:, None])[:, 0]
    return torch.logsumexp(scores, 1) - torch.where(inside, picked, 0.0)


def _row_softmax(rows: Tensor) -> Tensor:
    return torch.softmax(rows, -1)


FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "matmul": _matmul,
    "chain": _chain,
    "mlp": _mlp,
    "gated_mlp": _gated_mlp,
    "rms_linear": _rms_linear,
    "layer_norm": _layer_norm,
    "layer_linear": _layer_linear,
    "linear_loss": _linear_loss,
    "row_softmax": _row_softmax,
}


@cache
def _compiled(name: str) -> Callable[..., Tensor]:
    return torch.compile(FUNCTIONS[name], mode="max-autotune-no-cudagraphs", dynamic=False)


def _prepare(name: str, given: Sequence[Any]) -> Callable[[], Tensor]:
    run = _compiled(name)
    return lambda: run(*given)


def compiled_kernels() -> dict[str, Callable[[Sequence[Any]], Callable[[], Tensor]]]:
    """Return what sets each function up on given tensors, by the diagram's name."""
    return {name: partial(_prepare, name) for name in FUNCTIONS}
