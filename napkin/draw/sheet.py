"""The page: panels in rows, one below another, as SVG text.

In: panels, a title and a description. Out: SVG text that stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napkin.draw.render import render
from napkin.draw.shapes import Drawing, Panel, number

MARGIN = 12.0
_BETWEEN_ROWS, _BETWEEN_COLUMNS = 30.0, 40.0


@dataclass(frozen=True, slots=True)
class Part:
    """A drawing, and how far it is moved."""

    x: str
    y: str
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class Sheet:
    """Everything that the template prints, decided."""

    title: str
    description: str
    width: str
    height: str
    parts: tuple[Part, ...]


def print_sheet(
    title: str, description: str, rows: Sequence[Sequence[Panel]], margin: float = MARGIN
) -> str:
    """Return the SVG text of rows of panels, those of a row side by side."""
    parts: list[Part] = []
    y, width = margin, 0.0
    for row in rows:
        x = margin
        for each in row:
            parts.append(Part(number(x - each.left), number(y - each.top), each.drawing))
            x += each.right - each.left + _BETWEEN_COLUMNS
        width = max(width, x - _BETWEEN_COLUMNS + margin)
        y += max(each.bottom - each.top for each in row) + _BETWEEN_ROWS
    sheet = Sheet(
        title, description, number(width), number(y - _BETWEEN_ROWS + margin), tuple(parts)
    )
    return render("svg/sheet.svg.jinja", sheet=sheet)
