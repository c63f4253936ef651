"""The tiles of a warp-specialised kernel: which axis is shared out between consumers, and how much of it.

In: a `KernelPlan`, as its plain loop has it. Out: the axis of the rows, and `Shape`s to try, the best
first. A consumer has 64 rows, as one warpgroup's wgmma has them, and as many consumers work as registers
allow; 128 positions a chunk keep the contractions of a chunk long against its barriers. Where a stream only
adds up contractions of what it loads, what counts is how much is contracted for every byte copied: a
consumer has 128 rows if its sums fit registers, and chunks are short, so that many are on their way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from napkin.schedule.kernel import KernelPlan
from napkin.schedule.layout import Tiling
from napkin.schedule.panels import is_contracted_alone, panelled
from napkin.schedule.program import AxisRole, Dot, Loop, Program, walk
from napkin.schedule.rotate import only_adds
from napkin.schedule.tilings import power_of_two

ROWS = 64  # of one warpgroup's wgmma
_MAX_WHOLE = 256


class Overlap(StrEnum):
    """What runs beside a chunk's arithmetic: nothing, contractions of the chunk before, slices of its own."""

    NONE = "none"
    DELAYED = "delayed"
    SLICED = "sliced"


@dataclass(frozen=True, slots=True)
class Shape:
    """Consumers, rows of each, positions of a chunk, the depths of the rings to try, the best first.

    `overlap` is what runs beside a chunk's arithmetic.
    """

    consumers: int
    rows: int
    chunk: int
    stages: tuple[int, ...]
    overlap: Overlap = Overlap.NONE


# Slices are not among them: as printed now they fault on a GPU (docs/hopper.md, "Slices").
_COMPUTING = (
    Shape(3, ROWS, 128, (2,), Overlap.DELAYED),
    *(Shape(2, ROWS, chunk, (2,), Overlap.DELAYED) for chunk in (128, 64, 32)),
)
_ADDING = tuple(Shape(2, rows, 64, (4, 3, 2)) for rows in (2 * ROWS, ROWS))


def shapes_of(program: Program) -> tuple[Shape, ...]:
    """Return the shapes that a kernel may have, the best first."""
    loops = [op for op in program.operations if isinstance(op, Loop)]
    return _ADDING if loops and all(only_adds(loop.body) for loop in loops) else _COMPUTING


def row_axis(kernel: KernelPlan) -> str | None:
    """Return the grouped axis that every contraction's result has first."""
    dots = [op for op in walk(kernel.program.operations) if isinstance(op, Dot)]
    firsts = {op.tile.dims[0] for op in dots if op.tile.dims}
    if len(firsts) != 1:
        return None
    axes = kernel.program.dim(firsts.pop()).axes
    grouped = [axis for axis in axes if kernel.program.axis(axis).role is AxisRole.GROUP]
    return grouped[-1] if grouped else None


def tiling_of(kernel: KernelPlan, rows: str, shape: Shape, stages: int) -> Tiling:
    """Return the tiling of a shape: columns whole, all other grouped axes by 1."""
    sizes = dict(kernel.sizes)
    tiles: dict[str, int] = {}
    whole: list[str] = []
    split: list[str] = []
    for each in kernel.layout.axes:
        tile, role = each.tile, each.role
        if each.axis == rows:
            tile = shape.consumers * shape.rows
        elif role is AxisRole.STREAM:
            tile = min(shape.chunk, max(16, power_of_two(sizes[each.axis])))
        elif role is AxisRole.GROUP and tile > 1 and rows in _bundle(kernel, each.axis):
            tile = 1
        elif role is AxisRole.GROUP and tile > 1 and sizes[each.axis] <= _MAX_WHOLE:
            role, tile = AxisRole.WHOLE, power_of_two(sizes[each.axis])
        elif role is AxisRole.WHOLE and is_contracted_alone(kernel.program, each.axis):
            tile = panelled(sizes[each.axis]) or tile
        tiles[each.axis] = tile
        whole += [each.axis] if role is AxisRole.WHOLE else []
        split += [each.axis] if role is AxisRole.SPLIT else []
    return Tiling(tuple(tiles.items()), tuple(whole), tuple(split), stages, True)


def _bundle(kernel: KernelPlan, axis: str) -> tuple[str, ...]:
    return next((dim.axes for dim in kernel.layout.dims if axis in dim.axes), (axis,))
