"""What a diagram costs on a machine before any plan, or where no code is generated: the model alone.

In: a derivation, a machine, lengths, a storage type. Out: `Unplanned`: H and M by formula, the power law
of the least transfers, the ideal of every level and pipeline, and, where the diagram has an `on` block
for the machine, the configuration and throughput tables of its labels. `cost_without_plan` gives the same
as a `Cost` of no kernel.

An `on` block is taken at its word here: a label that no kernel could follow is counted all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from napkin.algebra.derive import Derivation
from napkin.diagram import STORAGE_BYTES
from napkin.machine import Machine
from napkin.model.configuration import Configuration
from napkin.model.costs import two_level_costs
from napkin.model.hand import configure_by_hand, labels_by_hand
from napkin.model.hierarchy import FedLevel, best_group
from napkin.model.ideal import Ideal, dense_flops, ideal
from napkin.model.measures import Costs
from napkin.model.optimum import PowerLaw, power_law
from napkin.model.roles import size_symbol
from napkin.model.several import Several, several
from napkin.model.throughput import Throughput
from napkin.operators import Pipeline
from napkin.schedule.layout import argument_arrays, output_arrays
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.planning.cost import Cost, LevelCost
from napkin.schedule.planning.flops import contraction_flops
from napkin.schedule.planning.plan import given_lengths, lacking_types, relabelling_for
from napkin.schedule.tiling.kernel import storage_types
from napkin.schedule.units import listed


@dataclass(frozen=True, slots=True)
class Clusters:
    """Units that pass on to each other: how many are best joined, and the seconds with them and alone."""

    size: int
    seconds: float
    alone: float


@dataclass(frozen=True, slots=True)
class Unplanned:
    """The model's word on a diagram.

    `once` is memory's part: every array once. `law` is None where it has no closed form, `clusters` also
    where the machine has none or a rate is not published, `several` without links between GPUs. `lacking`
    names the storage types that the machine does not compute with: their contractions count widened to
    fp16.
    """

    diagram: str
    machine: Machine
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    flops: int
    transferred: str
    memory: str
    work: str
    step: str
    once: LevelCost
    law: PowerLaw | None
    ideal: Ideal
    clusters: Clusters | None
    several: Several | None
    tables: tuple[Configuration, Throughput] | None
    lacking: tuple[str, ...]

    @property
    def note(self) -> str:
        """What is counted otherwise than a reader may expect, empty where there is nothing to say."""
        notes = []
        if self.lacking:
            notes.append(
                f"it has no {listed(self.lacking)}, so there is no kernel; counted as fp16"
            )
        if self.unrated:
            notes.append(f"no rate published of {listed(self.unrated)}, whose time is left out")
        return "; ".join(notes)

    @property
    def unrated(self) -> tuple[str, ...]:
        """The pipelines that have work and no published rate."""
        return tuple(
            each.pipeline.value
            for each in self.ideal.pipelines
            if each.operations and each.seconds is None
        )

    def as_cost(self) -> Cost:
        """Return the same as a cost of no kernel: levels at their least."""
        work = {each.pipeline: each.operations for each in self.ideal.pipelines}
        formula = self.transferred if self.law is None else str(self.law)
        levels = (
            LevelCost(
                level=each.level,
                transfer_elements=round(each.elements),
                transfer_bytes=round(each.bytes),
                memory_bytes=round(each.held),
                formula=formula,
            )
            for each in self.ideal.levels
        )
        return Cost(
            diagram=self.diagram,
            machine=self.machine.name,
            sizes=self.sizes,
            dtype=self.dtype,
            flops=self.flops,
            operations=tuple(
                (each.value, round(work.get(each, 0)))
                for each in Pipeline
                if each is not Pipeline.COPY
            ),
            levels=(self.once, *levels),
            transferred=self.transferred,
            memory=self.memory,
            least="" if self.law is None else str(self.law),
            bound_by=self.ideal.bound_by,
            seconds=self.ideal.seconds,
            kernels=(),
            is_exact=True,
            work=self.work,
            step=self.step,
            unrated=self.unrated,
            note=self.note,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the cost as `napkin cost --json` prints it."""
        return self.as_cost().as_json()


def cost_without_plan(
    derivation: Derivation,
    machine: Machine,
    *,
    sizes: Mapping[str, int] | None = None,
    dtype: str = "bf16",
    computed: str = "fp32",
) -> Unplanned:
    """Return the model's word on a diagram; `computed` is the type of what the tables hold in registers.

    Raises NapkinError (N401, N403, N404) for an unknown axis, a length that is missing, or an `on` block
    for no known machine.
    """
    diagram = derivation.diagram
    known = given_lengths(derivation, sizes or {})
    lengths = {axis: known.get(axis, 4096) for axis in diagram.axes}
    types = storage_types(diagram, dtype)
    costs = two_level_costs(derivation)
    flops = contraction_flops(derivation, lengths)
    dense = dense_flops(derivation, lengths)
    return Unplanned(
        diagram.name,
        machine,
        tuple(lengths.items()),
        dtype,
        flops,
        str(costs.transferred),
        str(costs.memory.elements),
        str(costs.whole),
        "" if derivation.stream is None else _step(costs),
        _once(derivation, lengths, types),
        power_law(costs),
        ideal(derivation, machine, lengths, types, flops / dense if dense else 1.0),
        _clusters(costs, machine, lengths, types),
        several(derivation, machine, lengths, types),
        _tables(derivation, machine, lengths, types, computed),
        tuple(lacking_types(diagram, machine, dtype)),
    )


def _step(costs: Costs) -> str:
    return f"moves {costs.transferred_by_step}; works {costs.step}"


def _once(
    derivation: Derivation, lengths: Mapping[str, int], types: Mapping[str, str]
) -> LevelCost:
    diagram = derivation.diagram
    arrays = (*argument_arrays(diagram, types), *output_arrays(diagram, types))
    counts = {each: prod(lengths[axis] for axis in each.axes) for each in arrays}
    size = sum(count * STORAGE_BYTES[each.dtype] for each, count in counts.items())
    formula: Any = sum(prod((size_symbol(a) for a in each.axes), start=1) for each in arrays)
    return LevelCost("dram", sum(counts.values()), size, size, str(formula))


def _clusters(
    costs: Costs, machine: Machine, lengths: Mapping[str, int], types: Mapping[str, str]
) -> Clusters | None:
    """Return the best cluster by the paper's theorem (section 6.5), in bytes throughout."""
    shared, above = machine.level("shared"), machine.parent("shared")
    rates = {n: rate for each in machine.links if each.joins == "shared" for n, rate in each.rates}
    widths = {name: STORAGE_BYTES[kind] for name, kind in types.items() if kind in STORAGE_BYTES}
    law = power_law(costs.in_bytes(widths)) if rates else None
    if law is None or above is None or above.bandwidth is None:
        return None
    known = law.bound(lengths)
    child = FedLevel(shared.capacity, above.bandwidth)
    size, seconds = best_group(known, child, rates)
    return Clusters(size, float(seconds), float(known.at(child.memory) / child.rate))


def _tables(
    derivation: Derivation,
    machine: Machine,
    lengths: Mapping[str, int],
    types: Mapping[str, str],
    computed: str,
) -> tuple[Configuration, Throughput] | None:
    block = relabelling_for(derivation.diagram, machine)
    if block is None or derivation.stream is None or machine.published_limits is None:
        return None
    cheap = rewrite(derivation)
    labels = labels_by_hand(cheap, machine, block, lengths, types, computed)
    return configure_by_hand(cheap, machine, labels)
