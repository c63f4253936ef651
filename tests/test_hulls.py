"""Hulls of masks that compare data: nothing that a mask lets through is skipped, whatever the data are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napkin.algebra.derive import derive
from napkin.algebra.hulls import derive_hull, find_comparisons, with_hull
from napkin.diagram import Diagram
from napkin.evaluate import reference
from napkin.machine import load_machine
from napkin.schedule.execute import Execution
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.planning.plan import Plan, make_plan
from tests.programs import (
    Array,
    Tiles,
    arguments_of,
    diagram_of,
    example,
    lower_by,
    run,
)

NUMBERS = ("first_x", "stop_x", "sure_first_x", "sure_stop_x")
OPERATORS = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
FAR = 2**31 - 1


def masked(mask: str) -> Diagram:
    return diagram_of(
        "diagram f(Q[b q d], K[b x d], V[b x v], r[b q]: int32, p[b x]: int32) -> O[b q v]\n"
        "    S[b q x] = sum[d](Q * K)\n"
        f"    O[b q v] = sum[x](softmax[x](where({mask}, S, -inf)) * V)\n"
    )


def hulls_of(
    diagram: Diagram, sizes: dict[str, int], labels: dict[str, Array], tiles: Tiles
) -> tuple[list[Execution], Execution]:
    """Run the kernels of a diagram's hulls, then the diagram's own with their numbers as bounds."""
    derivation = rewrite(derive(diagram))
    arguments: dict[str, Any] = arguments_of(diagram, sizes, {}, 0) | labels
    known, found = dict(arguments), []
    for number, each in enumerate(find_comparisons(derivation)):
        taken = {name for name in known if name not in arguments}
        hull = rewrite(derive_hull(derivation, each, f"hull{number}", taken))
        made = run(lower_by(hull, sizes, tiles), known, sizes)
        known |= made.outputs
        found.append(made)
        derivation = with_hull(derivation, each, hull.diagram.outputs)
    result = run(lower_by(derivation, sizes, tiles), known, sizes)
    wanted = reference(diagram, arguments)["O"]
    assert np.abs(result.outputs["O"] - wanted).max() < 1e-12
    return found, result


def labels_of(draw: Any, sizes: dict[str, int]) -> dict[str, Array]:
    """Draw labels: few or many, sorted or not, near the ends of their type or not."""
    high = draw(st.sampled_from([1, 2, 5, 100]))
    far = draw(st.sampled_from([0, 0, 0, FAR, -FAR]))
    made: dict[str, Array] = {}
    for name, axis in (("r", "q"), ("p", "x")):
        count = sizes["b"] * sizes[axis]
        flat = draw(st.lists(st.integers(0, high), min_size=count, max_size=count))
        value = np.array(flat, dtype=np.int64).reshape(sizes["b"], sizes[axis])
        value = np.sort(value, axis=1) if draw(st.booleans()) else value
        made[name] = value * (-1 if far > 0 else 1) + far
    return made


@st.composite
def cases(draw: Any) -> tuple[dict[str, int], dict[str, Array], Tiles]:
    sizes = {"b": draw(st.integers(1, 2)), "q": draw(st.integers(1, 21))}
    sizes |= {"x": draw(st.integers(1, 25)), "d": 2, "v": 2}
    tiles = Tiles(draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([2, 4, 8])))
    return sizes, labels_of(draw, sizes), tiles


@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_a_hull_holds_all_that_a_row_sees_and_its_sure_part_nothing_else(
    operator: str, case: tuple[dict[str, int], dict[str, Array], Tiles]
) -> None:
    sizes, labels, tiles = case
    (hull,), _ = hulls_of(masked(f"r[b, q] {operator} p[b, x]"), sizes, labels, tiles)
    truth = OPERATORS[operator](labels["r"][:, :, None], labels["p"][:, None, :])
    first, stop, sure_first, sure_stop = (hull.outputs[each][:, :, None] for each in NUMBERS)
    x = np.arange(sizes["x"])
    assert not (truth & ~((first <= x) & (x < stop))).any(), "a position that matters is skipped"
    assert truth[(sure_first <= x) & (x < sure_stop)].all(), "a mask is left out where it matters"


@pytest.mark.parametrize(
    "mask",
    [
        "x <= q and r[b, q] == p[b, x]",
        "p[b, x] == r[b, q] and p[b, x] >= r[b, q]",
        "not (r[b, q] < p[b, x]) or x <= q",
        "not (x <= q and r[b, q] != p[b, x])",
        "x // 4 == q // 4",
        "r[b, q] * 2 - 1 <= p[b, x] + x",
    ],
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_masks_of_several_comparisons_skip_nothing_that_they_let_through(
    mask: str, case: tuple[dict[str, int], dict[str, Array], Tiles]
) -> None:
    sizes, labels, tiles = case
    labels = {name: np.clip(value, -1000, 1000) for name, value in labels.items()}
    found, _ = hulls_of(masked(mask), sizes, labels, tiles)
    assert found


def test_sorted_documents_walk_no_chunk_of_another_document() -> None:
    sizes = {"b": 1, "q": 64, "x": 64, "d": 2, "v": 2}
    labels = np.repeat(np.arange(4), 16)[None]
    mask, tiles = "x <= q and r[b, q] == p[b, x]", Tiles(8, 8)
    _, result = hulls_of(masked(mask), sizes, {"r": labels, "p": labels}, tiles)
    # Of a document's two tiles of rows the first sees one chunk, the second two, the last of each masked.
    assert sum(result.steps.values()) == 4 * 3
    assert sum(steps for (_, region), steps in result.steps.items() if region == "full") == 4


def test_rows_that_see_nothing_give_nothing() -> None:
    sizes = {"b": 1, "q": 20, "x": 24, "d": 2, "v": 2}
    labels = {"r": np.full((1, 20), 7), "p": np.arange(24)[None] % 5}
    _, result = hulls_of(masked("r[b, q] == p[b, x]"), sizes, labels, Tiles(4, 4))
    assert not result.outputs["O"].any()
    assert not sum(result.steps.values())


@pytest.mark.parametrize(
    "mask", ["x <= q", "r[b, q] <= x", "(q - x) % 2 == 0", "S > 0", "p[b, x] == x"]
)
def test_other_masks_have_no_hull(mask: str) -> None:
    assert not find_comparisons(derive(masked(mask)))


def document_plan(machine: str, **sizes: int) -> Plan:
    given = {"b": 4, "h": 16, "q": 4096, "x": 4096, "d": 128, "v": 128} | sizes
    return make_plan(derive(example("document")), load_machine(machine), sizes=given)


@pytest.mark.parametrize("machine", ["h200", "a100"])
def test_a_plan_finds_hulls_before_the_kernel_that_they_bound(machine: str) -> None:
    hull, kernel = document_plan(machine).kernels
    assert [each.name for each in hull.program.outputs] == list(NUMBERS)
    assert not {"h", "d"} & set(hull.program.grid), "all heads share a hull"
    assert hull.prediction.seconds < 0.1 * kernel.prediction.seconds
    assert set(NUMBERS) <= {each.name for each in kernel.printed.arrays}


def test_a_short_kernel_is_not_worth_a_hull() -> None:
    assert len(document_plan("h200", b=1, h=1, q=128, x=128).kernels) == 1


def test_the_kernels_of_a_plan_give_what_the_diagram_means() -> None:
    plan = document_plan("h200", d=16, v=16)
    diagram = example("document")
    sizes = {"b": 2, "h": 2, "q": 150, "x": 300, "d": 16, "v": 16}
    arguments: dict[str, Any] = arguments_of(diagram, sizes, {}, 0)
    known = dict(arguments)
    for kernel in plan.kernels:
        known |= run(kernel.printed, known, sizes).outputs
    wanted = reference(diagram, arguments)["O"]
    assert np.abs(known["O"] - wanted).max() < 1e-12
