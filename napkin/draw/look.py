"""How wires and their labels look: plain, or by memory level with tiles in place of sizes.

In: for a relabelled diagram, a level for every node's result and a label for every tiled axis. Out:
the style of any wire and the words of any label. Levels: paper section 2, "Colour is the memory
level"; labels g_a, s_a: the same section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from napkin.draw.shapes import Label, Run
from napkin.draw.text import shorten

LONGEST_AXIS = 12
GLOBAL, SHARED, REGISTER, TENSOR = "global", "shared", "register", "tensor"


@dataclass(frozen=True, slots=True)
class Look:
    """The level of every node's result, by place (none: a plain picture), and the tiles' labels.

    `thin` are the axes whose wires are drawn thin in a plain picture: no step sums over them.
    """

    levels: tuple[str, ...] = ()
    tiles: Mapping[str, Label] = field(default_factory=dict)
    thin: frozenset[str] = frozenset()

    def style(self, place: int, axis: str) -> str:
        """Return the style of a wire of a node's result; no axis, no name: a thread."""
        if not axis:
            return "thread"
        if self.levels:
            return self.levels[place]
        return "woven" if axis in self.thin else "wire"

    def label(self, place: int, axis: str) -> Label:
        """Return what a wire of a node's result is labelled with: the axis, or its tile on chip."""
        if self.levels and self.levels[place] != GLOBAL and axis in self.tiles:
            return self.tiles[axis]
        return axis_label(axis)


def axis_label(axis: str) -> Label:
    """Return an axis as its wire's label shows it."""
    return (Run(shorten(axis, LONGEST_AXIS), slanted=True),) if axis else ()
