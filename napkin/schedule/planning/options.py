"""Which of the cuts that were found is taken, once their kernels have forms.

In: what `find_cut` found, and the seconds of one kernel. Out: the kernels of the best cut, each in its form,
under their own names; None where one kernel takes no longer.

The search judges plain loops, of which there are hundreds; of the cuts that it took or passed, those are
looked at again that may be faster where warps have roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf

from napkin.schedule.forms.form import with_forms
from napkin.schedule.planning.cuts import Found, Option, total_seconds
from napkin.schedule.planning.hulls import with_hulls
from napkin.schedule.planning.search import WORTH
from napkin.schedule.planning.taken_in import taking_in
from napkin.schedule.program import Load, Loop
from napkin.schedule.roles.obstacles import place_of
from napkin.schedule.tiling.kernel import KernelPlan

_WORTH_APART = 1.1  # times as long as a cut in more kernels: their forms are predicted no better
# Where any order is asked for, adding may be predicted a little slower: two kernels over 1024 positions took
# 1.10 times as long as predicted, one 0.99 (docs/model.md).
_WORTH_ASKED = 0.96
_WORTH_ORDER = 1.09  # times as long as what adds up in no order: predictions say 1.10 of 1.104
_LEFT_BY_DATA = 0.25  # of a stream that values of rows bound, as is guessed where a number does


def best_kernels(
    found: Found, limit: float, deterministic: bool | None
) -> tuple[KernelPlan, ...] | None:
    """Return the kernels of the best cut in their forms, None if one kernel takes no longer: `limit` seconds.

    Sums are added up in memory where they may be and it is faster. Unless it is asked for, plain loops do not
    add: on an H200 they took 1.4 to 2.3 times as long as two kernels, and longer than predicted.
    """
    known = _Known()
    best = _best_in_order(found, limit, known)
    if best is not None:
        best = _with_taken_in(best, known)
    ordered = [each for each in (found.best, *found.apart, best) if each is not None]
    adding = [] if deterministic else list(found.adding)
    if deterministic is None:
        adding = [each for each in adding if not any(map(_adds_by_threads, known.kernels(each)))]
    leanest = min(adding, key=known.seconds_if_short, default=None)
    if leanest is not None:
        least = _WORTH_ASKED if deterministic is not None else _WORTH_ORDER
        in_order = min(map(known.seconds_if_short, ordered), default=inf)
        if in_order > least * known.seconds_if_short(leanest):
            best = leanest
    if best is None or known.seconds(best) >= limit:
        return None
    return known.named(best)


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


def _with_taken_in(best: Option, known: _Known) -> Option:
    """Return a cut with kernels that take in others, one after the other while that is faster."""
    joined = [(each, best.pieces.planned(each)) for each in taking_in(best.pieces, best.cut)]
    options = [Option(best.pieces, each, made) for each, made in joined if isinstance(made, tuple)]
    fastest = min(options, key=known.seconds, default=best)
    if known.seconds(fastest) >= known.seconds(best):
        return best
    return _with_taken_in(fastest, known)


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

    def named(self, option: Option) -> tuple[KernelPlan, ...]:
        """Return a cut's kernels in their forms, under their own names."""
        pairs = zip(bounded(option.kernels), bounded(option.planned), strict=True)
        return tuple(self._named(own, planned) for own, planned in pairs)

    def _named(self, own: KernelPlan, planned: KernelPlan) -> KernelPlan:
        """Return a kernel in its form, by that of one which may differ from it in its own name alone."""
        _, formed = self._formed.get(id(planned), (None, None))
        name = own.program.name
        is_alike = replace(planned.program, name=name) == own.program
        if formed is None or formed.stead is not None or not is_alike:
            return with_forms([own], by_hand=False)[0]
        form = formed.form
        if form is not None:
            program = replace(form.warps.program, name=name)
            form = replace(form, warps=replace(form.warps, program=program))
        program = replace(formed.program, name=name)
        return replace(formed, derivation=own.derivation, program=program, form=form)

    def seconds(self, option: Option) -> float:
        """Return the seconds of a cut's kernels in their forms."""
        return total_seconds(self.kernels(option))

    def seconds_if_short(self, option: Option) -> float:
        """Return the same, of streams that values of rows bound only what these are guessed to leave.

        What adds up in memory clears that and reads it once more however short streams are.
        """
        kernels = self.kernels(option)
        bound = sum(each.expected.seconds for each in kernels if _is_bound_by_data(each))
        return total_seconds(kernels) - (1 - _LEFT_BY_DATA) * bound


def _is_bound_by_data(kernel: KernelPlan) -> bool:
    program = kernel.printed
    loops = any(isinstance(op, Loop) for op in program.operations)
    return loops and any(isinstance(op, Load) for op in place_of(program))


def _adds_by_threads(kernel: KernelPlan) -> bool:
    return kernel.form is None and bool(kernel.program.accumulated)


def bounded(kernels: Sequence[KernelPlan]) -> tuple[KernelPlan, ...]:
    """Return the kernels with those before them, and those that find the hulls of their masks."""
    taken = {array.name for each in kernels for array in each.program.outputs}
    found: list[KernelPlan] = []
    for each in kernels:
        found += each.before
        made = with_hulls(each, taken)
        taken |= {array.name for one in made for array in one.program.outputs}
        found += made
    return tuple(found)
