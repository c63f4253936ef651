"""The stream loop rotated by one step, so that a step's contraction runs beside the next step's work.

In: a `Program`. Out: a `Program` that gives the same outputs, or the reason why there is none. A
contraction is delayed if it multiplies what the step has computed from an earlier contraction, and if
nothing but the state that it adds to reads it. Step i then issues its own first contraction, and behind
it the delayed ones of step i - 1, whose operands were carried over; what needs their sums (the state
moved to the new running values) comes last. Both run while the step computes.

A step that does nothing but add contractions of what it loads has none to delay: its stream is only walked
in the same order.

The first chunk has nothing to add yet and is walked by itself, with the body that holds on every chunk
(masks and all). Chunks are walked from the last to the first: what a mask or the end cuts comes first,
and the loop that needs no mask follows without a break. The sums of the last chunk are added behind the
loops.

It moves operations and renames tiles; it knows no barrier and no warp (`specialise` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from napkin.operators import Kind
from napkin.schedule.liveness import entry_of, reads, rename, writes
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import (
    Assign,
    AxisRole,
    Compute,
    Dot,
    Fill,
    Literal,
    Load,
    Loop,
    Operand,
    Operation,
    Positions,
    Program,
    Region,
    Store,
    Tile,
    tiles_of,
)

Operations = tuple[Operation, ...]


def rotate(program: Program) -> Program | str:
    """Return the program with its stream rotated by one step, or in words why it can't be."""
    found = _stream_loops(program)
    if isinstance(found, str):
        return found
    before, loops, after = found
    states = {op.tile.name for op in before if isinstance(op, Fill)}
    bodies = [_part(loop.body, states) for loop in loops]
    patterns = {each.pattern for each in bodies}
    if patterns == {()} and not all(only_adds(loop.body) for loop in loops):
        return "no contraction multiplies what a step has computed"
    if len(patterns) > 1:
        return "the loops of the stream delay different contractions"
    names = Names(RESERVED | _taken(program))
    carried = _carried(bodies[-1], names)
    prelude, walked = _walk(loops, bodies, carried, names)
    fills = [Fill(tile, 0.0) for tile in carried]
    late = _late(bodies[-1], carried)
    return replace(program, operations=(*before, *prelude, *fills, *walked, *late, *after))


def descend(program: Program) -> Program | str:
    """Return the program with its stream walked from the last chunk to the first, nothing delayed."""
    found = _stream_loops(program)
    if isinstance(found, str):
        return found
    before, loops, after = found
    states = {op.tile.name for op in before if isinstance(op, Fill)}
    patterns = {_part(loop.body, states).pattern for loop in loops}
    if patterns == {()}:
        return "no contraction multiplies what a step has computed"
    if len(patterns) > 1:
        return "the loops of the stream run on with different contractions"
    names = Names(RESERVED | _taken(program))
    axis, step = loops[-1].axis, loops[-1].step
    prelude, first, behind = _first_chunk(loops, names)
    alone = _apart(_whole(loops[-1].body), "first", names)
    walked: list[Operation] = [Loop(axis, first, behind, step, Region.PARTIAL, alone, True)]
    for loop in reversed(loops):
        body = _whole(loop.body)
        body = body if loop.region is Region.FULL else _apart(body, "cut", names)
        stop = first if loop is loops[-1] else _lesser(loop, first, prelude, names)
        walked.append(replace(loop, stop=stop, body=body, descending=True))
    return replace(program, operations=(*before, *prelude, *walked, *after))


def _whole(body: Operations) -> Operations:
    """Return a step in order, nothing of it delayed."""
    parts = _part(_contracted_early(body), set())
    return (*parts.head, *parts.rest, *parts.last)


def _contracted_early(body: Operations) -> Operations:
    """Move every contraction of what a step computes to where that is there: its registers are free again."""
    placed: list[Operation] = []
    waiting = list(body)
    while waiting:
        op = waiting.pop(0)
        placed.append(op)
        for dot in [each for each in waiting if isinstance(each, Dot) and each.left == writes(op)]:
            passed = waiting[: waiting.index(dot)]
            needed = _needed_by(dot, passed)
            if not _touch([each for each in passed if each not in needed], [*needed, dot]):
                placed += [*needed, dot]
                waiting = [each for each in waiting if each not in needed and each != dot]
    return tuple(placed)


def _needed_by(dot: Dot, passed: Sequence[Operation]) -> list[Operation]:
    """Return what of the operations before a contraction it cannot do without, in order."""
    names = set(reads(dot))
    found: list[Operation] = []
    for op in reversed(passed):
        if writes(op) in names:
            found.append(op)
            names |= set(reads(op))
    return found[::-1]


def only_adds(body: Operations) -> bool:
    """Return whether a step does nothing but add contractions of what it loads to their sums."""
    loaded = {op.tile.name for op in body if isinstance(op, Load)}
    dots = [op for op in body if isinstance(op, Dot)]
    adds = all(dot.accumulator == dot.tile.name and {dot.left, dot.right} <= loaded for dot in dots)
    return bool(dots) and adds and len(loaded) + len(dots) == len(body)


def _stream_loops(program: Program) -> tuple[Operations, list[Loop], Operations] | str:
    """Return what stands before the stream's loops, the loops, and what stands behind."""
    places = [i for i, op in enumerate(program.operations) if isinstance(op, Loop)]
    loops = [op for op in program.operations if isinstance(op, Loop)]
    streamed = {each.axis for each in program.axes if each.role is AxisRole.STREAM}
    if not any(loop.axis in streamed for loop in loops):
        return "nothing is streamed"
    if places != list(range(places[0], places[0] + len(places))):
        return "the stream is walked more than once"
    if any(isinstance(op, Loop) for loop in loops for op in loop.body):
        return "a step walks a loop of its own"
    if any(isinstance(op, Store) for loop in loops for op in loop.body):
        return "a step stores"
    if loops[-1].region is not Region.PARTIAL:
        return "no loop's body holds on every chunk"
    first, last = places[0], places[-1]
    return program.operations[:first], loops, program.operations[last + 1 :]


# --- one body in parts ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Body:
    """A step: up to its first contraction, the delayed ones, the rest, and what needs their sums.

    `sources` are the tiles that the delayed contractions take over to the next step.
    """

    head: Operations
    delayed: tuple[Dot, ...]
    rest: Operations
    last: Operations
    sources: tuple[Tile, ...]

    @property
    def pattern(self) -> tuple[tuple[str, int, int], ...]:
        """What is delayed, but for the names of what a step makes."""
        places = {tile.name: place for place, tile in enumerate(self.sources)}
        return tuple(
            (dot.tile.name, places.get(dot.left, -1), places.get(dot.right, -1))
            for dot in self.delayed
        )


def _part(body: Operations, states: set[str]) -> _Body:
    delayed = _delayed(body, states)
    added = {dot.tile.name for dot in delayed}
    moved = {dot.accumulator: dot.tile.name for dot in delayed if dot.accumulator not in added}
    early = [_renamed(op, moved) for op in body if op not in delayed]
    early = _hoisted(early)
    place = 1 + next((i for i, op in enumerate(early) if isinstance(op, Dot)), -1)
    place = next((i for i, op in enumerate(early[:place]) if added & set(reads(op))), place)
    known = {writes(op) or "" for op in early[:place]}
    rest, last = _sunk(_near_use(early[place:], known), added)
    made = {tile.name: tile for tile in tiles_of(body)}
    operands = dict.fromkeys(side for dot in delayed for side in (dot.left, dot.right))
    sources = tuple(_as_operand(made[name], delayed) for name in operands if name in made)
    return _Body(tuple(early[:place]), delayed, rest, last, sources)


def _delayed(body: Operations, states: set[str]) -> tuple[Dot, ...]:
    """Return the contractions of what a step computed from a contraction, read by their state alone."""
    computed: set[str] = set()
    found: list[Dot] = []
    for place, op in enumerate(body):
        if isinstance(op, Dot):
            late = op.tile.name in states and bool({op.left, op.right} & computed)
            if late and _may_wait(op, body, place):
                found.append(op)
                continue
        written = writes(op)
        if written and (isinstance(op, Dot) or computed & set(reads(op))):
            computed.add(written)
    return tuple(found)


def _may_wait(dot: Dot, body: Operations, place: int) -> bool:
    """Return whether nothing in a step reads a sum, and what it adds to can keep the state's name."""
    state, moved = dot.tile.name, dot.accumulator
    if any(state in (*reads(op), writes(op)) for op in body[place + 1 :]):
        return False
    if moved is None or moved == state:
        return True
    made = [i for i, op in enumerate(body) if writes(op) == moved]
    readers = [op for op in body if moved in reads(op)]
    if len(made) != 1 or readers != [dot] or not isinstance(body[made[0]], Compute):
        return False
    return not any(state in reads(op) for op in body[made[0] + 1 : place])


def _renamed(op: Operation, names: dict[str | None, str]) -> Operation:
    """Make a moved state under the state's own name."""
    if isinstance(op, Compute) and op.tile.name in names:
        return replace(op, tile=replace(op.tile, name=names[op.tile.name]))
    return op


def _hoisted(operations: list[Operation]) -> list[Operation]:
    """Move the first contraction, and what it needs, before all that it can do without."""
    first = next((i for i, op in enumerate(operations) if isinstance(op, Dot)), None)
    if first is None:
        return operations
    needed = set(reads(operations[first]))
    taken = {first}
    for place in range(first - 1, -1, -1):
        op = operations[place]
        if writes(op) in needed:
            taken.add(place)
            needed |= set(reads(op))
    ahead = [operations[i] for i in sorted(taken)]
    others = [op for i, op in enumerate(operations) if i not in taken]
    passed = [op for i, op in enumerate(operations[:first]) if i not in taken]
    if _touch(passed, ahead):
        return operations
    return [*ahead, *others]


def _touch(passed: Iterable[Operation], moved: Iterable[Operation]) -> bool:
    """Return whether some operation writes what one of the others reads or writes."""
    passed, moved = list(passed), list(moved)
    written, other = ({writes(op) for op in group} - {None} for group in (passed, moved))
    read = {name for op in passed for name in reads(op)}
    return bool(written & {name for op in moved for name in reads(op)} or (written | read) & other)


def _sunk(operations: list[Operation], added: set[str]) -> tuple[Operations, Operations]:
    """Part a list into what can do without the delayed sums, and what needs them."""
    needing = set(added)
    rest: list[Operation] = []
    last: list[Operation] = []
    for op in operations:
        written = writes(op)
        bound = isinstance(op, Assign) or bool(needing & set(reads(op))) or _touch(last, [op])
        if not bound:
            rest.append(op)
            continue
        last.append(op)
        if written is not None:
            needing.add(written)
    return tuple(rest), tuple(last)


def _near_use(operations: list[Operation], known: set[str]) -> list[Operation]:
    """Move what needs nothing of `known` before its first reader: a mask kept for long takes registers."""
    placed: list[Operation] = []
    waiting: list[Operation] = []
    known = set(known)
    for op in operations:
        if isinstance(op, Positions | Compute) and not known & set(reads(op)):
            waiting.append(op)
            continue
        needed = [op]
        for other in reversed(waiting):
            if _touch([other], needed):
                needed.insert(0, other)
        waiting = [other for other in waiting if not any(other is each for each in needed)]
        known.add(writes(op) or "")
        placed += needed
    return [*placed, *waiting]


def _as_operand(tile: Tile, delayed: tuple[Dot, ...]) -> Tile:
    """Return a tile as it is carried: what was computed is rounded already."""
    if tile.level == "shared":
        return tile
    kinds = {dot.operand_type for dot in delayed if tile.name in (dot.left, dot.right)}
    return replace(tile, storage=min(kinds))


# --- the loops ------------------------------------------------------------------------------------


def _taken(program: Program) -> frozenset[str]:
    arrays = {each.name for each in (*program.arrays, *program.outputs)}
    scalars = {name for name, _ in program.scalars}
    return frozenset({tile.name for tile in tiles_of(program.operations)} | arrays | scalars)


def _carried(body: _Body, names: Names) -> tuple[Tile, ...]:
    return tuple(replace(tile, name=names.fresh(f"{tile.name}_last")) for tile in body.sources)


def _walk(
    loops: Sequence[Loop], bodies: Sequence[_Body], carried: tuple[Tile, ...], names: Names
) -> tuple[list[Operation], list[Operation]]:
    """Return the place of the first chunk, and the loops: that chunk alone, then the others."""
    axis, step = loops[-1].axis, loops[-1].step
    prelude, first, behind = _first_chunk(loops, names)
    body = _apart(_first_body(bodies[-1], carried), "first", names)
    walked: list[Operation] = [Loop(axis, first, behind, step, Region.PARTIAL, body, True)]
    for loop, parts in zip(reversed(loops), reversed(bodies), strict=True):
        stop = first if loop is loops[-1] else _lesser(loop, first, prelude, names)
        body = _body(parts, carried)
        body = body if loop.region is Region.FULL else _apart(body, "cut", names)
        walked.append(replace(loop, stop=stop, body=body, descending=True))
    return prelude, walked


def _first_chunk(loops: Sequence[Loop], names: Names) -> tuple[list[Operation], str, str]:
    """Return what finds the chunk that is walked first, where it starts, and where the next would."""
    axis, step = loops[-1].axis, loops[-1].step
    made: list[Operation] = []
    before_end = _number("t", "sub", (loops[-1].stop, Literal(1)), made, names)
    chunks = _number("t", "floordiv", (before_end, Literal(step)), made, names)
    whole = _number("t", "mul", (chunks, Literal(step)), made, names)
    first = _number(f"{axis}_first", "max2", (whole, loops[0].start), made, names)
    return made, first, _number(f"{axis}_behind", "add", (first, Literal(step)), made, names)


def _lesser(loop: Loop, other: str, made: list[Operation], names: Names) -> str:
    """Return the name of where a loop ends that ends no later than another."""
    return _number(f"{loop.axis}_stop", "min2", (loop.stop, other), made, names)


def _number(
    wish: str, operator: str, operands: tuple[Operand, ...], made: list[Operation], names: Names
) -> str:
    """Add a whole number to what is made, and return its name."""
    tile = Tile(names.fresh(wish), (), Kind.INT, "int32")
    made.append(Compute(tile, operator, operands))
    return tile.name


def _apart(body: Operations, suffix: str, names: Names) -> Operations:
    """Name what a step makes for itself apart from what other loops make: a kernel is one scope."""
    kept = entry_of(body) | {op.target for op in body if isinstance(op, Assign)}
    made = dict.fromkeys(tile.name for tile in tiles_of(body) if tile.name not in kept)
    new = {name: names.fresh(f"{name}_{suffix}") for name in made}
    return tuple(rename(op, new) for op in body)


def _first_body(body: _Body, carried: tuple[Tile, ...]) -> Operations:
    return (*body.head, *body.rest, *body.last, *_carry(body, carried))


def _body(body: _Body, carried: tuple[Tile, ...]) -> Operations:
    late = _late(body, carried)
    return (*body.head, *late, *body.rest, *body.last, *_carry(body, carried))


def _carry(body: _Body, carried: tuple[Tile, ...]) -> list[Operation]:
    pairs = zip(carried, body.sources, strict=True)
    return [Assign(target.name, source.name) for target, source in pairs]


def _late(body: _Body, carried: tuple[Tile, ...]) -> list[Operation]:
    """Return the delayed contractions, of what the step before has carried over."""
    names = {source.name: target.name for source, target in zip(body.sources, carried, strict=True)}
    return [
        replace(
            dot,
            left=names.get(dot.left, dot.left),
            right=names.get(dot.right, dot.right),
            accumulator=None if dot.accumulator is None else dot.tile.name,
        )
        for dot in body.delayed
    ]
