"""Sums that pick one position: what they become, what they mean, and which sums are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napkin.algebra.picks import without_picks
from napkin.diagram import Diagram, Gather, Reduce
from napkin.evaluate import reference
from tests.programs import diagram_of

PICKED = """
diagram picked(A[b x e], Q[b q]) -> O[b q e]
    O[b q e] = sum[x](where(x == q, exp(A), 0.0))
"""
TURNED = """
diagram turned(A[x e], Q[q]) -> O[q e]
    O[q e] = sum[x](where(q == x, A * Q, 0.0))
"""
AMONG = """
diagram among(A[x y], B[x], Q[q]) -> O[q]
    O[q] = sum[x y](where(x == q, A, 0.0) * B)
"""
BESIDE = """
diagram beside(A[x e], Q[q]) -> O[q e]
    O[q e] = sum[x](where(x == 2 * q - size(x) // 2, exp(A), 0.0) * Q)
"""
ALONG = """
diagram along(A[x y], Q[q]) -> O[q]
    O[q] = sum[x y](where(x == y + q - 3, A, 0.0) * Q)
"""
BY_DATA = """
diagram by_data(A[x], Q[q], place[q]: int32) -> O[q]
    O[q] = sum[x](where(x == place, A, 0.0)) + Q
"""
ITSELF = """
diagram itself(A[x], Q[q]) -> O[q]
    O[q] = sum[x](where(x == q - x, A, 0.0)) + Q
"""
SUMMED = """
diagram summed(A[x e], Q[q]) -> O[q]
    O[q] = sum[x](where(x == q, sum[e](A), 0.0))
"""
OTHERWISE = """
diagram otherwise(A[x], Q[q]) -> O[q]
    O[q] = sum[x](where(x == q, A, 1.0))
"""
NEAR = """
diagram near(A[x], Q[q]) -> O[q]
    O[q] = sum[x](where(x <= q, A, 0.0))
"""


def reductions(diagram: Diagram) -> list[tuple[str, ...]]:
    return [box.over for box in diagram.boxes if isinstance(box, Reduce)]


@pytest.mark.parametrize(
    ("text", "left"),
    [(PICKED, []), (TURNED, []), (AMONG, [("y",)]), (BESIDE, []), (ALONG, [("y",)])],
    ids=["one", "turned", "among", "beside", "along"],
)
@pytest.mark.parametrize("lengths", [(5, 5), (4, 7), (7, 4)], ids=["alike", "past", "short"])
def test_what_is_picked_is_read(
    text: str, left: list[tuple[str, ...]], lengths: tuple[int, int]
) -> None:
    diagram = diagram_of(text)
    found = without_picks(diagram)
    assert reductions(found) == left
    assert any(isinstance(box, Gather) for box in found.boxes)
    sizes = {"x": lengths[0], "q": lengths[1], "b": 2, "e": 3, "y": 3}
    generator = np.random.default_rng(3)
    given = {
        each.name: generator.standard_normal([sizes[axis] for axis in each.axes])
        for each in diagram.arguments
    }
    for name, expected in reference(diagram, given).items():
        np.testing.assert_allclose(reference(found, given)[name], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "text",
    [SUMMED, OTHERWISE, NEAR, BY_DATA, ITSELF],
    ids=["sum", "otherwise", "near", "data", "itself"],
)
def test_other_sums_stay(text: str) -> None:
    diagram = diagram_of(text)
    assert without_picks(diagram) is diagram


def test_what_its_parts_are_added_up_over_stays_a_sum() -> None:
    diagram = diagram_of(ALONG)
    for axis, is_picked in (("x", False), ("y", True)):
        outputs = tuple(replace(each, added=(axis,)) for each in diagram.outputs)
        found = without_picks(replace(diagram, outputs=outputs))
        assert reductions(found) == ([("y",)] if is_picked else [("x", "y")])
