"""What lies where: the configuration table of a block (paper, section 7, steps 5 and 6).

In: variables with their levels, extents and storage types, and a machine. Out: `Configuration`: bytes by
level, held once a thread block or by each share of its warps, and N_max, how many shares fit:
(M_max - M_block) / M_share at every level. A share is what one matrix instruction is issued by: a
warpgroup on Hopper, a warp before.

The variables come from a derivation and labels by hand (`hand`) or from a plan's own Program.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf, prod

from napkin.diagram import STORAGE_BYTES
from napkin.machine import Machine

_WORD = 4
_NAMES = {128: "warpgroup"}


class Scope(StrEnum):
    """Who holds a variable: the thread block once, or every share of its warps its own part."""

    BLOCK = "block"
    SHARE = "share"


@dataclass(frozen=True, slots=True)
class Variable:
    """A named array on chip: its axes and their extents in one share (or the block), and its copies."""

    name: str
    level: str
    scope: Scope
    extents: tuple[tuple[str, int], ...]
    storage: str
    copies: int = 1

    @property
    def elements(self) -> int:
        """The values of one share, or of the block."""
        return self.copies * prod(extent for _, extent in self.extents)

    @property
    def bytes(self) -> int:
        """The bytes of one share, or of the block."""
        return self.elements * STORAGE_BYTES[self.storage]


@dataclass(frozen=True, slots=True)
class Fit:
    """Bytes at one level: what a unit has, what a block and each share take; `most` is N_max."""

    level: str
    capacity: int
    block: int
    share: int

    @property
    def most(self) -> float:
        """The shares that fit, as a real number."""
        return (self.capacity - self.block) / self.share if self.share else inf


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration table. `rows` are the grouped elements of one share.

    `most_by_warps` bounds the shares of a block by its warps; `most_at_full` is how many fit a unit if
    every thread takes all the registers that it may, `full_registers`.
    """

    unit: str
    threads: int
    rows: int
    variables: tuple[Variable, ...]
    fits: tuple[Fit, ...]
    most_by_warps: int
    most_at_full: int
    full_registers: int

    def fit(self, level: str) -> Fit:
        """Return the row of a level."""
        return next(each for each in self.fits if each.level == level)

    @property
    def most(self) -> int:
        """The shares that fit a block at every level."""
        return int(min(self.most_by_warps, *(each.most for each in self.fits)))

    @property
    def bound_by(self) -> str:
        """The level that lets the fewest shares fit."""
        return min(self.fits, key=lambda each: each.most).level

    @property
    def tile(self) -> int:
        """The grouped elements of a block with as many shares as fit: the paper's g."""
        return self.most * self.rows

    @property
    def register_bytes(self) -> float:
        """The bytes of registers that a thread's part of a share takes."""
        return sum(
            each.bytes / self.threads
            for each in self.variables
            if each.level == "register" and each.scope is Scope.SHARE
        )

    @property
    def registers(self) -> float:
        """The same in registers of four bytes."""
        return self.register_bytes / _WORD


def share_threads(machine: Machine) -> int:
    """Return the threads that issue the machine's first matrix instruction together."""
    if machine.instructions:
        return machine.instructions[0].threads
    return machine.limits.threads_per_warp


def configure(machine: Machine, variables: tuple[Variable, ...], rows: int) -> Configuration:
    """Return the configuration of these variables on a machine."""
    threads = share_threads(machine)
    limits = machine.limits
    capacity = {"shared": limits.shared_per_block, "register": machine.level("register").capacity}
    fits = tuple(
        Fit(level, size, _sum(variables, level, Scope.BLOCK), _sum(variables, level, Scope.SHARE))
        for level, size in capacity.items()
    )
    return Configuration(
        _NAMES.get(threads, "warp"),
        threads,
        rows,
        variables,
        fits,
        limits.warps_per_block * limits.threads_per_warp // threads,
        limits.registers_per_unit // (threads * limits.registers_per_thread),
        limits.registers_per_thread,
    )


def _sum(variables: tuple[Variable, ...], level: str, scope: Scope) -> int:
    return sum(each.bytes for each in variables if (each.level, each.scope) == (level, scope))
