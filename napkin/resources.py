"""Read a text that ships beside the package: a grammar, a template, a page of the documentation.

In: a kind (the folder's name) and a file name. Out: its text. `grammars/`, `templates/` and
`docs/` lie outside the package in the repository; a wheel carries them inside it. One loader
knows both.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path


def read_text(kind: str, name: str) -> str:
    """Return the text of file `name` in folder `kind`, always read as UTF-8.

    >>> "diagram" in read_text("grammars", "napkin.lark")
    True
    """
    return folder(kind).joinpath(name).read_text(encoding="utf-8")


def folder(kind: str) -> Traversable:
    """Return the folder `kind`: the installed package's if it is there, else the repository's."""
    installed = files("napkin").joinpath(kind)
    # In an editable install the package has no such folder: a wheel's force-include does not run.
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent / kind
