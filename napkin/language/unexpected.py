"""Lark's syntax errors in words.

In: an unexpected character or token, and the terminals that would have parsed. Out: a diagnostic.
One table turns terminals into words.
"""

from __future__ import annotations

from lark import Token

from napkin.language.errors import Diagnostic, Label, did_you_mean
from napkin.language.source import Source, Span

LINE_KEYWORDS = (
    *("diagram", "def", "sizes", "on"),
    *("group", "stream", "split", "at", "warps", "stages"),
)
KEYWORDS = (*LINE_KEYWORDS, "by", "and", "or", "not", "true", "false", "inf")
_WORDS = {
    "NAME": "a name",
    "INTEGER": "a whole number",
    "FLOAT": "a number",
    "COMPARISON": "a comparison",
    "ARROW": "`->`",
    "DOUBLE_STAR": "`**`",
    "DOUBLE_SLASH": "`//`",
    "EQUAL": "`=`",
    "PLUS": "`+`",
    "MINUS": "`-`",
    "STAR": "`*`",
    "SLASH": "`/`",
    "PERCENT": "`%`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "$END": "the end of the line",
} | {word.upper(): f"`{word}`" for word in KEYWORDS}
_STARTERS = frozenset({"NAME", "INTEGER", "FLOAT", "LPAR", "MINUS", "NOT", "TRUE", "FALSE", "INF"})
_OPERATORS = frozenset(
    {"OR", "AND", "COMPARISON", "PLUS", "MINUS", "STAR", "SLASH"}
    | {"DOUBLE_SLASH", "PERCENT", "DOUBLE_STAR"}
)
_ORDER = list(_WORDS)
_CHARACTER_HELP = {
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`, or `!=`",
    "^": "write `**` for a power",
    "_": "a name begins with a letter",
    "{": "brackets are `(` and `[`",
    "}": "brackets are `(` and `[`",
    ";": "a statement ends with its line",
    ".": "a number may hold `.`, a name may not",
}


def unexpected_character(source: Source, at: int) -> Diagnostic:
    """Return the diagnostic for a character that begins no token."""
    char = source.text[at]
    shown = char if char.isprintable() else f"U+{ord(char):04X}"
    if char.isalpha():
        help_line: str | None = "names are made of the letters a to z, digits and `_`"
    else:
        help_line = _CHARACTER_HELP.get(char)
    place = Label(Span(at, at + 1))
    return Diagnostic("N104", f"unexpected character `{shown}`", source, place, help=help_line)


def unexpected_token(
    source: Source, line: Span, token: Token, accepted: frozenset[str]
) -> Diagnostic:
    """Return the diagnostic for a token where others were expected."""
    if token.type == "$END":
        # Lark places the end of a line at its last token's start.
        place = Label(Span(line.end, line.end + 1))
        return Diagnostic("N106", f"the line ends, expected {_expected(accepted)}", source, place)
    assert token.start_pos is not None
    assert token.end_pos is not None
    place = Label(Span(token.start_pos, token.end_pos))
    if token.lower() in KEYWORDS and token.type != "NAME" and "NAME" in accepted:
        help_line = "choose another name"
        return Diagnostic("N113", f"`{token}` is a keyword", source, place, help=help_line)
    first = source.text[line.start : token.start_pos].strip()
    if first in LINE_KEYWORDS and token.type in ("LSQB", "EQUAL"):
        place = Label(Span(line.start, line.start + len(first)))
        help_line = "choose another name"
        return Diagnostic("N113", f"`{first}` is a keyword", source, place, help=help_line)
    if token.type == "COMPARISON" and "PLUS" in accepted:
        help_line = "join two comparisons by `and`: `a < b and b < c`"
        return Diagnostic("N111", "comparisons do not chain", source, place, help=help_line)
    fact = f"expected {_expected(accepted)}, found `{token}`"
    help_line_or_none = _token_help(source, line, token, accepted)
    return Diagnostic("N105", fact, source, place, help=help_line_or_none)


def _token_help(source: Source, line: Span, token: Token, accepted: frozenset[str]) -> str | None:
    if token.type == "EQUAL" and "PLUS" in accepted:
        return "compare with `==`"
    before = source.text[line.start : token.start_pos].rstrip()
    if accepted == {"LPAR"} and before.endswith("]"):
        return "indices are separated by commas; an array read as it lies is its bare name"
    if token.type == "RSQB" and accepted == {"NAME"}:
        return "indices are separated by commas"
    first = source.text[line.start : line.end].split()[0]
    return did_you_mean(first, LINE_KEYWORDS) if before == first else None


def _expected(accepted: frozenset[str]) -> str:
    words: list[str] = []
    if {"DIAGRAM", "SIZES"} <= accepted:
        return "a statement or a keyword"
    if {"INTEGER", "FLOAT", "NAME"} <= accepted:
        words.append("an expression")
        accepted -= _STARTERS
    if {"PLUS", "STAR"} <= accepted:
        words.append("an operator")
        accepted -= _OPERATORS | {"LPAR", "LSQB"}
    words += [_WORDS[each] for each in sorted(accepted, key=_ORDER.index)]
    if len(words) < 2:
        return "".join(words) or "nothing"
    return f"{', '.join(words[:-1])} or {words[-1]}"
