"""Warp-specialised forms without a GPU: the rotated stream in NumPy, and the barriers by simulation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napkin.algebra.derive import derive
from napkin.language.errors import InternalError
from napkin.machine import load_machine
from napkin.schedule.forms.shapes import ROWS, Shape, row_axis, tiling_of
from napkin.schedule.forms.specialise import specialise, specialise_program
from napkin.schedule.layout import build_layout
from napkin.schedule.lowering.lower import lower
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.program import Dot, Load, Loop, Program, Region
from napkin.schedule.roles.barriers import (
    Await,
    Finish,
    PassTurn,
    Release,
    Slot,
    Step,
    TakeTurn,
)
from napkin.schedule.roles.rotate import descend, rotate
from napkin.schedule.roles.warps import Ring, Specialised
from napkin.schedule.tiling.kernel import KernelPlan, rank_kernels, storage_types
from napkin.schedule.trips import kinds_of_groups, trips
from tests.programs import (
    EXAMPLES,
    Tiles,
    arguments_of,
    diagram_of,
    example,
    lower_by,
    program_of,
    run,
    sizes_of,
    worst_error,
)

SIZES = {"b": 2, "h": 3, "k": 2, "g": 3, "q": 37, "x": 45, "d": 7, "v": 5, "t": 21, "f": 13}
LIMITS = {"page": 7, "length": 50, "label": 5}
FORMED = (
    *("alibi", "attention", "attention_lse", "causal", "differential", "document", "fading"),
    *("gated_mlp", "gemma", "gqa", "llama", "matmul", "mlp", "packed", "relative_bias"),
    *("sigmoid", "sinks", "softcap", "spherical", "window"),
)


def kernel_of(
    name: str, sizes: Mapping[str, int] | None = None, machine: str = "hopper"
) -> KernelPlan:
    diagram = example(name)
    lengths = {axis: dict(diagram.sizes).get(axis, 4096) for axis in diagram.axes}
    lengths |= sizes or {}
    return rank_kernels(derive(diagram), load_machine(machine), lengths, "bf16").kernels[0]


def formed(name: str, **sizes: int) -> Specialised:
    form = specialise(kernel_of(name, sizes))
    assert not isinstance(form, str), form
    return form


def in_slices(name: str) -> Specialised:
    """Return an example's form in slices, between two consumers."""
    kernel = kernel_of(name)
    rows = row_axis(kernel)
    assert rows is not None
    types = storage_types(kernel.derivation.diagram, kernel.dtype)
    limit = kernel.machine.limits.shared_per_block
    form: Specialised | str = ""
    for chunk in (64, 32):
        shape = Shape(2, ROWS, chunk, (2,), is_sliced=True)
        layout = build_layout(
            kernel.derivation, dict(kernel.sizes), types, tiling_of(kernel, rows, shape, 2)
        )
        form = specialise_program(lower(kernel.derivation, layout), rows, shape, limit, 2)
        if not isinstance(form, str):
            return form
    raise AssertionError(form)


def rotated(program: Program) -> Program:
    found = rotate(program)
    assert not isinstance(found, str), found
    return found


# --- the rotated stream -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMED)
@pytest.mark.parametrize("tiles", [Tiles(16, 16), Tiles(64, 64), Tiles(8, 4)])
def test_a_rotated_stream_gives_what_the_reference_gives(name: str, tiles: Tiles) -> None:
    diagram, sizes = example(name), sizes_of(example(name), SIZES, 5)
    arguments = arguments_of(diagram, sizes, LIMITS, 0)
    program = rotated(program_of(diagram, sizes, tiles))
    assert worst_error(run(program, arguments, sizes).outputs, diagram, arguments) < 1e-12


@pytest.mark.parametrize("name", sorted(set(FORMED) - {"matmul"}))
def test_a_stream_walked_back_gives_what_the_reference_gives(name: str) -> None:
    diagram, sizes = example(name), sizes_of(example(name), SIZES, 5)
    arguments = arguments_of(diagram, sizes, LIMITS, 0)
    for tiles in (Tiles(16, 16), Tiles(8, 4)):
        program = descend(program_of(diagram, sizes, tiles))
        assert not isinstance(program, str), program
        assert worst_error(run(program, arguments, sizes).outputs, diagram, arguments) < 1e-12


MASKS = (
    *("S", "where(x <= q, S, -inf)", "where(x <= q and q - x < width, S, -inf)"),
    *("where(first <= x and x <= q, S, -inf)", "where(x < max2(q, first), S, -inf)"),
)
WEIGHTS = ("softmax[x](M)", "exp(M)", "l2norm[x](S)", "sigmoid(S)", "S * S", "exp(M) * B")
SCORES = ("sum[d](Q * K)", "sum[d](Q * K) / 3 + B", "sum[d](Q * K) * W", "tanh(sum[d](Q * K))")
OTHERS = ("sum[x](P)", "max[x](S)", "logsumexp[x](M)", "sum[x](P * W)", "sum[x](S * S)")


@st.composite
def two_contractions(draw: st.DrawFn) -> str:
    """Return a diagram that multiplies what it makes of scores with values."""
    lines = [
        "diagram f(Q[q d], K[x d], V[x v], U[x v], B[q x], W[x], first[q]: int32, "
        "width: int) -> "
        "O[q v], L[q], N[q v]",
        f"    S[q x] = {draw(st.sampled_from(SCORES))}",
        f"    M[q x] = {draw(st.sampled_from(MASKS))}",
        f"    P[q x] = {draw(st.sampled_from(WEIGHTS))}",
        "    O[q v] = sum[x](P * V)",
        f"    L[q] = {draw(st.sampled_from(OTHERS))}",
        f"    N[q v] = {draw(st.sampled_from(('sum[x](S * U)', 'sum[x](P * V)', 'sum[x](P * U)')))}",
    ]
    return "\n".join(lines) + "\n"


@given(
    text=two_contractions(),
    size=st.integers(1, 23),
    keys=st.integers(1, 23),
    tile=st.sampled_from([2, 4, 8]),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_random_streams_are_the_same_rotated(text: str, size: int, keys: int, tile: int) -> None:
    diagram = diagram_of(text)
    sizes = {"q": size, "x": keys, "d": 3, "v": 2}
    derivation = rewrite(derive(diagram))
    if derivation.stream is None or derivation.stream.axis != "x":
        return
    program = lower_by(derivation, sizes, Tiles(4, tile))
    found = rotate(program)
    if isinstance(found, str):
        assert found == "the stream is walked more than once", text
        return
    arguments = arguments_of(diagram, sizes, {}, 0)
    back = descend(program)
    assert not isinstance(back, str), back
    plain, *others = (run(each, arguments, sizes).outputs for each in (program, found, back))
    for (name, value), turned in product(plain.items(), others):
        scale = float(np.max(np.abs(value), initial=0.0, where=np.isfinite(value)))
        np.testing.assert_allclose(turned[name], value, rtol=0, atol=1e-9 * scale, err_msg=text)


@pytest.mark.parametrize("width", [-1000, -5, 0, 1, 9, 1000])
def test_a_bound_past_the_last_chunk_walks_none_but_the_first(width: int) -> None:
    diagram, sizes = example("window"), sizes_of(example("window"), SIZES, 5)
    arguments = arguments_of(diagram, sizes, LIMITS, 0) | {"width": width}
    program = rotated(program_of(diagram, sizes, Tiles(8, 8)))
    assert worst_error(run(program, arguments, sizes).outputs, diagram, arguments) < 1e-12
    kinds = kinds_of_groups(program, sizes)
    walked = trips(program, sizes, {"width": width}, kinds).values()
    most = -(-sizes["x"] // 8) if width > 0 else 1
    assert np.max(np.sum([each.steps for each in walked], axis=0)) <= most


def test_the_second_contraction_waits_for_the_next_chunk() -> None:
    program = rotated(program_of(example("causal"), SIZES, Tiles(16, 16)))
    first, *others = [op for op in program.operations if isinstance(op, Loop)]
    assert [op.tile.dims for op in first.body if isinstance(op, Dot)] == [("q", "x")]
    for loop in others:
        assert loop.descending
        assert [op.tile.dims for op in loop.body if isinstance(op, Dot)] == [("q", "x"), ("q", "v")]
    assert [loop.region for loop in others] == [Region.PARTIAL, Region.FULL]
    behind = program.operations[program.operations.index(others[-1]) + 1]
    assert isinstance(behind, Dot)
    assert behind.left.endswith("_last")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("diagram f(A[m k], B[k n]) -> C[m n]\n    C[m n] = sum[k](A * B + A)", "no contraction"),
        ("diagram f(A[m n]) -> C[m n]\n    C[m n] = A * 2", "nothing is streamed"),
        ("diagram f(A[m n]) -> C[m n]\n    C[m n] = softmax[n](A)", "more than once"),
    ],
)
def test_what_can_not_be_rotated_says_why(text: str, why: str) -> None:
    diagram = diagram_of(text)
    sizes = dict.fromkeys(diagram.axes, 8)
    found = rotate(program_of(diagram, sizes, Tiles(4, 4)))
    assert isinstance(found, str)
    assert why in found


def test_a_nested_loop_is_not_rotated() -> None:
    found = rotate(program_of(example("attention"), SIZES, Tiles(8, 4, 4)))
    assert found == "a step walks a loop of its own"


# --- the form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMED)
def test_a_form_fits_its_machine_and_keeps_every_operation(name: str) -> None:
    form = formed(name)
    assert form.shared_bytes < load_machine("hopper").limits.shared_per_block
    for ring in form.rings:
        filled = (form.consumers if ring.by_rows else 1) if ring.resident else 2
        assert ring.slots >= filled, ring.name
    for chunks in form.chunks:
        dots = [op for op in chunks.loop.body if isinstance(op, Dot)]
        assert [step for step in chunks.steps if isinstance(step, Dot)] == dots
        turns = [step for step in chunks.steps if isinstance(step, (TakeTurn, PassTurn))]
        assert turns == ([] if name == "matmul" else [TakeTurn(), PassTurn()])


def test_consumers_and_chunks_follow_from_registers_and_shared_memory() -> None:
    chosen = {
        (name, size): formed(name, d=size, v=size)
        for name in ("attention", "causal")
        for size in (64, 128, 256)
    }
    assert {key: (form.consumers, form.chunks[0].loop.step) for key, form in chosen.items()} == {
        ("attention", 64): (3, 128),
        ("attention", 128): (2, 128),
        ("attention", 256): (2, 64),
        ("causal", 64): (3, 128),
        ("causal", 128): (2, 128),
        ("causal", 256): (2, 64),
    }
    # A tile of 256 columns leaves no room for the output beside the rings: it takes the rows' slots.
    rings = {size: chosen["attention", size].staged[0].ring for size in (128, 256)}
    assert rings == {128: None, 256: "q_buffer"}


@pytest.mark.parametrize(
    ("name", "positions", "head", "chunk"),
    [
        ("packed", 4096, 128, 64),
        ("packed", 16384, 128, 64),
        ("packed", 4096, 64, 128),
        ("causal", 4096, 128, 128),
        ("window", 4096, 128, 128),
        ("llama", 4096, 128, 128),  # one number for all rows of a sequence
    ],
)
def test_a_stream_that_values_of_rows_bound_has_short_chunks(
    name: str, positions: int, head: int, chunk: int
) -> None:
    form = formed(name, b=4, q=positions, x=positions, d=head, v=head)
    assert {each.loop.step for each in form.chunks} == {chunk}
    assert form.tests_apart or not form.held
    assert form.consumers == (3 if name == "packed" and positions > 4096 else 2)


@pytest.mark.parametrize(("name", "is_held"), [("causal", True), ("alibi", False)])
def test_a_mask_is_tested_a_comparison_at_a_time_whether_rows_are_held_or_not(
    name: str, is_held: bool
) -> None:
    form = formed(name)
    assert form.tests_apart
    assert bool(form.held) == is_held
    assert not formed("attention").tests_apart


def test_values_of_a_chunk_s_positions_come_by_the_copy_engine() -> None:
    form = formed("document")
    (ring,) = (ring for ring in form.rings if ring.is_vector)
    assert (ring.load.array, ring.slot_bytes, ring.arrivals) == ("doc_x", 4 * 128, 2)
    for chunks in form.chunks:
        place = next(i for i, step in enumerate(chunks.steps) if isinstance(step, Load))
        around = [chunks.steps[place - 1], chunks.steps[place + 1]]
        assert around == [Await(Slot("doc_x_buffer", 0)), Release(Slot("doc_x_buffer", 0))]


@pytest.mark.parametrize(
    ("name", "sizes", "why"),
    [
        ("rmsnorm_linear", {}, "no contraction multiplies what a step has computed"),
        ("decode", {}, "fills no consumer"),
        ("layernorm", {}, "no tile of rows"),
        ("attention", {"q": 32}, "fills no consumer"),
    ],
)
def test_a_kernel_without_this_form_says_why(name: str, sizes: dict[str, int], why: str) -> None:
    found = specialise(kernel_of(name, sizes))
    assert isinstance(found, str)
    assert why in found


def test_a_contraction_before_the_stream_has_no_such_form() -> None:
    # Its consumers would read rows before they are there, and its result before it is.
    text = """diagram f(X[t d], U[d f], Y[t e], W[f e]) -> D[t f]
    D[t f] = gelu(sum[d](X * U)) * sum[e](Y * W)
sizes t=4096 d=64 e=4096 f=256
"""
    diagram = diagram_of(text)
    lengths = dict(diagram.sizes)
    kernel = rank_kernels(derive(diagram), load_machine("h200"), lengths, "bf16").kernels[0]
    found = specialise(kernel)
    assert isinstance(found, str)
    assert "contracts before its stream" in found


def test_a_machine_without_a_copy_engine_has_no_such_form() -> None:
    found = specialise(kernel_of("attention", machine="ampere"))
    assert isinstance(found, str)
    assert "no copy engine" in found


# --- the barriers, simulated ------------------------------------------------------------------------


class Fault(Exception):
    """A deadlock, or a slot that is overwritten while it is read."""


@dataclass
class Shared:
    """Shared memory: what every slot holds, its barriers' completed phases, and who still reads it."""

    form: Specialised
    holds: dict[tuple[str, int], object] = field(default_factory=dict)
    full: dict[tuple[str, int], int] = field(default_factory=dict)
    empty: dict[tuple[str, int], int] = field(default_factory=dict)
    arrived: dict[tuple[str, int], int] = field(default_factory=dict)
    readers: dict[tuple[str, int], int] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)

    def ring(self, name: str) -> Ring:
        return next(ring for ring in self.form.rings if ring.name == name)

    def fill(self, place: tuple[str, int], what: object) -> None:
        if self.readers.get(place):
            raise Fault(f"{place} is overwritten while it is read")
        self.holds[place] = what
        self.full[place] = self.full.get(place, 0) + 1

    def release(self, place: tuple[str, int]) -> None:
        self.arrived[place] = self.arrived.get(place, 0) + 1
        if self.arrived[place] == self.ring(place[0]).arrivals:
            self.arrived[place] = 0
            self.empty[place] = self.empty.get(place, 0) + 1


Waiting = Iterator[tuple[str, tuple[str, int], int]]


def producer(shared: Shared, groups: Sequence[Sequence[int]]) -> Waiting:
    """Fill the rings for every group, one after another, as the printed producer does."""
    form, step = shared.form, 0
    for turn, counts in enumerate(groups):
        for ring in form.rings:
            if ring.resident:
                filled = form.consumers if ring.by_rows else 1
                for number in range(turn * filled, (turn + 1) * filled):
                    slot, phase = number % ring.slots, number // ring.slots & 1
                    yield "empty", (ring.name, slot), phase ^ 1
                    shared.fill((ring.name, slot), ("group", number))
        for _ in range(1 + sum(counts)):
            for ring in form.rings:
                if not ring.resident and ring.leader is None:
                    slot, phase = step % ring.slots, step // ring.slots & 1
                    yield "empty", (ring.name, slot), phase ^ 1
                    led = [each.name for each in form.rings if each.leader == ring.name]
                    for name in (*led, ring.name):
                        shared.fill((name, slot), ("step", step))
            step += 1


def consumer(shared: Shared, me: int, groups: Sequence[Sequence[int]]) -> Waiting:
    """Do a consumer's steps for every group."""
    form, step = shared.form, 0
    running: list[list[tuple[str, int]]] = []
    if me == form.consumers - 1:
        shared.turns[0] = 1
    for turn, counts in enumerate(groups):
        yield from steps_of(shared, me, form.prelude, turn, step, running)
        walked = iter(counts)
        for chunks in form.chunks:
            for _ in range(1 if chunks.is_single else next(walked)):
                yield from steps_of(shared, me, chunks.steps, turn, step, running)
                step += 1
        yield from steps_of(shared, me, form.drain, turn, step, running)
        assert not running
        for chunks in form.behind:
            for _ in range(next(walked, 0)):
                yield from steps_of(shared, me, chunks.steps, turn, step, running)
                step += 1


def steps_of(
    shared: Shared,
    me: int,
    steps: Sequence[Step],
    turn: int,
    step: int,
    running: list[list[tuple[str, int]]],
) -> Waiting:
    """Do some steps; `running` are the slots that each contraction under way reads, the oldest first."""
    form, slots = shared.form, dict(shared.form.slots)

    def place(slot: Slot) -> tuple[tuple[str, int], int, object]:
        ring = shared.ring(slot.ring)
        if ring.resident:
            number = turn * form.consumers + me if ring.by_rows else turn
            return (ring.name, number % ring.slots), number // ring.slots & 1, ("group", number)
        at = step - slot.age
        return (ring.name, at % ring.slots), at // ring.slots & 1, ("step", at)

    for each in steps:
        if isinstance(each, Await):
            where, phase, _ = place(each.slot)
            yield "full", where, phase
        elif isinstance(each, Release):
            shared.release(place(each.slot)[0])
        elif isinstance(each, Dot):
            read = [place(slots[name]) for name in (each.left, each.right) if name in slots]
            for where, _, wanted in read:
                if shared.holds.get(where) != wanted:
                    raise Fault(f"{where} holds {shared.holds.get(where)}, not {wanted}")
                shared.readers[where] = shared.readers.get(where, 0) + 1
            running.append([where for where, _, _ in read])
        elif isinstance(each, Load) and each.tile.name in slots:
            where, _, wanted = place(slots[each.tile.name])
            if shared.holds.get(where) != wanted:
                raise Fault(f"{where} holds {shared.holds.get(where)}, not {wanted}")
        elif isinstance(each, Finish):
            yield "time", ("", me), 0  # others may go on while a contraction runs
            while len(running) > each.behind:
                for where in running.pop(0):
                    shared.readers[where] -= 1
        elif isinstance(each, TakeTurn):
            yield "turn", ("", me), 0
            shared.turns[me] -= 1
        elif isinstance(each, PassTurn):
            other = (me + 1) % form.consumers
            shared.turns[other] = shared.turns.get(other, 0) + 1
            if shared.turns[other] > 1:
                raise Fault("a turn is passed to one who has it")


def simulate(form: Specialised, groups: Sequence[Sequence[int]], seed: int) -> None:
    """Run a block's warps in a random order until all are done; raise Fault where a GPU would hang or err."""
    simulate_apart(form, groups, [groups] * form.consumers, seed)


def simulate_apart(
    form: Specialised,
    groups: Sequence[Sequence[int]],
    mine: Sequence[Sequence[Sequence[int]]],
    seed: int,
) -> None:
    """Run a block's warps as `simulate` does, every consumer between bounds of its own."""
    shared = Shared(form)
    agents = [producer(shared, groups)]
    agents += [consumer(shared, me, mine[me]) for me in range(form.consumers)]
    waiting = {number: next(agent, None) for number, agent in enumerate(agents)}
    order = random.Random(seed)

    def is_ready(number: int) -> bool:
        wait = waiting[number]
        assert wait is not None
        what, place, phase = wait
        if what == "time":
            return True
        if what == "turn":
            return shared.turns.get(place[1], 0) > 0
        done = (shared.full if what == "full" else shared.empty).get(place, 0)
        return done % 2 != phase  # as the hardware tests a phase: by its parity

    while True:
        alive = [number for number, wait in waiting.items() if wait is not None]
        if not alive:
            return
        ready = [number for number in alive if is_ready(number)]
        if not ready:
            raise Fault(f"deadlock: {[waiting[number] for number in alive]}")
        chosen = order.choice(ready)
        waiting[chosen] = next(agents[chosen], None)


def simulate_often(form: Specialised, groups: Sequence[Sequence[int]]) -> None:
    for seed in range(40):
        simulate(form, groups, seed)


def with_stages(form: Specialised, stages: int) -> Specialised:
    rings = (ring if ring.resident else replace(ring, slots=stages) for ring in form.rings)
    return replace(form, rings=tuple(rings))


def with_resident(form: Specialised, more: int) -> Specialised:
    """Return the form with so many slots more for resident tiles than a group fills."""
    filled = {ring.name: form.consumers if ring.by_rows else 1 for ring in form.rings}
    rings = (
        replace(ring, slots=filled[ring.name] + more) if ring.resident else ring
        for ring in form.rings
    )
    return replace(form, rings=tuple(rings))


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        *product(["attention", "window", "differential", "document", "mlp"], [1, 2, 3]),
        *product(["matmul"], [2, 3, 4]),  # sums run on while the next chunk arrives
    ],
)
def test_no_warp_hangs_and_no_slot_is_overwritten(name: str, stages: int) -> None:
    form = with_stages(formed(name), stages)
    loops = len(form.chunks) - 1
    order = random.Random(stages)
    for count in range(8):
        for seed in range(4):
            groups = [[order.randint(0, count) for _ in range(loops)] for _ in range(3)]
            simulate(form, [[count, *[0] * (loops - 1)], *groups], seed)


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("name", ["attention", "window", "differential", "document", "sigmoid"])
def test_no_warp_hangs_where_contractions_come_in_slices(name: str, stages: int) -> None:
    form = with_stages(in_slices(name), stages)
    loops = len(form.chunks) - 1
    order = random.Random(stages)
    for count in range(8):
        for seed in range(4):
            groups = [[order.randint(0, count) for _ in range(loops)] for _ in range(3)]
            simulate(form, [[count, *[0] * (loops - 1)], *groups], seed)


@pytest.mark.parametrize("more", [0, 1, 2])
@pytest.mark.parametrize("name", ["causal", "differential"])
def test_rows_of_the_next_group_may_come_early(name: str, more: int) -> None:
    form = with_resident(formed(name), more)
    order = random.Random(more)
    for seed in range(12):
        loops = len(form.chunks) - 1
        groups = [[order.randint(0, 3) for _ in range(loops)] for _ in range(5)]
        simulate(form, groups, seed)


def test_resident_rings_take_the_shared_memory_that_is_left() -> None:
    limit = load_machine("hopper").limits.shared_per_block
    slots = {}
    for size in (64, 128, 256):
        form = formed("causal", d=size, v=size)
        (ring,) = (ring for ring in form.rings if ring.resident)
        slots[size] = ring.slots
        assert form.shared_bytes < limit
    assert slots == {64: 6, 128: 4, 256: 3}


def test_three_consumers_share_what_is_copied() -> None:
    form = formed("causal", d=64, v=64)
    assert form.consumers == 3
    for seed in range(8):
        simulate(form, [[0, 1, 5], [1, 0, 0], [0, 2, 7]], seed)


@pytest.mark.parametrize("lost", [Release, Await])
def test_the_simulation_sees_what_slices_leave_out(lost: type[Step]) -> None:
    form = in_slices("attention")
    loops = [
        replace(each, steps=tuple(step for step in each.steps if not isinstance(step, lost)))
        for each in form.chunks
    ]
    with pytest.raises(Fault):
        simulate_often(replace(form, chunks=tuple(loops)), [[2, 3], [1, 4]])


def test_a_slot_released_before_its_last_slice_is_done_is_seen() -> None:
    form = in_slices("attention")

    def early(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        late = [step for step in steps if isinstance(step, Release) and step.slot.age]
        return (*late, *(step for step in steps if step not in late))

    chunks = tuple(replace(each, steps=early(each.steps)) for each in form.chunks)
    with pytest.raises(Fault, match="overwritten"):
        simulate_often(replace(form, chunks=chunks), [[2, 5]])


@pytest.mark.parametrize("lost", [Release, Await, PassTurn])
def test_the_simulation_sees_a_step_that_is_left_out(lost: type[Step]) -> None:
    form = formed("attention")
    loops = [
        replace(each, steps=tuple(step for step in each.steps if not isinstance(step, lost)))
        for each in form.chunks
    ]
    broken = replace(form, chunks=tuple(loops))
    with pytest.raises(Fault):
        simulate_often(broken, [[2, 3], [1, 4]])


def test_a_slot_released_too_early_is_seen() -> None:
    form = formed("attention")

    def early(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        kept = [step for step in steps if not isinstance(step, Release)]
        released = [step for step in steps if isinstance(step, Release)]
        last = max(i for i, step in enumerate(kept) if isinstance(step, Dot))
        return (*kept[: last + 1], *released, *kept[last + 1 :])

    chunks = tuple(replace(each, steps=early(each.steps)) for each in form.chunks)
    with pytest.raises(Fault, match="overwritten"):
        simulate_often(replace(form, chunks=chunks), [[2, 5]])


def test_a_loop_without_its_tile_is_refused_in_either_direction() -> None:
    program = rotated(program_of(example("attention"), SIZES, Tiles(16, 16)))
    sizes = sizes_of(example("attention"), SIZES, 5)
    arguments = arguments_of(example("attention"), sizes, LIMITS, 0)
    loops = [replace(op, step=8) if isinstance(op, Loop) else op for op in program.operations]
    with pytest.raises(InternalError, match="step by its tile"):
        run(replace(program, operations=tuple(loops)), arguments, sizes)


def test_every_other_example_says_why_it_has_no_such_form() -> None:
    for name in sorted(set(EXAMPLES) - {*FORMED, "cross_entropy"}):  # test_nested has that one's
        diagram = example(name)
        lengths = {axis: dict(diagram.sizes).get(axis, 4096) for axis in diagram.axes}
        kernels = rank_kernels(derive(diagram), load_machine("hopper"), lengths, "bf16").kernels
        assert not kernels or isinstance(specialise(kernels[0]), str), name
