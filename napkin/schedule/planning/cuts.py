"""Where to cut a diagram: the kept arrays whose kernels take the least time together.

In: a diagram, a machine, lengths, a storage type, and what its one kernel is predicted to take, if it
fits. Out: the best cut that was found, as plain loops, and those that other forms may make better; or what
did not fit. Kernels get their own names when a cut is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from napkin.diagram import Diagram
from napkin.schedule.planning.cut_steps import Cut
from napkin.schedule.planning.pieces import LAUNCH_S, Pieces, Refused, Setting
from napkin.schedule.planning.points import cut_points
from napkin.schedule.planning.search import WORTH, Search
from napkin.schedule.tiling.kernel import KernelPlan

__all__ = ["LAUNCH_S", "Found", "Option", "Refused", "Setting", "find_cut", "total_seconds"]


def total_seconds(kernels: Sequence[KernelPlan]) -> float:
    """Return the seconds of kernels that run in turn."""
    gaps = (len(kernels) - 1) * LAUNCH_S
    return sum(each.expected.seconds for each in kernels) + gaps


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """A cut, with the plain loops of its pieces, whatever their names; alike pieces share one."""

    pieces: Pieces
    cut: Cut
    planned: tuple[KernelPlan, ...]

    @property
    def price(self) -> float:
        """The seconds in which what is kept is written and read, as if nothing hid them."""
        return self.pieces.price(self.pieces.of(self.cut))

    @property
    def least(self) -> float:
        """The seconds that it takes at least in any forms: only contractions have others."""
        pieces = self.pieces.of(self.cut)
        took = (
            each.least if each.work else plan.prediction.seconds
            for each, plan in zip(pieces, self.planned, strict=True)
        )
        return sum(took) + (len(pieces) - 1) * LAUNCH_S

    @property
    def kernels(self) -> tuple[KernelPlan, ...]:
        """The plain loops under their own names, their laws checked."""
        return self.pieces.named(self.cut)


@dataclass(frozen=True, slots=True)
class Found:
    """Cuts of a diagram: the best one as plain loops, if that is worth it, and others for other forms.

    `passed` are those that the search went through on its way, `apart` is one step from the best; `adding`
    add up sums in memory, all others sum in order.
    """

    best: Option | None
    apart: tuple[Option, ...]
    passed: tuple[Option, ...]
    adding: tuple[Option, ...]


def find_cut(
    diagram: Diagram,
    setting: Setting,
    one: KernelPlan | None,
    *,
    adds: bool = True,
    otherwise: float = inf,
) -> Found | Refused | None:
    """Return cuts that are worth looking at; `one` is the diagram's one kernel, if it fits.

    Uncut the diagram takes `otherwise` seconds, that kernel's own or less where its stream is in segments.
    None if no cut is beside that kernel, or there is nothing to cut; `Refused` if a piece fits
    in no way. Cuts with sums that are added up in memory are looked for if it `adds`.
    """
    pieces = Pieces(diagram, setting)
    search = Search(pieces)
    points, limit = cut_points(diagram), inf
    if one is not None:
        limit = WORTH * min(one.prediction.seconds, otherwise)
        points = tuple(each for each in points if search.may_beat(Cut(frozenset({each})), limit))
    if not points:
        return None
    chosen = search.best_of(points)
    planned = pieces.planned(chosen)
    if isinstance(planned, Refused):
        return planned if one is None else None
    others = [each for each in dict.fromkeys(search.passed) if each != chosen]
    passed = _options(pieces, [each for each in others if _is_cut(search, each, limit)])
    if not _is_cut(search, chosen, limit) or total_seconds(planned) >= limit:
        return Found(None, (), passed, ()) if passed else None
    best = Option(pieces, chosen, planned)
    apart = _options(pieces, search.apart(chosen))
    adding = _options(pieces, search.adding(chosen) if adds else [])
    return Found(best, apart, passed, adding)


def _is_cut(search: Search, chosen: Cut, limit: float) -> bool:
    """Return whether a cut has several kernels, and may take less than the one kernel if there is one."""
    return len(search.pieces.of(chosen)) > 1 and (limit == inf or search.may_beat(chosen, limit))


def _options(pieces: Pieces, cuts: Sequence[Cut]) -> tuple[Option, ...]:
    """Return the cuts whose pieces all fit."""
    found = ((each, pieces.planned(each)) for each in cuts)
    return tuple(Option(pieces, each, made) for each, made in found if isinstance(made, tuple))
