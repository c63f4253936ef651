"""Row sums kept by lane: what the lanes of a row hold is added up once, behind the loops.

In: a `Specialised` kernel, or a `SharedLoop` with its Program. Out: the same with such states over rows by
lanes. A contraction's result lies with four lanes a row, so summing over it takes two shuffles a row each
chunk. A state that only ever becomes `state * row factor + sum over the chunk` is linear: each lane may keep
its own part of it.

What it returns is for printing; the executor, which has no lanes, runs the Program that came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.operators import Kind
from napkin.schedule.liveness import reads, rename, writes
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import (
    Compute,
    Dim,
    Dot,
    Fill,
    Fold,
    Loop,
    Operation,
    Program,
    Tile,
    tiles_of,
    walk,
)
from napkin.schedule.roles.barriers import Sync
from napkin.schedule.roles.shared_loop import SharedLoop
from napkin.schedule.roles.warps import Specialised

LANES = 4  # of a row in the layout of a contraction's result


def keep_by_lane(form: Specialised) -> tuple[Specialised, str | None]:
    """Return the kernel with its linear row sums kept by lane, and the dim of the lanes if there are any."""
    loops = [chunks.loop for chunks in form.chunks]
    kept = _kept(form.program, loops, form.rows)
    if not kept:
        return form, None
    return _Rewriter(form, kept, _names(form.program)).run()


def keep_loop_by_lane(program: Program, form: SharedLoop) -> tuple[Program, SharedLoop, str | None]:
    """Return the Program and its loop with linear row sums kept by lane, and the dim of the lanes."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    kept = _kept(program, loops, form.rows)
    if not kept:
        return program, form, None
    names = _names(program)
    lanes = _Lanes(form.rows, names.fresh("lane"), {s: names.fresh(f"{s}_total") for s in kept})
    swaps = [
        {id(op): lanes.apart(op, parts) for op in loop.body}
        for loop, parts in zip(loops, map(frozenset[str]().union, *kept.values()), strict=True)
    ]
    made = [replace(loop, body=tuple(new.values())) for new, loop in zip(swaps, loops, strict=True)]
    first, states = program.operations.index(loops[0]), frozenset(kept)
    before = (lanes.apart(op, states) for op in program.operations[:first])
    after = lanes.with_totals(program.operations[first + len(loops) :])
    behind = (step for step in after if not isinstance(step, Sync))
    by_lane = replace(
        program,
        dims=(*program.dims, Dim(lanes.lane, (), LANES)),
        operations=(*before, *made, *behind),
    )
    steps = tuple(
        tuple(new.get(id(step), step) for step in old)
        for new, old in zip(swaps, form.steps, strict=True)
    )
    return by_lane, replace(form, steps=steps), lanes.lane


def _kept(program: Program, loops: Sequence[Loop], rows: str) -> dict[str, list[frozenset[str]]]:
    """Return the linear row sums, with the tiles of each one's update in every loop."""
    scores = next(op.tile.dims for op in walk(program.operations) if isinstance(op, Dot))
    kept: dict[str, list[frozenset[str]]] = {}
    for op in program.operations:
        if isinstance(op, Fill) and _starts_a_sum(op, rows):
            parts = [_parts(loop.body, op.tile.name, scores) for loop in loops]
            found = [part for part in parts if part is not None]
            if len(found) == len(loops):
                kept[op.tile.name] = found
    return kept


def _names(program: Program) -> Names:
    taken = {tile.name for tile in tiles_of(program.operations)}
    return Names(RESERVED | taken | {dim.name for dim in program.dims})


def _starts_a_sum(fill: Fill, rows: str) -> bool:
    return fill.tile.dims == (rows,) and fill.tile.kind is Kind.FLOAT and fill.value == 0


def _parts(body: Sequence[Operation], state: str, scores: tuple[str, ...]) -> frozenset[str] | None:
    """Return the tiles of a state's update in a loop, or None unless it is linear, row by row."""
    if not body:
        return frozenset()
    made = {name: op for op in body if (name := writes(op)) is not None and name != state}
    updates = [op for op in body if writes(op) == state]
    if len(updates) != 1 or not isinstance(updates[0], Compute) or updates[0].operator != "add":
        return None
    dims = {tile.name: tile.dims for tile in tiles_of(body)}
    found, folds = {state}, 0
    for operand in updates[0].operands:
        source = made.get(operand) if isinstance(operand, str) else None
        if isinstance(source, Fold) and source.operator == "sum":
            if dims.get(source.source) != scores or source.over != scores[1:]:
                return None
            folds += 1
        elif isinstance(source, Compute):
            if source.operator != "mul" or source.operands.count(state) != 1:
                return None
        elif operand != state:
            return None
        found.add(str(operand))
    readers = [op for op in body if found & set(reads(op)) and writes(op) not in found]
    return None if readers or folds != 1 else frozenset(found)


@dataclass(frozen=True, slots=True)
class _Lanes:
    """The dim of the lanes of a row, and the names of the states' totals."""

    rows: str
    lane: str
    totals: Mapping[str, str]

    def apart(self, op: Operation, names: frozenset[str]) -> Operation:
        """Give what an operation makes a part for every lane, if it is one of these."""
        if not isinstance(op, Fill | Fold | Compute) or op.tile.name not in names:
            return op
        return replace(op, tile=replace(op.tile, dims=(self.rows, self.lane)))

    def with_totals(self, steps: Sequence[Operation | Sync]) -> list[Operation | Sync]:
        """Add the lanes up before the first reader behind the loops."""
        found: list[Operation | Sync] = []
        ready: set[str] = set()
        for step in steps:
            if isinstance(step, Sync):
                found.append(step)
                continue
            for state in sorted(set(self.totals) & set(reads(step)) - ready):
                total = Tile(self.totals[state], (self.rows,), Kind.FLOAT, "fp32")
                found.append(Fold(total, "sum", state, (self.lane,)))
                ready.add(state)
            found.append(rename(step, {state: self.totals[state] for state in ready}))
        return found


class _Rewriter:
    def __init__(
        self, form: Specialised, kept: dict[str, list[frozenset[str]]], names: Names
    ) -> None:
        self.form = form
        self.kept = kept
        totals = {state: names.fresh(f"{state}_total") for state in kept}
        self.lanes = _Lanes(form.rows, names.fresh("lane"), totals)

    def run(self) -> tuple[Specialised, str]:
        """Change the fills, the loops and what stands behind them."""
        form, program = self.form, self.form.program
        chunks = []
        for number, each in enumerate(form.chunks):
            names = frozenset(name for parts in self.kept.values() for name in parts[number])
            swaps = {id(op): self.lanes.apart(op, names) for op in each.loop.body}
            sliced = names | {name for name, whole in each.wholes if whole in names}
            steps = tuple(
                step
                if isinstance(step, Sync)
                else swaps.get(id(step), self.lanes.apart(step, sliced))
                for step in each.steps
            )
            body = tuple(swaps.values())
            chunks.append(replace(each, loop=replace(each.loop, body=body), steps=steps))
        states = frozenset(self.kept)
        prelude = tuple(
            step if isinstance(step, Sync) else self.lanes.apart(step, states)
            for step in form.prelude
        )
        drain = self.lanes.with_totals(form.drain)
        loops = [op for op in program.operations if isinstance(op, Loop)]
        first = program.operations.index(loops[0])
        before = (op for op in program.operations[:first])
        behind = (step for step in drain if not isinstance(step, Sync))
        walked = [each.loop.body for each in chunks if each.loop.body]  # none where chunks pass
        operations = (
            *(self.lanes.apart(op, states) for op in before),
            *(replace(loop, body=body) for loop, body in zip(loops, walked, strict=True)),
            *behind,
        )
        dims = (*program.dims, Dim(self.lanes.lane, (), LANES))
        program = replace(program, dims=dims, operations=operations)
        made = replace(
            form, program=program, prelude=prelude, chunks=tuple(chunks), drain=tuple(drain)
        )
        return made, self.lanes.lane
