"""The cheap forms: what is made once a row is made once a row, and values stay what they were."""

from __future__ import annotations

import numpy as np
import pytest

from napkin.api import parse
from napkin.diagram import Graph
from napkin.emit.triton import emit_triton
from napkin.emit.triton.inflight import running_on
from napkin.operators import POINTWISE
from napkin.schedule.execute import execute
from napkin.schedule.lowering.factors import row_term
from napkin.schedule.program import Compute, Loop, Program, walk

SIZES = "\nsizes q=256 x=256 d=64 v=64\n"
ATTENTION = """diagram f(Q[q d], K[x d], V[x v], {extra}) -> O[q v]
    S[q x] = sum[d](Q * K)
    P[q x] = softmax[x]({score})
    O[q v] = sum[x](P * V)
"""


def program_of(score: str, extra: str) -> Program:
    """Return the loop program of an attention-like diagram with that score."""
    text = ATTENTION.format(score=score, extra=extra) + SIZES
    return parse(text).plan("hopper").kernels[0].program


def loops_of(program: Program) -> list[Loop]:
    return [op for op in program.operations if isinstance(op, Loop)]


def wide(loop: Loop) -> list[str]:
    """Return the operators that a step computes for every element of the score."""
    return [
        op.operator for op in walk(loop.body) if isinstance(op, Compute) and len(op.tile.dims) > 1
    ]


def test_a_quotient_by_a_row_is_a_product_with_its_reciprocal() -> None:
    program = program_of("S", "unused: float")
    made = [op for op in walk(program.operations) if isinstance(op, Compute)]
    (reciprocal,) = [op for op in made if op.operator == "reciprocal"]
    assert reciprocal.tile.dims == ("q",)
    assert not any(op.operator == "div" for op in made)


def test_a_quotient_by_a_row_times_a_column_divides_no_element() -> None:
    program = program_of("S / (r * c) * g", "r[q], c[x], g: float")
    first = loops_of(program)[0]
    assert "div" not in wide(first)
    assert (
        wide(first).count("mul") == 3
    )  # by the column, by the row times g, and the state's rescaling
    made = [op for op in walk(program.operations) if isinstance(op, Compute)]
    assert {op.tile.dims for op in made if op.operator == "reciprocal"} == {("q",), ("x",)}


def test_a_quotient_by_a_whole_score_stays_one() -> None:
    program = program_of("S / (r * abs(S))", "r[q]")
    assert "div" in wide(loops_of(program)[0])


def test_a_multiple_of_a_maximum_is_read_as_it_is_kept() -> None:
    """exp(2 (S - m)) is exp2 of multiples of both: nothing turns m back, and no empty state is guarded."""
    text = ATTENTION.format(score="S", extra="unused: float").replace("P * V", "P * P * V")
    program = parse(text + SIZES).plan("hopper").kernels[0].program
    first = loops_of(program)[0]
    assert not any(isinstance(op, Compute) and op.operator == "where" for op in first.body)
    assert sum(isinstance(op, Compute) and op.operator == "exp2" for op in first.body) == 4


def test_uniform_factors_meet_before_the_elements() -> None:
    program = program_of("tanh(S / 8 / cap) * cap", "cap: float")
    first = loops_of(program)[0]
    assert wide(first).count("mul") == 3  # under tanh, above it, and the state's rescaling
    assert "div" not in wide(first)


def test_a_row_of_the_score_leaves_the_elements_for_the_maximum() -> None:
    plain = wide(loops_of(program_of("S", "bias[q]"))[0])
    moved = wide(loops_of(program_of("S + bias", "bias[q]"))[0])
    assert sorted(moved) == sorted(plain)


def test_a_row_term_passes_a_mask() -> None:
    diagram = parse(
        "diagram f(S[q x], r[q]) -> M[q x]\n    M[q x] = where(x <= q, S - r, -inf)\n"
    ).core
    graph = Graph(diagram.boxes)
    parts = row_term(graph, diagram.outputs[0].box, {"x"})
    assert parts is not None
    rest, row = parts
    assert set(graph[rest].axes) == {"q", "x"}
    assert graph[row].axes == ("q",)
    assert row_term(graph, rest, {"x"}) is None


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, np.inf, 3.0, -0.5])
def test_a_reciprocal_is_finite_and_else_exact(value: float) -> None:
    found = POINTWISE["reciprocal"].numpy(np.float32(value))
    assert np.isfinite(found)
    assert 0.0 * found == 0.0
    if abs(value) > 1e-30:
        assert found == np.float32(1.0) / np.float32(value)


SUMS = {
    "max2(X, 0.0) * W": True,  # computed from a load: in registers, made anew every step
    "X * g * W": True,
    "X * W": False,  # the tensor core reads it where the copy put it
}


@pytest.mark.parametrize(("product", "waits"), SUMS.items())
def test_a_sum_whose_operand_is_made_anew_is_waited_for(product: str, waits: bool) -> None:
    text = f"diagram f(X[t d], g[d], W[d n]) -> Y[t n]\n    Y[t n] = sum[d]({product})\n"
    plan = parse(text + "\nsizes t=512 d=512 n=512\n").plan("hopper")
    program = plan.kernels[0].program
    assert any(running_on(loop) for loop in loops_of(program)) is waits
    assert ("= _settled(" in emit_triton(plan)) is waits


def test_what_waits_for_another_contraction_needs_no_second_wait() -> None:
    program = program_of("S", "unused: float")
    assert not any(running_on(loop) for loop in loops_of(program))


def test_an_empty_state_survives_a_factor_that_grows() -> None:
    text = (
        "diagram f(G[d], A[x d]) -> Y[x d]\n"
        "    S[d] = l2norm[d](1 / softmax[d](G))\n"
        "    Y[x d] = exp(mean[d](S) - A)\n\nsizes x=16 d=10\n"
    )
    program = parse(text).plan("ampere").kernels[0].program
    generator = np.random.default_rng(3)
    given = {"G": generator.standard_normal(10), "A": generator.standard_normal((16, 10))}
    found = execute(program, given, {}, {"x": 16, "d": 10}).outputs["Y"]
    weights = np.exp(given["G"] - given["G"].max())
    turned = weights.sum() / weights
    mean = (turned / np.linalg.norm(turned)).mean()
    assert np.allclose(found, np.exp(mean - given["A"]), rtol=1e-2)
