"""Pictures of plans: levels, tiles, the stream's body and the cells of M and H are the plan's own."""

from __future__ import annotations

from functools import cache
from math import prod
from xml.etree import ElementTree

import pytest

from napkin.api import Diagram, load, parse
from napkin.draw.cells import rows_of, symbols_of, typeset
from napkin.draw.layout import find_columns
from napkin.draw.look import GLOBAL, REGISTER, SHARED
from napkin.draw.nodes import Shape
from napkin.draw.relabel import Relabelling, relabel
from napkin.draw.relabelled import draw_plan
from napkin.draw.scene import set_scene
from napkin.draw.shapes import plain
from napkin.schedule.count import peak, tile_bytes
from napkin.schedule.planning.plan import Plan
from napkin.schedule.program import Fill
from tests.pictures import SVG, check_legible, check_standalone
from tests.programs import EXAMPLES, ROOT
from tests.rasters import check_by_eye


@cache
def plan(name: str, machine: str = "hopper") -> Plan:
    return load(ROOT / "examples" / f"{name}.napkin").plan(machine)


def relabelled(name: str) -> Relabelling:
    return relabel(plan(name).kernels[0])


def cells(found: Relabelling) -> dict[str, list[str]]:
    """Return the cells of every row as text, their spaces left out."""
    scene = set_scene(found.nodes, found.look, found.tensor)
    labels = symbols_of(found).labels
    return {
        row.name: [
            plain(typeset(formula, labels)).replace(" ", "").replace("\u2009", "")
            for _, formula in row.cells
        ]
        for row in rows_of(found, scene.layout)
    }


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_plan_draws(name: str) -> None:
    picture = draw_plan(plan(name))
    check_standalone(picture)
    check_legible(ElementTree.fromstring(picture))
    check_by_eye(picture)


def test_a_plan_of_several_kernels_has_a_panel_for_each() -> None:
    kernels = plan("chain").kernels
    assert len(kernels) > 1
    root = ElementTree.fromstring(draw_plan(plan("chain")))
    texts = [each.text for each in root.iter(f"{SVG}text")]
    for number, each in enumerate(kernels):
        assert f"kernel {number + 1} of {len(kernels)}: {each.name}" in texts


def test_arrays_change_their_level_where_the_program_loads_and_stores_them() -> None:
    found = relabelled("attention")
    levels = {
        (node.shape, node.name or node.text): level
        for node, level in zip(found.nodes, found.levels, strict=True)
    }
    assert levels[Shape.ARGUMENT, "Q"] == GLOBAL
    assert {levels[Shape.LOAD, f"load {name}"] for name in "QKV"} == {SHARED}
    assert levels[Shape.CONTRACTION, "contract d"] == REGISTER
    assert levels[Shape.SAVE, "save"] == GLOBAL
    assert all(found.nodes[each].shape is Shape.CONTRACTION for each in found.tensor)
    assert len(found.tensor) == 2


def test_an_array_that_the_machine_keeps_in_registers_is_drawn_there() -> None:
    found = relabelled("layernorm")
    loads = [found.levels[p] for p, node in enumerate(found.nodes) if node.shape is Shape.LOAD]
    assert set(loads) == {REGISTER}
    assert not found.tensor


def test_the_loop_holds_what_lies_along_the_stream_and_all_between() -> None:
    found = relabelled("sinks")
    inside = {found.nodes[each].text for each in found.body}
    assert {"contract d", "max x", "sum x", "contract x"} <= inside
    assert "max2(·, sink)" in inside  # without x, but between two steps along x
    assert not any(found.nodes[each].is_end for each in found.body)


def test_loads_come_first_and_saves_last() -> None:
    found = relabelled("sinks")
    columns = find_columns(found.nodes)
    for place, node in enumerate(found.nodes):
        if node.shape is Shape.LOAD:
            assert columns[place] == 1
        if node.shape is Shape.SAVE:
            assert columns[place] == max(columns) - 1


def test_the_cells_of_attention_are_the_paper_s() -> None:
    found = cells(relabelled("attention"))
    assert found["M shared"] == ["gqd+2sx(d+v)"]
    assert found["M register"] == ["gq(sx+2+v)", "gq(v+2)"]
    assert found["H of a group"] == ["gqd+x(d+v)", "gqv"]


def test_the_cells_of_matmul_are_the_paper_s() -> None:
    found = cells(relabelled("matmul"))
    assert found["M register"] == ["gmgn"]
    assert found["H of a group"] == ["gmk+gnk", "gmgn"] or found["H of a group"] == [
        "k(gm+gn)",
        "gmgn",
    ]


@pytest.mark.parametrize("name", ["attention", "matmul", "causal", "softcap"])
def test_m_on_the_wires_is_what_the_program_holds(name: str) -> None:
    """Shared memory to the byte, tiles carried over to the next chunk apart; registers but for statistics."""
    found = relabelled(name)
    scene = set_scene(found.nodes, found.look, found.tensor)
    numbers = symbols_of(found).numbers
    most = dict(peak(found.kernel.printed))
    form = found.kernel.form
    program = found.kernel.printed
    fills = [op.tile for op in program.operations if isinstance(op, Fill)]
    carried = sum(tile_bytes(tile, program) for tile in fills if tile.level == SHARED)
    for row in rows_of(found, scene.layout):
        values = [formula.value(numbers) for _, formula in row.cells]
        if row.level == SHARED:
            assert 2 * max(values) + carried == most[SHARED]
        if row.level == REGISTER:
            least = 0.75 if form else 0.9  # a rotated loop holds the chunk before as well
            assert least * most[REGISTER] <= 4 * max(values) <= most[REGISTER]


@pytest.mark.parametrize("name", ["attention", "matmul"])
def test_h_on_the_wires_times_the_groups_is_every_tile_s_transfer(name: str) -> None:
    found = relabelled(name)
    scene = set_scene(found.nodes, found.look, found.tensor)
    numbers = symbols_of(found).numbers
    (row,) = [each for each in rows_of(found, scene.layout) if each.level == GLOBAL]
    sizes = dict(found.kernel.sizes)
    grid = [found.kernel.program.axis(axis) for axis in found.kernel.program.grid]
    groups = prod(sizes[each.axis] // each.tile for each in grid)
    moved = groups * sum(formula.value(numbers) for _, formula in row.cells)
    shapes = {"attention": ("Q K V O", (1, 32, 32, 1)), "matmul": ("A B C", (16, 32, 1))}
    names, repeats = shapes[name]
    arrays = (*found.kernel.program.arrays, *found.kernel.program.outputs)
    assert [each.name for each in arrays] == names.split()
    whole = [prod(sizes[axis] for axis in each.axes) for each in arrays]
    assert moved == sum(size * often for size, often in zip(whole, repeats, strict=True))


def test_divisors_divide_and_give_a_reason() -> None:
    found = relabelled("attention")
    for each in found.divisors:
        assert found.kernel.program.axis(each.axis).tile % each.number == 0
        assert each.reason
    assert {"wgmma m64", "lines of 128 B"} <= {each.reason for each in found.divisors}


_BY_HAND = """
diagram f(A[m k], B[k n]) -> C[m n]
    C[m n] = sum[k](A * B)
    on hopper
        group m by 64, n by 64
        stream k by 32
        at register: C
sizes m=256 n=256 k=256
"""


def test_a_relabelling_by_hand_is_drawn_as_it_says() -> None:
    diagram: Diagram = parse(_BY_HAND)
    found = relabel(diagram.plan("hopper").kernels[0])
    assert {each.axis: each.tile for each in found.kernel.program.axes} == {
        "m": 64,
        "n": 64,
        "k": 32,
    }
    labels = {axis: plain(runs) for axis, runs in found.tiles.items()}
    assert labels == {"m": "gm(64)", "n": "gn(64)", "k": "sk(16)"}
    assert diagram.svg("hopper") == draw_plan(diagram.plan("hopper"))
