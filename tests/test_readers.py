"""Sums over what is read at positions from data, along each place's readers in order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napkin.algebra.cut import Cutter
from napkin.algebra.derive import derive
from napkin.algebra.gradient import differentiate
from napkin.algebra.readers import Ordered, in_order
from napkin.diagram import Diagram, implied_sizes, print_diagram, storage_types
from napkin.emit.triton.spelling import spell
from napkin.evaluate import evaluate
from napkin.machine import load_machine
from napkin.schedule.execute import execute
from napkin.schedule.planning.plan import make_plan
from napkin.schedule.planning.points import cut_points
from napkin.schedule.program import Load, walk
from tests.programs import diagram_of, example

TABLE = """diagram embedding(X[b q d], T[v d], index[b q]: int32) -> O[b q d]
    O[b q d] = X * T[index[b, q], d]

sizes b=4 q=2048 d=64 v=32000
"""
PER_HEAD = """diagram bias(X[h q], T[h v], index[h q]: int32) -> O[h q]
    O[h q] = X + 2 * T[h, index[h, q]]

sizes h=8 q=4096 v=8192
"""


def pieces_of(diagram: Diagram) -> list[tuple[Diagram, Ordered]]:
    """Return the pieces of a gradient whose sums go along readers, with what they become."""
    backward = differentiate(diagram).backward
    implied, lengths = implied_sizes(backward), dict(backward.sizes)
    lengths |= {axis: each.length(lengths) for axis, each in implied.items()}
    cutter = Cutter(backward, storage_types(backward, "bf16"))
    pieces = cutter.pieces(cut_points(backward), (), {})
    found = ((each, in_order(each, implied, lengths, ())) for each in pieces)
    return [(piece, ordered) for piece, ordered in found if ordered is not None]


def values_of(diagram: Diagram, arrays: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """Return a diagram's outputs, their axes in the order of the signature."""
    boxes = [each.box for each in diagram.outputs]
    found = evaluate(diagram.boxes, boxes, arrays, sizes)
    return {
        each.name: np.transpose(
            found[each.box], [diagram.boxes[each.box].axes.index(axis) for axis in each.axes]
        )
        for each in diagram.outputs
    }


def assert_same(
    piece: Diagram, ordered: Ordered, sizes: dict[str, int], data: dict[str, Any]
) -> dict[str, Any]:
    """Compare a piece with its sum along readers; return what both give."""
    random = np.random.default_rng(0)
    arrays = {
        each.name: data[each.name]
        if each.name in data
        else random.normal(size=[sizes[axis] for axis in each.axes])
        for each in piece.arguments
    }
    wanted = values_of(piece, arrays, sizes)
    sizes = sizes | {axis: each.length(sizes) for axis, each in ordered.implied.items()}
    for each in ordered.before:
        arrays |= values_of(each, arrays, sizes)
    found = values_of(ordered.diagram, arrays, sizes)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12)
    return found


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_pages_read_by_many_or_by_none(data: st.DataObject) -> None:
    b, n, p = (data.draw(st.integers(1, 5), label=name) for name in "bnp")
    sizes = {"b": b, "n": n, "p": p, "x": 16 * n, "s": 16, "k": 1, "d": 3, "v": 3, "g": 1, "q": 1}
    read = data.draw(st.lists(st.integers(0, p - 1), min_size=b * n, max_size=b * n))
    page = np.array(read).reshape(b, n)
    pieces = pieces_of(example("paged_decode"))
    assert len(pieces) == 2
    for piece, ordered in pieces:
        (found,) = assert_same(piece, ordered, sizes, {"page": page}).values()
        for each in set(range(p)) - set(read):
            assert not found[each].any()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_rows_of_a_table(data: st.DataObject) -> None:
    b, q, v = (data.draw(st.integers(1, 6), label=name) for name in "bqv")
    read = data.draw(st.lists(st.integers(0, v - 1), min_size=b * q, max_size=b * q))
    index = np.array(read).reshape(b, q)
    ((piece, ordered),) = pieces_of(diagram_of(TABLE))
    assert_same(piece, ordered, {"b": b, "q": q, "v": v, "d": 3}, {"index": index})


def test_a_table_of_each_head() -> None:
    ((piece, ordered),) = pieces_of(diagram_of(PER_HEAD))
    index = np.random.default_rng(1).integers(0, 5, (3, 7))
    assert_same(piece, ordered, {"h": 3, "q": 7, "v": 5}, {"index": index})
    assert "first_" in print_diagram(ordered.diagram)


def test_slots_longer_than_a_step_are_read_by_none() -> None:
    text = example("paged_decode")
    longer = {"b": 2, "n": 3, "p": 4, "x": 48, "s": 20, "k": 1, "d": 2, "v": 2, "g": 1, "q": 1}
    page = np.array([[0, 3, 3], [1, 0, 0]])
    backward = differentiate(text).backward
    cutter = Cutter(backward, storage_types(backward, "bf16"))
    count = 0
    for piece in cutter.pieces(cut_points(backward), (), {}):
        ordered = in_order(piece, implied_sizes(backward), longer, ())
        if ordered is not None:
            resized = in_order(with_sizes(piece, longer), implied_sizes(backward), longer, ())
            assert resized is not None
            assert resized.fixed == ("s",)
            (found,) = assert_same(piece, resized, longer, {"page": page}).values()
            assert not found[:, 16:].any()
            count += 1
    assert count == 2


def with_sizes(diagram: Diagram, sizes: dict[str, int]) -> Diagram:
    """Return a diagram of other lengths."""
    return replace(diagram, sizes=tuple((axis, sizes[axis]) for axis, _ in diagram.sizes))


def test_a_small_table_is_compared_with_every_read() -> None:
    """Its plan takes no more kernels than outputs: to put readers in order would take longer."""
    text = TABLE.replace("v=32000", "v=16").replace("q=2048", "q=128")
    plan = make_plan(derive(differentiate(diagram_of(text)).backward), load_machine("h100"))
    assert not any(each.before for each in plan.kernels)


def test_programs_walk_the_readers() -> None:
    """The plan orders the readers first, and its Programs, at a few positions, give the gradient."""
    backward = differentiate(diagram_of(TABLE)).backward
    plan = make_plan(derive(backward), load_machine("h100")).plain
    assert any(each.before for each in plan.kernels)
    few = {"b": 2, "q": 9, "d": 64, "v": 5, "h": 3}
    sizes = {axis: few[axis] for axis in backward.axes}
    random = np.random.default_rng(2)
    arrays: dict[str, Any] = {}
    for each in backward.arguments:
        shape = [sizes[axis] for axis in each.axes]
        drawn = random.integers(0, sizes["v"], shape) if each.dtype == "int32" else None
        arrays[each.name] = random.normal(size=shape) if drawn is None else drawn
    wanted = values_of(backward, dict(arrays), sizes)
    every = sizes | {axis: each.length(sizes) for axis, each in plan.implied.items()}
    for kernel in plan.kernels:
        arrays |= execute(kernel.program, arrays, {}, every).outputs
    for name, value in wanted.items():
        np.testing.assert_allclose(arrays[name], value, rtol=1e-9, atol=1e-9)


def test_the_pages_of_a_cache_are_not_compared_one_by_one() -> None:
    plan = make_plan(derive(differentiate(example("paged_decode")).backward), load_machine("h100"))
    assert plan.is_deterministic
    assert plan.seconds < 3e-3  # comparing every page with every read was predicted to take 16 s


def test_an_array_read_in_two_shapes_has_two_names_for_its_addresses() -> None:
    """A page is compared with every page: the one's addresses lie before the loop, the others' in it."""
    plan = make_plan(derive(differentiate(example("paged_decode")).backward), load_machine("h100"))
    shapes = 0
    for program in (kernel.program for kernel in plan.kernels):
        loads = [each for each in walk(program.operations) if isinstance(each, Load)]
        read = {(each.array, each.tile.dims) for each in loads}
        names = spell(program)
        assert len({names.tile_of(*each) for each in read}) == len(read)
        shapes = max(shapes, len(read) - len({array for array, _ in read}))
    assert shapes == 1  # or the test would hold nothing
