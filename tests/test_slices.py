"""A chunk's steps in slices: what they compute, run in NumPy beside the whole chunk's, and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.operators import POINTWISE, REDUCTIONS, Kind
from napkin.schedule.forms.form import find_form
from napkin.schedule.liveness import entry_of
from napkin.schedule.program import (
    Assign,
    Compute,
    Dot,
    EdgePosition,
    Fold,
    Literal,
    Load,
    Operand,
    Operation,
    Positions,
    Tile,
    tiles_of,
)
from napkin.schedule.roles.barriers import Await, Finish, Release, Slice, Slot, Step, Sync
from napkin.schedule.roles.warps import Chunks, Specialised
from tests.test_specialise import FORMED, formed, in_slices, kernel_of

Value = npt.NDArray[Any]


class Chunk:
    """Runs the steps of one chunk on values that are drawn by name."""

    def __init__(self, form: Specialised, each: Chunks) -> None:
        self.extents = {dim.name: dim.extent for dim in form.program.dims}
        self.cuts = dict(form.cuts)
        self.tiles = {tile.name: tile for tile in tiles_of(form.program.operations)}
        self.tiles |= {tile.name: tile for tile in tiles_of(each.loop.body)}
        self.values: dict[str, Value] = {}

    def run(self, steps: Sequence[Step]) -> dict[str, Value]:
        """Return every value that a step made."""
        for step in steps:
            if isinstance(step, Slice):
                self._slice(step)
            elif not isinstance(step, Sync):
                self._do(step)
        return self.values

    def _slice(self, step: Slice) -> None:
        source, dims = self._value(step.source), step.tile.dims
        axis = next(place for place, dim in enumerate(dims) if dim in self.cuts)
        self._set(step.tile, np.split(source, step.count, axis)[step.number])

    def _do(self, op: Operation) -> None:
        match op:
            case Assign():
                self.values[op.target] = self._value(op.source)
            case Compute():
                operands = [self._aligned(each, op.tile.dims) for each in op.operands]
                shape = [self.extents[dim] for dim in op.tile.dims]
                with np.errstate(all="ignore"):
                    value = POINTWISE[op.operator].numpy(*operands)
                self._set(op.tile, np.broadcast_to(value, shape))
            case Fold():
                axes = tuple(self.tiles[op.source].dims.index(dim) for dim in op.over)
                self._set(op.tile, REDUCTIONS[op.operator].numpy(self._value(op.source), axis=axes))
            case Dot():
                left, right = (self._matrix(name, op.over) for name in (op.left, op.right))
                added = 0 if op.accumulator is None else self._value(op.accumulator)
                self._set(op.tile, left @ right.T + added)
            case Load() | Positions() | EdgePosition():
                self._set(op.tile, self._drawn(op.tile))
            case _:
                raise AssertionError(f"a chunk holds {op}")

    def _set(self, tile: Tile, value: Value) -> None:
        self.tiles[tile.name] = tile
        self.values[tile.name] = value

    def _value(self, name: str) -> Value:
        if name not in self.values:
            self.values[name] = self._drawn(self.tiles[name])
        return self.values[name]

    def _drawn(self, tile: Tile) -> Value:
        draw = np.random.default_rng(sum(tile.name.encode()))
        shape = [self.extents[dim] for dim in tile.dims]
        if tile.kind is Kind.FLOAT:
            return draw.standard_normal(shape)
        return draw.integers(0, 2, shape).astype(bool if tile.kind is Kind.BOOL else int)

    def _matrix(self, name: str, over: str) -> Value:
        value, dims = self._value(name), self.tiles[name].dims
        return value if dims[1] == over else value.T

    def _aligned(self, operand: Operand, dims: tuple[str, ...]) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if not isinstance(operand, str):
            return 100
        if operand not in self.tiles:
            return 3
        value, mine = self._value(operand), self.tiles[operand].dims
        return value.reshape([self.extents[dim] if dim in mine else 1 for dim in dims])


def states_of(body: Sequence[Operation], values: Mapping[str, Value]) -> dict[str, Value]:
    """Return what the next chunk reads of this one."""
    return {name: values[name] for name in sorted(entry_of(body)) if name in values}


@pytest.mark.parametrize("name", sorted(set(FORMED) - {"matmul"}))
def test_slices_give_what_the_whole_chunk_gives(name: str) -> None:
    form = in_slices(name)
    contracting = [each for each in form.chunks if each.loop.body]
    assert all(any(isinstance(step, Slice) for step in each.steps) for each in contracting)
    for each in contracting:
        whole = states_of(each.loop.body, Chunk(form, each).run(each.loop.body))
        found = states_of(each.loop.body, Chunk(form, each).run(each.steps))
        assert whole.keys() == found.keys()
        assert any(np.any(value != 0) for value in whole.values())
        for state, value in whole.items():
            np.testing.assert_allclose(found[state], value, rtol=1e-9, atol=1e-9, err_msg=state)


def test_the_comparison_sees_a_slice_that_is_left_out() -> None:
    form = in_slices("causal")
    each = form.chunks[-1]
    *_, last = (step for step in each.steps if isinstance(step, Dot))
    steps = [step for step in each.steps if step is not last]
    whole = states_of(each.loop.body, Chunk(form, each).run(each.loop.body))
    found = states_of(each.loop.body, Chunk(form, each).run(steps))
    assert not np.allclose(whole["o"], found["o"])


def test_a_slice_is_contracted_before_the_next_is_computed() -> None:
    steps = in_slices("causal").chunks[-1].steps
    order = [
        step.tile.name
        for step in steps
        if isinstance(step, Dot) or (isinstance(step, Compute) and step.operator == "exp2")
    ]
    assert order == [
        *("t1", "rescale", "p_0", "o", "p_1", "o", "p_2", "o", "p_3", "o"),
    ]


def test_a_maximum_that_the_slices_need_is_taken_of_the_whole_chunk() -> None:
    for name in ("causal", "softcap", "alibi"):
        steps = in_slices(name).chunks[-1].steps
        folds = [step for step in steps if isinstance(step, Fold)]
        assert [(fold.operator, fold.over) for fold in folds] == [
            ("max", ("x",)),
            *[("sum", ("x_slice",))] * 4,
        ]


def test_the_last_slices_run_on_into_the_next_chunk() -> None:
    form = in_slices("causal")
    _, alone, *others = form.chunks
    ending = [Finish(("o",), 0), Release(Slot("k_buffer", 1))]
    assert not isinstance(alone.steps[-1], Finish | Release)
    for each in others:
        place = next(i for i, step in enumerate(each.steps) if isinstance(step, Finish))
        wait, release, *_ = each.steps[place:]
        assert isinstance(wait, Finish)
        assert wait.tiles[1:] == ("o",)
        assert release == ending[1]
        assert not isinstance(each.steps[-1], Finish | Release)
    assert list(form.drain[:2]) == ending


def test_a_consumer_lets_chunks_pass_that_its_rows_do_not_see() -> None:
    passing, alone, cut, full = formed("causal", d=64, v=64).chunks
    assert passing.steps == (Await(Slot("k_buffer", 0)), Release(Slot("k_buffer", 0)))
    assert (passing.loop.start, passing.loop.stop) == (alone.loop.stop, "x_behind")
    assert (cut.loop.start, cut.loop.stop) == ("x_full_end", alone.loop.start)
    assert full.loop.start == Literal(0)
    assert len(formed("window", d=64, v=64).chunks) == 5


def test_a_consumer_whose_rows_lie_past_the_end_lets_all_chunks_but_one_pass() -> None:
    passing, alone, *others = formed("attention", d=64, v=64).chunks
    assert (passing.loop.body, alone.is_single) == ((), True)
    assert [each.is_single for each in others] == [False, False]


def test_heads_of_64_are_sliced_between_three_consumers() -> None:
    for name in ("attention", "causal", "softcap", "sinks", "window"):
        form = formed(name, d=64, v=64)
        assert form.consumers == 3
        assert form.cuts == (("x_slice", "x"),)
        assert form.program.dim("x_slice").extent == 32


def test_values_of_a_chunks_positions_leave_slices_no_registers() -> None:
    for name in ("alibi", "document"):
        form = formed(name, d=64, v=64)
        assert (form.consumers, form.cuts) == (2, ())


@pytest.mark.parametrize(
    ("name", "length", "consumers"),
    [
        *(("attention", 1024, 3), ("attention", 4096, 3), ("attention", 16384, 3)),
        *(("causal", 1024, 2), ("causal", 4096, 3), ("causal", 16384, 3)),
        *(("sigmoid", 1024, 2), ("sigmoid", 4096, 3), ("softcap", 4096, 2), ("softcap", 16384, 3)),
        ("window", 4096, 2),
    ],
)
def test_slices_stand_back_where_walks_are_short_and_a_score_takes_long(
    name: str, length: int, consumers: int
) -> None:
    sizes = {"b": 16384 // length, "h": 32, "q": length, "x": length, "d": 64, "v": 64}
    form = find_form(kernel_of(name, sizes))
    assert not isinstance(form, str)
    assert (form.warps.consumers, bool(form.warps.cuts)) == (consumers, consumers == 3)


def test_what_is_contracted_far_longer_than_computed_is_delayed() -> None:
    sizes = {"b": 4, "h": 32, "q": 4096, "x": 4096, "d": 64, "v": 64}
    form = find_form(kernel_of("spherical", sizes))
    assert not isinstance(form, str)
    assert not form.warps.cuts


@pytest.mark.parametrize("name", ["packed", "document", "llama"])
def test_a_stream_that_data_bound_is_not_sliced(name: str) -> None:
    assert not formed(name, d=64, v=64).cuts


def test_groups_whose_streams_differ_in_length_are_handed_out() -> None:
    assert formed("causal", d=64, v=64).dispatched
    assert not formed("attention", d=64, v=64).dispatched


def test_one_barrier_says_that_a_chunk_has_come_and_another_that_it_was_read() -> None:
    form = formed("causal", d=64, v=64)
    streamed = {ring.name: ring.leader for ring in form.rings if not ring.resident}
    assert streamed == {"k_buffer": None, "v_buffer": "k_buffer"}
    assert form.stages == 3
    for each in form.chunks:
        rings = [step.slot.ring for step in each.steps if isinstance(step, Await | Release)]
        assert set(rings) <= {"k_buffer"}
        assert sum(isinstance(step, Await) for step in each.steps) == 1


def test_a_consumer_contracts_a_slice_while_it_computes_the_next() -> None:
    text = emit_gluon(
        plan_in_form(kernel_of("causal", {"d": 64, "v": 64}), formed("causal", d=64, v=64))
    )
    loop = text[text.index("# stream x: chunks that need no mask") :]
    order = (
        "t1 = warpgroup_mma(",
        "t1, o = warpgroup_mma_wait(0, [t1, o])",
        "mbarrier.arrive(k_empty.index(last_slot), count=1)",
        "o_moved = o * gl.convert_layout(rescale, ",
        "t1_0 = _slice(t1, 0, 2, LAYOUT_Q_X_SLICE)",
        "p_0 = gl.exp2(",
        "o = warpgroup_mma(",
        "v_0, o_moved,",
        "p_1 = gl.exp2(",
        "o = warpgroup_mma(",
        "p_3 = gl.exp2(",
        "o = warpgroup_mma(",
        "l = (l * ",
        "m = m_new",
        "# what the chunk at x_start is still to add",
        "o = warpgroup_mma_wait(0, [o])",
        "mbarrier.arrive(k_empty.index(last_slot), count=1)",
    )
    place = 0
    for each in order:
        place = loop.index(each, place) + 1
