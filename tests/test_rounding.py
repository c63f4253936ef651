"""What rounding makes of given data, and the bound that follows: large scores and sums that cancel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napkin.api import Diagram, load, parse
from napkin.runtime.compare import OutputCheck, compare
from napkin.runtime.data import Value, random_arguments
from napkin.runtime.reference import torch_reference
from napkin.runtime.rounding import RoundingArithmetic, bounded_by_data, rounded_reference
from napkin.runtime.verify import bound
from napkin.schedule.planning.plan import Plan

EXAMPLES = Path(__file__).parent.parent / "examples"
UNIT = torch.bfloat16
NORMED = """
diagram normed(Q[q d], K[x d], V[x v], gain[d]) -> O[q v]
    N[q d] = rmsnorm[d](Q) * gain
    M[x d] = rmsnorm[d](K) * gain
    S[q x] = sum[d](N * M) / sqrt(size(d))
    O[q v] = sum[x](softmax[x](S) * V)

sizes q=96 x=160 d=64 v=32
"""


def rounding(unit: torch.dtype = UNIT, seed: int = 0) -> RoundingArithmetic:
    return RoundingArithmetic(unit, torch.device("cpu"), seed)


@pytest.mark.parametrize("unit", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_number_goes_to_one_of_its_neighbours_and_to_the_nearer_one_more_often(
    unit: torch.dtype,
) -> None:
    step = torch.finfo(unit).eps
    values = torch.full((20000,), 1.0 + step / 4, dtype=torch.float64)
    found = rounding(unit).rounded(values)
    assert set(found.tolist()) == {1.0, 1.0 + step}
    assert float((found > 1).double().mean()) == pytest.approx(0.25, abs=0.02)


def test_what_the_type_holds_stays() -> None:
    values = torch.tensor([0.0, 1.0, -2.0, 2.0**-130, float("inf"), float("nan")]).double()
    assert torch.equal(rounding().rounded(values).nan_to_num(7.0), values.nan_to_num(7.0))


def test_contractions_of_matrices_are_rounded_and_other_sums_are_not() -> None:
    one, other = (torch.rand(8, 8, dtype=torch.float64) for _ in range(2))
    exact = torch.einsum("ab,cb->ac", one, other)
    assert not torch.equal(rounding().contract([(one, "ab"), (other, "cb")], "ac"), exact)
    rows = torch.einsum("ab,ab->a", one, other)
    assert torch.equal(rounding().contract([(one, "ab"), (other, "ab")], "a"), rows)
    row = torch.rand(8, dtype=torch.float64)
    scaled = torch.einsum("ab,cb,b->ac", one, other, row)
    found = rounding().contract([(one, "ab"), (other, "cb"), (row, "b")], "ac")
    assert 0 < float((found - scaled).norm() / scaled.norm()) < 2.0**-8


def test_what_a_contraction_reads_is_rounded_for_other_sums_too() -> None:
    """As a backward keeps the gradient of its scores: what sums it beside the contraction reads the same."""
    text = """
    diagram both(A[m k], B[k n], C[n p]) -> D[m p], t[m]
        S[m n] = exp(sum[k](A * B) / 8)
        D[m p] = sum[n](S * C)
        t[m] = sum[n](S * sum[k](A * B))
    """
    diagram = parse(text).core
    given = random_arguments(diagram, {"m": 8, "k": 16, "n": 32, "p": 8})
    types = dict.fromkeys("ABCDt", "bf16") | {"t": "fp32"}
    _, total = rounded_reference(diagram, given, types, UNIT, 0)
    _, exact = torch_reference(diagram, given)
    assert 2.0**-14 < float((total - exact).norm() / exact.norm()) < 2.0**-7


def planned(front: Diagram) -> Plan:
    return front.plan("hopper")


def checked(plan: Plan, given: dict[str, Value], result: torch.Tensor) -> OutputCheck:
    wanted = torch_reference(plan.diagram, given)
    (output,) = plan.outputs
    allowed = bound([each.printed for each in plan.kernels], output.dtype)
    check = compare(output.name, result, wanted[0], allowed)
    (found,) = bounded_by_data(plan, given, wanted, [check], UNIT)
    return found


def with_gains(plan: Plan, gain: float) -> dict[str, Value]:
    given = random_arguments(plan.diagram, dict(plan.sizes))
    return given | {"gain": gain * torch.as_tensor(given["gain"])}


def rounded(plan: Plan, given: dict[str, Value]) -> torch.Tensor:
    types = {each.name: each.dtype for each in (*plan.arrays, *plan.outputs)}
    (found,) = rounded_reference(plan.diagram, given, types, UNIT, 99)
    return found.to(UNIT)


def test_large_scores_raise_the_bound_by_what_rounding_does() -> None:
    plan = planned(parse(NORMED))
    small, large = (
        checked(plan, g, rounded(plan, g)) for g in (with_gains(plan, n) for n in (1, 4))
    )
    assert small.passed
    assert not small.why
    assert large.error > 2.0**-7
    assert large.passed
    assert "bf16" in large.why


def test_a_wrong_result_stays_wrong() -> None:
    plan = planned(parse(NORMED))
    for gain in (1.0, 4.0):
        given = with_gains(plan, gain)
        other = given | {"gain": 1.1 * torch.as_tensor(given["gain"])}
        assert not checked(plan, given, rounded(plan, other)).passed


def test_a_bound_that_is_kept_is_left_as_it_is() -> None:
    plan = planned(load(EXAMPLES / "matmul.napkin"))
    given = random_arguments(plan.diagram, {"m": 40, "k": 50, "n": 60})
    (exact,) = torch_reference(plan.diagram, given)
    found = checked(plan, given, exact.to(UNIT))
    assert found.passed
    assert found.bound == pytest.approx(2 * 2.0**-8, rel=0.01)
    wrong = checked(plan, given, exact + 0.02 * exact.abs().max())
    assert not wrong.passed
    assert wrong.bound == pytest.approx(found.bound)  # its operands are rounded already


def test_fp32_has_the_bound_of_its_type_alone() -> None:
    plan = load(EXAMPLES / "matmul.napkin").plan("hopper", dtype="fp32")
    given = random_arguments(plan.diagram, {"m": 4, "k": 5, "n": 6}, dtype="fp32")
    wanted = torch_reference(plan.diagram, given)
    check = compare("C", 1.01 * wanted[0], wanted[0], 1e-5)
    assert bounded_by_data(plan, given, wanted, [check], torch.float32) == [check]


def nearest(values: torch.Tensor) -> torch.Tensor:
    return values.to(UNIT).double()


def off(seed: int) -> tuple[float, float]:
    """Return how far the gradient of a scale is off as it is summed, and centred, on a cache of keys."""
    torch.manual_seed(seed)
    q, k, above = (nearest(torch.randn(each).double()) for each in ((64, 96), (256, 96), (64, 96)))
    products = q @ k.mT
    weights, gradient = (0.7 * products).softmax(-1), above @ k.mT

    def of_scores(output: torch.Tensor) -> torch.Tensor:
        return weights * (gradient - (above * output).sum(-1, keepdim=True))

    exact = (of_scores(weights @ k) * products).sum()
    stored = nearest(of_scores(nearest(weights @ k)))
    centred = products - (weights * products).sum(-1, keepdim=True)
    return tuple(float(((stored * each).sum() / exact - 1).abs()) for each in (products, centred))  # type: ignore[return-value]


def test_a_centred_sum_loses_what_its_terms_have_in_common() -> None:
    summed, centred = (sorted(each)[4] for each in zip(*map(off, range(9)), strict=True))
    assert summed > 2.0**-6
    assert centred < 2.0**-7
    assert summed > 8 * centred
