"""Streams in segments: walked side by side and merged, they mean what the diagram means."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from napkin.algebra.derive import Derivation, derive
from napkin.algebra.segments import SEGMENT_MULTIPLE, Segmented, segment
from napkin.api import parse
from napkin.diagram import verify
from napkin.emit.triton import emit_triton
from napkin.schedule.program import Compute, Loop, Region, walk
from tests.programs import EXAMPLES, arguments_of, diagram_of, example, sizes_of
from tests.strategies import napkin_texts
from tests.test_cut import opened, run_pieces, run_whole

LENGTHS = (1, SEGMENT_MULTIPLE - 1, 2 * SEGMENT_MULTIPLE + 3)
DECODE = """diagram decode(Q[b q d], K[b x d], V[b x v]) -> O[b q v]
    P[b q x] = softmax[x](where(x <= q + size(x) - size(q), sum[d](Q * K), -inf))
    O[b q v] = sum[x](P * V)

sizes b=1 q=16 x=65536 d=64 v=64
"""


def check_same(
    derivation: Derivation, segments: Segmented, sizes: dict[str, int], *, only_finite: bool = False
) -> None:
    diagram = derivation.diagram
    given = opened(diagram, arguments_of(diagram, sizes, {}, 0), sizes)
    lengths = sizes | dict(segments.walk.sizes)
    lengths |= sizes  # the stream may be shorter than the file says
    with np.errstate(all="ignore"):
        want = run_whole(diagram, given, sizes)
        got = run_pieces((segments.walk, segments.merge), given, lengths)
    for output in diagram.outputs:
        order = [diagram.boxes[output.box].axes.index(axis) for axis in output.axes]
        wanted: Any = np.transpose(want[output.name], order)
        found: Any = np.asarray(got[output.name])
        # What overflows is not 0 where a segment is empty.
        kept = np.isfinite(wanted) if only_finite else np.full(np.shape(wanted), fill_value=True)
        np.testing.assert_allclose(found[kept], wanted[kept], rtol=1e-9, atol=1e-9)


def segmented(name: str, count: int) -> tuple[Derivation, Segmented | str]:
    derivation = derive(example(name))
    return derivation, segment(derivation, count)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_in_segments_means_the_same(name: str) -> None:
    derivation, found = segmented(name, 3)
    if isinstance(found, str):
        stream = derivation.stream
        assert stream is None or len(stream.passes) > 1 or stream.passes[0].stores, found
        return
    assert derivation.stream is not None
    for each in (found.walk, found.merge):
        verify(each)
    for length in LENGTHS:
        sizes = sizes_of(derivation.diagram, {derivation.stream.axis: length}, 3)
        check_same(derivation, found, sizes)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(napkin_texts(), st.integers(1, 5), st.sampled_from(LENGTHS))
def test_random_diagrams_in_segments_mean_the_same(text: str, count: int, length: int) -> None:
    # A mask's infinity is left out by a sum; one that is multiplied is not, where a segment is empty.
    assume("inf" not in text.replace(", -inf)", ""))
    assume("-inf)) *" not in text)
    assume("/ (0)" not in text)  # an infinity too
    diagram = diagram_of(text)
    derivation = derive(diagram)
    found = segment(derivation, count)
    assume(not isinstance(found, str))
    assert isinstance(found, Segmented)
    assert derivation.stream is not None
    sizes = dict.fromkeys(diagram.axes, 3) | {derivation.stream.axis: length}
    with suppress(OverflowError):  # a maximum of integers over an empty axis has no unit
        check_same(derivation, found, sizes, only_finite=True)


def test_a_segment_is_walked_by_bounds_and_its_full_chunks_need_no_mask() -> None:
    plan = parse(DECODE).plan("h200")
    walked, merged = plan.kernels
    assert plan.segments["segment"] > 1
    assert plan.turned_down is not None
    assert plan.seconds < plan.turned_down.prediction.seconds
    assert "segment" in walked.program.grid
    assert "segment" not in merged.program.grid
    loops = [op for op in walked.program.operations if isinstance(op, Loop)]
    full, cut = loops  # a segment begins where a chunk does: none before the full ones is cut
    assert (full.region, cut.region) == (Region.FULL, Region.PARTIAL)
    assert not [op for op in walk(full.body) if isinstance(op, Compute) and op.operator == "where"]


def test_a_segment_has_the_states_of_the_whole() -> None:
    derivation, found = segmented("decode", 4)
    assert isinstance(found, Segmented)
    assert derivation.stream is not None
    walked = derive(found.walk).stream
    assert walked is not None
    assert (
        len(walked.accumulators) == len(derivation.stream.accumulators) == len(found.walk.outputs)
    )


def test_enough_groups_need_no_segments() -> None:
    plan = parse(DECODE.replace("b=1 ", "b=512 ")).plan("h200")
    assert not plan.segments
    assert len(plan.kernels) == 1


def test_an_on_block_keeps_one_kernel() -> None:
    block = "\non h200\n    group q by 16\n    stream x by 128\n"
    plan = parse(DECODE + block).plan("h200")
    assert len(plan.kernels) == 1


def test_the_module_gives_the_number_of_segments() -> None:
    plan = parse(DECODE).plan("h200")
    count = plan.segments["segment"]
    assert f"    segment = {count}\n" in emit_triton(plan)


def test_a_plan_in_segments_says_so() -> None:
    assert "segments side by side, by `segment`" in str(parse(DECODE).plan("h200"))


def test_a_later_pass_cannot_be_in_segments() -> None:
    assert isinstance(segment(derive(example("softmax")), 2), str)
