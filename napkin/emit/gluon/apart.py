"""The names of several kernels that share a module, kept apart.

In: the `ModuleText` of every warp-specialised kernel of a module, and the module's other names. Out: the
same with constants and functions of their own: those of a kernel alone keep their names, those of several
are numbered. Helpers stay shared; one that the module's plain loops have too goes by another name, since
a Gluon function calls no Triton function.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.emit.gluon.functions import ModuleText
from napkin.schedule.names import RESERVED, Names

_WORD = re.compile(r"\b[A-Za-z_]\w*\b")


@dataclass(frozen=True, slots=True)
class Renamed:
    """A kernel's text in its module, and what the module calls each of its constants."""

    text: ModuleText
    constants: Mapping[str, str]


def keep_apart(
    texts: Mapping[str, ModuleText], taken: Collection[str], helpers: Mapping[str, str]
) -> dict[str, Renamed]:
    """Return the texts with names that meet no other, each by the ending that its constants get.

    `taken` are the other names of the module, `helpers` the helpers that go by another name in Gluon.
    """
    words = {word for text in texts.values() for line in _lines(text) for word in _words(line)}
    names = Names(RESERVED | words | set(taken) | set(helpers.values()))
    functions: set[str] = set(taken)
    found: dict[str, Renamed] = {}
    for ending, text in texts.items():
        constants = {
            name: names.fresh(f"{name}{ending}") if ending else name for name, _ in text.constants
        }
        new = dict(helpers) | constants
        for each in text.functions[:-1]:
            if each.name in functions:
                new[each.name] = names.fresh(each.name)
            functions.add(each.name)
        found[ending] = Renamed(_renamed(text, new), constants)
    return found


def renamed_line(line: str, names: Mapping[str, str]) -> str:
    """Return a line with other names."""
    return _WORD.sub(lambda match: names.get(match[0], match[0]), line)


def _words(line: str) -> Iterable[str]:
    return _WORD.findall(line)


def _lines(text: ModuleText) -> Sequence[str]:
    return [line for each in text.functions for line in (*each.parameters, *each.body)]


def _renamed(text: ModuleText, names: Mapping[str, str]) -> ModuleText:
    functions = tuple(
        replace(
            each,
            name=names.get(each.name, each.name),
            body=tuple(renamed_line(line, names) for line in each.body),
        )
        for each in text.functions
    )
    constants = tuple(
        (names.get(name, name), renamed_line(value, names)) for name, value in text.constants
    )
    boxes = tuple(
        replace(box, extents=tuple(names.get(each, each) for each in box.extents))
        for box in text.boxes
    )
    return replace(text, functions=functions, constants=constants, boxes=boxes)
