"""The tiles of a warp-specialised kernel: which axis is shared out between consumers, and how much of it.

In: a `KernelPlan`, as its plain loop has it. Out: the axis of the rows, and `Shape`s to try, the best
first. A consumer has 64 rows, as one warpgroup's wgmma has them, and as many consumers work as registers
allow; 128 positions a chunk keep the contractions of a chunk long against its barriers, but for a stream that
values of rows bound, which may be short. Where a stream only adds up contractions of what it loads, what
counts is how much is contracted for every byte copied: a consumer has 128 rows if its sums fit registers, and
chunks are short, so that many are on their way.
"""

from __future__ import annotations

from dataclasses import dataclass

from napkin.schedule.count import extent
from napkin.schedule.layout import Tiling
from napkin.schedule.program import AxisRole, Dot, Fill, Load, Loop, walk
from napkin.schedule.roles.obstacles import place_of
from napkin.schedule.roles.panels import is_contracted_alone, panelled
from napkin.schedule.roles.rotate import only_adds
from napkin.schedule.tiling.kernel import KernelPlan
from napkin.schedule.tiling.tilings import power_of_two

ROWS = 64  # of one warpgroup's wgmma
_MAX_WHOLE = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """Consumers, rows of each, positions of a chunk, the depths of the rings to try, the best first.

    Chunks are `is_short` where a stream may be. With `is_sliced` a chunk's contraction of what it computes
    comes in slices beside that, and is not delayed to the next chunk.
    """

    consumers: int
    rows: int
    chunk: int
    stages: tuple[int, ...]
    is_short: bool = False
    is_sliced: bool = False


_DELAYED = (
    Shape(3, ROWS, 128, (2,)),
    *(Shape(2, ROWS, chunk, (2,)) for chunk in (128, 64, 32)),
)
_COMPUTING = (Shape(3, ROWS, 128, (3, 2), is_sliced=True), *_DELAYED)
# Streams that values of rows bound may be short, and are cut at both ends: of shorter chunks less is computed
# in vain. Of tiles of 128 rows fewer are cut, three consumers keep the tensor cores busier where streams are
# long. They were run for sums of 128 columns alone (docs/hopper.md).
_SHORT, _LONG = (Shape(consumers, ROWS, 64, (2,), is_short=True) for consumers in (2, 3))
_RUN_COLUMNS, _SHORT_POSITIONS = 128, 4096
_ADDING = tuple(Shape(2, rows, 64, (4, 3, 2)) for rows in (2 * ROWS, ROWS))


def shapes_of(kernel: KernelPlan) -> tuple[Shape, ...]:
    """Return the shapes that a kernel may have, the best first."""
    loops = [op for op in kernel.program.operations if isinstance(op, Loop)]
    if loops and all(only_adds(loop.body) for loop in loops):
        return _ADDING
    if loops and _values_bound(kernel):
        positions = max(dict(kernel.sizes)[loop.axis] for loop in loops)
        return (_SHORT if positions <= _SHORT_POSITIONS else _LONG, *_DELAYED)
    # What was read tells no consumer where its own rows' stream ends: slices lost there by half.
    is_bound_by_data = loops and any(isinstance(op, Load) for op in place_of(kernel.program))
    return _DELAYED if is_bound_by_data else _COMPUTING


def _values_bound(kernel: KernelPlan) -> bool:
    """Return whether values of rows bound a kernel's stream, of sums for which short chunks were run."""
    program = kernel.program
    sums = [op.tile for op in program.operations if isinstance(op, Fill) and len(op.tile.dims) == 2]
    columns = {extent(tile.dims[1:], program) for tile in sums}
    by_rows = any(isinstance(op, Load) and op.tile.dims for op in place_of(program))
    return by_rows and columns == {_RUN_COLUMNS}


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
