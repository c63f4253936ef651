"""Reports of the model: tables of a plan, costs without a plan, and costs side by side."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from napkin.api import load, parse
from napkin.cli import main
from napkin.emit.report import show_comparison, show_cost, show_unplanned
from napkin.language.errors import NapkinError
from napkin.machine import machine_names
from napkin.model.configuration import Scope
from napkin.operators import Pipeline
from napkin.schedule.count import totals
from napkin.schedule.planning.cost import cost_of
from napkin.schedule.planning.plan import Plan
from napkin.schedule.planning.unplanned import Clusters, Unplanned
from napkin.schedule.program import AxisRole
from napkin.schedule.tiling.tables import configuration_of, kernel_shares, throughput_of

EXAMPLES = Path(__file__).parent.parent / "examples"
ATTENTION = str(EXAMPLES / "attention.napkin")
Capture = pytest.CaptureFixture[str]
MIXED = """
diagram attention(Q[q d]: fp8e4m3, K[x d]: fp8e4m3, V[x v]: fp16) -> O[q v]: fp16
    S[q x] = sum[d](Q * K) / sqrt(size(d))
    P[q x] = softmax[x](S)
    O[q v] = sum[x](P * V)

sizes q=4096 x=4096 d=128 v=128

on hopper
    group q by 128
    stream x by 64
    split d by 8, v by 32
    at shared: Q, K, V, S, P
    at register: S, P, O
    warps 4
    stages 2
"""


@cache
def plan_of(name: str, machine: str = "hopper") -> Plan:
    return load(EXAMPLES / f"{name}.napkin").plan(machine)


@cache
def unplanned(name: str, machine: str) -> Unplanned:
    return load(EXAMPLES / f"{name}.napkin").cost_without_plan(machine)


# --- the tables of a plan -------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
@pytest.mark.parametrize("name", ["attention", "matmul"])
def test_a_step_is_the_dispatch_over_its_groups_and_steps(name: str, machine: str) -> None:
    (kernel,) = plan_of(name, machine).kernels
    throughput, sizes = throughput_of(kernel), dict(kernel.sizes)
    threads = kernel.warps * 32
    runs = 1
    for each in kernel.program.axes:
        if each.role in (AxisRole.GROUP, AxisRole.STREAM):
            runs *= sizes[each.axis] // each.tile
    counted = totals(kernel.program, sizes)
    tensor = sum(e.operations for e in throughput.stages if e.pipeline is Pipeline.TENSOR)
    assert tensor * threads * runs == counted.on(Pipeline.TENSOR)
    assert throughput.flops == tensor
    # What a group does once, in its head and tail, is not in a step.
    sfu = sum(e.operations for e in throughput.stages if e.pipeline is Pipeline.SFU)
    assert sfu * threads * runs <= counted.on(Pipeline.SFU) <= 1.1 * sfu * threads * runs


def test_a_step_loads_what_its_rings_hold() -> None:
    (formed,), (plain,) = plan_of("attention").kernels, plan_of("attention", "ampere").kernels
    assert formed.form is not None
    streamed = [ring for ring in formed.form.warps.rings if not ring.resident]
    assert throughput_of(formed).block_bytes == sum(ring.slot_bytes for ring in streamed)
    assert throughput_of(plain).block_bytes == sum(
        ring.tile_bytes for ring in plain.program.buffers
    )
    assert throughput_of(formed).share_bytes == throughput_of(plain).share_bytes == 0


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        *((name, "hopper") for name in ("attention", "matmul", "mlp", "gqa", "mla", "softmax")),
        *((name, "ampere") for name in ("matmul", "softmax")),
    ],
)
def test_shared_memory_is_what_the_form_takes(name: str, machine: str) -> None:
    (kernel,) = plan_of(name, machine).kernels
    fit = configuration_of(kernel).fit("shared")
    held = fit.block + kernel_shares(kernel) * fit.share
    assert held <= kernel.expected.shared_bytes
    if kernel.form is not None:
        assert held == kernel.form.warps.shared_bytes
    else:
        assert held >= sum(each.tile_bytes for each in kernel.program.buffers)


def test_registers_are_shared_out_and_fewer_than_predicted_with_addresses() -> None:
    for name in ("attention", "matmul"):
        (kernel,) = plan_of(name, "ampere").kernels
        configuration = configuration_of(kernel)
        assert configuration.registers <= kernel.prediction.registers
        held = [each for each in configuration.variables if each.level == "register"]
        assert all(each.scope is Scope.SHARE for each in held)


def test_a_specialised_kernel_s_consumers_hold_what_they_may() -> None:
    (kernel,) = plan_of("attention").kernels
    assert kernel.form is not None
    configuration = configuration_of(kernel)
    assert configuration.rows == 64
    assert configuration.registers <= kernel.form.warps.registers[0]
    assert configuration.most >= kernel.form.warps.consumers
    names = {each.name for each in configuration.variables if each.level == "shared"}
    assert names == {"Q", "K", "V", "O"}


def test_a_contraction_that_nothing_waits_for_overlaps_what_comes_before() -> None:
    (kernel,) = plan_of("attention").kernels
    table = throughput_of(kernel)
    tensor = [each.clocks for each in table.stages if each.pipeline is Pipeline.TENSOR]
    vector = [each.clocks for each in table.stages if each.pipeline is not Pipeline.TENSOR]
    assert table.overlapped == pytest.approx(tensor[0] + max(sum(vector), sum(tensor[1:])))


def test_a_plan_s_cost_shows_its_tables() -> None:
    plan = plan_of("attention")
    shown = show_cost(plan, cost_of(plan))
    assert "configuration: a warpgroup of 128 threads holds 64 rows" in shown
    assert "throughput: a thread's part of a step" in shown
    assert "memory binds below 295.4 rows" in shown
    assert shown == show_cost(plan, cost_of(plan))
    narrow = plan_of("attention", "ampere")
    assert "configuration: a warp of 32 threads" in show_cost(narrow, cost_of(narrow))


def test_every_kernel_of_several_has_tables() -> None:
    plan = plan_of("chain")
    assert len(plan.kernels) == 2
    shown = show_cost(plan, cost_of(plan))
    assert "configuration of kernel 1" in shown
    assert "throughput of kernel 2" in shown


def test_a_kernel_whose_warps_share_out_no_rows_says_nothing_of_rows() -> None:
    block = "\non hopper\n    group b by 1\n    stream x by 1024\n"
    text = (EXAMPLES / "softmax.napkin").read_text(encoding="utf-8") + block
    plan = parse(text).plan("hopper")
    shown = show_cost(plan, cost_of(plan))
    assert "configuration: a warpgroup of 128 threads\n" in shown
    assert "fit, " not in shown
    assert "memory binds" not in shown
    assert "ideal" not in shown


def test_tiles_that_do_not_fit_are_told_with_the_largest_that_do() -> None:
    text = (EXAMPLES / "attention.napkin").read_text(encoding="utf-8")
    block = "\non hopper\n    group q by 256\n    stream x by 256\n    warps 8\n    stages 2\n"
    with pytest.raises(NapkinError) as caught:
        parse(text + block).plan("hopper")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "N407"
    these, largest = diagnostic.notes
    assert these.startswith("these tiles (q 256, ")
    assert "need 257 KB of shared memory of 227 KB and " in these
    assert largest.startswith("the largest tiles that fit (q 128, ")
    figures = re.search(
        r"need (\d+) KB .* of (\d+) KB and (\d+) registers a thread of (\d+)", largest
    )
    assert figures is not None
    shared, room, registers, most = map(int, figures.groups())
    assert shared <= room
    assert registers <= most
    assert these.endswith("with 8 warps and 2 stages")


# --- without a plan -------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", machine_names())
def test_any_machine_costs_without_a_plan(machine: str) -> None:
    found = unplanned("attention", machine)
    shown = show_unplanned(found)
    assert "H* = b*h*q*x*(d + v)**2/M + b*h*q*(d + v)" in shown
    assert f"bound by {found.ideal.bound_by}" in shown


def test_a_figure_that_is_not_published_is_said_to_be_missing() -> None:
    assert "no rate published" in show_unplanned(unplanned("attention", "m4_max"))
    assert "no rate published" not in show_unplanned(unplanned("attention", "h100"))


def test_no_plan_beats_the_ideal() -> None:
    for name in ("attention", "matmul", "causal", "mlp", "softmax"):
        for machine in ("a100", "h100"):
            plan = plan_of(name, machine)
            assert unplanned(name, machine).ideal.seconds <= plan.seconds, (name, machine)


def test_a_cut_may_beat_one_kernel_and_the_ideal_tells_why() -> None:
    one, plan = unplanned("chain", "h100").ideal, plan_of("chain", "h100")
    assert len(plan.kernels) == 2
    assert one.bound_by == "l2"  # few rows fit beside two long axes, so all else is loaded again
    assert one.seconds > plan.seconds > one.times["tensor"]


def test_a_diagram_that_must_be_cut_says_so() -> None:
    sizes = {"d": 65_536, "v": 65_536}
    found = load(ATTENTION).cost_without_plan("h100", sizes=sizes)
    assert not found.ideal.fits
    assert "; but one kernel does not fit" in show_unplanned(found)
    assert "does not fit" not in show_unplanned(unplanned("attention", "h100"))


def test_a_mask_s_share_of_the_work_is_counted() -> None:
    full, causal = (unplanned(name, "h100") for name in ("attention", "causal"))
    tensor = {
        each: next(e.operations for e in each.ideal.pipelines if e.pipeline is Pipeline.TENSOR)
        for each in (full, causal)
    }
    assert 0.5 <= tensor[causal] / tensor[full] < 0.51
    assert tensor[causal] == pytest.approx(causal.flops)


def test_clusters_help_where_l2_is_slower_than_neighbours() -> None:
    found = unplanned("attention", "h100").clusters
    assert found is not None
    assert found.size == 1
    assert found.seconds == found.alone
    assert "clusters of blocks save nothing" in show_unplanned(unplanned("attention", "h100"))
    assert unplanned("attention", "a100").clusters is None
    slow = replace(unplanned("attention", "h100"), clusters=Clusters(2, 0.9, 1.0))
    assert "clusters of 2 blocks save 10% of the transfers" in show_unplanned(slow)


def test_a_diagram_without_contractions_has_an_ideal() -> None:
    found = unplanned("softmax", "h100")
    assert found.flops == 0
    assert found.ideal.bound_by == "dram"
    assert str(found.law) == "3*b*x"


def test_the_tables_of_an_on_block_need_no_kernel() -> None:
    diagram = parse(MIXED)
    with pytest.raises(NapkinError) as caught:
        diagram.plan("hopper")
    assert caught.value.diagnostics[0].code == "N405"  # no kernel splits an output's axis
    shown = show_unplanned(diagram.cost_without_plan("hopper", registers="fp16"))
    for words in (
        "48.0 KB  48.0 KB         3.73",
        "74.8 KB         3.42, binds",
        "3 warpgroups fit, 384 rows a block; 149.5 registers",
        "work 1.259 us, loads 968 ns",
        "memory binds below 295.4",
        "ideal 1.319 PFLOP/s",
    ):
        assert words in shown


def test_what_is_computed_in_fp32_takes_twice_the_registers() -> None:
    narrow = parse(MIXED).cost_without_plan("hopper", registers="fp16").tables
    wide = parse(MIXED).cost_without_plan("hopper").tables
    assert narrow is not None
    assert wide is not None
    assert wide[0].registers == 2 * narrow[0].registers


def test_a_length_that_is_missing_and_an_axis_that_is_not_there() -> None:
    diagram = parse("diagram f(A[x y]) -> B[x]\n    B[x] = sum[y](A)\n")
    assert diagram.cost_without_plan("b200", sizes={"x": 64}).sizes == (("x", 64), ("y", 4096))
    with pytest.raises(NapkinError) as caught:
        diagram.cost_without_plan("b200", sizes={"z": 64})
    assert caught.value.diagnostics[0].code == "N403"


# --- on the command line --------------------------------------------------------------------------


def test_a_machine_without_a_code_generator_costs_and_does_not_compile(
    capsys: Capture, tmp_path: Path
) -> None:
    assert main(["cost", ATTENTION, "--machine", "b200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        "diagram",
        "machine",
        "sizes",
        "dtype",
        "flops",
        "pipelines",
        "levels",
        "bound_by",
        "predicted_seconds",
        "plan",
    ]
    assert list(found["levels"]) == ["dram", "l2", "shared", "register", "fragment"]
    assert found["predicted_seconds"] == pytest.approx(245e-6, rel=0.01)
    assert main(["compile", ATTENTION, "--machine", "b200", "-o", str(tmp_path)]) == 1
    assert "error[N402]: machine `b200` has no code generator" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_cost_without_a_plan_reads_a_file(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "mixed.napkin"
    path.write_text(MIXED, encoding="utf-8")
    assert main(["cost", str(path), "--no-plan", "--registers", "fp16"]) == 0
    assert "384 rows a block; 149.5 registers" in capsys.readouterr().out


def test_machines_side_by_side(capsys: Capture) -> None:
    assert main(["cost", ATTENTION, "--compare", "a100,hopper,b200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["a100", "h100", "b200"]
    by_name = {line.split("  ")[0]: line for line in lines[2:]}
    assert "at least" in by_name["predicted"]
    assert by_name["against the first"].split()[3:5] == ["1.00", "x"]
    assert "dram bytes" in by_name


def test_types_side_by_side(capsys: Capture) -> None:
    assert main(["cost", ATTENTION, "--compare", "bf16,fp8", "--json"]) == 0
    wide, narrow = json.loads(capsys.readouterr().out)["costs"]
    assert (wide["dtype"], narrow["dtype"]) == ("bf16", "fp8e4m3")
    bytes_of = [each["levels"]["dram"]["transfer_bytes"] for each in (wide, narrow)]
    assert bytes_of[0] == 2 * bytes_of[1]
    assert narrow["predicted_seconds"] < wide["predicted_seconds"]


def test_ideals_side_by_side() -> None:
    costs = [unplanned("attention", name).as_cost() for name in ("h100", "m4_max")]
    shown = show_comparison(costs)
    assert "at least 0.556 ms" in shown
    assert "register bytes" in shown


def test_an_unknown_machine_is_not_compared(capsys: Capture) -> None:
    assert main(["cost", ATTENTION, "--compare", "a100,h10"]) == 1
    assert "N401" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["a100", "a100,", ","])
def test_one_is_not_a_comparison(given: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["cost", ATTENTION, "--compare", given])
    assert caught.value.code == 2
    assert "does not name two to compare" in capsys.readouterr().err


# --- formulas -------------------------------------------------------------------------------------


def test_a_cost_tells_the_formulas_of_a_step_and_of_the_whole() -> None:
    plan = plan_of("attention")
    cost = cost_of(plan)
    assert cost.work.startswith("2*b*d*h*q*x + 2*b*h*q*v*x tensor, b*h*q*x + b*h*q*x/s_x sfu, ")
    assert cost.step.startswith("moves d*s_x + s_x*v; works 2*d*g_q*s_x + 2*g_q*s_x*v tensor, ")
    shown = show_cost(plan, cost)
    assert f"K = {cost.work}" in shown
    assert f"a step {cost.step}" in shown
    assert f"K = {unplanned('attention', 'b200').work}" in show_unplanned(
        unplanned("attention", "b200")
    )


def test_what_no_stream_steps_through_has_no_step() -> None:
    diagram = parse("diagram double(A[x y]) -> B[x y]\n    B[x y] = 2 * A\n")
    assert diagram.cost("hopper").step == ""
    assert diagram.cost_without_plan("b200").step == ""


def test_a_number_known_at_the_call_is_taken_alike_for_counts_and_time() -> None:
    plan = plan_of("window")
    cost = cost_of(plan)
    assert cost.assumed == (("width", 1024),)
    assert "for width = 1024, which is known at the call alone" in show_cost(plan, cost)
    told = cost_of(plan, scalars={"width": 4096})
    assert told.assumed == ()
    assert told.flops > 2 * cost.flops
    # No kernel contracts faster than the tensor cores do.
    peak = plan.machine.nominal_peak(Pipeline.TENSOR, "bf16")
    assert cost.flops / cost.seconds < peak
    assert "a mask leaves less than the formulas" in show_cost(plan, cost)
    assert "a mask leaves less" not in show_cost(
        plan_of("attention"), cost_of(plan_of("attention"))
    )


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
@pytest.mark.parametrize("name", ["attention", "window", "matmul", "decode", "layernorm", "mla"])
def test_no_report_claims_more_than_the_machine_has(name: str, machine: str) -> None:
    plan = plan_of(name, machine)
    cost = cost_of(plan)
    assert cost.flops / cost.seconds <= plan.machine.nominal_peak(Pipeline.TENSOR, "bf16")
    moved = next(each.transfer_bytes for each in cost.levels if each.level == "dram")
    assert moved / cost.seconds <= 1.001 * plan.machine.nominal_bandwidth("dram")
    shown = show_cost(plan, cost)
    assert not re.search(r"\b(nan|inf|None)\b", shown)
    assert " 1 stages" not in shown


def test_exact_contractions_are_not_costed_as_tf32() -> None:
    diagram = load(EXAMPLES / "matmul.napkin")
    cost = diagram.cost("h100", dtype="fp32")
    vector = 2 * plan_of("matmul").machine.nominal_peak(Pipeline.FP32, "fp32")
    assert cost.flops / cost.seconds <= vector


def test_a_rate_that_nobody_publishes_gives_no_flops_a_second() -> None:
    cost = unplanned("attention", "m4_max").as_cost()
    assert set(cost.unrated) == {"tensor", "sfu", "fp32"}
    rows = show_comparison([cost, unplanned("attention", "h100").as_cost()]).splitlines()
    (row,) = [each.split() for each in rows if each.startswith("contractions")]
    assert row[1] == "-"
    assert rows[-1].startswith("m4_max, bf16: no rate published of ")
