"""The model's tables as text: configuration, throughput, the ideal of a machine, costs side by side.

In: values that the model and the schedule made. Out: lines. Nothing is computed here but units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import isinf
from typing import TYPE_CHECKING

from napkin.emit.notation import byte_size
from napkin.emit.table import aligned
from napkin.model.configuration import Configuration, Scope
from napkin.model.throughput import Throughput
from napkin.schedule.planning.cost import Cost
from napkin.schedule.planning.plan import Plan
from napkin.schedule.tiling.tables import configuration_of, kernel_shares, throughput_of
from napkin.schedule.units import duration, scaled

if TYPE_CHECKING:  # the model of any kernel is not needed where there is a plan
    from napkin.model.ideal import Ideal
    from napkin.model.several import Several
    from napkin.schedule.planning.unplanned import Clusters, Unplanned

_NOTHING = "-"
_DEPTHS = ("dram", "l3", "l2", "shared", "register", "fragment")
_LEAST_SLACK, _MOST_SLACK = 0.005, 10.0  # less or more is not worth a figure


def show_cost(plan: Plan, cost: Cost) -> str:
    """Return a plan's cost, and the configuration and throughput tables of every kernel."""
    lines = [str(cost)]
    lines += [f"{plan.machine.name} {plan.machine.calibrated}"] if plan.machine.calibrated else []
    for number, kernel in enumerate(plan.kernels, 1):
        which = f" of kernel {number}" if len(plan.kernels) > 1 else ""
        configuration = configuration_of(kernel)
        throughput = throughput_of(kernel)
        lines += ["", *configuration_lines(configuration, which)]
        lines += [
            "",
            *throughput_lines(throughput, configuration.rows * kernel_shares(kernel), which),
        ]
    return "\n".join(lines)


def show_unplanned(found: Unplanned) -> str:
    """Return the model's word on a diagram."""
    sizes = " ".join(f"{axis}={size}" for axis, size in found.sizes)
    law = "no closed form" if found.law is None else str(found.law)
    lines = [
        f"{found.diagram} on {found.machine.name}, {found.dtype}, as one kernel of any tiles: {sizes}",
        *([f"{found.machine.name}: {found.note}"] if found.note else []),
        "",
        f"H = {found.transferred}",
        f"M = {found.memory}",
        *([f"K = {found.work}"] if found.work else []),
        *([f"a step {found.step}"] if found.step else []),
        f"H* = {law}",
        "    in elements, K in operations; g_q is the tile of a grouped axis q, s_x that of the stream x",
        "    H* is the least H of any tiles that M elements hold",
        "",
        *ideal_lines(found.ideal),
        *_cluster_lines(found.clusters),
        *_several_lines(found.several, found.ideal),
    ]
    if found.tables is not None:
        configuration, throughput = found.tables
        lines += ["", *configuration_lines(configuration)]
        lines += ["", *throughput_lines(throughput, max(configuration.tile, configuration.rows))]
    return "\n".join(lines)


def _cluster_lines(clusters: Clusters | None) -> list[str]:
    if clusters is None:
        return []
    if clusters.size == 1:
        return ["clusters of blocks save nothing: L2 feeds a unit faster than its neighbours do"]
    saved = 1 - clusters.seconds / clusters.alone
    if saved < _LEAST_SLACK:
        return ["clusters of blocks save nothing: hardly anything is loaded twice"]
    return [
        f"clusters of {clusters.size} blocks save {saved:.0%} of the transfers into shared memory"
    ]


def _several_lines(several: Several | None, ideal: Ideal) -> list[str]:
    """Return what passes between GPUs for every axis that may be split over them."""
    if several is None or not several.splits:
        return []
    rows = [("split", "passes", "into a GPU", "time")]
    for each in several.splits:
        moved = scaled(each.bytes, "B") if each.bytes else _NOTHING
        took = duration(each.seconds) if each.bytes else _NOTHING
        rows.append((each.axis, ", ".join(each.passing) or "nothing", moved, took))
    return [
        "",
        f"over {several.count} GPUs on {several.link}, {scaled(several.rate, 'B/s')} into each; "
        f"the rest takes no less than {duration(ideal.seconds / several.count)}",
        *_indented(aligned(rows)),
    ]


# --- configuration --------------------------------------------------------------------------------


def configuration_lines(configuration: Configuration, which: str = "") -> list[str]:
    """Return what lies where, and how many shares of the warps fit."""
    unit, threads = configuration.unit, configuration.threads
    rows = [("variable", "level", "held by", "extents", "type", "bytes", "a thread")]
    for each in configuration.variables:
        copies = f"{each.copies} x " if each.copies > 1 else ""
        by_thread = _NOTHING if each.level == "shared" else f"{each.bytes / threads:g} B"
        rows.append(
            (
                each.name,
                each.level,
                unit if each.scope is Scope.SHARE else "block",
                copies + (" ".join(f"{axis}:{size}" for axis, size in each.extents) or "1"),
                each.storage,
                byte_size(each.bytes),
                by_thread,
            )
        )
    head = f"configuration{which}: a {unit} of {threads} threads"
    if configuration.rows <= 1:  # nothing that the warps could share out
        return [head, *_indented(aligned(rows))]
    fits = [("level", "of", "block", f"each {unit}", "fit")]
    for fit in configuration.fits:
        most = "any number" if isinf(fit.most) else f"{fit.most:.2f}"
        most += ", binds" if fit.level == configuration.bound_by and not isinf(fit.most) else ""
        sizes = (byte_size(fit.capacity), byte_size(fit.block), byte_size(fit.share))
        fits.append((fit.level, *sizes, most))
    return [
        f"{head} holds {configuration.rows} rows",
        *_indented(aligned(rows)),
        "",
        *_indented(aligned(fits)),
        f"    {_shares_that_fit(configuration)}",
    ]


def _shares_that_fit(configuration: Configuration) -> str:
    unit, most = configuration.unit, configuration.most
    values = f"{configuration.registers:g} registers of values a thread"
    full = f"at {configuration.full_registers} a thread {configuration.most_at_full} would fit"
    if most < 1:
        return f"not one {unit} fits; {values}"
    return f"{most} {unit}s fit, {configuration.tile} rows a block; {values}; {full}"


# --- throughput -----------------------------------------------------------------------------------


def throughput_lines(throughput: Throughput, tile: int, which: str = "") -> list[str]:
    """Return the clocks of a step by stage and pipeline, what binds, and the slack of the rest."""
    rows = [("stage", "over", "pipeline", "operations", "a clock", "clocks", "slack")]
    for each in throughput.stages:
        rows.append(
            (
                each.name,
                each.formula,
                each.pipeline.value,
                f"{each.operations:,.6g}",
                f"{each.rate:,.6g}",
                f"{each.clocks:.3g}",
                _slack(throughput, each.clocks),
            )
        )
    totals = [("pipeline", "clocks", "slack")]
    for pipeline, clocks in throughput.clocks.items():
        binds = "binds" if pipeline is throughput.bound_by else _slack(throughput, clocks)
        totals.append((pipeline.value, f"{clocks:.3g}", binds))
    return [
        f"throughput{which}: a thread's part of a step, in clocks of its unit",
        *_indented(aligned(rows)),
        "",
        *_indented(aligned(totals)),
        f"    a step takes {throughput.longest:.3g} clocks where warps take turns perfectly, "
        f"{throughput.overlapped:.3g} where one overlaps its own work, "
        f"{throughput.serial:.3g} where nothing overlaps",
        *_indented(_memory_lines(throughput, tile)),
    ]


def _slack(throughput: Throughput, clocks: float) -> str:
    if not clocks or throughput.slack(clocks) < _LEAST_SLACK:
        return _NOTHING
    slack = throughput.slack(clocks)
    return f"{slack:.0%}" if slack < _MOST_SLACK else "ample"


def _memory_lines(throughput: Throughput, tile: int) -> list[str]:
    lines = []
    if throughput.rows > 1:
        compute, moved = throughput.compute_seconds(tile), throughput.transfer_seconds(tile)
        least = throughput.least_tile
        rows = "at any number of rows" if isinf(least) else f"below {least:.1f} rows"
        loads = f"loads {duration(moved)} if L2 held nothing"
        lines.append(
            f"a step of {tile} rows: work {duration(compute)}, {loads}; memory binds {rows}"
        )
    if throughput.flops:
        lines.append(f"ideal {scaled(throughput.ideal, 'FLOP/s')}")
    return lines


# --- the ideal ------------------------------------------------------------------------------------


def ideal_lines(ideal: Ideal) -> list[str]:
    """Return the least of every level and pipeline, and what bounds them all."""
    rows = [("into", "from", "acts with", "transferred", "bytes", "held", "tiles", "time")]
    for each in ideal.levels:
        held = byte_size(round(each.held)) + ("" if each.fits else ", does not fit")
        tiles = ", ".join(f"{axis} {tile:.4g}" for axis, tile in each.tiles) or _NOTHING
        rows.append(
            (
                each.level,
                each.fed_by,
                byte_size(each.memory),
                f"{each.elements:,.0f}",
                scaled(each.bytes, "B"),
                held,
                tiles,
                _knownduration(each.seconds) if each.fits else _NOTHING,
            )
        )
    work = [("pipeline", "operations", "time")]
    for one in ideal.pipelines:
        if one.operations:
            operations = scaled(one.operations, "")
            work.append((one.pipeline.value, operations, _knownduration(one.seconds)))
    return [
        "least transfers into every level, tiled for its own memory (held: 1 KB is 1024 bytes)",
        *_indented(aligned(rows)),
        "",
        *_indented(aligned(work)),
        "",
        _bound_line(ideal),
    ]


def _bound_line(ideal: Ideal) -> str:
    if isinf(ideal.seconds):
        return "one kernel does not fit, and no rate is published that says what it would take"
    bound = f"as one kernel no faster than {duration(ideal.seconds)}, bound by {ideal.bound_by}"
    return bound + ("" if ideal.fits else "; but one kernel does not fit")


def _knownduration(seconds: float | None) -> str:
    return "no rate published" if seconds is None else duration(seconds)


# --- side by side ---------------------------------------------------------------------------------


def show_comparison(costs: Sequence[Cost]) -> str:
    """Return costs side by side, a column each: of several machines, or of several types."""
    first = costs[0]
    sizes = " ".join(f"{axis}={size}" for axis, size in first.sizes)
    figures: list[tuple[str, Callable[[Cost], str]]] = [
        ("type", lambda cost: cost.dtype),
        ("predicted", lambda cost: _if_ideal("at least ", cost) + duration(cost.seconds)),
        ("bound by", lambda cost: cost.bound_by),
        (
            "against the first",
            lambda cost: _ratio(first, cost),
        ),
        (
            "contractions",
            _contractions,
        ),
    ]
    levels = {each.level for cost in costs for each in cost.levels}
    for level in sorted(levels, key=_DEPTHS.index):
        figures.append((f"{level} bytes", partial(_level_bytes, level)))
    figures.append(("plan", _plan))
    rows = [("", *(cost.machine for cost in costs))]
    rows += [(name, *(figure(cost) for cost in costs)) for name, figure in figures]
    notes = [f"{cost.machine}, {cost.dtype}: {cost.note}" for cost in costs if cost.note]
    after = ["", *notes] if notes else []
    return "\n".join([f"{first.diagram}: {sizes}", "", *aligned(rows), *after])


def _contractions(cost: Cost) -> str:
    """Return the FLOPs a second; unknown where the time of a pipeline is left out."""
    if not cost.flops or cost.unrated:
        return _NOTHING
    return _if_ideal("at most ", cost) + scaled(cost.flops / cost.seconds, "FLOP/s")


def _if_ideal(words: str, cost: Cost) -> str:
    return "" if cost.kernels else words


def _ratio(first: Cost, cost: Cost) -> str:
    if isinf(first.seconds) or isinf(cost.seconds):
        return _NOTHING
    return f"{_ratio_words(first, cost)}{first.seconds / cost.seconds:.2f} x"


def _ratio_words(first: Cost, cost: Cost) -> str:
    return _if_ideal("at most ", cost) if first.kernels else ""


def _level_bytes(level: str, cost: Cost) -> str:
    found = [each.transfer_bytes for each in cost.levels if each.level == level]
    return scaled(found[0], "B") if found else _NOTHING


def _plan(cost: Cost) -> str:
    if not cost.kernels:
        return "any"
    if len(cost.kernels) > 1:
        return f"{len(cost.kernels)} kernels"
    plan = dict(cost.kernels[0].plan)
    tiles = [f"{axis} {one['tile']}" for axis, one in plan["axes"].items() if one["tile"] > 1]
    stages = "stage" if plan["stages"] == 1 else "stages"
    return f"{', '.join(tiles)}; {plan['warps']} warps, {plan['stages']} {stages}"


# --- units ----------------------------------------------------------------------------------------


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]
