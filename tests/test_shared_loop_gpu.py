"""Loops with operands in shared memory on a GPU: every example that has one, against float64.

They are made for the A100; their instructions are those of newer GPUs as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from napkin.api import load
from napkin.schedule.planning.plan import Plan

EXAMPLES = Path(__file__).parent.parent / "examples"
SHARED = (
    *("alibi", "attention", "attention_block", "attention_lse", "causal", "document", "fading"),
    *("gqa", "llama", "packed", "sigmoid", "sinks", "softcap", "window"),
)
HEADS = [(16, 16), (32, 64), (64, 32), (72, 72), (80, 80), (96, 96), (192, 128), (256, 256)]
WHOLE = ("attention", "causal", "document", "gqa", "window")

pytestmark = pytest.mark.gpu


def plan_of(name: str, sizes: Mapping[str, int] | None = None, dtype: str = "bf16") -> Plan:
    """Return an example's plan for the A100, which must have such a loop."""
    plan = load(EXAMPLES / f"{name}.napkin").plan("ampere", sizes=sizes, dtype=dtype)
    assert any(each.loop is not None for each in plan.kernels), str(plan)
    return plan


@pytest.mark.parametrize("name", WHOLE)
def test_a_shared_loop_is_right_at_its_own_sizes(name: str) -> None:
    from napkin.runtime.verify import verify

    found = verify(plan_of(name))
    assert found.passed, str(found)
    assert found.form == "the loop with operands in shared memory"


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "bf16") for name in SHARED), ("causal", "fp16"), ("alibi", "fp16")]
)
def test_a_shared_loop_is_right_at_lengths_that_no_tile_divides(name: str, dtype: str) -> None:
    from napkin.runtime.verify import _few_tiles, verify

    plan = plan_of(name, dtype=dtype)
    found = verify(plan, sizes=_few_tiles(plan, {})[0])
    assert found.passed, str(found)


@pytest.mark.parametrize(("key", "value"), HEADS)
def test_a_shared_loop_is_right_with_heads_of_every_width(key: int, value: int) -> None:
    from napkin.runtime.verify import verify

    # The tiles are those of long streams; the lengths that are run leave rows and chunks cut.
    wide = {"b": 2, "h": 3, "q": 4096, "x": 4096, "d": key, "v": value}
    found = verify(plan_of("causal", wide), sizes=wide | {"q": 333, "x": 397})
    assert found.passed, str(found)


@pytest.mark.parametrize("change", ["heads inside", "a row apart", "one element in"])
def test_a_shared_loop_takes_tensors_however_they_lie(change: str) -> None:
    import torch

    from napkin.runtime.kernels import kernel_source, load_kernel

    plan = plan_of("causal")
    entry = load_kernel(kernel_source(plan), plan.diagram)
    torch.manual_seed(0)
    whole = [torch.randn(2, 16, 300, 128, device="cuda").bfloat16() for _ in range(3)]
    if change == "heads inside":
        given = [each.transpose(1, 2).contiguous().transpose(1, 2) for each in whole]
    elif change == "a row apart":
        given = [torch.cat([each, each], dim=3)[..., :128] for each in whole]
    else:
        padded = [torch.nn.functional.pad(each, (1, 0)) for each in whole]
        given = [each[..., 1:] for each in padded]
    assert torch.equal(entry(*given), entry(*whole))


def test_a_shared_loop_is_called_again_without_its_entry() -> None:
    import torch

    kernel = load(EXAMPLES / "causal.napkin").compile("ampere")
    torch.manual_seed(0)
    for length in (512, 333, 512):
        given = [torch.randn(1, 4, length, 128, device="cuda").bfloat16() for _ in range(3)]
        first = kernel(*given)
        others = [each.clone() for each in given]
        assert torch.equal(kernel(*others), first)
        q, k, v = given
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        assert float((first.double() - wanted.double()).norm() / wanted.double().norm()) < 2e-2
