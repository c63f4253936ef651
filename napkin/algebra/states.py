"""What a derivation of one axis as a stream is made of: accumulators, passes, refusals.

Plain values; `streams` makes them, `laws` checks them, `schedule` lays them on a machine. Every
number is the id of a box in the derivation's graph. See docs/algebra.md, "Body, head, tail, merge".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from napkin.operators import REDUCTIONS, Kind


class Rule(StrEnum):
    """How a reduction was made to stream."""

    FOLD = "fold"
    HOIST = "hoist"
    CARRY = "carry"
    SHIFT = "shift"


@dataclass(frozen=True, slots=True)
class Transport:
    """One term of an accumulator's update: the old value of `source` times a box (None for one)."""

    source: str
    factor: int | None


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A state variable: `operator` folds the product of `factors` over `over`.

    `axes` are in the reduction's order. `factors` are boxes over x-leaves and new running values.
    `transport` moves the old values when the running values move; a plain fold has the identity.
    """

    name: str
    operator: str
    factors: tuple[int, ...]
    over: tuple[str, ...]
    axes: tuple[str, ...]
    kind: Kind
    transport: tuple[Transport, ...]
    start: float | None = None

    @property
    def unit(self) -> float | int | bool:
        """The value before the first chunk: `start` if a rewriting chose one, else the unit."""
        return REDUCTIONS[self.operator].unit if self.start is None else self.start

    @property
    def is_carried(self) -> bool:
        """Whether the old value is changed before the chunk is added."""
        return self.transport != (Transport(self.name, None),)


@dataclass(frozen=True, slots=True)
class SeparatedTerm:
    """A term u(R) w(x) of a reduction, as boxes over the diagram's own values (None for one).

    w is `stream`. u is `carried` times `hoisted`: the first stays applied in `accumulator`, the
    second waits for the tail. A term that is not `needed` is there only for others' transport.
    """

    accumulator: str
    stream: int | None
    carried: int | None
    hoisted: int | None
    needed: bool = True


@dataclass(frozen=True, slots=True)
class StreamedReduction:
    """What became of one reduction: the rule, its accumulators, its value over the new states.

    `terms` are those of a sum that was separated; `centre` is the running value of a shift.
    """

    box: int
    rule: Rule
    accumulators: tuple[str, ...]
    value: int
    terms: tuple[SeparatedTerm, ...] = ()
    centre: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reduction that could not join the pass of what it depends on.

    `factor` is the box that holds both the stream and a running value, and does not split.
    """

    box: int
    factor: int
    depends_on: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """One walk along the axis: accumulators in order, and the outputs (by number) it stores.

    `parts` are outputs that carry the axis and are added up in memory: what a chunk adds, folded as into a
    state.
    """

    accumulators: tuple[Accumulator, ...]
    reductions: tuple[StreamedReduction, ...]
    stores: tuple[tuple[int, int], ...]
    parts: tuple[tuple[int, Accumulator], ...] = ()

    @property
    def folds(self) -> tuple[Accumulator, ...]:
        """Everything that a chunk is folded into: states, and parts of outputs."""
        return (*self.accumulators, *(each for _, each in self.parts))


@dataclass(frozen=True, slots=True)
class Stream:
    """A derived stream. `tail` maps an output's number to its box over the final states."""

    axis: str
    passes: tuple[Pass, ...]
    tail: tuple[tuple[int, int], ...]
    refusals: tuple[Refusal, ...]

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """Every state variable of every pass."""
        return tuple(each for one in self.passes for each in one.accumulators)

    @property
    def folds(self) -> tuple[Accumulator, ...]:
        """Everything that a chunk of any pass is folded into."""
        return tuple(each for one in self.passes for each in one.folds)
