"""Calls that lead to gradients, made again by recorded launches, of which stand-ins run on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import napkin
from napkin.runtime import operator as operators
from napkin.runtime import operator_kernels
from napkin.runtime.arguments import bind
from napkin.runtime.compiled import Kernel
from napkin.runtime.operator import Operator

EXAMPLES = Path(__file__).parent.parent / "examples"
SHAPE = (1, 2, 5, 4)


class Launched:
    """What stands for an operator's launches at every layout: the reference, and how often it ran."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.runs = 0

    def get(self, layout: object) -> Launched | None:
        return self if layout is not None else None

    def run(self, arguments: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        self.runs += 1
        return operators._reference(bind(self.operator.diagram, arguments))


@pytest.fixture(autouse=True)
def _no_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (operators, operator_kernels):
        monkeypatch.setattr(module, "quiet", lambda: True)


def recorded(
    name: str, wanted: Sequence[str], *, wide: bool = False
) -> tuple[Kernel, Launched, Launched]:
    """Return an example's kernel, and what stands for the launches of its forward and its backward."""
    kernel = napkin.compile(EXAMPLES / f"{name}.napkin")
    kernel.operator._recorded.clear()
    rule = kernel.operator.rule(tuple(wanted), wide=wide)
    dtype = torch.float64 if wide else torch.float32
    backward = rule.backward_for((dtype,) * len(wanted))
    found = [Launched(rule.forward), Launched(backward)]
    for each in found:
        each.operator.kernels.launches = each  # type: ignore[assignment]
    return kernel, found[0], found[1]


@pytest.fixture(autouse=True)
def _no_launches_after() -> Iterator[None]:
    yield
    for each in operators._OPERATORS.values():
        each.kernels.launches = {}
        each._recorded.clear()


def leaves(count: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(SHAPE, generator=generator, dtype=dtype).requires_grad_() for _ in range(count)
    ]


def plainly(kernel: Kernel, values: Sequence[Any], seeds: Sequence[torch.Tensor | None]) -> Any:
    """Return the gradients by the way that records nothing."""
    given = [each for each in values if isinstance(each, torch.Tensor) and each.requires_grad]
    with _Listening():
        found = kernel(*values)
    outputs = found if isinstance(found, tuple) else (found,)
    pairs = [(o, s) for o, s in zip(outputs, seeds, strict=True) if s is not None]
    with _Listening():
        return torch.autograd.grad([o for o, _ in pairs], given, [s for _, s in pairs])


class _Listening(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that is to see every call."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[object] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_calls_after_the_first_are_the_records() -> None:
    kernel, forward, backward = recorded("causal", ["Q", "K", "V"])
    for seed in range(3):
        values = leaves(seed=seed)
        above = torch.randn(SHAPE)
        found = torch.autograd.grad(kernel(*values), values, above)
        assert len(kernel.operator._recorded) == 1
        assert (forward.runs, backward.runs) == (seed + 1, seed + 1)
        wanted = plainly(kernel, values, [above])
        assert all(map(torch.equal, found, wanted))
        forward.runs, backward.runs = seed + 1, seed + 1  # the plain way ran them as well


def test_every_choice_of_gradients_has_a_record_of_its_own() -> None:
    for wanted in (["K"], ["Q", "V"], ["Q", "K", "V"]):
        kernel, _, backward = recorded("attention", wanted)
        values = leaves()
        for each, name in zip(values, "QKV", strict=True):
            each.requires_grad_(name in wanted)
        asking = [each for each in values if each.requires_grad]
        above = torch.randn(SHAPE)
        for runs in (1, 2):
            found = torch.autograd.grad(kernel(*values), asking, above)
            assert backward.runs == runs
        assert all(map(torch.equal, found, plainly(kernel, values, [above])))


def test_numbers_and_arrays_without_a_gradient_keep_their_places() -> None:
    kernel, _, backward = recorded("softcap", ["Q", "K", "V"])
    values = leaves()
    above = torch.randn(SHAPE)
    for cap in (20.0, 0.5, 20.0, 0.5):
        found = torch.autograd.grad(kernel(*values, cap), values, above)
        assert all(map(torch.equal, found, plainly(kernel, [*values, cap], [above])))
    assert len(kernel.operator._recorded) == 2
    assert backward.runs >= 4


def test_an_output_whose_gradient_is_missing_takes_the_rules_way() -> None:
    kernel, _, backward = recorded("attention_lse", ["Q", "K", "V"])
    values = leaves()
    out, lse = torch.randn(SHAPE), torch.randn(SHAPE[:3])
    for _ in range(2):
        for seeds in ((out, lse), (out, None), (None, lse)):
            found = kernel(*values)
            pairs = [(o, s) for o, s in zip(found, seeds, strict=True) if s is not None]
            got = torch.autograd.grad([o for o, _ in pairs], values, [s for _, s in pairs])
            assert all(map(torch.equal, got, plainly(kernel, values, seeds)))
    assert len(kernel.operator._recorded) == 1
    assert backward.runs > 0


def test_gradients_of_gradients_and_checkpoints_go_on_from_a_record() -> None:
    kernel, _, _ = recorded("attention", ["Q", "K", "V"], wide=True)
    values = leaves(dtype=torch.float64)
    kernel(*values)
    assert kernel.operator._recorded
    assert torch.autograd.gradgradcheck(kernel, values)
    again = checkpoint(kernel, *values, use_reentrant=False)
    above = torch.randn(SHAPE, dtype=torch.float64)
    found = torch.autograd.grad(again, values, above)
    for one, other in zip(found, plainly(kernel, values, [above]), strict=True):
        torch.testing.assert_close(one, other)


def test_a_backward_under_a_mode_is_seen_by_it() -> None:
    kernel, _, backward = recorded("attention", ["Q", "K", "V"])
    values = leaves()
    above = torch.randn(SHAPE)
    wanted = torch.autograd.grad(kernel(*values), values, above)
    out = kernel(*values)
    with _Listening() as mode, torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(out, values, above)
    assert backward.operator.overload in mode.seen
    assert all(map(torch.equal, found, wanted))


def test_saved_tensors_that_were_changed_are_told() -> None:
    kernel, _, _ = recorded("attention", ["Q", "K", "V"])
    values = leaves()
    kernel(*values)
    out = kernel(*values)
    with torch.no_grad():
        values[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
