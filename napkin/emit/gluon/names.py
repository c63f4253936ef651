"""The names that only a warp-specialised kernel has: none meets a tile, an argument or another name.

In: a `Specialised` kernel, its Triton spelling, the kernel's name. Out: `GluonNames`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from napkin.emit.gluon.rows import read_dims
from napkin.emit.triton.spelling import Spelling
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Compute, Dot, tiles_of, walk
from napkin.schedule.roles.barriers import Slice
from napkin.schedule.roles.panels import panels_of
from napkin.schedule.roles.warps import Specialised

_FUNCTIONS = ("place", "dispatch", "produce", "consume")
_COUNTERS = (
    *("group", "groups", "tiles", "band", "whole", "behind", "consumer", "turn", "step"),
    *("slot", "phase", "last_slot", "last_phase", "rows", "more", "counter"),
    *("place_buffer", "place_full", "place_empty", "panel"),
)


@dataclass(frozen=True, slots=True)
class GluonNames:
    """Functions, counters, rings with their barriers, stages of stores, layouts by dims.

    `step` counts chunks and `turn` groups, over all that a block walks; `slot` and `phase` are a ring's
    place for this chunk, `last_slot` and `last_phase` for the one before; `rows` is the layout of row values
    that bound the stream. `counts` and `places` are the number of slots of a resident ring, and its slot and
    phase for this group. `counter` is what groups are taken from, and `place_buffer` where the numbers of one
    are handed over, while there are `more`. `panels` are the widths of dims that lie in panels, and
    `panel_tiles` the parts of the tiles over them. `held` are the columns that registers hold of resident
    tiles.
    """

    kernel: str
    place: str
    dispatch: str
    produce: str
    consume: str
    group: str
    groups: str
    tiles: str
    band: str
    whole: str
    behind: str
    consumer: str
    turn: str
    step: str
    slot: str
    phase: str
    last_slot: str
    last_phase: str
    rows: str
    more: str
    counter: str
    place_buffer: str
    place_full: str
    place_empty: str
    buffers: Mapping[str, str]
    full: Mapping[str, str]
    empty: Mapping[str, str]
    panel: str
    panels: Mapping[str, str]
    panel_tiles: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, str]
    places: Mapping[str, tuple[str, str]]
    stages: Mapping[str, str]
    layouts: Mapping[tuple[str, ...], str]
    row_layout: str
    held: Mapping[str, str]


def name_all(kernel: Specialised, spelling: Spelling, name: str) -> GluonNames:
    """Choose the names of a kernel that its module calls `name`."""
    program = kernel.program
    names = Names(RESERVED | spelled_names(spelling) | {name, program.name} | _tiles(kernel))
    function = {part: names.fresh(f"{program.name}_{part}") for part in _FUNCTIONS}
    counter = {word: names.fresh(word) for word in _COUNTERS}
    rings = [ring.name for ring in kernel.rings]
    alone = [ring.name for ring in kernel.rings if ring.leader is None]
    stems = {ring: ring.removesuffix("_buffer") for ring in rings}
    panels = panels_of(program)
    loaded = {ring.name: ring.load.tile for ring in kernel.rings}
    results = [op.tile.dims for op in walk(program.operations) if isinstance(op, Dot)]
    results += [*_cut_dims(kernel), *read_dims(kernel)]
    return GluonNames(
        kernel=name,
        **function,
        **counter,
        buffers={ring: names.fresh(ring) for ring in rings},
        full=_of_leaders(kernel, {ring: names.fresh(f"{stems[ring]}_full") for ring in alone}),
        empty=_of_leaders(kernel, {ring: names.fresh(f"{stems[ring]}_empty") for ring in alone}),
        panels={dim: names.fresh(f"PANEL_{dim.upper()}") for dim in panels},
        panel_tiles={
            tile: tuple(names.fresh(f"{tile}_{number}") for number in range(each.count))
            for tile, slot in kernel.slots
            for dim, each in panels.items()
            if dim in loaded[slot.ring].dims
        },
        counts={ring: names.fresh(f"{stems[ring].upper()}_SLOTS") for ring in rings},
        places={
            ring: (names.fresh(f"{stems[ring]}_slot"), names.fresh(f"{stems[ring]}_phase"))
            for ring in rings
        },
        stages={
            each.store.array: names.fresh(f"{each.store.array.lower()}_stage")
            for each in kernel.staged
            if each.ring is None
        },
        layouts={
            dims: names.fresh(f"LAYOUT_{'_'.join(dims).upper()}") for dims in dict.fromkeys(results)
        },
        row_layout=names.fresh(f"LAYOUT_{kernel.rows.upper()}"),
        held={each.tile: names.fresh(f"{each.tile}_held") for each in kernel.held},
    )


def spelled_names(spelling: Spelling) -> set[str]:
    """Return every name that a kernel and its entry share."""
    tables = (getattr(spelling, each.name) for each in fields(spelling))
    return {name for table in tables for name in table.values()}


def _of_leaders(kernel: Specialised, names: Mapping[str, str]) -> dict[str, str]:
    """Return the name of every ring's barrier: that of its leader, if it has one."""
    return {ring.name: names[ring.leader or ring.name] for ring in kernel.rings}


def _cut_dims(kernel: Specialised) -> list[tuple[str, ...]]:
    """Return the dims of what steps make of slices, in registers."""
    made = [s.tile for each in kernel.chunks for s in each.steps if isinstance(s, Compute | Slice)]
    cut = {dim for dim, _ in kernel.cuts}
    return [tile.dims for tile in made if tile.level == "register" and cut & set(tile.dims[1:])]


def _tiles(kernel: Specialised) -> set[str]:
    made = {tile.name for tile in tiles_of(kernel.program.operations)}
    return made | {name for each in kernel.chunks for name, _ in each.wholes}
