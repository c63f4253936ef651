"""Shared by all tests: golden files, written anew by `pytest --bless`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import pytest

Golden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write golden files as they come out")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Return `golden(path, text)`: the text must be what the file holds; a missing file fails."""
    bless = bool(request.config.getoption("--bless"))

    def compare(path: Path, text: str) -> None:
        if bless:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"no golden file {path}; write it by `pytest --bless`")
        was = path.read_text(encoding="utf-8")
        if was != text:
            lines = difflib.unified_diff(was.splitlines(), text.splitlines(), "golden", "now", "")
            pytest.fail(f"{path} differs\n" + "\n".join(lines), pytrace=False)

    return compare
