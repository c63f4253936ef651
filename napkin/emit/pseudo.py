"""Pseudocode with its costs: the paper's expansion (section 7, step 1) and its column table.

In: a `Plan`, or one `Program` and the derivation that it was lowered from. Out: text in three parts,
for each kernel of a plan; of several, first what is kept between them, and why. First the
program as init, loop and finalise, every variable with its axes, tiles, type, level and size. Then
one row for every line of it: what is resident after it, what it moves, what it computes, how often.
Then the totals: M, the most that is resident at a level; H, the sum of transfers; K, the sum of
operations.

Lines are numbered alike in the first two parts. Numbers come from `schedule.count`; the formulas hold
for any lengths, the figures for those that the diagram gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from napkin.algebra.derive import Derivation
from napkin.diagram import implied_sizes, print_dims
from napkin.emit.expressions import Call, Define, Statement, inline, leaves
from napkin.emit.notation import Notation, byte_size
from napkin.emit.render import render
from napkin.emit.table import Row, aligned, figures, formulas, table
from napkin.language.errors import InternalError
from napkin.schedule.count import columns, stored_dims, tile_bytes
from napkin.schedule.liveness import reads, tiles_in
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.planning.show import cut_lines, form_line
from napkin.schedule.program import (
    Array,
    Assign,
    Compute,
    EdgePosition,
    Load,
    Loop,
    Operation,
    Program,
    Store,
    Tile,
)

_KINDS = {Define: "compute", EdgePosition: "edge"}
_GAP = 3  # blanks between a line of pseudocode and its label


@dataclass(frozen=True, slots=True)
class Line:
    """One line of pseudocode: its number (empty for a loop's head), depth, text and label."""

    number: str
    depth: int
    text: str
    label: str

    @property
    def is_head(self) -> bool:
        """Whether it opens a loop of the outermost list."""
        return self.depth == 0 and not self.number

    @property
    def indented(self) -> str:
        """Its number and text, without the label."""
        return f"{self.number:>4}  {'    ' * self.depth}{self.text}"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the pseudocode: init, a loop, finalise."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """What the template prints."""

    title: str
    groups: str
    arrays: tuple[str, ...]
    sections: tuple[Section, ...]
    table: tuple[str, ...]
    totals: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class CutView:
    """What the template of a plan of several kernels prints."""

    title: str
    notes: tuple[str, ...]
    kernels: tuple[str, ...]


def pseudo_of_plan(plan: Plan) -> str:
    """Return a plan's kernels as pseudocode; of several, first how the diagram was cut."""
    kernels = tuple(_with_form(each) for each in plan.kernels)
    if len(kernels) == 1:
        return kernels[0]
    title = f"{plan.diagram.name} on {plan.machine.name}, {plan.dtype}"
    view = CutView(title, tuple(cut_lines(plan)), kernels)
    return render("pseudo/cut.txt.jinja", view=view)


def _with_form(kernel: KernelPlan) -> str:
    """Return a kernel's plain loop as pseudocode, and which form of it is printed."""
    text = pseudo(kernel.program, kernel.derivation)
    return f"{text}\n{form_line(kernel)}\n" if kernel.why else text


def pseudo(program: Program, derivation: Derivation) -> str:
    """Return the program as pseudocode, its column table and its totals."""
    page = _Page(program)
    arrays = [_array(each) for each in (*program.arrays, *program.outputs)]
    view = View(
        _title(program),
        _groups(program),
        aligned(arrays),
        _sections(program, page.lines),
        table(page.rows),
        _blocks(formulas(program, page.rows), figures(program, _sizes(derivation))),
    )
    return render("pseudo/kernel.txt.jinja", view=view)


def listing(program: Program) -> tuple[tuple[Line, ...], tuple[Row, ...]]:
    """Return the lines of a program, and for each that has a number its row of the column table."""
    page = _Page(program)
    return page.lines, tuple(page.rows)


def _blocks(*blocks: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(block for block in blocks if block)


# --- the head -------------------------------------------------------------------------------------


def _title(program: Program) -> str:
    inputs = [each.name for each in program.arrays] + [name for name, _ in program.scalars]
    outputs = ", ".join(each.name for each in program.outputs)
    return f"{program.name}({', '.join(inputs)}) -> {outputs}"


def _groups(program: Program) -> str:
    if not program.grid:
        return "one group"
    tiles = " ".join(f"{axis}:{program.axis(axis).tile}" for axis in reversed(program.grid))
    last = "".join(f"; {axis} from its end" for axis in program.descending)
    if program.band is not None:
        band = program.band
        last += f"; {band.tiles} tiles of {band.axis} for all of {', '.join(band.over)}"
    return f"groups [{tiles}] in parallel, the fastest first: {', '.join(program.grid)}{last}"


def _array(array: Array) -> tuple[str, ...]:
    return array.name, f"[{print_dims(array.dims)}]", array.dtype, "global"


def _sizes(derivation: Derivation) -> dict[str, int]:
    """Return the lengths that the diagram gives, and those that they imply."""
    sizes = dict(derivation.diagram.sizes)
    for axis, implied in implied_sizes(derivation.diagram).items():
        if sizes.keys() >= set(implied.axes):
            sizes.setdefault(axis, implied.length(sizes))
    return sizes


# --- sections -------------------------------------------------------------------------------------


def _sections(program: Program, lines: Sequence[Line]) -> tuple[Section, ...]:
    """Part the lines: what comes before the loops, each loop, what comes between and after."""
    left = sum(isinstance(each, Loop) for each in program.operations)
    loops = left
    parts: list[tuple[str, list[Line]]] = []
    in_loop = True
    for line in lines:
        left -= line.is_head
        starts = line.is_head or (in_loop and line.depth == 0)
        if starts:
            title = "init" if left == loops else "between" if left else "finalise"
            parts.append(("loop" if line.is_head else title, []))
        in_loop = line.is_head or (in_loop and line.depth > 0)
        parts[-1][1].append(line)
    width = max((len(line.indented) for line in lines), default=0) + _GAP
    return tuple(
        Section(title, tuple(f"{line.indented:{width}}{line.label}".rstrip() for line in part))
        for title, part in parts
    )


class _Page:
    """Numbers the statements of a program, and finds the label and the columns of each."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.notation = Notation(program)
        self.rows: list[Row] = []
        self._columns = {id(each.operation): each for each in columns(program)}
        self.lines = tuple(self._walk(program.operations, {}, 0))

    def _walk(
        self, operations: Sequence[Operation], outer: Mapping[str, Tile], depth: int
    ) -> Iterator[Line]:
        tiles = {**outer, **tiles_in(operations)}
        for statement, merged in _merged(operations):
            text = self.notation.statement(statement)
            if isinstance(statement, Loop):
                yield Line("", depth, text, "")
                yield from self._walk(statement.body, tiles, depth + 1)
            else:
                self.rows.append(self._row(statement, merged, tiles))
                yield Line(str(len(self.rows)), depth, text, self._label(statement))

    def _row(
        self, statement: Statement, merged: Sequence[Operation], tiles: Mapping[str, Tile]
    ) -> Row:
        output, level = self._output(statement, tiles)
        found = tuple(self._columns[id(each)] for each in merged)
        return Row(
            len(self.rows) + 1,
            _KINDS.get(type(statement), type(statement).__name__.lower()),
            level,
            tuple(self._named(name, tiles) for name in dict.fromkeys(_sources(statement))),
            output,
            found,
            any(id(loop) in self.notation.remainders for loop in found[-1].loops),
        )

    def _named(self, name: str, tiles: Mapping[str, Tile]) -> str:
        return f"{name} {self.notation.dims(tiles[name].dims)}" if name in tiles else name

    def _output(self, statement: Statement, tiles: Mapping[str, Tile]) -> tuple[str, str]:
        match statement:
            case Store():
                dims = stored_dims(statement, self.program)
                return f"{statement.array} {self.notation.dims(dims)}", "global"
            case Assign():
                return self._named(statement.target, tiles), tiles[statement.target].level
            case Loop():
                raise InternalError("a loop is no row of the table")
            case _:
                return self._named(statement.tile.name, tiles), statement.tile.level

    def _label(self, statement: Statement) -> str:
        if isinstance(statement, Store | Assign | Loop):
            return ""
        tile = statement.tile
        size = byte_size(tile_bytes(tile, self.program))
        return f"{self.notation.dims(tile.dims)} {tile.storage} {tile.level} {size}"


def _merged(operations: Sequence[Operation]) -> Iterator[tuple[Statement, list[Operation]]]:
    """Yield every statement with the operations that it stands for, its own last."""
    statements = iter(inline(operations))
    inside = {
        name
        for each in inline(operations)
        if isinstance(each, Define)
        for name in _inner_names(each.value)
    }
    held: dict[str, list[Operation]] = {}
    for each in operations:
        if not isinstance(each, Compute):
            yield next(statements), [each]
            continue
        parts = [part for name in reads(each) for part in held.pop(name, [])]
        if each.tile.name in inside:
            held[each.tile.name] = [*parts, each]
        else:
            yield next(statements), [*parts, each]


def _inner_names(call: Call) -> Iterator[str]:
    for each in call.operands:
        if isinstance(each, Call):
            yield each.tile.name
            yield from _inner_names(each)


def _sources(statement: Statement) -> list[str]:
    """Return what a statement reads, in order."""
    match statement:
        case Define():
            return [name for name in leaves(statement.value) if isinstance(name, str)]
        case Load():
            return [statement.array, *reads(statement)]
        case _:
            return list(reads(statement))
