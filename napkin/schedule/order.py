"""In what order groups run: which tile of every grouped axis the group of a number has.

In: a `Program`, axis lengths. Out: tile indices by axis, one entry a group. Kernels print the same order
(`emit`), and a test holds what they print to it. The grid's first axis is the fastest; a `Band` walks a
few tiles of one axis together, and for them all of the axes that it jumps over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, prod

import numpy as np

from napkin.schedule.program import Band, EdgePosition, Load, Operation, Program
from napkin.schedule.trips import Numbers, tile_count

_BANDS = (2, 4, 8, 16, 32)  # tiles
LONGEST_TOGETHER = 8  # tiles of a band of uneven streams, measured on an H200 (docs/hopper.md)


def tile_order(
    program: Program, sizes: Mapping[str, int], most: int | None = None
) -> dict[str, Numbers]:
    """Return the tile of every grouped axis by the number of the group, of the first `most` groups alone."""
    counts = {axis: tile_count(program, axis, sizes) for axis in program.grid}
    groups = prod(counts.values())
    left: Numbers = np.arange(groups if most is None else min(groups, most), dtype=np.int64)
    places: dict[str, Numbers] = {}
    band = program.band
    if band is not None:
        over = prod(counts[axis] for axis in band.over)
        inside = left % (counts[band.axis] * over)
        left = left // (counts[band.axis] * over)
        first = inside // (band.tiles * over) * band.tiles
        width = np.minimum(counts[band.axis] - first, band.tiles)  # the last one may be narrower
        inside = inside - first * over
        places[band.axis] = first + inside % width
        inside = inside // width
        for axis in (each for each in program.grid if each in band.over):
            places[axis] = inside % counts[axis]
            inside = inside // counts[axis]
    for axis in (each for each in program.grid if each not in places):
        places[axis] = left % counts[axis]
        left = left // counts[axis]
    flipped = {axis: counts[axis] - 1 - places[axis] for axis in program.descending}
    return places | flipped


def digits(program: Program, sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the axes that a group's number counts through with their tiles, fastest first."""
    counts = {axis: tile_count(program, axis, sizes) for axis in program.grid}
    band = program.band
    if band is None:
        return list(counts.items())
    over = [axis for axis in program.grid if axis in band.over]
    rest = [axis for axis in program.grid if axis not in over and axis != band.axis]
    inside, bands = min(band.tiles, counts[band.axis]), ceil(counts[band.axis] / band.tiles)
    walked = [(axis, counts[axis]) for axis in over]
    return [(band.axis, inside), *walked, (band.axis, bands), *((a, counts[a]) for a in rest)]


def bands_of(program: Program, sizes: Mapping[str, int]) -> list[Band]:
    """Return the bands that groups could run in, where no stream's length asks for an order of its own."""
    if program.band is not None or program.descending or program.shrinking:
        return []
    return [
        Band(axis, tiles, program.grid[:place])
        for place, axis in enumerate(program.grid)
        if place
        for tiles in _BANDS
        if tiles < 2 * tile_count(program, axis, sizes)
    ]


def specialised_order(program: Program, sizes: Mapping[str, int], blocks: int) -> Program:
    """Return a warp-specialised Program with the order that its kernel takes by so many blocks.

    Where the tiles of one axis have streams of unlike lengths, the longest of all come first; where too many
    streams would be read at a time, in bands of tiles that read one together. The kernel decides it as it
    is run.
    """
    axis = uneven_axis(program)
    if axis is None or program.band is not None:
        return program
    others = tuple(each for each in program.grid if each != axis)
    streams = prod(tile_count(program, each, sizes) for each in others)
    tiles = LONGEST_TOGETHER if streams * LONGEST_TOGETHER > blocks else 1
    return replace(program, band=Band(axis, tiles, others))


def handed_order(program: Program, place: Sequence[Operation], rows: str) -> Program:
    """Return a Program whose streams data bound with its groups in the order in which they are handed out.

    The same rows of all heads and batches come side by side. Where later rows may see more the last ones come
    first, so that the groups that are done last are short.
    """
    read = {axis for op in place if isinstance(op, Load) for axis in program.array(op.array).axes}
    if rows not in read:
        return program
    others = tuple(axis for axis in program.grid if axis != rows)
    ends = [op for op in place if isinstance(op, EdgePosition) and op.axis == rows]
    last = (rows,) if any(op.end == "last" for op in ends) else ()
    return replace(program, band=Band(rows, 1, others), descending=last)


def uneven_axis(program: Program) -> str | None:
    """Return the one tiled axis whose later tiles have longer streams, or shorter ones, if there is one."""
    uneven = [each for each in program.grid if each in (*program.descending, *program.shrinking)]
    return uneven[0] if len(uneven) == 1 and program.axis(uneven[0]).dim is not None else None
