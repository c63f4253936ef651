"""Pseudocode: what it says agrees with the Program, and it never changes between runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Container, Sequence
from pathlib import Path

import pytest

from napkin.algebra.derive import derive
from napkin.emit.expressions import Call, Define, Leaf, inline, leaves
from napkin.emit.notation import byte_size, count, expression, number
from napkin.emit.pseudo import pseudo
from napkin.operators import Kind
from napkin.schedule.count import peak, totals
from napkin.schedule.program import (
    Assign,
    Compute,
    Literal,
    Loop,
    Operand,
    Operation,
    Region,
    Store,
    Tile,
    walk,
)
from napkin.schedule.program import Path as Way
from tests.conftest import Golden
from tests.programs import EXAMPLES, ROOT, Tiles, example, program_of, sizes_of

TILES = Tiles(64, 32, 64)


def text_of(name: str) -> str:
    diagram = example(name)
    program = program_of(diagram, sizes_of(diagram, dict(diagram.sizes), 64), TILES)
    return pseudo(program, derive(diagram))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_has_its_pseudocode(name: str) -> None:
    diagram = example(name)
    sizes = sizes_of(diagram, dict(diagram.sizes), 64)
    program = program_of(diagram, sizes, TILES)
    text = pseudo(program, derive(diagram))
    for each in (*program.arrays, *program.outputs):
        assert re.search(rf"\b{re.escape(each.name)}\b.*\bglobal\b", text)
    for loop in (each for each in walk(program.operations) if isinstance(each, Loop)):
        assert f"for {loop.axis} from" in text
    for level, size in peak(program):
        assert f"{level} {byte_size(size)}" in text
    total = totals(program, sizes)
    assert f"{count(total.elements)} values, {count(total.bytes)} bytes" in text
    assert text.endswith("\n")
    assert not any(line != line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("name", EXAMPLES)
def test_lines_and_rows_are_numbered_alike(name: str) -> None:
    code, table = text_of(name).split("\ncolumns")
    lines = re.findall(r"^ {0,3}(\d+)  ", code, re.MULTILINE)
    rows = re.findall(r"^    (\d+) ", table, re.MULTILINE)
    assert lines == rows == [str(place + 1) for place in range(len(lines))]


@pytest.mark.parametrize("name", ["matmul", "attention"])
def test_pseudocode_is_as_it_was(name: str, golden: Golden) -> None:
    golden(ROOT / "tests" / "golden" / name / "pseudo.txt", text_of(name))


def test_two_hash_seeds_give_the_same_text() -> None:
    script = "from tests.test_emit_pseudo import text_of; print(text_of('window'))"
    texts = [
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            check=True,
            cwd=Path(ROOT),
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1]


# --- expressions ----------------------------------------------------------------------------------


def compute(name: str, operator: str, *operands: Operand) -> Compute:
    return Compute(Tile(name, (), Kind.FLOAT, "fp32"), operator, operands)


def written(operations: Sequence[Operation], keep: Container[str] = ()) -> list[str]:
    """Return the statements of a list; `-` for what is no computation."""
    return [
        f"{each.tile.name} = {expression(each.value)}" if isinstance(each, Define) else "-"
        for each in inline(operations, keep)
    ]


def test_a_value_used_once_stands_in_its_reader() -> None:
    chain = [
        compute("a", "sub", "s", "m"),
        compute("b", "exp2", "a"),
        compute("c", "mul", "b", Literal(0.5)),
    ]
    assert written(chain) == ["c = exp2(s - m) * 0.5"]
    (only,) = inline(chain)
    assert isinstance(only, Define)
    assert leaves(only.value) == ["s", "m", Literal(0.5)]


def test_a_value_used_twice_keeps_its_name() -> None:
    square = [compute("a", "add", "s", "m"), compute("b", "mul", "a", "a")]
    assert written(square) == ["a = s + m", "b = a * a"]
    assert written(square[:1]) == ["a = s + m"]


def test_a_name_that_is_kept_stays_a_statement() -> None:
    chain = [compute("p", "exp2", "s"), compute("b", "mul", "p", "w")]
    assert written(chain, {"p"}) == ["p = exp2(s)", "b = p * w"]


def test_an_expression_has_four_operators_at_most() -> None:
    chain = [compute(f"a{i + 1}", "add", f"a{i}", Literal(i)) for i in range(6)]
    assert written(chain) == ["a4 = a0 + 0 + 1 + 2 + 3", "a6 = a4 + 4 + 5"]


def test_a_value_does_not_move_past_a_new_value_of_what_it_reads() -> None:
    moved: list[Operation] = [
        compute("a", "mul", "m", "r"),
        Assign("m", "n"),
        compute("b", "add", "a", "m"),
    ]
    assert written(moved) == ["a = m * r", "-", "b = a + m"]
    safe: list[Operation] = [
        compute("a", "mul", "l", "r"),
        Assign("m", "n"),
        compute("l", "add", "a", "c"),
    ]
    assert written(safe) == ["-", "l = l * r + c"]


def test_a_value_does_not_move_into_a_loop_or_a_store() -> None:
    body = (compute("b", "add", "b", "a"),)
    loop = Loop("x", Literal(0), Literal(8), 4, Region.FULL, body)
    store = Store("O", "c", (), (), Way.POINTER)
    program: list[Operation] = [compute("a", "exp", "s"), loop, compute("c", "exp", "b"), store]
    assert written(program) == ["a = exp(s)", "-", "c = exp(b)", "-"]


def test_a_loops_own_names_do_not_hinder_its_neighbours() -> None:
    """Two scopes may each have a `t`: the loop's is not the one after it."""
    body = (compute("t", "exp", "s"), compute("b", "add", "b", "t"))
    loop = Loop("x", Literal(0), Literal(8), 4, Region.FULL, body)
    after: list[Operation] = [loop, compute("t", "exp", "b"), compute("c", "mul", "t", "w")]
    assert written(after) == ["-", "c = exp(b) * w"]
    assert written(body) == ["b = b + exp(s)"]


def call(operator: str, *operands: Call | Leaf) -> Call:
    return Call(Tile("t", (), Kind.FLOAT, "fp32"), operator, operands)


def test_an_expression_has_the_brackets_that_it_needs() -> None:
    a, b, c = Leaf("a"), Leaf("b"), Leaf("c")
    cases = {
        "a - (b - c)": call("sub", a, call("sub", b, c)),
        "a - b - c": call("sub", call("sub", a, b), c),
        "a + b + c": call("add", a, call("add", b, c)),
        "(a + b) * c": call("mul", call("add", a, b), c),
        "a / (b * c)": call("div", a, call("mul", b, c)),
        "-(a + b)": call("neg", call("add", a, b)),
        "not a < b": call("not", call("lt", a, b)),
        "(a < b) == c": call("eq", call("lt", a, b), c),
        "where(a < b and b < c, a, -inf)": call(
            "where",
            call("and", call("lt", a, b), call("lt", b, c)),
            a,
            Leaf(Literal(-float("inf"))),
        ),
        "(a ** b) ** c": call("pow", call("pow", a, b), c),
        "a ** (-2)": call("pow", a, Leaf(Literal(-2))),
    }
    for text, tree in cases.items():
        assert expression(tree) == text


def test_numbers_read_easily() -> None:
    assert [number(each) for each in (True, 3, 1.4426950408889634)] == ["true", "3", "1.4427"]
    assert [byte_size(each) for each in (4, 1024, 65536, 3 << 19)] == [
        "4 B",
        "1.0 KB",
        "64.0 KB",
        "1.5 MB",
    ]
    assert count(1234567) == "1 234 567"
