"""Gather diagnostics of one file: in source order, each once, and not too many.

In: diagnostics in the order they were found. Out: those to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napkin.language.errors import Diagnostic

MAX_SHOWN = 50


def gather(diagnostics: Sequence[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return the diagnostics in source order, without repeats, the first fifty of them."""
    ordered = sorted(dict.fromkeys(diagnostics), key=_place)
    if len(ordered) <= MAX_SHOWN:
        return tuple(ordered)
    shown = ordered[:MAX_SHOWN]
    note = f"only the first {MAX_SHOWN} errors of this file are shown"
    return (*shown[:-1], replace(shown[-1], notes=(*shown[-1].notes, note)))


def _place(diagnostic: Diagnostic) -> tuple[int, int, str]:
    span = diagnostic.primary.span if diagnostic.primary else None
    return (span.start, span.end, diagnostic.code) if span else (0, 0, diagnostic.code)
