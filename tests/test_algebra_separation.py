"""What separates from what: the table of docs/algebra.md, built from napkin texts."""

from __future__ import annotations

import pytest

from napkin.algebra.derive import Derivation, derive
from napkin.algebra.separation import count_terms, has_exponential, split_carried
from napkin.algebra.show import show_derivation
from napkin.language import read
from napkin.language.source import Source

HEAD = "diagram f(S[q x], V[x v]) -> O[q v]\n"
SOFTMAX = HEAD + "    P[q x] = softmax[x](S)\n"
RUNNING = HEAD + "    m[q] = max[x](S)\n    l[q] = sum[x](exp(S - m))\n"


def derived(text: str, axis: str = "x") -> Derivation:
    return derive(read(Source("test", text))[0], axis=axis)


def terms(derivation: Derivation) -> list[str]:
    """Return every separated term as it is shown: `o: u = exp(-m) / l, w = exp(S) * V`."""
    lines = (line.strip() for line in show_derivation(derivation).splitlines())
    return [line for line in lines if ": u = " in line or ": w = " in line]


def rules(derivation: Derivation) -> list[list[str]]:
    assert derivation.stream is not None
    return [[each.rule.value for each in one.reductions] for one in derivation.stream.passes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            SOFTMAX + "    O[q v] = sum[x](P * V)\n",
            ["l: u = exp(-m), w = exp(S)", "o: u = exp(-m) / l, w = exp(S) * V"],
            id="attention",
        ),
        pytest.param(
            SOFTMAX.replace("O[q v]", "H[q]") + "    H[q] = sum[x](P * log(P))\n",
            [
                "l: u = exp(-m), w = exp(S)",
                "h: u = exp(-m) / l, w = exp(S) * S",
                "l: u = exp(-m) * -((m + log(l)) / l), w = exp(S)",
            ],
            id="entropy of the weights",
        ),
        pytest.param(
            HEAD + "    O[q v] = sum[x](l2norm[x](S) * V)\n",
            ["o: u = 1 / sqrt(l), w = S * V"],
            id="spherical",
        ),
        pytest.param(
            SOFTMAX + "    E[q v] = sum[x](P * V)\n    O[q v] = sum[x](P * (V - E) ** 2)\n",
            [
                "l: u = exp(-m), w = exp(S)",
                "e: u = exp(-m) / l, w = exp(S) * V",
                "l: w = exp(S), for the others to move by",
                "o: w = exp(S) * (V - E), for the others to move by",
                "o2: u = exp(-m) / l, w = exp(S) * (V - E) ** 2",
            ],
            id="variance under softmax weights",
        ),
    ],
)
def test_a_row_of_the_table_separates_in_one_pass(text: str, expected: list[str]) -> None:
    derivation = derived(text)
    assert terms(derivation) == expected
    assert len(rules(derivation)) == 1
    assert derivation.law_error < 1e-11


def test_a_layer_norm_then_a_linear_map_is_one_pass() -> None:
    derivation = derived(
        "diagram f(X[t d], g[d], c[d], W[d n]) -> Y[t n]\n"
        "    N[t d] = layernorm[d](X) * g + c\n    Y[t n] = sum[d](N * W)\n",
        "d",
    )
    assert rules(derivation) == [["fold", "shift", "hoist"]]
    scale = "rsqrt(l3 / size(d) + 1e-05)"
    assert terms(derivation)[-3:] == [
        "y: u = 1, w = c * W",
        f"y2: u = {scale}, w = X * g * W",
        f"y3: u = -(l / size(d) * {scale}), w = g * W",
    ]


@pytest.mark.parametrize(
    ("body", "factor"),
    [
        ("    O[q v] = sum[x](softmax[x](softmax[x](S)) * V)\n", "exp(exp(S - m) / l)"),
        (
            "    O[q v] = sum[x](sigmoid(S - mean[x](S)) * V)\n",
            "1 / (1 + exp(l / size(x) - S))",
        ),
        ("    O[q v] = sum[x](abs(S - max[x](S)) * V)\n", "abs(S - m)"),
        ("    O[q v] = sum[x](tanh(S - max[x](S)) * V)\n", "tanh(S - m)"),
        ("    O[q v] = sum[x](where(S > mean[x](S), 1, 0) * V)\n", "where(S > l / size(x), 1, 0)"),
    ],
)
def test_what_does_not_separate_names_its_factor(body: str, factor: str) -> None:
    derivation = derived(HEAD + body)
    assert len(rules(derivation)) == 2
    assert f"the factor {factor} holds x and a running value" in show_derivation(derivation)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("max[x](exp(S - m) / l)", "hoist"),
        ("max[x](S - m)", "hoist"),
        ("min[x](exp(S) * exp(m))", "hoist"),
        ("max[x](log(exp(S) * l))", "hoist"),
        ("sum[x](exp(S / 2 - m))", "carry"),
        ("sum[x](sqrt(exp(S - m)))", "carry"),
        ("sum[x](exp2(S - m))", "carry"),
        ("sum[x](2 ** (S - m))", "carry"),
        ("sum[x](where(x <= q, exp(S - m) / l, 0))", "carry"),
        ("sum[x](exp(where(x <= q, S - m, -inf)))", "carry"),
        ("sum[x](where(m > 0, S, 2) * l)", "hoist"),
        ("sum[x]((S - m) ** 3)", "shift"),
        ("sum[x]((m - S - x) ** 2)", "shift"),
        ("sum[x](l * S + m)", "hoist"),
    ],
)
def test_a_rule_makes_it_one_pass(value: str, rule: str) -> None:
    head = "diagram f(S[q x]) -> O[q]\n    m[q] = max[x](S)\n    l[q] = sum[x](exp(S - m))\n"
    derivation = derived(f"{head}    O[q] = {value}\n")
    assert [each[-1] for each in rules(derivation)] == [rule]


@pytest.mark.parametrize(
    "value",
    [
        "(S - m) / 0",  # no number
        "(S - m) ** 40",  # too many accumulators, that would cancel
        "(S - m) ** 100000",
        "(S - m) ** 8 * (S - l) ** 8 * (S + m + l) ** 8",
        "where(x <= q, S - m, inf)",
        "where(m > 0, exp(S - m), -inf)",  # an infinity that comes and goes
        "where(x <= q, exp(l - m), S)",  # infinite where it is not read
        "where(x <= q, S - m, -inf)",  # a sum of -inf
        "log(S * m)",  # not log(S) + log(m): both may be negative
        "(-2) ** (S - m)",
    ],
)
def test_what_algebra_should_not_touch_waits_for_a_second_pass(value: str) -> None:
    derivation = derived(f"{RUNNING}    O[q v] = sum[x](({value}) * V)\n")
    assert len(rules(derivation)) == 2


def test_a_value_that_moves_through_a_long_chain_is_closed_and_not_expanded() -> None:
    chain = ["    E0[q x] = S - m"]
    chain += [f"    E{i}[q x] = E{i - 1} * E{i - 1} + m" for i in range(1, 60)]
    text = f"{RUNNING}{chr(10).join(chain)}\n    O[q v] = sum[x](tanh(E59) * V)\n"
    assert len(rules(derived(text))) == 2


def test_a_factor_of_another_reduced_axis_stays_inside() -> None:
    derivation = derived(
        "diagram f(A[x], B[h], C[x h]) -> O[]\n"
        "    O[] = sum[x h](sum[x](A) * A * B + sum[x](A) + max[x](C) * C + A)\n"
    )
    assert derivation.law_error < 1e-11


def test_terms_are_counted_before_they_are_made() -> None:
    import sympy as sp

    a, b, c = sp.symbols("a b c")
    for expression in ((a + b) ** 4, (a + b + c) ** 3 * (a - b), a * b + c, (a + b) ** -2):
        opened = len(sp.Add.make_args(sp.expand(expression)))
        assert count_terms(expression) >= opened - 1
    assert count_terms((a + b) ** 100000) == 100001


def test_exponentials_are_carried_and_the_rest_waits() -> None:
    import sympy as sp

    m, length = sp.symbols("m l")
    assert split_carried(sp.exp(-m) / length) == (sp.exp(-m), 1 / length)
    assert split_carried(2 ** (-m) * length) == (2 ** (-m), length)
    assert not has_exponential(m**2 / length)


def test_an_accumulator_is_made_once() -> None:
    derivation = derived(SOFTMAX + "    O[q v] = sum[x](P * V) / sum[x](exp(S - max[x](S)))\n")
    assert derivation.stream is not None
    assert [each.name for each in derivation.stream.accumulators] == ["m", "l", "l2"]


def test_a_sum_over_more_axes_is_another_accumulator() -> None:
    derivation = derived(
        "diagram f(A[x d]) -> B[d]\n    B[d] = sum[x](A * sum[x d](A)) + max[x](A - max[x d](A))\n"
    )
    assert derivation.stream is not None
    axes = [each.axes for each in derivation.stream.accumulators]
    assert sorted(axes) == [(), (), ("d",), ("d",)]


def test_a_count_is_kept_only_where_a_mean_needs_it() -> None:
    mean = derived("diagram f(S[q x]) -> O[q]\n    O[q] = variance[x](S)\n")
    weighted = derived(
        SOFTMAX + "    E[q v] = sum[x](P * V)\n    O[q v] = sum[x](P * (V - E) ** 2)\n"
    )
    names = [
        [each.name for each in derivation.stream.accumulators if derivation.stream]
        for derivation in (mean, weighted)
        if derivation.stream
    ]
    assert "count" in names[0]
    assert "count" not in names[1]
