"""Streams: every body, merge and tail is lawful, stable, and found for every example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from napkin.algebra import laws
from napkin.algebra.derive import Derivation, derive
from napkin.algebra.laws import Trial, check_laws, fold_chunks, head, merge, random_trial, step
from napkin.algebra.states import Rule, Stream
from napkin.diagram import Diagram, Reduce
from napkin.evaluate import NumpyArithmetic, evaluate
from napkin.language import read
from napkin.language.errors import InternalError
from napkin.language.source import Source
from napkin.operators import Kind
from tests.strategies import napkin_texts

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))
ATTENTION = (
    "diagram attention(Q[q d], K[x d], V[x v]) -> O[q v]\n"
    "    S[q x] = sum[d](Q * K)\n    O[q v] = sum[x](softmax[x](S) * V)\n"
)


def parsed(text: str) -> Diagram:
    return read(Source("test", text))[0]


def stream_of(derivation: Derivation) -> Stream:
    assert derivation.stream is not None
    return derivation.stream


def states(derivation: Derivation) -> list[str]:
    return [each.name for each in stream_of(derivation).accumulators]


# --- the examples ---------------------------------------------------------------------------------

PASSES = {"layernorm": 2, "softmax": 2}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_streams_lawfully(path: Path) -> None:
    for diagram in read(Source(path.name, path.read_text(encoding="utf-8"))):
        derivation = derive(diagram)
        assert derivation.law_error < 1e-11
        assert len(stream_of(derivation).passes) == PASSES.get(path.stem, 1)
        assert stream_of(derivation).refusals == ()


def test_online_softmax_is_found_from_the_bare_definition() -> None:
    derivation = derive(parsed(ATTENTION))
    stream = stream_of(derivation)
    assert stream.axis == "x"
    assert states(derivation) == ["m", "l", "o"]
    rules = [each.rule for each in stream.passes[0].reductions]
    assert rules == [Rule.FOLD, Rule.CARRY, Rule.CARRY]
    assert derivation.group == ("q", "v")
    assert derivation.inner == derivation.splittable == ("d",)


def test_two_cascades_over_one_axis_share_their_pass() -> None:
    path = next(path for path in EXAMPLES if path.stem == "differential")
    derivation = derive(read(Source(path.name, path.read_text(encoding="utf-8")))[0])
    assert states(derivation) == ["m", "l", "m2", "l2", "o", "o2"]


def test_a_row_statistic_moves_an_array_that_has_more_axes() -> None:
    text = (
        "diagram f(S[b q x], V[b x v]) -> O[b q v], W[b q v]\n    P[b q x] = softmax[x](S)\n"
        "    O[b q v] = sum[x](P * V)\n    W[b q v] = sum[x](P * (V - O) ** 2)\n"
    )
    derivation = derive(parsed(text))
    assert states(derivation) == ["m", "l", "o", "w", "w2"]
    assert derivation.law_error < 1e-11


def test_a_state_never_has_the_name_of_something_else() -> None:
    text = "diagram f(m[q], S[q x], V[x l]) -> O[q l]\n    O[q l] = m * sum[x](softmax[x](S) * V)\n"
    assert not {"m", "l", "x", "q"} & set(states(derive(parsed(text))))


@pytest.mark.parametrize("over", ["h v", "v h"])
def test_of_the_axes_of_one_sum_that_streams_which_memory_holds_side_by_side(over: str) -> None:
    text = f"diagram wide(A[b h x v], W[e h v]) -> O[b x e]\n    O[b x e] = sum[{over}](A * W)\n"
    (found,) = read(Source("test", text))
    stream = derive(found).stream
    assert stream is not None
    assert stream.axis == "v"


def test_what_reduces_nothing_has_no_stream() -> None:
    derivation = derive(parsed("diagram f(A[q x]) -> B[q x]\n    B[q x] = exp(A)\n"))
    assert derivation.stream is None
    assert derivation.group == ("q", "x")
    assert derivation.candidates == ()


def test_the_axis_may_be_chosen_and_another_may_need_more_passes() -> None:
    assert stream_of(derive(parsed(ATTENTION), axis="d")).axis == "d"
    candidates = derive(parsed(ATTENTION)).candidates
    assert [(each.axis, each.passes, each.whole) for each in candidates] == [
        ("x", 1, ()),
        ("d", 1, ("x",)),
    ]


# --- laws -----------------------------------------------------------------------------------------


def final_state(derivation: Derivation, trial: Trial, chunks: Sequence[int]) -> dict[str, Any]:
    states = fold_chunks(derivation.graph, stream_of(derivation), trial, chunks)
    return {name: value for (name, _), value in states.items()}


@pytest.mark.parametrize("chunks", [(11,), (1,) * 11, (0, 11, 0), (5, 6), (2, 7, 2)])
def test_the_state_does_not_depend_on_the_chunks(chunks: tuple[int, ...]) -> None:
    derivation = derive(parsed(ATTENTION))
    trial = random_trial(derivation.diagram.arguments, ("q", "d", "x", "v"), "x")
    one, other = (final_state(derivation, trial, each) for each in ((3, 0, 5, 1, 2), chunks))
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-12)


def test_merge_commutes_and_a_part_that_saw_nothing_changes_nothing() -> None:
    derivation = derive(parsed(ATTENTION))
    graph, stream = derivation.graph, stream_of(derivation)
    one = stream.passes[0]
    trial = random_trial(derivation.diagram.arguments, ("q", "d", "x", "v"), "x")
    nothing = head(one, trial)
    left = step(graph, stream, one, trial, nothing, {}, (0, 4))
    right = step(graph, stream, one, trial, nothing, {}, (4, 11))
    both = merge(graph, stream, one, trial, (left, right), {})
    turned = merge(graph, stream, one, trial, (right, left), {})
    for name, value in both.items():
        np.testing.assert_allclose(turned[name], value, rtol=1e-12)
    for sides in ((left, nothing), (nothing, left)):
        for name, value in merge(graph, stream, one, trial, sides, {}).items():
            np.testing.assert_array_equal(value, left[name])
    empty = merge(graph, stream, one, trial, (nothing, nothing), {})
    assert not np.isnan(empty["o"]).any()


def test_a_row_that_sees_nothing_gives_zero_and_no_nan() -> None:
    masked = ATTENTION.replace("softmax[x](S)", "softmax[x](where(x > q + 20, S, -inf))")
    derivation = derive(parsed(masked))
    stream = stream_of(derivation)
    trial = random_trial(derivation.diagram.arguments, ("q", "d", "x", "v"), "x")
    states = fold_chunks(derivation.graph, stream, trial, (4, 0, 7))
    box = dict(stream.tail)[0]
    value = evaluate(derivation.graph, [box], trial.arrays, trial.sizes, states=states)[box]
    np.testing.assert_array_equal(value, 0.0)


def test_a_body_that_breaks_its_law_is_our_own_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    derivation = derive(parsed(ATTENTION))
    monkeypatch.setattr(laws, "_moved", lambda graph, one, each, old, *_: old[each.name])
    with pytest.raises(InternalError, match="breaks its law"):
        check_laws(
            derivation.graph,
            stream_of(derivation),
            derivation.outputs,
            derivation.diagram.arguments,
        )


def test_what_overflows_is_not_held_against_the_stream() -> None:
    derive(parsed("diagram f(A[q x]) -> B[q]\n    B[q] = exp(sum[x](A * (1 / 0)))\n"))


# --- numbers --------------------------------------------------------------------------------------


class Float32(NumpyArithmetic):
    """NumPy arithmetic that rounds every result to float32."""

    def constant(self, value: float | int | bool) -> Any:
        return _rounded(super().constant(value))

    def pointwise(self, operator: str, operands: Sequence[Any]) -> Any:
        return _rounded(super().pointwise(operator, operands))

    def reduce(self, operator: str, value: Any, positions: tuple[int, ...]) -> Any:
        return _rounded(super().reduce(operator, value, positions))

    def contract(self, factors: Sequence[tuple[Any, str]], result: str) -> Any:
        return _rounded(super().contract(factors, result))


def _rounded(value: Any) -> Any:
    return value.astype(np.float32) if value.dtype == np.float64 else value


def in_float32(
    derivation: Derivation, arrays: Mapping[str, Any], chunk: int, patch: pytest.MonkeyPatch
) -> Any:
    """Run the first pass in float32; return the first output."""
    low = partial(evaluate, arithmetic=Float32())
    start: Callable[..., Any] = laws.head
    patch.setattr(laws, "evaluate", low)
    patch.setattr(laws, "head", lambda *a: {k: _rounded(v) for k, v in start(*a).items()})
    stream = stream_of(derivation)
    (axis,) = arrays["X"].shape[-1:]
    sizes = {"t": arrays["X"].shape[0], stream.axis: axis}
    trial = Trial(arrays, sizes)
    states = fold_chunks(derivation.graph, stream, trial, (chunk,) * (axis // chunk))
    box = dict(stream.tail)[0]
    return low(derivation.graph, [box], arrays, sizes, states=states)[box]


@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_a_variance_far_from_zero_keeps_its_digits(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    data = (1e6 + random.normal(size=(4, 512)) * 3.0).astype(np.float32)
    truth = data.astype(np.float64).var(axis=1)
    derivation = derive(parsed("diagram f(X[t d]) -> W[t]\n    W[t] = variance[d](X)\n"))
    value = in_float32(derivation, {"X": data}, chunk, monkeypatch)
    np.testing.assert_allclose(value, truth, rtol=2e-2)
    raw = (data * data).mean(axis=1, dtype=np.float32) - data.mean(axis=1, dtype=np.float32) ** 2
    assert np.max(np.abs(raw - truth) / truth) > 1.0


def test_large_scores_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    data = (random.normal(size=(3, 24)) * 400).astype(np.float32)
    for value in ("logsumexp[x](X)", "sum[x](softmax[x](X) * X)", "sum[x](exp2(X - max[x](X)))"):
        derivation = derive(parsed(f"diagram f(X[t x]) -> W[t]\n    W[t] = {value}\n"))
        with monkeypatch.context() as patch:
            assert np.isfinite(in_float32(derivation, {"X": data}, 5, patch)).all()


# --- random diagrams ------------------------------------------------------------------------------

FORMS = ("exp({0} - m)", "({0}) ** 2", "-({0})", "tanh({0})", "abs({0})", "where(x <= q, {0}, 0)")
PAIRS = ("({0}) + ({1})", "({0}) - ({1})", "({0}) * ({1})", "where(x != 3, {0}, {1})")


@st.composite
def cascades(draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
    """Draw reductions over x that depend on one another."""

    def value(known: tuple[str, ...], depth: int) -> str:
        if depth == 0 or draw(st.integers(0, 3)) == 0:
            return str(draw(st.sampled_from(("X", *known))))
        if draw(st.booleans()):
            return str(draw(st.sampled_from(FORMS))).format(value(known, depth - 1))
        form = str(draw(st.sampled_from(PAIRS)))
        return form.format(value(known, depth - 1), value(known, depth - 1))

    known: tuple[str, ...] = ("m",)
    lines = ["diagram f(X[q x], V[x v]) -> O[q v]", "    m[q] = max[x](X)"]
    for count in range(draw(st.integers(0, 3))):
        operator = draw(st.sampled_from(("sum", "sum", "max", "min")))
        inside = f"{value(known, 2)} + 0 * X + 0 * q"
        lines.append(f"    r{count}[q] = {operator}[x]({inside})")
        known = (*known, f"r{count}")
    lines.append(f"    O[q v] = sum[x](({value(known, 3)} + 0 * q) * V)")
    return "\n".join(lines) + "\n"


@settings(max_examples=60, deadline=None)
@given(cascades())
def test_random_cascades_stream_lawfully(text: str) -> None:
    assert derive(parsed(text), axis="x").law_error < 1e-8


@settings(max_examples=60, deadline=None)
@given(napkin_texts())
def test_random_diagrams_stream_lawfully(text: str) -> None:
    for diagram in read(Source("test", text)):
        boxes = diagram.boxes
        extrema = (box for box in boxes if isinstance(box, Reduce) and box.kind is Kind.INT)
        if any(box.operator in ("max", "min") for box in extrema):
            reject()  # NumPy has no integer that is a maximum's unit
        assert derive(diagram).law_error < 1e-8
