"""The search for cuts: from the one that keeps every array worth keeping, a step at a time.

In: a diagram's `Pieces`. Out: cuts. The first one's kernels are as simple as can be. A step takes back what
it pays most to compute again, or lets one kernel give what two gave, if they share work: fusion, judged by
the plans of the kernels themselves. A last step may join two kernels whose sums are over two axes, so that
some are added up in memory; since no order is kept there, it is told apart. What is kept takes memory, so its
traffic counts beside that of the kernels, which hides it. The number of boxes planned is bounded, and so is
the search; what it finds depends on nothing but its arguments.

Deliberately absent: cuts in space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, islice
from math import inf
from sys import maxsize

from napkin.diagram import Box, Reduce, topological
from napkin.model.roles import is_contraction
from napkin.schedule.planning.cut_steps import Cut, joined_by_adding, read_apart
from napkin.schedule.planning.pieces import LAUNCH_S, Pieces, Refused

_MOST_BOXES = 1000  # of all pieces planned: some seconds
_MOST_JOINED = 4  # kernels, by adding up sums
_MOST_CUTS = 100  # that join some so
_NO_LIMIT = (maxsize, inf)
# Of the time of one kernel: predictions err by a quarter, and what is kept takes memory.
WORTH = 0.8


class Search:
    """Looks for cuts of one diagram; `passed` are those that its steps led to."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.diagram = pieces.diagram
        self.passed: list[Cut] = []
        self._contracted: dict[frozenset[int], frozenset[int]] = {}

    def best_of(self, points: Sequence[int]) -> Cut:
        """Return the best cut that keeps nothing larger than the diagram's arrays, or a far better one.

        A kernel that keeps scores or weights for the next may be as fast, but a long sequence has no memory
        for them.
        """
        elements = self.pieces.elements
        largest = max(
            *(elements(each.axes) for each in self.diagram.arguments),
            *(elements(each.axes) for each in self.diagram.outputs),
        )
        boxes = self.diagram.boxes
        small = [each for each in points if elements(boxes[each].axes) <= largest]
        large = [each for each in points if each not in small]
        if not large or not small:
            return self.best(Cut(frozenset(points)))
        lean = self.best(Cut(frozenset(small)))
        misfits, seconds = self._cost(lean)
        least = self.pieces.least(self.diagram) + min(map(self.pieces.passing_seconds, large))
        if not misfits and least > WORTH * seconds:
            return lean  # to keep more would take as long by itself
        passed, self.passed = self.passed, []
        free = self.best(Cut(frozenset(points)))
        least, fastest = self._cost(free)
        if misfits <= least and fastest > WORTH * seconds:
            self.passed = passed
            return lean
        return free

    def best(self, chosen: Cut) -> Cut:
        """Take one step after the other, whichever saves most, while one does."""
        cost = self._cost(chosen)
        limit = self.pieces.boxes_planned + _MOST_BOXES // 2
        self.passed.append(chosen)
        while self.pieces.boxes_planned < limit:
            best, least = chosen, cost
            steps = self._steps(chosen)
            hoped = [(self._hope(each), place) for place, each in enumerate(steps)]
            for hope, place in sorted(hoped):
                if hope < least:
                    found = self._cost(steps[place], least)
                    best, least = (steps[place], found) if found < least else (best, least)
            if best == chosen:
                break
            chosen, cost = best, least
            self.passed.append(chosen)
        return chosen

    def apart(self, chosen: Cut) -> list[Cut]:
        """Return the cut in which no kernel computes for others what it gives, and those with a pair joined.

        As plain loops two kernels may be worth less as one, and yet have a form together.
        """
        chosen = chosen.with_all(frozenset(each.box for each in self.diagram.outputs))
        found = read_apart(self.diagram.boxes, chosen)
        if not self.pieces.of(found):
            return []
        return [each for each in (found, *self._joined(found)) if each != chosen]

    def adding(self, chosen: Cut) -> list[Cut]:
        """Return cuts that are one step from another and add up sums in memory: the best, the leanest.

        Those with the least work may be far from it as plain loops, and yet win where warps have roles: by
        the axes that the contractions which are added up sum.
        """
        chosen = chosen.with_all(frozenset(each.box for each in self.diagram.outputs))
        groups = chosen.groups
        cuts = (
            each
            for count in range(2, min(len(groups), _MOST_JOINED) + 1)
            for joined in combinations(groups, count)
            if all(self._share(*pair) for pair in combinations(joined, 2))
            for each in joined_by_adding(self.diagram.boxes, chosen, joined)
        )
        known = dict(enumerate(each for each in islice(cuts, _MOST_CUTS) if self.pieces.of(each)))
        limit = self.pieces.boxes_planned + _MOST_BOXES
        leanest = self._leanest(known)
        found = {number: self._cost(known[number]) for number in leanest}
        for hope, number in sorted((self._hope(each), number) for number, each in known.items()):
            least = min(found.values(), default=_NO_LIMIT)
            if hope < least and self.pieces.boxes_planned < limit:
                found[number] = self._cost(known[number], least)
        fitting = sorted((cost, number) for number, cost in found.items() if not cost[0])
        return [known[each] for each in dict.fromkeys([*(n for _, n in fitting[:1]), *leanest])]

    def _leanest(self, cuts: Mapping[int, Cut]) -> list[int]:
        """Return the cuts of the least work that fit, one for each choice of axes that contractions sum."""
        work = {
            number: self.pieces.least_seconds(each)
            for number, each in cuts.items()
            if all(_is_contraction(self.diagram.boxes, box) for box, _ in each.added)
        }
        found: dict[frozenset[tuple[str, ...]], int] = {}
        for number in sorted(work, key=lambda each: work[each]):
            axes = frozenset(each for _, each in cuts[number].added)
            is_lean = WORTH * work[number] <= min(work.values())
            if is_lean and axes not in found and self._cost(cuts[number], (1, 0.0)) < (1, 0.0):
                found[axes] = number
        return list(found.values())

    def may_beat(self, chosen: Cut, limit: float) -> bool:
        """Return whether a cut could take less, if it contracts nothing and reads no argument twice.

        One load for several uses is what a fused kernel is there for: latent attention took 0.358 ms in
        one kernel and 0.373 ms in two that each read the shared array (an H200).
        """
        pieces = self.pieces.of(chosen)
        read = [each.name for one in pieces for each in one.diagram.arguments if each.dims]
        own = {each.name for each in self.diagram.arguments}
        if any(read.count(name) > 1 for name in own):
            return False
        (whole,) = self.pieces.of(Cut(frozenset()))
        work = sum(each.work for each in pieces)
        return work <= whole.work and self.pieces.least_seconds(chosen) < limit

    # --- steps and their costs ----------------------------------------------------------------------

    def _steps(self, chosen: Cut) -> list[Cut]:
        """Return the cuts one step away: a box taken back, or two kernels joined."""
        steps = (
            [chosen.without(each) for each in sorted(chosen.kept)] if len(chosen.kept) > 1 else []
        )
        return [*steps, *self._joined(chosen)]

    def _joined(self, chosen: Cut) -> list[Cut]:
        """Return the cuts in which one kernel gives what two gave that share work."""
        pairs = combinations(chosen.groups, 2)
        joined = (chosen.joined(*pair) for pair in pairs if self._share(*pair))
        return [each for each in joined if self.pieces.of(each)]

    def _share(self, one: frozenset[int], other: frozenset[int]) -> bool:
        """Return whether what two kernels give has a contraction in common that both compute."""
        return bool(self._contractions(one) & self._contractions(other))

    def _contractions(self, roots: frozenset[int]) -> frozenset[int]:
        if roots not in self._contracted:
            boxes = self.diagram.boxes
            needed = topological(boxes, sorted(roots))
            found = frozenset(each for each in needed if _is_contraction(boxes, each))
            self._contracted[roots] = found
        return self._contracted[roots]

    def _cost(self, chosen: Cut, limit: tuple[int, float] = _NO_LIMIT) -> tuple[int, float]:
        """Return how badly a cut's pieces fit, and the seconds of those that do.

        Where that is no less than a limit, something between the two may be returned as soon as it shows.
        """
        pieces = self.pieces.of(chosen)
        for piece in pieces:
            self.pieces.derive(piece)
        for piece in pieces:
            hope = self._hope(chosen)
            if hope >= limit:
                return hope
            self.pieces.plan(piece)
        return self._hope(chosen)

    def _hope(self, chosen: Cut) -> tuple[int, float]:
        """Return what a cut costs at least, by the plans and derivations that are known already.

        An output that no plan gives weighs most; a kernel that is made for one length of a long axis, where
        another cut serves every length, weighs a little.
        """
        pieces = self.pieces.of(chosen)
        misfits, seconds = 0, 0.0
        for piece in pieces:
            plan = piece.alike.plan
            if isinstance(plan, Refused) or self.pieces.needs_length(piece):
                misfits += _MOST_BOXES * len(piece.diagram.outputs)
                continue
            seconds += LAUNCH_S
            seconds += piece.least if plan is None else plan.prediction.seconds
            misfits += self.pieces.is_fixed(piece)
        return misfits, seconds + self.pieces.price(pieces)


def _is_contraction(boxes: Sequence[Box], each: int) -> bool:
    box = boxes[each]
    return isinstance(box, Reduce) and is_contraction(boxes, box.operands, box.over)
