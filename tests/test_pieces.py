"""The pieces of cuts that share them, what they take at least, and cuts that other forms make better."""

from __future__ import annotations

import random

import pytest

from napkin.algebra.cut import Cutter
from napkin.algebra.derive import derive
from napkin.algebra.gradient import differentiate
from napkin.diagram import Diagram, storage_types
from napkin.machine import load_machine
from napkin.schedule.planning.anonymous import anonymous
from napkin.schedule.planning.cut_steps import Cut
from napkin.schedule.planning.flops import left_by_mask
from napkin.schedule.planning.pieces import Pieces, Setting
from napkin.schedule.planning.plan import make_plan
from napkin.schedule.planning.points import cut_points
from napkin.schedule.tiling.kernel import KernelPlan
from tests.programs import diagram_of, example, sizes_of

NORMS = """diagram norms(Q[b h q d], K[b h x d], V[b h x v], gq[d], gk[d]) -> O[b h q v]
    N[b h q d] = rmsnorm[d](Q) * gq
    M[b h x d] = rmsnorm[d](K) * gk
    S[b h q x] = sum[d](N * M) / sqrt(size(d))
    O[b h q v] = sum[x](softmax[x]({score}) * V)
sizes b=4 h=16 q=4096 x=4096 d=128 v=128
"""
SCORES = {"full": "S", "causal": "where(x <= q, S, -inf)"}


def cutter_of(diagram: Diagram) -> Cutter:
    return Cutter(diagram, storage_types(diagram, "bf16"))


def cuts_of(diagram: Diagram, seed: int) -> list[Cut]:
    """Return some cuts of a diagram, with kernels that give two arrays in some."""
    order, points = random.Random(seed), cut_points(diagram)
    found = []
    for _ in range(6):
        kept = frozenset(order.sample(points, order.randint(1, len(points))))
        pair = frozenset(order.sample(sorted(kept), 2)) if len(kept) > 1 else None
        found.append(Cut(kept, frozenset({pair}) if pair and order.random() < 0.5 else frozenset()))
    return found


@pytest.mark.parametrize("name", ["attention_block", "differential", "rmsnorm_linear", "mla"])
def test_a_part_is_the_piece_but_for_names(name: str) -> None:
    diagram = example(name)
    cutter = cutter_of(diagram)
    for seed, chosen in enumerate(cuts_of(diagram, 1)):
        asked = (chosen.kept, chosen.together, dict(chosen.added))
        try:
            pieces = cutter.pieces(*asked)
        except ValueError:
            with pytest.raises(ValueError, match="wait for the other"):
                cutter.parts(*asked)
            continue
        parts = [cutter.piece(part) for part in cutter.parts(*asked)]
        assert [*map(anonymous, parts)] == [*map(anonymous, pieces)], seed


def test_cuts_share_the_pieces_that_they_have_in_common() -> None:
    diagram = example("attention_block")
    points = cut_points(diagram)
    pieces = Pieces(diagram, setting_of(diagram))
    one, other = (pieces.of(Cut(frozenset(kept))) for kept in (points, points[:-1]))
    assert len({*map(id, one)} & {*map(id, other)}) >= len(one) - 2


def setting_of(diagram: Diagram, machine: str = "h200") -> Setting:
    lengths = sizes_of(diagram, dict(diagram.sizes), 4096)
    masked = left_by_mask(derive(diagram), lengths, {"width": 1024})
    return Setting(load_machine(machine), lengths, lengths, "bf16", masked)


@pytest.mark.parametrize("machine", ["h200", "a100"])
@pytest.mark.parametrize("name", ["causal", "window", "attention_block", "layernorm_linear"])
def test_no_plan_takes_less_than_a_piece_takes_at_least(name: str, machine: str) -> None:
    diagram = example(name)
    pieces = Pieces(diagram, setting_of(diagram, machine))
    for chosen in (Cut(frozenset()), Cut(frozenset(cut_points(diagram)))):
        for piece in pieces.of(chosen):
            plan = pieces.plan(piece)
            if isinstance(plan, KernelPlan):
                assert piece.least <= plan.prediction.seconds


def test_a_mask_leaves_half_of_the_work() -> None:
    diagrams = [diagram_of(NORMS.format(score=each)) for each in SCORES.values()]
    full, causal = (Pieces(each, setting_of(each)).of(Cut(frozenset()))[0] for each in diagrams)
    assert 0.5 <= causal.work / full.work < 0.51


@pytest.mark.parametrize("score", SCORES)
def test_norms_are_cut_off_where_warps_with_roles_then_attend(score: str) -> None:
    plan = make_plan(derive(diagram_of(NORMS.format(score=SCORES[score]))), load_machine("h200"))
    assert sorted(each.name for each in plan.kept) == ["M", "N"]
    assert [each.form is not None for each in plan.kernels] == [False, False, True]
    assert plan.turned_down is not None
    assert plan.seconds < 0.8 * plan.turned_down.prediction.seconds


def test_the_cuts_of_a_backward_have_most_parts_in_common() -> None:
    backward = differentiate(example("attention_block")).backward
    cutter, points = cutter_of(backward), cut_points(backward)
    kept = [frozenset(points) - {each} for each in points]
    parts = [part for each in kept for part in cutter.parts(each, (), {})]
    assert len(set(parts)) < len(parts) / 3
