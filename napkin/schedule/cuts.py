"""Where to cut a diagram: the kept arrays whose kernels take the least time together.

In: a diagram, a machine, lengths, a storage type, and what its one kernel is predicted to take, if it
fits. Out: the kernels of the best cut that was found, or what did not fit.

The search starts from the cut that keeps every array worth keeping, where each kernel is as simple as can
be, and takes back what it pays most to compute again, one array after the other: fusion, judged by the
plans of the kernels themselves. Pieces that are equal but for names are planned once. The number of
boxes planned is bounded, and so is the search; what it finds depends on nothing but its arguments.

Deliberately absent: several outputs of different work in one kernel, and cuts in space.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod

from napkin.algebra.cut import cut, stored_types
from napkin.algebra.derive import derive
from napkin.algebra.naming import diagram_names
from napkin.diagram import (
    STORAGE_BYTES,
    Argument,
    Box,
    Diagram,
    Index,
    Input,
    Output,
    Pointwise,
    Reduce,
    Size,
    operands_of,
    topological,
)
from napkin.machine import Machine
from napkin.model.roles import is_contraction
from napkin.operators import Pipeline
from napkin.schedule.kernel import KernelPlan, rank_kernels, storage_types
from napkin.schedule.layout import argument_arrays, output_arrays

LAUNCH_S = 5e-6  # from one kernel's end to the next one's start, with its launch
_SHORT_WAY = 8  # boxes between one that is read twice and where its readers meet again
_MOST_BOXES = 1000  # of all pieces planned: some seconds
_REACHED = 0.8  # of the tensor cores' rate: no kernel is predicted to do better
# Of the time of one kernel: predictions err by a quarter, and what is kept takes memory.
_WORTH = 0.6


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


def find_cut(
    diagram: Diagram, setting: Setting, one: KernelPlan | None
) -> tuple[KernelPlan, ...] | Refused | None:
    """Return the kernels of the best cut; `one` is the diagram's one kernel, if it fits.

    None if no cut is worth it beside that kernel, or there is nothing to cut; `Refused` if a piece fits
    in no way.
    """
    search = _Search(diagram, setting)
    points, limit = cut_points(diagram), inf
    if one is not None:
        limit = _WORTH * one.prediction.seconds
        points = tuple(each for each in points if search.may_beat({each}, limit))
    if not points:
        return None
    kept = search.best(frozenset(points))
    if one is not None and not search.may_beat(kept, limit):
        return None
    kernels = search.kernels(kept)
    if isinstance(kernels, Refused):
        return kernels if one is None else None
    return kernels if len(kernels) > 1 and total_seconds(kernels) < limit else None


# --- candidates -----------------------------------------------------------------------------------


def cut_points(diagram: Diagram) -> tuple[int, ...]:
    """Return the boxes worth keeping: what reductions give, and arrays that are made of it.

    Those are reductions, arrays with a name, and computed operands of contractions. A box that one
    pointwise step alone reads stands back for that step, which has the same size.
    """
    boxes = diagram.boxes
    roots = [each.box for each in diagram.outputs]
    needed = topological(boxes, roots)
    readers: dict[int, set[int]] = {each: set() for each in needed}
    reducing: set[int] = set()
    for each in needed:
        for operand in operands_of(boxes[each]):
            readers[operand].add(each)
        if isinstance(boxes[each], Reduce) or reducing & set(operands_of(boxes[each])):
            reducing.add(each)
    named = diagram_names(diagram)
    wished = {each for each in reducing if isinstance(boxes[each], Reduce) or each in named}
    wished |= _contracted(boxes, needed) & reducing
    found: dict[int, None] = {}
    for each in sorted(wished):
        last = each
        while (
            step := _only_step(boxes, last, readers, reducing)
        ) is not None and last not in roots:
            last = step
        if last not in roots or readers[last] or len(set(roots)) > 1:
            found[last] = None
    return tuple(sorted(found))


def _contracted(boxes: Sequence[Box], needed: Iterable[int]) -> set[int]:
    """Return the operands of contractions."""
    found: set[int] = set()
    for each in needed:
        box = boxes[each]
        if isinstance(box, Reduce) and is_contraction(boxes, box.operands, box.over):
            found |= set(box.operands)
    return found


def _only_step(
    boxes: Sequence[Box], each: int, readers: Mapping[int, set[int]], reducing: Collection[int]
) -> int | None:
    """Return the pointwise box where all that reads a box meets, of its axes and with nothing else reduced.

    A `where` is no such step: the kernel that reads what it masks may then skip what it leaves out.
    """
    waiting, passed = set(readers[each]), {each}
    for _ in range(_SHORT_WAY):
        if not waiting:
            return None
        first = min(waiting)  # operands come before what reads them
        box = boxes[first]
        if not isinstance(box, Pointwise) or box.operator == "where":
            return None
        if set(box.axes) != set(boxes[each].axes) or box.kind != boxes[each].kind:
            return None
        if any(other in reducing and other not in passed for other in box.operands):
            return None
        if len(waiting) == 1:
            return first
        waiting = (waiting - {first}) | readers[first]
        passed.add(first)
    return None


# --- search ---------------------------------------------------------------------------------------


class _Search:
    def __init__(self, diagram: Diagram, setting: Setting) -> None:
        self.diagram = diagram
        self.setting = setting
        self.types = storage_types(diagram, setting.dtype)
        self.stored = stored_types(diagram, self.types)
        self.known: dict[Diagram, KernelPlan | Refused] = {}
        self.boxes_planned = 0

    def best(self, kept: frozenset[int]) -> frozenset[int]:
        """Take back one kept box after the other, whichever saves most, while one does."""
        cost = self._cost(kept)
        while len(kept) > 1 and self.boxes_planned < _MOST_BOXES:
            best, least = kept, cost
            hoped = [(self._hope(kept - {each}), each) for each in sorted(kept)]
            for hope, each in sorted(hoped):
                if hope < least:
                    found = self._cost(kept - {each})
                    best, least = (kept - {each}, found) if found < least else (best, least)
            if best == kept:
                break
            kept, cost = best, least
        return kept

    def kernels(self, kept: frozenset[int]) -> tuple[KernelPlan, ...] | Refused:
        """Return the kernels of a cut under their own names, or the first piece that fits in no way."""
        made: list[KernelPlan] = []
        for piece in cut(self.diagram, kept, self.types):
            plan = self._plan(piece)
            if isinstance(plan, KernelPlan):
                plan = _named(plan, piece) or _plan_piece(piece, self.setting)
            if isinstance(plan, Refused):
                return Refused(piece, plan.tightest)
            made.append(plan)
        return tuple(made)

    def may_beat(self, kept: Collection[int], limit: float) -> bool:
        """Return whether a cut could take less, if it contracts nothing and reads no argument twice.

        One load for several uses is what a fused kernel is there for: latent attention took 0.358 ms in
        one kernel and 0.373 ms in two that each read the shared array (an H200).
        """
        pieces = cut(self.diagram, kept, self.types)
        read = [each.name for piece in pieces for each in piece.arguments if each.dims]
        own = {each.name for each in self.diagram.arguments}
        if any(read.count(name) > 1 for name in own):
            return False
        work = sum(self._work(each) for each in pieces)
        return work <= self._work(self.diagram) and self.least_seconds(kept) < limit

    def least_seconds(self, kept: Collection[int]) -> float:
        """Return what the kernels of a cut take at least: their arrays' traffic or contractions."""
        pieces = cut(self.diagram, kept, self.types)
        return sum(self._least(each) for each in pieces) + (len(pieces) - 1) * LAUNCH_S

    def _cost(self, kept: frozenset[int]) -> tuple[int, float]:
        """Return how many pieces fit in no way, and the seconds of the rest."""
        plans = [self._plan(piece) for piece in cut(self.diagram, kept, self.types)]
        return _sum_up(plans)

    def _hope(self, kept: frozenset[int]) -> tuple[int, float]:
        """Return what a cut costs at least, by the plans that are known already."""
        pieces = cut(self.diagram, kept, self.types)
        known = [self.known.get(_anonymous(piece)) for piece in pieces]
        unknown = [piece for piece, plan in zip(pieces, known, strict=True) if plan is None]
        misfits, seconds = _sum_up([plan for plan in known if plan is not None])
        return misfits, seconds + sum(self._least(piece) + LAUNCH_S for piece in unknown)

    def _plan(self, piece: Diagram) -> KernelPlan | Refused:
        key = _anonymous(piece)
        if key not in self.known:
            self.boxes_planned += len(piece.boxes)
            self.known[key] = _plan_piece(piece, self.setting)
        return self.known[key]

    def _least(self, piece: Diagram) -> float:
        lengths, machine = self.setting.lengths, self.setting.machine
        types = storage_types(piece, self.setting.dtype)
        arrays = (*argument_arrays(piece, types), *output_arrays(piece, types))
        moved = sum(
            prod(lengths[axis] for axis in each.axes) * STORAGE_BYTES[each.dtype] for each in arrays
        )
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


def _sum_up(plans: Sequence[KernelPlan | Refused]) -> tuple[int, float]:
    """Return how many plans fit in no way, and the seconds of the rest with their launches."""
    fitting = [each.prediction.seconds for each in plans if isinstance(each, KernelPlan)]
    return len(plans) - len(fitting), sum(fitting) + len(fitting) * LAUNCH_S


def _plan_piece(piece: Diagram, setting: Setting) -> KernelPlan | Refused:
    derivation = derive(piece)
    if any(axis not in setting.given for axis in derivation.inner):
        return Refused(piece, None)  # a kernel for one length, which nobody gave
    ranking = rank_kernels(derivation, setting.machine, setting.lengths, setting.dtype)
    return ranking.kernels[0] if ranking.kernels else Refused(piece, ranking.tightest)


def _named(kernel: KernelPlan, piece: Diagram) -> KernelPlan | None:
    """Return a kernel's plan as the piece's, if the two differ in no name but the diagram's own."""
    if replace(kernel.derivation.diagram, name=piece.name) != piece:
        return None
    derivation = replace(kernel.derivation, diagram=piece)
    return replace(kernel, derivation=derivation, program=replace(kernel.program, name=piece.name))


def _anonymous(piece: Diagram) -> Diagram:
    """Return a piece with its names replaced by their order: alike pieces, such as layers, become equal."""
    axes = {axis: f"a{number}" for number, axis in enumerate(piece.axes)}
    names = {each.name: f"A{number}" for number, each in enumerate(piece.arguments)}

    def dims_of(each: Argument | Output) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(axes[axis] for axis in dim) for dim in each.dims)

    return Diagram(
        "",
        tuple(replace(each, name=names[each.name], dims=dims_of(each)) for each in piece.arguments),
        tuple(replace(each, name="", dims=dims_of(each)) for each in piece.outputs),
        tuple(_renamed(box, axes, names) for box in piece.boxes),
        (),
        tuple((axes[axis], size) for axis, size in piece.sizes),
    )


def _renamed(box: Box, axes: Mapping[str, str], names: Mapping[str, str]) -> Box:
    match box:
        case Input():
            return Input(names[box.name], tuple(axes[axis] for axis in box.axes), box.kind)
        case Index() | Size():
            return replace(box, axis=axes[box.axis])
        case Reduce():
            own = tuple(axes[axis] for axis in box.axes)
            return replace(box, axes=own, over=tuple(axes[axis] for axis in box.over))
        case _:
            return replace(box, axes=tuple(axes[axis] for axis in box.axes))
