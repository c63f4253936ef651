"""Cut diagrams: the pieces together mean the whole, and every one is a diagram like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napkin.algebra.cut import cut
from napkin.algebra.derive import derive
from napkin.algebra.stored import stored_types
from napkin.diagram import (
    Box,
    Diagram,
    Gather,
    Leaf,
    Reduce,
    operands_of,
    print_diagram,
    topological,
    verify,
)
from napkin.evaluate import evaluate, open_dims
from napkin.language import read
from napkin.language.source import Source
from napkin.schedule.planning.plan import storage_types
from tests.programs import EXAMPLES, arguments_of, diagram_of, example, sizes_of
from tests.strategies import napkin_texts

CHAIN = """diagram chain(A[m k], B[k n], C[n p]) -> D[m p]
    T[m n] = sum[k](A * B)
    D[m p] = sum[n](T * C)
"""
NORM = """diagram norm(A[b e], W[e d]) -> O[b d]
    M[b] = mean[e](A)
    Y[b e] = A - M
    O[b d] = sum[e](Y * W)
"""
TWO = """diagram two(A[b e], W[e d]) -> H[b d], Z[b]
    H[b d] = sum[e](A * W)
    Z[b] = sum[d](exp(H))
"""

BESIDE = """diagram beside(A[m k], B[k n], C[n p], D[m n]) -> E[m p], F[m], G[m], H[m n]
    T[m n] = sum[k](A * B)
    U[m n] = sum[k](A * B * 2.0)
    V[m n] = sum[k](A * B * 3.0)
    E[m p] = sum[n](T * C) + sum[n](V * C)
    F[m] = sum[n](T * D)
    G[m] = sum[n](U * D)
    H[m n] = exp(V)
"""
ALIKE = """diagram alike(A[b m k], B[b n k], C[b n m], P[n p]) -> D[b m p], E[b n m]
    T[b m n] = sum[k](A * B)
    D[b m p] = sum[n](T * P)
    E[b n m] = C + T
"""
PICKED = """diagram picked(X[b q e], W[e f]) -> O[b q f]
    T[b x f] = sum[e](X[b, x, e] * W)
    O[b q f] = sum[x](where(x == q, T, 0.0))
"""


def computed(diagram: Diagram) -> list[int]:
    """Return the boxes that may be kept."""
    needed = topological(diagram.boxes, [each.box for each in diagram.outputs])
    return sorted(each for each in needed if not isinstance(diagram.boxes[each], Leaf))


def pieces_of(diagram: Diagram, *names: str) -> tuple[Diagram, ...]:
    kept = [diagram.names.index(name) for name in names]
    return cut(diagram, kept, storage_types(diagram, "bf16"))


def opened(diagram: Diagram, arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    return {
        each.name: open_dims(np.asarray(arguments[each.name]), each.dims, sizes)
        for each in diagram.arguments
    }


def run_whole(diagram: Diagram, given: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    roots = [each.box for each in diagram.outputs]
    values = evaluate(diagram.boxes, roots, given, sizes)
    return {each.name: values[each.box] for each in diagram.outputs}


def run_pieces(
    pieces: tuple[Diagram, ...], given: Mapping[str, Any], sizes: Mapping[str, int]
) -> Any:
    """Evaluate pieces in turn; what one gives, the next ones may read."""
    known = dict(given)
    for piece in pieces:
        arguments = {each.name: known[each.name] for each in piece.arguments}
        values = evaluate(piece.boxes, [each.box for each in piece.outputs], arguments, sizes)
        for output in piece.outputs:
            box = piece.boxes[output.box]
            order = [box.axes.index(axis) for axis in output.axes]
            known[output.name] = np.transpose(values[output.box], order)
    return known


def check_same(diagram: Diagram, pieces: tuple[Diagram, ...], sizes: Mapping[str, int]) -> None:
    arguments = opened(diagram, arguments_of(diagram, sizes, {}, 0), sizes)
    with np.errstate(all="ignore"):
        want = run_whole(diagram, arguments, sizes)
        got = run_pieces(pieces, arguments, sizes)
    for output in diagram.outputs:
        box = diagram.boxes[output.box]
        order = [box.axes.index(axis) for axis in output.axes]
        np.testing.assert_array_equal(got[output.name], np.transpose(want[output.name], order))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(napkin_texts(), st.data())
def test_pieces_mean_what_the_whole_means(text: str, data: st.DataObject) -> None:
    diagram = diagram_of(text)
    kept = data.draw(st.sets(st.sampled_from(computed(diagram))))
    pieces = cut(diagram, kept, storage_types(diagram, "bf16"))
    sizes = dict.fromkeys(diagram.axes, 3) | dict(diagram.sizes)
    for each in pieces:
        verify(each)
    with suppress(OverflowError):  # a maximum of integers over an empty axis has no unit
        check_same(diagram, pieces, sizes)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(napkin_texts(), st.data())
def test_names_of_pieces_and_arrays_are_unique(text: str, data: st.DataObject) -> None:
    diagram = diagram_of(text)
    kept = data.draw(st.sets(st.sampled_from(computed(diagram)), min_size=1))
    pieces = cut(diagram, kept, storage_types(diagram, "bf16"))
    assert len({each.name for each in pieces}) == len(pieces)
    given_by = [output.name for each in pieces for output in each.outputs]
    assert len(set(given_by)) == len(given_by)
    assert not set(given_by) & {each.name for each in diagram.arguments}
    assert {each.name for each in diagram.outputs} <= set(given_by)
    for each in pieces:
        arguments = {one.name for one in each.arguments}
        assert len(arguments) == len(each.arguments)
        assert not arguments & set(each.axes)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_may_be_cut_at_every_box(name: str) -> None:
    diagram = example(name)
    sizes = sizes_of(diagram, {}, 4)
    types = storage_types(diagram, "bf16")
    for each in computed(diagram):
        pieces = cut(diagram, [each], types)
        check_same(diagram, pieces, sizes)
    check_same(diagram, cut(diagram, computed(diagram), types), sizes)


def what(box: Box) -> tuple[Any, ...]:
    """Return what a box does, wherever it stands in its list."""
    return type(box), getattr(box, "operator", None), getattr(box, "over", None), box.axes


def known_axes(piece: Diagram) -> set[str]:
    return {axis for each in piece.arguments for axis in each.axes}


@pytest.mark.parametrize("name", ["attention", "layernorm", "mlp", "gqa"])
def test_a_piece_is_a_diagram_that_reads_back_as_itself(name: str) -> None:
    diagram = example(name)
    for kept in computed(diagram):
        for piece in cut(diagram, [kept], storage_types(diagram, "bf16")):
            if all(axis in known_axes(piece) for axis in piece.axes):
                again = read(Source("piece.napkin", print_diagram(piece)))[0]
                assert Counter(map(what, again.boxes)) == Counter(map(what, piece.boxes))
                assert (again.arguments, again.sizes) == (piece.arguments, piece.sizes)


def test_what_a_contraction_alone_reads_is_kept_as_it_rounds() -> None:
    first, second = pieces_of(diagram_of(CHAIN), "T")
    assert [each.dtype for each in first.outputs] == ["bf16"]
    assert second.argument("T").dtype == "bf16"
    assert str(first).splitlines()[0] == "diagram chain_1(A[m k], B[k n]) -> T[m n]: bf16"
    assert str(second).splitlines()[0] == "diagram chain_2(C[n p], T[m n]: bf16) -> D[m p]"


def test_what_anything_else_reads_is_kept_in_fp32() -> None:
    diagram = diagram_of(NORM)
    types = stored_types(diagram, storage_types(diagram, "bf16"))
    by_name = {diagram.names[each]: dtype for each, dtype in types.items()}
    assert by_name["M"] == "fp32"
    assert by_name["Y"] == "bf16"


def test_what_a_contraction_and_a_sum_of_products_read_is_kept_as_the_contraction_rounds_it() -> (
    None
):
    diagram = diagram_of(BESIDE)
    types = stored_types(diagram, storage_types(diagram, "bf16"))
    by_name = {diagram.names[each]: dtype for each, dtype in types.items()}
    assert by_name["T"] == "bf16"
    assert by_name["U"] == "fp32"  # no contraction reads it
    assert by_name["V"] == "fp32"  # an exponential reads it as well


def test_a_kept_box_lies_like_an_array_of_its_axes() -> None:
    first, _ = pieces_of(diagram_of(ALIKE), "T")
    assert [each.dims for each in first.outputs] == [(("b",), ("n",), ("m",))]


def test_a_piece_reads_what_a_sum_picks() -> None:
    *_, last = pieces_of(diagram_of(PICKED), "T")
    assert not any(isinstance(box, Reduce) for box in last.boxes)
    assert any(isinstance(box, Gather) for box in last.boxes)


def test_an_output_that_others_read_is_kept_beside_it_where_it_is_rounded() -> None:
    diagram = diagram_of(TWO)
    first, second = pieces_of(diagram, "H")
    assert [(each.name, each.dtype) for each in first.outputs] == [
        ("H", None),
        ("H_kept", "fp32"),
    ]
    assert [each.name for each in second.arguments] == ["H_kept"]


def test_an_output_in_the_type_that_others_read_is_kept_once() -> None:
    first, second = pieces_of(diagram_of(TWO.replace("H[b d],", "H[b d]: fp32,")), "H")
    assert [(each.name, each.dtype) for each in first.outputs] == [("H", "fp32")]
    assert [each.name for each in second.arguments] == ["H"]


def test_an_axis_that_only_a_size_speaks_of_is_an_axis_of_the_piece() -> None:
    diagram = diagram_of(NORM)
    mean = diagram.names.index("M")
    (total,) = [each for each in computed(diagram) if each < mean]
    _, rest = cut(diagram, [total, mean], storage_types(diagram, "bf16"))[:2]
    assert "e" in rest.axes
    assert [each.name for each in rest.arguments] == ["sum_e"]


def test_a_cut_that_keeps_nothing_is_the_diagram() -> None:
    diagram = diagram_of(CHAIN)
    types = storage_types(diagram, "bf16")
    assert cut(diagram, [], types) == (diagram,)
    assert cut(diagram, [diagram.outputs[0].box], types) == (diagram,)
    assert cut(diagram, [0], types) == (diagram,)  # an argument is in global memory already


def test_a_read_at_another_label_is_an_argument_with_that_label() -> None:
    text = """diagram self(X[b q e], W[h e d]) -> O[b q h x]
    K[b x h d] = sum[e](X[b, x, e] * W)
    Q[b q h d] = sum[e](X * W)
    O[b q h x] = sum[d](Q * K)

sizes b=2 q=48 e=16 h=2 d=8
"""
    _, keys, last = pieces_of(diagram_of(text), "K", "Q")
    assert [each.axes for each in keys.arguments] == [("b", "x", "e"), ("h", "e", "d")]
    assert not any(isinstance(box, Gather) for box in keys.boxes)
    assert dict(last.sizes) == {"b": 2, "q": 48, "x": 48, "h": 2, "d": 8}
    assert derive(last).diagram is last


TWO_WAYS = """diagram two(A[q d], B[x d], C[q e], D[x e]) -> E[q e], F[x e]
    S[q x] = exp(sum[d](A * B))
    E[q e] = sum[x](S * D)
    F[x e] = sum[q](S * C)
"""


def test_one_piece_gives_what_is_kept_together() -> None:
    diagram = diagram_of(TWO_WAYS)
    boxes = {each.name: each.box for each in diagram.outputs}
    types = dict.fromkeys("ABCDEF", "fp32")
    apart = cut(diagram, boxes.values(), types)
    joined = cut(diagram, boxes.values(), types, [frozenset(boxes.values())])
    assert [[each.name for each in piece.outputs] for piece in apart] == [["E"], ["F"]]
    assert joined == (diagram,)


def test_what_only_its_own_piece_reads_is_not_kept() -> None:
    diagram = diagram_of(
        CHAIN.replace("-> D[m p]", "-> D[m p], R[m]") + "    R[m] = sum[n](T) + 1.0\n"
    )
    scores, rows = (diagram.names.index(name) for name in ("T", "R"))
    (total,) = (each for each in operands_of(diagram.boxes[rows]) if diagram.boxes[each].axes)
    types = storage_types(diagram, "bf16")
    pieces = cut(diagram, [scores, total, rows], types, together=[[total, rows]])
    given = [[output.name for output in each.outputs] for each in pieces]
    assert ["R"] in given
    assert sum(len(each) for each in given) == 3
    check_same(diagram, pieces, dict.fromkeys("mknp", 4))


def test_pieces_that_would_wait_for_each_other_are_refused() -> None:
    diagram = diagram_of(
        """diagram f(A[x]) -> D[x]
    B[x] = exp(A)
    C[x] = exp(B)
    D[x] = exp(C)
"""
    )
    kept = dict(zip("BCD", computed(diagram), strict=True))
    types = {"A": "fp32", "D": "fp32"}
    with pytest.raises(ValueError, match="wait for the other"):
        cut(diagram, kept.values(), types, [frozenset({kept["B"], kept["D"]})])
