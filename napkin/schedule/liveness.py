"""What an operation reads and writes, and how long each tile lives.

In: a `Program`'s operations. Out: names read and written, or changed, a table of tiles by name, and for every
operation of a list the tiles that are alive once it is done. A tile lives from the operation that
makes it to its last use; a tile read before it is written in a loop's body is a state and lives
through the loop, as does what comes from outside the body.

It counts no bytes (`count` does) and knows no pipeline: a plan's buffers hold what is in flight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from napkin.schedule.program import (
    Assign,
    Compute,
    Dot,
    EdgePosition,
    Fill,
    Fold,
    Load,
    Loop,
    Operand,
    Operation,
    Positions,
    Store,
    Tile,
    walk,
)


def reads(operation: Operation) -> tuple[str, ...]:
    """Return the names that an operation reads, with repetitions; of a loop its bounds only."""
    match operation:
        case Compute():
            return _names(operation.operands)
        case Fold() | Assign():
            return (operation.source,)
        case Dot():
            kept = () if operation.accumulator is None else (operation.accumulator,)
            return (operation.left, operation.right, *kept)
        case Load():
            pairs = zip(operation.indices, operation.gathered, strict=True)
            return tuple(index for index, is_tile in pairs if is_tile)
        case Store():
            return _names((operation.source,))
        case Loop():
            return _names((operation.start, operation.stop))
        case Positions() | EdgePosition() | Fill():
            return ()
        case _:
            assert_never(operation)


def writes(operation: Operation) -> str | None:
    """Return the name that an operation gives a value, None for stores and loops."""
    match operation:
        case Assign():
            return operation.target
        case Store() | Loop():
            return None
        case _:
            return operation.tile.name


def rename(operation: Operation, names: Mapping[str, str]) -> Operation:
    """Return an operation (no loop) that reads and writes other names."""

    def new(operand: Operand) -> Operand:
        return names.get(operand, operand) if isinstance(operand, str) else operand

    match operation:
        case Compute():
            changed: Operation = replace(operation, operands=tuple(map(new, operation.operands)))
        case Fold():
            changed = replace(operation, source=names.get(operation.source, operation.source))
        case Store():
            changed = replace(operation, source=new(operation.source))
        case Assign():
            source, target = operation.source, operation.target
            return Assign(names.get(target, target), names.get(source, source))
        case Dot():
            sides = (operation.left, operation.right)
            left, right = (names.get(side, side) for side in sides)
            kept = operation.accumulator
            kept = None if kept is None else names.get(kept, kept)
            changed = replace(operation, left=left, right=right, accumulator=kept)
        case Load():
            pairs = zip(operation.indices, operation.gathered, strict=True)
            indices = tuple(names.get(index, index) if tile else index for index, tile in pairs)
            changed = replace(operation, indices=indices)
        case _:
            changed = operation
    if isinstance(changed, Store | Assign | Loop):
        return changed
    tile = changed.tile
    return replace(changed, tile=replace(tile, name=names.get(tile.name, tile.name)))


def all_writes(operations: Sequence[Operation]) -> list[str]:
    """Return what the operations write, loop bodies included, with repetitions."""
    names = (writes(each) for each in walk(tuple(operations)))
    return [name for name in names if name is not None]


def tiles_in(operations: Sequence[Operation]) -> dict[str, Tile]:
    """Return the tiles that a list makes, by name; loops' bodies are lists of their own.

    Names are unique in a list and what lies around it: two loops may each call a tile `t`.
    """
    found: dict[str, Tile] = {}
    for each in operations:
        if not isinstance(each, Assign | Store | Loop):
            found.setdefault(each.tile.name, each.tile)
    return found


def live_after(operations: Sequence[Operation], after: frozenset[str]) -> list[frozenset[str]]:
    """Return, for each operation of one list, the names alive once it is done.

    `after` is what is read after the list's end: for a loop's body also what its next round reads.
    """
    alive = after
    found: list[frozenset[str]] = []
    for each in reversed(operations):
        found.append(alive)
        alive = live_before(each, alive)
    return found[::-1]


def live_before(operation: Operation, after: frozenset[str]) -> frozenset[str]:
    """Return the names alive before an operation, given those alive after it."""
    if isinstance(operation, Loop):
        # A loop may take no step, so what it writes was alive before it.
        return after | entry_of(operation.body) | frozenset(reads(operation))
    written = writes(operation)
    return (after - {written}) | frozenset(reads(operation))


def entry_of(body: Sequence[Operation]) -> frozenset[str]:
    """Return the names that a list reads before it writes them: states and what lies outside."""
    alive: frozenset[str] = frozenset()
    for each in reversed(body):
        alive = live_before(each, alive)
    return alive


def _names(operands: Sequence[Operand]) -> tuple[str, ...]:
    return tuple(each for each in operands if isinstance(each, str))
