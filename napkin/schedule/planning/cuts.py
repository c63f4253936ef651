"""Where to cut a diagram: the kept arrays whose kernels take the least time together.

In: a diagram, a machine, lengths, a storage type, and what its one kernel is predicted to take, if it
fits. Out: the kernels of the best cut that was found, or what did not fit.

The search starts from the cut that keeps every array worth keeping, where each kernel is as simple as can
be. One step after the other it takes back what it pays most to compute again, or lets one kernel give what
two gave, if they share work: fusion, judged by the plans of the kernels themselves. A last step may join two
kernels whose sums are over two axes, so that some are added up in memory; since no order is kept there, it is
told apart. What is kept takes
memory, so its traffic counts beside that of the kernels, which hides it. Pieces that are equal but for names
are planned once. The number of boxes planned is bounded, and so is the search; what it finds depends on
nothing but its arguments.

Deliberately absent: cuts in space.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from math import inf, prod
from sys import maxsize

from napkin.algebra.cut import cut, stored_types
from napkin.algebra.derive import SMALL, Derivation, checked, sketch
from napkin.diagram import STORAGE_BYTES, Box, Diagram, Reduce, topological
from napkin.machine import Machine
from napkin.model.roles import is_contraction
from napkin.operators import Pipeline
from napkin.schedule.layout import argument_arrays, output_arrays
from napkin.schedule.planning.anonymous import anonymous
from napkin.schedule.planning.cut_steps import Cut, joined_by_adding, read_apart
from napkin.schedule.planning.points import cut_points
from napkin.schedule.program import Array
from napkin.schedule.tiling.kernel import KernelPlan, best_kernel, storage_types

LAUNCH_S = 1e-6  # from one kernel's end to the next one's start, beside the launch that each prediction has
_MOST_BOXES = 1000  # of all pieces planned: some seconds
_REACHED = 0.8  # of the tensor cores' rate: no kernel is predicted to do better
_MOST_JOINED = 4  # kernels, by adding up sums
_MOST_CUTS = 100  # that join some so
_NO_LIMIT = (maxsize, inf)
# Of the time of one kernel: predictions err by a quarter, and what is kept takes memory.
_WORTH = 0.8


@dataclass(frozen=True, slots=True)
class Refused:
    """A piece of which no tiling fits, and the kernel that was nearest to it."""

    piece: Diagram
    tightest: KernelPlan | None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a search is for: lengths of all axes, those that the user gave, the machine and type."""

    machine: Machine
    lengths: Mapping[str, int]
    given: Collection[str]
    dtype: str


def total_seconds(kernels: Sequence[KernelPlan]) -> float:
    """Return the seconds of kernels that run in turn."""
    gaps = (len(kernels) - 1) * LAUNCH_S
    return sum(each.expected.seconds for each in kernels) + gaps


@dataclass(frozen=True, slots=True)
class Found:
    """The kernels of the best cut as plain loops, and those of cuts that other forms may make better.

    `apart` are in order too; `adding` add up sums in memory.
    """

    kernels: tuple[KernelPlan, ...]
    apart: tuple[tuple[KernelPlan, ...], ...]
    adding: tuple[tuple[KernelPlan, ...], ...]


def find_cut(
    diagram: Diagram, setting: Setting, one: KernelPlan | None, *, adds: bool = True
) -> Found | Refused | None:
    """Return the kernels of the best cut; `one` is the diagram's one kernel, if it fits.

    None if no cut is worth it beside that kernel, or there is nothing to cut; `Refused` if a piece fits
    in no way. Cuts with sums that are added up in memory are looked for if it `adds`.
    """
    search = _Search(diagram, setting)
    points, limit = cut_points(diagram), inf
    if one is not None:
        limit = _WORTH * one.prediction.seconds
        points = tuple(each for each in points if search.may_beat(Cut(frozenset({each})), limit))
    if not points:
        return None
    chosen = search.best_of(points)
    if one is not None and not search.may_beat(chosen, limit):
        return None
    kernels = search.kernels(chosen)
    if isinstance(kernels, Refused):
        return kernels if one is None else None
    if len(kernels) == 1 or total_seconds(kernels) >= limit:
        return None
    apart, adding = (
        tuple(each for each in map(search.kernels, cuts) if isinstance(each, tuple))
        for cuts in (search.apart(chosen), search.adding(chosen) if adds else [])
    )
    return Found(kernels, apart, adding)


# --- search ---------------------------------------------------------------------------------------


class _Search:
    def __init__(self, diagram: Diagram, setting: Setting) -> None:
        self.diagram = diagram
        self.setting = setting
        self.types = storage_types(diagram, setting.dtype)
        self.stored = stored_types(diagram, self.types)
        self.pieces: dict[Cut, tuple[Diagram, ...]] = {}
        self.derived: dict[Diagram, Derivation] = {}
        self.known: dict[Diagram, KernelPlan | Refused] = {}
        self.boxes_planned = 0

    def best_of(self, points: Sequence[int]) -> Cut:
        """Return the best cut that keeps nothing larger than the diagram's arrays, or a far better one.

        A kernel that keeps scores or weights for the next may be as fast, but a long sequence has no memory
        for them.
        """
        largest = max(
            *(self._elements(each.axes) for each in self.diagram.arguments),
            *(self._elements(each.axes) for each in self.diagram.outputs),
        )
        boxes = self.diagram.boxes
        small = [each for each in points if self._elements(boxes[each].axes) <= largest]
        large = [each for each in points if each not in small]
        if not large or not small:
            return self.best(Cut(frozenset(points)))
        lean = self.best(Cut(frozenset(small)))
        misfits, seconds = self._cost(lean)
        least = self._least(self.diagram) + min(map(self._passing_seconds, large))
        if not misfits and least > _WORTH * seconds:
            return lean  # to keep more would take as long by itself
        free = self.best(Cut(frozenset(points)))
        least, fastest = self._cost(free)
        return lean if misfits <= least and fastest > _WORTH * seconds else free

    def _passing_seconds(self, box: int) -> float:
        """Return the seconds in which a box is written to memory and read once."""
        size = self._elements(self.diagram.boxes[box].axes) * STORAGE_BYTES[self.stored[box]]
        return 2 * size / self.setting.machine.bandwidth("dram")

    def _elements(self, axes: Sequence[str]) -> int:
        return prod(self.setting.lengths[axis] for axis in axes)

    def best(self, chosen: Cut) -> Cut:
        """Take one step after the other, whichever saves most, while one does."""
        cost = self._cost(chosen)
        limit = self.boxes_planned + _MOST_BOXES // 2
        while self.boxes_planned < limit:
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
        return chosen

    def apart(self, chosen: Cut) -> list[Cut]:
        """Return the cut in which no kernel computes for others what it gives, if that is another one."""
        chosen = chosen.with_all(frozenset(each.box for each in self.diagram.outputs))
        found = read_apart(self.diagram.boxes, chosen)
        return [found] if found != chosen and self._pieces(found) else []

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
        known = dict(enumerate(each for each in islice(cuts, _MOST_CUTS) if self._pieces(each)))
        limit = self.boxes_planned + _MOST_BOXES
        leanest = self._leanest(known)
        found = {number: self._cost(known[number]) for number in leanest}
        for hope, number in sorted((self._hope(each), number) for number, each in known.items()):
            least = min(found.values(), default=_NO_LIMIT)
            if hope < least and self.boxes_planned < limit:
                found[number] = self._cost(known[number], least)
        fitting = sorted((cost, number) for number, cost in found.items() if not cost[0])
        return [known[each] for each in dict.fromkeys([*(n for _, n in fitting[:1]), *leanest])]

    def _leanest(self, cuts: Mapping[int, Cut]) -> list[int]:
        """Return the cuts of the least work that fit, one for each choice of axes that contractions sum."""
        work = {
            number: self.least_seconds(each)
            for number, each in cuts.items()
            if all(_is_contraction(self.diagram.boxes, box) for box, _ in each.added)
        }
        found: dict[frozenset[tuple[str, ...]], int] = {}
        for number in sorted(work, key=lambda each: work[each]):
            axes = frozenset(each for _, each in cuts[number].added)
            is_lean = _WORTH * work[number] <= min(work.values())
            if is_lean and axes not in found and self._cost(cuts[number], (1, 0.0)) < (1, 0.0):
                found[axes] = number
        return list(found.values())

    def _steps(self, chosen: Cut) -> list[Cut]:
        """Return the cuts one step away: a box taken back, or two kernels joined."""
        steps = (
            [chosen.without(each) for each in sorted(chosen.kept)] if len(chosen.kept) > 1 else []
        )
        pairs = combinations(chosen.groups, 2)
        joined = (chosen.joined(*pair) for pair in pairs if self._share(*pair))
        return [*steps, *(each for each in joined if self._pieces(each))]

    def _share(self, one: frozenset[int], other: frozenset[int]) -> bool:
        """Return whether what two kernels give has a contraction in common that both compute."""
        return bool(self._contractions(one) & self._contractions(other))

    def _contractions(self, roots: frozenset[int]) -> set[int]:
        boxes = self.diagram.boxes
        needed = topological(boxes, sorted(roots))
        return {each for each in needed if _is_contraction(boxes, each)}

    def _pieces(self, chosen: Cut) -> tuple[Diagram, ...]:
        """Return the pieces of a cut, none where two would each wait for the other."""
        if chosen not in self.pieces:
            try:
                added = dict(chosen.added)
                made = cut(self.diagram, chosen.kept, self.types, chosen.together, added)
            except ValueError:
                made = ()
            self.pieces[chosen] = made
        return self.pieces[chosen]

    def kernels(self, chosen: Cut) -> tuple[KernelPlan, ...] | Refused:
        """Return the kernels of a cut under their own names, or the first piece that fits in no way."""
        made: list[KernelPlan] = []
        for piece in self._pieces(chosen):
            plan = self._plan(piece)
            if isinstance(plan, KernelPlan):
                plan = _named(plan, piece) or _plan_piece(piece, sketch(piece), self.setting)
            if isinstance(plan, Refused):
                return Refused(piece, plan.tightest)
            error = checked(self._derive(piece)).law_error
            made.append(replace(plan, derivation=replace(plan.derivation, law_error=error)))
        return tuple(made)

    def may_beat(self, chosen: Cut, limit: float) -> bool:
        """Return whether a cut could take less, if it contracts nothing and reads no argument twice.

        One load for several uses is what a fused kernel is there for: latent attention took 0.358 ms in
        one kernel and 0.373 ms in two that each read the shared array (an H200).
        """
        pieces = self._pieces(chosen)
        read = [each.name for piece in pieces for each in piece.arguments if each.dims]
        own = {each.name for each in self.diagram.arguments}
        if any(read.count(name) > 1 for name in own):
            return False
        work = sum(self._work(each) for each in pieces)
        return work <= self._work(self.diagram) and self.least_seconds(chosen) < limit

    def least_seconds(self, chosen: Cut) -> float:
        """Return what the kernels of a cut take at least: their arrays' traffic or contractions."""
        pieces = self._pieces(chosen)
        return sum(self._least(each) for each in pieces) + (len(pieces) - 1) * LAUNCH_S

    def _cost(self, chosen: Cut, limit: tuple[int, float] = _NO_LIMIT) -> tuple[int, float]:
        """Return how badly a cut's pieces fit, and the seconds of those that do.

        Where that is no less than a limit, something between the two may be returned as soon as it shows.
        """
        pieces = self._pieces(chosen)
        for piece in pieces:
            self._derive(piece)
        for piece in pieces:
            hope = self._hope(chosen)
            if hope >= limit:
                return hope
            self._plan(piece)
        return self._hope(chosen)

    def _hope(self, chosen: Cut) -> tuple[int, float]:
        """Return what a cut costs at least, by the plans and derivations that are known already.

        An output that no plan gives weighs most; a kernel that is made for one length of a long axis, where
        another cut serves every length, weighs a little.
        """
        pieces = self._pieces(chosen)
        misfits, seconds = 0, 0.0
        for piece in pieces:
            plan = self.known.get(anonymous(piece))
            derivation = self.derived.get(anonymous(piece))
            if isinstance(plan, Refused) or (
                derivation and _needs_length(derivation, self.setting)
            ):
                misfits += _MOST_BOXES * len(piece.outputs)
                continue
            seconds += LAUNCH_S
            seconds += self._least(piece) if plan is None else plan.prediction.seconds
            misfits += derivation is not None and self._is_fixed(derivation)
        return misfits, seconds + self._price(pieces)

    def _is_fixed(self, derivation: Derivation) -> bool:
        """Return whether a kernel is made for one length of a long axis."""
        return any(self.setting.lengths[axis] > SMALL for axis in derivation.inner)

    def _price(self, pieces: Sequence[Diagram]) -> float:
        """Return the seconds in which what is kept is written and read, as if nothing hid them."""
        given = {each.name for each in self.diagram.outputs}
        moved = 0
        for piece in pieces:
            types = storage_types(piece, self.setting.dtype)
            arrays = (*argument_arrays(piece, types), *output_arrays(piece, types))
            own = given | {each.name for each in self.diagram.arguments}
            moved += sum(self._bytes(each) for each in arrays if each.name not in own)
        return moved / self.setting.machine.bandwidth("dram")

    def _bytes(self, array: Array) -> int:
        return self._elements(array.axes) * STORAGE_BYTES[array.dtype]

    def _plan(self, piece: Diagram) -> KernelPlan | Refused:
        key = anonymous(piece)
        if key not in self.known:
            self.boxes_planned += len(piece.boxes)
            self.known[key] = _plan_piece(piece, self._derive(piece), self.setting)
        return self.known[key]

    def _derive(self, piece: Diagram) -> Derivation:
        """Return a piece's derivation, whose laws are checked once it is taken."""
        key = anonymous(piece)
        if key not in self.derived:
            self.derived[key] = sketch(piece)
        return self.derived[key]

    def _least(self, piece: Diagram) -> float:
        machine = self.setting.machine
        types = storage_types(piece, self.setting.dtype)
        arrays = (*argument_arrays(piece, types), *output_arrays(piece, types))
        moved = sum(map(self._bytes, arrays))
        rates = [
            machine.nominal_peak(Pipeline.TENSOR, each)
            for each in {*types.values(), "tf32"}
            if machine.has_rate(Pipeline.TENSOR, each)
        ]
        tensor = self._work(piece) / max(rates) / _REACHED
        return max(moved / machine.bandwidth("dram"), tensor)

    def _work(self, piece: Diagram) -> int:
        """Return the FLOPs of a piece's contractions, as if no mask left any out."""
        lengths = self.setting.lengths
        return sum(
            2 * prod(lengths[axis] for axis in {*box.axes, *box.over})
            for box in piece.boxes
            if isinstance(box, Reduce) and is_contraction(piece.boxes, box.operands, box.over)
        )


def _is_contraction(boxes: Sequence[Box], each: int) -> bool:
    box = boxes[each]
    return isinstance(box, Reduce) and is_contraction(boxes, box.operands, box.over)


def _needs_length(derivation: Derivation, setting: Setting) -> bool:
    """Return whether a kernel would be made for one length of an axis, which nobody gave."""
    return any(axis not in setting.given for axis in derivation.inner)


def _plan_piece(piece: Diagram, derivation: Derivation, setting: Setting) -> KernelPlan | Refused:
    if _needs_length(derivation, setting):
        return Refused(piece, None)
    best, tightest = best_kernel(derivation, setting.machine, setting.lengths, setting.dtype)
    return Refused(piece, tightest) if best is None else best


def _named(kernel: KernelPlan, piece: Diagram) -> KernelPlan | None:
    """Return a kernel's plan as the piece's, if the two differ in no name but the diagram's own."""
    if replace(kernel.derivation.diagram, name=piece.name) != piece:
        return None
    derivation = replace(kernel.derivation, diagram=piece)
    return replace(kernel, derivation=derivation, program=replace(kernel.program, name=piece.name))
