"""The tilings that a derivation may be laid out by: by hand from an `on` block, else every sensible choice.

In: a derivation, a machine, axis lengths, the least depth of a contraction, and perhaps a hand relabelling.
Out: tilings, each with its number of warps, in a fixed order. Whether one fits, and how fast it is, is not
asked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product as cartesian
from math import prod

from napkin.algebra.derive import Derivation
from napkin.diagram import STORAGE_BYTES, STORAGE_TYPES, Relabelling
from napkin.diagram import Tiling as HandTiling
from napkin.language.errors import Diagnostic, Label, NapkinError
from napkin.machine import Machine
from napkin.operators import Kind
from napkin.schedule.layout import Tiling, bundles, contractions, dot_axes

_LEAST_DEPTH = 16  # of a contraction on tensor cores; twice that for operands of one byte
_ROW_TILES = (16, 32, 64, 128)
_COLUMN_TILES = (64, 128, 256)
_STREAM_TILES = (16, 32, 64, 128, 256)
_STAGES, _WARPS = (2, 3, 4), (4, 8)  # of kernels that contract
_MAX_WHOLE = 256
_SPLIT_TILE = 64
_ELEMENTS = 1024  # of a block that only computes
# Of fp32, vectors of 16 bytes: a warp's, a block's. Of more the assembler loads one after the other.
_WARP_ELEMENTS, _VECTORS = 128, 512
# Rows of a kernel without contractions; many where its stream is short; of an axis that is not the last.
_FEW_ROWS, _MANY_ROWS, _APART_ROWS = (1, 2, 4, 8, 16), (32, 64, 128, 256), (8,)
_SHARES = (1, 4, 16)  # positions at a time of a stream that groups share out


def enumerate_tilings(
    derivation: Derivation,
    machine: Machine,
    sizes: Mapping[str, int],
    hand: Relabelling | None,
    depth: int = _LEAST_DEPTH,
) -> Iterable[tuple[Tiling, int]]:
    """Yield tilings with their warps: by hand where the file says so, else every sensible choice.

    Raises NapkinError (N405, N406, N409) if the hand relabelling is illegal.
    """
    fixed = _hand_tiles(derivation, hand)
    if hand and hand.warps:
        _check_warps(derivation, machine, hand, hand.warps)
    dotted = dot_axes(derivation)
    whole, split = _inner_axes(derivation, sizes, dotted, hand, depth)
    choices: list[list[dict[str, int]]] = []
    columns: list[str] = []
    for number, bundle in enumerate(bundles(derivation)):
        is_row = number == 0 or len(bundle) > 1
        if not is_row and _lies_beside(derivation, bundle, whole):
            options = [{axis: fixed.get(axis, 1) for axis in bundle}]
        else:
            options = _bundle_tiles(bundle, sizes, fixed, is_row=is_row)
        choices.append(options)
        columns += [] if is_row else bundle
    if not bundles(derivation):
        choices.append(_row_tiles(derivation, sizes, fixed))
    beside = 1 if dotted else prod(split.values())
    choices.append(_stream_tiles(derivation, sizes, fixed, depth if dotted else None, beside))
    stages = (hand.stages,) if hand and hand.stages else (_STAGES if dotted else (1,))
    warps = (hand.warps,) if hand and hand.warps else (_WARPS if dotted else _WARPS[:1])
    for combination in cartesian(*choices):
        tiles = dict.fromkeys(derivation.group, 1)
        for part in combination:
            tiles |= part
        chosen_whole = dict(whole)
        for axis in columns:
            if tiles[axis] >= sizes[axis] and sizes[axis] <= _MAX_WHOLE:
                chosen_whole[axis] = tiles[axis]
        tiles |= chosen_whole | split
        for stage, warp in cartesian(stages, warps):
            yield (
                Tiling(
                    tuple(tiles.items()),
                    tuple(chosen_whole),
                    tuple(split),
                    stage,
                    machine.has("tma"),
                ),
                warp,
            )


def _hand_tiles(derivation: Derivation, hand: Relabelling | None) -> dict[str, int]:
    if hand is None:
        return {}
    source = derivation.diagram.source
    stream = derivation.stream.axis if derivation.stream else None
    tiles: dict[str, int] = {}
    for word, tilings, legal in (
        ("group", hand.group, derivation.group),
        ("stream", hand.stream, (stream,)),
        ("split", hand.split, derivation.splittable),
    ):
        for tiling in tilings:
            for axis in tiling.axes:
                if axis not in legal:
                    raise NapkinError([_illegal(derivation, word, axis, tiling)])
                if tiling.tile & (tiling.tile - 1):
                    message = f"tile {tiling.tile} of `{axis}` is not a power of two"
                    label = Label(tiling.span, "not a power of two")
                    raise NapkinError([Diagnostic("N406", message, source, label)])
                tiles[axis] = tiling.tile
    return tiles


def _illegal(derivation: Derivation, word: str, axis: str, tiling: HandTiling) -> Diagnostic:
    stream = derivation.stream.axis if derivation.stream else None
    reasons = {
        "group": f"`{axis}` is reduced, or not every output carries it",
        "stream": f"the diagram streams `{stream}`" if stream else "nothing is reduced",
        "split": f"`{axis}` is not an axis that is only ever summed inside a step",
    }
    return Diagnostic(
        "N405",
        f"cannot {word} axis `{axis}`",
        derivation.diagram.source,
        Label(tiling.span, f"`{axis}` cannot {word}"),
        notes=(reasons[word],),
    )


def _inner_axes(
    derivation: Derivation,
    sizes: Mapping[str, int],
    dotted: frozenset[str],
    hand: Relabelling | None,
    depth: int,
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the blocks of axes that lie whole on chip, and the chunks of those walked inside a step."""
    by_hand = {axis: each.tile for each in (hand.split if hand else ()) for axis in each.axes}
    whole: dict[str, int] = {}
    split: dict[str, int] = {}
    for axis in derivation.inner:
        block = power_of_two(sizes[axis])
        if axis in dotted:
            block = max(block, depth)
        if axis in by_hand:
            split[axis] = by_hand[axis]
        elif axis in dotted & set(derivation.splittable) and _is_summed_beside(derivation, axis):
            split[axis] = 1
        elif axis in derivation.splittable and sizes[axis] > _MAX_WHOLE:
            split[axis] = _SPLIT_TILE
        else:
            whole[axis] = block
    return whole, split


def _is_summed_beside(derivation: Derivation, axis: str) -> bool:
    """Return whether every contraction over an axis sums another as well: a dot has one depth."""
    over = [each.over for each in contractions(derivation) if axis in each.over]
    return bool(over) and all(len(each) > 1 for each in over)


def _lies_beside(derivation: Derivation, bundle: Iterable[str], whole: Iterable[str]) -> bool:
    """Return whether an axis that lies whole is beside the bundle in an operand, which has two dims."""
    return any(
        each.is_free(axis) and axis in factor and not factor.isdisjoint(bundle)
        for each in contractions(derivation)
        for factor in each.factors
        for axis in whole
    )


def _bundle_tiles(
    bundle: tuple[str, ...], sizes: Mapping[str, int], fixed: Mapping[str, int], *, is_row: bool
) -> list[dict[str, int]]:
    """Return tiles for axes side by side: the innermost is filled first, then the next one out."""
    if all(axis in fixed for axis in bundle):
        return [{axis: fixed[axis] for axis in bundle}]
    options: list[dict[str, int]] = []
    for extent in _ROW_TILES if is_row else _COLUMN_TILES:
        tiles: dict[str, int] = {}
        left = extent
        for axis in reversed(bundle):
            tile = fixed.get(axis, min(left, power_of_two(sizes[axis])))
            tiles[axis] = tile
            left = max(1, left // tile)
        if left > 1:
            tiles[bundle[-1]] *= left
        if tiles not in options and (not options or _useful(tiles, sizes)):
            options.append(tiles)
    return options


def _useful(tiles: Mapping[str, int], sizes: Mapping[str, int]) -> bool:
    return all(tile < 2 * sizes[axis] for axis, tile in tiles.items())


def _row_tiles(
    derivation: Derivation, sizes: Mapping[str, int], fixed: Mapping[str, int]
) -> list[dict[str, int]]:
    """Return tiles for a kernel without contractions: some rows of a grouped axis.

    That is the last one, or another that arrays have among their innermost two: what lies together is best
    read together.
    """
    group = derivation.group
    if not group:
        return [{}]
    base = {axis: fixed.get(axis, 1) for axis in group}
    if group[-1] in fixed:
        return [base]
    if derivation.stream is None or derivation.parted:
        # The innermost axis is filled first, then the next one out, beside what lies whole.
        whole = prod(power_of_two(sizes[axis]) for axis in derivation.inner)
        left = max(1, (2 if derivation.parted else 1) * _ELEMENTS // whole)
        for axis in reversed([each for each in group if each not in derivation.parted]):
            base[axis] = fixed.get(axis, min(left, power_of_two(sizes[axis])))
            left = max(1, left // base[axis])
        return [base]
    most = {axis: power_of_two(sizes[axis]) for axis in group}
    behind = _whole_behind(derivation, sizes, derivation.stream.axis)
    if behind >= _WARP_ELEMENTS:
        few = max(_VECTORS // power_of_two(behind), 1)
        return [base | {group[-1]: min(few, most[group[-1]])}]
    beside = _ELEMENTS // min(power_of_two(sizes[derivation.stream.axis]), _ELEMENTS)
    rows = [*_FEW_ROWS, *(tile for tile in _MANY_ROWS if tile <= beside)]
    found = [base | {group[-1]: tile} for tile in rows if tile <= most[group[-1]]]
    near = _near_axes(derivation)
    others = [axis for axis in group[:-1] if axis in near and axis not in fixed]
    return found + [
        base | {axis: tile} for axis in others for tile in _APART_ROWS if tile <= most[axis]
    ]


def _near_axes(derivation: Derivation) -> frozenset[str]:
    """Return the axes that some array has among its innermost two."""
    diagram = derivation.diagram
    arrays = [each.axes for each in diagram.arguments] + [each.axes for each in diagram.outputs]
    return frozenset(axis for axes in arrays for axis in axes[-2:])


def _stream_tiles(
    derivation: Derivation,
    sizes: Mapping[str, int],
    fixed: Mapping[str, int],
    depth: int | None,
    beside: int,
) -> list[dict[str, int]]:
    """Return tiles of the stream, of `depth` or more if it is contracted.

    `beside` is the extent of the axes walked inside its step.
    """
    if derivation.stream is None:
        return [{}]
    axis = derivation.stream.axis
    if axis in fixed:
        return [{axis: fixed[axis]}]
    if depth is not None:
        limit = max(depth, power_of_two(sizes[axis]))
        return [{axis: tile} for tile in _STREAM_TILES if depth <= tile <= limit]
    if _whole_behind(derivation, sizes, axis) >= _WARP_ELEMENTS:
        return [{axis: 1}]
    limit = power_of_two(sizes[axis])
    if derivation.parted:
        return [{axis: tile} for tile in _SHARES if tile <= limit]
    rows = [tile // beside or 1 for tile in (1024, 4096)]
    return [{axis: min(tile, limit)} for tile in rows if tile <= max(limit, rows[0])]


def _whole_behind(derivation: Derivation, sizes: Mapping[str, int], axis: str) -> int:
    """Return the elements behind an axis that lie whole and are not summed, of the array with the fewest.

    Where they are enough for a warp, a step takes one position of the axis: of several, some would lie in
    other warps, and their sum would pass through shared memory.
    """
    diagram = derivation.diagram
    whole = {each for output in diagram.outputs for each in output.axes} & set(derivation.inner)
    extents = [
        prod(sizes[each] for each in whole.intersection(axes[axes.index(axis) :]))
        if axes[-1] in whole
        else 1
        for axes in (each.axes for each in diagram.arguments)
        if axis in axes
    ]
    return min(extents, default=1)


def least_depth(types: Iterable[str]) -> int:
    """Return the least elements that a contraction of arrays of these types sums at a time."""
    return 2 * _LEAST_DEPTH if any(is_narrow_float(each) for each in types) else _LEAST_DEPTH


def is_narrow_float(kind: str) -> bool:
    """Return whether a storage type is a float of one byte, which only newer tensor cores have."""
    return STORAGE_TYPES.get(kind) is Kind.FLOAT and STORAGE_BYTES[kind] == 1


def _check_warps(derivation: Derivation, machine: Machine, hand: Relabelling, warps: int) -> None:
    most = machine.limits.warps_per_block
    if warps <= most and not warps & (warps - 1):
        return
    raise NapkinError(
        [
            Diagnostic(
                "N409",
                f"no block has {warps} warps",
                derivation.diagram.source,
                Label(hand.span, f"`warps {warps}` is asked for here"),
                notes=(f"a block of {machine.name} has up to {most}, and a power of two of them",),
                help=f"write `warps {min(most, 1 << (warps.bit_length() - 1))}`, or leave it out",
            )
        ]
    )


def power_of_two(size: int) -> int:
    """Return the least power of two that is no smaller."""
    return 1 << max(0, size - 1).bit_length()
