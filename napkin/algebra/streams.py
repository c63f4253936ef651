"""One axis as a stream: states, bodies, transports and tails, pass by pass.

In: a graph of boxes, the outputs and one axis. Out: a `Stream`: passes over the axis, each with
accumulators that fold its chunks, and the outputs in terms of the final states. Reductions are
taken in dependency order; one that separates from the running values it needs joins their pass
(hoisted, carried or shifted), one that does not waits for a pass in which they are final.
Everything that carries the axis and no running value joins the body as it is (fusion theorem, paper
section 4).

A body is   a' = sum_j T_j(R, R') a_j  (+)  (+)_chunk phi(x; R')
where R are the running values before and R' after the chunk; T is the transport. `laws` checks it.
See docs/algebra.md, "Hoist or carry" and "Body, head, tail, merge".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import sympy as sp

from napkin.algebra.separation import (
    HOLE,
    Refused,
    Separated,
    Shift,
    Term,
    separate_extremum,
    separate_product,
    separate_sum,
)
from napkin.algebra.states import (
    Accumulator,
    Pass,
    Refusal,
    Rule,
    SeparatedTerm,
    Stream,
    StreamedReduction,
    Transport,
)
from napkin.algebra.symbols import Symbols
from napkin.algebra.terms import Group, box_or_one, describe_terms, group_terms, is_expressible
from napkin.diagram import (
    Graph,
    Index,
    Input,
    Reduce,
    Size,
    State,
    operands_of,
    substitute,
    topological,
)
from napkin.operators import REDUCTIONS, Kind

Expression = Any


def derive_stream(
    graph: Graph, outputs: Sequence[int], axis: str, names: Mapping[int, str]
) -> Stream:
    """Derive the stream of the outputs along an axis; new boxes go into the graph.

    `names` suggests a state's name for a reduction's box. Never fails: what does not separate costs
    a pass, and the refusal says why.
    """
    return _Derivation(graph, outputs, axis, names).run()


class _Derivation:
    def __init__(
        self, graph: Graph, outputs: Sequence[int], axis: str, names: Mapping[int, str]
    ) -> None:
        self.graph = graph
        self.outputs = outputs
        self.axis = axis
        self.names = names
        # A state called like an argument or an axis would make the body ambiguous to read.
        self.taken = {axis for box in graph.boxes for axis in box.axes}
        self.taken |= {box.name for box in graph.boxes if isinstance(box, Input)}
        self.ready: dict[int, int] = {}  # the pass after which a box's value is final, -1 for none
        self.final: dict[int, int] = {}  # reduction -> its value over the new states
        self.accumulators: list[list[Accumulator]] = []
        self.reductions: list[list[StreamedReduction]] = []
        self.refusals: list[Refusal] = []
        self.counts: dict[int, str] = {}

    def run(self) -> Stream:
        """Walk the boxes in dependency order and place every reduction over the axis."""
        for each in topological(self.graph, self.outputs):
            box = self.graph[each]
            before = max((self.ready[i] for i in operands_of(box)), default=-1)
            if isinstance(box, Reduce) and self.axis in box.over:
                self.ready[each] = self._place(each, box, before)
            else:
                self.ready[each] = before
        stores, tail = self._outputs()
        passes = tuple(
            Pass(tuple(self.accumulators[i]), tuple(self.reductions[i]), tuple(stores.get(i, ())))
            for i in range(len(self.accumulators))
        )
        return Stream(self.axis, passes, tuple(tail), tuple(self.refusals))

    def _outputs(self) -> tuple[dict[int, list[tuple[int, int]]], list[tuple[int, int]]]:
        stores: dict[int, list[tuple[int, int]]] = {}
        tail: list[tuple[int, int]] = []
        for number, each in enumerate(self.outputs):
            (resolved,) = substitute(self.graph, [each], self.final)
            if self.axis in self.graph[each].axes:
                index = self.ready[each] + 1
                self._open_pass(index)
                stores.setdefault(index, []).append((number, resolved))
            else:
                tail.append((number, resolved))
        return stores, tail

    def _open_pass(self, index: int) -> None:
        while len(self.accumulators) <= index:
            self.accumulators.append([])
            self.reductions.append([])

    def _place(self, each: int, box: Reduce, before: int) -> int:
        """Put a reduction into the first pass where it can stream; return that pass."""
        index = max(before, 0)
        self._open_pass(index)
        if before < 0:
            self._fold(each, box, index)
            return index
        if self._separate(each, box, index):
            return index
        self._open_pass(index + 1)
        self._fold(each, box, index + 1)
        return index + 1

    # --- the rules --------------------------------------------------------------------------------

    def _fold(self, each: int, box: Reduce, index: int) -> None:
        name = self._name(each)
        self._accumulate(index, name, box, box.operands, (Transport(name, None),))
        self._conclude(index, each, Rule.FOLD, (name,), self._state(name, box, "new"))

    def _separate(self, each: int, box: Reduce, index: int) -> bool:
        running = {i for i, ready in self.ready.items() if ready == index}
        symbols = Symbols(self.graph, box.over, running)
        operand = symbols.product(box.operands)
        result: Separated | Refused
        if box.operator == "sum":
            result = separate_sum(operand, symbols)
        elif box.operator in ("max", "min"):
            result = separate_extremum(operand, symbols)
        else:
            result = separate_product(operand, symbols)
        if isinstance(result, Separated) and not is_expressible(result, symbols):
            result = Refused(operand)
        if isinstance(result, Refused):
            factor = self._hindrance(box, symbols, result)
            self.refusals.append(Refusal(each, factor, self._needed(box, index)))
            return False
        if box.operator == "sum":
            self._sum(each, box, symbols, result, index)
        else:
            self._extremum(each, box, symbols, result.terms[0], index)
        return True

    def _hindrance(self, box: Reduce, symbols: Symbols, refused: Refused) -> int:
        """Return the factor that did not split as a box, or the operand that holds it."""
        if symbols.is_expressible(refused.factor):
            return symbols.box(refused.factor)
        return next(each for each in box.operands if symbols.is_mixed(each))

    def _needed(self, box: Reduce, index: int) -> tuple[int, ...]:
        needs = topological(self.graph, box.operands)
        return tuple(i for i in needs if i in self.final and self.ready[i] == index)

    def _extremum(self, each: int, box: Reduce, symbols: Symbols, term: Term, index: int) -> None:
        phi = tuple(substitute(self.graph, [symbols.box(term.stream)], self.final))
        name = self._same(box, phi, None, index)
        if name is None:
            name = self._name(each)
            self._accumulate(index, name, box, phi, (Transport(name, None),))
        state = symbols.bind(f"{name}_new", self._state(name, box, "new"))
        rule = Rule.FOLD if term.running == HOLE else Rule.HOIST
        value = symbols.box(term.running.subs(HOLE, state))
        self._conclude(index, each, rule, (name,), value)

    def _sum(
        self, each: int, box: Reduce, symbols: Symbols, separated: Separated, index: int
    ) -> None:
        shift = separated.shift
        if shift is not None and self._reads_size(symbols.box_of(shift.centre)):
            self._count(index)
        groups = group_terms(separated)
        value: list[Expression] = []
        made: list[SeparatedTerm] = []
        for group in groups:
            names = self._accumulate_group(each, symbols, shift, group, index)
            made += describe_terms(symbols, shift, group, names)
            for degree, tail in group.tails:
                state = self._state(names[degree], box, "new")
                value.append(tail * symbols.bind(f"{names[degree]}_new", state))
        rule = Rule.CARRY if any(group.carried != 1 for group in groups) else Rule.HOIST
        if shift is not None:
            rule = Rule.SHIFT
        centre = None if shift is None else symbols.box(shift.centre)
        self._conclude(index, each, rule, tuple(made), symbols.box(sp.Add(*value)), centre)

    def _accumulate_group(
        self, each: int, symbols: Symbols, shift: Shift | None, group: Group, index: int
    ) -> list[str]:
        """Make a group's accumulators, one a degree of the shifted leaf; return their names."""
        box = self.graph[each]
        assert isinstance(box, Reduce)
        moves = self._moves(symbols, group.carried, index)
        step = self._step(symbols, shift, index)
        names: list[str] = []
        for degree in range(group.degree + 1):
            stream = group.stream * group.carried
            if shift is not None:
                stream *= (shift.stream - shift.centre) ** degree
            contribution = symbols.factors(self._versioned(symbols, stream, "new", index))
            phi = self._carry_all(contribution, box.over)
            if degree == 0:
                same = self._same(box, phi, box_or_one(symbols, moves), index)
                if same is not None:
                    names.append(same)
                    continue
            name = self._name(each)
            names.append(name)
            transport = tuple(
                Transport(
                    names[lower],
                    box_or_one(symbols, comb(degree, lower) * step ** (degree - lower) * moves),
                )
                for lower in range(degree + 1)
            )
            self._accumulate(index, name, box, phi, transport)
        return names

    def _same(
        self, box: Reduce, factors: tuple[int, ...], factor: int | None, index: int
    ) -> str | None:
        """Return a state of this pass that already folds these factors with this transport."""
        for each in self.accumulators[index]:
            alike = each.operator == box.operator and each.factors == factors
            alike = alike and set(each.over) == set(box.over)
            if alike and each.transport == (Transport(each.name, factor),):
                return each.name
        return None

    def _moves(self, symbols: Symbols, carried: Expression, index: int) -> Expression:
        """Return carried(R') / carried(R) as one exponential of a difference for each base."""
        exponents: dict[Expression, Expression] = {}
        for factor in sp.Mul.make_args(carried):
            base, exponent = factor.as_base_exp()
            exponents[base] = exponents.get(base, sp.Integer(0)) + exponent
        moved = sp.Integer(1)
        for base, exponent in exponents.items():
            new = self._versioned(symbols, exponent, "new", index)
            moved *= base ** (new - self._versioned(symbols, exponent, "old", index))
        return moved

    def _step(self, symbols: Symbols, shift: Shift | None, index: int) -> Expression:
        if shift is None:
            return sp.Integer(1)
        new = self._versioned(symbols, shift.centre, "new", index)
        return self._versioned(symbols, shift.centre, "old", index) - new

    # --- running values ---------------------------------------------------------------------------

    def _versioned(
        self, symbols: Symbols, expression: Expression, version: str, index: int
    ) -> Expression:
        """Return the expression with its running leaves taken at the old or the new state."""
        replacement: dict[Expression, Expression] = {}
        for symbol in sorted(expression.free_symbols & symbols.running_symbols, key=str):
            box = self._at(symbols.box_of(symbol), version, index)
            replacement[symbol] = symbols.alias(symbol, box, version)
        return expression.xreplace(replacement)

    def _at(self, leaf: int, version: str, index: int) -> int:
        """Return a running leaf over the states of this version.

        While the stream runs, the number of positions seen stands for the axis's length, so that a
        running mean is the mean of what was seen.
        """
        (value,) = substitute(self.graph, [leaf], self.final)
        replacement: dict[int, int] = {}
        if index in self.counts:
            count = State(self.counts[index], version, (), Kind.FLOAT)
            replacement[self.graph.add(Size(self.axis))] = self.graph.add(count)
        if version == "old":
            for each in self.accumulators[index]:
                new = self.graph.add(State(each.name, "new", each.axes, each.kind))
                replacement[new] = self.graph.add(State(each.name, "old", each.axes, each.kind))
        return substitute(self.graph, [value], replacement)[0]

    def _reads_size(self, leaf: int) -> bool:
        (value,) = substitute(self.graph, [leaf], self.final)
        return any(self.graph[i] == Size(self.axis) for i in topological(self.graph, [value]))

    def _count(self, index: int) -> None:
        if index in self.counts:
            return
        name = self._fresh("count")
        self.counts[index] = name
        counted = Reduce("sum", (), (self.axis,), (), Kind.FLOAT)
        self._accumulate(
            index, name, counted, self._carry_all((), counted.over), (Transport(name, None),)
        )

    def _carry_all(self, factors: tuple[int, ...], over: tuple[str, ...]) -> tuple[int, ...]:
        """Make a contribution carry every reduced axis: a constant counts an axis's positions."""
        graph = self.graph
        carried = {axis for each in factors for axis in graph[each].axes}
        missing = tuple(axis for axis in over if axis not in carried)
        one, zero = graph.constant(1.0), graph.constant(0.0)
        ones: list[int] = []
        for axis in missing:
            inside = graph.pointwise("ge", graph.add(Index(axis)), graph.constant(0))
            ones.append(graph.pointwise("where", inside, one, zero))
        if not missing:
            return factors
        return (*ones, *(each for each in factors if each != one))

    # --- bookkeeping ------------------------------------------------------------------------------

    def _accumulate(
        self,
        index: int,
        name: str,
        box: Reduce,
        factors: Sequence[int],
        transport: tuple[Transport, ...],
    ) -> None:
        settled = tuple(substitute(self.graph, list(factors), self.final))
        carried = {axis for each in settled for axis in self.graph[each].axes}
        axes = tuple(axis for axis in box.axes if axis in carried)
        over = tuple(axis for axis in box.over if axis in carried)
        self._open_pass(index)
        self.accumulators[index].append(
            Accumulator(name, box.operator, settled, over, axes, box.kind, transport)
        )

    def _conclude(
        self,
        index: int,
        each: int,
        rule: Rule,
        made: tuple[str, ...] | tuple[SeparatedTerm, ...],
        value: int,
        centre: int | None = None,
    ) -> None:
        (self.final[each],) = substitute(self.graph, [value], self.final)
        names = tuple(one if isinstance(one, str) else one.accumulator for one in made)
        terms = tuple(one for one in made if isinstance(one, SeparatedTerm))
        self.reductions[index].append(
            StreamedReduction(each, rule, names, self.final[each], terms, centre)
        )

    def _state(self, name: str, box: Reduce, version: str) -> int:
        for each in (one for group in self.accumulators for one in group):
            if each.name == name:
                return self.graph.add(State(name, version, each.axes, each.kind))
        return self.graph.add(State(name, version, box.axes, box.kind))

    def _name(self, each: int) -> str:
        box = self.graph[each]
        assert isinstance(box, Reduce)
        return self._fresh(self.names.get(each, REDUCTIONS[box.operator].state))

    def _fresh(self, name: str) -> str:
        fresh, number = name, 1
        while fresh in self.taken:
            number += 1
            fresh = f"{name}{number}"
        self.taken.add(fresh)
        return fresh
