"""Chunks narrower than all consumers' rows: each walks what its own rows see, and lets the others pass."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napkin.algebra.derive import derive
from napkin.api import load
from napkin.emit.module import emit_module
from napkin.machine import load_machine
from napkin.operators import POINTWISE, REDUCTIONS, Kind
from napkin.schedule.planning.plan import make_plan
from napkin.schedule.program import (
    Compute,
    Dot,
    EdgePosition,
    Fold,
    Length,
    Literal,
    Load,
    Loop,
    Operand,
    Positions,
    Region,
)
from napkin.schedule.roles.barriers import Await, Finish, PassTurn, Release, Slot, TakeTurn
from napkin.schedule.roles.warps import Chunks, Specialised
from tests.programs import example
from tests.test_gluon_walks import LENGTHS, check_walks
from tests.test_specialise import Fault, formed, simulate_apart, simulate_often, with_stages

EXAMPLES = Path(__file__).parents[1] / "examples"
HEAD = {"d": 256, "v": 256}
SHORT = {"b": 4, "q": 4096, "x": 4096, "d": 128, "v": 128}


def test_a_consumer_lets_chunks_pass_that_its_rows_do_not_see() -> None:
    passing, alone, cut, full = formed("causal", **HEAD).chunks
    k, v = Slot("k_buffer", 0), Slot("v_buffer", 0)
    turn = (Await(k), TakeTurn(), PassTurn(), Release(k))
    assert passing.steps == (*turn, Await(v), Release(v))
    assert (passing.loop.start, passing.loop.stop) == (alone.loop.stop, "x_behind")
    assert [each.is_single for each in (passing, alone, cut, full)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("name", "sizes", "loops"),
    [
        ("attention", HEAD, 3),  # no mask: all rows see the same chunks
        ("causal", {"d": 128, "v": 128}, 3),  # a chunk is as wide as all rows
        ("window", HEAD, 5),
    ],
)
def test_others_walk_the_same_chunks(name: str, sizes: Mapping[str, int], loops: int) -> None:
    assert len(formed(name, **sizes).chunks) == loops


@pytest.mark.parametrize("name", ["causal", "window"])
def test_every_consumer_walks_the_chunks_that_are_copied(name: str) -> None:
    assert max(check_walks(name, HEAD, formed(name, **HEAD), 64)) > 0


def shared_out(total: int, loops: int, draw: random.Random) -> list[int]:
    """Return how many of so many chunks each of the loops walks."""
    ends = sorted(draw.randint(0, total) for _ in range(loops - 1))
    return [end - start for start, end in zip([0, *ends], [*ends, total], strict=True)]


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_no_warp_hangs_where_consumers_pass_different_chunks(stages: int) -> None:
    form = with_stages(formed("causal", **HEAD), stages)
    for seed in range(60):
        draw = random.Random(seed)
        totals = [draw.randint(0, 6) for _ in range(4)]
        mine = [[shared_out(total, 3, draw) for total in totals] for _ in range(2)]
        simulate_apart(form, [[total] for total in totals], mine, seed)


@cache
def planned(name: str) -> Specialised:
    """Return the form of the last kernel of an example's plan, of short streams."""
    form = make_plan(derive(example(name)), load_machine("h200"), sizes=SHORT).kernels[-1].form
    assert form is not None
    return form.warps


@pytest.mark.parametrize("name", ["packed", "document"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_no_warp_hangs_where_consumers_are_done_with_different_chunks(
    name: str, stages: int
) -> None:
    form = with_stages(planned(name), stages)
    assert len(form.behind) == 1
    for seed in range(60):
        draw = random.Random(seed)
        totals = [draw.randint(0, 6) for _ in range(4)]
        mine = [[shared_out(total, len(form.chunks), draw) for total in totals] for _ in range(2)]
        simulate_apart(form, [[total] for total in totals], mine, seed)


def test_values_of_positions_come_and_go_with_the_first_matrix() -> None:
    form = planned("document")
    leaders = {ring.name: ring.leader for ring in form.rings if not ring.resident}
    assert leaders == {"k_buffer": None, "doc_x_buffer": "k_buffer", "v_buffer": None}
    for chunks in form.chunks:
        loads = [i for i, op in enumerate(chunks.steps) if isinstance(op, Load)]
        assert len(loads) == (chunks.loop.region is Region.PARTIAL and bool(chunks.loop.body))
        release = chunks.steps.index(Release(Slot("k_buffer", 0)))
        assert all(chunks.steps.index(Await(Slot("k_buffer", 0))) < i < release for i in loads)


def test_values_that_are_read_behind_their_slot_s_release_are_seen() -> None:
    form = planned("document")
    slot = Slot("k_buffer", 0)

    def early(chunks: Chunks) -> Chunks:
        steps = [step for step in chunks.steps if step != Release(slot)]
        steps.insert(steps.index(Await(slot)) + 1, Release(slot))
        return replace(chunks, steps=tuple(steps))

    broken = replace(form, chunks=tuple(map(early, form.chunks)))
    with pytest.raises(Fault):
        simulate_often(broken, [[0, 2, 3, 1], [0, 1, 4, 1]])


@cache
def in_order(name: str) -> tuple[Specialised, ...]:
    """Return the forms of an example's backward that adds up nothing in memory."""
    head = {"d": 64} if name == "differential" else {}
    backward = load(EXAMPLES / f"{name}.napkin").gradient().backward
    plan = backward.plan("h200", sizes={**SHORT, **head}, deterministic=True)
    return tuple(kernel.form.warps for kernel in plan.kernels if kernel.form)


@pytest.mark.parametrize("name", ["causal", "document", "differential"])
def test_what_comes_with_a_chunk_of_a_backward_comes_and_goes_together(name: str) -> None:
    assert len(in_order(name)) == 2
    for form in in_order(name):
        first, *others = (ring for ring in form.rings if not ring.resident)
        assert first.leader is None
        assert {ring.leader for ring in others} == {first.name}
        for chunks in form.chunks:
            handled = [step for step in chunks.steps if isinstance(step, Await | Release)]
            before = Release(Slot(first.name, 1))
            released = [] if chunks.is_single else [before]
            released = released if chunks.loop.body else [Release(Slot(first.name, 0))]
            assert handled == [Await(Slot(first.name, 0)), *released]
        assert before in form.drain


@pytest.mark.parametrize("name", ["causal", "window", "document"])
def test_sums_leave_their_operands_registers_to_scores(name: str) -> None:
    (form,) = (each for each in in_order(name) if each.program.outputs[-1].name == "dV")
    assert form.program.axis("q").tile == 64
    assert form.tests_apart
    for chunks in (each for each in form.chunks if each.loop.body and not each.is_single):
        assert not any(isinstance(step, TakeTurn | PassTurn) for step in chunks.steps)
        issued = [step for step in chunks.steps if isinstance(step, Dot | Finish)]
        kinds = [
            (
                step.accumulator is not None
                if isinstance(step, Dot)
                else (len(step.tiles), step.behind)
            )
            for step in issued
        ]
        # A sum and the first score are there before the second one is issued; the other sum still runs.
        assert kinds == [True, False, True, (2, 1), False, (1, 1), (1, 0)]
        first, score, second = (step.tile.name for step in issued[:3] if isinstance(step, Dot))
        last = [step for step in issued[3:] if isinstance(step, Finish)]
        assert [set(each.tiles) for each in last[:2]] == [{first, score}, {second}]


def test_scores_that_are_read_together_alone_are_contracted_in_turn() -> None:
    backward = load(EXAMPLES / "spherical.napkin").gradient().backward
    plan = backward.plan("h200", sizes=SHORT, deterministic=True)
    forms = [kernel.form.warps for kernel in plan.kernels if kernel.form]
    assert all(
        any(isinstance(step, TakeTurn) for each in form.chunks for step in each.steps)
        for form in forms
    )


@pytest.mark.parametrize("name", ["causal", "window", "document", "packed", "differential"])
@pytest.mark.parametrize("stages", [2, 3])
def test_no_warp_of_a_backward_hangs(name: str, stages: int) -> None:
    for form in (with_stages(each, stages) for each in in_order(name)):
        loops = len(form.chunks) - 1 + len(form.behind)
        for seed in range(30):
            draw = random.Random(seed)
            totals = [draw.randint(0, 6) for _ in range(4)]
            mine = [[shared_out(total, loops, draw) for total in totals] for _ in range(2)]
            simulate_apart(form, [[total] for total in totals], mine, seed)


def test_a_consumer_that_passes_a_chunk_too_few_is_seen() -> None:
    form = formed("causal", **HEAD)
    with pytest.raises(Fault):
        simulate_apart(form, [[3], [3]], [[[1, 1, 1]] * 2, [[0, 1, 1]] * 2], 0)


# --- streams that data bound ----------------------------------------------------------------------


def numbers_of(steps: Sequence[object], known: dict[str, Any], rows: range, size: int) -> None:
    """Do the steps that give whole numbers of rows, one tile after the other."""
    for op in steps:
        if isinstance(op, EdgePosition):
            known[op.tile.name] = rows.start if op.end == "first" else min(rows.stop, size) - 1
        elif isinstance(op, Positions) and op.tile.dims == ("q",):
            known[op.tile.name] = np.arange(rows.start, rows.stop)
        elif isinstance(op, Load) and op.array == "start":
            starts = known["starts"]
            known[op.tile.name] = np.array([starts[i] if i < size else 0 for i in rows])
        elif isinstance(op, Fold) and op.tile.kind is Kind.INT:
            known[op.tile.name] = REDUCTIONS[op.operator].numpy(known[op.source], 0)
        elif isinstance(op, Compute) and op.tile.kind in (Kind.INT, Kind.BOOL):
            known[op.tile.name] = POINTWISE[op.operator].numpy(
                *(value_of(each, known) for each in op.operands)
            )


def is_of_rows(op: object) -> bool:
    """Return whether an operation makes values of rows."""
    return isinstance(op, Load | Positions | Compute) and bool(op.tile.dims)


def value_of(operand: Operand, known: Mapping[str, Any]) -> Any:
    if isinstance(operand, Literal):
        return operand.value
    return known[f"size_{operand.axis}"] if isinstance(operand, Length) else known[operand]


def chunks_of(loop: Loop, known: Mapping[str, Any]) -> list[int]:
    """Return the chunks of a loop from the last to the first."""
    start, stop = value_of(loop.start, known), value_of(loop.stop, known)
    return list(range(int(stop) - loop.step, int(start) - 1, -loop.step))


@pytest.mark.parametrize("seed", range(40))
def test_a_consumer_walks_what_its_rows_see_of_packed_sequences(seed: int) -> None:
    form = formed("packed", **SHORT)
    draw = random.Random(seed)
    size = draw.choice(LENGTHS)
    cuts = sorted(draw.sample(range(1, size), min(size - 1, draw.randint(0, 8))))
    starts = [max([0, *(cut for cut in cuts if cut <= row)]) for row in range(size)]
    alone = next(place for place, each in enumerate(form.chunks) if each.is_single)
    passed = []
    for group in range(-(-size // 128)):
        rows = range(128 * group, 128 * (group + 1))
        shared: dict[str, Any] = {"starts": starts, "size_q": size, "size_x": size}
        numbers_of(form.place, shared, rows, size)
        top = value_of(form.chunks[0].loop.stop, shared) - 64
        bottom = value_of(form.behind[-1].loop.start, shared)
        copied = list(range(int(top), int(bottom) - 1, -64))
        for consumer in range(2):
            own = range(rows.start + 64 * consumer, rows.start + 64 * (consumer + 1))
            known = dict(shared)
            numbers_of([op for op in form.place if is_of_rows(op)], known, own, size)
            numbers_of(form.prelude, known, own, size)
            walks = [chunks_of(each.loop, known) for each in (*form.chunks, *form.behind)]
            assert len(walks[alone]) == 1
            assert [at for walk in walks for at in walk] == copied
            contracted = {at for walk in walks[alone:-1] for at in walk}
            seen = [at // 64 * 64 for row in own if row < size for at in (starts[row], row)]
            if seen:
                assert contracted == set(range(min(seen), max(seen) + 1, 64))
            for each, walk in zip(form.chunks, walks[:-1], strict=True):
                if each.loop.region is Region.FULL:  # what is not masked is seen whole
                    for row in (row for row in own if row < size):
                        assert all(starts[row] <= at and at + 63 <= row for at in walk)
            passed.append(len(walks[0]) + len(walks[-1]))
    assert max(passed) > 0 or size <= 64


@pytest.mark.parametrize("size", [1, 64, 65, 128, 300, 777, 1111])
@pytest.mark.parametrize("width", [1, 64, 130, 1024])
def test_a_consumer_of_a_backward_walks_what_its_rows_see_of_a_window(
    size: int, width: int
) -> None:
    for form in in_order("window"):
        step = form.chunks[0].loop.step
        alone = next(place for place, each in enumerate(form.chunks) if each.is_single)
        for first in range(0, size, 128):
            shared: dict[str, Any] = {"size_q": size, "size_x": size, "width": width}
            numbers_of(form.place, shared, range(first, first + 128), size)
            top = value_of(form.chunks[0].loop.stop, shared)
            bottom = value_of(form.behind[-1].loop.start, shared)
            for start in (first, first + 64):
                own = range(start, min(start + 64, size))
                known = dict(shared)
                numbers_of(form.prelude, known, range(start, start + 64), size)
                walks = [chunks_of(each.loop, known) for each in (*form.chunks, *form.behind)]
                copied = list(range(int(top) - step, int(bottom) - 1, -step))
                assert [at for walk in walks for at in walk] == copied
                contracted = {at for walk in walks[alone:-1] for at in walk}
                ends = [at // step * step for row in own for at in seen_by(form, row, size, width)]
                seen = set(range(min(ends), max(ends) + 1, step)) if ends else set()
                assert contracted == seen or not own


def seen_by(form: Specialised, row: int, size: int, width: int) -> tuple[int, int]:
    """Return the first and the last position of a window that a row of a backward's kernel meets."""
    if form.rows == "q":
        return max(0, row - width + 1), row
    return row, min(row + width, size) - 1


def test_what_a_backward_carries_stays_packed_to_the_next_chunk() -> None:
    backward = load(EXAMPLES / "causal.napkin").gradient().backward
    text = emit_module(backward.plan("h200", sizes=SHORT, deterministic=True))
    flat = "".join(text.split())
    carried = re.findall(r"_last=(\w+)\(", flat)
    assert len(carried) > 6
    assert set(carried) == {"_packed"}
