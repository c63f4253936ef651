"""What a plan costs, as users read it: formulas, the same in numbers, and the prediction.

In: a `Plan`. Out: `Cost`, which prints as a table and as JSON. H and M are the paper's (sections 3
and 5), symbolic from the derivation; elements, bytes and operations are counted on the plan's own
Programs; seconds and what binds are the plan's prediction. Every level is charged with what enters
or leaves it: `shared` and `register` with the transfers that end there, `dram` with every array
once a kernel, which no kernel can save: what is kept between two is written and read again, and
what groups add to is set to zero before. Of several kernels transfers and work add up, and what a
block holds is the most of any.

Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf, prod
from typing import Any

from napkin.model.costs import two_level_costs
from napkin.model.measures import Costs, Operations
from napkin.model.optimum import power_law
from napkin.model.roles import Role, bind, choose_roles, size_symbol, tile_symbol
from napkin.operators import Pipeline
from napkin.schedule.count import Totals, peak, totals
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.planning.flops import Scalars, contraction_flops
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.program import Array, AxisRole
from napkin.schedule.tiling.figures import traffic_of
from napkin.schedule.timing.predict import guessed_scalars
from napkin.schedule.timing.traffic import Traffic
from napkin.schedule.units import duration

_ON_CHIP = ("shared", "register")
_WAYS = ("read", "written", "kept")


@dataclass(frozen=True, slots=True)
class LevelCost:
    """What enters or leaves a level in the whole dispatch, and the most that lies there a block.

    `expected` is what really passes between memory and the cache, a kernel each, where that is the level.
    """

    level: str
    transfer_elements: int
    transfer_bytes: int
    memory_bytes: int
    formula: str
    expected: tuple[Traffic, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the level as `napkin cost --json` prints it."""
        found: dict[str, Any] = {
            "transfer_bytes": self.transfer_bytes,
            "transfer_elements": self.transfer_elements,
            "memory_bytes": self.memory_bytes,
            "formula": self.formula,
        }
        if self.expected:
            found["expected_bytes"] = dict(zip(_WAYS, self.passing, strict=True))
        return found

    @property
    def passing(self) -> tuple[int, int, int]:
        """The bytes that are expected to be read, written, and written but still in the cache at the end."""
        return (
            round(sum(each.bytes_read for each in self.expected)),
            round(sum(each.bytes_written for each in self.expected)),
            round(sum(each.kept for each in self.expected)),
        )


@dataclass(frozen=True, slots=True)
class KernelCost:
    """One kernel: its name and what it gives, its prediction, and its plan as plain data."""

    name: str
    outputs: tuple[str, ...]
    seconds: float
    bound_by: str
    plan: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """A plan's cost. `flops` are those of the contractions that a mask leaves.

    `transferred`, `memory` and `work` are H, M and K by formula, `step` what one step of the stream moves and
    works, empty for several kernels. `least` is the least H in M, empty without a closed form.
    `is_exact` tells whether every loop's bounds were known, `assumed` the values of whole numbers that are
    only known at the call, `is_masked` whether a mask leaves less than the formulas count. `unrated` are the
    pipelines whose rate nobody publishes, so that their time is left out; `note` is what a reader should
    know besides.
    """

    diagram: str
    machine: str
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    flops: int
    operations: tuple[tuple[str, int], ...]
    levels: tuple[LevelCost, ...]
    transferred: str
    memory: str
    least: str
    bound_by: str
    seconds: float
    kernels: tuple[KernelCost, ...]
    is_exact: bool
    work: str = ""
    step: str = ""
    assumed: tuple[tuple[str, int], ...] = ()
    is_masked: bool = False
    unrated: tuple[str, ...] = ()
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the cost as `napkin cost --json` prints it."""
        return {
            "diagram": self.diagram,
            "machine": self.machine,
            "sizes": dict(self.sizes),
            "dtype": self.dtype,
            "flops": self.flops,
            "pipelines": dict(self.operations),
            "levels": {each.level: each.as_json() for each in self.levels},
            "bound_by": self.bound_by,
            "predicted_seconds": None if isinf(self.seconds) else self.seconds,
            "plan": self._plan_as_json(),
        }

    def _plan_as_json(self) -> dict[str, Any]:
        """Return the one kernel's plan, or those of several under `kernels`."""
        if len(self.kernels) == 1:
            return dict(self.kernels[0].plan)
        return {
            "kernels": [
                {
                    "name": each.name,
                    "outputs": list(each.outputs),
                    "predicted_seconds": each.seconds,
                    "bound_by": each.bound_by,
                    **dict(each.plan),
                }
                for each in self.kernels
            ]
        }

    def headline(self) -> str:
        """Return the cost in a line."""
        return (
            f"{self.diagram} for {self.machine} in {self.dtype}: H = {self.transferred} elements; "
            f"predicted {duration(self.seconds)}, bound by {self.bound_by}"
        )

    def __str__(self) -> str:
        from napkin.schedule.planning.show_cost import cost_lines  # which reads costs

        return "\n".join(cost_lines(self))


def cost_of(plan: Plan, *, scalars: Scalars | None = None) -> Cost:
    """Return the cost of a plan at the lengths it was judged at; `scalars` it was not told are guessed."""
    given = scalars or {}
    guessed = {
        name: value
        for each in plan.kernels
        for name, value in guessed_scalars(each.printed, dict(each.sizes)).items()
        if name not in given
    }
    known = {**guessed, **given}
    parts = [_Counted.of(each, known, _numbering(plan, each)) for each in plan.kernels]
    counted = [each.totals for each in parts]
    moved = sum(each.bind(each.symbolic.transferred) for each in parts)
    held = [str(each.bind(each.symbolic.memory.elements)) for each in parts]
    return Cost(
        plan.diagram.name,
        plan.machine.name,
        plan.sizes,
        plan.dtype,
        sum(contraction_flops(k.derivation, dict(k.sizes), known) for k in plan.kernels),
        tuple(
            (unit.value, sum(each.on(unit) for each in counted))
            for unit in Pipeline
            if unit is not Pipeline.COPY
        ),
        (_dram(plan, known), *(_on_chip(level, parts) for level in _ON_CHIP)),
        str(moved),
        held[0] if len(held) == 1 else f"max({', '.join(held)})",
        _least(plan),
        plan.bound_by,
        plan.seconds,
        tuple(_kernel_cost(each) for each in plan.kernels),
        all(each.is_exact for each in counted),
        work="" if len(parts) > 1 else str(parts[0].work(parts[0].symbolic.whole)),
        step="" if len(parts) > 1 else parts[0].step,
        assumed=tuple(guessed.items()),
        is_masked=any(one is not None for k in plan.kernels for one in k.derivation.conditions),
    )


def _least(plan: Plan) -> str:
    """Return the law of the least transfers (paper, section 6) of a plan of one kernel, if it has one."""
    if len(plan.kernels) > 1:
        return ""
    law = power_law(two_level_costs(plan.kernels[0].derivation))
    return "" if law is None else str(law)


def describe_kernel(kernel: KernelPlan) -> dict[str, Any]:
    """Return a kernel's plan as plain data: what every axis does, and what a block takes."""
    form = kernel.form
    return {
        "axes": {
            each.axis: {"role": each.role.value, "tile": each.tile} for each in kernel.printed.axes
        },
        "grid": list(kernel.printed.grid),
        "warps": kernel.warps if form is None else form.warps.warps,
        "stages": kernel.stages if form is None else form.warps.stages,
        "shared_bytes": kernel.expected.shared_bytes,
        "registers": kernel.expected.registers,
        "form": kernel.form_name,
        "why": kernel.why,
    }


def _kernel_cost(kernel: KernelPlan) -> KernelCost:
    outputs = tuple(each.name for each in kernel.printed.outputs)
    said = kernel.expected
    plan = tuple(describe_kernel(kernel).items())
    return KernelCost(kernel.name, outputs, said.seconds, said.bound_by, plan)


# --- levels ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Counted:
    """A kernel with its counts and formulas; `names` gives its tiles their names in the formulas."""

    kernel: KernelPlan
    totals: Totals
    symbolic: Costs
    names: Mapping[str, Any]

    @classmethod
    def of(cls, kernel: KernelPlan, scalars: Scalars, ending: str) -> _Counted:
        counted = totals(kernel.printed, dict(kernel.sizes), scalars)
        symbolic = two_level_costs(kernel.derivation, _grouped(kernel))
        return cls(kernel, counted, symbolic, _tile_names(kernel, ending))

    def bind(self, formula: Any) -> Any:
        return bind(formula, self.names)

    def work(self, operations: Operations) -> Operations:
        return operations.bound(self.names)

    @property
    def step(self) -> str:
        """What a step moves and works; nothing without a stream."""
        if self.kernel.derivation.stream is None:
            return ""
        moved = self.bind(self.symbolic.transferred_by_step)
        return f"moves {moved}; works {self.work(self.symbolic.step)}"


def _numbering(plan: Plan, kernel: KernelPlan) -> str:
    """Return what the tiles of a kernel are told apart by, if there are several."""
    return f"_{plan.kernels.index(kernel) + 1}" if len(plan.kernels) > 1 else ""


def _tile_names(kernel: KernelPlan, ending: str) -> dict[str, Any]:
    """Return the tiles' symbols in formulas; the tile of an axis that lies whole is its size."""
    names: dict[str, Any] = {}
    for each in kernel.printed.axes:
        for role in (Role.GROUP, Role.STREAM):
            if ending:
                names[tile_symbol(each.axis, role).name] = tile_symbol(each.axis + ending, role)
        if each.role is AxisRole.WHOLE:
            names[tile_symbol(each.axis, Role.GROUP).name] = size_symbol(each.axis)
    return names


def _dram(plan: Plan, scalars: Scalars) -> LevelCost:
    sizes = plan.lengths
    moved = [a for k in plan.kernels for a in (*k.printed.arrays, *k.printed.outputs)]
    moved += [  # what groups add to is set to zero before
        a for k in plan.kernels for a in k.printed.outputs if a.name in k.printed.accumulated
    ]
    there = (*plan.arrays, *plan.kept, *plan.outputs)
    formula: Any = sum(prod((size_symbol(a) for a in each.axes), start=1) for each in moved)
    return LevelCost(
        "dram",
        sum(_elements(each, sizes) for each in moved),
        sum(_elements(each, sizes) * TYPE_BYTES[each.dtype] for each in moved),
        sum(_elements(each, sizes) * TYPE_BYTES[each.dtype] for each in there),
        str(formula),
        tuple(traffic_of(each, scalars) for each in plan.kernels),
    )


def _elements(array: Array, sizes: Mapping[str, int]) -> int:
    return prod(sizes[axis] for axis in array.axes)


def _on_chip(level: str, parts: Sequence[_Counted]) -> LevelCost:
    formula: Any = 0
    elements, size = 0, 0
    for each in parts:
        moved = [one for one in each.totals.transfers if level in (one.source, one.target)]
        names = {one.array for one in moved}
        wholes = [one.whole for one in each.symbolic.transfers if one.array in names]
        formula += sum(each.bind(one) for one in wholes)
        elements += sum(one.elements for one in moved)
        size += sum(one.bytes for one in moved)
    held = max(dict(peak(each.kernel.printed)).get(level, 0) for each in parts)
    return LevelCost(level, elements, size, held, str(formula))


def _grouped(kernel: KernelPlan) -> tuple[str, ...]:
    """Return the axes that the formula tiles: the plan's, and whole ones that it could tile."""
    could = choose_roles(kernel.derivation, None)
    return tuple(
        each.axis
        for each in kernel.printed.axes
        if (each.role is AxisRole.GROUP and each.tile > 1)
        or (each.role is AxisRole.WHOLE and could[each.axis] is Role.GROUP)
    )
