"""A plan: a derivation laid on a machine, by hand from the file's `on` block or chosen by a model.

In: a derivation, a machine, axis lengths, a storage type, and perhaps a hand relabelling. Out: a `Plan`:
the layout, the Program lowered from it, warps and stages, predicted shared memory and registers. Every
enumerated plan is lowered and judged on its own Program, so that what is predicted is what is printed.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product as cartesian

from napkin.algebra.derive import Derivation
from napkin.diagram import Diagram, Relabelling
from napkin.diagram import Tiling as HandTiling
from napkin.language.errors import Diagnostic, Label, NapkinError, did_you_mean
from napkin.machine import Machine, load_machine, machine_names
from napkin.operators import Kind
from napkin.schedule.layout import (
    Layout,
    Tiling,
    build_layout,
    bundles,
    dot_axes,
)
from napkin.schedule.lower import lower
from napkin.schedule.predict import Prediction, predict
from napkin.schedule.program import Program
from napkin.schedule.rewrite import rewrite

_MIN_DOT = 16
_ROW_TILES = (16, 32, 64, 128)
_COLUMN_TILES = (64, 128, 256)
_STREAM_TILES = (16, 32, 64, 128, 256)
_MAX_WHOLE = 256
_ROW_ELEMENTS = 4096  # a row kernel's tile: enough work for a block, few enough registers
_SPLIT_TILE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """A derivation laid on a machine. `sizes` are the lengths it was judged at."""

    machine: Machine
    derivation: Derivation
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    layout: Layout
    warps: int
    program: Program
    prediction: Prediction

    @property
    def stages(self) -> int:
        """The depth of the shared-memory ring of a streamed load."""
        return self.layout.stages


def make_plan(
    derivation: Derivation,
    machine: Machine,
    *,
    sizes: Mapping[str, int] | None = None,
    dtype: str = "bf16",
) -> Plan:
    """Return the best legal plan, or the one that the diagram's `on` block fixes.

    Raises NapkinError (N4) if the machine has no code generator, an axis must be sized, or nothing fits.
    """
    if machine.capability is None:
        raise NapkinError([Diagnostic("N402", f"machine `{machine.name}` has no code generator")])
    plans = rank(derivation, machine, sizes=sizes, dtype=dtype)
    return plans[0]


def rank(
    derivation: Derivation,
    machine: Machine,
    *,
    sizes: Mapping[str, int] | None = None,
    dtype: str = "bf16",
) -> tuple[Plan, ...]:
    """Return every legal plan, the fastest predicted first."""
    diagram = derivation.diagram
    lengths = _lengths(derivation, sizes or {})
    hand = _relabelling(diagram, machine)
    cheap = rewrite(derivation)
    dtypes = storage_types(diagram, dtype)
    made: list[Plan] = []
    tightest: Plan | None = None
    lowered: dict[Tiling, Program] = {}
    for tiling, warps in _enumerate(derivation, machine, lengths, hand):
        layout = build_layout(cheap, lengths, dtypes, tiling)
        # Rings differ in their depth alone, and warps do not show in a Program: lower a tiling once.
        one_deep = replace(tiling, stages=1)
        if one_deep not in lowered:
            lowered[one_deep] = lower(cheap, replace(layout, stages=1))
        program = _with_stages(lowered[one_deep], tiling.stages)
        prediction = predict(program, machine, lengths, warps)
        where = tuple(lengths.items())
        plan = Plan(machine, cheap, where, dtype, layout, warps, program, prediction)
        if _fits(plan):
            made.append(plan)
        elif tightest is None or _excess(plan) < _excess(tightest):
            tightest = plan
    if not made:
        raise NapkinError([_nothing_fits(diagram, machine, hand, tightest)])
    return tuple(sorted(made, key=lambda plan: plan.prediction.seconds))


def storage_types(diagram: Diagram, dtype: str) -> dict[str, str]:
    """Return every array's storage type: its own, or `dtype` for rank two and more and fp32 for the rest."""
    types: dict[str, str] = {}
    for each in diagram.arguments:
        types[each.name] = each.dtype or (dtype if len(each.dims) > 1 else "fp32")
    for output in diagram.outputs:
        kind = diagram.boxes[output.box].kind
        default = {Kind.INT: "int64", Kind.BOOL: "bool"}.get(
            kind, dtype if len(output.dims) > 1 else "fp32"
        )
        types[output.name] = output.dtype or default
    return types


# --- what is given --------------------------------------------------------------------------------


def _lengths(derivation: Derivation, given: Mapping[str, int]) -> dict[str, int]:
    diagram = derivation.diagram
    known = dict(diagram.sizes)
    for axis, size in given.items():
        if axis not in diagram.axes:
            message = f"`{axis}` is not an axis of `{diagram.name}`"
            raise NapkinError([Diagnostic("N403", message, help=did_you_mean(axis, diagram.axes))])
        if size < 1:
            raise NapkinError([Diagnostic("N403", f"axis `{axis}` has length {size}")])
        known[axis] = size
    missing = [axis for axis in derivation.inner if axis not in known]
    if missing:
        axis = missing[0]
        raise NapkinError(
            [
                Diagnostic(
                    "N404",
                    f"the length of axis `{axis}` is not given",
                    notes=(f"`{axis}` lies on chip whole, so the kernel is made for one length",),
                    help=f"add `sizes {axis}=128` to the file, or --sizes {axis}=128",
                )
            ]
        )
    return {axis: known.get(axis, 4096) for axis in diagram.axes}


def _relabelling(diagram: Diagram, machine: Machine) -> Relabelling | None:
    """Return the `on` block for this machine, by name or alias."""
    for each in diagram.relabellings:
        names = machine_names()
        try:
            target = load_machine(each.machine)
        except NapkinError:
            raise NapkinError(
                [
                    Diagnostic(
                        "N401",
                        f"unknown machine `{each.machine}`",
                        diagram.source,
                        Label(each.span, "no machine has this name"),
                        help=did_you_mean(each.machine, names) or f"known: {', '.join(names)}",
                    )
                ]
            ) from None
        if target.name == machine.name:
            return each
    return None


# --- enumeration ----------------------------------------------------------------------------------


def _enumerate(
    derivation: Derivation,
    machine: Machine,
    sizes: Mapping[str, int],
    hand: Relabelling | None,
) -> Iterable[tuple[Tiling, int]]:
    """Yield tilings with their warps: by hand where the file says so, else every sensible choice."""
    fixed = _hand_tiles(derivation, hand)
    dotted = dot_axes(derivation)
    whole, split = _inner_axes(derivation, sizes, dotted, hand)
    choices: list[list[dict[str, int]]] = []
    columns: list[str] = []
    for number, bundle in enumerate(bundles(derivation)):
        is_row = number == 0 or len(bundle) > 1
        options = _bundle_tiles(bundle, sizes, fixed, is_row=is_row)
        choices.append(options)
        columns += [] if is_row else bundle
    if not bundles(derivation):
        choices.append(_row_tiles(derivation, sizes, fixed))
    choices.append(_stream_tiles(derivation, sizes, fixed, bool(dotted)))
    stages = [hand.stages] if hand and hand.stages else ([2, 3] if dotted else [1])
    warps = [hand.warps] if hand and hand.warps else ([4, 8] if dotted else [4])
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
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the blocks of axes that lie whole on chip, and the chunks of those walked inside a step."""
    by_hand = {axis: each.tile for each in (hand.split if hand else ()) for axis in each.axes}
    whole: dict[str, int] = {}
    split: dict[str, int] = {}
    for axis in derivation.inner:
        block = power_of_two(sizes[axis])
        if axis in dotted:
            block = max(block, _MIN_DOT)
        if axis in by_hand:
            split[axis] = by_hand[axis]
        elif axis in derivation.splittable and sizes[axis] > _MAX_WHOLE:
            split[axis] = _SPLIT_TILE
        else:
            whole[axis] = block
    return whole, split


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
    """Return tiles for a kernel without contractions: some rows of its last grouped axis."""
    group = derivation.group
    if not group:
        return [{}]
    base = {axis: fixed.get(axis, 1) for axis in group}
    if group[-1] in fixed:
        return [base]
    if derivation.stream is None:
        tile = min(1024, power_of_two(sizes[group[-1]]))
        return [base | {group[-1]: tile}]
    rows = [1, 2, 4, 8, 16]
    return [base | {group[-1]: tile} for tile in rows if tile <= power_of_two(sizes[group[-1]])]


def _stream_tiles(
    derivation: Derivation, sizes: Mapping[str, int], fixed: Mapping[str, int], dotted: bool
) -> list[dict[str, int]]:
    if derivation.stream is None:
        return [{}]
    axis = derivation.stream.axis
    if axis in fixed:
        return [{axis: fixed[axis]}]
    if dotted:
        limit = max(_MIN_DOT, power_of_two(sizes[axis]))
        return [{axis: tile} for tile in _STREAM_TILES if tile <= limit]
    limit = power_of_two(sizes[axis])
    return [{axis: min(tile, limit)} for tile in (1024, 4096) if tile <= max(limit, 1024)]


def power_of_two(size: int) -> int:
    """Return the least power of two that is no smaller."""
    return 1 << max(0, size - 1).bit_length()


# --- judging --------------------------------------------------------------------------------------


def _with_stages(program: Program, stages: int) -> Program:
    """Return the program with rings of this depth."""
    return replace(program, buffers=tuple(replace(each, stages=stages) for each in program.buffers))


def _fits(plan: Plan) -> bool:
    limits = plan.machine.limits
    return (
        plan.prediction.shared_bytes <= limits.shared_per_block
        and plan.prediction.registers <= limits.registers_per_thread
    )


def _excess(plan: Plan) -> float:
    limits = plan.machine.limits
    return max(
        plan.prediction.shared_bytes / limits.shared_per_block,
        plan.prediction.registers / limits.registers_per_thread,
    )


def _nothing_fits(
    diagram: Diagram, machine: Machine, hand: Relabelling | None, tightest: Plan | None
) -> Diagnostic:
    notes: tuple[str, ...] = ()
    if tightest is not None:
        need, limits = tightest.prediction, machine.limits
        tiles = ", ".join(f"{t.axis} {t.tile}" for t in tightest.program.axes if t.tile > 1)
        notes = (
            f"the smallest tiles ({tiles}) need {need.shared_bytes} bytes of shared memory "
            f"of {limits.shared_per_block} and {need.registers} registers a thread "
            f"of {limits.registers_per_thread}",
        )
    label = Label(hand.span, "these tiles do not fit") if hand else None
    return Diagnostic(
        "N407",
        f"no tiles of `{diagram.name}` fit on {machine.name}",
        diagram.source if hand else None,
        label,
        notes=notes,
        help="shorten an axis that lies on chip whole, or cut the diagram in two",
    )
