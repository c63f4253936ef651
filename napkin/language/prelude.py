"""The prelude: definitions that every file may call (grammars/prelude.napkin).

In: nothing. Out: the definitions by name and number of parameters.
"""

from __future__ import annotations

from functools import cache

from napkin.language import syntax
from napkin.language.errors import InternalError
from napkin.language.parse import parse_lines
from napkin.language.source import Source
from napkin.resources import read_text


@cache
def prelude() -> dict[tuple[str, int | None], syntax.Definition]:
    """Return the prelude's definitions."""
    parsed = parse_lines(Source("prelude.napkin", read_text("grammars", "prelude.napkin")))
    if parsed.diagnostics or parsed.file.diagrams:
        raise InternalError("the prelude holds something that is no definition")
    return {(each.name.name, len(each.parameters)): each for each in parsed.file.definitions}
