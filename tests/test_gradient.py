"""Gradients as diagrams: right by autograd, short by structure, and planned without quadratic arrays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from napkin.algebra.derive import derive
from napkin.algebra.gradient import Gradient, differentiate
from napkin.algebra.overflow import warnings
from napkin.api import parse
from napkin.cli import main
from napkin.diagram import (
    Box,
    Diagram,
    Gather,
    Input,
    Pointwise,
    Reduce,
    print_diagram,
)
from napkin.evaluate import axis_sizes, evaluate, open_dims, reference
from napkin.language.errors import NapkinError
from napkin.machine import load_machine
from napkin.operators import Kind
from napkin.runtime.data import random_arguments
from napkin.schedule.planning.plan import Plan, make_plan
from napkin.schedule.program import Dot, walk
from tests.gradients import (
    autograd,
    derived,
    float_arguments,
    odd_sizes,
    relative_error,
)
from tests.programs import EXAMPLES, ROOT, arguments_of, diagram_of, example
from tests.strategies import AXES, napkin_texts

EXACT = 1e-9
SCORES = ("attention", "causal", "gqa", "alibi", "softcap", "window", "sinks", "document")


def gradient_of(text: str) -> Gradient:
    return differentiate(diagram_of(text))


def boxes_of(diagram: Diagram, operator: str) -> list[Box]:
    return [
        box
        for box in diagram.boxes
        if isinstance(box, Pointwise | Reduce) and box.operator == operator
    ]


def worst_error(text: str, **sizes: int) -> float:
    """Return the largest relative error of any gradient of a text against autograd."""
    diagram = diagram_of(text)
    gradient = differentiate(diagram)
    arrays = arguments_of(diagram, sizes, {}, 0)
    found, seeds = derived(gradient, arrays)
    truth = autograd(diagram, gradient.wanted, arrays, seeds)
    return max(relative_error(found[name], truth[name]) for name in gradient.wanted)


# --- right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_s_gradient_is_autograd_s(name: str) -> None:
    diagram = example(name)
    gradient = differentiate(diagram)
    arguments = float_arguments(random_arguments(diagram, odd_sizes(diagram), dtype="fp32"))
    found, seeds = derived(gradient, arguments)
    truth = autograd(diagram, gradient.wanted, arguments, seeds)
    assert gradient.wanted == tuple(a.name for a in diagram.arguments if a.kind is Kind.FLOAT)
    for each in gradient.wanted:
        assert np.isfinite(found[each]).all()
        assert relative_error(found[each], truth[each]) < EXACT


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_forward_and_a_backward_read_back_as_themselves(name: str) -> None:
    gradient = differentiate(example(name))
    for each in (gradient.forward, gradient.backward):
        assert parse(print_diagram(each)).core == each


@pytest.mark.parametrize(
    "formula",
    [
        "A + B",
        "A - B",
        "A * B",
        "A / B",
        "-A",
        "exp(A)",
        "exp2(A)",
        "log(A ** 2 + 1)",
        "log2(A ** 2 + 1)",
        "sqrt(A ** 2 + 1)",
        "rsqrt(A ** 2 + 1)",
        "tanh(A)",
        "sigmoid(A)",
        "erf(A)",
        "abs(A)",
        "max2(A, B)",
        "min2(A, B)",
        "A ** 3",
        "(A ** 2 + 1) ** B",
        "A % 0.7",
        "where(A < B, A * 2, B ** 2)",
        "sum[x](A * B)",
        "max[x](A) * A",
        "min[x](A) * B",
        "prod[x](A)",
        "mean[x](A) * A",
        "gelu(A) * silu(B)",
        "softmax[x](A) * B",
        "logsumexp[x](A * B)",
        "layernorm[x](A)",
        "A[y, x // 2] * B",
        "sum[x](A[y, table[x]] * B)",
        "A[x % 3, y % 2] * x",
        "sum[x](A[y, x // 2] * x)",
        "where(x % 2 == 0, A, 0) * size(y)",
        "A[y, y - x + 1] * x",
        "A[y, clip(y - x + 1, 1, 2)] * B",
        "A[y, clip(x - y, 2, 1)] * B",
        "A[y, clip(y - x, 0, 0)] * B",
        "A[y, max2(1, 2 - x)] * B",
        "A[clip(2 - y, 0, 1), clip(y - x, 0, size(x) - 2)] * B",
        "A[y, 2 * y - 2 * x] * B",
        "A[y, clip(x - table[x], 0, 2)] * B",
        "sum[x](A[y, clip(y - x + 2, 1, 3)] * B)",
    ],
)
def test_every_operator_has_its_derivative(formula: str) -> None:
    reduces = formula.startswith(("sum", "prod", "logsumexp"))
    axes = "y" if reduces else "y x"
    text = f"diagram f(A[y x], B[y x], table[x]: int32) -> C[{axes}]\n    C[{axes}] = {formula}\n"
    assert worst_error(text, x=4, y=3) < EXACT


def test_a_product_with_zeros_has_its_derivative() -> None:
    text = "diagram f(A[y x]) -> B[y]\n    B[y] = prod[x](A)\n"
    gradient = gradient_of(text)
    arrays = {"A": np.array([[1.5, 0.0, 2.0], [0.0, 0.0, 3.0], [1.0, 2.0, 4.0]])}
    found, seeds = derived(gradient, arrays)
    truth = autograd(diagram_of(text), ("A",), arrays, seeds)
    assert relative_error(found["A"], truth["A"]) < EXACT


def test_equal_values_share_a_maximum_evenly_and_relu_rests_at_zero() -> None:
    text = "diagram f(A[x]) -> B[], C[x]\n    B[] = max[x](A)\n    C[x] = relu(A)\n"
    gradient = gradient_of(text)
    seeds = {"dB": np.array(6.0), "dC": np.ones(4)}
    with np.errstate(all="ignore"):
        outputs = evaluate_backward(gradient, {"A": np.array([1.0, 3.0, 3.0, 0.0])}, seeds)
    np.testing.assert_allclose(outputs["dA"], [1.0, 4.0, 4.0, 0.0])


def evaluate_backward(
    gradient: Gradient, arrays: dict[str, np.ndarray], seeds: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    known = {**arrays, **reference(gradient.forward, arrays), **seeds}
    names = [each.name for each in gradient.backward.arguments]
    return reference(gradient.backward, {name: known[name] for name in names})


def test_rows_that_see_nothing_have_no_gradient() -> None:
    text = """diagram late(Q[q d], K[x d], V[x v]) -> O[q v]
    S[q x] = where(x <= q - 3, sum[d](Q * K), -inf)
    O[q v] = sum[x](softmax[x](S) * V)
"""
    gradient = gradient_of(text)
    arrays = arguments_of(diagram_of(text), {"q": 7, "x": 7, "d": 3, "v": 2}, {}, 0)
    found, seeds = derived(gradient, arrays)
    truth = autograd(diagram_of(text), gradient.wanted, arrays, seeds)
    for name in gradient.wanted:
        assert np.isfinite(found[name]).all()
        assert relative_error(found[name], truth[name]) < EXACT
    assert not found["Q"][:3].any()
    assert not found["V"][4:].any()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(napkin_texts(), st.integers(0, 3))
def test_random_diagrams_have_autograd_s_gradients(text: str, seed: int) -> None:
    diagram = diagram_of(text)
    gradient = differentiate(diagram)
    assert parse(print_diagram(gradient.backward)).core == gradient.backward
    sizes = dict.fromkeys((*AXES, *diagram.axes), 3) | {"p": 3}
    arrays = arguments_of(diagram, sizes, {"place": 3}, seed)
    found, seeds = derived(gradient, arrays)
    with np.errstate(all="ignore"):
        truth = autograd(diagram, gradient.wanted, arrays, seeds)
    # Poles, and values that overflow, are where autograd's own answer is no number.
    tame = all(
        np.isfinite(each).all() and np.abs(each).max(initial=0) < 1e6 for each in truth.values()
    )
    assume(tame and all(np.isfinite(each).all() for each in intermediate(diagram, arrays)))
    for name in gradient.wanted:
        assert relative_error(found[name], truth[name]) < 1e-6


@pytest.mark.parametrize(
    "text",
    [
        # The largest of weights: as an output it is rounded, and nothing computed again is equal to it.
        "f(A[q]) -> M[]\n    M[] = max[q](softmax[q](abs(A)))",
        # Weights divided once more by a sum of theirs.
        "f(A[q x]) -> O[q x]\n    P[q x] = softmax[x](A)\n    O[q x] = P / sum[q](P)",
        # A sum that is there already, but times what the gradient has not.
        "f(A[v], B[b], D[d], H[h], X[x], V[v]) -> S[h d]\n"
        "    T[d b] = sum[x](sum[v](A[d // 2] * where(B >= V, 1.0, 0)) * (1.0 - X / D))\n"
        "    S[h d] = sum[b](where(H > 0, T, 1.5) * sum[v](V * A))",
    ],
)
def test_gradients_of_rare_forms_are_autograds(text: str) -> None:
    diagram = diagram_of(f"diagram {text}\n")
    gradient = differentiate(diagram)
    for seed in range(4):
        arrays = arguments_of(diagram, dict.fromkeys(diagram.axes, 3), {}, seed)
        found, seeds = derived(gradient, arrays)
        truth = autograd(diagram, gradient.wanted, arrays, seeds)
        for name in gradient.wanted:
            assert relative_error(found[name], truth[name]) < 1e-9


def test_no_zero_of_a_backward_is_negative() -> None:
    text = "f(A[q], B[q]) -> S[q], T[q]\n    S[q] = A / (-inf)\n    T[q] = A[q // 2]"
    assert "-0.0" not in print_diagram(differentiate(diagram_of(f"diagram {text}\n")).backward)


def test_a_divisor_that_is_zero_everywhere_has_a_gradient() -> None:
    text = "f(A[b x], D[d]) -> O[b d x]\n    O[b d x] = A / sum[b](A * (D - D))"
    gradient = differentiate(diagram_of(f"diagram {text}\n"))
    assert [each.name for each in gradient.backward.outputs] == ["dA", "dD"]


def intermediate(diagram: Diagram, arrays: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    sizes = axis_sizes(diagram, {name: np.shape(array) for name, array in arrays.items()})
    opened = {
        a.name: open_dims(np.asarray(arrays[a.name]), a.dims, sizes) for a in diagram.arguments
    }
    with np.errstate(all="ignore"):
        values = evaluate(diagram.boxes, [each.box for each in diagram.outputs], opened, sizes)
    yield from (np.asarray(value, dtype=float) for value in values.values())


# --- short ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_softmax_keeps_one_number_a_row_and_its_output(name: str) -> None:
    gradient = differentiate(example(name))
    (kept,) = [each for each in gradient.forward.outputs if each.name in gradient.kept]
    assert set(kept.axes) == set(gradient.forward.outputs[0].axes) - {"v"}
    assert kept.dtype == "fp32"
    assert gradient.forward.outputs[0].name in {a.name for a in gradient.backward.arguments}


def test_a_logsumexp_that_is_an_output_is_kept_once() -> None:
    gradient = differentiate(example("attention_lse"))
    assert gradient.kept == ()
    assert {"O", "L"} <= {each.name for each in gradient.backward.arguments}


@pytest.mark.parametrize("name", SCORES)
def test_no_gradient_flows_through_a_maximum_and_weights_are_one_exponential(name: str) -> None:
    backward = differentiate(example(name)).backward
    assert not boxes_of(backward, "max")
    assert not boxes_of(backward, "log")
    over = {axes for box in boxes_of(backward, "exp") for axes in [frozenset(box.axes)]}
    assert len([axes for axes in over if {"q", "x"} <= axes]) == 1


def test_a_maximum_that_matters_passes_its_gradient_on() -> None:
    gradient = gradient_of("diagram f(A[x]) -> B[x]\n    B[x] = A * max[x](A)\n")
    assert boxes_of(gradient.backward, "eq")


@pytest.mark.parametrize("name", SCORES)
def test_the_row_term_is_a_product_with_the_output(name: str) -> None:
    """sum_x P dP is read as sum_v dO O: no sum over x gives a row of the scores' own adjoint."""
    backward = differentiate(example(name)).backward
    names = {"O", "dO"}
    found = [
        box
        for box in boxes_of(backward, "sum")
        if isinstance(box, Reduce)
        and {
            argument.name
            for argument in (backward.boxes[each] for each in box.operands)
            if isinstance(argument, Input)
        }
        == names
    ]
    assert len(found) == 1
    assert found[0].over == ("v",)


def test_a_row_term_without_an_output_is_summed_in_the_forward() -> None:
    gradient = differentiate(example("differential"))
    sums = [each for each in gradient.forward.outputs if set(each.axes) == {"b", "h", "q", "v"}]
    assert len(sums) == 3  # O, and each map's own product with V
    passes = derive(gradient.forward).stream
    assert passes is not None
    assert len(passes.passes) == 1


def test_sums_with_a_common_factor_are_one_contraction() -> None:
    backward = differentiate(example("cross_entropy")).backward
    contractions = [
        box for box in boxes_of(backward, "sum") if len(getattr(box, "operands", ())) > 1
    ]
    assert len(contractions) == 3  # the logits, dX and dW


def test_what_is_dead_is_left_out() -> None:
    gradient = gradient_of(
        "diagram f(A[x], B[x]) -> C[x], D[x]\n    C[x] = 2 * A\n    D[x] = C + 1\n"
    )
    arrays = {"A": np.ones(3), "B": np.ones(3)}
    found, _ = derived(gradient, arrays)
    assert not found["B"].any()
    assert len(gradient.backward.boxes) < 12


# --- asked for ------------------------------------------------------------------------------------


def test_only_what_is_wanted_is_derived() -> None:
    gradient = differentiate(example("attention"), {"V"})
    assert gradient.wanted == ("V",)
    assert [each.name for each in gradient.backward.outputs] == ["dV"]
    assert "V" not in {each.name for each in gradient.backward.arguments}


def test_a_gradient_has_its_argument_s_axes_and_type() -> None:
    text = "diagram f(A[(y z) x]: fp16, G[z], c: float) -> B[x]: fp32\n    B[x] = sum[y z](A * G) * c\n"
    diagram = diagram_of(text)
    backward = differentiate(diagram).backward
    assert [(each.dims, each.dtype) for each in backward.outputs] == [
        (diagram.arguments[0].dims, "fp16"),
        (diagram.arguments[1].dims, None),
        ((), "fp32"),
    ]


def test_names_that_meet_are_made_unique() -> None:
    text = "diagram f(O[x], dO[x], L[x]) -> dL[x]\n    dL[x] = softmax[x](O) * dO * L\n"
    gradient = gradient_of(text)
    names = [each.name for each in gradient.backward.arguments]
    names += [each.name for each in gradient.backward.outputs]
    assert len(names) == len(set(names))
    assert parse(print_diagram(gradient.backward)).core == gradient.backward


@pytest.mark.parametrize("wanted", ["label", "nobody"])
def test_a_gradient_by_what_has_none_is_refused(wanted: str) -> None:
    with pytest.raises(NapkinError) as raised:
        differentiate(example("cross_entropy"), [wanted])
    assert raised.value.diagnostics[0].code == "N303"


def test_the_command_line_prints_and_plans_it(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ROOT / "examples" / "attention.napkin")
    assert main(("derive", file, "--grad")) == 0
    printed = capsys.readouterr().out
    assert "-> O[b h q v], L[b h q]: fp32" in printed
    assert "dS[b h q x] = P *" in printed
    assert main(("plan", file, "--grad", "--machine", "hopper")) == 0
    assert "attention_backward" in capsys.readouterr().out


# --- planned --------------------------------------------------------------------------------------


@cache
def plan_of(name: str, machine: str) -> Plan:
    """Return the plan of an example's backward in which every sum has its order."""
    derivation = derive(differentiate(example(name)).backward)
    return make_plan(derivation, load_machine(machine), deterministic=True)


def streams_of(plan: Plan) -> dict[str, str]:
    found: dict[str, str] = {}
    for kernel in plan.kernels:
        stream = kernel.derivation.stream
        for output in kernel.derivation.diagram.outputs:
            found[output.name] = stream.axis if stream else ""
    return found


@pytest.mark.parametrize(
    ("name", "machine"),
    [("attention", "hopper"), ("causal", "ampere"), ("gqa", "hopper"), ("softcap", "hopper")],
)
def test_no_array_of_queries_by_keys_lies_in_memory(name: str, machine: str) -> None:
    plan = plan_of(name, machine)
    assert all(not {"q", "x"} <= set(each.axes) for each in plan.kept)


def test_keys_stream_queries_and_queries_stream_keys() -> None:
    streams = streams_of(plan_of("causal", "hopper"))
    assert streams["dQ"] == "x"
    assert streams["dK"] == streams["dV"] == "q"


def test_keys_and_values_come_from_one_kernel_that_computes_the_scores_once() -> None:
    kernels = plan_of("causal", "hopper").kernels
    outputs = [{each.name for each in kernel.derivation.diagram.outputs} for kernel in kernels]
    assert {"dK", "dV"} in outputs
    assert all(kernel.derivation.conditions != (None,) for kernel in kernels[1:])


def test_scores_lie_with_their_stream_last_so_that_no_tile_is_transposed() -> None:
    kernels = plan_of("causal", "hopper").kernels
    streams = {"dK": ("x", "q"), "dQ": ("q", "x")}
    for name, dims in streams.items():
        kernel = next(k for k in kernels if name in {o.name for o in k.derivation.diagram.outputs})
        dots = [op for op in walk(kernel.program.operations) if isinstance(op, Dot)]
        assert {op.tile.dims for op in dots if set(op.tile.dims) == {"q", "x"}} == {dims}


def test_a_layer_s_backward_stores_halves_and_multiplies_no_one_hot() -> None:
    backward = differentiate(example("attention_block")).backward
    plan = make_plan(derive(backward), load_machine("h200"))
    dots = [
        op for each in plan.kernels for op in walk(each.program.operations) if isinstance(op, Dot)
    ]
    assert {op.operand_type for op in dots} == {"bf16"}
    compared = [
        name
        for each in plan.kernels
        for name in str(each.derivation.diagram).split()
        if name == "=="
    ]
    assert not compared
    (both,) = (
        each.derivation.diagram
        for each in plan.kernels
        if len([1 for output in each.derivation.diagram.outputs if "x" in output.axes]) == 2
    )
    assert [output.axes[-2] for output in both.outputs] == ["x", "x"]


def test_a_table_read_by_distance_has_a_gradient_that_tries_no_position() -> None:
    """Every score belongs to one distance: no kernel compares it with each of them."""
    kernels = plan_of("relative_bias", "hopper").kernels
    diagrams = [each.derivation.diagram for each in kernels]
    for diagram in diagrams:
        tried = [
            box
            for box in diagram.boxes
            if isinstance(box, Pointwise) and box.operator == "eq" and {"r", "x"} <= set(box.axes)
        ]
        assert not tried
    (read,) = (
        each
        for each in diagrams
        if any(isinstance(box, Gather) for box in each.boxes) and "r" in each.outputs[0].axes
    )
    assert [box.over for box in read.boxes if isinstance(box, Reduce)] == [("q",)]


def test_weights_that_the_forward_normalised_are_no_overflow() -> None:
    assert warnings(derive(differentiate(example("attention")).backward)) == ()


def test_a_mask_s_bounds_are_transposed() -> None:
    """Under a causal mask the queries before a tile of keys are never read."""
    causal, full = plan_of("causal", "hopper"), plan_of("attention", "hopper")
    for name in ("dK", "dQ"):
        half, whole = (
            next(k for k in plan.kernels if name in {o.name for o in k.derivation.diagram.outputs})
            for plan in (causal, full)
        )
        assert half.derivation.conditions != (None,)
        assert half.expected.seconds < 0.75 * whole.expected.seconds


def test_the_adjoint_of_a_scalar_is_summed_from_rows() -> None:
    kept = {each.axes for each in plan_of("softcap", "hopper").kept}
    assert ("b", "h", "q") in kept


def test_modules_of_backwards_name_nothing_that_is_not_there(tmp_path: Path) -> None:
    from napkin.runtime.kernels import kernel_source

    for name in ("cross_entropy", "causal", "softmax"):
        text = kernel_source(plan_of(name, "hopper"))
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--no-cache",
        "--select",
        "E9,F",
    ]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
