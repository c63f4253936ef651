"""What a warp-specialised kernel has no way to do, and what its consumers' registers hold.

In: a rotated Program and the axis whose rows are shared out. Out: a reason in words, or None; and the
registers of a consumer's thread that tiles take.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from napkin.operators import POINTWISE, Kind
from napkin.schedule.count import extent, tile_bytes
from napkin.schedule.liveness import entry_of, live_after, reads, writes
from napkin.schedule.program import (
    Assign,
    Compute,
    Dot,
    EdgePosition,
    Fill,
    Fold,
    Load,
    Loop,
    Operation,
    Path,
    Positions,
    Program,
    Tile,
    tiles_of,
    walk,
)
from napkin.schedule.roles.panels import panels_of
from napkin.schedule.roles.rows_read import (
    before_stream,
    bytes_read,
    matrices_of_rows,
    tiles_read,
)

OPERANDS = ("bf16", "fp16")  # what a contraction may take, and a store through shared memory give
# Registers that addresses, bounds and row values take of a consumer's beside tiles, by the number of
# consumers: read off compiled kernels.
BESIDE_TILES = {3: 32, 2: 44}
_NARROWEST = 16
_SLOW = 8  # instructions of an element: a special function's share of the issue slots


def find_obstacle(
    program: Program, rows: str, *, by_copy_engine: bool = True, reads_rows: bool = False
) -> str | None:
    """Return what of a rotated program this form has no way to do.

    Without `by_copy_engine`, tiles come to shared memory in some other way, of which it is not asked here.
    With `reads_rows`, elements of a group's rows may be read before its stream.
    """
    dims = [dim for dim in program.dims if rows in dim.axes]
    if not dims or dims[0].axes != (rows,):
        return f"`{rows}` shares its tile's rows with another axis"
    if any(isinstance(op, Dot) for op in before_stream(program)):
        return "a group contracts before its stream, where nothing waits for it"
    place = place_of(program)
    for op in walk(program.operations):
        if op in place:
            reason = _place_obstacle(op, rows)
        elif isinstance(op, Dot):
            reason = _dot_obstacle(op, program, rows)
        else:
            reason = _obstacle(op, rows, by_copy_engine=by_copy_engine)
        if reason is not None:
            return reason
    read = {_streamed(op) for op in program.operations if isinstance(op, Loop)}
    if len(read) > 1:
        return "the loops of the stream read different arrays"
    elements = tiles_read(program) if reads_rows else {}
    lying = {tile.dims for tile in matrices_of_rows(program)} if reads_rows else set()
    return _use_obstacle(program, elements, rows) or _layout_obstacle(program, rows, lying)


def _streamed(loop: Loop) -> tuple[str, ...]:
    return tuple(op.array for op in loop.body if isinstance(op, Load) and op.buffer is not None)


def _obstacle(op: Operation, rows: str, *, by_copy_engine: bool) -> str | None:
    if isinstance(op, Load) and op.tile.level == "shared" and op.path is not Path.DESCRIPTOR:
        if not by_copy_engine:
            return None
        return f"`{op.array}` has no box that the copy engine could fetch"
    if isinstance(op, Fold) and rows in op.over:
        return f"`{rows}` is reduced in a tile"
    if isinstance(op, Fill) and not op.tile.dims:
        return "a state is a single number"
    return None


def _dot_obstacle(dot: Dot, program: Program, rows: str) -> str | None:
    if dot.operand_type not in OPERANDS:
        return f"a contraction over `{dot.over}` takes {dot.operand_type}"
    if len(dot.tile.dims) != 2 or dot.tile.dims[0] != rows or dot.over == rows:
        return f"the result of a contraction over `{dot.over}` is not rows by columns"
    shared = shared_tiles(program)
    right, left = shared.get(dot.right), shared.get(dot.left)
    if right is None or len(right.dims) != 2 or rows in right.dims:
        return f"the right side of a contraction over `{dot.over}` is computed"
    if any(tile.storage != dot.operand_type for tile in (left, right) if tile is not None):
        return f"a contraction over `{dot.over}` rounds what the copy engine fetched"
    if min(program.dim(dot.over).extent, program.dim(dot.tile.dims[1]).extent) < _NARROWEST:
        return f"a contraction over `{dot.over}` is under {_NARROWEST} wide"
    return None


def _use_obstacle(program: Program, read: Mapping[str, Tile], rows: str) -> str | None:
    """Refuse a shared tile that is read element by element, but for those `read` before the stream.

    These have one share of rows a consumer, each of which lies in one piece.
    """
    shared = set(shared_tiles(program))
    own = before_stream(program)
    for op in walk(program.operations):
        found = shared & set(reads(op))
        if found and not isinstance(op, Dot | Assign) and not (op in own and found <= set(read)):
            return f"`{min(found)}` is read by more than contractions"
    for tile in read.values():
        if tile.dims[0] != rows or len(tile.dims) != 2 or tile.dims[1] in panels_of(program):
            return f"`{tile.name}`, of which elements are read, is not rows by columns"
    return None


def shared_tiles(program: Program) -> dict[str, Tile]:
    """Return the tiles in shared memory by name, those carried over to the next chunk among them."""
    made = (op for op in walk(program.operations) if isinstance(op, Load | Fill))
    return {op.tile.name: op.tile for op in made if op.tile.level == "shared"}


def _layout_obstacle(program: Program, rows: str, lying: Collection[tuple[str, ...]]) -> str | None:
    """Refuse tiles that no contraction's result gives a place in registers, nor rows that are read."""
    results = {op.tile.dims for op in walk(program.operations) if isinstance(op, Dot)}
    vectors = {rows, *(dims[1] for dims in results)}
    for tile in tiles_of(program.operations):
        known = tile.dims in results or (tile.dims in lying and tile.dims[0] == rows)
        known = known or (len(tile.dims) == 1 and tile.dims[0] in vectors)
        if tile.dims and tile.level != "shared" and not known:
            return f"no contraction lays out a tile over {', '.join(tile.dims)}"
    return None


def _place_obstacle(op: Operation, rows: str) -> str | None:
    """Refuse bounds that need more than numbers, and row values of which the least or greatest is taken."""
    if isinstance(op, Compute | Load | Positions | EdgePosition) and set(op.tile.dims) <= {rows}:
        return None
    if isinstance(op, Fold) and op.over == (rows,) and not op.tile.dims:
        return None if op.operator in ("min", "max") else f"`{rows}` is reduced in a tile"
    return "the stream's bounds need more than numbers of rows"


def place_of(program: Program) -> tuple[Operation, ...]:
    """Return what all warps compute of a group's place: the numbers that its loops' bounds need.

    These are whole numbers, and the row values whose least or greatest bounds a loop.
    """
    first = next(i for i, op in enumerate(program.operations) if isinstance(op, Loop))
    needed = {name for op in program.operations if isinstance(op, Loop) for name in reads(op)}
    taken: list[Operation] = []
    for op in reversed(program.operations[:first]):
        if isinstance(op, EdgePosition) or writes(op) in needed:
            taken.append(op)
            needed |= set(reads(op))
    return tuple(taken[::-1])


def tile_registers(
    program: Program, consumers: int, *, together: bool = False, masks: bool = True
) -> int:
    """Return the registers of a thread that tiles take: states, what is carried over, a chunk's scores.

    Where a step has several contractions, the compiler may make the scores of one after the other in parts.
    `together` counts all that are alive at once: what fits so does not spill. Without `masks` none is kept.
    """
    fills = [op.tile for op in program.operations if isinstance(op, Fill)]
    held = sum(tile_bytes(t, program) for t in fills if len(t.dims) == 2 and t.level == "register")
    states = {tile.name for tile in fills}
    widest = max(
        _chunk_bytes(program, op, states, together=together, masks=masks)
        for op in program.operations
        if isinstance(op, Loop)
    )
    return (held + max(widest, bytes_read(program))) // (4 * 128 * consumers)


def _chunk_bytes(
    program: Program, loop: Loop, states: set[str], *, together: bool, masks: bool
) -> int:
    """Return the bytes in registers at a chunk's widest moment; a mask takes a byte an element.

    What is slow to compute and needs no contraction is computed while one runs, and kept.
    """
    dots = [op for op in loop.body if isinstance(op, Dot) and op.tile.name not in states]
    one = max((tile_bytes(dot.tile, program) for dot in dots), default=0)
    loads = [op.tile for op in loop.body if isinstance(op, Load) and op.tile.level == "register"]
    kept = [tile for tile in tiles_of(loop.body) if masks and tile.kind is Kind.BOOL]
    return (
        (_widest_moment(program, loop, dots) if together else one)
        + sum(tile_bytes(tile, program) for tile in loads if len(tile.dims) == 2)
        + max((tile_bytes(tile, program) for tile in _computed_early(loop)), default=0)
        + max((extent(tile.dims, program) for tile in kept if len(tile.dims) == 2), default=0)
    )


def _widest_moment(program: Program, loop: Loop, dots: Sequence[Dot]) -> int:
    """Return the most bytes of a step's scores that are alive at once: results, and what is made of them."""
    tiles = {tile.name: tile for tile in tiles_of(loop.body) if len(tile.dims) == 2}
    scores = {dot.tile.name for dot in dots}
    states = {op.tile.name for op in loop.body if isinstance(op, Dot)} - scores
    for op in loop.body:
        name = writes(op)
        if name in tiles and name not in states and scores & set(reads(op)):
            scores.add(name)
    alive = live_after(loop.body, entry_of(loop.body))
    return max(sum(tile_bytes(tiles[name], program) for name in each & scores) for each in alive)


def _computed_early(loop: Loop) -> list[Tile]:
    """Return a step's tiles that special functions, or as slow ones, give of no contraction's result."""
    waiting: set[str] = set()
    found: list[Tile] = []
    for op in loop.body:
        name = writes(op)
        if isinstance(op, Dot) or waiting & set(reads(op)):
            waiting.add(name or "")
        elif isinstance(op, Compute) and len(op.tile.dims) == 2:
            row = POINTWISE[op.operator]
            found += [op.tile] if row.sfu or row.fp32 >= _SLOW else []
    return found
