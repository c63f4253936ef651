"""The gallery and the README's picture are what the examples give today.

`make gallery` draws them anew.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.pictures import SVG, check_standalone
from tests.programs import EXAMPLES, ROOT


@cache
def script() -> ModuleType:
    path = ROOT / "scripts" / "gallery.py"
    spec = importlib.util.spec_from_file_location("gallery", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def drawn() -> Mapping[str, str]:
    files: Mapping[str, str] = script().gallery()
    return files


def words(picture: str) -> list[str]:
    """Return the lines of text of a picture, which no version of Graphviz changes."""
    return sorted(
        "".join(each.itertext()) for each in ElementTree.fromstring(picture).iter(f"{SVG}text")
    )


def test_every_example_is_in_the_gallery() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in EXAMPLES:
        assert f"(gallery/{name}.svg)" in page
    kept = {path.name for path in (ROOT / "docs" / "gallery").iterdir()}
    assert kept == {path.rpartition("/")[2] for path in drawn() if path.startswith("docs/gallery/")}


def test_the_gallery_is_up_to_date() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    is_same_version = f"Graphviz {script().graphviz_version()}." in page
    stale = []
    for name, text in drawn().items():
        path = ROOT / name
        held = path.read_text(encoding="utf-8") if path.exists() else ""
        if is_same_version:
            stale += [name] if held != text else []
        elif name.endswith(".svg"):
            # Other versions set other places; what is said must be the same.
            stale += [name] if not held or words(held) != words(text) else []
    if stale:
        pytest.fail(f"stale: {', '.join(stale)}; draw them anew by `make gallery`", pytrace=False)


def test_pictures_of_the_gallery_stand_alone() -> None:
    for path in sorted((ROOT / "docs" / "gallery").glob("*.svg")):
        check_standalone(path.read_text(encoding="utf-8"))
