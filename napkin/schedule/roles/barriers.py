"""What a consumer of a warp-specialised kernel does, in order: operations, waits, releases and turns.

In: a list of a rotated Program's operations and the shared tiles that it reads. Out: `Step`s. A slot of a
ring is awaited before the first contraction that reads it and released once the last one is done; a tile
carried over to the next chunk stays in its slot until then. Contractions are asynchronous and finish in
the order of their issue: each is finished before the first operation that reads its result, or that
overwrites an operand that it still reads from registers.

The order of the operations is taken as it is: `rotate` has settled it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import Assign, Dot, Fill, Load, Operation, Tile


@dataclass(frozen=True, slots=True)
class Slot:
    """A ring's slot as a consumer sees it: of this chunk (`age` 0) or of the one before (1)."""

    ring: str
    age: int


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until the slot is full."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Release:
    """Arrive at the slot's empty barrier: this consumer reads it no more."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Finish:
    """Wait until these results are there; `behind` contractions that were issued later may still run."""

    tiles: tuple[str, ...]
    behind: int


@dataclass(frozen=True, slots=True)
class TakeTurn:
    """Wait for this consumer's turn to feed the tensor cores."""


@dataclass(frozen=True, slots=True)
class PassTurn:
    """Let the next consumer feed the tensor cores."""


@dataclass(frozen=True, slots=True)
class Share:
    """Put this consumer's rows of a tile into shared memory, and wait until the rows of all are there.

    `number` counts the tiles that a chunk shares.
    """

    tile: Tile
    number: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Take one of so many equal slices of a tile, along a chunk's positions."""

    tile: Tile
    source: str
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class Ahead:
    """Wait for the next chunk's slot, if there is one, and issue the contraction that it starts with.

    `is_first` says that it is the group's first chunk, before which there is none.
    """

    dot: Dot
    slot: Slot
    is_first: bool


Sync = Await | Release | Finish | TakeTurn | PassTurn | Share | Ahead | Slice
Step = Operation | Sync


def with_barriers(
    operations: Sequence[Operation], slots: Mapping[str, Slot], kept: frozenset[str]
) -> tuple[Step, ...]:
    """Return the steps of a list: `slots` gives the slot of every tile that a ring holds.

    Tiles in `kept` are carried over to the next chunk, and not released in this one. A tile that is read
    from its slot into registers is read where it is needed first, and its slot released at once.
    """
    return _Barriers(operations, slots, kept).run()


def with_turns(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Take the turn before the first contraction, and pass it on behind those that follow at once."""
    first = next(i for i, each in enumerate(steps) if isinstance(each, Dot))
    last = first
    for place in range(first, len(steps)):
        if isinstance(steps[place], Dot):
            last = place
        elif not isinstance(steps[place], Await):
            break
    taken, passed = (TakeTurn(), *steps[first : last + 1], PassTurn()), steps[last + 1 :]
    return (*steps[:first], *taken, *passed)


def with_running_sums(
    operations: Sequence[Operation], slots: Mapping[str, Slot], *, is_first: bool
) -> tuple[Step, ...]:
    """Return the steps of a list that only adds contractions of what it loads to their sums.

    They run on into the next chunk, where those of the chunk before are finished and its slots released.
    The first chunk has none before it.
    """
    dots = [op for op in operations if isinstance(op, Dot)]
    awaited: dict[str, None] = {}
    steps: list[Step] = []
    for dot in dots:
        new = [name for name in (dot.left, dot.right) if name not in awaited]
        awaited |= dict.fromkeys(new)
        steps += [*(Await(slots[name]) for name in new), dot]
    return (*steps, *_finished(operations, {} if is_first else slots, len(dots)))


def finished_sums(operations: Sequence[Operation], slots: Mapping[str, Slot]) -> tuple[Step, ...]:
    """Return the steps behind the last chunk of such a stream."""
    return _finished(operations, slots, 0)


def _finished(
    operations: Sequence[Operation], slots: Mapping[str, Slot], behind: int
) -> tuple[Step, ...]:
    """Finish the contractions of the chunk before, and release what they have read."""
    sums = dict.fromkeys(op.tile.name for op in operations if isinstance(op, Dot))
    released = (Release(replace(slot, age=1)) for slot in slots.values())
    return (Finish(tuple(sums), behind), *released)


class _Barriers:
    def __init__(
        self, operations: Sequence[Operation], slots: Mapping[str, Slot], kept: frozenset[str]
    ) -> None:
        self.operations = operations
        self.slots = slots
        self.kept = kept
        self.steps: list[Step] = []
        self.running: list[Dot] = []
        self.awaited: set[str] = set()
        self.unread: dict[str, Load] = {}

    def run(self) -> tuple[Step, ...]:
        """Walk the list once."""
        for op in self.operations:
            if self._is_of_the_producer(op):
                continue
            if isinstance(op, Load) and op.tile.name in self.slots:
                self.unread[op.tile.name] = op
                continue
            for name in reads(op):
                self._read(name)
            self._before(op)
            self.steps.append(op)
            if isinstance(op, Dot):
                self.running.append(op)
        for name in tuple(self.unread):
            self._read(name)
        self._finish(len(self.running))
        return tuple(self.steps)

    def _read(self, name: str) -> None:
        """Read a slot into registers, once."""
        load = self.unread.pop(name, None)
        if load is not None:
            slot = self.slots[name]
            self.steps += [Await(slot), load, Release(slot)]

    def _is_of_the_producer(self, op: Operation) -> bool:
        """Return whether an operation only names a shared tile: the copy engine fills it."""
        shared = isinstance(op, Assign) and op.source in self.slots
        return shared or (isinstance(op, Load | Fill) and op.tile.level == "shared")

    def _before(self, op: Operation) -> None:
        """Wait for what an operation reads, and for what reads the registers that it overwrites."""
        if isinstance(op, Dot):
            needed = {op.left, op.right}
            for name in (op.left, op.right):
                if name in self.slots and name not in self.awaited:
                    self.awaited.add(name)
                    self.steps.append(Await(self.slots[name]))
        else:
            needed = set(reads(op))
        written = writes(op)
        done = 0
        for place, dot in enumerate(self.running):
            overwritten = written in (dot.left, dot.right)
            if dot.tile.name in needed or overwritten:
                done = place + 1
        self._finish(done)

    def _finish(self, count: int) -> None:
        """Finish the oldest contractions and release the slots that they were the last to read."""
        if not count:
            return
        done, self.running = self.running[:count], self.running[count:]
        names = tuple(dict.fromkeys(dot.tile.name for dot in done))
        self.steps.append(Finish(names, len(self.running)))
        for name in dict.fromkeys(side for dot in done for side in (dot.left, dot.right)):
            if name in self.slots and name not in self.kept and not self._is_read_later(name):
                self.steps.append(Release(self.slots[name]))

    def _is_read_later(self, name: str) -> bool:
        issued = sum(isinstance(each, Dot) for each in self.steps)
        dots = [op for op in self.operations if isinstance(op, Dot)]
        waiting = (*self.running, *dots[issued:])
        return any(name in (dot.left, dot.right) for dot in waiting)
