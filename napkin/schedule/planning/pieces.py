"""The pieces of a diagram's cuts: what they are, what they take at least, and their kernels once planned.

In: a diagram, a machine, lengths, a storage type. Out: for any cut its pieces, of which different cuts share
most; each is made, derived and planned at most once, and so are those that are alike but for names.

Which cuts to look at is not asked here (`search`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from napkin.algebra.cut import Cutter, Part
from napkin.algebra.derive import SMALL, Derivation, checked, sketch
from napkin.diagram import STORAGE_BYTES, Diagram, Reduce
from napkin.machine import Machine
from napkin.model.roles import is_contraction
from napkin.operators import Pipeline
from napkin.schedule.layout import argument_arrays, output_arrays
from napkin.schedule.planning.anonymous import anonymous
from napkin.schedule.planning.cut_steps import Cut
from napkin.schedule.planning.flops import NOTHING_MASKED, Masked
from napkin.schedule.planning.readers import Whole, best_alone
from napkin.schedule.program import Array
from napkin.schedule.tiling.kernel import KernelPlan, storage_types

LAUNCH_S = 1e-6  # from one kernel's end to the next one's start, beside the launch that each prediction has
_REACHED = 0.8  # of the tensor cores' rate: no kernel is predicted to do better


@dataclass(frozen=True, slots=True)
class Refused:
    """A piece of which no tiling fits, and the kernel that was nearest to it."""

    piece: Diagram
    tightest: KernelPlan | None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a search is for: lengths of all axes, those that the user gave, the machine and type.

    `masked` is what the diagram's mask leaves of contractions.
    """

    machine: Machine
    lengths: Mapping[str, int]
    given: Mapping[str, int]
    dtype: str
    masked: Masked = NOTHING_MASKED


@dataclass(slots=True)
class Alike:
    """What pieces that differ in names alone have in common, as far as it is known."""

    derivation: Derivation | None = None
    plan: KernelPlan | Refused | None = None


@dataclass(slots=True, eq=False)
class Piece:
    """A piece: the seconds that it takes at least, its contractions' FLOPs, what it moves of kept arrays."""

    diagram: Diagram
    least: float
    work: int
    kept_bytes: int
    alike: Alike = field(repr=False)


class Pieces:
    """The pieces of the cuts of one diagram."""

    def __init__(self, diagram: Diagram, setting: Setting) -> None:
        self.diagram = diagram
        self.setting = setting
        self.cutter = Cutter(diagram, storage_types(diagram, setting.dtype))
        self.whole = Whole.of(diagram)
        self.boxes_planned = 0
        arguments = {each.name for each in diagram.arguments}
        self._own = arguments | {each.name for each in diagram.outputs}
        self._of_cut: dict[Cut, tuple[Piece, ...]] = {}
        self._of_part: dict[Part, Piece] = {}
        self._alike: dict[Diagram, Alike] = {}

    def of(self, chosen: Cut) -> tuple[Piece, ...]:
        """Return the pieces of a cut, none where two would each wait for the other."""
        found = self._of_cut.get(chosen)
        if found is None:
            made = (self._made(each) for each in self.parts(chosen))
            found = self._of_cut[chosen] = tuple(made)
        return found

    def parts(self, chosen: Cut) -> tuple[Part, ...]:
        """Return what the pieces of a cut are but for names, in the same order."""
        try:
            return self.cutter.parts(chosen.kept, chosen.together, dict(chosen.added))
        except ValueError:
            return ()

    def _made(self, part: Part) -> Piece:
        if part not in self._of_part:
            diagram = self.cutter.piece(part)
            alike = self._alike.setdefault(anonymous(diagram), Alike())
            types = storage_types(diagram, self.setting.dtype)
            arrays = (*argument_arrays(diagram, types), *output_arrays(diagram, types))
            kept = sum(self._bytes(each) for each in arrays if each.name not in self._own)
            least, work = self.least(diagram), self._work(diagram)
            self._of_part[part] = Piece(diagram, least, work, kept, alike)
        return self._of_part[part]

    # --- what is known without a plan ---------------------------------------------------------------

    def least(self, piece: Diagram) -> float:
        """Return the seconds that a piece takes at least: its arrays' traffic or contractions."""
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
        """Return the FLOPs of a piece's contractions that the diagram's mask leaves."""
        lengths = self.setting.lengths
        return sum(
            self.setting.masked.left(
                frozenset((*box.axes, *box.over)),
                2 * prod(lengths[axis] for axis in {*box.axes, *box.over}),
            )
            for box in piece.boxes
            if isinstance(box, Reduce) and is_contraction(piece.boxes, box.operands, box.over)
        )

    def least_seconds(self, chosen: Cut) -> float:
        """Return what the kernels of a cut take at least."""
        pieces = self.of(chosen)
        return sum(each.least for each in pieces) + (len(pieces) - 1) * LAUNCH_S

    def elements(self, axes: Sequence[str]) -> int:
        """Return the elements of an array with these axes."""
        return prod(self.setting.lengths[axis] for axis in axes)

    def passing_seconds(self, box: int) -> float:
        """Return the seconds in which a box is written to memory and read once."""
        kind = self.cutter.stored[box]
        size = self.elements(self.diagram.boxes[box].axes) * STORAGE_BYTES[kind]
        return 2 * size / self.setting.machine.bandwidth("dram")

    def price(self, pieces: Sequence[Piece]) -> float:
        """Return the seconds in which what is kept is written and read, as if nothing hid them."""
        moved = sum(each.kept_bytes for each in pieces)
        return moved / self.setting.machine.bandwidth("dram")

    def _bytes(self, array: Array) -> int:
        return self.elements(array.axes) * STORAGE_BYTES[array.dtype]

    # --- plans --------------------------------------------------------------------------------------

    def plan(self, piece: Piece) -> KernelPlan | Refused:
        """Return the best plain loop of a piece, or what does not fit."""
        if piece.alike.plan is None:
            self.boxes_planned += len(piece.diagram.boxes)
            derivation = self.derive(piece)
            piece.alike.plan = self._planned(derivation)
        return piece.alike.plan

    def derive(self, piece: Piece) -> Derivation:
        """Return a piece's derivation, whose laws are checked once it is taken."""
        if piece.alike.derivation is None:
            piece.alike.derivation = sketch(piece.diagram)
        return piece.alike.derivation

    def needs_length(self, piece: Piece) -> bool:
        """Return whether a piece is known to lack a length that nobody gave."""
        known = piece.alike.derivation
        return known is not None and _needs_length(known, self.setting)

    def is_fixed(self, piece: Piece) -> bool:
        """Return whether a piece's kernel is known to be made for one length of a long axis."""
        known = piece.alike.derivation
        return known is not None and any(self.setting.lengths[axis] > SMALL for axis in known.inner)

    def planned(self, chosen: Cut) -> tuple[KernelPlan, ...] | Refused:
        """Return the kernels of a cut's pieces, whatever their names, or the first that fits in no way."""
        made: list[KernelPlan] = []
        for piece in self.of(chosen):
            plan = self.plan(piece)
            if isinstance(plan, Refused):
                return Refused(piece.diagram, plan.tightest)
            made.append(plan)
        return tuple(made)

    def named(self, chosen: Cut) -> tuple[KernelPlan, ...]:
        """Return the kernels of a cut that fits under their own names, their laws checked."""
        diagrams = self.cutter.pieces(chosen.kept, chosen.together, dict(chosen.added))
        made: list[KernelPlan] = []
        for piece, diagram in zip(self.of(chosen), diagrams, strict=True):
            plan = self.plan(piece)
            assert isinstance(plan, KernelPlan)
            own = _named(plan, diagram) or self._planned(sketch(diagram))
            assert isinstance(own, KernelPlan)
            if not own.before:
                error = checked(self.derive(piece)).law_error
                own = replace(own, derivation=replace(own.derivation, law_error=error))
            made.append(own)
        return tuple(made)

    def _planned(self, derivation: Derivation) -> KernelPlan | Refused:
        """Return the best plain loop of a piece's derivation, or what does not fit."""
        setting = self.setting
        if _needs_length(derivation, setting):
            return Refused(derivation.diagram, None)
        where = setting.machine, setting.lengths, setting.dtype
        best, tightest = best_alone(derivation, *where, self.whole)
        return Refused(derivation.diagram, tightest) if best is None else best


def _needs_length(derivation: Derivation, setting: Setting) -> bool:
    """Return whether a kernel would be made for one length of an axis, which nobody gave."""
    return any(axis not in setting.given for axis in derivation.inner)


def _named(kernel: KernelPlan, piece: Diagram) -> KernelPlan | None:
    """Return a kernel's plan as the piece's, if the two differ in no name but the diagram's own."""
    if replace(kernel.derivation.diagram, name=piece.name) != piece:
        return None
    derivation = replace(kernel.derivation, diagram=piece)
    return replace(kernel, derivation=derivation, program=replace(kernel.program, name=piece.name))
