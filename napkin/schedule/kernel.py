"""One kernel: a derivation laid on a machine, by hand from the file's `on` block or chosen by a model.

In: a derivation, a machine, axis lengths, a storage type, and perhaps a hand relabelling. Out: a
`Ranking` of `KernelPlan`s: each has its layout, the Program lowered from it, warps and stages, predicted
shared memory and registers. Every tiling is lowered and judged on its own Program, so that what is
predicted is what is printed.

Deliberately absent: whether a diagram should be several kernels; see `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from napkin.algebra.derive import Derivation
from napkin.diagram import Diagram, Relabelling
from napkin.machine import Machine
from napkin.operators import Kind
from napkin.schedule.layout import Layout, Tiling, build_layout
from napkin.schedule.lower import lower
from napkin.schedule.predict import Prediction, average_steps, predict
from napkin.schedule.program import Program, tiles_of
from napkin.schedule.rewrite import rewrite
from napkin.schedule.tilings import enumerate_tilings
from napkin.schedule.warps import Specialised

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
    instead, if anything; `why` says in words why it is, or why the plain loop is printed.
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
            f"and {need.registers} registers a thread of {limits.registers_per_thread}"
        )

    @property
    def fits(self) -> bool:
        """Whether a block's shared memory and registers are within the machine's limits."""
        return self.excess <= 1

    @property
    def excess(self) -> float:
        """How many times what the machine allows a block is needed."""
        limits = self.machine.limits
        return max(
            self.prediction.shared_bytes / limits.shared_per_block,
            self.prediction.registers / limits.registers_per_thread,
        )


@dataclass(frozen=True, slots=True)
class Ranking:
    """The kernels of a derivation that fit, the fastest predicted first, and else the nearest to it."""

    kernels: tuple[KernelPlan, ...]
    tightest: KernelPlan | None


def rank_kernels(
    derivation: Derivation,
    machine: Machine,
    lengths: Mapping[str, int],
    dtype: str,
    hand: Relabelling | None = None,
) -> Ranking:
    """Return the kernels of every tiling that fits; `lengths` gives every axis its own.

    Raises NapkinError (N405, N406) if the hand relabelling is illegal.
    """
    cheap = rewrite(derivation)
    dtypes = storage_types(derivation.diagram, dtype)
    where = tuple((axis, lengths[axis]) for axis in derivation.diagram.axes)
    made: list[KernelPlan] = []
    tightest: KernelPlan | None = None
    lowered: dict[Tiling, tuple[Program, Mapping[int, float]]] = {}
    for tiling, warps in enumerate_tilings(derivation, machine, lengths, hand):
        layout = build_layout(cheap, lengths, dtypes, tiling)
        # Rings differ in their depth alone, and warps do not show in a Program: lower a tiling once.
        one_deep = replace(tiling, stages=1)
        if one_deep not in lowered:
            once = lower(cheap, replace(layout, stages=1))
            lowered[one_deep] = once, average_steps(once, lengths)
        once, walked = lowered[one_deep]
        program = _with_stages(once, tiling.stages)
        told = predict(program, machine, lengths, warps, walked)
        prediction = _holding_its_tiles(told, program, warps)
        kernel = KernelPlan(machine, cheap, where, dtype, layout, warps, program, prediction)
        if kernel.fits:
            made.append(kernel)
        elif tightest is None or kernel.excess < tightest.excess:
            tightest = kernel
    made.sort(key=lambda kernel: kernel.prediction.seconds)
    return Ranking(tuple(made), tightest)


def storage_types(diagram: Diagram, dtype: str) -> dict[str, str]:
    """Return every array's storage type: its own, or `dtype` for rank two and more and fp32 for the rest."""
    types: dict[str, str] = {}
    for each in diagram.arguments:
        types[each.name] = each.dtype or (dtype if len(each.dims) > 1 else "fp32")
    for output in diagram.outputs:
        kind = diagram.boxes[output.box].kind
        default = {Kind.INT: "int64", Kind.BOOL: "bool"}.get(
            kind, dtype if len(output.dims) > 1 else "fp32"
        )
        types[output.name] = output.dtype or default
    return types


def _holding_its_tiles(prediction: Prediction, program: Program, warps: int) -> Prediction:
    """Return a prediction of no fewer registers than the widest tile takes, wherever it is."""
    extents = {each.name: each.extent for each in program.dims}
    widest = max(
        (prod(extents[dim] for dim in tile.dims) for tile in tiles_of(program.operations)),
        default=0,
    )
    registers = widest // (_ELEMENTS_A_REGISTER * 32 * warps)
    return replace(prediction, registers=max(prediction.registers, registers))


def _with_stages(program: Program, stages: int) -> Program:
    """Return the program with rings of this depth."""
    return replace(program, buffers=tuple(replace(each, stages=stages) for each in program.buffers))
