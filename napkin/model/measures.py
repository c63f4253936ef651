"""What a relabelling costs, as values: transfers, memory, operations, in SymPy symbols.

In: expressions that `costs` counts. Out: `Costs`, with sums per step, per group and whole, in values or
in bytes. SymPy's expressions are `Any` to the type checker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import sympy as sp

from napkin.model.roles import Role, bind
from napkin.operators import Pipeline

Expression = Any
_ZERO = sp.Integer(0)


class Direction(StrEnum):
    """Which way an array changes its level."""

    LOAD = "load"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Elements of one array that change level: in a step (0 if held), in a group, altogether.

    `readings` tells how many passes of a group read it.
    """

    array: str
    direction: Direction
    step: Expression
    group: Expression
    whole: Expression
    readings: int = 1


@dataclass(frozen=True, slots=True)
class Resident:
    """Elements that lie on the lower level under one name."""

    name: str
    elements: Expression


@dataclass(frozen=True, slots=True)
class Memory:
    """What a group holds: `arrays` are inputs, outputs and their accumulators, held or streamed.

    `temporaries` are tiles between two contractions (scores, hidden layers) and row statistics. A
    pointwise result overwrites its operand.
    """

    arrays: tuple[Resident, ...]
    temporaries: tuple[Resident, ...]

    @property
    def array_elements(self) -> Expression:
        """The paper's M for attention: arrays alone."""
        return sp.Add(*(each.elements for each in self.arrays))

    @property
    def elements(self) -> Expression:
        """The paper's M for an MLP: arrays and temporaries."""
        return self.array_elements + sp.Add(*(each.elements for each in self.temporaries))


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations by kind: FLOPs of contractions, exponentials, and other pointwise work."""

    contraction: Expression = _ZERO
    exponential: Expression = _ZERO
    pointwise: Expression = _ZERO

    def __add__(self, other: Operations) -> Operations:
        return Operations(
            self.contraction + other.contraction,
            self.exponential + other.exponential,
            self.pointwise + other.pointwise,
        )

    @property
    def by_pipeline(self) -> dict[Pipeline, Expression]:
        """The operations by the pipeline that does them; the tensor cores' are FLOPs."""
        return {
            Pipeline.TENSOR: self.contraction,
            Pipeline.SFU: self.exponential,
            Pipeline.FP32: self.pointwise,
        }

    def __str__(self) -> str:
        """Return the operations by pipeline, those that there are."""
        found = {unit: sp.expand(count) for unit, count in self.by_pipeline.items()}
        return ", ".join(f"{count} {unit.value}" for unit, count in found.items() if count != 0)

    def bound(self, values: Mapping[str, Expression]) -> Operations:
        """Return the operations with the symbols of these names replaced."""
        return Operations(
            bind(self.contraction, values),
            bind(self.exponential, values),
            bind(self.pointwise, values),
        )

    def times(self, count: Expression) -> Operations:
        """Return the operations of so many repetitions."""
        return Operations(
            self.contraction * count, self.exponential * count, self.pointwise * count
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of one relabelling. `step` takes one step of every pass; `group` all of a group."""

    roles: tuple[tuple[str, Role], ...]
    groups: Expression
    steps: Expression
    transfers: tuple[Transfer, ...]
    memory: Memory
    step: Operations
    group: Operations
    whole: Operations

    @property
    def transferred(self) -> Expression:
        """H of the whole dispatch."""
        return sp.expand(sp.Add(*(each.whole for each in self.transfers)))

    @property
    def transferred_by_group(self) -> Expression:
        """H of one group."""
        return sp.expand(sp.Add(*(each.group for each in self.transfers)))

    @property
    def transferred_by_step(self) -> Expression:
        """H of one stream step of every pass."""
        return sp.expand(sp.Add(*(each.step for each in self.transfers)))

    def read_once(self) -> Costs:
        """Return the same costs where a group holds the whole stream, so that no pass reads it again."""
        return replace(
            self,
            transfers=tuple(
                replace(
                    each,
                    step=each.step / each.readings,
                    group=each.group / each.readings,
                    whole=each.whole / each.readings,
                    readings=1,
                )
                for each in self.transfers
            ),
        )

    def in_bytes(self, widths: Mapping[str, int], computed: int = 4) -> Costs:
        """Return the same costs with transfers and memory in bytes.

        `widths` are the bytes of an element by array; what has no array takes `computed`.
        """
        return replace(
            self,
            transfers=tuple(_scaled(each, widths[each.array]) for each in self.transfers),
            memory=Memory(
                _weighed(self.memory.arrays, widths, computed),
                _weighed(self.memory.temporaries, widths, computed),
            ),
        )


def _scaled(transfer: Transfer, width: int) -> Transfer:
    return replace(
        transfer,
        step=transfer.step * width,
        group=transfer.group * width,
        whole=transfer.whole * width,
    )


def _weighed(
    held: tuple[Resident, ...], widths: Mapping[str, int], computed: int
) -> tuple[Resident, ...]:
    return tuple(
        Resident(each.name, each.elements * widths.get(each.name, computed)) for each in held
    )
