"""Cut plans: a diagram that one kernel can't hold, or holds badly, is cut where the model says."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from math import inf
from typing import Any

import numpy as np
import pytest

from napkin.algebra.derive import Derivation, derive, sketch
from napkin.api import Diagram as Front
from napkin.emit.pseudo import pseudo_of_plan
from napkin.emit.triton import emit_triton, entry_name, kernel_names
from napkin.evaluate import reference
from napkin.language.errors import NapkinError
from napkin.machine import load_machine
from napkin.schedule.execute import execute
from napkin.schedule.planning import pieces
from napkin.schedule.planning.cost import cost_of
from napkin.schedule.planning.pieces import LAUNCH_S
from napkin.schedule.planning.plan import KernelPlan, Plan, make_plan
from napkin.schedule.planning.points import cut_points
from napkin.schedule.planning.readers import best_alone
from napkin.schedule.program import Load, Loop, walk
from tests.conftest import Golden
from tests.programs import ROOT, arguments_of, diagram_of, example, sizes_of

GOLDEN = ROOT / "tests" / "golden"
FIXED = """
on hopper
    group m by 128, p by 128
    stream n by 64
"""
GLOBAL_NORM = """diagram norm(A[q x]) -> O[q x]
    O[q x] = A / sqrt(sum[q x](A * A))

sizes q=4096 x=8192
"""
HOPELESS = """diagram f(A[q x], B[q d], C[q y]) -> O[q]
    Z[q] = max[x d](A * B)
    O[q] = sum[y](C * Z)

sizes q=4096 x=65536 d=65536 y=64
"""
MEAN = """diagram f(A[b e], W[e d]) -> O[b d], Z[e d]
    M[e] = mean[b](A)
    Z[e d] = W * M
    O[b d] = sum[e](A * Z) / size(b)

sizes b=4096 e=4096 d=4096
"""
HOSTILE = """diagram BLOCK_M_1(WARPS_1[m k], grid[k n], BLOCK_M_1_1_kernel[n p]) -> tl[m p]
    STAGES_2[m n] = sum[k](WARPS_1 * grid)
    tl[m p] = sum[n](STAGES_2 * BLOCK_M_1_1_kernel)

sizes m=4096 k=4096 n=4096 p=4096
"""
PLANS = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.test_schedule_cuts import planned
for name in ("chain", "attention_block"):
    print(planned(name, "hopper"))
"""


@cache
def planned(name: str, machine: str) -> Plan:
    return make_plan(derive(example(name)), load_machine(machine))


def plan_of(text: str, machine: str = "hopper", **sizes: int) -> Plan:
    return Front(diagram_of(text)).plan(machine, sizes=sizes)


def kept(plan: Plan) -> list[tuple[str, str]]:
    return [(each.name, each.dtype) for each in plan.kept]


# --- which cut ------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_a_layer_of_attention_is_projections_one_fused_attention_and_a_projection(
    machine: str,
) -> None:
    plan = planned("attention_block", machine)
    assert kept(plan) == [(name, "bf16") for name in "QKVO"]
    gives = [[each.name for each in kernel.program.outputs] for kernel in plan.kernels]
    assert gives == [["Q"], ["K"], ["V"], ["O"], ["Y"]]
    fused = plan.kernels[3].derivation
    assert fused.stream is not None
    assert (fused.stream.axis, len(fused.stream.passes)) == ("x", 1)
    assert plan.turned_down is not None
    assert not plan.turned_down.fits


def test_a_product_computed_again_for_every_block_is_kept() -> None:
    plan = planned("chain", "hopper")
    assert kept(plan) == [("T", "bf16")]
    assert plan.turned_down is not None
    assert plan.turned_down.fits
    assert plan.seconds < 0.7 * plan.turned_down.prediction.seconds


def test_kernels_add_up_with_the_launches_between_them() -> None:
    plan = planned("attention_block", "hopper")
    alone = sum(each.expected.seconds for each in plan.kernels)
    assert plan.seconds == pytest.approx(alone + 4 * LAUNCH_S)
    slowest = max(plan.kernels, key=lambda each: each.prediction.seconds)
    assert plan.bound_by == slowest.prediction.bound_by


@pytest.mark.parametrize("name", ["attention", "causal", "matmul", "softmax", "gqa", "window"])
@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_what_one_kernel_does_well_stays_one_kernel(name: str, machine: str) -> None:
    plan = planned(name, machine)
    assert len(plan.kernels) == 1
    assert plan.turned_down is None
    assert plan.kept == ()
    assert plan.seconds == plan.kernels[0].expected.seconds


def test_short_axes_leave_one_kernel() -> None:
    front = Front(example("chain"))
    assert len(front.plan("hopper", sizes={"p": 64, "n": 64}).kernels) == 1


def test_an_on_block_fixes_one_kernel() -> None:
    chain = str(example("chain"))
    assert len(plan_of(chain + FIXED).kernels) == 1
    assert len(plan_of(chain + FIXED, "ampere").kernels) == 2  # the block is about another machine
    with pytest.raises(NapkinError, match="N407"):
        plan_of(chain + FIXED.replace("m by 128", "m by 4096"))


def test_a_norm_of_everything_is_kept_as_one_number() -> None:
    plan = plan_of(GLOBAL_NORM)
    (norm,) = plan.kept
    assert (norm.axes, norm.dtype) == ((), "fp32")
    assert len(plan.kernels) == 2


def test_outputs_of_different_work_may_be_different_kernels() -> None:
    text = (
        "diagram f(A[q x], B[q y]) -> O[q], Z[q y]\n"
        "    O[q] = sum[x](A)\n    Z[q y] = B * O\n\nsizes q=64 x=1000 y=2000000\n"
    )
    plan = plan_of(text)
    assert [[each.name for each in kernel.program.outputs] for kernel in plan.kernels] == [
        ["O"],
        ["Z"],
    ]
    assert plan.kept == ()  # the second kernel reads the output itself


def test_what_does_not_fit_even_cut_is_told_by_piece() -> None:
    with pytest.raises(NapkinError) as raised:
        plan_of(HOPELESS)
    (one,) = raised.value.diagnostics
    assert one.code == "N407"
    assert "smallest tiles" in one.notes[0]
    assert "the one that gives `Z` still does not fit" in one.notes[1]


def test_an_axis_without_a_length_is_never_taken_to_lie_whole_in_a_piece() -> None:
    text = str(example("attention_block")).replace(" f=2048", "")
    plan = plan_of(text)
    assert not any(
        tile.size is not None
        for each in plan.kernels
        for tile in each.program.axes
        if tile.axis == "f"
    )


def test_points_are_reductions_and_named_arrays_at_their_last_step() -> None:
    diagram = example("attention_block")
    names = [diagram.names[each] for each in cut_points(diagram)]
    assert [name for name in names if name[1:].isalpha() or len(name) == 1] == list("QKVSO")
    assert len(names) == 8  # and the row's maximum, its sum, and the operand of the last product
    assert cut_points(example("matmul")) == ()


def test_layers_that_are_alike_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned_pieces: list[str] = []

    def counted(derivation: Derivation, *where: Any) -> tuple[KernelPlan | None, KernelPlan | None]:
        planned_pieces.append(derivation.diagram.name)
        return best_alone(derivation, *where)

    monkeypatch.setattr(pieces, "best_alone", counted)
    plan = plan_of(layers(5))
    assert [each.name for each in plan.kept] == ["H1", "H2", "H3", "H4"]
    five = len(planned_pieces)
    planned_pieces.clear()
    assert len(plan_of(layers(6)).kernels) == 6
    assert len(planned_pieces) <= five + 2  # the last kernels under their own names


@pytest.mark.parametrize("name", ["attention_block", "chain", "decode"])
def test_the_laws_of_every_kernel_that_is_taken_are_checked(name: str) -> None:
    assert sketch(example(name)).law_error == inf
    assert all(each.derivation.law_error < 1e-8 for each in planned(name, "hopper").kernels)


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_an_array_that_one_kernel_loads_once_is_not_loaded_by_two(machine: str) -> None:
    plan = planned("mla", machine)
    assert len(plan.kernels) == 1
    loads = [op for op in walk(plan.kernels[0].program.operations) if isinstance(op, Load)]
    loops = [op for op in plan.kernels[0].program.operations if isinstance(op, Loop)]
    assert sum(op.array == "C" for op in loads) == len(loops)


def layers(count: int) -> str:
    """Return so many linear maps with a GELU, one after the other."""
    weights = ", ".join(f"W{each}[a{each} a{each + 1}]" for each in range(count))
    inputs = ["X", *(f"H{each}" for each in range(1, count))]
    lines = [
        f"    H{each + 1}[t a{each + 1}] = gelu(sum[a{each}]({inputs[each]} * W{each}))"
        for each in range(count)
    ]
    sizes = " ".join(f"a{each}=4096" for each in range(count + 1))
    head = f"diagram deep(X[t a0], {weights}) -> H{count}[t a{count}]"
    return "\n".join((head, *lines, "", f"sizes t=4096 {sizes}")) + "\n"


def test_plans_are_the_same_on_every_run() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", PLANS, str(ROOT)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (0, 1)
    ]
    assert runs[0] == runs[1]
    assert "cut into 5 kernels" in runs[0]


# --- what the kernels compute ---------------------------------------------------------------------


def run_kernels(plan: Plan, given: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Run a plan's Programs in turn; what one gives, the next ones read."""
    known = dict(given)
    for kernel in plan.kernels:
        arrays = {each.name: known[each.name] for each in kernel.program.arrays}
        scalars = {name: known[name] for name, _ in kernel.program.scalars}
        known |= execute(kernel.program, arrays, scalars, sizes).outputs
    return known


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("chain", {"m": 150, "k": 70, "n": 90, "p": 260}),
        ("attention_block", {"b": 2, "q": 75, "e": 90, "h": 16, "d": 128, "v": 128, "f": 70}),
        ("layernorm_linear", {"t": 150, "d": 70, "n": 90}),
    ],
)
@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_kernels_in_turn_give_what_the_reference_gives(
    name: str, lengths: dict[str, int], machine: str
) -> None:
    plan = planned(name, machine)
    assert len(plan.kernels) > 1
    check(plan, sizes_of(plan.diagram, lengths, 5))


@pytest.mark.parametrize("text", [GLOBAL_NORM, MEAN], ids=["norm", "mean"])
def test_kernels_that_read_numbers_and_lengths_give_what_the_reference_gives(text: str) -> None:
    plan = plan_of(text)
    assert len(plan.kernels) > 1
    fixed = {
        tile.axis: tile.size
        for kernel in plan.kernels
        for tile in kernel.program.axes
        if tile.size is not None
    }
    check(plan, sizes_of(plan.diagram, dict.fromkeys(plan.diagram.axes, 37) | fixed, 37))


def check(plan: Plan, sizes: Mapping[str, int]) -> None:
    given = arguments_of(plan.diagram, sizes, {}, 0)
    got = run_kernels(plan, given, sizes)
    for name, wanted in reference(plan.diagram, given).items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


# --- what is printed ------------------------------------------------------------------------------


def test_a_module_has_a_kernel_a_piece_and_one_entry() -> None:
    plan = planned("attention_block", "hopper")
    module = ast.parse(emit_triton(plan))
    found = [each.name for each in ast.walk(module) if isinstance(each, ast.FunctionDef)]
    assert len(kernel_names(plan)) == len(plan.kernels) == len(set(kernel_names(plan)))
    assert set(kernel_names(plan)) <= set(found)
    assert [each for each in found if not each.startswith("_") and "kernel" not in each] == [
        entry_name(plan.diagram)
    ]
    constants = [node.targets[0] for node in module.body if isinstance(node, ast.Assign)]
    names = [each.id for each in constants if isinstance(each, ast.Name)]
    assert len(set(names)) == len(names)


def test_hostile_names_stay_apart_in_a_module_of_several_kernels() -> None:
    plan = plan_of(HOSTILE)
    assert len(plan.kernels) == 2
    module = ast.parse(emit_triton(plan))
    outside = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
    outside += [
        node.targets[0].id
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]
    assert len(set(outside)) == len(outside)
    (entry,) = [
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name == entry_name(plan.diagram)
    ]
    local = {node.id for node in ast.walk(entry) if isinstance(node, ast.Name)}
    stored = {
        node.id
        for node in ast.walk(entry)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | {each.arg for each in entry.args.args}
    assert set(kernel_names(plan)) <= local
    assert not stored & {*outside, "tl", "triton", "torch"}


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_a_cut_module_is_as_before(golden: Golden, machine: str) -> None:
    golden(GOLDEN / "chain" / f"{machine}.py", emit_triton(planned("chain", machine)))


def test_a_plan_says_what_is_kept_and_why(golden: Golden) -> None:
    text = str(planned("chain", "hopper"))
    golden(GOLDEN / "chain" / "plan.txt", text + "\n")
    assert "kept in memory between them: T[m n] bf16" in text
    assert "to fix it" not in text
    whole = str(planned("attention_block", "hopper"))
    assert "as one kernel it does not fit: the smallest tiles" in whole
    assert "to fix it, put this in the file" in str(planned("matmul", "ampere"))
    assert "to fix the plain loop instead, put" in str(planned("attention", "hopper"))


def test_pseudocode_shows_every_kernel_after_the_cut(golden: Golden) -> None:
    text = pseudo_of_plan(planned("chain", "hopper"))
    golden(GOLDEN / "chain" / "pseudo.txt", text)
    assert text.index("cut into 2 kernels") < text.index("chain_1(A, B) -> T")
    assert text.index("chain_1(A, B) -> T") < text.index("chain_2(C, T) -> D")


# --- what it costs --------------------------------------------------------------------------------


def test_costs_add_up_and_what_is_kept_moves_twice() -> None:
    plan = planned("chain", "hopper")
    cost = cost_of(plan)
    levels = {each.level: each for each in cost.levels}
    square = 4096 * 4096
    assert levels["dram"].transfer_elements == 6 * square  # A, B, C, D once and T twice
    assert levels["dram"].memory_bytes == 2 * 5 * square
    assert levels["dram"].formula == "k*m + k*n + 2*m*n + m*p + n*p"
    assert cost.flops == 2 * 2 * 4096**3
    assert cost.seconds == plan.seconds
    parts = [
        cost_of(Plan(k.derivation.diagram, k.machine, k.sizes, k.dtype, (k,))) for k in plan.kernels
    ]
    for level in ("shared", "register"):
        alone = [next(one for one in part.levels if one.level == level) for part in parts]
        assert levels[level].transfer_bytes == sum(one.transfer_bytes for one in alone)
        assert levels[level].memory_bytes == max(one.memory_bytes for one in alone)


def test_the_formula_tells_the_tiles_of_kernels_apart() -> None:
    cost = cost_of(planned("chain", "hopper"))
    for symbol in ("g_n_1", "g_m_1", "g_p_2", "g_m_2"):
        assert symbol in cost.transferred
    assert cost.memory.startswith("max(")
    assert "_1" not in cost_of(planned("matmul", "hopper")).transferred


def test_the_table_and_the_data_list_the_kernels() -> None:
    cost = cost_of(planned("chain", "hopper"))
    one = cost_of(planned("matmul", "hopper"))
    assert "cut into 2 kernels:" in str(cost)
    assert cost.as_json().keys() == one.as_json().keys()
    assert [each["name"] for each in cost.as_json()["plan"]["kernels"]] == ["chain_1", "chain_2"]
    assert one.as_json()["plan"].keys() < cost.as_json()["plan"]["kernels"][0].keys()
