"""The NumPy executor: runs a Program for every group, exactly as its kernel would, and counts.

In: a `Program`, its arrays, scalars and axis lengths. Out: the outputs, and what was done: steps,
transfers and operations. Tiles are arrays over their dims; what lies past an axis's end reads as
zero where the load is masked and is never stored. It is the check on lowering that needs no GPU, so
it is strict where a GPU is not: a read or write outside an array, an element that nobody writes (but of
an output that is added up, which starts at zero) and a tile read before it has a value are errors.

It computes in float64 and rounds nothing, so that what differs from the reference by more than
rounding is a wrong program. It knows nothing of warps, stages or layouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isinf, prod
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from napkin.language.errors import InternalError
from napkin.operators import POINTWISE, REDUCTIONS, Kind
from napkin.schedule.count import Totals, Transfer, Work, carried_axes, work
from napkin.schedule.program import (
    Array,
    Assign,
    Compute,
    Dot,
    EdgePosition,
    Fill,
    Fold,
    Length,
    Literal,
    Load,
    Loop,
    Operand,
    Operation,
    Path,
    Positions,
    Program,
    Region,
    Store,
    Tile,
)

Value = npt.NDArray[Any]
_STORAGE = {Kind.FLOAT: np.float64, Kind.INT: np.int64, Kind.BOOL: np.bool_}


@dataclass(frozen=True, slots=True)
class Execution:
    """Outputs in memory order, dims as in the signature, and counts.

    `steps` gives the steps of every loop by axis and region, summed over groups.
    """

    outputs: dict[str, Value]
    groups: int
    steps: dict[tuple[str, Region], int]
    totals: Totals


def execute(
    program: Program,
    arrays: Mapping[str, npt.ArrayLike],
    scalars: Mapping[str, float | int],
    sizes: Mapping[str, int],
) -> Execution:
    """Run the program for every group; raise InternalError where a kernel would silently err."""
    machine = _Machine(program, arrays, scalars, sizes)
    groups = 0
    for starts in _groups(program, sizes):
        machine.run_group(starts)
        groups += 1
    return Execution(machine.results(), groups, machine.tally.steps, machine.tally.totals())


def _groups(program: Program, sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield the first position of every grouped axis, group by group, the fastest innermost."""
    slowest_first = program.grid[::-1]
    for place in product(*(_starts(program, axis, sizes[axis]) for axis in slowest_first)):
        yield dict(zip(slowest_first, place, strict=True))


def _starts(program: Program, axis: str, size: int) -> range:
    starts = range(0, size, program.axis(axis).tile)
    return starts[::-1] if axis in program.descending else starts


class _Tally:
    """Running counts; one entry an operation, whatever the number of groups."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._work: dict[Operation, Work] = {}
        self._runs: dict[Operation, int] = {}
        self._inside: dict[Operation, int] = {}
        self.steps: dict[tuple[str, Region], int] = {}

    def step(self, loop: Loop) -> None:
        """Count one step of a loop."""
        key = (loop.axis, loop.region)
        self.steps[key] = self.steps.get(key, 0) + 1

    def ran(self, operation: Operation) -> None:
        """Count one execution of an operation."""
        self._runs[operation] = self._runs.get(operation, 0) + 1

    def moved(self, operation: Operation, inside: int) -> None:
        """Count the elements of one transfer that lie inside the array."""
        self._inside[operation] = self._inside.get(operation, 0) + inside

    def totals(self) -> Totals:
        """Return the sums."""
        total = Totals()
        for each, runs in self._runs.items():
            done = work(each, self._program)
            operations = tuple((unit, number * runs) for unit, number in done.operations)
            total += Totals(self._transfers(each, done, runs), operations)
        return total

    def _transfers(self, operation: Operation, done: Work, runs: int) -> tuple[Transfer, ...]:
        inside = self._inside.get(operation, 0)
        return tuple(
            Transfer(
                each.array,
                each.source,
                each.target,
                inside,
                inside * each.bytes // each.elements,
                each.elements * runs,
            )
            for each in done.moves
        )


class _Machine:
    """Global memory, the tiles of the group at hand, and the positions it stands at."""

    def __init__(
        self,
        program: Program,
        arrays: Mapping[str, npt.ArrayLike],
        scalars: Mapping[str, float | int],
        sizes: Mapping[str, int],
    ) -> None:
        self.program = program
        self.sizes = sizes
        self.scalars = scalars
        self.axes = {each.axis: each for each in program.axes}
        self.dims = {each.name: each for each in program.dims}
        self.arrays = {
            each.name: _opened(arrays[each.name], each, sizes) for each in program.arrays
        }
        added = program.accumulated
        self.outputs = {
            each.name: _zeroed(each, sizes) if each.name in added else _poisoned(each, sizes)
            for each in program.outputs
        }
        self.written = {
            name: np.full(each.shape, name in added) for name, each in self.outputs.items()
        }
        self.tally = _Tally(program)
        self.starts: dict[str, int] = {}
        self.values: dict[str, Value] = {}
        self.tiles: dict[str, Tile] = {}

    def run_group(self, starts: Mapping[str, int]) -> None:
        """Run every operation at one place of the grid; nothing on chip is left of the last one."""
        self.starts = dict.fromkeys(self.axes, 0) | dict(starts)
        self.values, self.tiles = {}, {}
        with np.errstate(all="ignore"):
            self._run(self.program.operations)

    def results(self) -> dict[str, Value]:
        """Return the outputs with composite dims merged; every element must have been written."""
        merged: dict[str, Value] = {}
        for each in self.program.outputs:
            missing = int((~self.written[each.name]).sum())
            if missing:
                raise InternalError(f"{missing} elements of `{each.name}` were never written")
            shape = [prod(self.sizes[axis] for axis in dim) for dim in each.dims]
            merged[each.name] = self.outputs[each.name].reshape(shape)
        return merged

    def _run(self, operations: Sequence[Operation]) -> None:
        for each in operations:
            self._do(each)
            if not isinstance(each, Loop):
                self.tally.ran(each)

    def _do(self, operation: Operation) -> None:
        match operation:
            case Load():
                self._define(operation.tile, self._load(operation))
            case Positions():
                dims = operation.tile.dims
                self._define(operation.tile, self._positions(operation.axis, dims))
            case EdgePosition():
                self._define(operation.tile, self._edge(operation))
            case Compute():
                self._define(operation.tile, self._compute(operation))
            case Fold():
                self._define(operation.tile, self._fold(operation))
            case Dot():
                self._define(operation.tile, self._dot(operation))
            case Fill():
                self._define(operation.tile, _filled(operation.value, operation.tile.kind))
            case Assign():
                self._define(self.tiles[operation.target], self._value(operation.source))
            case Store():
                self._store(operation)
            case Loop():
                self._loop(operation)
            case _:
                assert_never(operation)

    # --- values -----------------------------------------------------------------------------------

    def _define(self, tile: Tile, value: Value) -> None:
        shape = tuple(self.dims[dim].extent for dim in tile.dims)
        whole: Value = np.broadcast_to(value, shape).astype(_STORAGE[tile.kind])
        self.values[tile.name], self.tiles[tile.name] = whole, tile

    def _value(self, operand: Operand) -> Value:
        match operand:
            case Literal():
                return np.asarray(operand.value)
            case Length():
                return np.asarray(self.sizes[operand.axis])
            case _ if operand in self.values:
                return self.values[operand]
            case _ if operand in self.scalars:
                return np.asarray(self.scalars[operand])
            case _:
                raise InternalError(f"`{operand}` is read before it has a value")

    def _dims(self, operand: Operand) -> tuple[str, ...]:
        if isinstance(operand, str) and operand in self.tiles:
            return self.tiles[operand].dims
        return ()

    def _over(self, value: Value, dims: Sequence[str], target: Sequence[str]) -> Value:
        """Return a value over `dims` as one that broadcasts over `target`."""
        if not set(dims) <= set(target):
            raise InternalError(f"a value over {list(dims)} does not fit {list(target)}")
        order = [dims.index(dim) for dim in target if dim in dims]
        absent = tuple(i for i, dim in enumerate(target) if dim not in dims)
        return np.expand_dims(np.transpose(value, order), absent)

    def _compute(self, operation: Compute) -> Value:
        dims = operation.tile.dims
        operands = [
            self._over(self._value(each), self._dims(each), dims) for each in operation.operands
        ]
        return np.asarray(POINTWISE[operation.operator].numpy(*operands))

    def _fold(self, operation: Fold) -> Value:
        dims = self._dims(operation.source)
        places = tuple(dims.index(dim) for dim in operation.over)
        folded = REDUCTIONS[operation.operator].numpy(self._value(operation.source), axis=places)
        left = [dim for dim in dims if dim not in operation.over]
        return self._over(np.asarray(folded), left, operation.tile.dims)

    def _dot(self, operation: Dot) -> Value:
        sides = (operation.left, operation.right)
        dims = tuple(dict.fromkeys(dim for side in sides for dim in self._dims(side)))
        letter = {dim: chr(ord("a") + place) for place, dim in enumerate(dims)}
        left, right = ("".join(letter[dim] for dim in self._dims(side)) for side in sides)
        result = "".join(letter[dim] for dim in operation.tile.dims)
        form = f"{left},{right}->{result}"
        total: Value = np.einsum(form, self._value(sides[0]), self._value(sides[1]))
        return (
            total if operation.accumulator is None else total + self._value(operation.accumulator)
        )

    # --- positions --------------------------------------------------------------------------------

    def _positions(self, axis: str, dims: Sequence[str]) -> Value:
        """Return an axis's positions in the tile at hand, broadcasting over `dims`."""
        tile = self.axes[axis]
        start = np.asarray(self.starts[axis])
        if tile.dim is None:
            return start
        dim = self.dims[tile.dim]
        inner = prod(self.axes[each].tile for each in dim.axes[dim.axes.index(axis) + 1 :])
        places = start + np.arange(dim.extent) // inner % tile.tile
        return self._over(places, (dim.name,), dims)

    def _edge(self, operation: EdgePosition) -> Value:
        start = self.starts[operation.axis]
        stop = min(start + self.axes[operation.axis].tile, self.sizes[operation.axis])
        return np.asarray(start if operation.end == "first" else stop - 1)

    def _guard(
        self, axes: Sequence[str], masked: Sequence[str], path: Path, dims: Sequence[str]
    ) -> Value:
        """Return where a transfer lies inside its array; refuse one that leaves it unmasked."""
        inside = np.ones([self.dims[dim].extent for dim in dims], bool)
        for axis in axes:
            here = self._positions(axis, dims) < self.sizes[axis]
            if not here.all() and axis not in masked and path is not Path.DESCRIPTOR:
                raise InternalError(f"a transfer runs past the end of `{axis}` unmasked")
            inside = inside & here
        return inside

    # --- transfers --------------------------------------------------------------------------------

    def _load(self, operation: Load) -> Value:
        array, dims = self.arrays[operation.array], operation.tile.dims
        inside = self._guard(
            sorted(carried_axes(operation, self.program)), operation.masked, operation.path, dims
        )
        places = [
            self._index(index, is_tile, dims)
            for index, is_tile in zip(operation.indices, operation.gathered, strict=True)
        ]
        # A position read from data is the caller's: it is clamped, as the reference has it.
        bounded = [
            np.clip(place, 0, max(length - 1, 0))
            for place, length in zip(places, array.shape, strict=True)
        ]
        self.tally.moved(operation, int(inside.sum()))
        return np.where(inside, array[tuple(bounded)], 0) if array.size else np.zeros(inside.shape)

    def _index(self, index: str, is_tile: bool, dims: Sequence[str]) -> Value:
        if is_tile:
            return self._over(self._value(index), self._dims(index), dims)
        return self._positions(index, dims)

    def _store(self, operation: Store) -> None:
        array = self.program.array(operation.array)
        held = (self.axes[axis].dim for axis in array.axes)
        dims = tuple(dict.fromkeys(dim for dim in held if dim is not None))
        inside = self._guard(array.axes, operation.masked, operation.path, dims)
        source = self._value(operation.source)
        if self._dims(operation.source) != operation.source_dims:
            raise InternalError(f"a store of `{array.name}` misstates the dims of its source")
        value = np.broadcast_to(self._over(source, operation.source_dims, dims), inside.shape)
        places = tuple(
            np.broadcast_to(self._positions(axis, dims), inside.shape)[inside]
            for axis in array.axes
        )
        # A scalar output has no places: NumPy writes it by `...`, and as a whole.
        where = places or ...
        new = value[inside] if places else value
        if operation.adds:
            self.outputs[array.name][where] += new  # a tile holds every place once
        else:
            self.outputs[array.name][where] = new
        self.written[array.name][where] = True
        self.tally.moved(operation, int(inside.sum()))

    # --- loops ------------------------------------------------------------------------------------

    def _loop(self, loop: Loop) -> None:
        start, stop = (int(self._value(each)) for each in (loop.start, loop.stop))
        if loop.step != self.axes[loop.axis].tile:
            raise InternalError(f"a loop over `{loop.axis}` does not step by its tile")
        outside = set(self.values)
        positions = range(start, stop, loop.step)
        for position in positions[::-1] if loop.descending else positions:
            self.starts[loop.axis] = position
            self.tally.step(loop)
            self._run(loop.body)
            # What a step makes is gone after it: only states, which stood before the loop, stay.
            self.values = {name: self.values[name] for name in self.values if name in outside}
        self.starts[loop.axis] = 0


def _opened(array: npt.ArrayLike, signature: Array, sizes: Mapping[str, int]) -> Value:
    """Return an argument with its composite dims opened, computed with in the widest type."""
    wide: Value = np.asarray(array).astype(_STORAGE[signature.kind])
    return wide.reshape([sizes[axis] for axis in signature.axes])


def _filled(value: float | int | bool, kind: Kind) -> Value:
    """Return a number as its kind has it: among integers infinity is the largest one."""
    if kind is Kind.INT and isinf(value):
        limits = np.iinfo(np.int64)
        return np.asarray(limits.max if value > 0 else limits.min)
    return np.asarray(value)


def _zeroed(signature: Array, sizes: Mapping[str, int]) -> Value:
    """Return an output before anything is added to it."""
    return np.zeros([sizes[axis] for axis in signature.axes], dtype=_STORAGE[signature.kind])


def _poisoned(signature: Array, sizes: Mapping[str, int]) -> Value:
    """Return an output that nobody has written: NaN where a type has it."""
    shape = [sizes[axis] for axis in signature.axes]
    poison = np.nan if signature.kind is Kind.FLOAT else 0
    return np.full(shape, poison, dtype=_STORAGE[signature.kind])
