"""The language: text to diagrams, with every mistake of a file reported at once.

In: a `Source`, or a file's bytes. Out: its diagrams, or one NapkinError that holds all
diagnostics in source order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napkin.language.errors import Diagnostic, NapkinError
from napkin.language.source import Source

if TYPE_CHECKING:
    from napkin.diagram import Diagram

MAX_BYTES = 1 << 20

# `parse` and `check` are imported inside functions: the diagram's module, which `check` needs,
# itself imports this package's errors.


def read(source: Source) -> tuple[Diagram, ...]:
    """Return the diagrams of a text; raise NapkinError with all that is wrong with it.

    >>> [each.name for each in read(Source("f.napkin", "diagram f(A[x]) -> B[x]\\nB[x] = 2 * A"))]
    ['f']
    """
    from napkin.language.check import check_what_checks
    from napkin.language.parse import parse_what_parses
    from napkin.language.report import gather

    parsed = parse_what_parses(source)
    checked = check_what_checks(parsed.file, source)
    diagnostics = (*parsed.diagnostics, *checked.diagnostics)
    if diagnostics:
        raise NapkinError(gather(diagnostics))
    return checked.diagrams


def source_from_bytes(name: str, data: bytes) -> Source:
    """Return a file's bytes as a source; refuse what is no text of a page or so."""
    from napkin.language.parse import refuse_text

    if len(data) > MAX_BYTES:
        raise NapkinError(
            [
                Diagnostic(
                    "N103",
                    f"`{name}` holds {len(data)} bytes, more than {MAX_BYTES}",
                    help="a diagram is a page of text; is this the right file?",
                )
            ]
        )
    try:
        # Some editors write a byte-order mark.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fact = f"`{name}` is not UTF-8 text: byte {data[error.start]:#04x} at offset {error.start}"
        help_line = "save the file as UTF-8"
        raise NapkinError([Diagnostic("N102", fact, help=help_line)]) from None
    source = Source(name, text.replace("\r\n", "\n").replace("\r", "\n"))
    if flaw := refuse_text(source):
        raise NapkinError([flaw])
    return source
