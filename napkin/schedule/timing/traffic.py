"""What a kernel reads from memory and writes to it, by what its second-level cache can hold.

In: a `Program` with its order of groups, a machine, axis lengths, how many groups run at a time. Out:
`Traffic`: bytes by array. As many groups as run at a time are a wave; they walk their streams side by
side, so that what several of them read is read once. What a later wave reads again comes from the cache if
little enough passed through it since (docs/model.md, "What memory is read and written").

It is the cache alone that is modelled: how long the bytes take is the predictor's matter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from napkin.machine import Machine
from napkin.schedule.order import digits, tile_order
from napkin.schedule.program import Program
from napkin.schedule.remember import remembered_by
from napkin.schedule.timing.plain_loops import array_bytes
from napkin.schedule.timing.touches import (
    Reals,
    Touch,
    previous,
    readers_of,
    slab_bytes,
    touches_of,
    waves_since,
)
from napkin.schedule.trips import Numbers, Scalar, tile_count

_RAMP = (0.85, 1.13)  # of its size
_MOST_GROUPS = 1 << 15  # that are followed: what more of them do is like what these do


def _order_of(program: Program) -> tuple[object, ...]:
    """Return what says which group runs when, and what it does."""
    return program.operations, program.axes, program.band, program.grid, program.descending


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes read from memory and written to it, by array; `kept` of the latter are still in the cache."""

    read: tuple[tuple[str, float], ...]
    written: tuple[tuple[str, float], ...]
    kept: float

    @property
    def bytes_read(self) -> float:
        """The bytes that come from memory."""
        return sum(count for _, count in self.read)

    @property
    def bytes_written(self) -> float:
        """The bytes that reach memory before the kernel ends."""
        return sum(count for _, count in self.written) - self.kept

    @property
    def bytes(self) -> float:
        """The bytes that pass between memory and the cache for this kernel, before its end or after."""
        return self.bytes_read + self.bytes_written + self.kept


@remembered_by(
    lambda program, machine, sizes, together, scalars: (
        *_order_of(program),
        program.dims,
        program.outputs,
        bool(program.buffers),
        machine,
        sizes,
        together,
        *scalars,
        *scalars.values(),
    )
)
def dram_traffic(
    program: Program,
    machine: Machine,
    sizes: Mapping[str, int],
    together: int,
    scalars: Mapping[str, Scalar],
) -> Traffic:
    """Return what a kernel moves between memory and its cache; `together` groups run at a time."""
    groups = prod(tile_count(program, axis, sizes) for axis in program.grid)
    followed = groups if groups <= _MOST_GROUPS else max(_MOST_GROUPS // together, 1) * together
    wave = np.arange(followed, dtype=np.int64) // together
    order = tile_order(program, sizes, followed)
    touches = touches_of(program, sizes, order, wave, scalars)
    written = {each.name: array_bytes(each, sizes) for each in program.outputs}
    share = followed / groups
    cache = _Cache(machine, touches, wave, sum(written.values()) * share / followed)
    read: dict[str, float] = {}
    for each in touches:
        read[each.array] = read.get(each.array, 0.0) + cache.misses(each) / share
    kept = cache.kept(at_end=bool(program.buffers))
    return Traffic(tuple(read.items()), tuple(written.items()), kept)


# --- the cache ------------------------------------------------------------------------------------


class _Cache:
    """The second-level cache over the waves of a kernel: what each puts into it, and what is still there."""

    def __init__(
        self, machine: Machine, touches: list[Touch], wave: Numbers, written: float
    ) -> None:
        level = machine.level("l2")
        self._capacity = float(level.capacity)
        self._parts = level.copies
        self._touches = touches
        count = int(wave[-1]) + 1
        self._written = np.bincount(wave, minlength=count) * np.float64(written)
        self._footprint = self._written.copy()
        self._fresh = self._written.copy()
        seen: set[str] = set()
        for each in touches:
            if each.array in seen:
                continue  # what a second pass reads lies there already, if it does
            seen.add(each.array)
            held = each.bytes * self._copies(each.sharers)
            is_kept = waves_since(each) == 1
            self._footprint += np.bincount(each.wave, held, count)
            self._fresh += np.bincount(each.wave, np.where(is_kept, 0.0, held), count)
        self._passed = np.concatenate(([0.0], np.cumsum(self._fresh)))

    def _copies(self, sharers: Numbers) -> Reals:
        """Return in how many parts of the cache a line lies that so many groups read.

        Units reach memory through the part that is near to them. Which one that is, is as good as random.
        """
        parts = self._parts
        return np.asarray(parts * (1.0 - (1.0 - 1.0 / parts) ** sharers), np.float64)

    def misses(self, touch: Touch) -> float:
        """Return the bytes of a touch that come from memory."""
        earlier = [each for each in self._touches if each.array == touch.array]
        if earlier[0] is not touch:
            return float((touch.bytes * self._lost(self._footprint[touch.wave])).sum())
        before = previous(touch)
        first = before < 0
        then = touch.wave[before]
        passed = self._footprint[then] + self._passed[touch.wave] - self._passed[then + 1]
        low = np.maximum(touch.low, touch.low[before])
        again = np.maximum(np.minimum(touch.high, touch.high[before]) - low, 0) * touch.size
        found = np.where(first, 0.0, again * (1.0 - self._lost(passed)))
        return float((touch.bytes - found).sum())

    def _lost(self, passed: Reals) -> Reals:
        """Return the share of what lay in the cache that is gone once so many bytes passed through it."""
        least, most = _RAMP
        share = (passed / self._capacity - least) / (most - least)
        return np.clip(share, 0.0, 1.0)

    def kept(self, *, at_end: bool) -> float:
        """Return the bytes written that the cache still holds when the kernel ends.

        Groups write `at_end`, after all that they read, or as they read.
        """
        # After a wave the last one passes whole, and those between them what they read anew.
        later = self._passed[-1] - self._passed[1:] + self._footprint[-1] - self._fresh[-1]
        later[-1] = 0.0
        room = np.maximum(self._capacity - later, 0.0)
        among = np.maximum(self._written if at_end else self._footprint, 1.0)
        return float((self._written * np.minimum(room / among, 1.0)).sum())


# --- bounds, at little cost -----------------------------------------------------------------------


def least_traffic(program: Program, sizes: Mapping[str, int]) -> float:
    """Return the bytes of every array once, which no kernel can save."""
    return sum(array_bytes(each, sizes) for each in (*program.arrays, *program.outputs))


@remembered_by(lambda program, sizes, together: (*_order_of(program), sizes, together))
def most_traffic(program: Program, sizes: Mapping[str, int], together: int) -> float:
    """Return bytes that a kernel never passes: what waves read if the cache keeps nothing between them."""
    groups = prod(tile_count(program, axis, sizes) for axis in program.grid)
    waves = ceil(groups / together)
    found = float(sum(array_bytes(each, sizes) for each in program.outputs))
    for array, own, count in readers_of(program):
        slab = slab_bytes(program, sizes, array, own)
        parts = prod(tile_count(program, axis, sizes) for axis in own)
        touched = waves * min(_touched(program, sizes, own, together), parts)
        found += count * slab * min(touched, groups)
    return found


def _touched(
    program: Program, sizes: Mapping[str, int], own: Collection[str], together: int
) -> int:
    """Return the most slabs of these axes that so many groups in a row read."""
    counts = digits(program, sizes)
    found, left = 1, min(together, prod(count for _, count in counts))
    for axis, count in counts:
        found *= min(left, count) if axis in own else 1
        left = min(left, 2 + (left - 2) // count) if left > 1 else 1
    return found
