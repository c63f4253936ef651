"""The place of a group in an order of bands: some tiles of one axis side by side, for all of others.

In: a Program with a `Band`, and how its printer spells starts, counts and positions. Out: the lines that turn
a group's number into the starts of its tiles. `schedule.order` has the same order as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from napkin.schedule.program import Band, Program


def band_lines(
    program: Program,
    band: Band,
    number: str,
    starts: Mapping[str, str],
    count_of: Callable[[str], str],
    placed: Callable[[str, str], str],
) -> Iterator[str]:
    """Yield the lines; `placed` makes a tile's index the start of an axis's tile."""
    inner = [axis for axis in program.grid if axis in band.over]
    outer = [axis for axis in program.grid if axis not in band.over and axis != band.axis]

    def put(axis: str, index: str) -> str:
        if axis not in program.descending:
            return placed(axis, index)
        index = f"({index})" if " + " in index else index
        return placed(axis, f"{count_of(axis)} - 1 - {index}")

    if band.tiles == 1:
        yield from _divided(number, [*inner, band.axis, *outer], starts, count_of, put)
        return
    across = " * ".join(map(count_of, inner))
    across = f"({across})" if len(inner) > 1 else across
    if outer:
        whole = f"({count_of(band.axis)} * {across})"
        yield from _divided(f"{number} // {whole}", outer, starts, count_of, put)
        yield f"{number} = {number} % {whole}"
    start = starts[band.axis]
    yield f"{start} = {number} // ({band.tiles} * {across}) * {band.tiles}  # bands of {band.tiles} tiles"
    yield f"{number} = {number} - {start} * {across}"
    width = f"tl.minimum({count_of(band.axis)} - {start}, {band.tiles})"  # the last may be narrower
    yield from _divided(f"{number} // {width}", inner, starts, count_of, put)
    yield f"{start} = {put(band.axis, f'{start} + {number} % {width}')}"


def _divided(
    number: str,
    axes: list[str],
    starts: Mapping[str, str],
    count_of: Callable[[str], str],
    placed: Callable[[str, str], str],
) -> Iterator[str]:
    """Yield the starts of axes, the fastest first; the last one takes all that is left."""
    for place, axis in enumerate(axes):
        index = number if place == len(axes) - 1 else f"{number} % {count_of(axis)}"
        yield f"{starts[axis]} = {placed(axis, index)}"
        number = f"{number} // {count_of(axis)}"
