"""Hulls before a kernel: a small one finds where a mask can hold, the large one walks no more than that.

In: a `KernelPlan` whose mask compares values of rows with values of positions. Out: the kernel that finds the
comparison's hull for every tile of rows, and the same kernel reading its bounds from there; the kernel alone
where no mask is such, or where finding a hull takes too much of the kernel's own time.

What a hull saves is not known before the data are there: the kernel is predicted as if it saved nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from napkin.algebra.derive import Derivation
from napkin.algebra.hulls import Comparison, derive_hull, find_comparisons, with_hull
from napkin.diagram import Diagram, storage_types
from napkin.schedule.layout import Layout, Tiling, build_layout
from napkin.schedule.lowering.lower import lower
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.program import AxisRole
from napkin.schedule.tiling.kernel import KernelPlan
from napkin.schedule.tiling.tilings import power_of_two
from napkin.schedule.timing.predict import average_steps, predict

_ROWS = 128  # of a tile that has a hull of its own: no kernel's tile is much smaller
_POSITIONS = 4096  # of a chunk: its loads are on their way at once
_WARPS = 8
_WORTH = 0.1  # of the kernel's own time, that its hull may take


def with_hulls(kernel: KernelPlan, taken: Collection[str]) -> tuple[KernelPlan, ...]:
    """Return a kernel with those that find its hulls before it; their arrays' names are none of `taken`."""
    found: list[KernelPlan] = []
    for each in find_comparisons(kernel.derivation):
        if not _is_shared_by_rows(kernel, each):
            continue
        names = {*taken, *_names(kernel.derivation.diagram)}
        hull = _hull_kernel(kernel, each, names)
        spent = sum(each.prediction.seconds for each in (*found, hull))
        if hull.fits and spent < _WORTH * kernel.prediction.seconds:
            found.append(hull)
            outputs = hull.derivation.diagram.outputs
            kernel = _laid_out_again(kernel, with_hull(kernel.derivation, each, outputs))
    return (*found, kernel)


def _is_shared_by_rows(kernel: KernelPlan, comparison: Comparison) -> bool:
    """Return whether a tile's rows all compare with the same positions, and rows are grouped alone."""
    graph, stream = kernel.derivation.graph, kernel.derivation.stream
    assert stream is not None
    axes = {each.axis: each for each in kernel.layout.axes}
    batch = [axes[axis] for axis in graph[comparison.position].axes if axis != stream.axis]
    rows = [axes[axis] for axis in graph[comparison.row].axes]
    grouped = all(each.role is AxisRole.GROUP for each in (*batch, *rows))
    return grouped and all(each.dim is None for each in batch)


def _names(diagram: Diagram) -> set[str]:
    given = {each.name for each in diagram.arguments}
    return {*diagram.names, *diagram.axes, *given, *(each.name for each in diagram.outputs)}


def _hull_kernel(kernel: KernelPlan, comparison: Comparison, taken: Collection[str]) -> KernelPlan:
    """Return the kernel of a comparison's hull, a block for every tile of rows."""
    name = f"{kernel.name}_hull"
    derivation = rewrite(derive_hull(kernel.derivation, comparison, name, taken))
    assert derivation.stream is not None
    sizes = dict(kernel.sizes)
    stream = derivation.stream.axis
    tiles = {each.axis: min(each.tile, _ROWS) for each in kernel.layout.axes}
    chosen = {axis: tiles[axis] for axis in derivation.group}
    chosen[stream] = min(_POSITIONS, power_of_two(sizes[stream]))
    tiling = Tiling(tuple(chosen.items()), (), (), 1, False)
    return _laid_out(replace(kernel, warps=_WARPS), derivation, tiling)


def _laid_out_again(kernel: KernelPlan, derivation: Derivation) -> KernelPlan:
    """Return a kernel in the same tiles with another derivation of the same axes."""
    return _laid_out(kernel, derivation, _tiling_of(kernel.layout))


def _laid_out(kernel: KernelPlan, derivation: Derivation, tiling: Tiling) -> KernelPlan:
    """Return a kernel of a derivation in these tiles, with what it is predicted to take."""
    sizes = dict(kernel.sizes)
    types = storage_types(derivation.diagram, kernel.dtype)
    layout = build_layout(derivation, sizes, types, tiling)
    program = lower(derivation, layout)
    walked = average_steps(program, sizes)
    own = {*derivation.diagram.axes}
    return replace(
        kernel,
        derivation=derivation,
        sizes=tuple(each for each in kernel.sizes if each[0] in own),
        layout=layout,
        program=program,
        prediction=predict(program, kernel.machine, sizes, kernel.warps, walked),
        form=None,
        why="",
    )


def _tiling_of(layout: Layout) -> Tiling:
    """Return the free choices that a layout was built from."""
    roles = {each.axis: each.role for each in layout.axes}
    whole, split = (
        tuple(axis for axis, role in roles.items() if role is wanted)
        for wanted in (AxisRole.WHOLE, AxisRole.SPLIT)
    )
    tiles = tuple((each.axis, each.tile) for each in layout.axes)
    return Tiling(tiles, whole, split, layout.stages, layout.descriptors)
