"""Look at a picture as a reader does: rasterise it, and find where lines of text meet something.

In: SVG text. Out: places, in the picture's own units. Text and lines are painted apart, so that
what is dark in both is where they meet.
"""

from __future__ import annotations

import io
from copy import deepcopy
from math import floor
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

SVG = "{http://www.w3.org/2000/svg}"
_SCALE = 1.5
_DARK = 0.6

Image = npt.NDArray[np.float64]


def check_by_eye(picture: str) -> None:
    """Check that no line of text meets a line, another text or the edge."""
    assert meetings_of_text_and_lines(picture) == []
    assert meetings_of_texts(picture) == []
    assert not texts_cut_off(picture)


def meetings_of_text_and_lines(picture: str) -> list[tuple[int, int]]:
    """Return where a line of text meets a stroke."""
    root = ElementTree.fromstring(picture.encode())
    both = np.minimum(_paint(_only_text(root)), _paint(_only_strokes(root)))
    return _places(both > _DARK)


def meetings_of_texts(picture: str) -> list[tuple[int, int]]:
    """Return where two lines of text lie over each other: each is painted half through."""
    root = _only_text(ElementTree.fromstring(picture.encode()))
    for each in root.iter(f"{SVG}text"):
        each.set("opacity", "0.4")
    return _places(_paint(root) > _DARK)


def texts_cut_off(picture: str) -> bool:
    """Return whether some text reaches past the canvas: something is dark outside it on a larger one."""
    margin = 100.0
    root = _only_text(ElementTree.fromstring(picture.encode()))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    root.set("viewBox", f"{-margin} {-margin} {width + 2 * margin} {height + 2 * margin}")
    root.set("width", str(width + 2 * margin))
    root.set("height", str(height + 2 * margin))
    painted = _paint(root)
    top, left = (
        floor(margin * pixels / (size + 2 * margin))
        for pixels, size in zip(painted.shape, (height, width), strict=True)
    )
    inside = painted[top : painted.shape[0] - top, left : painted.shape[1] - left]
    return bool(painted.sum() - inside.sum() > 2.0)


def _only_text(root: ElementTree.Element) -> ElementTree.Element:
    kept = deepcopy(root)
    _remove(kept, {"path", "circle", "rect"})
    for each in kept.iter():
        if "fill" in each.attrib:
            each.set("fill", "#000")
    return kept


def _only_strokes(root: ElementTree.Element) -> ElementTree.Element:
    kept = deepcopy(root)
    _remove(kept, {"text", "rect"})
    for each in kept.iter():
        if "stroke" in each.attrib:
            each.set("stroke", "#000")
        if "fill" in each.attrib:
            each.set("fill", "none")
    return kept


def _remove(root: ElementTree.Element, names: set[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.removeprefix(SVG) in names:
                parent.remove(child)


def _paint(root: ElementTree.Element) -> Image:
    """Return how dark every pixel is, from 0 to 1."""
    try:
        cairosvg = pytest.importorskip("cairosvg")
    except OSError:
        pytest.skip("the library `cairo` is not installed")
    image = pytest.importorskip("PIL.Image")
    data = cairosvg.svg2png(ElementTree.tostring(root), scale=_SCALE, background_color="white")
    painted = np.asarray(image.open(io.BytesIO(data)).convert("L"), dtype=np.float64)
    return 1.0 - painted / 255.0


def _places(dark: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the middles of the squares of 20 units in which something is dark."""
    rows, columns = np.nonzero(dark)
    step = int(20 * _SCALE)
    found: dict[tuple[int, int], int] = {}
    for x, y in zip(columns.tolist(), rows.tolist(), strict=True):
        square = (x // step * 20 + 10, y // step * 20 + 10)
        found[square] = found.get(square, 0) + 1
    # A pixel or two are rounding where a letter ends beside a line.
    return sorted(square for square, count in found.items() if count > 2)
