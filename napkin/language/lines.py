"""Split a text into logical lines: physical lines, joined while a bracket is open.

In: a source text. Out: its logical lines, and a diagnostic for every bracket that has no partner.
A bracket left open must not swallow the file, so a physical line that can only be the start of a
line (a keyword, `NAME[..] =`) ends the join.

Deliberately absent: tokens. Only brackets, comments and the first word of a line matter here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from napkin.language.errors import Diagnostic, Label
from napkin.language.source import Source, Span

MAX_NESTING = 64
MAX_LINE = 1 << 16

_OPENS_LINE = re.compile(
    r"[ \t\r]*(?:(?:diagram|def|sizes|on|group|stream|split|at|warps|stages)\b"
    r"|[A-Za-z][A-Za-z0-9_]*[ \t]*(?:\[[^\[\]\n]*\][ \t]*)?=(?!=))"
)
_BRACKET = re.compile(r"[()\[\]]")
_PARTNER = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """One line of the language: its text's span, the comment block right above, and if it is sound.

    A broken line has been reported already.
    """

    span: Span
    comment: str
    broken: bool


def split_lines(source: Source) -> tuple[list[LogicalLine], list[Diagnostic]]:
    """Return the logical lines of a text, and what is wrong with its brackets."""
    splitter = _Splitter(source)
    for start, end in _physical_lines(source.text):
        splitter.take(start, end)
    splitter.finish()
    return splitter.lines, splitter.diagnostics


def _physical_lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield start, end
        start = end + 1


@dataclass(slots=True)
class _Splitter:
    source: Source
    lines: list[LogicalLine] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    begin: int | None = None  # where the line being joined begins
    end: int = 0
    open: list[tuple[str, int]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    skipping: bool = False  # after a bracket error: what follows may be the rest of that line

    def take(self, start: int, end: int) -> None:
        """Take one physical line."""
        text = self.source.text
        comment = text.find("#", start, end)
        code_end = _strip_end(text, start, end if comment < 0 else comment)
        if code_end == start:
            self._take_blank(text[comment + 1 : end].strip() if comment >= 0 else None)
            return
        if _OPENS_LINE.match(text, start, code_end):
            self.skipping = False
            if self.open:
                self._refuse_open()
        elif self.skipping:
            return
        if self.begin is None:
            self.begin = _strip_start(text, start)
        self.end = code_end
        self._take_brackets(start, code_end)

    def finish(self) -> None:
        """Close what is still open at the end of the text."""
        if self.open:
            self._refuse_open()

    def _take_blank(self, comment: str | None) -> None:
        if self.begin is not None:
            return
        if comment is None:
            self.comments.clear()
        else:
            self.comments.append(comment)

    def _take_brackets(self, start: int, end: int) -> None:
        for match in _BRACKET.finditer(self.source.text, start, end):
            sign, offset = match.group(), match.start()
            if sign not in _PARTNER:
                self.open.append((sign, offset))
                if len(self.open) > MAX_NESTING:
                    self._refuse_nesting(offset)
                    return
            elif not self.open or self.open[-1][0] != _PARTNER[sign]:
                self._refuse_closing(sign, offset)
                return
            else:
                self.open.pop()
        if self.begin is not None and self.end - self.begin > MAX_LINE:
            self._refuse_length(Span(self.begin, self.begin + 1))
        elif not self.open:
            self._end_line(broken=False)

    def _end_line(self, *, broken: bool) -> None:
        assert self.begin is not None
        comment = "\n".join(self.comments)
        self.lines.append(LogicalLine(Span(self.begin, self.end), comment, broken))
        self.comments.clear()
        self.open.clear()
        self.begin = None
        self.skipping = broken

    def _refuse_open(self) -> None:
        sign, offset = self.open[-1]
        self._refuse("N107", f"`{sign}` is never closed", Span(offset, offset + 1))

    def _refuse_closing(self, sign: str, offset: int) -> None:
        here = Span(offset, offset + 1)
        if not self.open:
            self._refuse("N107", f"`{sign}` closes nothing", here)
            return
        opening, at = self.open[-1]
        label = Label(Span(at, at + 1), "opened here")
        self._refuse("N107", f"`{opening}` is closed by `{sign}`", here, (label,))

    def _refuse_nesting(self, offset: int) -> None:
        fact = f"brackets nest deeper than {MAX_NESTING} levels"
        self._refuse("N108", fact, Span(offset, offset + 1))

    def _refuse_length(self, span: Span) -> None:
        self._refuse("N114", f"a line is longer than {MAX_LINE} characters", span)

    def _refuse(self, code: str, fact: str, span: Span, others: tuple[Label, ...] = ()) -> None:
        self.diagnostics.append(
            Diagnostic(code, fact, self.source, Label(span), others, help=_HELP[code])
        )
        self._end_line(broken=True)


_HELP = {
    "N107": None,
    "N108": "name an inner part by a statement of its own",
    "N114": "name parts of it by statements of their own",
}


def _strip_end(text: str, start: int, end: int) -> int:
    while end > start and text[end - 1] in " \t\r":
        end -= 1
    return end


def _strip_start(text: str, start: int) -> int:
    while text[start] in " \t\r":
        start += 1
    return start
