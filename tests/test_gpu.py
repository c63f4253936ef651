"""Kernels on a GPU: every example in both 16-bit types against float64, at its own sizes.

A reference of the whole size may not fit; `verify` then shortens the batch. Long axes stay long enough for
several tiles, and odd lengths are tried as well.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from napkin.api import load, parse
from tests.test_specialise import FORMED

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_kernel_is_right_at_its_own_sizes(path: Path, dtype: str) -> None:
    from napkin.runtime.gpus import machine_at_hand
    from napkin.runtime.verify import verify

    plan = load(path).plan(machine_at_hand().name, dtype=dtype)
    found = verify(plan)
    assert found.passed, str(found)
    has_form = any(each.form is not None for each in plan.kernels)
    assert found.form == ("the warp-specialised form" if has_form else "")


@pytest.mark.parametrize("name", FORMED)
def test_plain_loop_of_a_warp_specialised_kernel_is_right(name: str) -> None:
    from napkin.runtime.gpus import machine_at_hand
    from napkin.runtime.verify import _few_tiles, verify

    plan = load(EXAMPLES[0].with_stem(name)).plan(machine_at_hand().name)
    found = verify(plan.plain, sizes=_few_tiles(plan, {})[0])
    assert found.passed, str(found)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_kernel_is_right_at_lengths_that_no_tile_divides(path: Path) -> None:
    from napkin.runtime.gpus import machine_at_hand
    from napkin.runtime.verify import _few_tiles, verify

    plan = load(path).plan(machine_at_hand().name)
    found = verify(plan, sizes=_few_tiles(plan, {})[0])
    assert found.passed, str(found)


@pytest.mark.parametrize("name", ["attention", "causal", "window"])
@pytest.mark.parametrize(
    ("key", "value"), [(16, 16), (32, 32), (32, 64), (64, 32), (80, 80), (96, 96), (192, 128)]
)
def test_head_sizes_of_every_width_are_right(name: str, key: int, value: int) -> None:
    from napkin.runtime.gpus import machine_at_hand
    from napkin.runtime.verify import verify

    sizes = {"b": 2, "h": 3, "q": 333, "x": 333, "d": key, "v": value}
    plan = load(EXAMPLES[0].with_stem(name)).plan(machine_at_hand().name, sizes=sizes)
    found = verify(plan, sizes=sizes)
    assert found.passed, str(found)


@pytest.mark.parametrize("name", ["attention", "causal"])
@pytest.mark.parametrize(
    ("key", "value"), [(16, 16), (32, 64), (64, 32), (80, 80), (96, 96), (192, 128)]
)
def test_head_sizes_of_every_width_are_right_warp_specialised(
    name: str, key: int, value: int
) -> None:
    from napkin.runtime.gpus import machine_at_hand
    from napkin.runtime.verify import verify
    from napkin.schedule.forms.form import find_form

    # So short, plain loops are predicted to be as fast: the form is put in by hand.
    sizes = {"b": 2, "h": 3, "q": 333, "x": 333, "d": key, "v": value}
    plan = load(EXAMPLES[0].with_stem(name)).plan(machine_at_hand().name, sizes=sizes)
    (kernel,) = plan.kernels
    form = find_form(kernel)
    assert not isinstance(form, str), form
    plan = replace(plan, kernels=(replace(kernel, form=form),))
    found = verify(plan, sizes=sizes)
    assert found.form == "the warp-specialised form"
    assert found.passed, str(found)


def test_tensors_that_lie_otherwise_or_are_empty_give_the_same() -> None:
    import torch

    kernel = load(EXAMPLES[0].with_stem("attention")).compile()
    for size in (128, 64):
        q, k, v = (
            torch.randn(2, rows, 3, size, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
            for rows in (333, 200, 200)
        )
        found = kernel(q, k, v)
        assert torch.equal(found, kernel(q.contiguous(), k.contiguous(), v.contiguous()))
        wanted = torch.nn.functional.scaled_dot_product_attention(
            q.double(), k.double(), v.double()
        )
        assert float((found.double() - wanted).norm() / wanted.norm()) < 1e-2
        odd = [each[..., 1:, :][..., : size - 8] for each in (q, k, v)]
        assert torch.equal(kernel(*odd), kernel(*(each.contiguous() for each in odd)))
        assert kernel(q[:0], k[:0], v[:0]).shape == (0, 3, 333, size)


def test_a_plan_for_ampere_runs_on_a_newer_gpu() -> None:
    from napkin.runtime.verify import verify

    for name in ("attention", "causal", "gqa", "mlp"):
        found = verify(load(EXAMPLES[0].with_stem(name)).plan("ampere"))
        assert found.passed, str(found)


@pytest.mark.parametrize("product", ["max2(X, 0.0) * W", "X * g * W"])
def test_an_operand_made_in_registers_is_not_overwritten_too_early(product: str) -> None:
    import torch

    text = f"diagram f(X[t d], g[d], W[d n]) -> Y[t n]\n    Y[t n] = sum[d]({product})\n"
    kernel = parse(text + "\nsizes t=4096 d=4096 n=4096\n").compile()
    x, w = (torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    g = torch.randn(4096, device="cuda")
    first = kernel(x, g, w)
    assert all(torch.equal(first, kernel(x, g, w)) for _ in range(5))
    left = x.double().clamp(min=0) if "max2" in product else x.double() * g.double()
    wanted = left @ w.double()
    assert float((first.double() - wanted).norm() / wanted.norm()) < 1e-2
