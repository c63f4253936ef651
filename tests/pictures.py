"""How a picture is judged: its lines of text with their room, and what it needs to be shown.

In: SVG text. Out: boxes of text, estimated, or a failed assertion. See also rasters.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
MOST_BYTES = 150_000


@dataclass(frozen=True)
class LabelBox:
    """A line of text and the room it takes, estimated."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: LabelBox) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def labels(root: ElementTree.Element) -> list[LabelBox]:
    """Return every line of text of a picture with its place."""
    return list(_labels(root, (0.0, 0.0), 12.0))


def _labels(
    element: ElementTree.Element, moved: tuple[float, float], size: float
) -> Iterator[LabelBox]:
    shift = element.get("transform", "translate(0 0)").removeprefix("translate(").rstrip(")")
    x, y = (float(each) for each in shift.split())
    moved = (moved[0] + x, moved[1] + y)
    size = float(element.get("font-size", size))
    if element.tag == f"{SVG}text":
        yield _label(element, moved, size)
        return
    for child in element:
        yield from _labels(child, moved, size)


def _label(element: ElementTree.Element, moved: tuple[float, float], size: float) -> LabelBox:
    text = "".join(element.itertext())
    width = 0.5 * size * len(element.text or "")
    for run in element.iter(f"{SVG}tspan"):
        width += 0.5 * float(run.get("font-size", size)) * len(run.text or "")
    shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "start")]
    left = float(element.attrib["x"]) + moved[0] - shift * width
    base = float(element.attrib["y"]) + moved[1]
    return LabelBox(text, left, base - 0.7 * size, left + width, base + 0.2 * size)


def check_legible(root: ElementTree.Element) -> None:
    """Check that no two lines of text overlap and none leaves the canvas."""
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert root.attrib["viewBox"] == f"0 0 {root.attrib['width']} {root.attrib['height']}"
    found = labels(root)
    assert found
    for each in found:
        assert each.left >= 0, each
        assert each.right <= width, each
        assert each.top >= 0, each
        assert each.bottom <= height, each
    for one, other in combinations(found, 2):
        assert not one.overlaps(other), (one, other)


def check_standalone(picture: str) -> None:
    """Check that a picture is small, and needs and runs nothing: no script, no link, no font."""
    assert len(picture.encode()) < MOST_BYTES
    root = ElementTree.fromstring(picture.encode())
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")
    for element in root.iter():
        assert element.tag not in (f"{SVG}script", f"{SVG}foreignObject", f"{SVG}image")
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on")
            assert "href" not in name
            assert "url(" not in value, (name, value)
