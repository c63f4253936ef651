"""Upper bounds in a mask joined: the same results by the executor, one test less an element."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napkin.operators import Kind
from napkin.schedule.lowering.bounds import join_bounds
from napkin.schedule.program import Compute, Length, Literal, Program, walk
from tests.programs import (
    Tiles,
    arguments_of,
    diagram_of,
    example,
    program_of,
    run,
    sizes_of,
    worst_error,
)

SIZES = {"b": 2, "h": 3, "q": 37, "x": 45, "d": 7, "v": 5}
TILES = Tiles(16, 16)


def masks_of(program: Program) -> Counter[str]:
    """Return how often a mask over rows and positions is tested or joined, by operator."""
    return Counter(
        op.operator
        for op in walk(program.operations)
        if isinstance(op, Compute) and op.tile.kind is Kind.BOOL
    )


def same_results(text_or_name: str, sizes: dict[str, int], seed: int = 0) -> Program:
    """Check that a program with joined bounds gives the same, and return it."""
    diagram = diagram_of(text_or_name) if "\n" in text_or_name else example(text_or_name)
    sizes = sizes_of(diagram, sizes, 5)
    arguments = arguments_of(diagram, sizes, {"width": 50}, seed)
    program = program_of(diagram, sizes, TILES)
    joined = join_bounds(program)
    plain, short = (run(each, arguments, sizes).outputs for each in (program, joined))
    assert plain.keys() == short.keys()
    for name, value in plain.items():
        assert (value == short[name]).all()
    return joined


@pytest.mark.parametrize(
    ("name", "before", "behind"),
    [
        ("causal", {"le": 1, "lt": 1, "and": 1}, {"le": 1}),
        ("window", {"le": 2, "lt": 2, "gt": 2, "and": 4}, {"le": 2, "gt": 2, "and": 2}),
        ("attention", {"lt": 1}, {"lt": 1}),
    ],
)
def test_an_element_is_tested_once_for_all_upper_bounds(
    name: str, before: dict[str, int], behind: dict[str, int]
) -> None:
    diagram = example(name)
    program = program_of(diagram, sizes_of(diagram, SIZES, 5), TILES)
    assert masks_of(program) == before
    assert masks_of(join_bounds(program)) == behind
    same_results(name, SIZES)


MASKS = (
    "x <= q",
    "x < q",
    "x < width",
    "x <= q and x < width",
    "q - x < width and x <= q",
    "x <= q or x < 3",
    "x <= q and (x < width and q >= 2)",
    "x < width and x <= width",
    "q <= x and x <= q",
)


@given(
    mask=st.sampled_from(MASKS),
    other=st.sampled_from(MASKS),
    rows=st.integers(1, 40),
    keys=st.integers(1, 40),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_mask_lets_the_same_through(
    mask: str, other: str, rows: int, keys: int, seed: int
) -> None:
    text = (
        "diagram f(Q[q d], K[x d], V[x v], width: int) -> O[q v]\n"
        "    S[q x] = sum[d](Q * K)\n"
        f"    P[q x] = softmax[x](where(({mask}) and ({other}), S, -inf))\n"
        "    O[q v] = sum[x](P * V)\n"
    )
    same_results(text, {"q": rows, "x": keys, "d": 3, "v": 2}, seed)


def test_a_test_that_is_read_elsewhere_stays() -> None:
    text = (
        "diagram f(Q[q d], K[x d], V[x v]) -> O[q v], N[q]\n"
        "    S[q x] = sum[d](Q * K)\n"
        "    M[q x] = x <= q\n"
        "    O[q v] = sum[x](where(M and x < 20, exp(S), 0) * V)\n"
        "    N[q] = sum[x](where(M, S, 0))\n"
    )
    same_results(text, {"q": 33, "x": 33, "d": 3, "v": 2})


@pytest.mark.parametrize("limit", [-(2**31), -1, 0, 5, 2**31 - 1])
@pytest.mark.parametrize("test", ["x < limit and x <= q", "x <= limit", "x < limit and x < q"])
def test_no_limit_that_data_hold_overflows(limit: int, test: str) -> None:
    text = (
        "diagram f(S[q x], V[x v], limit[q]: int32) -> O[q v]\n"
        f"    O[q v] = sum[x](softmax[x](where({test}, S, -inf)) * V)\n"
    )
    diagram, sizes = diagram_of(text), {"q": 21, "x": 19, "v": 3}
    arguments = arguments_of(diagram, sizes, {}, 0)
    arguments["limit"] = np.where(np.arange(21) % 3, limit, 7).astype(np.int32)
    plain = program_of(diagram, sizes, Tiles(4, 4))
    program = join_bounds(plain)
    assert worst_error(run(program, arguments, sizes).outputs, diagram, arguments) < 1e-12
    # The executor's integers do not overflow: nothing may be taken from what was read.
    known = [op.operands for op in walk(plain.operations) if isinstance(op, Compute)]
    for op in walk(program.operations):
        if isinstance(op, Compute) and op.operator == "sub" and op.operands not in known:
            assert isinstance(op.operands[0], Length | Literal)
