"""A loop whose contractions read their operands from shared memory, piece by piece, for every chunk again.

In: a Program of a kernel that streams, the axis of its rows. Out: a `SharedLoop`: what is copied once, what
is copied for every chunk, and where in a chunk's step copies are started and awaited; or the reason why there
is none. It is for machines whose warps contract operands in registers (mma.sync). Triton's own loop holds
there what stays on chip, such as the queries of attention; read from shared memory in pieces it takes a few
registers, so that larger tiles fit, as in FlashAttention 2.

A step reads its streamed tiles one after another, and each has one slot: the copy of one runs while another
is contracted.

It is not asked here whether this form is faster than Triton's loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from napkin.schedule.count import tile_bytes
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.liveness import reads
from napkin.schedule.program import Dot, Load, Loop, Operation, Program, Store, walk
from napkin.schedule.roles.obstacles import OPERANDS, find_obstacle

_VECTOR = 16  # bytes that a thread copies at a time


@dataclass(frozen=True, slots=True)
class Fetch:
    """Start copies into shared memory as one group: for this chunk, or for one that is `ahead`."""

    loads: tuple[Load, ...]
    ahead: int


@dataclass(frozen=True, slots=True)
class Arrive:
    """Wait for all groups of copies but the last `behind`, and for all warps."""

    behind: int


SharedStep = Operation | Fetch | Arrive


@dataclass(frozen=True, slots=True)
class SharedLoop:
    """A kernel as such a loop over `axis`: `opening` before the first chunk, then the steps of every loop."""

    axis: str
    rows: str
    resident: tuple[Load, ...]
    streamed: tuple[Load, ...]
    opening: tuple[Fetch, ...]
    steps: tuple[tuple[SharedStep, ...], ...]

    def shared_bytes(self, program: Program) -> int:
        """Return the shared memory of a block."""
        return sum(tile_bytes(each.tile, program) for each in (*self.resident, *self.streamed))


def share_loop(program: Program, rows: str) -> SharedLoop | str:
    """Return a Program's loops with their copies placed, or in words why it has no such form."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    reason = _obstacle(program, rows, loops)
    if reason is not None:
        return reason
    resident = tuple(op for op in program.operations if _is_shared(op))
    streamed = tuple(_least_certain(number, loops) for number in range(_streamed_count(loops[0])))
    orders = {_turns(loop) for loop in loops}
    if len(orders) > 1:
        return "the loops of the stream read their tiles in different orders"
    turns = orders.pop()
    if len(turns) < 2:
        return "a step reads what is streamed all through, so that no copy could run beside it"
    classes = [tuple(streamed[place] for place in turn) for turn in turns]
    opening = tuple(
        Fetch((*resident, *each) if number == 0 else each, 0)
        for number, each in enumerate(classes[:-1])
    )
    steps = tuple(_with_copies(loop, turns, classes) for loop in loops)
    return SharedLoop(loops[0].axis, rows, resident, streamed, opening, steps)


# --- where copies stand -----------------------------------------------------------------------------


def _with_copies(
    loop: Loop, turns: Sequence[Sequence[int]], classes: Sequence[tuple[Load, ...]]
) -> tuple[SharedStep, ...]:
    """Return a step in which tiles take turns: once one has been read, all wait for the next one.

    No warp reads the first any more, so that it is fetched anew while the next one is contracted.
    """
    own = [op for op in loop.body if _is_shared(op)]
    last = {_last_reader(loop, own, turn): place for place, turn in enumerate(turns[:-1], 1)}
    found: list[SharedStep] = _handed_on(0, classes)
    found[-1] = Fetch(tuple(own[number] for number in turns[-1]), 0)
    for number, op in enumerate(loop.body):
        if not _is_shared(op):
            found.append(op)
        if number in last:
            found += _handed_on(last[number], classes)
    return tuple(found)


def _handed_on(place: int, classes: Sequence[tuple[Load, ...]]) -> list[SharedStep]:
    """Return the wait for the tiles of a turn, and the copies into those of the turn before."""
    return [Arrive(len(classes) - 2), Fetch(classes[place - 1], 1 if place else 0)]


def _turns(loop: Loop) -> tuple[tuple[int, ...], ...]:
    """Return the streamed tiles of a step by number, those together that are in use at the same time."""
    own = [op for op in loop.body if _is_shared(op)]
    spans = sorted((_span(loop, each), number) for number, each in enumerate(own))
    found: list[list[int]] = []
    end = -1
    for (first, last), number in spans:
        if found and first <= end:
            found[-1].append(number)
        else:
            found.append([number])
        end = max(end, last)
    return tuple(tuple(each) for each in found)


def _span(loop: Loop, load: Load) -> tuple[int, int]:
    """Return the places of the first and the last reader of a tile in a step."""
    readers = [place for place, op in enumerate(loop.body) if load.tile.name in reads(op)]
    return readers[0], readers[-1]


def _last_reader(loop: Loop, own: Sequence[Load], turn: Sequence[int]) -> int:
    return max(_span(loop, own[number])[1] for number in turn)


def _streamed_count(loop: Loop) -> int:
    return sum(1 for op in loop.body if _is_shared(op))


def _least_certain(number: int, loops: Sequence[Loop]) -> Load:
    """Return a streamed load as it reads a chunk that may reach past the end of its stream."""
    alike = [[op for op in loop.body if _is_shared(op)][number] for loop in loops]
    masked = dict.fromkeys(axis for each in alike for axis in each.masked)
    return replace(alike[0], masked=tuple(dict.fromkeys((*masked, loops[0].axis))))


# --- what has no such form --------------------------------------------------------------------------


def _obstacle(program: Program, rows: str, loops: Sequence[Loop]) -> str | None:
    if not loops or len({loop.axis for loop in loops}) > 1:
        return "nothing is streamed"
    places = [place for place, op in enumerate(program.operations) if isinstance(op, Loop)]
    if places != list(range(places[0], places[-1] + 1)):
        return "the stream is walked more than once"
    if any(isinstance(op, Loop) for loop in loops for op in loop.body):
        return "a step has a loop of its own"
    if not any(isinstance(op, Dot) for op in loops[0].body):
        return "no step contracts anything"
    for op in walk(program.operations):
        reason = _copy_obstacle(op, program, loops[0].axis) if _is_shared(op) else None
        if reason is None and isinstance(op, Store):
            reason = "groups add to an output" if op.adds else None
        if reason is not None:
            return reason
    if any(_is_shared(op) and not _is_read(op, loop) for loop in loops for op in loop.body):
        return "a tile is read in the next step"
    return find_obstacle(program, rows, by_copy_engine=False)


def _copy_obstacle(load: Load, program: Program, stream: str) -> str | None:
    """Refuse a tile that threads can't copy by whole vectors of 16 bytes."""
    array, name = program.array(load.array), f"`{load.array}`"
    if any(load.gathered) or load.indices != array.axes:
        return f"{name} is read at computed positions"
    tiles = [program.axis(axis) for axis in array.axes]
    if tuple(tile.dim for tile in tiles if tile.dim is not None) != load.tile.dims:
        return f"{name} lies otherwise than its tile"
    if any(len(program.dim(dim).axes) > 1 for dim in load.tile.dims) or len(load.tile.dims) != 2:
        return f"the tile of {name} is no matrix"
    last, unit = tiles[-1], _VECTOR // TYPE_BYTES[array.dtype]
    if array.dtype not in OPERANDS or last.axis == stream:
        return f"{name} is streamed along its rows"
    if last.dim is None or last.size is None or last.size % unit or len(array.dims[-1]) > 1:
        return f"the rows of {name} are no whole vectors"
    return None


def _is_read(load: Load, loop: Loop) -> bool:
    return any(load.tile.name in reads(op) for op in loop.body)


def _is_shared(op: Operation) -> TypeGuard[Load]:
    return isinstance(op, Load) and op.tile.level == "shared"
