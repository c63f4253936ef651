"""Why a plan is what it is, in words: what it was chosen from, why it wins, what the runner-up lacks.

In: a `Plan`. Out: lines for each of its kernels, and the table of the ranked plans. Every sentence is
derived: the gap between two predictions is parted by what they are made of, and each part is explained by
whichever figure of the two kernels differs the right way. No diagram, axis or array is known here by name.

Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from napkin.schedule.forms.form import with_forms
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.planning.plan import Plan, relabelling_for
from napkin.schedule.program import AxisRole
from napkin.schedule.tiling.figures import CONTRACTIONS, Figures, figures_of
from napkin.schedule.tiling.kernel import (
    REGISTERS,
    SHARED_MEMORY,
    KernelPlan,
    Ranking,
    rank_kernels,
)
from napkin.schedule.units import duration, listed, table

_TIE = 1.002  # predictions that are nearer to each other say nothing
_WORTH_SAYING = 0.15  # of the gap between two plans
_MORE = 1.05  # figures that are nearer to each other explain nothing


@dataclass(frozen=True, slots=True)
class Choice:
    """A kernel beside all that it was chosen from, the fastest predicted first, by plain loop and form."""

    kernel: KernelPlan
    ranking: Ranking
    by_hand: bool

    @property
    def ranked(self) -> tuple[KernelPlan, ...]:
        """The ranked plans, with the best one's other form before it if it has one.

        Rings that are deeper than those of a plan before, and gain nothing by it, make no plan of their own.
        """
        formed = with_forms(self.ranking.kernels[:1], by_hand=False)
        found = [each for each in formed if each.form is not None or each.loop is not None]
        depths: dict[tuple[object, int], int] = {}
        for each in self.ranking.kernels:
            before = depths.setdefault((_tiles(each), each.warps), each.stages)
            if each.stages <= before:
                found.append(each)
        return tuple(found)

    @property
    def rivals(self) -> tuple[KernelPlan, ...]:
        """The runner-up, and the best of the plans with tiles of their own if it has the same tiles."""
        others = [each for each in self.ranked if not _is_same(each, self.kernel)]
        if self.by_hand:
            return tuple(others[:1])
        apart = [each for each in others if _tiles(each) != _tiles(self.kernel)]
        found = [*others[:1], *(each for each in apart[:1] if each is not others[0])]
        return tuple(found)


def choices_of(plan: Plan) -> tuple[Choice, ...]:
    """Return every kernel of a plan with what it was chosen from."""
    by_hand = relabelling_for(plan.diagram, plan.machine) is not None
    return tuple(
        Choice(
            each,
            rank_kernels(each.derivation, plan.machine, dict(each.sizes), each.dtype),
            by_hand,
        )
        for each in plan.kernels
    )


# --- words ----------------------------------------------------------------------------------------


def choice_lines(choice: Choice) -> list[str]:
    """Return what a kernel was chosen from, what its time is made of, and what the others lack."""
    own = figures_of(choice.kernel)
    lines = [_chosen_from(choice), _made_of(own)]
    if own.read:
        lines.append(_reads(choice.kernel, own))
    equal = [each for each in choice.ranked if each.expected.seconds <= _TIE * own.seconds]
    if not choice.by_hand and len(equal) > 2:
        return [
            *lines,
            f"{len(equal)} plans are predicted to be as fast, bound by {own.bound_by}: "
            "the first of them is taken",
        ]
    for number, rival in enumerate(choice.rivals):
        who = "left to choose, napkin takes" if choice.by_hand else "the runner-up,"
        if number:
            who = "the best of other tiles,"
        other = figures_of(rival)
        lines.append(f"{who} {_named(rival, choice.kernel)}: {_how_long(own, other)}")
        lines += [f"    {reason}" for reason in _reasons(own, other)]
    return lines


def _chosen_from(choice: Choice) -> str:
    found, limits = choice.ranking, choice.kernel.machine.limits
    rooms = {
        SHARED_MEMORY: f"more shared memory than the {limits.shared_per_block // 1024} KB of a block",
        REGISTERS: f"more than the {limits.registers_per_thread} registers of a thread and would spill",
    }
    pruned = [
        f"{count:,} {'needs' if count == 1 else 'need'} {rooms[name]}"
        for name, count in found.pruned
    ]
    if found.considered == 1:
        return "the only plan that there is"
    fit = f"{len(found.kernels):,} fit" if pruned else "all fit"
    word = "fixed by hand; there are" if choice.by_hand else "chosen from"
    return f"{word} {found.considered:,} plans: {', '.join([fit, *pruned])}"


def _made_of(own: Figures) -> str:
    parts = [
        f"{name} {duration(seconds)}"
        for name, seconds in own.parts.items()
        if seconds >= 0.001 * own.seconds
    ]
    alone = (
        f"L2 alone would take {duration(own.l2_seconds)}, DRAM alone {duration(own.dram_seconds)}"
    )
    return f"{duration(own.seconds)}: {', '.join(parts) or own.bound_by}; {alone}"


def _reads(kernel: KernelPlan, own: Figures) -> str:
    """Return how often every array is read, counted in its own size, and how often from memory."""
    often, from_memory = _how_often(kernel, own.read), _how_often(kernel, dict(own.traffic.read))
    return f"reads {often}; from memory {from_memory}"


def _how_often(kernel: KernelPlan, read: Mapping[str, float]) -> str:
    sizes = dict(kernel.sizes)
    times: dict[str, list[str]] = {}
    for each in kernel.printed.arrays:
        if each.name in read:
            whole = prod(sizes[axis] for axis in each.axes) * TYPE_BYTES[each.dtype]
            times.setdefault(_times(read[each.name] / whole), []).append(each.name)
    if len(times) == 1:
        return f"{'each ' if len(read) > 1 else ''}{next(iter(times))}"
    return ", ".join(f"{listed(names)} {word}" for word, names in times.items())


def _how_long(own: Figures, other: Figures) -> str:
    if max(own.seconds, other.seconds) <= _TIE * min(own.seconds, other.seconds):
        return "as fast"
    return f"{duration(other.seconds)}, {other.seconds / own.seconds:.2f} times as long"


def _named(kernel: KernelPlan, beside: KernelPlan) -> str:
    """Return a plan by what tells it from another."""
    warps = kernel.warps if kernel.form is None else kernel.form.warps.warps
    stages = kernel.stages if kernel.form is None else kernel.form.warps.stages
    form = "warp-specialised" if kernel.form is not None else ""
    if kernel.form is None and beside.form is not None:
        form = "a plain loop"
    if kernel.loop is None and beside.loop is not None:
        form = "Triton's own loop"
    how = f"{warps} warps, {stages} {'stage' if stages == 1 else 'stages'}"
    if _tiles(kernel) == _tiles(beside):
        return f"{form or 'the same tiles'} with {how}"
    tiles = ", ".join(
        f"{each.axis} {each.tile}"
        for each in kernel.printed.axes
        if each.tile > 1 and each.role is not AxisRole.WHOLE
    )
    return f"{form + ' of ' if form else ''}tiles {tiles or 'of 1'} ({how})"


# --- reasons --------------------------------------------------------------------------------------


def _reasons(own: Figures, other: Figures) -> Iterator[str]:
    """Yield where the time between two plans goes, the largest part first, then what makes up for it."""
    gap = other.seconds - own.seconds
    names = dict.fromkeys((*own.parts, *other.parts))
    gaps = {name: other.parts.get(name, 0.0) - own.parts.get(name, 0.0) for name in names}
    for name in sorted(gaps, key=lambda each: -gaps[each] if gap >= 0 else gaps[each]):
        if abs(gaps[name]) >= max(_WORTH_SAYING * abs(gap), (_TIE - 1) * own.seconds):
            more = "more" if gaps[name] > 0 else "less"
            why = _cause(name, own, other, is_more=gaps[name] > 0)
            yield f"{duration(abs(gaps[name]))} {more} of {name}{why}"
    yield from _traffic(own, other)
    if other.bound_by != own.bound_by:
        yield f"it is bound by {other.bound_by}, not by {own.bound_by}"


def _cause(part: str, own: Figures, other: Figures, *, is_more: bool) -> str:
    """Return why a part of the time differs, by the first figure that differs the right way."""
    few, many = (own, other) if is_more else (other, own)
    causes: dict[str, tuple[Callable[[], str | None], ...]] = {
        CONTRACTIONS: (
            lambda: _work("contracts", own.tensor, other.tensor, many.tensor > _MORE * few.tensor),
            lambda: _idle(own, other, many.full * _MORE < few.full),
            lambda: _roles(other, few, many, "other work") if few.tensor_share > 1 else None,
            lambda: _rate(own, other, 0 < many.tensor_share * 1.02 < few.tensor_share <= 1),
        ),
        "other arithmetic": (
            lambda: _roles(other, few, many, CONTRACTIONS),
            lambda: _work("computes", own.vector, other.vector, many.vector > _MORE * few.vector),
            lambda: _beside(own, other, few, many),
            lambda: _idle(own, other, many.full * _MORE < few.full),
        ),
        "starting": (
            lambda: _groups(own, other, many.groups > _MORE * few.groups),
            lambda: _beside(own, other, few, many),
        ),
        "waiting": (
            lambda: _roles(other, few, many, CONTRACTIONS),
            lambda: _steps(own, other, few, many),
            lambda: _rings(own, other, many.stages < few.stages),
            lambda: _beside(own, other, few, many),
        ),
    }
    found = (each() for each in causes.get(part, ()))
    return next((f": {each}" for each in found if each is not None), "")


def _work(verb: str, own: int, other: int, holds: bool) -> str | None:
    return f"it {verb} {other / own:.2f} times as much" if holds and own else None


def _groups(own: Figures, other: Figures, holds: bool) -> str | None:
    return f"it has {other.groups:,} groups, not {own.groups:,}" if holds else None


def _idle(own: Figures, other: Figures, holds: bool) -> str | None:
    if not holds:
        return None
    return f"its groups keep {other.full:.0%} of the machine at work, not {own.full:.0%}"


def _rate(own: Figures, other: Figures, holds: bool) -> str | None:
    if not holds:
        return None
    rates = f"{other.tensor_share:.0%} of the tensor cores' rate, not {own.tensor_share:.0%}"
    if own.rows == other.rows:
        return f"its contractions reach {rates}"
    return f"its contractions have {other.rows} rows, not {own.rows}, and reach {rates}"


def _roles(other: Figures, few: Figures, many: Figures, beside: str) -> str | None:
    """Return what hides less work beside other work: no roles."""
    if not few.is_specialised or many.is_specialised:
        return None
    if many is other:
        return f"its warps all do the same, so less of it runs beside {beside}"
    return f"its warps have roles, so more of it runs beside {beside}"


def _beside(own: Figures, other: Figures, few: Figures, many: Figures) -> str | None:
    """Return what hides less work beside other work: fewer blocks, fewer warps."""
    word = "less" if many is other else "more"
    if few.is_specialised != many.is_specialised:
        return None
    if many.blocks < few.blocks:
        return f"{_blocks(other.blocks)} on a unit, not {own.blocks}, so {word} of it is hidden"
    if many.warps < few.warps:
        return f"{other.warps} warps, not {own.warps}, so {word} of it is hidden"
    return None


def _blocks(count: int) -> str:
    return "one block" if count == 1 else f"{count} blocks"


def _steps(own: Figures, other: Figures, few: Figures, many: Figures) -> str | None:
    axis = other.stream
    if axis is None or many.tiles.get(axis, 0) >= few.tiles.get(axis, 0):
        return None
    return f"it walks {axis} in chunks of {other.tiles[axis]}, not {own.tiles[axis]}"


def _rings(own: Figures, other: Figures, holds: bool) -> str | None:
    return f"its rings have {other.stages} stages, not {own.stages}" if holds else None


def _traffic(own: Figures, other: Figures) -> Iterator[str]:
    """Yield what the other plan reads more or less often, what its tiles do to reuse, and L2's time."""
    often: dict[str, list[str]] = {}
    for name, size in other.read.items():
        before = own.read.get(name, size)
        ratio = size / before if before else 1.0
        if not 1 / _MORE < ratio < _MORE:
            often.setdefault(_times(ratio), []).append(name)
    if not often:
        return
    reads = ", ".join(f"{listed(names)} {word} as often" for word, names in often.items())
    tiles = [
        f"{other.tiles[axis]} of {axis} (not {tile})"
        for axis, tile in own.tiles.items()
        if axis != other.stream and other.tiles.get(axis, tile) != tile
    ]
    why = f", since a load serves {listed(tiles)}" if tiles else ""
    took = f"{duration(other.l2_seconds)}, not {duration(own.l2_seconds)}"
    yield f"it reads {reads}{why}: L2 alone would take {took}"


def _times(count: float) -> str:
    words = {0.25: "a quarter", 0.5: "half", 1.0: "once", 2.0: "twice"}
    rounded = round(count, 2)
    return words.get(rounded, f"{rounded:g} times")


# --- the ranked plans -----------------------------------------------------------------------------


def ranked_table(choice: Choice, most: int) -> list[str]:
    """Return the first plans in order: tiles, warps, stages, needs, predicted time, what bounds them."""
    rows = [
        ("", "tiles", "warps", "stages", "shared", "registers", "predicted", "of best", "bound by")
    ]
    ranked = choice.ranked[:most]
    for number, each in enumerate(ranked, 1):
        form = each.form
        tiles = " ".join(f"{a.axis}:{a.tile}" for a in each.printed.axes if a.tile > 1)
        said = each.expected
        rows.append(
            (
                str(number),
                tiles + _form_words(each),
                str(each.warps if form is None else form.warps.warps),
                str(each.stages if form is None else form.warps.stages),
                f"{said.shared_bytes / 1024:.1f} KB",
                str(said.registers),
                duration(said.seconds),
                f"{said.seconds / ranked[0].expected.seconds:.3f}",
                said.bound_by,
            )
        )
    return table(rows, left=(1,))


def _form_words(kernel: KernelPlan) -> str:
    if kernel.loop is not None:
        return ", operands in shared memory"
    return "" if kernel.form is None else ", warp-specialised"


# --- which plan is which --------------------------------------------------------------------------


def _tiles(kernel: KernelPlan) -> tuple[tuple[str, int], ...]:
    return tuple((each.axis, each.tile) for each in kernel.printed.axes)


def _is_same(one: KernelPlan, other: KernelPlan) -> bool:
    return (_tiles(one), one.warps, one.stages, one.form is None, one.loop is None) == (
        _tiles(other),
        other.warps,
        other.stages,
        other.form is None,
        other.loop is None,
    )
