"""Other libraries' kernels for the same diagram, to be measured beside napkin's.

In: the names of libraries and a diagram. Out: a `Contender` for each: what sets the library up on given
tensors and returns a call. Which diagrams a library serves is found by comparing boxes with those of
`known.napkin`, whatever the user called them.

Deliberately absent: numbers. `bench` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from napkin.diagram import Diagram
from napkin.diagram.fingerprint import fingerprint
from napkin.language import read, source_from_bytes
from napkin.language.errors import Diagnostic, NapkinError, did_you_mean
from napkin.runtime.peers.libraries import LIBRARIES, Call, Library

NAMES = tuple(LIBRARIES)


@dataclass(frozen=True, slots=True)
class Contender:
    """A library's kernel for a diagram; `prepare(tensors)` returns the call to time."""

    name: str
    prepare: Callable[[Sequence[Any]], Call]


def find_contenders(names: Sequence[str], diagram: Diagram) -> tuple[Contender, ...]:
    """Return a contender a name; NapkinError (N613) if a library is unknown, absent or has no such kernel."""
    return tuple(_contender(name, diagram) for name in names)


def _contender(name: str, diagram: Diagram) -> Contender:
    if name not in LIBRARIES:
        message = f"`{name}` is no library that napkin compares with"
        near = did_you_mean(name, NAMES) or f"known: {', '.join(NAMES)}"
        raise NapkinError([Diagnostic("N613", message, help=near)])
    library = LIBRARIES[name]
    known = known_name(diagram)
    if known is None or known not in library.kernels:
        served = ", ".join(f"`{each}`" for each in library.kernels)
        raise NapkinError(
            [
                Diagnostic(
                    "N613",
                    f"napkin knows no kernel of `{name}` for the diagram `{diagram.name}`",
                    notes=(f"it can be compared on {served} (napkin/runtime/peers/known.napkin)",),
                    help="leave it out of --vs",
                )
            ]
        )
    _require(name, library)
    return Contender(name, library.kernels[known])


def _require(name: str, library: Library) -> None:
    try:
        library.load()
    except (ImportError, OSError, RuntimeError) as error:
        message = f"`{name}` cannot be used here: {str(error).splitlines()[0]}"
        raise NapkinError([Diagnostic("N613", message, help=library.install)]) from None


def known_name(diagram: Diagram) -> str | None:
    """Return the name in `known.napkin` of a diagram that computes the same, None if there is none."""
    return _known().get(fingerprint(diagram))


@cache
def _known() -> dict[str, str]:
    """Return the name of every known diagram by its fingerprint."""
    data = files("napkin.runtime.peers").joinpath("known.napkin").read_bytes()
    return {fingerprint(each): each.name for each in read(source_from_bytes("known.napkin", data))}
