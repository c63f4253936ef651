"""Tiles of kernels without contractions: what lies together in memory is read together."""

from __future__ import annotations

import pytest

from napkin.algebra.derive import derive
from napkin.machine import load_machine
from napkin.schedule.tiling.kernel import KernelPlan, rank_kernels
from napkin.schedule.timing.clocks import work_of
from napkin.schedule.timing.predict import average_steps
from tests.programs import diagram_of

TURNED = """diagram turned(A[b h d e]: fp32, B[b h f e]: fp32) -> X[e h d], Y[e h f]
    X[e h d] = sum[b](A)
    Y[e h f] = sum[b](B)

sizes b=4 h=16 d=128 f=128 e=2048
"""
PARTS = """diagram parts(A[b h f]: fp32) -> X[h f]
    X[h f] = sum[b](A)

sizes b=4 h=2048 f=2048
"""


def ranked(text: str) -> tuple[KernelPlan, ...]:
    diagram = diagram_of(text)
    machine = load_machine("h200")
    return rank_kernels(derive(diagram), machine, dict(diagram.sizes), "bf16").kernels


def tiles_of_groups(kernel: KernelPlan) -> dict[str, int]:
    return {
        each.axis: each.tile for each in kernel.program.axes if each.axis in kernel.program.grid
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (TURNED, {"e": 8, "h": 1}),  # whole sectors of what is read along e
        (PARTS, {"h": 1, "f": 256}),  # few elements a step: many columns beside them
    ],
)
def test_the_first_tiles_are_those_that_lie_together(text: str, wanted: dict[str, int]) -> None:
    assert tiles_of_groups(ranked(text)[0]) == wanted


def test_single_elements_of_rows_take_whole_sectors_of_the_cache() -> None:
    kernels = ranked(TURNED)
    moved = {}
    for each in kernels:
        walked = average_steps(each.program, dict(each.sizes))
        groups = 2048 * 16 // (each.program.axis("e").tile * each.program.axis("h").tile)
        work = work_of(each.program.operations, each.program, each.machine, walked, each.warps)
        moved[each.program.axis("e").tile] = groups * work.moved
    assert moved[1] == pytest.approx(8 * moved[8])
