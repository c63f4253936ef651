"""How others are called: PyTorch's SDPA, FlexAttention and compiler, FlashAttention 3 and 4, plain torch.

In: tensors laid out as the diagrams of `known.napkin` say. Out: a call without arguments that runs the
library's kernel and returns its result in the diagram's layout; everything that is not the kernel (views,
block masks, compilation) is done before. Imports of libraries that may be absent stand in functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch

from napkin.runtime.peers.compiled import compiled_kernels

Call = Callable[[], torch.Tensor]
Prepare = Callable[[Sequence[Any]], Call]


@dataclass(frozen=True, slots=True)
class Library:
    """A library: how it is loaded (raising if it is not there), installed, and called by diagram."""

    load: Callable[[], object]
    install: str
    kernels: Mapping[str, Prepare]


# --- PyTorch: SDPA and plain operators ------------------------------------------------------------


def _sdpa(backend: str, given: Sequence[Any], *, causal: bool, grouped: bool = False) -> Call:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    query, key, value = given
    choice = getattr(SDPBackend, backend)

    def call() -> torch.Tensor:
        with sdpa_kernel(choice):
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=causal, enable_gqa=grouped
            )

    return call


def _sdpa_kernels(backend: str) -> dict[str, Prepare]:
    return {
        "full": partial(_sdpa, backend, causal=False),
        "causal": partial(_sdpa, backend, causal=True),
        "grouped": partial(_sdpa, backend, causal=True, grouped=True),
    }


def _matmul(given: Sequence[Any]) -> Call:
    left, right = given
    return lambda: left @ right


def _row_softmax(given: Sequence[Any]) -> Call:
    return lambda: torch.softmax(given[0], -1)


# --- FlexAttention --------------------------------------------------------------------------------

Score = Callable[..., torch.Tensor]


@cache
def _flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(
    given: Sequence[Any],
    score: Score | None = None,
    mask: Score | None = None,
    *,
    by_batch: bool = False,
) -> Call:
    """Call FlexAttention; a mask that is read from data differs by batch."""
    from torch.nn.attention.flex_attention import create_block_mask

    query, key, value = given[:3]
    lengths = (query.shape[2], key.shape[2])
    batch = query.shape[0] if by_batch else None
    blocks = mask and create_block_mask(mask, batch, None, *lengths, device=query.device)
    grouped = query.shape[1] != key.shape[1]
    run = _flex_attention()
    return lambda: run(query, key, value, score_mod=score, block_mask=blocks, enable_gqa=grouped)


def _causal(batch: Any, head: Any, q: Any, x: Any) -> Any:
    return x <= q


def _flex_causal(given: Sequence[Any]) -> Call:
    return _flex(given, mask=_causal)


def _flex_alibi(given: Sequence[Any]) -> Call:
    slope = given[3]
    return _flex(given, lambda s, b, h, q, x: s - slope[h] * (q - x), _causal)


def _flex_capped(given: Sequence[Any]) -> Call:
    cap = given[3]
    return _flex(given, lambda s, b, h, q, x: cap * torch.tanh(s / cap), _causal)


def _flex_biased(given: Sequence[Any]) -> Call:
    bias = given[3]
    last = bias.shape[1] - 1
    middle = bias.shape[1] // 2

    def score(s: Any, b: Any, h: Any, q: Any, x: Any) -> Any:
        return s + bias[h, (q - x + middle).clamp(0, last)]

    return _flex(given, score)


def _flex_sinks(given: Sequence[Any]) -> Call:
    """A sink scales a row by what the sum of exponentials has without it."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value, sink = given
    blocks = create_block_mask(
        _causal, None, None, query.shape[2], key.shape[2], device=query.device
    )

    def attend(query: Any, key: Any, value: Any, sink: Any) -> Any:
        found, lse = flex_attention(query, key, value, block_mask=blocks, return_lse=True)
        return found * torch.sigmoid(lse - sink[:, None])[..., None].to(found.dtype)

    run = torch.compile(attend, dynamic=False)
    return lambda: run(query, key, value, sink)


def _flex_differential(given: Sequence[Any]) -> Call:
    from torch.nn.attention.flex_attention import flex_attention

    scale = given[5]

    def attend(q1: Any, k1: Any, q2: Any, k2: Any, value: Any) -> Any:
        return flex_attention(q1, k1, value) - scale * flex_attention(q2, k2, value)

    run = torch.compile(attend, dynamic=False)
    return lambda: run(*given[:5])


def _flex_window(given: Sequence[Any]) -> Call:
    width = given[3]
    return _flex(given, mask=lambda b, h, q, x: (x <= q) & (q - x < width))


def _flex_document(given: Sequence[Any]) -> Call:
    rows, columns = given[3:]

    def mask(b: Any, h: Any, q: Any, x: Any) -> Any:
        return (x <= q) & (rows[b, q] == columns[b, x])

    return _flex(given, mask=mask, by_batch=True)


def _flex_packed(given: Sequence[Any]) -> Call:
    start = given[3]

    def mask(b: Any, h: Any, q: Any, x: Any) -> Any:
        return (x <= q) & (start[b, q] <= x)

    return _flex(given, mask=mask, by_batch=True)


# --- FlashAttention 3 and 4 -----------------------------------------------------------------------

_FA3_MODULES = ("flash_attn_interface", "fa3_fwd_interface", "flash_attn_3.flash_attn_interface")


@cache
def _fa3() -> Any:
    for name in _FA3_MODULES:
        try:
            return import_module(name).flash_attn_func
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"none of the modules {', '.join(_FA3_MODULES)} is installed")


@cache
def _fa4() -> Any:
    return import_module("flash_attn.cute.interface").flash_attn_func


def _flash(load: Callable[[], Any], given: Sequence[Any], **options: Any) -> Call:
    """Call a FlashAttention, whose heads lie inside the sequence."""
    run = load()
    query, key, value = (each.transpose(1, 2) for each in given[:3])

    def call() -> torch.Tensor:
        result = run(query, key, value, **options)
        output: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return output.transpose(1, 2)

    return call


def _flash_window(load: Callable[[], Any], given: Sequence[Any]) -> Call:
    return _flash(load, given, causal=True, window_size=(given[3] - 1, 0))


def _flash_capped(load: Callable[[], Any], given: Sequence[Any]) -> Call:
    return _flash(load, given, causal=True, softcap=given[3])


def _flash_kernels(load: Callable[[], Any]) -> dict[str, Prepare]:
    return {
        "full": partial(_flash, load, causal=False),
        "causal": partial(_flash, load, causal=True),
        "grouped": partial(_flash, load, causal=True),
        "window": partial(_flash_window, load),
        "capped": partial(_flash_capped, load),
    }


LIBRARIES: dict[str, Library] = {
    "fa2": Library(
        lambda: None, "it comes with PyTorch for NVIDIA GPUs", _sdpa_kernels("FLASH_ATTENTION")
    ),
    "cudnn": Library(
        lambda: None, "it comes with PyTorch for NVIDIA GPUs", _sdpa_kernels("CUDNN_ATTENTION")
    ),
    "torch": Library(
        lambda: None,
        "it comes with PyTorch",
        {"matmul": _matmul, "row_softmax": _row_softmax},
    ),
    "compile": Library(lambda: None, "it comes with PyTorch", compiled_kernels()),
    "flex": Library(
        _flex_attention,
        "it comes with PyTorch 2.5 and later",
        {
            "full": _flex,
            "causal": _flex_causal,
            "grouped": _flex_causal,
            "alibi": _flex_alibi,
            "capped": _flex_capped,
            "window": _flex_window,
            "document": _flex_document,
            "packed": _flex_packed,
            "biased": _flex_biased,
            "sinks": _flex_sinks,
            "differential": _flex_differential,
        },
    ),
    "fa3": Library(_fa3, "pip install fa3-fwd, on a Hopper GPU", _flash_kernels(_fa3)),
    "fa4": Library(_fa4, "pip install flash-attn-4, on a Hopper GPU", _flash_kernels(_fa4)),
}
