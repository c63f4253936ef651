"""Programs run in NumPy: every example, and random diagrams, against the reference in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from napkin.algebra.derive import derive
from napkin.diagram import Diagram, Reduce
from napkin.evaluate import evaluate, open_dims, reference
from napkin.language.errors import InternalError
from napkin.operators import Kind
from napkin.schedule.count import totals
from napkin.schedule.execute import execute
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.program import (
    Array,
    AxisRole,
    AxisTile,
    Compute,
    Dim,
    Literal,
    Load,
    Loop,
    Path,
    Program,
    Region,
    Role,
    Store,
    Tile,
)
from tests.programs import (
    EXAMPLES,
    Tiles,
    arguments_of,
    diagram_of,
    example,
    lower_by,
    program_of,
    run,
    scalars_in,
    sizes_of,
    worst_error,
)
from tests.strategies import napkin_texts

# No tile below divides these, and several are shorter than their tile.
SIZES = {
    "b": 2, "h": 3, "k": 2, "g": 3, "q": 37, "x": 45, "d": 7, "v": 5, "t": 21, "f": 13,
    "e": 6, "n": 3, "m": 19, "c": 9, "r": 10, "p": 7, "s": 16,
}  # fmt: skip
LIMITS = {"page": SIZES["p"], "length": 50, "label": SIZES["v"]}
TILES = {
    "rows by 16": Tiles(16, 16),
    "small, split": Tiles(8, 4, 4, True),
    "larger than the axes": Tiles(64, 64, 4),
    "no rows": Tiles(1, 8),
}


def prepared(name: str) -> tuple[Diagram, dict[str, int], dict[str, Any]]:
    diagram = example(name)
    sizes = sizes_of(diagram, SIZES, 5)
    return diagram, sizes, arguments_of(diagram, sizes, LIMITS, 0)


@pytest.mark.parametrize("tiles", TILES.values(), ids=TILES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_the_reference_gives(name: str, tiles: Tiles) -> None:
    diagram, sizes, arguments = prepared(name)
    if tiles.row == 1:
        sizes = sizes_of(diagram, SIZES | {"q": 5, "m": 5}, 5)
        arguments = arguments_of(diagram, sizes, LIMITS, 0)
    program = program_of(diagram, sizes, tiles)
    execution = run(program, arguments, sizes)
    assert worst_error(execution.outputs, diagram, arguments) < 1e-12
    counted = totals(program, sizes, scalars_in(arguments, program))
    if counted.is_exact:
        assert execution.totals == counted
    else:
        assert execution.totals.elements <= counted.elements


def test_a_row_that_sees_nothing_gives_zero() -> None:
    text = (
        "diagram f(S[q x], V[x v], first: int) -> O[q v]\n"
        "    M[q x] = where(x < q - first, S, -inf)\n"
        "    O[q v] = sum[x](softmax[x](M) * V)\n"
    )
    diagram, sizes = diagram_of(text), {"q": 11, "x": 13, "v": 3}
    arguments = arguments_of(diagram, sizes, {}, 1)
    for tiles in (Tiles(4, 4), Tiles(16, 16)):
        execution = run(program_of(diagram, sizes, tiles), arguments, sizes)
        assert worst_error(execution.outputs, diagram, arguments) < 1e-12
        assert not np.any(execution.outputs["O"][:8])


def test_masked_chunks_are_skipped() -> None:
    sizes = {"b": 1, "h": 1, "q": 64, "x": 64, "d": 4, "v": 4}
    diagram = example("causal")
    program = program_of(diagram, sizes, Tiles(16, 16))
    execution = run(program, arguments_of(diagram, sizes, {}, 0), sizes)
    groups = 4  # and as many tiles of columns as v has
    assert execution.groups % groups == 0
    share = execution.groups // groups
    assert execution.steps == {
        ("x", Region.FULL): share * (0 + 1 + 2 + 3),
        ("x", Region.PARTIAL): share * groups,
    }


COUNTS = {
    "what a mask leaves": "O[q] = A * sum[x](where(x <= q, 2.5, 0))",
    "the greatest left": "O[q] = A * max[x](where(x <= q, 2.5, -inf))",
    "another axis in the mask": "O[q] = A * sum[x b](where(x > b + q, size(x), 0))",
    "data along another axis": "O[q] = A * sum[x b](where(x > max2(b, place[b]), 2.5, 0))",
    "another axis by data": "O[q] = A * sum[x b](where(x >= place[b] and x <= q, Y, 0))",
}


@pytest.mark.parametrize("tiles", [*TILES.values(), Tiles(1, 2, 2), Tiles(4, 4, 2)], ids=str)
@pytest.mark.parametrize("body", COUNTS.values(), ids=COUNTS)
def test_a_mask_alone_may_carry_what_is_folded(body: str, tiles: Tiles) -> None:
    head = "diagram f(A[q], X[x], Y[x], B[b], place[b]: int32) -> O[q]"
    diagram, sizes = diagram_of(f"{head}\n    {body}\n"), {"q": 11, "x": 13, "b": 5}
    arguments = arguments_of(diagram, sizes, {}, 0)
    execution = run(program_of(diagram, sizes, tiles), arguments, sizes)
    assert worst_error(execution.outputs, diagram, arguments) < 1e-12


@pytest.mark.parametrize("extreme", [0, 2**31 - 1, -(2**31)])
def test_bounds_read_from_data_skip_what_other_sequences_hold(extreme: int) -> None:
    diagram = example("packed")
    sizes = {"b": 1, "h": 2, "q": 37, "x": 37, "d": 7, "v": 5}
    arguments = arguments_of(diagram, sizes, {}, 0)
    lengths = np.asarray([10, 3, 24])
    start = np.repeat(np.cumsum(lengths) - lengths, lengths)[None]
    arguments["start"] = start
    program = program_of(diagram, sizes, Tiles(4, 4))
    walked = run(program, arguments, sizes)
    assert worst_error(walked.outputs, diagram, arguments) < 1e-12
    everything = run(program, arguments | {"start": np.zeros_like(start)}, sizes)
    assert walked.totals.of_array("K") < 0.7 * everything.totals.of_array("K")
    # A row whose sequence starts past the end sees nothing, one that has no start sees all before it.
    arguments["start"] = np.where(np.arange(37) == 20, extreme, start)
    one = run(program, arguments, sizes)
    assert worst_error(one.outputs, diagram, arguments) < 1e-12


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("S[q x] = A * exp(A - max[x](A))\n    O[q] = sum[x](S)", "infinity would meet zero"),
        ("O[q] = sum[x](A / G)", "zero fill would be divided by"),
        ("O[q] = min[x h](A * B)", "zeros in the padding would win"),
        ("O[q] = exp(sum[x h](A * B))", "padding and the stream's end together"),
    ],
)
def test_what_lies_past_the_end_never_counts(text: str, why: str) -> None:
    body = f"diagram f(A[q x], B[h], G[x]) -> O[q]\n    {text}\n"
    diagram, sizes = diagram_of(body), {"q": 5, "x": 7, "h": 3}
    arguments = {"A": 1.0 + np.arange(35.0).reshape(5, 7), "B": np.ones(3), "G": np.ones(7)}
    arguments["A"] /= 50
    execution = run(program_of(diagram, sizes, Tiles(2, 4, 2)), arguments, sizes)
    assert worst_error(execution.outputs, diagram, arguments) < 1e-12, why


# --- strictness -----------------------------------------------------------------------------------


def copying(load_masked: tuple[str, ...], store_masked: tuple[str, ...]) -> Program:
    """Return a program that copies A[q] to O[q] by tiles of four."""
    tile = Tile("a", ("q",), Kind.FLOAT, "fp32")
    load = Load(tile, "A", ("q",), (False,), load_masked, Path.POINTER, Role.CONSUMER, None)
    return Program(
        "copy",
        (Array("A", (("q",),), "fp32", Kind.FLOAT),),
        (Array("O", (("q",),), "fp32", Kind.FLOAT),),
        (),
        (AxisTile("q", AxisRole.GROUP, 4, "q"),),
        (Dim("q", ("q",), 4),),
        ("q",),
        (),
        (),
        (load, Store("O", "a", ("q",), store_masked, Path.POINTER)),
    )


def test_a_copy_copies_and_counts() -> None:
    values = np.arange(6.0)
    execution = execute(copying(("q",), ("q",)), {"A": values}, {}, {"q": 6})
    np.testing.assert_array_equal(execution.outputs["O"], values)
    assert execution.groups == 2
    assert [each.elements for each in execution.totals.transfers] == [6, 6]
    assert [each.tile_elements for each in execution.totals.transfers] == [8, 8]
    assert execution.totals.bytes == 48


@pytest.mark.parametrize("masks", [((), ("q",)), (("q",), ())])
def test_leaving_an_array_unmasked_is_an_error(masks: tuple[Any, Any]) -> None:
    program = copying(*masks)
    execute(program, {"A": np.zeros(8)}, {}, {"q": 8})
    with pytest.raises(InternalError, match="past the end of `q`"):
        execute(program, {"A": np.zeros(6)}, {}, {"q": 6})


def test_an_element_that_nobody_writes_is_an_error() -> None:
    program = replace(copying(("q",), ("q",)), grid=())
    with pytest.raises(InternalError, match="2 elements of `O` were never written"):
        execute(program, {"A": np.zeros(6)}, {}, {"q": 6})


def test_a_value_of_one_step_is_gone_in_the_next() -> None:
    program = copying(("q",), ("q",))
    load, store = program.operations
    loop = Loop("q", Literal(0), Literal(8), 4, Region.FULL, (load,))
    with pytest.raises(InternalError, match="`a` is read before it has a value"):
        execute(replace(program, operations=(loop, store)), {"A": np.zeros(8)}, {}, {"q": 8})


def test_axes_side_by_side_count_the_innermost_fastest() -> None:
    tile = Tile("a", ("gq",), Kind.FLOAT, "fp32")
    program = Program(
        "rows",
        (Array("A", (("g", "q"),), "fp32", Kind.FLOAT),),
        (Array("O", (("q",), ("g",)), "fp32", Kind.FLOAT),),
        (),
        (AxisTile("g", AxisRole.GROUP, 2, "gq"), AxisTile("q", AxisRole.GROUP, 4, "gq")),
        (Dim("gq", ("g", "q"), 8),),
        ("q", "g"),
        (),
        (),
        (
            Load(
                tile, "A", ("g", "q"), (False,) * 2, ("g", "q"), Path.POINTER, Role.CONSUMER, None
            ),
            Compute(tile, "mul", ("a", Literal(2.0))),
            Store("O", "a", ("gq",), ("g", "q"), Path.POINTER),
        ),
    )
    values = np.arange(15.0)
    execution = execute(program, {"A": values}, {}, {"g": 3, "q": 5})
    np.testing.assert_array_equal(execution.outputs["O"], 2 * values.reshape(3, 5).T)


# --- random diagrams ------------------------------------------------------------------------------

RANDOM_TILES = (Tiles(2, 2, 2), Tiles(4, 4, 0, True), Tiles(1, 2, 2), Tiles(8, 16, 4))


def values_of(diagram: Diagram, arguments: dict[str, Any], sizes: dict[str, int]) -> dict[int, Any]:
    opened = {
        each.name: open_dims(np.asarray(arguments[each.name]), each.dims, sizes)
        for each in diagram.arguments
    }
    return evaluate(diagram.boxes, range(len(diagram.boxes)), opened, sizes)


def sums_are_finite(diagram: Diagram, values: dict[int, Any]) -> bool:
    """Return whether every sum adds numbers: infinity times a masked zero has no meaning."""
    return all(
        bool(np.all(np.isfinite(values[operand])))
        for box in diagram.boxes
        if isinstance(box, Reduce) and box.operator in ("sum", "prod")
        for operand in box.operands
    )


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(napkin_texts(), st.sampled_from(RANDOM_TILES))
def test_a_random_diagram_gives_what_the_reference_gives(text: str, tiles: Tiles) -> None:
    diagram = diagram_of(text)
    sizes = dict.fromkeys(diagram.axes, 4) | dict(diagram.sizes)
    arguments = random_arguments(diagram, sizes)
    with np.errstate(all="ignore"):
        try:
            assume(sums_are_finite(diagram, values_of(diagram, arguments, sizes)))
            want = reference(diagram, arguments)
            near = reference(diagram, moved(diagram, arguments))
        except OverflowError:  # a maximum of integers over an empty axis has no unit
            assume(False)
    program = lower_by(rewrite(derive(diagram)), sizes, tiles)
    execution = run(program, arguments, sizes)
    for name, wanted in want.items():
        assert_close(execution.outputs[name], wanted, near[name])
    counted = totals(program, sizes, scalars_in(arguments, program))
    assert execution.totals == counted or not counted.is_exact


def random_arguments(diagram: Diagram, sizes: dict[str, int]) -> dict[str, Any]:
    made = arguments_of(diagram, sizes, {}, 1)
    real = (each.name for each in diagram.arguments if each.kind is Kind.FLOAT)
    return made | {name: 0.2 + np.abs(made[name]) for name in real}


def moved(diagram: Diagram, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments a little off: what that changes much, rounding may change too."""
    generator = np.random.default_rng(2)
    real = (each.name for each in diagram.arguments if each.kind is Kind.FLOAT)
    return arguments | {
        name: arguments[name] * (1 + 1e-7 * generator.standard_normal(np.shape(arguments[name])))
        for name in real
    }


def assert_close(got: Any, want: Any, near: Any) -> None:
    """Compare where the reference is finite, small and moves little when its inputs do."""
    got, want, near = (np.asarray(each, dtype=float) for each in (got, want, near))
    scale = 1e-12 + np.abs(want)
    with np.errstate(all="ignore"):
        steady = np.isfinite(want) & (np.abs(want) < 1e6) & (np.abs(near - want) <= 1e-4 * scale)
        wrong = steady & ~(np.abs(got - want) <= 1e-6 * scale)
    assert not wrong.any(), f"got {got[wrong][:4]}, want {want[wrong][:4]}"
