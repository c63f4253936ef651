"""Kernels that were made before, found again: by this process in memory, by the next one on disk.

In: what a kernel is made from. Out: `Made`, a module's text and what it was made for. An entry's name is the
digest of everything that decides the text: the diagram with its types, the machine, the storage type, the
form, the lengths planned for, and napkin's own sources. So an entry is never stale, only unused.

Files are written beside their place and renamed, by whichever process is first; two that make the same kernel
at once write the same bytes. What can't be read, or is not what it says, counts as absent. What nothing has
used for some months goes when another version of napkin keeps its first kernel.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from napkin.language.errors import NapkinError
from napkin.resources import folder
from napkin.runtime.kernels import cache_folder, make_folder, mark_used, write_text

KEPT_DAYS = 90
_SOURCES = ("*.py", "*.toml", "*.napkin", "*.lark", "*.jinja")


@dataclass(frozen=True, slots=True)
class Made:
    """A kernel module's text, the name of its entry function, and what it holds for.

    `fixed` are axes that it has one length for. `edges` are those whose length says how wide loads may
    be, the innermost of large arrays; `small` are the arrays whose axes another array has as well.
    """

    text: str
    entry: str
    fixed: tuple[tuple[str, int], ...]
    edges: tuple[str, ...]
    small: tuple[str, ...]

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether the module runs at these lengths."""
        return all(sizes[axis] == size for axis, size in self.fixed)


def digest(*parts: str) -> str:
    """Return what parts, in order, are known by."""
    return sha256("\0".join(parts).encode()).hexdigest()[:20]


def find(key: str, sizes: Mapping[str, int]) -> Made | None:
    """Return an entry under the key that fits the lengths, None where there is none."""
    for path in sorted(_place(key).glob("*.json")):
        made = _read(path)
        if made is not None and made.fits(sizes):
            mark_used(path.parents[1])
            return made
    return None


def keep(key: str, made: Made) -> None:
    """Store an entry under the key; where the folder can't be written, nothing is kept."""
    text = json.dumps(asdict(made) | {"fixed": dict(made.fixed)})
    body = json.dumps({"sha": sha256(text.encode()).hexdigest(), "made": text})
    name = "_".join(f"{axis}{size}" for axis, size in made.fixed) or "any"
    is_new_version = not _place(key).parent.exists()
    try:
        write_text(make_folder(_place(key)) / f"{digest(name)}.json", body)
    except NapkinError:
        return
    if is_new_version:
        forget_unused()


def forget_unused() -> None:
    """Remove from the cache what no process has used for `KEPT_DAYS` days."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for path in cache_folder().iterdir():
        try:
            if path.stat().st_mtime >= oldest:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        except OSError:  # another process removed it first, or it is not ours to remove
            continue


def _read(path: Path) -> Made | None:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        text = body["made"]
        if sha256(text.encode()).hexdigest() != body["sha"]:
            return None
        found: dict[str, Any] = json.loads(text)
        fixed = tuple(found["fixed"].items())
        return Made(
            found["text"], found["entry"], fixed, tuple(found["edges"]), tuple(found["small"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _place(key: str) -> Path:
    return cache_folder() / source_digest() / key


@cache
def source_digest() -> str:
    """Return the digest of napkin's own sources, templates and machine descriptions."""
    found = sha256()
    package = Path(__file__).parents[1]
    for root in (package, *(Path(str(folder(kind))) for kind in ("templates", "grammars"))):
        for path in sorted(each for kind in _SOURCES for each in root.rglob(kind)):
            found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:20]
