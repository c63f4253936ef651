"""What a plan costs, as users read it: formulas, the same in numbers, and the prediction.

In: a `Plan`. Out: `Cost`, which prints as a table and as JSON. H and M are the paper's (sections 3
and 5), symbolic from the derivation; elements, bytes and operations are counted on the plan's own
Program; seconds and what binds are the plan's prediction. Every level is charged with what enters
or leaves it: `shared` and `register` with the transfers that end there, `dram` with every array
once, which no plan can save.

Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from napkin.algebra.derive import Derivation
from napkin.diagram import Diagram, Graph, Input, Pointwise, Reduce, topological
from napkin.evaluate import NumpyArithmetic, evaluate
from napkin.model.costs import two_level_costs
from napkin.model.measures import Costs
from napkin.model.roles import (
    Role,
    bind,
    choose_roles,
    is_contraction,
    size_symbol,
    tile_symbol,
)
from napkin.operators import Pipeline
from napkin.schedule.count import Totals, peak, totals
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.plan import Plan
from napkin.schedule.program import AxisRole

Scalars = Mapping[str, float | int]
_SAMPLES = 2048  # positions of an axis at which a mask is looked at
_ON_CHIP = ("shared", "register")


@dataclass(frozen=True, slots=True)
class LevelCost:
    """What enters or leaves a level in the whole dispatch, and the most that lies there a block."""

    level: str
    transfer_elements: int
    transfer_bytes: int
    memory_bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Cost:
    """A plan's cost. `flops` are those of the contractions that a mask leaves.

    `is_exact` tells whether every loop's bounds were known.
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
    bound_by: str
    seconds: float
    plan: tuple[tuple[str, Any], ...]
    is_exact: bool

    def as_json(self) -> dict[str, Any]:
        """Return the cost as `napkin cost --json` prints it."""
        return {
            "diagram": self.diagram,
            "machine": self.machine,
            "sizes": dict(self.sizes),
            "dtype": self.dtype,
            "flops": self.flops,
            "pipelines": dict(self.operations),
            "levels": {
                each.level: {
                    "transfer_bytes": each.transfer_bytes,
                    "transfer_elements": each.transfer_elements,
                    "memory_bytes": each.memory_bytes,
                    "formula": each.formula,
                }
                for each in self.levels
            },
            "bound_by": self.bound_by,
            "predicted_seconds": self.seconds,
            "plan": dict(self.plan),
        }

    def headline(self) -> str:
        """Return the cost in a line."""
        return (
            f"{self.diagram} for {self.machine} in {self.dtype}: H = {self.transferred} elements; "
            f"predicted {self.seconds * 1e3:.3f} ms, bound by {self.bound_by}"
        )

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def cost_of(plan: Plan, *, scalars: Scalars | None = None) -> Cost:
    """Return the cost of a plan at the lengths it was judged at."""
    derivation, sizes = plan.derivation, dict(plan.sizes)
    counted = totals(plan.program, sizes, scalars or {})
    symbolic = two_level_costs(derivation, _grouped(plan))
    held = _held_whole(plan)
    return Cost(
        derivation.diagram.name,
        plan.machine.name,
        plan.sizes,
        plan.dtype,
        contraction_flops(derivation, sizes, scalars),
        tuple((unit.value, counted.on(unit)) for unit in Pipeline if unit is not Pipeline.COPY),
        (_dram(plan), *(_on_chip(plan, level, counted, symbolic) for level in _ON_CHIP)),
        str(bind(symbolic.transferred, held)),
        str(bind(symbolic.memory.elements, held)),
        plan.prediction.bound_by,
        plan.prediction.seconds,
        tuple(describe_plan(plan).items()),
        counted.is_exact,
    )


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data: what every axis does, and what a block takes."""
    return {
        "axes": {
            each.axis: {"role": each.role.value, "tile": each.tile} for each in plan.program.axes
        },
        "grid": list(plan.program.grid),
        "warps": plan.warps,
        "stages": plan.stages,
        "shared_bytes": plan.prediction.shared_bytes,
        "registers": plan.prediction.registers,
    }


# --- levels ---------------------------------------------------------------------------------------


def _dram(plan: Plan) -> LevelCost:
    sizes = dict(plan.sizes)
    arrays = (*plan.program.arrays, *plan.program.outputs)
    counts = {each.name: prod(sizes[axis] for axis in each.axes) for each in arrays}
    size = sum(counts[each.name] * TYPE_BYTES[each.dtype] for each in arrays)
    formula: Any = sum(prod((size_symbol(a) for a in each.axes), start=1) for each in arrays)
    return LevelCost("dram", sum(counts.values()), size, size, str(formula))


def _on_chip(plan: Plan, level: str, counted: Totals, symbolic: Costs) -> LevelCost:
    moved = [each for each in counted.transfers if level in (each.source, each.target)]
    names = {each.array for each in moved}
    formula: Any = sum(each.whole for each in symbolic.transfers if each.array in names)
    return LevelCost(
        level,
        sum(each.elements for each in moved),
        sum(each.bytes for each in moved),
        dict(peak(plan.program)).get(level, 0),
        str(bind(formula, _held_whole(plan)) if names else 0),
    )


def _grouped(plan: Plan) -> tuple[str, ...]:
    """Return the axes that the formula tiles: the plan's, and whole ones that it could tile."""
    could = choose_roles(plan.derivation, None)
    return tuple(
        each.axis
        for each in plan.program.axes
        if (each.role is AxisRole.GROUP and each.tile > 1)
        or (each.role is AxisRole.WHOLE and could[each.axis] is Role.GROUP)
    )


def _held_whole(plan: Plan) -> dict[str, Any]:
    """Return, for every axis that lies whole on chip, that its tile is its size."""
    return {
        tile_symbol(each.axis, Role.GROUP).name: size_symbol(each.axis)
        for each in plan.program.axes
        if each.role is AxisRole.WHOLE
    }


# --- work -----------------------------------------------------------------------------------------


def contraction_flops(
    derivation: Derivation, sizes: Mapping[str, int], scalars: Scalars | None = None
) -> int:
    """Return the FLOPs of the diagram's contractions, counting what its mask leaves.

    Parts of a mask that are read from data, or from scalars that are not given, count as true.
    """
    masks = [_indexed_part(derivation, each, scalars or {}) for each in derivation.conditions]
    parts = masks[0] if masks else []
    masked = {axis for each in parts for axis in derivation.graph[each].axes}
    left = _fraction_true(derivation, parts, sizes, scalars or {})
    total = 0.0
    for axes in _contracted(derivation.diagram):
        dense = 2 * prod(sizes[axis] for axis in axes)
        total += dense * (left if masked <= axes else 1.0)
    return round(total)


def _contracted(diagram: Diagram) -> list[frozenset[str]]:
    """Return the axes of every contraction, those that it sums included."""
    roots = [each.box for each in diagram.outputs]
    boxes = (diagram.boxes[each] for each in topological(diagram.boxes, roots))
    return [
        frozenset((*box.axes, *box.over))
        for box in boxes
        if isinstance(box, Reduce) and is_contraction(diagram.boxes, box.operands, box.over)
    ]


def _indexed_part(derivation: Derivation, condition: int | None, scalars: Scalars) -> list[int]:
    """Return the conjuncts of a mask that depend on positions and known scalars alone."""
    stack, parts = [] if condition is None else [condition], []
    graph = derivation.graph
    while stack:
        each = stack.pop()
        box = graph[each]
        if isinstance(box, Pointwise) and box.operator == "and":
            stack += box.operands
            continue
        needed = [graph[i] for i in topological(graph, [each])]
        if all(not isinstance(b, Input) or b.name in scalars for b in needed):
            parts.append(each)
    return parts


def _fraction_true(
    derivation: Derivation, parts: list[int], sizes: Mapping[str, int], scalars: Scalars
) -> float:
    if not parts:
        return 1.0
    graph = Graph(derivation.graph.boxes)
    condition = parts[0]
    for each in parts[1:]:
        condition = graph.pointwise("and", condition, each)
    indices = {axis: _sampled(sizes[axis]) for axis in graph[condition].axes}
    given = {name: np.asarray(value) for name, value in scalars.items()}
    values = evaluate(
        graph, [condition], given, sizes, indices=indices, arithmetic=NumpyArithmetic()
    )
    return float(np.mean(values[condition]))


def _sampled(size: int) -> Any:
    """Return an axis's positions, evenly thinned out where it is long."""
    count = min(size, _SAMPLES)
    return ((np.arange(count) * 2 + 1) * size) // (2 * count)


# --- printing -------------------------------------------------------------------------------------


def _lines(cost: Cost) -> list[str]:
    sizes = " ".join(f"{axis}={size}" for axis, size in cost.sizes)
    rows = [("level", "transferred", "bytes", "resident a block", "formula of the transfers")]
    for each in cost.levels:
        resident = "" if each.level == "dram" else f"{each.memory_bytes:,} B"
        rows.append(
            (
                each.level,
                f"{each.transfer_elements:,}",
                _scaled(each.transfer_bytes, "B"),
                resident,
                each.formula,
            )
        )
    work = [(name, _scaled(count, "")) for name, count in cost.operations]
    axes = dict(cost.plan)["axes"]
    tiles = ", ".join(f"{axis} {one['role']} by {one['tile']}" for axis, one in axes.items())
    return [
        f"{cost.diagram} on {cost.machine}, {cost.dtype}: {sizes}",
        "",
        f"H = {cost.transferred}",
        f"M = {cost.memory}",
        "    in elements; g_q is the tile of a grouped axis q, s_x that of the stream x",
        "",
        *_table(rows),
        "",
        f"contractions {_scaled(cost.flops, 'FLOP')}"
        + "".join(f"; {name} {count} operations" for name, count in work if count != "0 "),
        *([] if cost.is_exact else ["counted as if every chunk of the stream were walked"]),
        f"predicted {cost.seconds * 1e3:.3f} ms, bound by {cost.bound_by}",
        f"plan: {tiles}; {dict(cost.plan)['warps']} warps, {dict(cost.plan)['stages']} stages",
    ]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            text.ljust(width) if i in (0, last) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _scaled(count: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.4g} {prefix}{unit}"
    return f"{count:.4g} {unit}"


# --- plans ----------------------------------------------------------------------------------------


def show_plan(plan: Plan) -> str:
    """Return a plan as text: the `on` block that would fix it, and what it is expected to take."""
    program, prediction = plan.program, plan.prediction
    sizes = dict(plan.sizes)
    rows = [("axis", "role", "tile", "length", "tiles")]
    for each in program.axes:
        count = "" if each.role is AxisRole.WHOLE else str(-(-sizes[each.axis] // each.tile))
        rows.append((each.axis, each.role.value, str(each.tile), str(sizes[each.axis]), count))
    rings = ", ".join(
        f"{each.array} {each.stages} x {each.tile_bytes} B" for each in program.buffers
    )
    return "\n".join(
        [
            f"{plan.derivation.diagram.name} on {plan.machine.name}, {plan.dtype}",
            "",
            *_table(rows),
            "",
            f"grid, the fastest axis first: {' '.join(program.grid) or 'one block'}",
            f"shared memory {prediction.shared_bytes} B a block"
            + (f" (rings: {rings})" if rings else ""),
            f"registers {prediction.registers} a thread",
            f"predicted {prediction.seconds * 1e3:.3f} ms, bound by {prediction.bound_by}",
            "",
            "to fix it, put this in the file:",
            "",
            *_on_block(plan),
        ]
    )


def _on_block(plan: Plan) -> list[str]:
    group = set(plan.derivation.group)
    lines = [f"on {plan.machine.name}"]
    for word, roles in (
        ("group", (AxisRole.GROUP, AxisRole.WHOLE)),
        ("stream", (AxisRole.STREAM,)),
        ("split", (AxisRole.SPLIT,)),
    ):
        tiles: dict[int, list[str]] = {}
        for each in plan.program.axes:
            if each.role in roles and (word != "group" or each.axis in group):
                tiles.setdefault(each.tile, []).append(each.axis)
        if tiles:
            phrases = (f"{' '.join(axes)} by {tile}" for tile, axes in tiles.items())
            lines.append(f"    {word} {', '.join(phrases)}")
    return [*lines, f"    warps {plan.warps}", f"    stages {plan.stages}"]
