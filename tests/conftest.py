"""Shared by all tests: golden files, written anew by `pytest --bless`."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Golden = Callable[[Path, str], None]

# Tests import `tests.strategies`, and pytest's importlib mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).parent.parent))

# A calibration of the user's would change what is predicted: tests have a folder without any.
os.environ["XDG_CONFIG_HOME"] = str(Path(__file__).parent / "no_configuration")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write golden files as they come out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if shutil.which("nvidia-smi") is None:
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


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
