"""A diagram on several GPUs: what must pass over their links, by the axis that is split among them.

In: a derivation, a machine, lengths, storage types. Out: `Split`s, the least to pass first. Every array
starts spread evenly over the GPUs. To split a grouped axis, each GPU gets all of the arrays that lack it; to
split the stream, all of those that lack it too, and its part of the others' states, which the derived merge
joins. This is the paper's group partition (section 4) a level above memory, with the links' rates; overlap
is not in it. An axis that a contraction lacks is no choice: every GPU would repeat it. Arrays read at
computed positions count as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from napkin.algebra.derive import Derivation
from napkin.diagram import STORAGE_BYTES
from napkin.machine import Machine
from napkin.model.roles import Role, choose_roles

_STATE_BYTES = 4  # of a state's value: fp32


@dataclass(frozen=True, slots=True)
class Split:
    """An axis split over GPUs: the arrays and states that pass, the bytes into each GPU, their seconds."""

    axis: str
    passing: tuple[str, ...]
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Several:
    """As many GPUs as a link joins; `rate` is what it brings into each, in bytes a second."""

    count: int
    link: str
    rate: float
    splits: tuple[Split, ...]


def several(
    derivation: Derivation,
    machine: Machine,
    sizes: Mapping[str, int],
    types: Mapping[str, str],
) -> Several | None:
    """Return what every split costs over the machine's widest link; None if it has none."""
    links = [
        (n, rate, each) for each in machine.links if each.joins == "dram" for n, rate in each.rates
    ]
    if not links:
        return None
    count, rate, link = max(links, key=lambda found: (found[0], found[1]))
    stream = derivation.stream
    roles = choose_roles(derivation, None)
    axes = [axis for axis in derivation.group if roles[axis] in (Role.GROUP, Role.SINGLE)]
    if stream is not None and len(stream.passes) == 1 and not stream.passes[0].stores:
        axes.append(stream.axis)
    splits = [
        _split(derivation, axis, count, rate, sizes, types) for axis in axes if sizes[axis] >= count
    ]
    return Several(count, link.name, rate, tuple(sorted(splits, key=lambda each: each.bytes)))


def _split(
    derivation: Derivation,
    axis: str,
    count: int,
    rate: float,
    sizes: Mapping[str, int],
    types: Mapping[str, str],
) -> Split:
    passing: dict[str, float] = {}
    for each in derivation.diagram.arguments:
        axes = [one for dim in each.dims for one in dim]
        if axes and axis not in axes:
            passing[each.name] = prod(sizes[one] for one in axes) * STORAGE_BYTES[types[each.name]]
    stream = derivation.stream
    if stream is not None and axis == stream.axis:
        for state in stream.accumulators:
            passing[state.name] = prod(sizes[one] for one in state.axes) * _STATE_BYTES
    # Of each, a GPU has its own part already.
    moved = sum(passing.values()) * (count - 1) / count
    return Split(axis, tuple(passing), moved, moved / rate)
