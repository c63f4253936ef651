"""The torch reference against the NumPy one, and the conventions that both keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from napkin import parse
from napkin.api import load
from napkin.diagram import Diagram
from napkin.evaluate import NumpyArithmetic, reference
from napkin.operators import POINTWISE, REDUCTIONS
from napkin.runtime.data import Value, axis_lengths, random_arguments
from napkin.runtime.reference import TorchArithmetic, torch_reference

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))
SHORT = 24


def short_sizes(diagram: Diagram) -> dict[str, int]:
    lengths = axis_lengths(diagram)
    cut = {axis: min(size, SHORT) for axis, size in lengths.items()}
    return cut | ({"n": 2, "x": 32} if diagram.name == "paged_decode" else {})


def numpy_arguments(arguments: dict[str, Value]) -> dict[str, np.ndarray]:
    return {name: np.asarray(each) for name, each in arguments.items()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_torch_and_numpy_agree_on_every_example(path: Path) -> None:
    diagram = load(path).core
    arguments = random_arguments(diagram, short_sizes(diagram), dtype="fp32")
    wanted = reference(diagram, numpy_arguments(arguments))
    found = torch_reference(diagram, arguments)
    for output, result in zip(diagram.outputs, found, strict=True):
        assert result.dtype == torch.float64
        np.testing.assert_allclose(result.numpy(), wanted[output.name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("operator", sorted(POINTWISE))
def test_every_pointwise_operator_agrees(operator: str) -> None:
    row = POINTWISE[operator]
    values = [np.array([-np.inf, -1.5, -0.0, 0.0, 0.5, 2.0, np.inf])]
    if row.takes is not None:
        values = [np.array([False, True])]
    shapes = [(-1, *[1] * place) for place in range(row.arity)]
    operands = [values[0].reshape(shape) for shape in shapes]
    if operator == "where":
        operands[0] = operands[0] > 0
    check_operator(operator, operands)


@pytest.mark.parametrize("operator", ["add", "sub", "mul", "div", "floordiv", "mod", "max2", "eq"])
def test_operators_on_integers_agree(operator: str) -> None:
    values = np.array([-7, -2, -1, 0, 1, 3, 8])
    check_operator(operator, [values[:, None], values[None, :]])


def check_operator(operator: str, operands: list[np.ndarray]) -> None:
    wanted = NumpyArithmetic().pointwise(operator, operands)
    library = TorchArithmetic()
    found = library.pointwise(operator, [library.tensor(torch.from_numpy(o)) for o in operands])
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("operator", sorted(REDUCTIONS))
@pytest.mark.parametrize("length", [0, 3])
def test_every_reduction_agrees_over_several_axes(operator: str, length: int) -> None:
    drawn = np.random.default_rng(0).normal(size=(2, length, 4))
    values = drawn > 0 if REDUCTIONS[operator].takes else drawn
    wanted = NumpyArithmetic().reduce(operator, values, (1, 2))
    found = TorchArithmetic().reduce(operator, torch.from_numpy(values), (1, 2))
    np.testing.assert_allclose(found.numpy(), wanted)


def test_integers_contract_exactly() -> None:
    left = torch.arange(12).reshape(3, 4)
    found = TorchArithmetic().contract([(left, "ab"), (left, "cb")], "ac")
    assert found.dtype == torch.int64
    assert torch.equal(found, left @ left.T)


def test_a_number_of_the_diagram_is_not_rounded_to_fp32() -> None:
    diagram = parse("diagram f(A[x]) -> B[x]\n    B[x] = A * 0.1").core
    (found,) = torch_reference(diagram, {"A": torch.ones(1, dtype=torch.float64)})
    assert float(found[0]) == 0.1


MASKED = """diagram f(S[q x], V[x v], keep[q x]: bool) -> O[q v]
    P[q x] = softmax[x](where(keep, S, -inf))
    O[q v] = sum[x](P * V)
"""


def test_a_masked_row_is_zero_and_so_is_its_gradient() -> None:
    diagram = parse(MASKED).core
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    values = torch.randn(5, 3, dtype=torch.float64)
    keep = torch.tensor([[True] * 5, [False] * 5])
    (found,) = torch_reference(diagram, {"S": scores, "V": values, "keep": keep})
    assert torch.equal(found[1], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(found[0], torch.softmax(scores[0], 0) @ values)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert torch.equal(gradient[1], torch.zeros(5, dtype=torch.float64))


def test_the_gradient_is_that_of_torch() -> None:
    diagram = load(EXAMPLES[0].with_name("attention.napkin")).core
    make: Callable[[], torch.Tensor] = lambda: torch.randn(1, 1, 4, 3, dtype=torch.float64)  # noqa: E731
    q, k, v = (make().requires_grad_() for _ in range(3))
    (found,) = torch_reference(diagram, {"Q": q, "K": k, "V": v})
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad(found.square().sum(), (q, k, v))
    theirs = torch.autograd.grad(wanted.square().sum(), (q, k, v))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_random_indices_stay_inside_their_axis_and_lengths_hold_a_zero() -> None:
    diagram = load(EXAMPLES[0].with_name("paged_decode.napkin")).core
    arguments = random_arguments(diagram, {"b": 3, "x": 48, "p": 5, "k": 1, "g": 1})
    page, length = arguments["page"], arguments["length"]
    assert isinstance(page, torch.Tensor)
    assert isinstance(length, torch.Tensor)
    assert page.shape == (3, 3)
    assert int(page.min()) >= 0
    assert int(page.max()) < 5
    assert int(length.min()) == 0
    assert int(length.max()) <= 48


def test_the_same_seed_gives_the_same_data() -> None:
    diagram = load(EXAMPLES[0].with_name("window.napkin")).core
    sizes = dict.fromkeys("bhqxdv", 8)
    one, other = (random_arguments(diagram, sizes, seed=3) for _ in range(2))
    assert torch.equal(torch.as_tensor(one["Q"]), torch.as_tensor(other["Q"]))
    assert one["width"] == other["width"] == 2
