"""The table of M and H above a relabelled diagram: symbolic cells, one for each column of data.

In: a `Relabelling` and its scene's columns. Out: rows of formulas. M at a level is the sum of what
the wires of a column hold there, with the stream's state and the copies of a ring; H the elements
that change level in one group. Paper, sections 2 and 3. What a whole block holds and a whole
dispatch moves is counted elsewhere, from the Program (schedule/count.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from napkin.draw.layout import Layout
from napkin.draw.look import GLOBAL, REGISTER
from napkin.draw.nodes import Shape
from napkin.draw.relabel import Relabelling, symbol
from napkin.draw.shapes import Label, Run
from napkin.schedule.program import AxisRole

Term = tuple[str, ...]  # symbols, tiles first


@dataclass(frozen=True, slots=True)
class Formula:
    """A sum of products of symbols, each with a whole coefficient."""

    terms: tuple[tuple[Term, int], ...] = ()

    def value(self, numbers: Mapping[str, int]) -> int:
        """Return its value where every symbol is a number."""
        return sum(count * prod(numbers[each] for each in term) for term, count in self.terms)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: its name and a formula by column; a column where nothing changes lacks one."""

    name: str
    level: str
    cells: tuple[tuple[int, Formula], ...]


@dataclass(frozen=True, slots=True)
class Symbols:
    """The symbols of a kernel's axes: their typesetting, their numbers, and each axis's two extents."""

    labels: Mapping[str, Label]
    numbers: Mapping[str, int]
    tiles: Mapping[str, str]
    spans: Mapping[str, str]


def symbols_of(found: Relabelling) -> Symbols:
    """Return the symbols: in a step an axis extends over its tile, in a group the stream over its size."""
    labels: dict[str, Label] = {}
    numbers: dict[str, int] = {}
    tiles: dict[str, str] = {}
    spans: dict[str, str] = {}
    sizes = dict(found.kernel.sizes)
    for each in found.kernel.printed.axes:
        runs = symbol(each)
        name = "_".join(run.text for run in runs) if len(runs) > 1 else f" {each.axis}"
        labels[name], numbers[name] = runs, each.tile if len(runs) > 1 else sizes[each.axis]
        whole = f" {each.axis}"
        labels[whole], numbers[whole] = (Run(each.axis, slanted=True),), sizes[each.axis]
        tiles[each.axis] = name
        spans[each.axis] = name if each.role is AxisRole.GROUP else whole
    return Symbols(labels, numbers, tiles, spans)


def rows_of(found: Relabelling, layout: Layout) -> tuple[Row, ...]:
    """Return the rows of M for every level that is used, then that of H."""
    symbols = symbols_of(found)
    levels = [each for each in ("shared", REGISTER) if each in found.levels]
    rows = [_memory_row(found, layout, symbols, level) for level in levels]
    return (*rows, _transfer_row(found, layout, symbols))


def _memory_row(found: Relabelling, layout: Layout, symbols: Symbols, level: str) -> Row:
    cells: list[tuple[int, Formula]] = []
    before = Formula()
    inside = {layout.columns[place] for place in found.body}
    for column in range(1, max(layout.columns)):
        here = [
            place
            for place, at in enumerate(layout.columns)
            if at == column and found.levels[place] == level
        ]
        here += [s for s, at in layout.rails if at == column and found.levels[s] == level]
        if column <= max(inside, default=0):
            # The next step reads again what no step changes, and refills the rings.
            here += [each for each in _loads(found, level) if each not in here]
        # Scalars are uniform: they take no part in what tiles compete for.
        products = [
            (_product(found.nodes[place].axes, symbols.tiles), _copies(found, place))
            for place in sorted(here)
            if found.nodes[place].axes
        ]
        if level == REGISTER and column in inside:
            products = _with_state(found, symbols, products)
        formula = _sum(products)
        if formula != before:
            cells.append((column, formula))
        before = formula
    return Row(f"M {level}", level, tuple(each for each in cells if each[1].terms))


def _loads(found: Relabelling, level: str) -> list[int]:
    """Return the loads that the stream's body reads."""
    read = {source for place in found.body for source in found.nodes[place].inputs}
    return [
        place
        for place, node in enumerate(found.nodes)
        if node.shape is Shape.LOAD and found.levels[place] == level and place in read
    ]


def _with_state(
    found: Relabelling, symbols: Symbols, products: list[tuple[Term, int]]
) -> list[tuple[Term, int]]:
    """Return the products with those of the stream's state, except where a wire is the state itself."""
    stream = found.kernel.derivation.stream
    assert stream is not None
    made = list(products)
    for each in stream.accumulators:
        axes = [axis for axis in each.axes if axis not in found.woven]
        term = _product(axes, symbols.tiles)
        if not term:
            continue
        if (term, 1) in products:
            products.remove((term, 1))
        else:
            made.append((term, 1))
    return made


def _copies(found: Relabelling, place: int) -> int:
    """Return how many tiles of a load lie in shared memory at once: the stages of its ring."""
    node = found.nodes[place]
    if node.shape is not Shape.LOAD:
        return 1
    name = found.nodes[node.inputs[0]].name
    rings = found.kernel.printed.buffers
    return next((each.stages for each in rings if each.array == name), 1)


def _transfer_row(found: Relabelling, layout: Layout, symbols: Symbols) -> Row:
    by_column: dict[int, list[tuple[Term, int]]] = {}
    for place, node in enumerate(found.nodes):
        is_gathered = node.shape is Shape.GATHER and found.levels[node.inputs[0]] == GLOBAL
        if node.shape in (Shape.LOAD, Shape.SAVE) or is_gathered:
            term = (_product(node.axes, symbols.spans), 1)
            by_column.setdefault(layout.columns[place], []).append(term)
    cells = tuple((column, _sum(terms)) for column, terms in sorted(by_column.items()))
    return Row("H of a group", GLOBAL, cells)


def _product(axes: Iterable[str], symbols: Mapping[str, str]) -> Term:
    """Return a product of axes' symbols, tiles before whole axes, each kind in order."""
    return tuple(sorted((symbols[axis] for axis in axes), key=lambda each: each.startswith(" ")))


def _sum(products: Iterable[tuple[Term, int]]) -> Formula:
    counts: dict[Term, int] = {}
    for term, count in products:
        counts[term] = counts.get(term, 0) + count
    return Formula(tuple(counts.items()))


# --- typesetting ----------------------------------------------------------------------------------


def typeset(formula: Formula, labels: Mapping[str, Label]) -> Label:
    """Return a formula as a line of text, what terms share taken out: g(d + v)."""
    shared = _shared([term for term, _ in formula.terms])
    rest = tuple((_less(term, shared), count) for term, count in formula.terms)
    runs = _sum_runs(rest, labels)
    if not shared:
        return tuple(runs)
    if len(formula.terms) > 1:
        return (*_factors(shared, labels), _THIN, Run("("), *runs, Run(")"))
    count = formula.terms[0][1]
    return (*([Run(f"{count}"), _THIN] if count != 1 else []), *_factors(shared, labels))


_THIN = Run("\u2009")


def _shared(terms: Sequence[Term]) -> Term:
    """Return the symbols that every term has."""
    return tuple(each for each in terms[0] if all(each in term for term in terms))


def _less(term: Term, shared: Term) -> Term:
    return tuple(each for each in term if each not in shared)


def _sum_runs(terms: Sequence[tuple[Term, int]], labels: Mapping[str, Label]) -> list[Run]:
    """Return a sum, terms of one coefficient and first symbol drawn together."""
    groups: dict[tuple[str, int], list[Term]] = {}
    for term, count in terms:
        groups.setdefault((term[0] if term else "", count), []).append(term[1:])
    runs: list[Run] = []
    for (head, count), rests in groups.items():
        runs += [Run(" + ")] if runs else []
        runs += [Run(f"{count * (1 if head else len(rests))}")] if count != 1 or not head else []
        runs += [_THIN] if count != 1 and head else []
        runs += labels[head] if head else ()
        if head and len(rests) > 1:
            inner = _sum_runs([(rest, 1) for rest in rests], labels)
            runs += [_THIN, Run("("), *inner, Run(")")]
        elif head and rests[0]:
            runs += [_THIN, *_factors(rests[0], labels)]
    return runs


def _factors(term: Term, labels: Mapping[str, Label]) -> list[Run]:
    runs: list[Run] = []
    for each in term:
        runs += [_THIN] if runs else []
        runs += labels[each]
    return runs
