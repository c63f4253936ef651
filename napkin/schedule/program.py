"""The loop program: tile operations in order, each with its place, path and cost. The one source of truth.

A `Program` is what one thread block does, once per group. Pseudocode and kernels print it, costs count it,
the NumPy executor runs it. A tile is a named value over dims; a dim is one tile axis, or several grouped
axes laid side by side (the rows of grouped-query attention). An axis whose tile is 1 has no dim: its index
is a scalar.

Roles, buffers and stages are content here, not a template's: `Load.buffer` names the shared-memory ring
that a streamed load fills (its full and empty barriers come with it), `Load.role` the warps that issue it.
A plain Triton loop turns buffers into `num_stages`; a warp-specialised kernel prints both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from napkin.operators import Kind
from napkin.schedule.remember import remembered


class AxisRole(StrEnum):
    """What a plan does with an axis."""

    GROUP = "group"
    STREAM = "stream"
    WHOLE = "whole"
    SPLIT = "split"


class Path(StrEnum):
    """How a tile travels between global memory and the chip."""

    POINTER = "pointer"
    DESCRIPTOR = "descriptor"


class Role(StrEnum):
    """Which warps do an operation in a warp-specialised kernel."""

    PRODUCER = "producer"
    CONSUMER = "consumer"


class Region(StrEnum):
    """Which chunks a stream loop walks: where its mask is partly true, or true throughout."""

    FULL = "full"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class AxisTile:
    """An axis's role, its tile in elements, and the dim that carries it (None: a scalar index).

    `size` is the fixed length of a whole axis, None where the length is known only at run time.
    """

    axis: str
    role: AxisRole
    tile: int
    dim: str | None
    size: int | None = None

    @property
    def is_exact(self) -> bool:
        """Whether a tile never reaches past the axis's end."""
        if self.dim is None:
            return True
        return self.size is not None and self.size % self.tile == 0


@dataclass(frozen=True, slots=True)
class Dim:
    """A tile dim: its axes, outermost first, and their common extent in elements."""

    name: str
    axes: tuple[str, ...]
    extent: int


# A thread holds two neighbours of a row of a contraction's result, and two more eight columns on. An array
# in lines has these four next to each other, and those of a quad of lanes in four rows in turn: a warp adds
# whole lines of 128 bytes, by vectors of 16. What a signature has in `row, column` lies in row
# `4 * (row // 4) + column // 16 % 4` and column
# `64 * (column // 64) + 16 * (row % 4) + 4 * (column // 2 % 4) + 2 * (column // 8 % 2) + column % 2`.
LINE_ROWS, LINE_COLUMNS = 4, 64


@dataclass(frozen=True, slots=True)
class Array:
    """A global array: dims in memory order as its signature has them, and its storage type.

    Of one `in_lines`, as arrays between kernels may be, elements of four rows have changed places.
    """

    name: str
    dims: tuple[tuple[str, ...], ...]
    dtype: str
    kind: Kind
    in_lines: bool = False

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis in memory order, composite dims opened."""
        return tuple(axis for dim in self.dims for axis in dim)


@dataclass(frozen=True, slots=True)
class Tile:
    """A value on chip. `storage` is its element type: fp32, int32, bool, or an array's storage type."""

    name: str
    dims: tuple[str, ...]
    kind: Kind
    storage: str
    level: str = "register"


@dataclass(frozen=True, slots=True)
class Literal:
    """A number in place of a tile."""

    value: float | int | bool


@dataclass(frozen=True, slots=True)
class Length:
    """The length of an axis, known when the kernel is called."""

    axis: str


Operand = str | Literal | Length


@dataclass(frozen=True, slots=True)
class Buffer:
    """A ring of `stages` tiles in shared memory that the producer fills: full and empty barriers a stage."""

    name: str
    array: str
    tile_bytes: int
    stages: int


# --- operations: a closed set ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Read a tile. `indices[i]` is an axis (its tile's positions) or a tile of positions, per array axis.

    Positions past the end of the axes in `masked` read as zero.
    """

    tile: Tile
    array: str
    indices: tuple[str, ...]
    gathered: tuple[bool, ...]
    masked: tuple[str, ...]
    path: Path
    role: Role
    buffer: str | None


@dataclass(frozen=True, slots=True)
class Positions:
    """The indices of an axis in the tile at hand (a scalar if the axis has no dim)."""

    tile: Tile
    axis: str


@dataclass(frozen=True, slots=True)
class EdgePosition:
    """The first or last index of an axis in the tile at hand."""

    tile: Tile
    axis: str
    end: str


@dataclass(frozen=True, slots=True)
class Compute:
    """A pointwise operator; operands broadcast by dim."""

    tile: Tile
    operator: str
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """A reduction of a tile over dims."""

    tile: Tile
    operator: str
    source: str
    over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dot:
    """left [.. over] times right [over ..], operands rounded to `operand_type`, added to `accumulator`."""

    tile: Tile
    left: str
    right: str
    over: str
    accumulator: str | None
    operand_type: str


@dataclass(frozen=True, slots=True)
class Fill:
    """A tile of one value."""

    tile: Tile
    value: float | int | bool


@dataclass(frozen=True, slots=True)
class Assign:
    """A state takes a new value."""

    target: str
    source: str


@dataclass(frozen=True, slots=True)
class Store:
    """Write a tile, or add it to what is there; positions past the end of the axes in `masked` are left out.

    What `adds` does so element by element, in no order among groups: the array is zero before them.
    """

    array: str
    source: Operand
    source_dims: tuple[str, ...]
    masked: tuple[str, ...]
    path: Path
    adds: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """Walk an axis from `start` to `stop` in steps of its tile, from the last chunk if `descending`."""

    axis: str
    start: Operand
    stop: Operand
    step: int
    region: Region
    body: tuple[Operation, ...]
    descending: bool = False


Operation = Load | Positions | EdgePosition | Compute | Fold | Dot | Fill | Assign | Store | Loop


@dataclass(frozen=True, slots=True)
class Band:
    """An order of groups: `tiles` tiles of an axis side by side, and for them all of the axes `over`."""

    axis: str
    tiles: int
    over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """One kernel. `scalars` are rank-0 arguments by name and type; `grid` the grouped axes, fastest first.

    Groups run in the grid's order, or in that of a `band`, which is the fastest of all. Axes in `descending`
    run from the end, since later tiles have longer streams; where they have shorter ones, the axis is
    `shrinking`. Groups along axes in `parted` share the stream out among them, as data say.
    """

    name: str
    arrays: tuple[Array, ...]
    outputs: tuple[Array, ...]
    scalars: tuple[tuple[str, str], ...]
    axes: tuple[AxisTile, ...]
    dims: tuple[Dim, ...]
    grid: tuple[str, ...]
    descending: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    operations: tuple[Operation, ...]
    band: Band | None = None
    shrinking: tuple[str, ...] = ()
    parted: tuple[str, ...] = ()

    def axis(self, name: str) -> AxisTile:
        """Return the tile of an axis."""
        for each in self.axes:  # plain loops: planning asks thousands of Programs
            if each.axis == name:
                return each
        raise KeyError(name)

    def dim(self, name: str) -> Dim:
        """Return the dim of that name."""
        for each in self.dims:
            if each.name == name:
                return each
        raise KeyError(name)

    def array(self, name: str) -> Array:
        """Return the argument or output of that name."""
        return next(each for each in (*self.arrays, *self.outputs) if each.name == name)

    @property
    def accumulated(self) -> tuple[str, ...]:
        """The outputs to which groups add: they are zero before the first one, and fp32."""
        stores = (each for each in walk(self.operations) if isinstance(each, Store))
        return tuple(dict.fromkeys(each.array for each in stores if each.adds))

    def box_axes(self, array: str) -> tuple[str, ...]:
        """Return an array's axes as a descriptor lists them: those that a tile takes one of stand first.

        A box is then a matrix with ones before it, which stays in shared memory when it is reshaped; ones
        between rows and columns would send it through registers.
        """
        wide = {each.axis for each in self.axes if each.dim is not None}
        return tuple(sorted(self.array(array).axes, key=lambda axis: axis in wide))


@remembered
def walk(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """Return every operation, loops before their bodies."""
    found: list[Operation] = []
    for each in operations:
        found.append(each)
        if isinstance(each, Loop):
            found += walk(each.body)
    return tuple(found)


def tiles_of(operations: Sequence[Operation]) -> Iterator[Tile]:
    """Yield the tile that each operation makes, loops' bodies included."""
    for each in walk(operations):
        if not isinstance(each, (Assign, Store, Loop)):
            yield each.tile
