"""A plan: a diagram laid on a machine, as one kernel or as several that run in turn.

In: a derivation, a machine, axis lengths, a storage type. Out: a `Plan`, whose kernels are each a
derivation laid on the machine by itself. A diagram is cut where no tiling of it fits, or where its
pieces are predicted to be faster; an `on` block fixes one kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, prod

from napkin.algebra.derive import Derivation
from napkin.diagram import Diagram, Implied, Relabelling, implied_sizes
from napkin.language.errors import Diagnostic, Label, NapkinError, did_you_mean
from napkin.machine import Machine, load_machine, machine_names
from napkin.operators import Pipeline
from napkin.schedule.forms.form import in_plain_form, with_forms
from napkin.schedule.layout import argument_arrays, output_arrays
from napkin.schedule.planning.cuts import (
    Found,
    Refused,
    Setting,
    find_cut,
    total_seconds,
)
from napkin.schedule.planning.flops import left_by_mask
from napkin.schedule.planning.lines import in_memory_order, with_lines
from napkin.schedule.planning.options import best_kernels, bounded
from napkin.schedule.planning.readers import Whole, best_alone, once
from napkin.schedule.planning.segments import segment_counts, with_segments
from napkin.schedule.program import Array, AxisRole
from napkin.schedule.tiling.kernel import (
    KernelPlan,
    Ranking,
    rank_kernels,
    storage_types,
)
from napkin.schedule.tiling.tilings import is_narrow_float
from napkin.schedule.timing.predict import guessed_scalars
from napkin.schedule.units import listed

__all__ = ["KernelPlan", "Plan", "make_plan", "storage_types"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A diagram laid on a machine. `sizes` are the lengths it was judged at.

    `kernels` run in turn; what one gives, later ones read. `turned_down` is the one kernel that they stand
    in place of, which is slower or does not fit, and None where the plan is one kernel.
    """

    diagram: Diagram
    machine: Machine
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    kernels: tuple[KernelPlan, ...]
    turned_down: KernelPlan | None = None

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The diagram's arguments that lie in global memory."""
        return argument_arrays(self.diagram, storage_types(self.diagram, self.dtype))

    @property
    def outputs(self) -> tuple[Array, ...]:
        """The diagram's outputs as arrays in global memory."""
        return output_arrays(self.diagram, storage_types(self.diagram, self.dtype))

    @property
    def kept(self) -> tuple[Array, ...]:
        """The arrays that lie in global memory between kernels."""
        given = {each.name for each in self.outputs}
        made = (array for kernel in self.kernels for array in kernel.program.outputs)
        return tuple(each for each in made if each.name not in given)

    @property
    def lengths(self) -> dict[str, int]:
        """The lengths it was judged at, with those of labels that its kernels alone have."""
        return {axis: size for each in self.kernels for axis, size in each.sizes} | dict(self.sizes)

    @property
    def implied(self) -> dict[str, Implied]:
        """The lengths of axes that no argument carries and that reads imply, its kernels' own among them."""
        own = {
            axis: each
            for k in self.kernels
            for axis, each in implied_sizes(k.derivation.diagram).items()
        }
        known = self.diagram.axes
        return implied_sizes(self.diagram) | {a: each for a, each in own.items() if a not in known}

    @property
    def segments(self) -> dict[str, int]:
        """How many segments a stream is walked in, by the axis that numbers them."""
        return segment_counts(self.diagram, self.kernels, self.implied)

    @property
    def seconds(self) -> float:
        """The seconds that all kernels are predicted to take, with the launches between them."""
        return total_seconds(self.kernels)

    @property
    def is_deterministic(self) -> bool:
        """Whether results are the same bits every time: no kernel adds to an array in memory."""
        return not any(each.printed.accumulated for each in self.kernels)

    @property
    def bound_by(self) -> str:
        """What binds the kernel that takes longest."""
        return max((each.expected for each in self.kernels), key=lambda each: each.seconds).bound_by

    @property
    def plain(self) -> Plan:
        """The same plan with every kernel as a plain loop, which Triton's interpreter can run."""
        plain = (in_memory_order(in_plain_form(each)) for each in self.kernels)
        return replace(self, kernels=tuple(plain))

    def __str__(self) -> str:
        from napkin.schedule.planning.show import show_plan  # which reads plans

        return show_plan(self)


def make_plan(
    derivation: Derivation,
    machine: Machine,
    *,
    sizes: Mapping[str, int] | None = None,
    dtype: str = "bf16",
    deterministic: bool | None = None,
) -> Plan:
    """Return the best legal plan, or the one that the diagram's `on` block fixes.

    `deterministic` says whether its results must be the same bits every time, so that no sum is added up in
    memory; None, that they are where it costs less than a tenth.

    Raises NapkinError (N4) if the machine has no code generator, an axis must be sized, or nothing fits.
    """
    if machine.capability is None:
        message = f"machine `{machine.name}` has no code generator"
        help_line = "`napkin cost` tells what any kernel must cost there"
        raise NapkinError([Diagnostic("N402", message, help=help_line)])
    diagram = derivation.diagram
    _check_types(diagram, machine, dtype)
    given = given_lengths(derivation, sizes or {})
    setting = Setting(machine, {a: given.get(a, 4096) for a in diagram.axes}, given, dtype)
    hand = relabelling_for(diagram, machine)
    one, tightest = _one_kernel(derivation, setting, hand)
    where = tuple(setting.lengths.items())
    adds = _may_add(machine, deterministic)
    shared = () if hand or one is None else with_segments(one)
    uncut = total_seconds(shared) if shared else inf
    found = None if hand else _found(derivation, setting, one, uncut, adds=adds)
    whole = with_forms(bounded(shared), by_hand=False) if isinstance(found, Found) else ()
    if isinstance(found, Found):
        kernels = best_kernels(found, total_seconds(whole) if whole else inf, deterministic)
        if kernels is not None:
            kernels = with_lines(kernels, {each.name for each in diagram.outputs})
            return Plan(diagram, machine, where, dtype, once(kernels), one or tightest)
    if one is None:
        largest = None
        if hand is not None:
            largest = _largest(rank_kernels(derivation, machine, setting.lengths, dtype))
        misfit = found if isinstance(found, Refused) else None
        reason = _nothing_fits(diagram, machine, hand, tightest, misfit, largest)
        raise NapkinError([reason])
    made = whole or with_forms(bounded(shared) if shared else (one,), by_hand=hand is not None)
    return Plan(diagram, machine, where, dtype, once(made), one if len(shared) > 1 else None)


def _found(
    derivation: Derivation, setting: Setting, one: KernelPlan | None, uncut: float, *, adds: bool
) -> Found | Refused | None:
    """Return cuts of the diagram, judged by what its mask leaves of the contractions."""
    lengths = setting.lengths
    scalars = {} if one is None else guessed_scalars(one.program, dict(one.sizes))
    setting = replace(setting, masked=left_by_mask(derivation, lengths, scalars))
    sized = _sized(derivation.diagram, setting.given)
    return find_cut(sized, setting, one, adds=adds, otherwise=uncut)


def _one_kernel(
    derivation: Derivation, setting: Setting, hand: Relabelling | None
) -> tuple[KernelPlan | None, KernelPlan | None]:
    """Return the best kernel for the whole diagram, or None and the nearest to one."""
    machine, lengths, dtype = setting.machine, setting.lengths, setting.dtype
    if hand is None:
        return best_alone(derivation, machine, lengths, dtype, Whole.of(derivation.diagram))
    ranking = rank_kernels(derivation, machine, lengths, dtype, hand)
    return (ranking.kernels[0] if ranking.kernels else None), ranking.tightest


def _may_add(machine: Machine, deterministic: bool | None) -> bool:
    """Return whether a plan may add sums up in memory: unless it is asked for, by warps with roles alone."""
    return machine.has("wgmma") if deterministic is None else not deterministic


def has_kernels(diagram: Diagram, machine: Machine, dtype: str) -> bool:
    """Return whether kernels can be made: a code generator is there, and every array's type is."""
    return machine.capability is not None and not lacking_types(diagram, machine, dtype)


def lacking_types(diagram: Diagram, machine: Machine, dtype: str) -> dict[str, list[str]]:
    """Return the storage types that a machine's tensor cores and compiler lack, with their arrays."""
    found: dict[str, list[str]] = {}
    for name, kind in storage_types(diagram, dtype).items():
        if is_narrow_float(kind) and not machine.has_rate(Pipeline.TENSOR, kind):
            found.setdefault(kind, []).append(name)
    return found


def _check_types(diagram: Diagram, machine: Machine, dtype: str) -> None:
    for kind, arrays in lacking_types(diagram, machine, dtype).items():
        names = listed([f"`{each}`" for each in arrays])
        others = [
            name
            for name in machine_names()
            if (other := load_machine(name)).capability and other.has_rate(Pipeline.TENSOR, kind)
        ]
        raise NapkinError(
            [
                Diagnostic(
                    "N408",
                    f"{machine.name} has no `{kind}`",
                    notes=(f"{names} {'is' if len(arrays) == 1 else 'are'} stored in it",),
                    help=f"take --dtype bf16 or a machine that has it ({', '.join(others)}); "
                    "`napkin cost` tells what it would cost widened to fp16",
                )
            ]
        )


def _largest(ranking: Ranking) -> KernelPlan | None:
    """Return the kernel with the largest tiles of those that fit, the fastest of several."""
    tiles = {
        id(each): prod(axis.tile for axis in each.program.axes if axis.role is not AxisRole.SPLIT)
        for each in ranking.kernels
    }
    return max(ranking.kernels, key=lambda each: tiles[id(each)], default=None)


def _nothing_fits(
    diagram: Diagram,
    machine: Machine,
    hand: Relabelling | None,
    tightest: KernelPlan | None,
    piece: Refused | None,
    largest: KernelPlan | None,
) -> Diagnostic:
    which = "the smallest tiles" if hand is None else "these tiles"
    notes = [] if tightest is None else [f"{which} {tightest.needs}, with {_with(tightest)}"]
    if largest is not None:
        notes.append(f"the largest tiles that fit {largest.needs}, with {_with(largest)}")
    if piece is not None:
        outputs = ", ".join(f"`{each.name}`" for each in piece.piece.outputs)
        why = "has an axis on chip whole whose length is not given"
        if piece.tightest is not None:
            why = f"still does not fit: its smallest tiles {piece.tightest.needs}"
        notes.append(f"of the pieces that it was cut into, the one that gives {outputs} {why}")
    return Diagnostic(
        "N407",
        f"no tiles of `{diagram.name}` fit on {machine.name}",
        diagram.source if hand else None,
        Label(hand.span, "these tiles do not fit") if hand else None,
        notes=tuple(notes),
        help="take smaller tiles, or leave the `on` block out"
        if hand
        else "shorten an axis that lies on chip whole",
    )


def _with(kernel: KernelPlan) -> str:
    return f"{kernel.warps} warps and {kernel.stages} {'stage' if kernel.stages == 1 else 'stages'}"


# --- what is given --------------------------------------------------------------------------------


def given_lengths(derivation: Derivation, given: Mapping[str, int]) -> dict[str, int]:
    """Return the lengths that the file or the caller gives, and those that they imply."""
    diagram = derivation.diagram
    known = dict(diagram.sizes)
    for axis, size in given.items():
        if axis not in diagram.axes:
            message = f"`{axis}` is not an axis of `{diagram.name}`"
            raise NapkinError([Diagnostic("N403", message, help=did_you_mean(axis, diagram.axes))])
        if size < 1:
            raise NapkinError([Diagnostic("N403", f"axis `{axis}` has length {size}")])
        known[axis] = size
    for axis, implied in implied_sizes(diagram).items():
        if known.keys() >= set(implied.axes):
            known.setdefault(axis, implied.length(known))
    missing = [axis for axis in derivation.inner if axis not in known]
    if missing:
        axis = missing[0]
        raise NapkinError(
            [
                Diagnostic(
                    "N404",
                    f"the length of axis `{axis}` is not given",
                    notes=(f"`{axis}` lies on chip whole, so the kernel is made for one length",),
                    help=f"add `sizes {axis}=128` to the file, or --sizes {axis}=128",
                )
            ]
        )
    return known


def _sized(diagram: Diagram, given: Mapping[str, int]) -> Diagram:
    """Return the diagram with its lengths in it, since the choice of a stream asks for them."""
    return replace(diagram, sizes=tuple((a, given[a]) for a in diagram.axes if a in given))


def relabelling_for(diagram: Diagram, machine: Machine) -> Relabelling | None:
    """Return the `on` block for this machine, by name or alias."""
    for each in diagram.relabellings:
        names = machine_names()
        try:
            target = load_machine(each.machine)
        except NapkinError:
            raise NapkinError(
                [
                    Diagnostic(
                        "N401",
                        f"unknown machine `{each.machine}`",
                        diagram.source,
                        Label(each.span, "no machine has this name"),
                        help=did_you_mean(each.machine, names) or f"known: {', '.join(names)}",
                    )
                ]
            ) from None
        if target.name == machine.name:
            return each
    return None
