"""Syntax to diagrams: contractions, definitions, reads, names, canonical form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from napkin.diagram import Diagram, Gather, Implied, Reduce, implied_sizes, print_diagram, verify
from napkin.language import read
from napkin.language.errors import NapkinError
from napkin.language.prelude import prelude
from napkin.language.source import Source
from tests.strategies import napkin_texts


def diagrams(text: str) -> tuple[Diagram, ...]:
    return read(Source("test", text))


def body(text: str) -> list[str]:
    """Return the statements of the first diagram's listing."""
    lines = print_diagram(diagrams(text)[-1]).splitlines()
    return [line.strip() for line in lines[1:] if " = " in line]


# --- reductions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "listing"),
    [
        ("sum[k](A * B)", ["C[m n] = sum[k](A * B)"]),
        ("sum[k]((A * 2) * (B * A))", ["C[m n] = sum[k](A * 2 * B * A)"]),
        ("sum[k](-A * B)", ["t1[m k] = -A", "C[m n] = sum[k](t1 * B)"]),
        ("sum[k](A / B)", ["t1[m k n] = A / B", "C[m n] = sum[k](t1)"]),
        ("max[k](A * B)", ["t1[m k n] = A * B", "C[m n] = max[k](t1)"]),
        ("mean[k](A * B)", ["t1[m n] = sum[k](A * B)", "C[m n] = t1 / size(k)"]),
    ],
)
def test_a_sum_over_a_product_is_a_contraction(value: str, listing: list[str]) -> None:
    assert body(f"diagram f(A[m k], B[k n]) -> C[m n]\nC[m n] = {value}\n") == listing


def test_a_mean_over_several_axes_divides_by_their_product() -> None:
    assert body("diagram f(A[m n k]) -> C[k]\nC[k] = mean[m n](A)\n") == [
        "t1[k] = sum[m n](A)",
        "t2[] = size(m) * size(n)",
        "C[k] = t1 / t2",
    ]


def test_equal_expressions_are_one_box() -> None:
    assert body("diagram f(A[x]) -> B[x]\nB[x] = exp(A) / (exp(A) + exp(A))\n") == [
        "t1[x] = exp(A)",
        "t2[x] = t1 + t1",
        "B[x] = t1 / t2",
    ]


# --- definitions and diagrams ---------------------------------------------------------------------


def test_definitions_take_axes_and_arguments() -> None:
    text = "def f[a b](s, t) = sum[a](s) + sum[b](t) + a\ndiagram g(A[x y]) -> B[x y]\n"
    assert body(text + "B[x y] = f[x y](A, A)\n") == [
        "t1[y] = sum[x](A)",
        "t2[x] = sum[y](A)",
        "t3[y x] = t1 + t2",
        "B[y x] = t3 + x",
    ]


def test_a_definition_may_be_written_below_its_use_and_may_replace_the_prelude() -> None:
    text = "diagram g(A[x]) -> B[x]\nB[x] = gelu(A)\ndef gelu(x) = twice(relu(x))\n"
    assert body(text + "def twice(x) = 2 * x") == ["t1[x] = max2(A, 0)", "B[x] = 2 * t1"]


def test_a_name_inside_its_own_definition_means_the_prelude() -> None:
    text = "def relu(x) = 2 * relu(x)\ndiagram relu(A[x]) -> B[x]\nB[x] = relu(A)\n"
    assert body(text) == ["t1[x] = max2(A, 0)", "B[x] = 2 * t1"]


def test_a_definition_of_the_prelude_does_not_see_the_files() -> None:
    text = "def variance[d](x) = x\ndiagram f(A[d]) -> B[d]\nB[d] = layernorm[d](A)\n"
    plain = text.partition("\n")[2]
    assert diagrams(text) == diagrams(plain)


def test_a_diagram_is_called_axis_by_axis() -> None:
    text = (
        "diagram scores(Q[q d], K[x d]) -> S[q x]\nS[q x] = sum[d](Q * K) / sqrt(size(d))\n"
        "diagram f(A[m k], B[n k]) -> C[m n]\nC[m n] = where(m <= n, scores(A, B), 0)\n"
    )
    assert body(text) == [
        "t1[m n] = m <= n",
        "t2[m n] = sum[k](A * B)",
        "t3[] = sqrt(size(k))",
        "t4[m n] = t2 / t3",
        "C[m n] = where(t1, t4, 0)",
    ]


def test_axes_that_only_the_called_diagram_knows_keep_apart() -> None:
    text = (
        "diagram first(K[p], page[n]: int32) -> B[]\nB = sum[x](K[page[x // 4]])\n"
        "diagram f(K[p], x_[x]: int32) -> B[x]\nB[x] = x_ + first(K, x_)\n"
    )
    listing = body(text)
    assert "t1[x2] = x2 // 4" in listing
    assert implied_sizes(diagrams(text)[-1]) == {"x2": Implied(("x",), 4)}


# --- reads ----------------------------------------------------------------------------------------


def test_an_array_read_at_its_own_labels_is_the_array() -> None:
    assert body("diagram f(A[x y], B[x]) -> C[x y]\nC[x y] = A[x, y] * B[x]\n") == [
        "C[x y] = A * B"
    ]


def test_an_argument_is_read_anywhere() -> None:
    text = "diagram f(K[p s d], page[b n]: int32) -> C[b x d]\n"
    text += "C[b x d] = 2 * K[page[b, x // 16], x % 16, d]\n"
    (diagram,) = diagrams(text)
    assert [type(box) for box in diagram.boxes].count(Gather) == 2
    assert implied_sizes(diagram) == {"x": Implied(("n",), 16)}


def test_one_array_under_two_labels() -> None:
    text = "diagram own(H[b t d]) -> S[b q x]\n"
    (diagram,) = diagrams(text + "S[b q x] = sum[d](H[b, q, d] * H[b, x, d])\n")
    assert implied_sizes(diagram) == {"q": Implied(("t",)), "x": Implied(("t",))}


def test_an_element_of_a_computed_array_is_selected_by_a_sum() -> None:
    text = "diagram f(A[t v], y[t]: int64) -> C[t]\nZ[t v] = exp(A)\nC[t] = Z[t, y[t]]\n"
    assert body(text) == [
        "Z[t v] = exp(A)",
        "t1[v t] = v == y",
        "t2[v t] = where(t1, Z, 0)",
        "C[t] = sum[v](t2)",
    ]


def test_a_computed_array_read_at_other_labels_is_renamed() -> None:
    text = "diagram f(A[q x]) -> C[q x]\nZ[q x] = exp(A)\nC[q x] = Z + Z[x, q]\n"
    assert body(text) == [
        "Z[q x] = exp(A)",
        "t1[x q] = A[x, q]",
        "t2[x q] = exp(t1)",
        "C[q x] = Z + t2",
    ]


def test_the_diagonal_of_a_computed_array_is_selected() -> None:
    text = "diagram f(A[q x]) -> C[q]\nZ[q x] = exp(A)\nC[q] = Z[q, q]\n"
    assert body(text)[1:] == [
        "t1[x q] = x == q",
        "t2[x q] = where(t1, Z, 0)",
        "C[q] = sum[x](t2)",
    ]


# --- names and the canonical form -----------------------------------------------------------------


def test_an_output_gives_its_name_to_its_box() -> None:
    text = "diagram f(A[x]) -> O[x], P[x], A2[x]\n"
    text += "first[x] = exp(A)\nsecond[x] = first\nO[x] = second\nP[x] = O\nA2[x] = A\n"
    assert body(text) == ["O[x] = exp(A)", "P[x] = O", "A2[x] = A"]


def test_made_up_names_avoid_those_in_the_text() -> None:
    text = "diagram f(t1[x], A[x t2]) -> t3[x]\nt3[x] = exp(exp(t1)) + sum[t2](A)\n"
    assert [line.partition("[")[0] for line in body(text)] == ["t4", "t5", "t6", "t3"]


def test_boxes_that_no_output_needs_are_dropped() -> None:
    assert body("diagram f(A[x]) -> B[x]\nC[x] = exp(A)\nB[x] = 2 * A\n") == ["B[x] = 2 * A"]


def test_a_placed_array_has_its_box_s_name() -> None:
    text = "diagram f(A[x]) -> O[x]\nS[x] = exp(A)\nO[x] = S\non h\n at shared: S, A\n"
    (diagram,) = diagrams(text)
    assert diagram.relabellings[0].placements[0].names == ("O", "A")


def test_axes_of_an_output_lie_as_the_signature_says() -> None:
    (diagram,) = diagrams("diagram f(A[x y]) -> B[(y x)]\nB[x y] = 2 * A\n")
    assert diagram.outputs[0].dims == (("y", "x"),)


def test_a_composite_size_is_found_by_division() -> None:
    (diagram,) = diagrams("diagram f(A[(k g)], B[k]) -> C[(k g)]\nC[(k g)] = A * B\n")
    assert diagram.arguments[0].dims == (("k", "g"),)


def test_spans_lead_to_the_text() -> None:
    text = "diagram f(A[x]) -> B[x]\nB[x] = softmax[x](A) + 1\n"
    (diagram,) = diagrams(text)
    shown = {text[span.start : span.end] for span in diagram.spans}
    assert shown == {"A[x]", "softmax[x](A)", "softmax[x](A) + 1", "1"}


def test_integers_stay_integers() -> None:
    (diagram,) = diagrams(
        "diagram f(n[b]: int32) -> C[b]\nC[b] = sum[x](where(x < n, n, 0)) + 1\n".replace(
            "f(n[b]: int32)", "f(n[b]: int32, G[x])"
        )
    )
    assert [box.kind.value for box in diagram.boxes if isinstance(box, Reduce)] == ["int"]


def test_one_mistake_is_reported_once() -> None:
    text = "diagram f(A[x]) -> O[x]\nB[x] = A + nothing\nC[x] = B + B\nO[x] = C * B\n"
    with pytest.raises(NapkinError) as raised:
        diagrams(text)
    assert [each.code for each in raised.value.diagnostics] == ["N201"]


def test_a_broken_definition_is_reported_once() -> None:
    text = "def f(x) = x + nothing\ndiagram g(A[x]) -> O[x]\nO[x] = f(A) + f(2 * A)\n"
    with pytest.raises(NapkinError) as raised:
        diagrams(text + "diagram h(A[x]) -> O[x]\nO[x] = g(A)\n")
    assert [each.code for each in raised.value.diagnostics] == ["N201"]


@pytest.mark.parametrize("key", prelude(), ids=lambda key: f"{key[0]}_{key[1]}")
def test_every_definition_of_the_prelude_expands(key: tuple[str, int]) -> None:
    name, count = key
    axes = "[x]" if prelude()[key].axes else ""
    arguments = ", ".join(("A", "0.5", "2.0")[:count])
    result = "" if name in ("logsumexp", "variance") else "x"
    text = f"diagram test(A[x]) -> B[{result}]\nB[{result}] = {name}{axes}({arguments})\n"
    assert len(diagrams(text)[0].boxes) > 1


@settings(deadline=None, max_examples=300)
@given(napkin_texts())
def test_a_printed_diagram_reads_back_as_itself(text: str) -> None:
    (diagram,) = diagrams(text)
    verify(diagram)
    printed = print_diagram(diagram)
    (again,) = diagrams(printed)
    assert again == diagram
    assert print_diagram(again) == printed
