"""What the operations of a Program take of a unit: clocks of its pipelines, bytes and elements moved.

In: operations with the times that they run, a machine, warps. Out: `Work`. Rates are the machine's, as
measured where they were; how much of them a loop reaches that Triton generates was read off sweeps of
tiles, warps and stages on an H200 (docs/model.md, "The predictor").

It is not asked here what runs beside what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from napkin.machine import Machine
from napkin.operators import POINTWISE, Kind, Pipeline
from napkin.schedule.count import EXACT_TYPES
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.liveness import reads
from napkin.schedule.program import (
    Compute,
    Dot,
    Fold,
    Load,
    Loop,
    Operation,
    Path,
    Program,
    Tile,
    walk,
)
from napkin.schedule.remember import remembered, remembered_by
from napkin.schedule.timing.occupancy import computed_operands, elements

# Of the tensor rate, by shape of a contraction:
_UNMEASURED = 0.80  # of the nominal rate, where nobody measured one: an H200's share
_SUSTAINED = 0.70  # of it, that power lets last, likewise
_HALF_ROWS = 0.83  # of 64 rows beside 128: half the columns are shared by as many rows
_FEW_ROWS = 0.4  # of that, of 16 rows: a warp's instruction instead of a warpgroup's
_NARROW, _THIN = 0.8, 0.4  # of columns or depth under 64, under 32: instructions end too soon
_SPREAD = 0.4  # where several warpgroups compute an operand's rows: it changes hands through shared memory
_SHARED_WORDS = 32  # a clock, of 4 bytes: the banks of shared memory
_CONVERTED = 64  # a clock: conversions from and to 32 bits, CUDA C++ programming guide, 9.0 and 8.0
_SECTOR = 32  # bytes that L2 gives at a time
# Comparisons, choices and whole numbers: half the rate of fp32 on 9.0, the same guide.
_BY_WHOLE_NUMBERS = frozenset(
    ("or", "and", "not", "lt", "le", "gt", "ge", "eq", "ne", "where", "max2", "min2", "max", "min")
)


@dataclass(frozen=True, slots=True)
class Work:
    """What is done on average: clocks of contractions and of other arithmetic, bytes moved.

    `powered` are the clocks of the contractions at the rate that power lets last. `contracted` counts
    contractions, `gathered` elements that are read at computed positions.
    """

    tensor: float = 0.0
    vector: float = 0.0
    moved: float = 0.0
    contracted: float = 0.0
    gathered: float = 0.0
    powered: float = 0.0


@remembered_by(
    lambda operations, program, machine, walked, warps: (
        (operations, program.dims, machine, walked, warps)
    )
)
def work_of(
    operations: Sequence[Operation],
    program: Program,
    machine: Machine,
    walked: Mapping[int, float],
    warps: int,
) -> Work:
    """Return the work of operations, loops counted by the steps `walked`."""
    weighed = list(weigh(operations, walked, 1.0))
    fused = fused_products(operations)
    loaded = {op.tile.name for op, _ in weighed if isinstance(op, Load)}
    tensor, vector, moved, contracted, gathered, powered = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for op, times in weighed:
        match op:
            case Dot():
                tensor += times * contraction_clocks(program, op, machine, warps, loaded)
                contracted += times
                powered += times * _powered_clocks(program, op, machine)
            case Compute() if id(op) in fused:
                pass  # the sum that takes it multiplies as well
            case Compute() | Fold():
                vector += times * vector_clocks(program, op, machine)
            case Load():
                count = times * elements(program, op.tile.dims)
                moved += count * TYPE_BYTES[op.tile.storage] * _sectors_read(program, op)
                if len(op.tile.dims) > 1 and op.gathered[-1]:
                    gathered += count
            case _:
                pass
    return Work(tensor, vector, moved, contracted, gathered, powered)


def _sectors_read(program: Program, load: Load) -> float:
    """Return how many times its bytes a load reads: whole sectors, however few elements lie together."""
    if load.path is not Path.POINTER or not load.tile.dims or load.gathered[-1]:
        return 1.0
    innermost = load.indices[-1]
    dims = [program.dim(dim) for dim in load.tile.dims]
    together = next((dim.extent for dim in dims if dim.axes[-1:] == (innermost,)), 1)
    return max(1.0, _SECTOR / (together * TYPE_BYTES[load.tile.storage]))


def weigh(
    operations: Sequence[Operation], steps: Mapping[int, float], times: float
) -> Iterable[tuple[Operation, float]]:
    """Yield every operation but loops with the times that a group runs it on average."""
    for op in operations:
        if isinstance(op, Loop):
            yield from weigh(op.body, steps, times * steps[id(op)])
        else:
            yield op, times


def loops_of(
    operations: Sequence[Operation], walked: Mapping[int, float], times: float = 1.0
) -> Iterable[tuple[Loop, float]]:
    """Yield every loop with the steps that a group takes of it, loops around it counted."""
    for op in operations:
        if isinstance(op, Loop):
            yield op, times * walked[id(op)]
            yield from loops_of(op.body, walked, times * walked[id(op)])


def contraction_clocks(
    program: Program, op: Dot, machine: Machine, warps: int, loaded: Collection[str]
) -> float:
    """Return the clocks of a contraction in a loop, at the rate that its shape reaches."""
    rows = elements(program, op.tile.dims[:1])
    narrow = min(elements(program, op.tile.dims[1:]), elements(program, (op.over,)))
    reached = 1.0 if rows >= 128 else _HALF_ROWS * min(1.0, max(rows / 64, _FEW_ROWS))
    if narrow < 64:
        reached *= _NARROW if narrow >= 32 else _THIN
    if machine.has("wgmma") and 64 <= rows < 16 * warps and op.left not in loaded:
        reached *= _SPREAD
    return full_rate_clocks(program, op, machine) / reached


def full_rate_clocks(program: Program, op: Dot, machine: Machine) -> float:
    """Return the clocks of a contraction at the full rate that the machine reaches."""
    count = elements(program, op.tile.dims) * elements(program, (op.over,))
    if op.operand_type in EXACT_TYPES:  # by multiply-adds, two operations each
        return count / _a_clock(machine, Pipeline.FP32, op.operand_type)
    return 2 * count / _a_clock(machine, Pipeline.TENSOR, op.operand_type)


def _powered_clocks(program: Program, op: Dot, machine: Machine) -> float:
    """Return the clocks of a contraction at the rate that power lets last."""
    kind = op.operand_type
    if kind in EXACT_TYPES:
        return 0.0
    count = 2 * elements(program, op.tile.dims) * elements(program, (op.over,))
    is_measured = machine.has_correction(f"sustained.{kind}")
    rate = machine.sustained(kind) * (1.0 if is_measured else _SUSTAINED)
    return count / (rate / (machine.units * machine.clock))


def vector_clocks(program: Program, op: Compute | Fold, machine: Machine) -> float:
    """Return the clocks of pointwise work or of a reduction: the pipelines take turns in a warp."""
    over = op.over if isinstance(op, Fold) else ()
    count = elements(program, (*op.tile.dims, *over))
    is_whole = op.operator in _BY_WHOLE_NUMBERS or op.tile.kind is Kind.INT
    rate = _whole_numbers_a_clock(machine) if is_whole else _a_clock(machine, Pipeline.FP32, "fp32")
    if isinstance(op, Fold):
        return count / rate
    row = POINTWISE[op.operator]
    clocks = row.fp32 * count / rate
    return clocks + (row.sfu * count / _a_clock(machine, Pipeline.SFU, "fp32") if row.sfu else 0.0)


@remembered
def fused_products(operations: Sequence[Operation]) -> frozenset[int]:
    """Return the products, by identity, that only a sum of the same tile takes: a multiply-add makes both."""
    found: set[int] = set()
    own = [op for op in operations if not isinstance(op, Loop)]
    readers = Counter(name for op in walk(operations) for name in reads(op))
    products = {op.tile.name: op for op in own if isinstance(op, Compute) and op.operator == "mul"}
    for op in own:
        if isinstance(op, Compute) and op.operator in ("add", "sub"):
            taken = [products.get(each) for each in op.operands if isinstance(each, str)]
            alone = [
                each
                for each in taken
                if each and each.tile.dims == op.tile.dims and readers[each.tile.name] == 1
            ]
            found |= {id(each) for each in alone[:1]}
    loops = [op for op in operations if isinstance(op, Loop)]
    return frozenset(found).union(*(fused_products(loop.body) for loop in loops))


def gather_clocks(gathered: float) -> float:
    """Return the clocks that elements read at computed positions take of shared memory's banks."""
    return gathered / _SHARED_WORDS


def operand_clocks(program: Program, body: Sequence[Operation]) -> float:
    """Return the clocks of a step in which threads read a ring's tiles, widen and round them.

    That is the way of an operand that is computed from what was loaded: it passes through registers.
    """
    clocks = 0.0
    for tile in _taken_from_rings(body):
        count = elements(program, tile.dims)
        words = count * TYPE_BYTES[tile.storage] / 4
        clocks += words / _SHARED_WORDS + count / _CONVERTED
    for op in computed_operands(body):
        clocks += elements(program, (*op.tile.dims[:1], op.over)) / _CONVERTED
    return clocks


@remembered
def _taken_from_rings(body: Sequence[Operation]) -> list[Tile]:
    """Return the tiles of rings that threads read, not contractions alone."""
    tiles = {op.tile.name: op.tile for op in body if isinstance(op, Load) and op.buffer is not None}
    taken = {name for op in body if isinstance(op, Compute | Fold) for name in reads(op)}
    return [tile for name, tile in tiles.items() if name in taken]


def _a_clock(machine: Machine, pipeline: Pipeline, kind: str) -> float:
    """Return the operations a clock of a unit, as measured if they were."""
    return _rates(machine)[pipeline, kind]


def _whole_numbers_a_clock(machine: Machine) -> float:
    """Return the operations a clock on whole numbers, the measured clock's share as for fp32."""
    share = machine.rate(Pipeline.FP32, "int32") / machine.rate(Pipeline.FP32, "fp32")
    return share * _a_clock(machine, Pipeline.FP32, "fp32")


@remembered
def _rates(machine: Machine) -> dict[tuple[Pipeline, str], float]:
    """Return the operations a clock of a unit by pipeline and type."""
    found: dict[tuple[Pipeline, str], float] = {}
    for each in machine.pipelines:
        pipeline = each.pipeline
        for kind, rate in each.rates:
            share = _UNMEASURED if pipeline is Pipeline.TENSOR else 1.0
            if machine.has_correction(f"{pipeline}.{kind}"):
                share = machine.peak(pipeline, kind) / machine.nominal_peak(pipeline, kind)
            found[pipeline, kind] = share * rate
    return found
