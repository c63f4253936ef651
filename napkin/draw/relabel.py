"""What relabelling adds to a diagram: levels, tiles in place of sizes, the stream's body, M and H.

In: a kernel's plan. Out: a `Relabelling`: the nodes with a load after every argument and a save
before every output, the level of each node's result, the label of every tiled axis, and what is
inside the stream's loop. Everything is read from the plan's Program. Paper, sections 2 to 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from napkin.draw.look import GLOBAL, REGISTER, Look
from napkin.draw.nodes import Node, Shape, build_nodes
from napkin.draw.shapes import Label, Run
from napkin.draw.weave import take_out_woven
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.planning.plan import KernelPlan
from napkin.schedule.program import AxisRole, AxisTile, Dot, Load, walk

_LETTERS = {AxisRole.GROUP: "g", AxisRole.STREAM: "s", AxisRole.SPLIT: "u"}
VECTOR_TYPES = ("fp32", "fp64")


@dataclass(frozen=True, slots=True)
class Divisor:
    """A number that must divide an axis's tile, and why."""

    axis: str
    number: int
    reason: str


@dataclass(frozen=True)
class Relabelling:
    """A kernel's plan as a picture shows it; `woven` axes are taken one index at a time."""

    kernel: KernelPlan
    nodes: tuple[Node, ...]
    woven: tuple[str, ...]
    levels: tuple[str, ...]

    @cached_property
    def tiles(self) -> dict[str, Label]:
        """The label of every axis whose tile is not the whole axis."""
        return {
            each.axis: (*symbol(each), *self._divisor_mark(each.axis))
            for each in self.kernel.printed.axes
            if each.role in _LETTERS
        }

    @cached_property
    def look(self) -> Look:
        """How wires look."""
        return Look(self.levels, self.tiles)

    @cached_property
    def tensor(self) -> frozenset[int]:
        """The contractions that run on tensor cores."""
        dots = {
            each.over
            for each in walk(self.kernel.printed.operations)
            if isinstance(each, Dot) and each.operand_type not in VECTOR_TYPES
        }
        dims = {each.axis: each.dim for each in self.kernel.printed.axes}
        return frozenset(
            place
            for place, node in enumerate(self.nodes)
            if node.shape is Shape.CONTRACTION and any(dims.get(axis) in dots for axis in node.over)
        )

    @cached_property
    def streamed(self) -> str | None:
        """The axis that streams."""
        stream = self.kernel.derivation.stream
        return stream.axis if stream else None

    @cached_property
    def body(self) -> frozenset[int]:
        """The nodes inside the stream's loop: those along its axis, and all between two of them."""
        along = {
            place
            for place, node in enumerate(self.nodes)
            if self.streamed in (*node.axes, *node.over)
            and not node.is_end
            and node.shape not in (Shape.LOAD, Shape.SAVE)
        }
        return frozenset(along | (_below(self.nodes, along) & _above(self.nodes, along)))

    @cached_property
    def divisors(self) -> tuple[Divisor, ...]:
        """The divisors that tiles and whole axes keep, each with its reason."""
        found = [each for each in _wished(self.kernel) if self._holds(each)]
        return tuple(dict.fromkeys(found))

    def _holds(self, each: Divisor) -> bool:
        tile = self.kernel.printed.axis(each.axis)
        return each.number > 1 and tile.tile % each.number == 0

    def _divisor_mark(self, axis: str) -> Label:
        numbers = [each.number for each in self.divisors if each.axis == axis]
        # All are powers of two: the greatest is their least common multiple.
        return (Run(f"({max(numbers)})", "sup"),) if numbers else ()


def symbol(each: AxisTile) -> Label:
    """Return an axis's tile as a symbol: g_q, s_x, u_d, or the axis itself where it is whole."""
    if each.role in _LETTERS:
        return (Run(_LETTERS[each.role], slanted=True), Run(each.axis, "sub", True))
    return (Run(each.axis, slanted=True),)


def relabel(kernel: KernelPlan) -> Relabelling:
    """Return what a picture of a kernel's plan shows."""
    diagram, program = kernel.derivation.diagram, kernel.printed
    tiled = [each.axis for each in program.axes if each.dim is not None]
    nodes, woven = take_out_woven(diagram, build_nodes(diagram), but=tiled)
    held: dict[str, str] = {}
    for each in walk(program.operations):
        if isinstance(each, Load):
            held.setdefault(each.array, each.tile.level)
    changed = _with_changes_of_level(nodes, held)
    return Relabelling(kernel, changed, woven, _levels(changed, held))


# --- loads and saves ------------------------------------------------------------------------------


def _with_changes_of_level(nodes: Sequence[Node], held: Mapping[str, str]) -> tuple[Node, ...]:
    """Return the nodes with a load after every argument that a step reads, a save before outputs."""
    made: list[Node] = []
    places: dict[int, int] = {}
    loads: dict[int, int] = {}
    for place, node in enumerate(nodes):
        if node.shape is Shape.OUTPUT:
            source = _moved(node.inputs[0], places, loads)
            made.append(Node(Shape.SAVE, "", "save", (source,), node.axes))
            made.append(replace(node, inputs=(len(made) - 1,)))
            continue
        if node.shape is Shape.GATHER:
            inputs = tuple(places[each] for each in node.inputs)
        else:
            inputs = tuple(_moved(each, places, loads) for each in node.inputs)
        places[place] = len(made)
        made.append(replace(node, inputs=inputs))
        if node.shape is Shape.ARGUMENT and not node.is_scalar and _is_loaded(nodes, place):
            loads[place] = len(made)
            made.append(Node(Shape.LOAD, "", f"load {node.name}", (places[place],), node.axes))
    return tuple(made)


def _moved(source: int, places: Mapping[int, int], loads: Mapping[int, int]) -> int:
    return loads.get(source, places[source])


def _is_loaded(nodes: Sequence[Node], place: int) -> bool:
    """Return whether something else reads an argument than steps that read it at positions."""
    return any(place in each.inputs and each.shape is not Shape.GATHER for each in nodes)


def _levels(nodes: Sequence[Node], held: Mapping[str, str]) -> tuple[str, ...]:
    levels: list[str] = []
    for node in nodes:
        if node.shape in (Shape.ARGUMENT, Shape.SAVE, Shape.OUTPUT):
            levels.append(GLOBAL)
        elif node.shape in (Shape.LOAD, Shape.GATHER):
            names = [nodes[each].name for each in node.inputs]
            levels.append(next((held[name] for name in names if name in held), REGISTER))
        else:
            levels.append(REGISTER)
    return tuple(levels)


# --- what lies between ----------------------------------------------------------------------------


def _below(nodes: Sequence[Node], among: set[int]) -> set[int]:
    """Return the nodes that read one of these, or something below it."""
    found: set[int] = set()
    for place, node in enumerate(nodes):
        if any(each in among or each in found for each in node.inputs):
            found.add(place)
    return found


def _above(nodes: Sequence[Node], among: set[int]) -> set[int]:
    """Return the nodes that one of these reads, or something above it."""
    found: set[int] = set()
    for place in reversed(range(len(nodes))):
        if place in among or place in found:
            found |= set(nodes[place].inputs)
    return found


# --- divisors -------------------------------------------------------------------------------------


def _wished(kernel: KernelPlan) -> list[Divisor]:
    """Return what coalesced transfers and matrix instructions ask of the tiles (paper, 7.4)."""
    program, machine = kernel.printed, kernel.machine
    line = machine.limits.coalesced_bytes
    found: list[Divisor] = []
    for each in walk(program.operations):
        if isinstance(each, Load) and each.tile.dims and not any(each.gathered):
            array = program.array(each.array)
            if array.axes:
                number = line // TYPE_BYTES[array.dtype]
                found.append(Divisor(array.axes[-1], number, f"lines of {line} B"))
        if isinstance(each, Dot) and each.operand_type not in VECTOR_TYPES:
            found += _instruction_divisors(kernel, each)
    return sorted(found, key=lambda each: (each.axis, -each.number, each.reason))


def _instruction_divisors(kernel: KernelPlan, each: Dot) -> list[Divisor]:
    if not kernel.machine.instructions:
        return []
    instruction = kernel.machine.instructions[0]
    dims = {dim.name: dim.axes for dim in kernel.printed.dims}
    asked = [(each.over, instruction.depth(TYPE_BYTES[each.operand_type]), "k")]
    if len(each.tile.dims) == 2:
        rows, columns = each.tile.dims
        asked += [(rows, instruction.m, "m"), (columns, instruction.n_step, "n")]
    return [
        Divisor(dims[dim][0], number, f"{instruction.name} {side}{number}")
        for dim, number, side in asked
        if len(dims[dim]) == 1
    ]
