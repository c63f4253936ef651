"""Tilings: the sensible choices that a derivation may be laid out by."""

from __future__ import annotations

from napkin.algebra.derive import derive
from napkin.algebra.gradient import differentiate
from napkin.machine import load_machine
from napkin.schedule.planning.plan import make_plan
from napkin.schedule.program import AxisRole, Dot, Loop, walk
from napkin.schedule.tiling.tilings import enumerate_tilings
from tests.programs import diagram_of, example

SUMMED = """diagram merge(O[b h q v], W[h v f]) -> Y[b q f]
    Y[b q f] = sum[v h](O * W)

sizes b=2 h=16 q=4096 v=128 f=2048
"""
NORMALISED = """diagram project(X[b q e], W[e h d]) -> Q[b q h d]
    Q[b q h d] = rmsnorm[d](sum[e](X * W))

sizes b=4 q=4096 e=2048 h=16 d=128
"""
GROUPED = """diagram grouped(A[k g x d], B[k g x v]) -> C[k x d], D[k x v]
    C[k x d] = 0.5 * sum[g](A)
    D[k x v] = sum[g](B)

sizes k=8 g=4 x=4096 d=128 v=128
"""
SQUARES = """diagram norm(A[q x]) -> n
    n = sqrt(sum[q x](A * A))

sizes q=4096 x=8192
"""


def test_a_contraction_over_two_axes_walks_one_of_them_one_at_a_time() -> None:
    plan = make_plan(derive(diagram_of(SUMMED)), load_machine("hopper"))
    (kernel,) = plan.kernels
    roles = {each.axis: (each.role.value, each.tile) for each in kernel.program.axes}
    assert roles["v"][0] == "stream"
    assert roles["h"] == ("split", 1)
    assert all(op.over == "v" for op in walk(kernel.program.operations) if isinstance(op, Dot))


def test_an_axis_beside_one_that_lies_whole_has_no_tile_of_its_own() -> None:
    diagram = diagram_of(NORMALISED)
    lengths = dict(diagram.sizes)
    tilings = list(enumerate_tilings(derive(diagram), load_machine("hopper"), lengths, None))
    assert tilings
    assert {dict(each.tiles)["h"] for each, _ in tilings} == {1}
    plan = make_plan(derive(diagram), load_machine("hopper"))
    assert len(plan.kernels) == 1


def test_rows_beside_an_axis_that_is_walked_in_chunks_are_few() -> None:
    diagram = diagram_of(SQUARES.replace("-> n\n    n =", "-> n[]\n    n[] ="))
    plan = make_plan(derive(diagram), load_machine("hopper"))
    for kernel in plan.kernels:
        tiles = {each.axis: each.tile for each in kernel.program.axes}
        assert tiles.get("q", 1) * tiles.get("x", 1) <= 4096


def test_a_sum_over_an_axis_before_whole_rows_takes_one_position_a_step() -> None:
    derivation = derive(diagram_of(GROUPED))
    (kernel,) = make_plan(derivation, load_machine("hopper")).kernels
    (loop,) = (op for op in walk(kernel.program.operations) if isinstance(op, Loop))
    assert (loop.axis, loop.step) == ("g", 1)
    assert kernel.program.axis("x").tile == 4  # of rows of 128, a vector of 16 bytes a thread


def test_what_is_summed_as_well_is_no_reason_for_one_position_a_step() -> None:
    backward = differentiate(example("softcap")).backward
    plan = make_plan(derive(backward), load_machine("h200"))
    (kernel,) = (each for each in plan.kernels if not each.printed.outputs[0].axes)
    stream = next(each for each in kernel.printed.axes if each.role is AxisRole.STREAM)
    assert stream.tile > 1
