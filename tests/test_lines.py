"""Arrays in lines: what threads add by vectors lies where the next kernel reads it."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napkin.algebra.derive import derive
from napkin.diagram import Diagram
from napkin.emit.gluon import emit_gluon
from napkin.emit.gluon.added import in_lines, vector_layout
from napkin.emit.render import render
from napkin.machine import load_machine
from napkin.schedule.planning.plan import Plan, make_plan
from tests.test_adding import backward

SIDES = st.sampled_from([64, 128, 256])


def layout_bases(text: str) -> list[list[list[int]]]:
    """Return a layout's bases: registers, lanes, warps."""
    lists = ast.literal_eval(f"[{text.removeprefix('gl.DistributedLinearLayout(').rstrip(')')}]")
    assert isinstance(lists, list)
    return lists[:3]


def places(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where a part's elements lie in an array in lines, as the reader's helper says."""
    source = (
        render("triton/helpers/in_lines.py.jinja").split("\n", 1)[1].replace(".to(tl.int64)", "")
    )
    scope: dict[str, object] = {}
    exec(source, scope)  # a function of whole numbers alone
    reader = scope["_in_lines"]
    assert callable(reader)
    row, column = np.mgrid[0:rows, 0:columns]
    return np.divmod(reader(row, column, columns, 1), columns)


def moved(tile: np.ndarray) -> np.ndarray:
    """Return a part as its adder moves it: what it prints, done by numpy."""
    rows, columns = tile.shape
    text = in_lines("tile", str(rows), str(columns))
    made = eval(text.replace(".permute(", ".transpose("), {"tile": tile})
    assert isinstance(made, np.ndarray)
    return made


@given(SIDES, SIDES)
def test_a_reader_finds_every_element_where_its_adder_put_it(rows: int, columns: int) -> None:
    part = np.arange(rows * columns).reshape(rows, columns)
    row, column = places(rows, columns)
    np.testing.assert_array_equal(moved(part)[row, column], part)


@given(SIDES, SIDES)
def test_elements_stay_among_four_rows(rows: int, columns: int) -> None:
    row, column = places(rows, columns)
    assert sorted((row * columns + column).ravel().tolist()) == list(range(rows * columns))
    np.testing.assert_array_equal(row // 4, np.arange(rows)[:, None] // 4 + 0 * row)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (64, 128), (128, 64)])
def test_a_thread_holds_what_a_contraction_left_it(rows: int, columns: int) -> None:
    """The layout of what is moved, moved back, is that of a contraction's result: nothing changes threads."""
    part = np.arange(rows * columns).reshape(rows, columns)
    tile = moved(part)
    registers, lanes, warps = layout_bases(vector_layout(rows, columns, in_lines=True))
    for number in range(32 * 4):
        at = [base for bit, base in enumerate(lanes + warps) if number >> bit & 1]
        held = set()
        for choice in range(1 << len(registers)):
            every = at + [base for bit, base in enumerate(registers) if choice >> bit & 1]
            held.add(int(tile[sum(b[0] for b in every), sum(b[1] for b in every)]))
        row, column = divmod(np.array(sorted(held)), columns)
        assert set((row % 8).tolist()) == {number // 4 % 8}
        assert set((row // 16 % 4).tolist()) == {number // 32}
        assert set((column // 2 % 4).tolist()) == {number % 4}


@pytest.mark.parametrize("in_order", [True, False])
def test_every_element_has_one_thread_that_adds_four_neighbours(in_order: bool) -> None:
    bases = layout_bases(vector_layout(64, 128, in_lines=not in_order))
    every = [tuple(base) for part in bases for base in part]
    assert sorted(every) == sorted(
        [(1 << i, 0) for i in range(6)] + [(0, 1 << i) for i in range(7)]
    )
    assert bases[0][:2] == [[0, 1], [0, 2]]


def plan_of(name: str, head: int, storage: str) -> Plan:
    diagram: Diagram = backward(name)
    outputs = tuple(replace(each, dtype=storage) for each in diagram.outputs)
    sizes = tuple((dict(diagram.sizes) | {"d": head, "v": head}).items())
    sized = replace(diagram, outputs=outputs, sizes=sizes)
    return make_plan(derive(sized), load_machine("hopper"), deterministic=False)


@pytest.mark.parametrize(("name", "head", "is_so"), [("attention", 64, True), ("alibi", 64, False)])
def test_an_array_between_kernels_lies_in_lines_where_threads_add(
    name: str, head: int, is_so: bool
) -> None:
    plan = plan_of(name, head, "bf16")
    marked = {
        (kernel.name, each.name)
        for kernel in plan.kernels
        for each in (*kernel.printed.arrays, *kernel.printed.outputs)
        if each.in_lines
    }
    assert len(marked) == (2 if is_so else 0)  # as who adds sees it, and who reads
    text = emit_gluon(plan)
    ast.parse(text)
    assert ("_in_lines(" in text) == is_so
    assert bool(re.search(r"torch\.zeros\(\(b, h, triton\.cdiv\(q, 4\) \* 4, d\)", text)) == is_so
    plain = plan.plain
    assert not any(
        each.in_lines for k in plain.kernels for each in (*k.printed.arrays, *k.printed.outputs)
    )
