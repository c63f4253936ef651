"""Generated modules on disk: written whole or not at all, imported, and their entry function found.

In: a kernel module's text. Out: its entry function. Triton reads a kernel's source from its file,
so there must be one; it lies in the user's cache folder, named after the hash of its text.

What prints modules is imported where one is printed: a kernel that is found needs none of it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from napkin.diagram import Diagram
from napkin.language.errors import Diagnostic, InternalError, NapkinError

if TYPE_CHECKING:
    from napkin.schedule.planning.plan import KernelPlan, Plan

Entry = Callable[..., Any]


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it there: nobody ever reads half of it.

    A link is followed; a device or a pipe is written to as it stands.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
        else:
            _replace(target, text)
    except (OSError, RuntimeError, ValueError) as error:
        raise NapkinError([cannot_write(path, error)]) from None


def write_inside(folder: Path, name: str, text: str) -> Path:
    """Write a file in a folder and return its path; refuse a link that leads out of the folder."""
    path = folder / name
    try:
        leaves = path.resolve().parent != folder.resolve()
    except (OSError, RuntimeError) as error:
        raise NapkinError([cannot_write(path, error)]) from None
    if leaves:
        message = f"`{path}` is a link that leads out of `{folder}`"
        raise NapkinError([Diagnostic("N605", message, help="remove the link")])
    write_text(path, text)
    return path


def make_folder(folder: Path) -> Path:
    """Return the folder, made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise NapkinError([cannot_write(folder, error)]) from None
    return folder


def _replace(path: Path, text: str) -> None:
    handle, beside = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(beside).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def cannot_write(path: Path, error: Exception) -> Diagnostic:
    """Return the diagnostic of a file or folder that could not be written."""
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return Diagnostic("N605", f"cannot write `{path}`: {reason}", help="name another place")


def kernel_source(plan: Plan) -> str:
    """Return a plan's kernel module, its derivation, cost and prediction in its header."""
    from napkin.emit.module import emit_module
    from napkin.schedule.planning.cost import cost_of
    from napkin.schedule.planning.show import form_line

    cost = cost_of(plan)
    notes = (
        *(_said("derivation", _derivation(each), each, plan) for each in plan.kernels),
        *(_said("form", form_line(each), each, plan) for each in plan.kernels if each.why),
        f"elements transferred: {cost.transferred}",
        f"elements held a block: {cost.memory}",
        f"predicted: {cost.seconds * 1e3:.3f} ms at these sizes, bound by {cost.bound_by}",
    )
    return emit_module(plan, notes=notes)


def _said(what: str, text: str, kernel: KernelPlan, plan: Plan) -> str:
    """Return a line of the header about a kernel, by name if the plan has several."""
    return f"{what} of {kernel.name}: {text}" if len(plan.kernels) > 1 else f"{what}: {text}"


def _derivation(kernel: KernelPlan) -> str:
    from napkin.algebra.show import show_derivation

    return show_derivation(kernel.derivation).splitlines()[0].partition(": ")[2]


def store_kernel(text: str, name: str) -> Path:
    """Write a module's text to the cache folder, unless it is there, and return its path."""
    path = cache_folder() / f"{name}_{sha256(text.encode()).hexdigest()[:16]}.py"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    mark_used(path)
    return path


def mark_used(path: Path) -> None:
    """Give a file or folder of the cache today's date, by which it is kept."""
    with suppress(OSError):
        os.utime(path)


def load_kernel(text: str, diagram: Diagram) -> Entry:
    """Import a generated module and return its entry function; the same text gives the same one."""
    from napkin.emit.triton import entry_name

    return load_entry(text, diagram.name, entry_name(diagram))


def load_entry(text: str, name: str, entry: str) -> Entry:
    """Import a module, whose file `name` begins, and return its function `entry`."""
    found: Entry = getattr(_import(store_kernel(text, name)), entry)
    return found


def _import(path: Path) -> ModuleType:
    name = f"napkin_kernels.{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InternalError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@cache
def cache_folder() -> Path:
    """Return the user's own cache folder; where there is none to write, one for this process."""
    try:
        folder = Path.home() / ".cache" / "napkin"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="napkin-"))


@cache
def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
