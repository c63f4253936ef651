"""Two-level costs of a relabelling, symbolic: transfers H, memory M, operations K.

In: a `Derivation` and which axes are grouped. Out: `Costs` in SymPy symbols, the axes' sizes and
the tiles `g_q`, `s_x`, each per step, per group and for the whole dispatch. Units are values, not
bytes; quantization comes later.

The model is the paper's (sections 3 to 5): a level above and one below, an array that lacks a
grouped axis is transferred again for every group of it, an array read twice in a step is loaded
once. Sizes divide evenly; scalars travel as arguments and cost nothing. Not here: more levels,
bandwidths, bytes, overlap, masks (a causal mask costs as if it were full), tensor-core shapes. A
performance model adds those on top of `Costs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sympy as sp

from napkin.algebra.derive import Derivation
from napkin.algebra.states import Accumulator, Pass
from napkin.diagram import (
    Box,
    Gather,
    Input,
    Pointwise,
    Reduce,
    State,
    operands_of,
    topological,
)
from napkin.model.measures import Costs, Direction, Memory, Operations, Resident, Transfer
from napkin.model.optimum import Optimum, optimum
from napkin.model.roles import (
    Role,
    bind,
    choose_roles,
    is_contraction,
    size_symbol,
    tile_symbol,
)

__all__ = [
    "Costs",
    "Optimum",
    "Role",
    "bind",
    "optimum",
    "size_symbol",
    "tile_symbol",
    "two_level_costs",
]

Expression = Any
_EXPONENTIALS = frozenset({"exp", "exp2", "sigmoid", "tanh"})
_ZERO = sp.Integer(0)


def two_level_costs(derivation: Derivation, grouped: Sequence[str] | None = None) -> Costs:
    """Return the costs of grouping these axes by tiles (those that give reuse, if None).

    Other group axes are taken one at a time, or whole where groups would repeat a contraction.
    """
    return _Count(derivation, choose_roles(derivation, grouped)).costs()


class _Count:
    def __init__(self, derivation: Derivation, roles: dict[str, Role]) -> None:
        self.derivation = derivation
        self.graph = derivation.graph
        self.roles = roles
        self.axis = derivation.stream.axis if derivation.stream else None
        self.passes = derivation.stream.passes if derivation.stream else ()

    def costs(self) -> Costs:
        groups, steps = self._groups(), self._steps()
        step, once = self._operations()
        group = step.times(steps) + once
        return Costs(
            roles=tuple(self.roles.items()),
            groups=groups,
            steps=steps,
            transfers=tuple(self._transfers(groups, steps)),
            memory=Memory(tuple(self._arrays()), tuple(self._temporaries())),
            step=step,
            group=group,
            whole=group.times(groups),
        )

    def _groups(self) -> Expression:
        count = sp.Integer(1)
        for axis, role in self.roles.items():
            if role in (Role.GROUP, Role.SINGLE):
                count *= size_symbol(axis) / self._extent(axis)
        return count

    def _steps(self) -> Expression:
        if self.axis is None:
            return sp.Integer(1)
        return size_symbol(self.axis) / self._extent(self.axis)

    def _extent(self, axis: str) -> Expression:
        """Return how much of an axis a step of a group holds."""
        role = self.roles[axis]
        if role is Role.SINGLE:
            return sp.Integer(1)
        return size_symbol(axis) if role is Role.WHOLE else tile_symbol(axis, role)

    def _elements(self, axes: Iterable[str]) -> Expression:
        return sp.Mul(*(self._extent(axis) for axis in axes))

    def _streams(self, axes: Sequence[str]) -> bool:
        return self.axis in axes

    # --- transfers and memory ---------------------------------------------------------------------

    def _transfers(self, groups: Expression, steps: Expression) -> Iterable[Transfer]:
        for name, count, axes in self._loads():
            yield self._transfer(name, Direction.LOAD, count, axes, groups, steps)
        for output in self.derivation.diagram.outputs:
            one = sp.Integer(1)
            yield self._transfer(output.name, Direction.STORE, one, output.axes, groups, steps)

    def _transfer(
        self,
        name: str,
        direction: Direction,
        count: Expression,
        axes: tuple[str, ...],
        groups: Expression,
        steps: Expression,
    ) -> Transfer:
        elements = count * self._elements(axes)
        if not self._streams(axes):
            return Transfer(name, direction, _ZERO, elements, elements * groups)
        group = elements * steps
        return Transfer(name, direction, elements, group, group * groups, int(count))

    def _loads(self) -> list[tuple[str, Expression, tuple[str, ...]]]:
        """Return every array read, how many times a group reads it, and the axes of one reading.

        What the stream carries is read once a pass; what it does not is read once and held.
        """
        found: dict[tuple[str, tuple[str, ...]], int] = {}
        for roots in self._phases():
            for name, axes in self._reads(roots):
                again = self._streams(axes)
                found[name, axes] = found.get((name, axes), 0) + 1 if again else 1
        return [(name, sp.Integer(count), axes) for (name, axes), count in found.items()]

    def _phases(self) -> list[list[int]]:
        """Return the boxes that each pass needs, then those of the tail."""
        stream = self.derivation.stream
        if stream is None:
            return [list(self.derivation.outputs)]
        return [*(_pass_roots(one) for one in stream.passes), [box for _, box in stream.tail]]

    def _reads(self, roots: list[int]) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Give the arrays that boxes read: whole tiles, or elements at computed positions."""
        graph = self.graph
        needed = topological(graph, roots)
        read = {*roots, *(i for each in needed for i in _values_read(graph[each]))}
        for each in needed:
            box = graph[each]
            if isinstance(box, Input) and each in read and box.axes:
                yield box.name, box.axes
            elif isinstance(box, Gather):
                array = graph[box.array]
                assert isinstance(array, Input)
                # A table read at more positions than it has axes is small, and held whole.
                yield array.name, min(box.axes, array.axes, key=len)

    def _arrays(self) -> Iterable[Resident]:
        for name, _, axes in self._loads():
            yield Resident(name, self._elements(axes))
        held = [each for one in self.passes for each in one.accumulators if self._is_array(each)]
        for each in held:
            yield Resident(each.name, self._elements(each.axes))
        kept = [set(each.axes) for one in self.passes for each in one.accumulators]
        for output in self.derivation.diagram.outputs:
            if set(output.axes) not in kept:  # else it takes the place of its accumulator
                yield Resident(output.name, self._elements(output.axes))

    def _is_array(self, state: Accumulator) -> bool:
        """Return whether an accumulator is an output in the making, and not a row statistic."""
        return is_contraction(self.graph, state.factors, state.over)

    def _temporaries(self) -> Iterable[Resident]:
        names = self.derivation.diagram.names
        for each in dict.fromkeys(self._reductions()):
            name = names[each] if each < len(names) else f"box {each}"
            yield Resident(name, self._elements(self.graph[each].axes))
        for one in self.passes:
            for state in one.accumulators:
                if not self._is_array(state):
                    yield Resident(state.name, self._elements(state.axes))

    def _reductions(self) -> Iterable[int]:
        for roots in self._phases():
            for each in topological(self.graph, roots):
                if isinstance(self.graph[each], Reduce):
                    yield each

    # --- operations -------------------------------------------------------------------------------

    def _operations(self) -> tuple[Operations, Operations]:
        """Return the operations of a step, and those that a group does once."""
        step, once = Operations(), Operations()
        settled: set[int] = set()
        for one in self.passes:
            for each in topological(self.graph, _pass_roots(one)):
                if self._repeats(each, one):
                    step += self._box_operations(self.graph[each])
                elif each not in settled:
                    settled.add(each)
                    once += self._box_operations(self.graph[each])
            for state in one.folds:
                step += self._fold_operations(state)
        for each in topological(self.graph, self._phases()[-1]):
            if each not in settled:
                once += self._box_operations(self.graph[each])
        return step, once

    def _repeats(self, each: int, one: Pass) -> bool:
        """Return whether every step computes the box anew: it streams, or reads a moving state."""
        names = {state.name for state in one.accumulators}
        boxes = (self.graph[i] for i in topological(self.graph, [each]))
        return any(
            self._streams(box.axes) or (isinstance(box, State) and box.name in names)
            for box in boxes
        )

    def _box_operations(self, box: Box) -> Operations:
        match box:
            case Pointwise(operator=operator) if box.axes:
                elements = self._elements(box.axes)
                if operator in _EXPONENTIALS:
                    return Operations(exponential=elements)
                return Operations(pointwise=elements)
            case Reduce():
                return self._sum_operations(box.operands, box.axes, box.over)
            case _:
                return Operations()

    def _sum_operations(
        self, factors: Sequence[int], axes: tuple[str, ...], over: tuple[str, ...]
    ) -> Operations:
        elements = self._elements((*axes, *over))
        if not is_contraction(self.graph, factors, over):
            return Operations(pointwise=elements * len(factors))
        # All factors but one are first multiplied element by element, over as few axes as can be.
        first = min(
            (
                {
                    axis
                    for each in (*factors[:one], *factors[one + 1 :])
                    for axis in self._axes(each)
                }
                for one in reversed(range(len(factors)))
            ),
            key=len,
        )
        ahead = self._elements(a for a in (*axes, *over) if a in first) * (len(factors) - 2)
        return Operations(contraction=2 * elements, pointwise=ahead)

    def _axes(self, box: int) -> tuple[str, ...]:
        return self.graph[box].axes

    def _fold_operations(self, state: Accumulator) -> Operations:
        moved = sum(each.factor is not None for each in state.transport)
        moved += len(state.transport) - 1
        folded = self._sum_operations(state.factors, state.axes, state.over)
        return folded + Operations(pointwise=self._elements(state.axes) * moved)


def _pass_roots(one: Pass) -> list[int]:
    roots = [factor for each in one.folds for factor in each.factors]
    roots += [t.factor for each in one.accumulators for t in each.transport if t.factor is not None]
    return roots + [box for _, box in one.stores]


def _values_read(box: Box) -> tuple[int, ...]:
    return box.indices if isinstance(box, Gather) else operands_of(box)
