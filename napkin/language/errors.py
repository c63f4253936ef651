"""Diagnostics in rustc's layout, and the one exception for users' mistakes.

A `Diagnostic` says what is wrong at a place in a source text; `render` prints it; `NapkinError` carries
one or more of them. Codes go by stage: N1 syntax, N2 labels and types, N3 streams, N4 plans, N5
emission, N6 run time; docs/errors.md holds a section and a failing example for each.

A broken invariant of the compiler itself is an `InternalError`, never a `NapkinError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from napkin.language.source import Source, Span

_MAX_LINE = 160
_MAX_KNOWN = 1000
_RED, _BLUE, _BOLD, _PLAIN = "\x1b[31;1m", "\x1b[34;1m", "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Label:
    """A span with a few words; the primary one is underlined with carets."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake: a stable code, a message that stands alone, and where and why.

    `source` is None where no text is at fault (a command-line value, a call at run time).
    """

    code: str
    message: str
    source: Source | None = None
    primary: Label | None = None
    secondary: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str | None = None
    severity: str = "error"


class NapkinError(Exception):
    """A user's mistake, or several; `diagnostics` holds them in source order."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n\n".join(render(each) for each in self.diagnostics))


class InternalError(Exception):
    """A broken invariant of napkin; the message asks for a report."""

    def __init__(self, fact: str) -> None:
        super().__init__(f"internal error in napkin: {fact} (please report this)")


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to `word`, if one is near enough to suggest.

    >>> closest("sofmax", ["softmax", "sum"])
    'softmax'
    """
    names = sorted(set(known))
    if len(names) > _MAX_KNOWN:
        return None  # comparing with so many would take seconds, and a machine wrote them
    matches = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a help line with the closest known name, or None."""
    match = closest(word, known)
    return f"did you mean `{match}`?" if match else None


def render(diagnostic: Diagnostic, *, colour: bool = False) -> str:
    """Return the diagnostic as text in rustc's layout."""
    paint = _Paint(colour)
    head = paint.severity(f"{diagnostic.severity}[{diagnostic.code}]")
    lines = [f"{head}{paint.bold(': ' + diagnostic.message)}"]
    margin = 1
    if diagnostic.source is not None and diagnostic.primary is not None:
        excerpt, margin = _excerpt(diagnostic, diagnostic.source, diagnostic.primary, paint)
        lines += excerpt
    pad = " " * margin
    lines += [f"{pad} {paint.blue('=')} note: {note}" for note in diagnostic.notes]
    if diagnostic.help:
        lines.append(f"{pad} {paint.blue('=')} help: {diagnostic.help}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Paint:
    on: bool

    def _wrap(self, code: str, text: str) -> str:
        return f"{code}{text}{_PLAIN}" if self.on else text

    def severity(self, text: str) -> str:
        return self._wrap(_RED, text)

    def blue(self, text: str) -> str:
        return self._wrap(_BLUE, text)

    def bold(self, text: str) -> str:
        return self._wrap(_BOLD, text)


def _excerpt(
    diagnostic: Diagnostic, source: Source, primary: Label, paint: _Paint
) -> tuple[list[str], int]:
    line, column = source.position(primary.span.start)
    marks = [(primary, "^"), *((label, "-") for label in diagnostic.secondary)]
    marks.sort(key=lambda mark: (mark[0].span.start, mark[0].span.end))
    numbers = [source.position(label.span.start)[0] for label, _ in marks]
    margin = len(str(max(numbers)))
    bar = f"{' ' * margin} {paint.blue('|')}"
    lines = [f"{' ' * margin}{paint.blue('-->')} {source.name}:{line}:{column}", bar]
    shown = 0
    for number, (label, sign) in zip(numbers, marks, strict=True):
        if number != shown:
            if shown and number > shown + 1:
                lines.append(paint.blue("..."))
            text, _, _ = _clip(source, number, label.span)
            lines.append(f"{paint.blue(f'{number:>{margin}} |')} {text}".rstrip())
            shown = number
        lines.append(f"{bar} {_underline(source, number, label, sign, paint)}".rstrip())
    return lines, margin


def _clip(source: Source, number: int, span: Span) -> tuple[str, int, int]:
    """Return a window of a line's text round a span, and the span's columns in it (from zero)."""
    text = source.line_text(number)
    start = source.position(span.start)[1] - 1
    end = min(start + max(span.end - span.start, 1), max(len(text), start + 1))
    if len(text) > _MAX_LINE:
        first = max(0, start - _MAX_LINE // 2)
        text, start, end = text[first : first + _MAX_LINE], start - first, end - first
    text = "".join(char if char.isprintable() else " " for char in text)
    return text, start, min(end, max(len(text), start + 1))


def _underline(source: Source, number: int, label: Label, sign: str, paint: _Paint) -> str:
    _, start, end = _clip(source, number, label.span)
    marks = sign * (end - start)
    coloured = paint.severity(marks) if sign == "^" else paint.blue(marks)
    return f"{' ' * start}{coloured} {label.text}"
