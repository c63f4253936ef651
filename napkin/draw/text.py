"""How wide a text is, and how it is broken or shortened to fit.

In: texts and font sizes. Out: widths in the picture's units, and lines. Which serif font a viewer
has is unknown, so the widths are those of a wide one (DejaVu Serif): a narrower font leaves room.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from napkin.draw.shapes import Label

_NARROW = frozenset("iljtfIJ.,:;'|!()[]{} ·")
_WIDE = frozenset("mwMW@%—…")
_ELLIPSIS = "…"
SMALLER = 0.72  # how large a subscript is beside its line


def text_width(text: str, size: float) -> float:
    """Return the width of a line of text, rather too much than too little.

    >>> text_width("iii", 10) < text_width("aaa", 10) < text_width("MMM", 10)
    True
    """
    return size * sum(_advance(char) for char in text)


def label_width(runs: Label, size: float) -> float:
    """Return the width of a line of text with its subscripts."""
    return sum(text_width(each.text, size * (SMALLER if each.rise else 1.0)) for each in runs)


def _advance(char: str) -> float:
    if char in _NARROW:
        return 0.42
    if char in _WIDE or ord(char) > 0x2E80:
        return 1.05
    return 0.78 if char.isupper() or not char.isascii() else 0.65


def shorten(text: str, length: int) -> str:
    """Return the text, its end cut if it has more than `length` characters.

    >>> shorten("attention", 5)
    'atte…'
    """
    return text if len(text) <= length else text[: length - 1] + _ELLIPSIS


def wrap_text(text: str, *, width: int, lines: int) -> tuple[str, ...]:
    """Return the text in lines of at most `width` characters, broken at spaces, cut after `lines`.

    >>> wrap_text("where(x <= q, s, 0)", width=12, lines=2)
    ('where(x <=', 'q, s, 0)')
    """
    made: list[str] = []
    for word in re.split(r"\s+", text.strip()):
        if made and len(made[-1]) + 1 + len(word) <= width:
            made[-1] += f" {word}"
        else:
            made.append(word)
    kept = [shorten(each, width) for each in made[:lines]]
    if len(made) > lines:
        kept[-1] = kept[-1][: width - 1].rstrip() + _ELLIPSIS
    return tuple(kept)


def widest(lines: Sequence[str], size: float) -> float:
    """Return the width of the widest line, 0 if there is none."""
    return max((text_width(each, size) for each in lines), default=0.0)
