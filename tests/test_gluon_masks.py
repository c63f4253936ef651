"""Masks of a warp-specialised kernel: a comparison at a time gives the same, and is printed as one test."""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from napkin.algebra.derive import derive
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.emit.gluon.masks import NEXT, PREVIOUS, choice_helper
from napkin.emit.gluon.masks import tests_apart as parted
from napkin.emit.render import render
from napkin.machine import load_machine
from napkin.schedule.forms.specialise import specialise
from napkin.schedule.program import Compute, Loop, Operation, Program
from napkin.schedule.tiling.kernel import rank_kernels
from tests.programs import EXAMPLES, Tiles, arguments_of, diagram_of, program_of, run
from tests.test_gluon import formed

MASKS = (
    "x <= q",
    "x <= q and q - x < width",
    "x <= q and (q - x < width and x != 3)",
    "x <= q and (r[q] == p[x] or x < 2)",
    "r[q] == p[x] and not (x > q)",
    "(q - x) % 2 == 0 and x <= q",
)


def with_tests_apart(program: Program) -> Program:
    return replace(
        program,
        operations=tuple(
            replace(op, body=body(op)) if isinstance(op, Loop) else op for op in program.operations
        ),
    )


def body(loop: Loop) -> tuple[Operation, ...]:
    return tuple(each for each in parted(loop.body, frozenset()) if isinstance(each, Operation))


def choices(program: Program) -> list[Compute]:
    loops = (op for op in program.operations if isinstance(op, Loop))
    found = [op for loop in loops for op in loop.body if isinstance(op, Compute)]
    return [op for op in found if op.operator == "where" and len(op.tile.dims) == 2]


@pytest.mark.parametrize("mask", MASKS)
def test_a_comparison_at_a_time_gives_the_same(mask: str) -> None:
    diagram = diagram_of(
        "diagram f(Q[q d], K[x d], V[x v], r[q]: int32, p[x]: int32, width: int) -> O[q v]\n"
        "    S[q x] = sum[d](Q * K)\n"
        f"    O[q v] = sum[x](softmax[x](where({mask}, S, -inf)) * V)\n"
    )
    sizes = {"q": 21, "x": 27, "d": 3, "v": 2}
    arguments = arguments_of(diagram, sizes, {}, 0)
    whole = program_of(diagram, sizes, Tiles(8, 8))
    parts = with_tests_apart(whole)
    for name, value in run(whole, arguments, sizes).outputs.items():
        assert (run(parts, arguments, sizes).outputs[name] == value).all()
    conditions = {op.operands[0] for op in choices(parts)}
    made = {op.tile.name: op for op in _computed(parts)}
    assert not any(made[name].operator == "and" for name in conditions if name in made)


def _computed(program: Program) -> list[Compute]:
    loops = (op for op in program.operations if isinstance(op, Loop))
    return [op for loop in loops for op in loop.body if isinstance(op, Compute)]


def test_a_conjunction_that_something_else_reads_stays_whole() -> None:
    diagram = diagram_of(
        "diagram f(Q[q d], K[x d], V[x v]) -> O[q v], N[q]\n"
        "    S[q x] = sum[d](Q * K)\n"
        "    M[q x] = x <= q and q < x + 9\n"
        "    O[q v] = sum[x](where(M, exp(S), 0) * V)\n"
        "    N[q] = sum[x](where(M, S, 0))\n"
    )
    sizes = {"q": 21, "x": 27, "d": 3, "v": 2}
    arguments = arguments_of(diagram, sizes, {}, 0)
    whole = program_of(diagram, sizes, Tiles(8, 8))
    found = run(with_tests_apart(whole), arguments, sizes).outputs
    for name, value in run(whole, arguments, sizes).outputs.items():
        assert (found[name] == value).all()


@pytest.mark.parametrize(
    ("name", "tests"),
    [("causal", {"le"}), ("window", set()), ("document", {"eq", "le_eq"})],
)
def test_a_comparison_of_whole_numbers_is_one_test_an_element(name: str, tests: set[str]) -> None:
    text = printed(name, tests_apart=True)
    assert {
        each for each in ("le", "lt", "eq", "ne", "le_eq") if f"= _where_{each}(" in text
    } == tests
    loops = text[text.index("# stream x") :]
    assert "gl.where(" not in loops[: loops.index("tma.async_copy_shared_to_global(")]


@pytest.mark.parametrize("name", ["causal", "window", "document"])
def test_a_form_that_does_not_ask_for_it_keeps_truth_values(name: str) -> None:
    assert "_where_" not in printed(name, tests_apart=False)


def test_an_example_without_a_mask_tests_no_more_than_the_end() -> None:
    assert printed("attention", tests_apart=True).count("= _where_lt(") == 2


def test_elements_read_by_pointer_keep_masks_as_truth_values() -> None:
    assert "_where_l" not in printed("relative_bias", tests_apart=True)


def printed(name: str, *, tests_apart: bool) -> str:
    kernel, form = formed(name)
    return emit_gluon(plan_in_form(kernel, replace(form, tests_apart=tests_apart)))


def printed_of(source: str) -> str:
    """Return the module of a diagram's one kernel in its form, masks tested a comparison at a time."""
    diagram = diagram_of(source)
    lengths = {axis: dict(diagram.sizes).get(axis, 4096) for axis in diagram.axes}
    kernel = rank_kernels(derive(diagram), load_machine("hopper"), lengths, "bf16").kernels[-1]
    form = specialise(kernel)
    assert not isinstance(form, str), form
    return emit_gluon(plan_in_form(kernel, replace(form, tests_apart=True)))


# --- ranges -----------------------------------------------------------------------------------------


def test_a_range_of_positions_is_one_row_of_bits() -> None:
    text = printed("packed", tests_apart=True)
    assert len(re.findall(r"= _where_between\(\s*t1_\w+, start2\[:, None\], offs_x_\w+", text)) == 3
    assert "_where_le(" not in text
    assert "_where_between" not in printed("document", tests_apart=True)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "name", ["where_lt", "where_ne", "where_le_eq", "where_eq_lt", "where_ne_ne"]
)
def test_a_choice_by_comparisons_is_taken_where_all_hold(name: str, seed: int) -> None:
    code = "".join(re.findall(r'"([^"]*;[^"]*)"', choice_helper(name)))
    tests, draw = name.split("_")[1:], random.Random(seed)
    sides = [draw.choice([*FAR, 3]) for _ in range(2 * len(tests))]
    operands = {f"${2 + place}": each & (2**32 - 1) for place, each in enumerate(sides)}
    found = run_ptx(code, operands | {"$1": 100, f"${2 + len(sides)}": 7})
    hold = {"lt": operator.lt, "le": operator.le, "eq": operator.eq, "ne": operator.ne}
    pairs = zip(tests, sides[::2], sides[1::2], strict=True)
    assert found["$0"] == (100 if all(hold[test](a, b) for test, a, b in pairs) else 7)


def test_a_conjunction_of_other_conditions_stays_in_parts() -> None:
    """A pair that compares what is no whole number of 32 bits is tested apart."""
    source = EXAMPLES["document"].read_text(encoding="utf-8").replace("int32", "int64")
    assert "_where_le_eq" not in printed_of(source)


def test_a_range_leaves_out_an_end_that_is_not_reached() -> None:
    text = printed("window", tests_apart=True)
    low = r"gl\.minimum\(t19\w*\[:, None\], 2147483646\) \+ 1"
    assert len(re.findall(rf"= _where_between\(\s*t1_\w+, {low}, offs_x_\w+", text)) == 3


@pytest.mark.parametrize("last", [-(2**31), -(2**31) + 1, -7, 0, 2**31 - 2, 2**31 - 1])
def test_an_end_that_is_not_reached_is_the_next_whole_number_if_there_is_one(last: int) -> None:
    words = {"tl": SimpleNamespace(minimum=min, maximum=max)}
    after, before = (eval(each.format(last), words) for each in (NEXT, PREVIOUS))
    for position in (*FAR[1:4], 2**31 - 2):
        assert (last < position) == (after <= position)
        assert (position < last) == (position <= before)
    assert all(-(2**31) <= each < 2**31 for each in (after, before))


def test_a_bound_of_64_bits_is_no_range() -> None:
    source = EXAMPLES["packed"].read_text(encoding="utf-8").replace("int32", "int64")
    assert "_where_between" not in printed_of(source)


PTX: dict[str, Callable[[int, int], int]] = {
    "add.s32": lambda a, b: a + b,
    "sub.s32": lambda a, b: a - b,
    "max.s32": lambda a, b: max(signed(a), signed(b)),
    "min.s32": lambda a, b: min(signed(a), signed(b)),
    "and.b32": lambda a, b: a & b,
    "shl.b32": lambda a, b: a << b if b < 32 else 0,
    "shr.u32": lambda a, b: a >> b if b < 32 else 0,
    "setp.ne.u32": lambda a, b: a != b,
    "setp.ne.s32": lambda a, b: a != b,
    "setp.eq.s32": lambda a, b: a == b,
    "setp.lt.s32": lambda a, b: signed(a) < signed(b),
    "setp.le.s32": lambda a, b: signed(a) <= signed(b),
}


def signed(word: int) -> int:
    return (word & (2**32 - 1)) - ((word & 2**31) << 1)


def run_ptx(text: str, operands: dict[str, int]) -> dict[str, int]:
    """Run lines of 32-bit PTX on words by name."""
    words = dict(operands)

    def value(name: str) -> int:
        return words[name] if name in words else int(name) & (2**32 - 1)

    for line in re.findall(r"([\w.]+) ([^;{}]+);", text):
        operation, (target, *names) = line[0], line[1].split(", ")
        if operation == "selp.f32":
            words[target] = value(names[0]) if value(names[2]) else value(names[1])
        elif ".and." in operation:
            a, b, before = map(value, names)
            words[target] = int(bool(before) and PTX[operation.replace(".and", "")](a, b))
        elif not operation.startswith(".reg"):
            words[target] = int(PTX[operation](*map(value, names))) & (2**32 - 1)
    return words


FAR = (-(2**31), -1, 0, 1, 2**31 - 1)


@pytest.mark.parametrize("seed", range(40))
def test_the_bits_of_a_range_are_those_between_its_bounds(seed: int) -> None:
    helper = render("gluon/helpers/where_between.py.jinja")
    code = "".join(re.findall(r'"([^"]*;[^"]*)"', helper))
    draw = random.Random(seed)
    first = draw.choice([0, 2, 6, 1 << 20])
    columns = [first + 8 * (place // 4) + place % 2 for place in range(16)]
    bounds = [draw.choice([*FAR, first + draw.randint(-40, 40)]) for _ in range(4)]
    low = [bounds[place // 2 % 2] for place in range(16)]
    high = [bounds[2 + place // 2 % 2] for place in range(16)]
    operands = {f"${16 + place}": 100 + place for place in range(16)}
    for base, values in ((32, low), (48, columns), (64, high), (80, [7] * 16)):
        operands |= {f"${base + place}": each & (2**32 - 1) for place, each in enumerate(values)}
    found = run_ptx(code, operands)
    for place in range(16):
        inside = low[place] <= columns[place] <= high[place]
        assert found[f"${place}"] == (100 + place if inside else 7)
