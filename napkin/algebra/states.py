"""What a derivation of one axis as a stream is made of: accumulators, passes, refusals.

Plain values; `streams` makes them, `laws` checks them, `schedule` lays them on a machine. Every number is
the id of a box in the derivation's graph.
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
    """A state variable: `operator` folds the product of `factors` over `over`; axes in the reduction's order.

    `factors` are boxes over x-leaves and new running values. `transport` moves the old values when
    the running values move; a plain fold has the identity.
    """

    name: str
    operator: str
    factors: tuple[int, ...]
    over: tuple[str, ...]
    axes: tuple[str, ...]
    kind: Kind
    transport: tuple[Transport, ...]

    @property
    def unit(self) -> float | int | bool:
        """The value before the first chunk."""
        return REDUCTIONS[self.operator].unit

    @property
    def is_carried(self) -> bool:
        """Whether the old value is changed before the chunk is added."""
        return self.transport != (Transport(self.name, None),)


@dataclass(frozen=True, slots=True)
class StreamedReduction:
    """What became of one reduction: its accumulators, the rule, and its value over the new states."""

    box: int
    rule: Rule
    accumulators: tuple[str, ...]
    value: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reduction that could not join the pass of what it depends on, and the factor that hindered it."""

    box: int
    factor: str
    depends_on: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """One walk along the axis: accumulators in order, and outputs (by number) that each chunk stores."""

    accumulators: tuple[Accumulator, ...]
    reductions: tuple[StreamedReduction, ...]
    stores: tuple[tuple[int, int], ...]


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
