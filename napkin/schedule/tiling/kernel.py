"""One kernel: a derivation laid on a machine, by hand from the file's `on` block or chosen by a model.

In: a derivation, a machine, axis lengths, a storage type, and perhaps a hand relabelling. Out: a
`Ranking` of `KernelPlan`s: each has its layout, the Program lowered from it, warps and stages, predicted
shared memory and registers. Every tiling is lowered and judged on its own Program, so that what is
predicted is what is printed.

Deliberately absent: whether a diagram should be several kernels; see `plan`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf, prod

from napkin.algebra.derive import Derivation
from napkin.diagram import Diagram, Relabelling
from napkin.diagram import storage_types as storage_types
from napkin.language.errors import Diagnostic, Label, NapkinError
from napkin.machine import Machine
from napkin.schedule.layout import Layout, Layouts, Tiling
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.program import Dot, Program, tiles_of, walk
from napkin.schedule.roles.shared_loop import SharedLoop
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.least import least_seconds
from napkin.schedule.tiling.structures import Structures
from napkin.schedule.tiling.tilings import enumerate_tilings, least_depth
from napkin.schedule.timing.occupancy import takes_more
from napkin.schedule.timing.plain_loops import DEEP_STAGES
from napkin.schedule.timing.predict import Prediction, predict
from napkin.schedule.timing.predict_adding import plain_adding_seconds

SHARED_MEMORY, REGISTERS = "shared memory", "registers"  # what a block may lack

# Of a thread's registers: the compiler may need more than is predicted, and spill.
_NEARLY_FULL = 0.97
_MAY_SPILL = 1.1  # times as long: less is gained by such a plan than predictions err
_ELEMENTS_A_REGISTER = 4  # of the narrowest type


@dataclass(frozen=True, slots=True)
class Form:
    """A kernel whose warps have roles, in place of the plain loop: what they do, and what that is to take."""

    warps: Specialised
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """A derivation laid on a machine as one kernel. `sizes` are the lengths it was judged at.

    `program`, `layout`, `warps` and `prediction` are those of its plain loop. `form` is what is printed
    instead, if anything; `why` says in words why it is, or why the plain loop is printed. `loop` says how the
    plain loop's copies and waits stand if it reads operands from shared memory; it is then in the `stead` of
    the kernel with Triton's own loop. The kernels `before` it give arrays that the diagram does not have.
    """

    machine: Machine
    derivation: Derivation
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    layout: Layout
    warps: int
    program: Program
    prediction: Prediction
    form: Form | None = None
    why: str = ""
    loop: SharedLoop | None = None
    stead: KernelPlan | None = None
    before: tuple[KernelPlan, ...] = ()

    @property
    def form_name(self) -> str:
        """The form that is printed, in words."""
        if self.loop is not None:
            return "operands in shared memory"
        return "plain loop" if self.form is None else "warp-specialised"

    @property
    def expected(self) -> Prediction:
        """What the form that is printed is expected to need and take."""
        return self.prediction if self.form is None else self.form.prediction

    @property
    def printed(self) -> Program:
        """The Program that is printed."""
        return self.program if self.form is None else self.form.warps.program

    @property
    def name(self) -> str:
        """The name of the diagram that it runs."""
        return self.derivation.diagram.name

    @property
    def stages(self) -> int:
        """The depth of the shared-memory ring of a streamed load."""
        return self.layout.stages

    @property
    def needs(self) -> str:
        """What a block needs, and of how much."""
        need, limits = self.prediction, self.machine.limits
        tiles = ", ".join(f"{each.axis} {each.tile}" for each in self.program.axes if each.tile > 1)
        shared, room = (-(-size // 1024) for size in (need.shared_bytes, limits.shared_per_block))
        return (
            f"({tiles}) need {shared} KB of shared memory of {room} KB "
            f"and {need.registers} registers a thread of {limits.registers(self.warps)}"
        )

    @property
    def fits(self) -> bool:
        """Whether a block's shared memory and registers are within the machine's limits."""
        return self.excess <= 1

    @property
    def lacks(self) -> str:
        """What it needs most of beside what a block may hold: shared memory or registers."""
        limits, need = self.machine.limits, self.prediction
        return SHARED_MEMORY if need.shared_bytes > limits.shared_per_block else REGISTERS

    @property
    def excess(self) -> float:
        """How many times what the machine allows a block is needed."""
        limits = self.machine.limits
        return max(
            self.prediction.shared_bytes / limits.shared_per_block,
            self.prediction.registers / limits.registers(self.warps),
        )


@dataclass(frozen=True, slots=True)
class Ranking:
    """The kernels of a derivation that fit, the fastest predicted first, and else the nearest to it.

    `pruned` counts the others by what they need more of than a block may hold.
    """

    kernels: tuple[KernelPlan, ...]
    tightest: KernelPlan | None
    pruned: tuple[tuple[str, int], ...] = ()

    @property
    def considered(self) -> int:
        """How many plans there were to choose from, those that do not fit included."""
        return len(self.kernels) + sum(count for _, count in self.pruned)


def rank_kernels(
    derivation: Derivation,
    machine: Machine,
    lengths: Mapping[str, int],
    dtype: str,
    hand: Relabelling | None = None,
) -> Ranking:
    """Return the kernels of every tiling that fits; `lengths` gives every axis its own.

    Raises NapkinError (N405, N406, N409, N410) if the hand relabelling is illegal.
    """
    candidates = _Candidates(derivation, machine, lengths, dtype, hand)
    found = [
        candidates.judged(each, *choice) for each in candidates.laid() for choice in each.choices
    ]
    made = [each for each in found if each is not None]
    made.sort(key=lambda kernel: kernel.prediction.seconds)
    pruned = tuple((name, count) for name, count in candidates.pruned.items() if count)
    return Ranking(tuple(made), candidates.tightest, pruned)


def best_kernel(
    derivation: Derivation,
    machine: Machine,
    lengths: Mapping[str, int],
    dtype: str,
    limit: float = inf,
) -> tuple[KernelPlan | None, KernelPlan | None]:
    """Return the first kernel of the ranking, or None and the nearest to one.

    One that takes longer than a limit in seconds may be left out.

    What cannot be the first, by the least that it must take, is not judged, nor are rings so deep that
    `predict` finds nothing more to hide: they only take more room.
    """
    candidates = _Candidates(derivation, machine, lengths, dtype, None)
    waiting = [
        (candidates.least_seconds(each), number, each)
        for number, each in enumerate(candidates.laid())
    ]
    best: tuple[float, int, KernelPlan] | None = None
    for least, number, each in sorted(waiting, key=lambda one: one[:2]):
        if least > (limit if best is None else min(best[0], limit)):
            break
        for stages, warps in each.choices:
            if stages > max(DEEP_STAGES, each.layout.stages):
                continue
            kernel = candidates.judged(each, stages, warps)
            if kernel is not None:
                seconds = kernel.prediction.seconds
                if best is None or (seconds, number) < best[:2]:
                    best = (seconds, number, kernel)
    return (None, candidates.tightest) if best is None else (best[2], None)


@dataclass(frozen=True, slots=True)
class _Laid:
    """A tiling laid out with the shallowest rings; `is_overfull` if its shared memory is too much.

    `choices` are the depths of rings and numbers of warps to try.
    """

    layout: Layout
    program: Program
    walked: Mapping[int, float]
    widest: int
    choices: tuple[tuple[int, int], ...]
    is_overfull: bool

    def of_depth(self, stages: int) -> tuple[Layout, Program]:
        """Return the layout and the Program with rings so deep."""
        if stages == self.layout.stages:
            return self.layout, self.program
        rings = tuple(replace(each, stages=stages) for each in self.program.buffers)
        return replace(self.layout, stages=stages), replace(self.program, buffers=rings)


class _Candidates:
    """The tilings of a derivation, laid out and judged as they are asked for; misfits are counted."""

    def __init__(
        self,
        derivation: Derivation,
        machine: Machine,
        lengths: Mapping[str, int],
        dtype: str,
        hand: Relabelling | None,
    ) -> None:
        self.machine, self.lengths, self.dtype, self.hand = machine, lengths, dtype, hand
        self.types = storage_types(derivation.diagram, dtype)
        self.derivation = derivation
        self.cheap = rewrite(derivation)
        self.where = tuple((axis, lengths[axis]) for axis in derivation.diagram.axes)
        self.tightest: KernelPlan | None = None
        self.pruned = dict.fromkeys((SHARED_MEMORY, REGISTERS), 0)

    def laid(self) -> Iterator[_Laid]:
        """Give the tilings in order, but those that are no smaller than one that is too large."""
        depth = least_depth(self.types.values())
        layouts = Layouts(self.cheap, self.lengths, self.types)
        structures = Structures(self.cheap, self.lengths)
        tilings = enumerate_tilings(self.derivation, self.machine, self.lengths, self.hand, depth)
        overfull: list[Tiling] = []
        for base, found in groupby(tilings, key=lambda found: replace(found[0], stages=0)):
            choices = tuple((tiling.stages, warps) for tiling, warps in found)
            if any(_is_no_smaller(base, each) for each in overfull):
                self.pruned[SHARED_MEMORY] += len(choices)
                continue
            layout = layouts.of(replace(base, stages=min(stages for stages, _ in choices)))
            program, walked = structures.program(layout)
            if self.hand is not None:
                _check_depth(self.derivation.diagram, program, self.hand, depth)
            fewest = min(warps for _, warps in choices)
            room = self.machine.limits.shared_per_block
            is_overfull = takes_more(program, fewest, room, wgmma=self.machine.has("wgmma"))
            if is_overfull:
                overfull.append(base)
            yield _Laid(layout, program, walked, _widest_tile(program), choices, is_overfull)

    def least_seconds(self, laid: _Laid) -> float:
        """Return what a plan takes at least; infinity if it holds too much."""
        if laid.is_overfull:
            return inf
        fewest = min(warps for _, warps in laid.choices)
        return least_seconds(laid.program, self.machine, self.lengths, laid.walked, fewest)

    def judged(self, laid: _Laid, stages: int, warps: int) -> KernelPlan | None:
        """Return the kernel of a tiling with rings so deep and so many warps, if it fits."""
        layout, program = laid.of_depth(stages)
        told = predict(program, self.machine, self.lengths, warps, laid.walked)
        if program.accumulated:
            more = plain_adding_seconds(program, self.machine, self.lengths, laid.walked)
            seconds = told.seconds + sum(more.values())
            told = replace(told, seconds=seconds, parts=(*told.parts, *more.items()))
        needed = max(told.registers, laid.widest // (_ELEMENTS_A_REGISTER * 32 * warps))
        kernel = KernelPlan(
            self.machine,
            self.cheap,
            self.where,
            self.dtype,
            layout,
            warps,
            program,
            replace(told, registers=needed),
        )
        if kernel.fits:
            return kernel
        self.pruned[kernel.lacks] += 1
        if self.tightest is None or kernel.excess < self.tightest.excess:
            self.tightest = kernel
        return None


def _is_no_smaller(tiling: Tiling, other: Tiling) -> bool:
    """Return whether a tiling needs no less shared memory than another: as large in all, laid out alike."""
    if (tiling.whole, tiling.split) != (other.whole, other.split):
        return False
    # Axes with a tile of one have no dim, so that what is loaded along them may take another path.
    return all(
        tile >= least and (tile > 1) == (least > 1)
        for (_, tile), (_, least) in zip(tiling.tiles, other.tiles, strict=True)
    )


def _check_depth(diagram: Diagram, program: Program, hand: Relabelling, depth: int) -> None:
    """Refuse a chunk by hand that is too short for the tensor cores to sum along."""
    short = {op.over for op in walk(program.operations) if isinstance(op, Dot)}
    for tiling in (*hand.stream, *hand.split):
        for axis in tiling.axes:
            if axis in short and tiling.tile < depth:
                message = f"a contraction sums `{axis}` by {tiling.tile}, and needs {depth}"
                label = Label(tiling.span, f"fewer than {depth} at a time")
                help_line = f"write `{axis} by {depth}`"
                raise NapkinError(
                    [Diagnostic("N410", message, diagram.source, label, help=help_line)]
                )


def _widest_tile(program: Program) -> int:
    """Return the elements of the widest tile, wherever it is: a block's threads hold it in registers."""
    extents = {each.name: each.extent for each in program.dims}
    tiles = {tile.dims for tile in tiles_of(program.operations)}
    return max((prod(extents[dim] for dim in dims) for dims in tiles), default=0)
