"""The page behind an error code: what it means, an example that fails, and the fix.

In: a code such as `N203`. Out: its section of docs/errors.md.
"""

from __future__ import annotations

import re

from napkin.language.errors import Diagnostic, NapkinError, did_you_mean
from napkin.resources import read_text

_SECTION = re.compile(r"^## (N\d{3}): .*?(?=^##? |\Z)", re.MULTILINE | re.DOTALL)


def explain(code: str) -> str:
    """Return what docs/errors.md says about a code.

    >>> explain("N203").splitlines()[0]
    '## N203: a reduced axis is not carried'
    """
    sections = {match.group(1): match.group() for match in _SECTION.finditer(_page())}
    wanted = code.strip().upper()
    if wanted in sections:
        return sections[wanted].rstrip() + "\n"
    help_line = did_you_mean(wanted, sections) or "codes look like `N203`"
    raise NapkinError([Diagnostic("N117", f"unknown error code `{code}`", help=help_line)])


def _page() -> str:
    return read_text("docs", "errors.md")
