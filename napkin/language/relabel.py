"""Sizes and `on` blocks: what they say about a diagram, as far as no machine is needed to judge it.

In: a diagram's text, and the axes and arrays that it has. Out: its sizes and relabellings; arrays
in an `at` clause get the names that their boxes have in the diagram.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from napkin.diagram import Placement, Relabelling, Tiling
from napkin.language import syntax
from napkin.language.errors import Diagnostic, Label, did_you_mean
from napkin.language.report import MAX_SHOWN
from napkin.language.source import Source, Span


def size_axes(
    text: syntax.DiagramText,
    source: Source,
    axes: Collection[str],
    diagnostics: list[Diagnostic],
) -> tuple[tuple[str, int], ...]:
    """Return the sizes a diagram states; report those of no axis, stated twice, or zero."""
    sizes: dict[str, tuple[int, Span]] = {}
    for each in text.sizes:
        if len(diagnostics) > MAX_SHOWN:
            break
        axis = each.axis.name
        others: tuple[Label, ...] = ()
        help_line = None
        if axis not in axes:
            fact = f"`{axis}` is not an axis of `{text.head.name.name}`"
            help_line = did_you_mean(axis, axes)
        elif axis in sizes:
            fact = f"the size of `{axis}` is stated twice"
            others = (Label(sizes[axis][1], "first here"),)
        elif each.size < 1:
            fact = f"the size of `{axis}` is {each.size}, less than 1"
        else:
            sizes[axis] = (each.size, each.span)
            continue
        diagnostics.append(
            Diagnostic("N222", fact, source, Label(each.span), others, help=help_line)
        )
    return tuple((axis, size) for axis, (size, _) in sizes.items())


def relabel(
    text: syntax.DiagramText,
    source: Source,
    *,
    axes: Collection[str],
    placeable: Mapping[str, str],
    diagnostics: list[Diagnostic],
) -> tuple[Relabelling, ...]:
    """Return a diagram's relabellings; `placeable` leads from the text's names to the boxes'."""
    blocks: dict[str, Relabelling] = {}
    for block in text.blocks:
        reading = _Block(text.head.name.name, source, axes, placeable, diagnostics)
        machine = block.machine.name
        if machine in blocks:
            label = Label(blocks[machine].span, "first here")
            reading.refuse("N223", f"`{machine}` has two `on` blocks", block.machine.span, label)
        blocks.setdefault(machine, reading.read(block))
    return tuple(blocks.values())


@dataclass(slots=True)
class _Block:
    name: str
    source: Source
    axes: Collection[str]
    placeable: Mapping[str, str]
    diagnostics: list[Diagnostic]
    tilings: dict[str, list[Tiling]] = field(default_factory=dict)
    placements: list[Placement] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def read(self, block: syntax.OnBlock) -> Relabelling:
        for clause in block.clauses:
            if len(self.diagnostics) > MAX_SHOWN:
                break
            match clause:
                case syntax.Tilings():
                    self._tilings(clause)
                case syntax.Place():
                    self._place(clause)
                case syntax.Count():
                    self._count(clause)
        return Relabelling(
            block.machine.name,
            group=tuple(self.tilings.get("group", ())),
            stream=tuple(self.tilings.get("stream", ())),
            split=tuple(self.tilings.get("split", ())),
            placements=tuple(self.placements),
            warps=self.counts.get("warps"),
            stages=self.counts.get("stages"),
            span=block.span,
        )

    def refuse(
        self, code: str, fact: str, span: Span, *others: Label, help: str | None = None
    ) -> None:
        self.diagnostics.append(Diagnostic(code, fact, self.source, Label(span), others, help=help))

    def _tilings(self, clause: syntax.Tilings) -> None:
        known = self.tilings.setdefault(clause.word, [])
        for tiles in clause.tilings:
            seen = {axis for each in known for axis in each.axes}
            for axis in tiles.axes:
                if axis.name not in self.axes:
                    fact = f"`{axis.name}` is not an axis of `{self.name}`"
                    help_line = did_you_mean(axis.name, self.axes)
                    self.refuse("N223", fact, axis.span, help=help_line)
                elif axis.name in seen:
                    fact = f"axis `{axis.name}` is in `{clause.word}` twice"
                    self.refuse("N223", fact, axis.span)
                seen.add(axis.name)
            if tiles.tile < 1:
                self.refuse("N223", f"a tile is {tiles.tile}, less than 1", tiles.span)
            axes = tuple(axis.name for axis in tiles.axes)
            known.append(Tiling(axes, tiles.tile, tiles.span))

    def _place(self, clause: syntax.Place) -> None:
        names: dict[str, None] = {}
        for name in clause.names:
            if name.name in self.placeable:
                names[self.placeable[name.name]] = None
                continue
            fact = f"`{name.name}` is not an array that the outputs need"
            help_line = did_you_mean(name.name, self.placeable)
            self.refuse("N224", fact, name.span, help=help_line)
        self.placements.append(Placement(clause.level.name, tuple(names), clause.span))

    def _count(self, clause: syntax.Count) -> None:
        if clause.word in self.counts:
            self.refuse("N223", f"`{clause.word}` is stated twice", clause.span)
        if clause.count < 1:
            fact = f"`{clause.word}` is {clause.count}, less than 1"
            self.refuse("N223", fact, clause.span)
        self.counts[clause.word] = clause.count
