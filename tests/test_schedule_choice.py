"""Why a plan is what it is: what it was chosen from, what the runner-up lacks, what is refused and when."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from math import isfinite

import pytest

from napkin.algebra.derive import derive
from napkin.api import parse
from napkin.diagram import Diagram
from napkin.language.errors import NapkinError
from napkin.machine import load_machine
from napkin.schedule.planning.choice import Choice, choice_lines, choices_of, ranked_table
from napkin.schedule.planning.plan import Plan, make_plan
from napkin.schedule.tiling.figures import Figures, figures_of
from napkin.schedule.tiling.kernel import (
    REGISTERS,
    SHARED_MEMORY,
    KernelPlan,
    Ranking,
    best_kernel,
    rank_kernels,
)
from napkin.schedule.tiling.least import least_seconds
from napkin.schedule.tiling.structures import Structures
from napkin.schedule.tiling.tilings import enumerate_tilings
from napkin.schedule.timing.predict import average_steps, predict
from napkin.schedule.trips import loop_places
from tests.programs import diagram_of, example

ATTENTION = (
    "diagram attention(Q[h q d], K[h x d], V[h x v]) -> O[h q v]\n"
    "    S[h q x] = sum[d](Q * K) / sqrt(size(d))\n"
    "    O[h q v] = sum[x](softmax[x](S) * V)\n\n"
    "sizes h=64 q=4096 x=4096 d={d} v={d}\n"
)


def plan_of(diagram: Diagram, machine: str, dtype: str = "bf16") -> Plan:
    return make_plan(derive(diagram), load_machine(machine), dtype=dtype)


@cache
def planned(name: str, machine: str = "hopper") -> Plan:
    return plan_of(example(name), machine)


@cache
def chosen(name: str, machine: str = "hopper") -> tuple[Choice, ...]:
    return choices_of(planned(name, machine))


def only(name: str, machine: str = "hopper") -> Choice:
    (choice,) = chosen(name, machine)
    return choice


def shown(kernel: KernelPlan) -> tuple[object, ...]:
    return kernel.program, kernel.warps, kernel.prediction


def only_ranking(name: str, machine: str) -> Ranking:
    sizes = dict(example(name).sizes)
    return rank_kernels(derive(example(name)), load_machine(machine), sizes, "bf16")


def lengths_of(kernel: KernelPlan) -> dict[str, int]:
    return dict(kernel.sizes)


# --- what it is chosen from -----------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
@pytest.mark.parametrize("name", ["attention", "matmul", "decode", "mla", "layernorm"])
def test_every_tiling_is_ranked_or_pruned_for_a_reason(name: str, machine: str) -> None:
    diagram, gpu = example(name), load_machine(machine)
    derivation = derive(diagram)
    sizes = {axis: dict(diagram.sizes).get(axis, 4096) for axis in diagram.axes}
    ranking = rank_kernels(derivation, gpu, sizes, "bf16")
    assert ranking.considered == len(list(enumerate_tilings(derivation, gpu, sizes, None)))
    assert {reason for reason, _ in ranking.pruned} <= {SHARED_MEMORY, REGISTERS}
    seconds = [each.prediction.seconds for each in ranking.kernels]
    assert seconds == sorted(seconds)
    assert all(isfinite(each) for each in seconds)
    assert all(each.fits for each in ranking.kernels)


def test_pruning_by_capacity_leaves_out_nothing_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    from napkin.schedule.tiling import kernel as module

    derivation, gpu = derive(example("mlp")), load_machine("hopper")
    sizes = dict(example("mlp").sizes)
    pruned = rank_kernels(derivation, gpu, sizes, "bf16")
    monkeypatch.setattr(module, "_is_no_smaller", lambda *_: False)
    judged = rank_kernels(derivation, gpu, sizes, "bf16")
    assert [shown(each) for each in judged.kernels] == [shown(each) for each in pruned.kernels]
    assert sum(count for _, count in pruned.pruned) == sum(count for _, count in judged.pruned)
    assert dict(pruned.pruned)[SHARED_MEMORY] > 0


@pytest.mark.parametrize("name", ["attention", "causal", "packed", "mla", "gated_mlp", "softmax"])
@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_a_structure_laid_out_again_is_what_lowering_gives(name: str, machine: str) -> None:
    from napkin.schedule.layout import Layouts
    from napkin.schedule.lowering.lower import lower
    from napkin.schedule.lowering.rewrite import rewrite
    from napkin.schedule.tiling.kernel import storage_types

    diagram, gpu = example(name), load_machine(machine)
    derivation = derive(diagram)
    cheap = rewrite(derivation)
    sizes = {axis: dict(diagram.sizes).get(axis, 4096) for axis in diagram.axes}
    layouts = Layouts(cheap, sizes, storage_types(diagram, "bf16"))
    structures = Structures(cheap, sizes)
    tilings = dict.fromkeys(tiling for tiling, _ in enumerate_tilings(derivation, gpu, sizes, None))
    for number, tiling in enumerate(tilings):
        layout = layouts.of(tiling)
        program, steps = structures.program(layout)
        if number % 5 == 0:
            lowered = lower(cheap, layout)
            assert program == lowered
            again = average_steps(lowered, sizes)
            places = loop_places(lowered.operations)
            own = loop_places(program.operations)
            assert {places[at]: each for at, each in again.items()} == {
                own[at]: each for at, each in steps.items()
            }


# --- in words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        *((name, "hopper") for name in ("attention", "gqa", "mla", "chain", "window", "softmax")),
        *((name, "ampere") for name in ("matmul", "decode", "document", "layernorm", "window")),
    ],
)
def test_every_example_says_why(name: str, machine: str) -> None:
    for choice in chosen(name, machine):
        text = "\n".join(choice_lines(choice))
        assert text.startswith(f"chosen from {choice.ranking.considered:,} plans: ")
        assert "L2 alone would take" in text
        assert not re.search(r"\bnan\b|\binf\b|-\d|None|\b0(\.0+)? (ms|us|ns)", text), text
        said = re.search(r"the runner-up, .*: (.*) (ms|us|ns), ([\d.]+) times as long", text)
        best = choice.ranked[0]
        if said is not None and best == choice.kernel:
            assert float(said[3]) >= 1.0


def test_the_parts_that_are_told_make_up_the_whole() -> None:
    for choice in (only("attention"), only("attention", "ampere"), only("matmul"), only("mla")):
        for each in choice.ranked[:6]:
            figures = figures_of(each)
            assert sum(figures.parts.values()) == pytest.approx(figures.seconds)


def test_smaller_tiles_of_rows_read_what_is_streamed_more_often() -> None:
    ranking = only("attention", "ampere").ranking
    by_rows: dict[int, KernelPlan] = {}
    for each in ranking.kernels:
        tiles = {axis.axis: axis.tile for axis in each.program.axes}
        if tiles["x"] == 64 and tiles["v"] == 128:
            by_rows.setdefault(tiles["q"], each)
    wide, narrow = by_rows[128], by_rows[64]
    text = "\n".join(choice_lines(Choice(wide, replace(ranking, kernels=(wide, narrow)), False)))
    assert "reads Q once, K and V 32 times" in text
    assert "tiles q 64, x 64 (" in text
    took = f"{figures_of(narrow).l2_seconds * 1e3:.3f} ms"
    assert (
        f"it reads K and V twice as often, since a load serves 64 of q (not 128): L2 alone would take {took}"
        in text
    )
    assert "K and V 64 times" not in text


def test_a_runner_up_with_another_bound_says_so() -> None:
    choice = only("matmul")
    own = next(each for each in choice.ranked if each.expected.bound_by != "L2")
    other = next(each for each in choice.ranked if each.expected.bound_by == "L2")
    lines = choice_lines(Choice(own, replace(choice.ranking, kernels=(own, other)), False))
    assert f"    it is bound by L2, not by {own.expected.bound_by}" in lines


def test_plans_that_are_as_fast_are_counted() -> None:
    choice = only("softmax")
    alike = tuple(replace(choice.kernel, warps=warps) for warps in (4, 8, 16))
    lines = choice_lines(Choice(alike[0], replace(choice.ranking, kernels=alike), by_hand=False))
    bound = choice.kernel.expected.bound_by
    assert lines[-1] == (
        f"3 plans are predicted to be as fast, bound by {bound}: the first of them is taken"
    )


def test_a_plain_loop_lacks_roles_beside_a_specialised_kernel() -> None:
    choice = only("attention")
    assert choice.kernel.form is not None
    text = "\n".join(choice_lines(choice))
    assert "the runner-up, a plain loop " in text
    assert "its warps all do the same, so less of it runs beside contractions" in text


def test_a_plan_without_a_choice_says_so() -> None:
    plan = plan_of(diagram_of("diagram f(A[x y]) -> B[x y]\n    B[x y] = 2 * A\n"), "hopper")
    (choice,) = choices_of(plan)
    assert choice_lines(choice)[0] == "the only plan that there is"
    assert len(choice_lines(choice)) == 3
    assert choice.rivals == ()


def test_what_is_fixed_by_hand_is_held_against_what_would_be_chosen() -> None:
    block = "\non a100\n    group q by 16\n    stream x by 16\n    warps 4\n    stages 2\n"
    plan = plan_of(diagram_of(ATTENTION.format(d=128) + block), "a100")
    (choice,) = choices_of(plan)
    assert choice.by_hand
    text = "\n".join(choice_lines(choice))
    assert text.startswith("fixed by hand; there are ")
    ratio = re.search(r"left to choose, napkin takes tiles q .* ms, ([\d.]+) times as long", text)
    assert ratio is not None
    assert float(ratio[1]) < 1
    assert "the runner-up" not in text


def test_the_table_ranks_the_plans_with_what_they_need() -> None:
    choice = only("attention")
    rows = ranked_table(choice, 5)
    assert len(rows) == 6
    assert rows[0].split()[:4] == ["tiles", "warps", "stages", "shared"]
    assert "warp-specialised" in rows[1]
    ratios = [float(re.findall(r"(\d\.\d{3})  ", row)[-1]) for row in rows[1:]]
    assert ratios[0] == 1.0
    assert all(each >= 1.0 for each in ratios)
    loops = [each.prediction.seconds for each in choice.ranked if each.form is None]
    assert loops == sorted(loops)
    assert len(ranked_table(choice, 0)) == 1


def test_figures_count_the_form_that_is_printed() -> None:
    choice = only("attention")
    formed, plain = figures_of(choice.kernel), figures_of(choice.ranking.kernels[0])
    assert formed.is_specialised
    assert not plain.is_specialised
    assert formed.read == plain.read  # both have 128 rows
    assert isinstance(formed, Figures)
    assert formed.tensor == plain.tensor
    assert 0 < plain.tensor_share < 1


# --- what no compiler should have to refuse -------------------------------------------------------


def refused(text: str, machine: str) -> str:
    with pytest.raises(NapkinError) as caught:
        parse(text).plan(machine)
    (diagnostic,) = caught.value.diagnostics
    return f"{diagnostic.code}: {caught.value}"


@pytest.mark.parametrize("machine", ["hopper", "a100"])
@pytest.mark.parametrize("d", [1, 37, 192, 512, 1024])
def test_every_head_size_is_planned_within_what_a_block_holds(d: int, machine: str) -> None:
    limits = load_machine(machine).limits
    for kernel in parse(ATTENTION.format(d=d)).plan(machine).kernels:
        assert kernel.expected.shared_bytes <= limits.shared_per_block
        assert kernel.expected.registers <= limits.registers_per_thread


@pytest.mark.parametrize("machine", ["hopper", "a100"])
def test_tiles_by_hand_that_do_not_fit_are_told_what_they_need(machine: str) -> None:
    block = f"\non {machine}\n    group q by 128\n    stream x by 256\n    stages 4\n"
    text = refused(ATTENTION.format(d=256) + block, machine)
    assert text.startswith("N407: ")
    assert re.search(r"these tiles \(q 128, .*\) need \d+ KB of shared memory of \d+ KB", text)
    assert re.search(r"the largest tiles that fit \(.*\) need \d+ KB .* registers a thread", text)
    assert "with 4 warps and 4 stages" in text or "with 8 warps and 4 stages" in text


@pytest.mark.parametrize(("warps", "instead"), [(3, 2), (64, 32)])
def test_warps_that_no_block_has_are_refused(warps: int, instead: int) -> None:
    block = f"\non hopper\n    group q by 64\n    stream x by 64\n    warps {warps}\n"
    text = refused(ATTENTION.format(d=64) + block, "hopper")
    assert text.startswith("N409: ")
    assert f"write `warps {instead}`" in text


@pytest.mark.parametrize(("dtype", "least"), [("bf16", 16), ("fp8e4m3", 32)])
def test_a_chunk_too_short_for_the_tensor_cores_is_refused(dtype: str, least: int) -> None:
    block = f"\non hopper\n    group q by 64\n    stream x by {least // 2}\n"
    diagram = parse(ATTENTION.format(d=64) + block)
    with pytest.raises(NapkinError) as caught:
        diagram.plan("hopper", dtype=dtype)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "N410"
    assert diagnostic.help == f"write `x by {least}`"


def test_one_row_at_a_time_contracts_nothing_and_is_planned() -> None:
    block = "\non hopper\n    group q by 1\n    stream x by 1\n"
    (kernel,) = parse(ATTENTION.format(d=64) + block).plan("hopper").kernels
    assert kernel.prediction.seconds > 0


def test_no_plan_sums_less_than_the_tensor_cores_do() -> None:
    plan = plan_of(diagram_of(ATTENTION.format(d=8)), "hopper", dtype="fp8e4m3")
    tiles = {each.axis: each.tile for each in plan.kernels[0].printed.axes}
    assert tiles["d"] == 32
    assert tiles["x"] >= 32


@pytest.mark.parametrize("dtype", ["fp8e4m3", "fp8e5m2"])
def test_a_type_that_a_machine_lacks_is_refused_and_costed(dtype: str) -> None:
    diagram = parse(ATTENTION.format(d=128))
    with pytest.raises(NapkinError) as caught:
        diagram.plan("a100", dtype=dtype)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "N408"
    assert "h100" in (diagnostic.help or "")
    cost = diagram.cost("a100", dtype=dtype)
    assert cost.kernels == ()
    assert f"it has no {dtype}" in cost.note
    tensor = diagram.cost_without_plan("a100", dtype="fp16").ideal.times["tensor"]
    assert diagram.cost_without_plan("a100", dtype=dtype).ideal.times["tensor"] == tensor


def test_predictions_of_a_structure_are_those_of_its_program() -> None:
    choice = only("matmul", "ampere")
    kernel = choice.ranking.kernels[3]

    steps = average_steps(kernel.program, lengths_of(kernel))
    told = predict(kernel.program, kernel.machine, lengths_of(kernel), kernel.warps, steps)
    assert told.seconds == kernel.prediction.seconds


# --- the best alone -------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
@pytest.mark.parametrize(
    "name", ["attention", "window", "matmul", "decode", "softmax", "gated_mlp"]
)
def test_the_best_kernel_is_the_first_of_the_ranking(name: str, machine: str) -> None:
    derivation, gpu = derive(example(name)), load_machine(machine)
    sizes = dict(example(name).sizes)
    ranking = rank_kernels(derivation, gpu, sizes, "bf16")
    best, _ = best_kernel(derivation, gpu, sizes, "bf16")
    assert best is not None
    assert shown(best) == shown(ranking.kernels[0])


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
@pytest.mark.parametrize("name", ["attention", "causal", "matmul", "decode", "softmax", "mlp"])
def test_no_prediction_is_below_the_least(name: str, machine: str) -> None:
    for each in only_ranking(name, machine).kernels[::4]:
        steps = average_steps(each.program, lengths_of(each))
        least = least_seconds(each.program, each.machine, lengths_of(each), steps, each.warps)
        assert 0 <= least <= each.prediction.seconds


def test_where_nothing_fits_the_nearest_is_told() -> None:
    derivation, gpu = derive(example("attention_block")), load_machine("hopper")
    sizes = dict(example("attention_block").sizes)
    best, nearest = best_kernel(derivation, gpu, sizes, "bf16")
    assert best is None
    assert nearest is not None
    assert nearest.excess > 1
