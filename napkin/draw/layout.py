"""Where nodes lie: columns by dependency, order and height by Graphviz's `dot`.

In: nodes with their frames. Out: a `Layout`: every node's column and the height of its middle, and
those of the rails, on which a bundle crosses a column that it has no business in. `dot` is asked
for no picture: it orders the nodes of a column so that few bundles cross, and sets their heights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import graphviz

from napkin.draw.frames import Frame, bundle_height
from napkin.draw.nodes import Node, Shape
from napkin.language.errors import Diagnostic, InternalError, NapkinError

_SEPARATION = 14  # points between the nodes of a column
_KINK = 7.0  # points
_CHAIN, _MEETING = 8, 1  # how strongly an edge asks to be straight
_HOW_TO_INSTALL = "install Graphviz: `apt-get install graphviz`, or `brew install graphviz`"

Rail = tuple[int, int]  # the node that a bundle comes from, and the column that it crosses


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns and heights; a rail is known by its source and the column it crosses."""

    columns: tuple[int, ...]
    heights: tuple[float, ...]
    rails: Mapping[Rail, float]

    def arrives_from(self, source: int, column: int) -> float:
        """Return the height at which a bundle comes out of the column before `column`."""
        before = column - 1
        at_source = before == self.columns[source]
        return self.heights[source] if at_source else self.rails[source, before]


def lay_out(nodes: Sequence[Node], frames: Sequence[Frame]) -> Layout:
    """Return where the nodes lie, bundles entering each in the order of its inputs.

    Raises NapkinError (N610) without Graphviz's program.
    """
    return _lay_out(nodes, frames, _in_order(nodes))


def dot_text(nodes: Sequence[Node], frames: Sequence[Frame]) -> str:
    """Return the graph that `lay_out` asks `dot` to place."""
    columns = find_columns(nodes)
    return _write_dot(nodes, frames, columns, find_rails(nodes, columns), _in_order(nodes))


def lay_out_freely(nodes: Sequence[Node], frames: Sequence[Frame]) -> Layout:
    """Return where the nodes lie if bundles may enter a node in any order."""
    return _lay_out(nodes, frames, [""] * _most_inputs(nodes))


def _in_order(nodes: Sequence[Node]) -> list[str]:
    """Return the ports by which bundles enter a node in the order of its inputs."""
    return [f":i{slot}:w" for slot in range(_most_inputs(nodes))]


def _most_inputs(nodes: Sequence[Node]) -> int:
    return max(len(each.inputs) for each in nodes)


def _lay_out(nodes: Sequence[Node], frames: Sequence[Frame], ports: Sequence[str]) -> Layout:
    columns = find_columns(nodes)
    rails = find_rails(nodes, columns)
    places = _heights(_write_dot(nodes, frames, columns, rails, ports))
    return _straightened(
        nodes,
        Layout(
            columns,
            tuple(places[_node_id(each)] + frames[each].rise / 2 for each in range(len(nodes))),
            {rail: places[_rail_id(rail)] for rail in rails},
        ),
    )


def _straightened(nodes: Sequence[Node], layout: Layout) -> Layout:
    """Return the layout without kinks of a point or two, which come of rounding."""
    heights = list(layout.heights)
    rails = dict(layout.rails)

    def before(source: int, column: int) -> float:
        at_source = layout.columns[source] == column - 1
        return heights[source] if at_source else rails[source, column - 1]

    for column in range(1, max(layout.columns) + 1):
        for source, at in layout.rails:
            if at == column and abs(rails[source, at] - before(source, at)) < _KINK:
                rails[source, at] = before(source, at)
        for place, node in enumerate(nodes):
            if layout.columns[place] == column and len(node.inputs) == 1:
                height = before(node.inputs[0], column)
                heights[place] = height if abs(height - heights[place]) < _KINK else heights[place]
    return Layout(layout.columns, tuple(heights), rails)


def mirror(layout: Layout) -> Layout:
    """Return a layout upside down."""
    heights = tuple(-each for each in layout.heights)
    return Layout(layout.columns, heights, {rail: -each for rail, each in layout.rails.items()})


def find_columns(nodes: Sequence[Node]) -> tuple[int, ...]:
    """Return every node's column: arguments in the first, outputs in the last."""
    columns: list[int] = []
    for node in nodes:
        after = max((columns[each] for each in node.inputs), default=0) + 1
        columns.append(0 if node.shape is Shape.ARGUMENT else after)
    last = max(columns)
    at_end = {Shape.OUTPUT: last, Shape.SAVE: last - 1}
    return tuple(
        at_end.get(node.shape, column) for node, column in zip(nodes, columns, strict=True)
    )


def find_rails(nodes: Sequence[Node], columns: Sequence[int]) -> tuple[Rail, ...]:
    """Return the columns that bundles cross on their way, each once a source."""
    found: dict[Rail, None] = {}
    for place, node in enumerate(nodes):
        for source in node.inputs:
            crossed = range(columns[source] + 1, columns[place])
            found |= dict.fromkeys((source, column) for column in crossed)
    return tuple(found)


# --- dot ------------------------------------------------------------------------------------------


def _node_id(place: int) -> str:
    return f"n{place}"


def _rail_id(rail: Rail) -> str:
    return f"r{rail[0]}c{rail[1]}"


def _write_dot(
    nodes: Sequence[Node],
    frames: Sequence[Frame],
    columns: Sequence[int],
    rails: Sequence[Rail],
    ports: Sequence[str],
) -> str:
    """Return the graph for `dot`. It holds numbers only: no text of the user's."""
    lines = [
        "digraph {",
        f"rankdir=LR; splines=none; nodesep={_SEPARATION / 72:.3f};",
        "node [shape=plain]; edge [headclip=false, tailclip=false];",
    ]
    for place, each in enumerate(frames):
        lines.append(f"{_node_id(place)} [label=<{_table(each)}>];")
    for rail in rails:
        height = bundle_height(len(nodes[rail[0]].axes))
        lines.append(
            f'{_rail_id(rail)} [shape=box, label="", width=0.2, height={height / 72:.3f}];'
        )
    for column in range(max(columns) + 1):
        members = [_node_id(place) for place, at in enumerate(columns) if at == column]
        members += [_rail_id(rail) for rail in rails if rail[1] == column]
        lines.append(f"{{rank=same; {'; '.join(members)}}}")
    lines += dict.fromkeys(_edges(nodes, columns, ports))
    return "\n".join([*lines, "}", ""])


def _edges(nodes: Sequence[Node], columns: Sequence[int], ports: Sequence[str]) -> list[str]:
    """Return an edge for every step of a bundle from column to column."""
    edges: list[str] = []
    for place, node in enumerate(nodes):
        for slot, source in enumerate(node.inputs):
            stops = [f"{_node_id(source)}:o:e"]
            crossed = range(columns[source] + 1, columns[place])
            stops += [_rail_id((source, column)) for column in crossed]
            stops.append(f"{_node_id(place)}{ports[slot]}")
            # What bends should bend where bundles meet, not along a chain or a rail.
            last = _CHAIN if len(node.inputs) == 1 else _MEETING
            weights = [*[_CHAIN] * (len(stops) - 2), last]
            edges += [
                f"{tail} -> {head} [weight={weight}];"
                for (tail, head), weight in zip(pairwise(stops), weights, strict=True)
            ]
    return edges


def _table(each: Frame) -> str:
    """Return a node for `dot`: a cell for every bundle that enters, and one for what leaves."""
    height = round(each.height)
    start = '<table border="0" cellborder="0" cellspacing="0" cellpadding="0">'
    if each.rise:
        start += f'<tr><td fixedsize="true" width="9" height="{round(each.rise)}"></td></tr>'
    leaving = f'<td port="o" rowspan="{{}}" fixedsize="true" width="9" height="{height}"></td>'
    if not each.slots:
        return f"{start}<tr>{leaving.format(1)}</tr></table>"
    cells = [
        f'<td port="i{slot}" fixedsize="true" width="9" height="{round(tall + each.gap)}"></td>'
        for slot, tall in enumerate(each.slots)
    ]
    filler = max(0, height - sum(round(tall + each.gap) for tall in each.slots)) // 2
    if filler:
        blank = f'<td fixedsize="true" width="9" height="{filler}"></td>'
        cells = [blank, *cells, blank]
    first = f"<tr>{cells[0]}{leaving.format(len(cells))}</tr>"
    rest = "".join(f"<tr>{cell}</tr>" for cell in cells[1:])
    return f"{start}{first}{rest}</table>"


def _heights(text: str) -> dict[str, float]:
    """Return the height of every node's middle, downward from the top."""
    answer = ask_dot(text)
    top = float(answer["bb"].split(",")[3])
    return {
        each["name"]: top - float(each["pos"].split(",")[1])
        for each in answer["objects"]
        if "pos" in each
    }


def ask_dot(text: str) -> Any:
    """Return what `dot` says of a graph, as JSON: the places of its nodes, edges and labels.

    Raises NapkinError (N610) without Graphviz's program.
    """
    try:
        return json.loads(graphviz.Source(text).pipe("json0", encoding="utf-8", quiet=True))
    except graphviz.ExecutableNotFound:
        message = "a picture needs the program `dot`, which is not installed"
        raise NapkinError([Diagnostic("N610", message, help=_HOW_TO_INSTALL)]) from None
    except graphviz.CalledProcessError as error:
        raise InternalError(f"dot refused a layout: {error}") from error
