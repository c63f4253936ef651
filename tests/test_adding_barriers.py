"""The barriers of kernels that add to an output, simulated: no hang, nothing overwritten that is read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from napkin.schedule.program import Dot, Load
from napkin.schedule.roles.barriers import Ahead, Await, Finish, Release, Share, Slot, Step
from napkin.schedule.roles.warps import Specialised
from tests.programs import diagram_of
from tests.test_adding import SCORES, text_of
from tests.test_gluon_adding import forms_of, kernel_of, meeting_form_of
from tests.test_specialise import Fault, Shared

PARTS = "parts"  # the tile that consumers share

Waiting = Iterator[tuple[str, tuple[str, int], int]]


def form_of(score: str) -> Specialised:
    return meeting_form_of(kernel_of(diagram_of(text_of(score))))


def producer(shared: Shared, groups: Sequence[Sequence[int]]) -> Waiting:
    """Fill the rings for every group."""
    form, step = shared.form, 0
    for turn, counts in enumerate(groups):
        for ring in (each for each in form.rings if each.resident):
            filled = form.consumers if ring.by_rows else 1
            for number in range(turn * filled, (turn + 1) * filled):
                slot, phase = number % ring.slots, number // ring.slots & 1
                yield "empty", (ring.name, slot), phase ^ 1
                shared.fill((ring.name, slot), ("group", number))
        for _ in range(sum(counts)):
            for ring in (each for each in form.rings if not each.resident):
                slot, phase = step % ring.slots, step // ring.slots & 1
                if ring.leader is None:
                    yield "empty", (ring.name, slot), phase ^ 1
                shared.fill((ring.name, slot), ("step", step))
                if ring.leader is not None:  # the last copy to land makes the slot full
                    shared.full[ring.leader, slot] -= 1
                    yield "time", ("", -1), 0
                    shared.full[ring.leader, slot] += 1
            step += 1


class Consumer:
    """One consumer: the slots that its contractions under way read, and how often it met the other."""

    def __init__(self, shared: Shared, me: int) -> None:
        self.shared, self.me = shared, me
        self.slots = dict(shared.form.slots)
        self.running: list[list[tuple[str, int]]] = []
        self.step = self.turn = 0

    def run(self, groups: Sequence[Sequence[int]]) -> Waiting:
        form = self.shared.form
        for self.turn, counts in enumerate(groups):
            left = sum(counts)
            yield from self.do(form.prelude, left)
            for chunks, count in zip(form.chunks, counts, strict=True):
                for _ in range(count):
                    left -= 1
                    yield from self.do(chunks.steps, left)
                    self.step += 1
            yield from self.do(form.drain, 0)
            assert not self.running

    def place(self, slot: Slot, ahead: int = 0) -> tuple[tuple[str, int], int, object]:
        ring = self.shared.ring(slot.ring)
        if ring.resident:
            number = self.turn * self.shared.form.consumers + self.me if ring.by_rows else self.turn
            return (ring.name, number % ring.slots), number // ring.slots & 1, ("group", number)
        at = self.step + ahead
        return (ring.name, at % ring.slots), at // ring.slots & 1, ("step", at)

    def do(self, steps: Sequence[Step], left: int) -> Waiting:
        """Do some steps; so many chunks of the group are left behind the one at hand."""
        shared = self.shared
        for each in steps:
            match each:
                case Await():
                    where, phase, _ = self.place(each.slot)
                    yield "full", where, phase
                case Release():
                    shared.release(self.place(each.slot)[0])
                case Dot():
                    names = [name for name in (each.left, each.right) if name in self.slots]
                    read = [self.read(self.place(self.slots[name])) for name in names]
                    self.running.append(read if each.left in names else [*read, self.shares(each)])
                case Ahead() if left:
                    where, phase, wanted = self.place(each.slot, ahead=not each.is_first)
                    yield "full", where, phase
                    self.running.append([self.read((where, phase, wanted))])
                case Ahead():
                    self.running.append([])  # what it reads is nobody's, and what it gives
                case Load() if each.tile.name in self.slots:
                    self.read(self.place(self.slots[each.tile.name]), keep=False)
                case Finish():
                    yield "time", ("", self.me), 0
                    while len(self.running) > each.behind:
                        for where in self.running.pop(0):
                            shared.readers[where] -= 1
                case Share() if shared.form.adder is not None:
                    yield from self.fill()
                case Share():
                    if shared.form.parts[each.number].slots == 1:
                        yield from self.meet()
                    if shared.readers.get(self.parts):
                        raise Fault("a shared tile is overwritten while it is read")
                    shared.holds[f"{PARTS} of {self.me}", self.slot] = self.step
                    yield from self.meet()
                case _:
                    pass

    def read(
        self, place: tuple[tuple[str, int], int, object], *, keep: bool = True
    ) -> tuple[str, int]:
        where, _, wanted = place
        if self.shared.holds.get(where) != wanted:
            raise Fault(f"{where} holds {self.shared.holds.get(where)}, not {wanted}")
        self.shared.readers[where] = self.shared.readers.get(where, 0) + keep
        return where

    def shares(self, dot: Dot) -> tuple[str, int]:
        """Return what a contraction reads besides: the tile that consumers share, or a register's."""
        where = ("registers", self.me)
        if dot.over == self.shared.form.rows:
            where = self.parts
            both = range(self.shared.form.consumers)
            held = [self.shared.holds.get((f"{PARTS} of {me}", self.slot)) for me in both]
            if any(each != self.step for each in held):
                raise Fault("a shared tile is not the step's own")
        self.shared.readers[where] = self.shared.readers.get(where, 0) + 1
        return where

    @property
    def slot(self) -> int:
        return self.step % self.shared.form.parts[0].slots

    @property
    def parts(self) -> tuple[str, int]:
        return PARTS, self.slot

    def fill(self) -> Waiting:
        """Put rows into a slot that the adder has emptied."""
        shared, count = self.shared, self.shared.form.parts[0].slots
        yield "empty", self.parts, (self.step // count & 1) ^ 1
        if shared.readers.get(self.parts):
            raise Fault("a shared tile is overwritten while it is read")
        shared.holds[f"{PARTS} of {self.me}", self.slot] = self.step
        shared.arrived[self.parts] = shared.arrived.get(self.parts, 0) + 1
        if shared.arrived[self.parts] == shared.form.consumers:
            shared.arrived[self.parts] = 0
            shared.full[self.parts] = shared.full.get(self.parts, 0) + 1

    def meet(self) -> Waiting:
        self.shared.turns[self.me] = self.shared.turns.get(self.me, 0) + 1
        yield "meet", ("", self.me), self.shared.turns[self.me]


class Adding(Consumer):
    """The adder: it empties the slots that consumers fill."""

    def run(self, groups: Sequence[Sequence[int]]) -> Waiting:
        shared, form = self.shared, self.shared.form
        assert form.adder is not None
        dots = [step for step in form.adder.steps if isinstance(step, Dot)]
        resident = {self.slots[dot.right] for dot in dots}
        for self.turn, counts in enumerate(groups):
            for slot in resident:
                where, phase, _ = self.place(slot)
                yield "full", where, phase
            for _ in range(sum(counts)):
                yield from self.add(form.adder.steps)
                self.step += 1
            for slot in resident:
                shared.release(self.place(slot)[0])

    def add(self, steps: Sequence[Step]) -> Waiting:
        shared, count = self.shared, self.shared.form.parts[0].slots
        for each in steps:
            match each:
                case Await():
                    yield "full", self.parts, self.step // count & 1
                case Dot():
                    read = self.read(self.place(self.slots[each.right]))
                    self.running.append([read, self.shares(each)])
                case Finish():
                    yield "time", ("", self.me), 0
                    for where in self.running.pop(0):
                        shared.readers[where] -= 1
                case Release():
                    shared.empty[self.parts] = shared.empty.get(self.parts, 0) + 1
                case _:
                    pass


def simulate(
    form: Specialised,
    groups: Sequence[Sequence[int]],
    seed: int,
    kind: type[Consumer] = Consumer,
) -> None:
    """Run a block's warps in a random order; raise Fault where a GPU would hang or err."""
    shared, order = Shared(form), random.Random(seed)
    agents = [producer(shared, groups)]
    agents += [kind(shared, me).run(groups) for me in range(form.consumers)]
    if form.adder is not None:
        agents.append(Adding(shared, form.consumers).run(groups))
    waiting = {number: next(agent, None) for number, agent in enumerate(agents)}

    def is_ready(number: int) -> bool:
        wait = waiting[number]
        assert wait is not None
        what, place, phase = wait
        if what == "meet":
            return all(shared.turns.get(me, 0) >= phase for me in range(form.consumers))
        done = (shared.full if what == "full" else shared.empty).get(place, 0)
        return what == "time" or done % 2 != phase

    while alive := [number for number, wait in waiting.items() if wait is not None]:
        ready = [number for number in alive if is_ready(number)]
        if not ready:
            raise Fault(f"deadlock: {[waiting[number] for number in alive]}")
        chosen = order.choice(ready)
        waiting[chosen] = next(agents[chosen], None)


@pytest.mark.parametrize("score", SCORES[:3])
def test_no_warp_hangs_and_no_slot_is_overwritten(score: str) -> None:
    form, order = form_of(score), random.Random(7)
    for count in range(6):
        for seed in range(6):
            groups = [[order.randint(0, count) for _ in form.chunks] for _ in range(4)]
            simulate(form, groups, seed)


@pytest.mark.parametrize(("lost", "score"), [(Release, SCORES[0]), (Await, SCORES[2])])
def test_the_simulation_sees_a_step_that_is_left_out(lost: type[Step], score: str) -> None:
    form = form_of(score)
    chunks = tuple(
        replace(each, steps=tuple(step for step in each.steps if not isinstance(step, lost)))
        for each in form.chunks
    )
    with pytest.raises(Fault):
        simulate_often(replace(form, chunks=chunks))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_shared_tile_has_room_for_one_chunk_or_for_two(slots: int) -> None:
    form = form_of(SCORES[0])
    simulate_often(replace(form, parts=tuple(replace(each, slots=slots) for each in form.parts)))


class Hasty(Consumer):
    """A consumer that skips every other meeting."""

    def meet(self) -> Waiting:
        self.meetings = getattr(self, "meetings", 0) + 1
        if self.meetings % 2 == 0:
            yield from super().meet()


@pytest.mark.parametrize("slots", [1, 2])
def test_a_tile_shared_before_all_have_read_the_last_one_is_seen(slots: int) -> None:
    form = form_of(SCORES[0])
    form = replace(form, parts=tuple(replace(each, slots=slots) for each in form.parts))
    with pytest.raises(Fault, match="shared tile"):
        simulate_often(form, Hasty)


def test_a_contraction_ahead_that_does_not_wait_for_its_tile_is_seen() -> None:
    class Careless(Consumer):
        """A consumer that issues the next chunk's contraction at once."""

        def place(self, slot: Slot, ahead: int = 0) -> tuple[tuple[str, int], int, object]:
            where, phase, wanted = super().place(slot, ahead)
            return where, phase ^ bool(ahead), wanted

    with pytest.raises(Fault):
        simulate_often(form_of(SCORES[0]), Careless)


def simulate_often(form: Specialised, kind: type[Consumer] = Consumer) -> None:
    walks = [[3] * len(form.chunks), [4] * len(form.chunks)]
    for seed in range(40):
        simulate(form, walks, seed, kind)


@pytest.mark.parametrize("score", SCORES[:2])
def test_an_adder_empties_what_consumers_fill(score: str) -> None:
    form, order = adder_form_of(score), random.Random(7)
    for count in range(6):
        for seed in range(6):
            groups = [[order.randint(0, count) for _ in form.chunks] for _ in range(4)]
            simulate(form, groups, seed)


@pytest.mark.parametrize("lost", [Release, Await, Finish])
def test_a_step_that_an_adder_leaves_out_is_seen(lost: type[Step]) -> None:
    form = adder_form_of(SCORES[0])
    assert form.adder is not None
    steps = tuple(step for step in form.adder.steps if not isinstance(step, lost))
    with pytest.raises(Fault):
        simulate_often(replace(form, adder=replace(form.adder, steps=steps)))


def adder_form_of(score: str) -> Specialised:
    (form,) = (
        form for form in forms_of(kernel_of(diagram_of(text_of(score)))) if form.adder is not None
    )
    return form
