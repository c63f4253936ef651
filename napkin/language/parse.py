"""Text to syntax tree, line by line, so that every line's syntax error is reported at once.

In: a source. Out: `syntax.File`, or a NapkinError with one diagnostic for each line that cannot
be read. Each logical line is parsed on its own by Lark (LALR, grammars/napkin.lark); here the
lines are put together into diagrams, and Lark's errors into words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import cast

from lark import Lark, Token, UnexpectedCharacters, UnexpectedToken
from lark.utils import TextSlice

from napkin.language import syntax
from napkin.language.build import Builder, Refused
from napkin.language.errors import Diagnostic, Label, NapkinError
from napkin.language.lines import LogicalLine, split_lines
from napkin.language.report import MAX_SHOWN, gather
from napkin.language.source import Source, Span
from napkin.language.unexpected import unexpected_character, unexpected_token
from napkin.resources import read_text

MAX_TEXT = 1 << 20
MAX_WORDS = 200_000  # which take a few seconds
MAX_NAME = 64
MAX_DEPTH = 200

_WORD = re.compile(r"#[^\n]*|\w+|[^\w\s]")
_LONG_WORD = re.compile(rf"#[^\n]*|[A-Za-z0-9_]{{{MAX_NAME + 1},}}")
_TARGET = re.compile(r"(?:(def|diagram)\s+)?([A-Za-z][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What could be read of a file, and what was wrong with the rest."""

    file: syntax.File
    diagnostics: tuple[Diagnostic, ...]


def parse(source: Source) -> syntax.File:
    """Return the syntax tree of a text.

    >>> tree = parse(Source("f.napkin", "diagram f(A[x]) -> B[x]\\nB[x] = 2 * A"))
    >>> tree.diagrams[0].statements[0].target.name
    'B'
    """
    parsed = parse_what_parses(source)
    if parsed.diagnostics:
        raise NapkinError(gather(parsed.diagnostics))
    return parsed.file


def parse_what_parses(source: Source) -> Parsed:
    """Return the syntax tree of every line that can be read, and the others' diagnostics."""
    flaw = refuse_text(source)
    parsed = Parsed(syntax.File(Span(0, 0), (), ()), ()) if flaw else parse_lines(source)
    if flaw is None and not parsed.file.diagrams and not parsed.diagnostics:
        help_line = "begin one with `diagram NAME(A[x]) -> B[x]`"
        flaw = Diagnostic("N115", f"`{source.name}` holds no diagram", help=help_line)
    return Parsed(parsed.file, (*parsed.diagnostics, *((flaw,) if flaw else ())))


def parse_lines(source: Source) -> Parsed:
    """Return the syntax tree of every line that can be read, diagram or no."""
    lines, diagnostics = split_lines(source)
    assembly = _Assembly(source, diagnostics=diagnostics)
    for line in lines:
        assembly.take(line, assembly.read(line))
    return assembly.finish()


def refuse_text(source: Source) -> Diagnostic | None:
    """Return what makes a text unreadable as a whole: too long, binary, empty."""
    text = source.text
    if len(text) > MAX_TEXT:
        return Diagnostic(
            "N103",
            f"`{source.name}` holds {len(text)} characters, more than {MAX_TEXT}",
            help="a diagram is a page of text; is this the right file?",
        )
    if (at := text.find("\0")) >= 0:
        return Diagnostic(
            "N102",
            f"`{source.name}` is not a text: it holds a zero byte at offset {at}",
            help="a napkin file is UTF-8 text",
        )
    if len(text) > MAX_WORDS and (words := sum(1 for _ in _WORD.finditer(text))) > MAX_WORDS:
        return Diagnostic(
            "N103",
            f"`{source.name}` holds {words} words, more than {MAX_WORDS}",
            help="cut it into several files",
        )
    if not text.strip():
        return Diagnostic(
            "N101",
            f"`{source.name}` is empty",
            help="begin with `diagram NAME(A[x]) -> B[x]`",
        )
    return None


# --- one line -------------------------------------------------------------------------------------


@cache
def _lark() -> Lark:
    # The basic lexer keeps keywords reserved everywhere; the contextual one would not.
    return Lark(
        read_text("grammars", "napkin.lark"),
        parser="lalr",
        lexer="basic",
        start="line",
        keep_all_tokens=True,
        maybe_placeholders=False,
        transformer=Builder(),
    )


def _parse_line(source: Source, span: Span) -> syntax.Line | Diagnostic:
    if flaw := _refuse_long_word(source, span):
        return flaw
    try:
        # With a transformer Lark returns what the builder made, not a tree.
        line: syntax.Line = _lark().parse(TextSlice(source.text, span.start, span.end))  # type: ignore[assignment]
    except Refused as refused:
        place = Label(refused.span)
        return Diagnostic(refused.code, refused.message, source, place, help=refused.help)
    except UnexpectedCharacters as error:
        return unexpected_character(source, error.pos_in_stream or span.start)
    except UnexpectedToken as error:
        token = cast(Token, error.token)
        return unexpected_token(source, span, token, frozenset(error.accepts or ()))
    return _refuse_depth(source, line) or line


def _refuse_long_word(source: Source, span: Span) -> Diagnostic | None:
    for match in _LONG_WORD.finditer(source.text, span.start, span.end):
        word = match.group()
        if word.startswith("#"):
            continue
        what, code = ("number", "N110") if word[0].isdigit() else ("name", "N109")
        fact = f"a {what} of {len(word)} characters is longer than {MAX_NAME}"
        return Diagnostic(code, fact, source, Label(Span(*match.span())))
    return None


def _refuse_depth(source: Source, line: syntax.Line) -> Diagnostic | None:
    match line:
        case syntax.Statement():
            expression = line.value
        case syntax.Definition():
            expression = line.body
        case _:
            return None
    if expression is None or all(depth <= MAX_DEPTH for _, depth in syntax.walk(expression)):
        return None
    return Diagnostic(
        "N108",
        f"an expression nests deeper than {MAX_DEPTH} levels",
        source,
        Label(Span(expression.span.start, expression.span.start + 1)),
        help="name parts of it by statements of their own",
    )


# --- lines to diagrams ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Block:
    """An `on` block being gathered."""

    on: syntax.On
    clauses: list[syntax.Clause] = field(default_factory=list)


@dataclass(slots=True)
class _Draft:
    """A diagram being gathered; `head` is None where its first line could not be read."""

    head: syntax.Head | None
    comment: str
    whole: bool = True
    statements: list[syntax.Statement] = field(default_factory=list)
    sizes: list[syntax.AxisSize] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)


@dataclass(slots=True)
class _Assembly:
    source: Source
    diagnostics: list[Diagnostic]
    definitions: list[syntax.Definition] = field(default_factory=list)
    drafts: list[_Draft] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    def read(self, line: LogicalLine) -> syntax.Line | None:
        """Return the line's syntax, or None with a diagnostic."""
        if line.broken or len(self.diagnostics) > MAX_SHOWN:
            return None
        parsed = _parse_line(self.source, line.span)
        if isinstance(parsed, Diagnostic):
            self.diagnostics.append(parsed)
            return None
        return parsed

    def take(self, line: LogicalLine, parsed: syntax.Line | None) -> None:
        """Put one line in its place."""
        match parsed:
            case None:
                self._take_broken(line)
            case syntax.Head():
                self.drafts.append(_Draft(parsed, line.comment))
            case syntax.Definition():
                self.definitions.append(parsed)
            case _ if not self.drafts:
                self._misplaced(line.span, "a line stands before any `diagram`")
            case syntax.Statement():
                self.drafts[-1].statements.append(parsed)
            case syntax.Sizes():
                self.drafts[-1].sizes += parsed.sizes
            case syntax.On():
                self.drafts[-1].blocks.append(_Block(parsed))
            case syntax.Tilings() | syntax.Place() | syntax.Count():
                self._take_clause(parsed)

    def _take_clause(self, clause: syntax.Clause) -> None:
        blocks = self.drafts[-1].blocks
        if blocks:
            blocks[-1].clauses.append(clause)
        else:
            word = self.source.text[clause.span.start : clause.span.end].split()[0]
            self._misplaced(clause.span, f"`{word}` stands before any `on MACHINE`")

    def _take_broken(self, line: LogicalLine) -> None:
        """Remember what an unreadable line would have named, so that its users stay silent."""
        match = _TARGET.match(self.source.text, line.span.start, line.span.end)
        word, name = match.groups() if match else (None, None)
        if word == "diagram" or name == "diagram" or not self.drafts:
            # Lines that follow belong to it, whatever it was.
            self.drafts.append(_Draft(None, ""))
        self.drafts[-1].whole = False
        if match is None or name is None:
            return
        if word:
            self.lost.add(name)
        else:
            target = syntax.Identifier(Span(*match.span(2)), name)
            self.drafts[-1].statements.append(syntax.Statement(line.span, target, (), None))

    def _misplaced(self, span: Span, fact: str) -> None:
        end = span.end if "\n" not in self.source.text[span.start : span.end] else span.start + 1
        place = Label(Span(span.start, end))
        if fact.startswith("`"):
            help_line = "begin a relabelling with `on hopper`"
        else:
            help_line = "begin a diagram with `diagram NAME(A[x]) -> B[x]`"
        self.diagnostics.append(Diagnostic("N112", fact, self.source, place, help=help_line))

    def finish(self) -> Parsed:
        """Return the file."""
        diagrams = tuple(_diagram(each) for each in self.drafts if each.head)
        span = Span(0, len(self.source.text))
        file = syntax.File(span, tuple(self.definitions), diagrams, frozenset(self.lost))
        return Parsed(file, tuple(self.diagnostics))


def _diagram(draft: _Draft) -> syntax.DiagramText:
    assert draft.head is not None
    return syntax.DiagramText(
        draft.head.span,
        draft.head,
        tuple(draft.statements),
        tuple(draft.sizes),
        tuple(
            syntax.OnBlock(each.on.span, each.on.machine, tuple(each.clauses))
            for each in draft.blocks
        ),
        draft.comment,
        draft.whole,
    )
