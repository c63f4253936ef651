"""Row sums kept by lane: what the lanes of a row hold is added up once, behind the loops.

In: a `Specialised` kernel. Out: the same with such states over rows by lanes. A contraction's result lies
with four lanes a row, so summing over it takes two shuffles a row each chunk. A state that only ever
becomes `state * row factor + sum over the chunk` is linear: each lane may keep its own part of it.

What it returns is for printing; the executor, which has no lanes, runs the Program that came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napkin.operators import Kind
from napkin.schedule.barriers import Sync
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
    Tile,
    tiles_of,
    walk,
)
from napkin.schedule.warps import Specialised

LANES = 4  # of a row in the layout of a contraction's result


def keep_by_lane(form: Specialised) -> tuple[Specialised, str | None]:
    """Return the kernel with its linear row sums kept by lane, and the dim of the lanes if there are any."""
    loops = [chunks.loop for chunks in form.chunks]
    scores = next(op.tile.dims for op in walk(form.program.operations) if isinstance(op, Dot))
    kept: dict[str, list[frozenset[str]]] = {}
    for op in form.program.operations:
        if isinstance(op, Fill) and _starts_a_sum(op, form.rows):
            parts = [_parts(loop.body, op.tile.name, scores) for loop in loops]
            found = [part for part in parts if part is not None]
            if len(found) == len(loops):
                kept[op.tile.name] = found
    if not kept:
        return form, None
    taken = {tile.name for tile in tiles_of(form.program.operations)}
    names = Names(RESERVED | taken | {dim.name for dim in form.program.dims})
    return _Rewriter(form, kept, names).run()


def _starts_a_sum(fill: Fill, rows: str) -> bool:
    return fill.tile.dims == (rows,) and fill.tile.kind is Kind.FLOAT and fill.value == 0


def _parts(body: Sequence[Operation], state: str, scores: tuple[str, ...]) -> frozenset[str] | None:
    """Return the tiles of a state's update in a loop, or None unless it is linear, row by row."""
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


class _Rewriter:
    def __init__(
        self, form: Specialised, kept: dict[str, list[frozenset[str]]], names: Names
    ) -> None:
        self.form = form
        self.kept = kept
        self.lane = names.fresh("lane")
        self.totals = {state: names.fresh(f"{state}_total") for state in kept}

    def run(self) -> tuple[Specialised, str]:
        """Change the fills, the loops and what stands behind them."""
        form, program = self.form, self.form.program
        chunks = []
        for number, each in enumerate(form.chunks):
            names = frozenset(name for parts in self.kept.values() for name in parts[number])
            swaps = {id(op): self._by_lane(op, names) for op in each.loop.body}
            steps = tuple(
                step if isinstance(step, Sync) else swaps.get(id(step), step) for step in each.steps
            )
            body = tuple(swaps.values())
            chunks.append(replace(each, loop=replace(each.loop, body=body), steps=steps))
        states = frozenset(self.kept)
        prelude = tuple(
            step if isinstance(step, Sync) else self._by_lane(step, states) for step in form.prelude
        )
        drain = self._with_totals(form.drain)
        loops = [op for op in program.operations if isinstance(op, Loop)]
        first = program.operations.index(loops[0])
        before = (op for op in program.operations[:first])
        behind = (step for step in drain if not isinstance(step, Sync))
        operations = (
            *(self._by_lane(op, states) for op in before),
            *(each.loop for each in chunks),
            *behind,
        )
        dims = (*program.dims, Dim(self.lane, (), LANES))
        program = replace(program, dims=dims, operations=operations)
        made = replace(
            form, program=program, prelude=prelude, chunks=tuple(chunks), drain=tuple(drain)
        )
        return made, self.lane

    def _by_lane(self, op: Operation, names: frozenset[str]) -> Operation:
        """Give what an operation makes a part for every lane, if it is one of these."""
        if not isinstance(op, Fill | Fold | Compute) or op.tile.name not in names:
            return op
        return replace(op, tile=replace(op.tile, dims=(self.form.rows, self.lane)))

    def _with_totals(self, steps: Sequence[Operation | Sync]) -> list[Operation | Sync]:
        """Add the lanes up before the first reader behind the loops."""
        found: list[Operation | Sync] = []
        ready: set[str] = set()
        for step in steps:
            if isinstance(step, Sync):
                found.append(step)
                continue
            for state in sorted(set(self.kept) & set(reads(step)) - ready):
                total = Tile(self.totals[state], (self.form.rows,), Kind.FLOAT, "fp32")
                found.append(Fold(total, "sum", state, (self.lane,)))
                ready.add(state)
            found.append(rename(step, {state: self.totals[state] for state in ready}))
        return found
