"""A chunk's contraction in slices, each issued as soon as its operand is there, beside what makes the next.

In: a consumer's steps for a chunk, as `barriers` has them, in which a contraction over the chunk's positions
multiplies what the step computes. Out: the same with the contraction in slices of these positions. A warp
waits while its contractions are queued, so one that is issued whole keeps it from computing for as long as
it takes; slices run while the next one is computed.

Computed slice by slice is what the contraction alone reads, element by element, of row values and of tiles
that are there; and folds of it over the chunk. What others need whole is computed before the first slice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.operators import REDUCTIONS
from napkin.schedule.liveness import reads, writes
from napkin.schedule.names import Names
from napkin.schedule.program import Assign, Compute, Dot, Fold, Operation, Tile
from napkin.schedule.roles.barriers import Await, Finish, Release, Slice, Slot, Step, Sync

SLICES = 4  # of a chunk, measured on an H200 (docs/hopper.md)
NARROWEST = 16  # positions of a slice: what one instruction contracts


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a chunk is cut: the dim of its positions, that of a slice, and the number of slices."""

    whole: str
    slice: str
    count: int


@dataclass(frozen=True, slots=True)
class Sliced:
    """Steps in slices, the slots of the slices that rings hold, and of what tile each new name is a part."""

    steps: tuple[Step, ...]
    slots: Mapping[str, Slot]
    wholes: Mapping[str, str]


def in_slices(
    steps: Sequence[Step],
    tiles: Mapping[str, Tile],
    slots: Mapping[str, Slot],
    cutting: Cutting,
    names: Names,
) -> Sliced:
    """Return steps with every contraction over the chunk that can be in slices of it.

    `tiles` are all that the steps read and write, by name.
    """
    made = Sliced(tuple(steps), {}, {})
    lefts = [step.left for step in steps if isinstance(step, Dot) and _is_cut(step, slots, cutting)]
    for left in dict.fromkeys(lefts):
        one = _Slicer(made.steps, left, tiles, slots, cutting, names).run()
        made = Sliced(one.steps, {**made.slots, **one.slots}, {**made.wholes, **one.wholes})
    return made


def _is_cut(dot: Dot, slots: Mapping[str, Slot], cutting: Cutting) -> bool:
    return dot.over == cutting.whole and dot.left not in slots and dot.right in slots


def parted(steps: Sequence[Step]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Part a chunk's steps from the waits for its last contractions, and the releases, that end it."""
    last = max(place for place, step in enumerate(steps) if not isinstance(step, Finish | Release))
    return tuple(steps[: last + 1]), tuple(steps[last + 1 :])


def read_together(steps: Sequence[Step], leader: str, rings: Collection[str]) -> tuple[Step, ...]:
    """Return a chunk's steps with one wait for the slots of these rings, and one release behind all.

    A warpgroup's warps meet at every barrier in shared memory, whether they wait there or arrive.
    """
    found: list[Step] = []
    for step in steps:
        if not isinstance(step, Await | Release) or step.slot.ring not in rings:
            found.append(step)
        elif isinstance(step, Await) and Await(Slot(leader, 0)) not in found:
            found.append(Await(Slot(leader, 0)))
    return (*found, Release(Slot(leader, 0)))


def behind_the_first(steps: Sequence[Step], ending: Sequence[Step]) -> tuple[Step, ...]:
    """Return a chunk's steps with the ending of the chunk before at its first wait for a contraction.

    Contractions finish in the order of their issue, so that this wait waits for those as well.
    """
    place, first = next((i, step) for i, step in enumerate(steps) if isinstance(step, Finish))
    waits = (first, *(step for step in ending if isinstance(step, Finish)))
    wait = replace(first, tiles=tuple(dict.fromkeys(name for each in waits for name in each.tiles)))
    releases = [step for step in of_the_last_chunk(ending) if isinstance(step, Release)]
    return (*steps[:place], wait, *releases, *steps[place + 1 :])


def of_the_last_chunk(ending: Sequence[Step]) -> tuple[Step, ...]:
    """Return an ending as it is done a chunk later."""
    return tuple(
        Release(replace(step.slot, age=1)) if isinstance(step, Release) else step for step in ending
    )


class _Slicer:
    """Cuts the contractions that take one operand, and the chain of operations that makes it."""

    def __init__(
        self,
        steps: Sequence[Step],
        left: str,
        tiles: Mapping[str, Tile],
        slots: Mapping[str, Slot],
        cutting: Cutting,
        names: Names,
    ) -> None:
        self.steps = steps
        self.left = left
        self.tiles = tiles
        self.slots = slots
        self.cutting = cutting
        self.names = names
        self.operations: list[Operation] = [step for step in steps if not isinstance(step, Sync)]
        self.dots = [op for op in self.operations if isinstance(op, Dot) and op.left == left]
        self.needed = self._needed()
        self.chain = self._chain()
        self.folds = [
            op for op in self.operations if isinstance(op, Fold) and op.source in self._made()
        ]
        self.new_slots: dict[str, Slot] = {}
        self.wholes: dict[str, str] = {}

    def run(self) -> Sliced:
        """Return the steps in slices."""
        behind = self._running_behind()
        early, late = self._around()
        slices: list[Step] = []
        parts: dict[str, list[str]] = {op.tile.name: [] for op in self.folds}
        for number in range(self.cutting.count):
            slices += self._slice(number, parts)
        found = [*early, *slices, *self._joined(parts), *late]
        steps = tuple(
            replace(step, behind=behind[id(step)]) if isinstance(step, Finish) else step
            for step in found
        )
        return Sliced(steps, self.new_slots, self.wholes)

    # --- what is cut ------------------------------------------------------------------------------

    def _needed(self) -> frozenset[str]:
        """Return what the operand, and what the contractions add to, is made of."""
        found = {name for dot in self.dots for name in (dot.left, dot.accumulator) if name}
        for op in reversed(self.operations):
            if writes(op) in found and op not in self.dots:
                found |= set(reads(op))
        return frozenset(found)

    def _chain(self) -> list[Compute]:
        """Return the operations that make the operand element by element, in order."""
        found: list[Compute] = []
        inside: set[str] = set()
        cut = {step.source for step in self.steps if isinstance(step, Slice)}
        for op in reversed(self.operations):
            if not isinstance(op, Compute) or op.tile.dims != self.tiles[self.left].dims:
                continue
            if op.tile.name not in self.needed or op.tile.name in cut:
                continue
            readers = [other for other in self.operations if op.tile.name in reads(other)]
            if readers and all(self._takes_slices(each, inside) for each in readers):
                found.append(op)
                inside.add(op.tile.name)
        return found[::-1] if self.left in inside else []

    def _made(self) -> set[str]:
        return {op.tile.name for op in self.chain}

    def _takes_slices(self, reader: Operation, inside: Collection[str]) -> bool:
        if isinstance(reader, Fold):
            return reader.over == (self.cutting.whole,) and reader.tile.name not in self.needed
        if isinstance(reader, Dot):
            return reader.left == self.left
        return isinstance(reader, Compute) and reader.tile.name in inside

    # --- the order --------------------------------------------------------------------------------

    def _around(self) -> tuple[list[Step], list[Step]]:
        """Return the steps before the slices, and those behind: what reads a sum or a fold of the chain."""
        cut = [*self.chain, *self.folds, *self.dots]
        first = next(i for i, step in enumerate(self.steps) if step is self.dots[0])
        last = next(i for i, step in enumerate(self.steps) if step is self.dots[-1])
        needing = {op.tile.name for op in self.folds}
        early: list[Step] = []
        late: list[Step] = []
        for place, step in enumerate(self.steps):
            if any(step is each for each in cut):
                needing |= {step.tile.name} if isinstance(step, Dot) else set()
                continue
            if isinstance(step, Sync):
                is_late = place > last or (place > first and not isinstance(step, Await))
            else:
                is_late = place > last or self._is_bound(step, needing, late)
            if is_late and not isinstance(step, Sync):
                needing.add(writes(step) or "")
            (late if is_late else early).append(step)
        return early, late

    def _is_bound(self, op: Operation, needing: Collection[str], late: Sequence[Step]) -> bool:
        """Return whether an operation has to stay behind the slices."""
        behind = [step for step in late if not isinstance(step, Sync)]
        read_later = {name for other in behind for name in reads(other)}
        return (
            isinstance(op, Assign)
            or bool(set(reads(op)) & set(needing))
            or writes(op) in read_later
        )

    def _running_behind(self) -> dict[int, int]:
        """Return, for every wait for results, how many contractions, slices counted, may still run."""
        running: list[Dot] = []
        found: dict[int, int] = {}
        for step in self.steps:
            if isinstance(step, Dot):
                running.append(step)
            elif isinstance(step, Finish):
                still = running[len(running) - step.behind :]
                count = self.cutting.count
                found[id(step)] = sum(count if dot in self.dots else 1 for dot in still)
        return found

    # --- a slice ----------------------------------------------------------------------------------

    def _slice(self, number: int, parts: dict[str, list[str]]) -> Iterator[Step]:
        """Yield one slice's steps: what it takes of whole tiles, its operand, its folds and contractions."""
        mine: dict[str, str] = {}
        for op in self.chain:
            for name in op.operands:
                tile = self.tiles.get(name) if isinstance(name, str) else None
                if tile is not None and tile.name not in mine and self.cutting.whole in tile.dims:
                    new = self._cut(tile, number)
                    mine[tile.name] = new.name
                    yield Slice(new, tile.name, number, self.cutting.count)
            operands = tuple(mine.get(e, e) if isinstance(e, str) else e for e in op.operands)
            new = self._cut(op.tile, number)
            mine[op.tile.name] = new.name
            yield replace(op, tile=new, operands=operands)
            for fold in self.folds:
                if fold.source == op.tile.name:
                    part = replace(fold.tile, name=self._name(fold.tile.name, number))
                    parts[fold.tile.name].append(part.name)
                    yield replace(fold, tile=part, source=new.name, over=(self.cutting.slice,))
        if self.left not in mine:
            new = self._cut(self.tiles[self.left], number)
            mine[self.left] = new.name
            yield Slice(new, self.left, number, self.cutting.count)
        for dot in self.dots:
            right = self._cut(self.tiles[dot.right], number)
            self.new_slots[right.name] = self.slots[dot.right]
            yield Slice(right, dot.right, number, self.cutting.count)
            sums = dot.accumulator if number == 0 else dot.tile.name
            yield replace(
                dot,
                left=mine[self.left],
                right=right.name,
                over=self.cutting.slice,
                accumulator=sums,
            )

    def _cut(self, tile: Tile, number: int) -> Tile:
        whole, narrow = self.cutting.whole, self.cutting.slice
        dims = tuple(narrow if dim == whole else dim for dim in tile.dims)
        return replace(tile, name=self._name(tile.name, number), dims=dims)

    def _name(self, name: str, number: int) -> str:
        new = self.names.fresh(f"{name}_{number}")
        self.wholes[new] = name
        return new

    def _joined(self, parts: Mapping[str, Sequence[str]]) -> Iterator[Step]:
        """Yield what joins the slices' folds to those of the chunk."""
        for fold in self.folds:
            sofar, *others = parts[fold.tile.name]
            operator = REDUCTIONS[fold.operator].combine
            for number, part in enumerate(others):
                is_last = number == len(others) - 1
                name = fold.tile.name if is_last else self._name(fold.tile.name, number)
                yield Compute(replace(fold.tile, name=name), operator, (sofar, part))
                sofar = name
