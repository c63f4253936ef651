"""Figures as text: durations, scaled counts, lists of words, aligned columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isinf

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits them; a tenth of a millisecond and more in milliseconds.

    >>> duration(0.000822), duration(0.0000245), duration(9.68e-7)
    ('0.822 ms', '24.5 us', '968 ns')
    """
    if isinf(seconds):
        return "an unknown time"
    if seconds >= 1:
        return f"{seconds:.3f} s"
    if seconds >= 1e-4:
        return f"{seconds * 1e3:.3f} ms"
    return f"{seconds * 1e6:.4g} us" if seconds >= 1e-6 else f"{seconds * 1e9:.0f} ns"


def scaled(count: float, unit: str) -> str:
    """Return a count with its unit and prefix.

    >>> scaled(549_800_000_000, "FLOP"), scaled(12, "")
    ('549.8 GFLOP', '12')
    """
    for factor, prefix in _PREFIXES:
        if count >= factor:
            return f"{count / factor:.4g} {prefix}{unit}".rstrip()
    return f"{count:.4g} {unit}".rstrip()


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence.

    >>> listed(["Q", "K", "V"])
    'Q, K and V'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def table(rows: Sequence[tuple[str, ...]], left: Collection[int] = ()) -> list[str]:
    """Return rows as aligned columns; the first, the last and those in `left` stand left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    stands_left = {0, len(widths) - 1, *left}
    return [
        "  ".join(
            text.ljust(width) if i in stands_left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
