"""A derivation laid out by hand, as on the napkin: its configuration and throughput tables.

In: a derivation, a machine and `Labels`: the paper's g, s, u and w (section 2) as an `on` block gives
them. Out: a `Configuration` and a `Throughput` (section 7), with no Program and no code generator: what
the labels ask for is what is counted.

What a step holds in registers, each in room of its own: the state; what every contraction makes; every
computed operand of a contraction; the factors that move the state; and, of a contraction that is split
into chunks, the chunk at hand: of an operand where a summed axis is split, of the product where the
product is added to a state that moved. Other pointwise results overwrite their operands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from napkin.algebra.derive import Derivation
from napkin.algebra.states import Accumulator, Pass
from napkin.diagram import (
    Box,
    Gather,
    Graph,
    Input,
    Pointwise,
    Reduce,
    Relabelling,
    State,
    operands_of,
    topological,
)
from napkin.machine import Machine
from napkin.model.configuration import Configuration, Scope, Variable, configure, share_threads
from napkin.model.roles import Role, choose_roles, is_contraction, operand_type
from napkin.model.throughput import Stage, Throughput, contraction_rate, merged, vector_rate
from napkin.operators import POINTWISE, Pipeline

_SHARED, _REGISTER = "shared", "register"
_WARPS, _STAGES = 4, 2


@dataclass(frozen=True, slots=True)
class Labels:
    """How a block holds every axis.

    `tiles` are the elements of a grouped axis in one share, of a stream's step, or of a whole axis;
    `chunks` those of a split axis that are walked at once. The warps' shares divide `rows` among
    themselves. `types` are the arrays' storage types, `computed` that of everything else; `placed` names
    what goes through shared memory, None for the contractions' own arrays.
    """

    tiles: Mapping[str, int]
    chunks: Mapping[str, int]
    rows: tuple[str, ...]
    stages: int
    types: Mapping[str, str]
    computed: str
    placed: frozenset[str] | None


def labels_by_hand(
    derivation: Derivation,
    machine: Machine,
    block: Relabelling,
    sizes: Mapping[str, int],
    types: Mapping[str, str],
    computed: str,
) -> Labels:
    """Return the labels of an `on` block: warps share out the first axes grouped by more than one.

    An axis that it leaves out is whole, or taken one at a time where that repeats nothing.
    """
    roles = choose_roles(derivation, None)
    tiles = {axis: 1 if role is Role.SINGLE else sizes[axis] for axis, role in roles.items()}
    tiles |= {axis: each.tile for each in (*block.group, *block.stream) for axis in each.axes}
    rows = next((each.axes for each in block.group if each.tile > 1), ())
    shares = max(1, (block.warps or _WARPS) * machine.limits.threads_per_warp)
    shares = max(1, shares // share_threads(machine))
    for axis in rows:
        taken = min(shares, tiles[axis])
        tiles[axis] //= taken
        shares //= taken
    placed = [set(each.names) for each in block.placements if each.level == _SHARED]
    return Labels(
        tiles,
        {axis: each.tile for each in block.split for axis in each.axes},
        rows,
        block.stages or _STAGES,
        types,
        computed,
        frozenset(set().union(*placed)) if placed else None,
    )


def configure_by_hand(
    derivation: Derivation, machine: Machine, labels: Labels
) -> tuple[Configuration, Throughput]:
    """Return the tables of the pass that holds the most; the derivation must stream."""
    assert derivation.stream is not None
    tables = [_Table(derivation, machine, labels, one) for one in derivation.stream.passes]
    widest = max(tables, key=lambda table: table.configuration().register_bytes)
    return widest.configuration(), widest.throughput()


class _Table:
    def __init__(self, derivation: Derivation, machine: Machine, labels: Labels, one: Pass) -> None:
        self.machine, self.labels, self.one = machine, labels, one
        self.graph: Graph = derivation.graph
        self.names = derivation.diagram.names
        self.axis = derivation.stream.axis if derivation.stream else None
        self.threads = share_threads(machine)
        factors = (t.factor for a in one.accumulators for t in a.transport)
        self.moves = sorted({each for each in factors if each is not None})
        self.boxes = topological(self.graph, [*self._factors(), *self.moves])

    def configuration(self) -> Configuration:
        rows = prod(self.labels.tiles[axis] for axis in self.labels.rows)
        return configure(self.machine, (*self._arrays(), *self._computed()), rows)

    def throughput(self) -> Throughput:
        machine = self.machine
        stages = merged([*self._stages()])
        return Throughput(
            stages,
            self.threads,
            prod(self.labels.tiles[axis] for axis in self.labels.rows),
            self._streamed(Scope.BLOCK),
            self._streamed(Scope.SHARE),
            sum(self._flops(axes) for _, axes, _ in self._contractions()) / self.threads,
            machine.units,
            machine.clock,
            machine.nominal_bandwidth("dram"),
        )

    def _streamed(self, scope: Scope) -> int:
        """Return the bytes that a step loads, once a block or for each share."""
        return sum(
            each.bytes // each.copies
            for each in self._arrays()
            if each.scope is scope and each.name in self.labels.types and self._streams(each)
        )

    def _streams(self, variable: Variable) -> bool:
        return any(axis == self.axis for axis, _ in variable.extents)

    # --- variables ------------------------------------------------------------------------------

    def _arrays(self) -> Iterable[Variable]:
        """Give the arrays that a step reads, and what is placed in shared memory on its way."""
        direct = {factor for factors, _, _ in self._contractions() for factor in factors}
        given = self.labels.placed
        for each in self.boxes:
            box = self.graph[each]
            if not isinstance(box, Input | Gather) or not box.axes:
                continue
            name = self._array_name(box)
            is_shared = each in direct if given is None else name in given
            copies = self.labels.stages if is_shared and self.axis in box.axes else 1
            level = _SHARED if is_shared else _REGISTER
            yield self._variable(name, level, box.axes, self.labels.types[name], copies)
        placed = given or frozenset()
        for name, box in zip(self.names, self.graph.boxes, strict=False):
            if name in placed and name not in self.labels.types:
                yield self._variable(name, _SHARED, box.axes, self.labels.computed)

    def _computed(self) -> Iterable[Variable]:
        made = self.labels.computed
        for state in self.one.accumulators:
            yield self._variable(state.name, _REGISTER, state.axes, made)
        seen: set[int] = set()
        for each in self.boxes:
            box = self.graph[each]
            if isinstance(box, Reduce) and is_contraction(self.graph, box.operands, box.over):
                yield self._variable(self._name(each), _REGISTER, box.axes, made)
        for factors, _, over in self._contractions():
            for each in factors:
                if each not in seen and isinstance(self.graph[each], Pointwise):
                    seen.add(each)
                    yield self._variable(self._name(each), _REGISTER, self.graph[each].axes, made)
            yield from self._operand_chunks(factors, over)
        for each in self.moves:
            yield self._variable(self._name(each), _REGISTER, self.graph[each].axes, made)
        for state in self.one.accumulators:
            yield from self._product_chunk(state)

    def _operand_chunks(self, factors: Sequence[int], over: Sequence[str]) -> Iterable[Variable]:
        chunks = {axis: self.labels.chunks[axis] for axis in over if axis in self.labels.chunks}
        for each in factors if chunks else ():
            box = self.graph[each]
            if isinstance(box, Input) and not set(self.labels.rows).isdisjoint(box.axes):
                name = f"{box.name} chunk"
                yield self._variable(name, _REGISTER, box.axes, self.labels.computed, 1, chunks)

    def _product_chunk(self, state: Accumulator) -> Iterable[Variable]:
        chunks = {a: self.labels.chunks[a] for a in state.axes if a in self.labels.chunks}
        if chunks and state.is_carried and self._is_contraction(state):
            name = f"{state.name} chunk"
            yield self._variable(name, _REGISTER, state.axes, self.labels.computed, 1, chunks)

    def _variable(
        self,
        name: str,
        level: str,
        axes: Sequence[str],
        storage: str,
        copies: int = 1,
        chunks: Mapping[str, int] | None = None,
    ) -> Variable:
        held = {axis: self.labels.tiles[axis] for axis in axes} | dict(chunks or {})
        extents = tuple((axis, size) for axis, size in held.items() if size > 1)
        shared_out = not set(self.labels.rows).isdisjoint(axes)
        scope = Scope.SHARE if shared_out or level == _REGISTER else Scope.BLOCK
        return Variable(name, level, scope, extents, storage, copies)

    # --- stages ---------------------------------------------------------------------------------

    def _stages(self) -> Iterable[Stage]:
        """Give the stages in the order in which a step runs them: a state before what reads it anew."""
        waiting = {each.name: each for each in self.one.accumulators}
        for each in self.boxes:
            box = self.graph[each]
            match box:
                case State(version="new") if box.name in waiting:
                    yield from self._update(waiting.pop(box.name))
                case Reduce() if is_contraction(self.graph, box.operands, box.over):
                    yield self._contraction(self._name(each), box.operands, (*box.axes, *box.over))
                case Reduce():
                    yield self._vector(self._name(each), "fold", (*box.axes, *box.over), 1)
                case Pointwise() if box.axes and self._repeats(each):
                    yield from self._pointwise(box)
                case _:
                    pass
        for state in waiting.values():
            yield from self._update(state)

    def _update(self, state: Accumulator) -> Iterable[Stage]:
        if state.is_carried:
            yield self._vector(f"{state.name} moves", "carry", state.axes, 1)
        axes = (*state.axes, *state.over)
        if self._is_contraction(state):
            yield self._contraction(state.name, state.factors, axes)
        else:
            yield self._vector(state.name, "fold", axes, len(state.factors))

    def _contraction(self, name: str, factors: Sequence[int], axes: Sequence[str]) -> Stage:
        flops = self._flops(axes) / self.threads
        if not self._is_matrix(factors):
            rate = 2 * vector_rate(self.machine, "fp32")
            return Stage(name, self._shown(axes), Pipeline.FP32, flops, rate)
        kind = operand_type(self.graph, factors, self.labels.types) or self.labels.computed
        pipeline, rate = contraction_rate(self.machine, kind)
        return Stage(name, self._shown(axes), pipeline, flops, rate)

    def _vector(self, name: str, word: str, axes: Sequence[str], each: int) -> Stage:
        results = each * self._elements(axes) / self.threads
        rate = vector_rate(self.machine, self.labels.computed)
        return Stage(name, f"{word} {self._shown(axes)}", Pipeline.FP32, results, rate)

    def _pointwise(self, box: Pointwise) -> Iterable[Stage]:
        row = POINTWISE[box.operator]
        results = self._elements(box.axes) / self.threads
        shown = self._shown(box.axes)
        if row.sfu:
            rate = self.machine.rate(Pipeline.SFU, "fp32")
            name = f"{box.operator} {shown}"
            yield Stage(name, shown, Pipeline.SFU, row.sfu * results, rate)
        if row.fp32:
            rate = vector_rate(self.machine, self.labels.computed)
            name = f"pointwise {shown}"
            yield Stage(name, shown, Pipeline.FP32, row.fp32 * results, rate)

    # --- what both need -------------------------------------------------------------------------

    def _factors(self) -> list[int]:
        return [factor for each in self.one.accumulators for factor in each.factors]

    def _contractions(self) -> list[tuple[Sequence[int], tuple[str, ...], tuple[str, ...]]]:
        """Return factors, all axes and summed axes of every contraction of a step."""
        boxes = [self.graph[each] for each in self.boxes]
        found: list[tuple[Sequence[int], tuple[str, ...], tuple[str, ...]]] = [
            (box.operands, (*box.axes, *box.over), box.over)
            for box in boxes
            if isinstance(box, Reduce) and is_contraction(self.graph, box.operands, box.over)
        ]
        return found + [
            (each.factors, (*each.axes, *each.over), each.over)
            for each in self.one.accumulators
            if self._is_contraction(each)
        ]

    def _is_contraction(self, state: Accumulator) -> bool:
        return is_contraction(self.graph, state.factors, state.over)

    def _is_matrix(self, factors: Sequence[int]) -> bool:
        """Return whether two factors each carry an axis that the other lacks."""
        axes = [set(self.graph[each].axes) for each in factors]
        return any(left - right and right - left for left in axes for right in axes)

    def _repeats(self, each: int) -> bool:
        """Return whether every step computes the box anew: it streams, or reads a moving state."""
        boxes = [self.graph[i] for i in topological(self.graph, [each])]
        return any(isinstance(box, State) or self.axis in box.axes for box in boxes)

    def _elements(self, axes: Sequence[str]) -> int:
        return prod(self.labels.tiles[axis] for axis in axes)

    def _flops(self, axes: Sequence[str]) -> int:
        return 2 * self._elements(axes)

    def _shown(self, axes: Sequence[str]) -> str:
        return " ".join(axis for axis in axes if self.labels.tiles[axis] > 1)

    def _name(self, each: int) -> str:
        if each < len(self.names):
            return self.names[each]
        box = self.graph[each]
        word = box.operator if isinstance(box, Pointwise | Reduce) else "box"
        return f"{word} {self._shown(box.axes)}"

    def _array_name(self, box: Box) -> str:
        if isinstance(box, Input):
            return box.name
        (array, *_) = operands_of(box)
        source = self.graph[array]
        assert isinstance(source, Input)
        return source.name
