"""Printed lines of a function made tidy: nothing unused, and no line too long to read.

In and out: lines of Python.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from napkin.emit.triton.spelling import uses

_LINE = 110  # the longest line that is not broken
_LIST = 90  # the longest list of names without brackets


def wrapped(line: str) -> list[str]:
    """Break a long line inside its widest pair of brackets, at commas between their arguments."""
    if len(line) <= _LINE or "#" in line:
        return [line]
    pairs = _brackets(line)
    if not pairs:
        return [line]
    opened, closed = max(pairs, key=lambda pair: pair[1] - pair[0])
    indent = line[: len(line) - len(line.lstrip())] + "    "
    depth, start = 0, opened + 1
    arguments: list[str] = []
    for place in range(opened + 1, closed):
        depth += (line[place] in "([") - (line[place] in ")]")
        if line[place] == "," and depth == 0:
            arguments.append(line[start : place + 1].strip())
            start = place + 1
    arguments.append(line[start:closed].strip())
    lines = [line[: opened + 1], indent + arguments[0]]
    for each in arguments[1:]:
        if len(lines[-1]) + 1 + len(each) > _LINE:
            lines.append(indent + each)
        else:
            lines[-1] += f" {each}"
    lines.append(indent[4:] + line[closed:])
    return [part for each in lines for part in (wrapped(each) if len(each) < len(line) else [each])]


def _brackets(line: str) -> list[tuple[int, int]]:
    """Return the places of every pair of round brackets."""
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    for place, letter in enumerate(line):
        if letter == "(":
            opened.append(place)
        elif letter == ")" and opened:
            pairs.append((opened.pop(), place))
    return pairs


def listed(names: Sequence[str]) -> str:
    """Return names side by side, in brackets if there are so many that their line has to be broken."""
    text = ", ".join(names)
    return text if len(text) <= _LIST else f"({text})"


def without_unused(lines: Sequence[str], given: Sequence[str]) -> list[str]:
    """Drop assignments that neither a later line nor a caller reads."""
    kept: list[str] = []
    needed = "\n".join(given)
    for line in reversed(lines):
        made = re.match(r"\s*(\w+) = (.*)", line)
        if made is None or uses(needed, made[1]):
            kept.append(line)
            needed += f"\n{made[2] if made else line}"
    return kept[::-1]
