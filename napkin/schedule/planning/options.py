"""Which of the cuts that were found is taken, once their kernels have forms.

In: what `find_cut` found, and the seconds of one kernel. Out: the kernels of the best cut, each in its form,
under their own names; None where one kernel takes no longer.

The search judges plain loops, of which there are hundreds; of the cuts that it took or passed, those are
looked at again that may be faster where warps have roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf

from napkin.schedule.forms.form import with_forms
from napkin.schedule.planning.cuts import Found, Option, total_seconds
from napkin.schedule.planning.hulls import with_hulls
from napkin.schedule.planning.search import WORTH
from napkin.schedule.tiling.kernel import KernelPlan

_WORTH_APART = 1.1  # times as long as a cut in more kernels: their forms are predicted no better
_WORTH_ORDER = 1.09  # times as long as what adds up in no order: predictions say 1.10 of 1.104


def best_kernels(
    found: Found, limit: float, deterministic: bool | None
) -> tuple[KernelPlan, ...] | None:
    """Return the kernels of the best cut in their forms, None if one kernel takes no longer: `limit` seconds.

    Sums are added up in memory where they may be and it is faster. Unless it is asked for, plain loops do not
    add: on an H200 they took 1.4 to 2.3 times as long as two kernels, and longer than predicted.
    """
    known = _Known()
    best = _best_in_order(found, limit, known)
    ordered = [each for each in (found.best, *found.apart, best) if each is not None]
    seconds = min(map(known.seconds, ordered), default=inf)
    adding = [] if deterministic else list(found.adding)
    if deterministic is None:
        adding = [each for each in adding if not any(map(_adds_by_threads, known.kernels(each)))]
    leanest = min(adding, key=known.seconds, default=None)
    least = _WORTH_ORDER if deterministic is None else 1.0
    if leanest is not None and seconds > least * known.seconds(leanest):
        best = leanest
    if best is None or known.seconds(best) >= limit:
        return None
    return with_forms(bounded(best.kernels), by_hand=False)


def _best_in_order(found: Found, limit: float, known: _Known) -> Option | None:
    """Return the cut that is best as plain loops, or one that other forms make better.

    One in more kernels has to be better by a tenth, and so has one that keeps other arrays, whose memory
    counts as in the search. If none is best as plain loops, one that is worth it beside so many seconds of
    one kernel.
    """
    best = found.best
    if best is not None:
        best = min((best, *found.apart), key=partial(_weighed, best=best, known=known))
    most = WORTH * limit
    if best is not None:
        most = (known.seconds(best) + best.price) / _WORTH_APART
    for each in found.passed:
        if each.least + each.price < most and known.seconds(each) + each.price < most:
            best, most = each, known.seconds(each) + each.price
    return best


def _weighed(each: Option, best: Option, known: _Known) -> float:
    """Return a cut's seconds, a tenth more if it has more kernels than the best one as plain loops."""
    has_more = len(each.planned) > len(best.planned)
    return known.seconds(each) * (_WORTH_APART if has_more else 1.0)


class _Known:
    """The kernels of cuts in their forms, whatever their names: those that cuts share are formed once."""

    def __init__(self) -> None:
        self._formed: dict[int, tuple[KernelPlan, KernelPlan]] = {}

    def kernels(self, option: Option) -> tuple[KernelPlan, ...]:
        """Return a cut's kernels in their forms."""
        kernels = bounded(option.planned)
        for each in kernels:
            if id(each) not in self._formed:  # what is kept alive keeps its identity
                (formed,) = with_forms([each], by_hand=False)
                self._formed[id(each)] = each, formed
        return tuple(self._formed[id(each)][1] for each in kernels)

    def seconds(self, option: Option) -> float:
        """Return the seconds of a cut's kernels in their forms."""
        return total_seconds(self.kernels(option))


def _adds_by_threads(kernel: KernelPlan) -> bool:
    return kernel.form is None and bool(kernel.program.accumulated)


def bounded(kernels: Sequence[KernelPlan]) -> tuple[KernelPlan, ...]:
    """Return the kernels with those before them that find the hulls of their masks."""
    taken = {array.name for each in kernels for array in each.program.outputs}
    found: list[KernelPlan] = []
    for each in kernels:
        made = with_hulls(each, taken)
        taken |= {array.name for one in made for array in one.program.outputs}
        found += made
    return tuple(found)
