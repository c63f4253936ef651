"""Write pointwise boxes as one short formula, over the arrays that the picture leads into them.

In: a diagram's boxes, those that the formula stands for, and a word for each box that comes from
outside. Out: text in the language's own notation, but for a few signs: `|d|` is size(d), `√`, `≤`,
`≥`, `≠`, `∞`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from napkin.diagram import (
    Constant,
    Diagram,
    Gather,
    Index,
    Pointwise,
    Size,
    operands_of,
    print_constant,
)
from napkin.draw.parts import Part
from napkin.draw.text import shorten
from napkin.operators import POINTWISE

_MINUS = "\N{MINUS SIGN}"
_SIGNS = {"<=": "≤", ">=": "≥", "!=": "≠", "-": _MINUS}
_ATOM = 10  # binds closer than every operator
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class _Phrase:
    """A piece of formula and how close it binds, as `PointwiseOperator.precedence` says."""

    text: str
    precedence: int = _ATOM


def write_formula(
    diagram: Diagram,
    root: int,
    *,
    members: Collection[int],
    parts: Mapping[int, Part],
    words: Mapping[int, str],
) -> str:
    """Return the formula of box `root`: `members` are inside it, `words` name the others."""
    phrases: dict[int, _Phrase] = {each: _Phrase(word) for each, word in words.items()}
    for each in sorted({*members, root}):
        phrases.setdefault(each, _phrase(diagram, each, parts, phrases))
    return phrases[root].text


def _phrase(
    diagram: Diagram, each: int, parts: Mapping[int, Part], phrases: Mapping[int, _Phrase]
) -> _Phrase:
    if each in parts:
        part = parts[each]
        return _Phrase(_call(_head(part), [phrases[a].text for a in part.arguments]))
    box = diagram.boxes[each]
    operands = [phrases.get(operand, _Phrase("…")) for operand in operands_of(box)]
    match box:
        case Constant():
            return _Phrase(print_constant(box.value).replace("inf", "∞").replace("-", _MINUS))
        case Index():
            return _Phrase(box.axis)
        case Size():
            return _Phrase(f"|{box.axis}|")
        case Pointwise():
            return _operation(box.operator, operands)
        case Gather():
            return _Phrase(shorten(f"{operands[0].text}[{_list(operands[1:])}]", _LONGEST))
        case _:
            return _Phrase(diagram.names[each])


def _head(part: Part) -> str:
    return f"{part.name}[{' '.join(part.axes)}]" if part.axes else part.name


def _call(name: str, arguments: list[str]) -> str:
    return shorten(f"{name}({', '.join(_unbracket(each) for each in arguments)})", _LONGEST)


def _list(phrases: list[_Phrase]) -> str:
    return ", ".join(_unbracket(each.text) for each in phrases)


def _unbracket(text: str) -> str:
    """Return the text without brackets round the whole of a negative number: commas do as well."""
    return text[1:-1] if text.startswith(f"({_MINUS}") and text.count("(") == 1 else text


def _operation(operator: str, operands: list[_Phrase]) -> _Phrase:
    row = POINTWISE[operator]
    if operator == "sqrt":
        return _Phrase(f"√{_inside(operands[0], _ATOM)}")
    if not row.precedence:
        return _Phrase(_call(row.symbol, [each.text for each in operands]))
    sign = _SIGNS.get(row.symbol, row.symbol)
    if row.arity == 1:
        space = " " if sign.isalpha() else ""
        text = f"{sign}{space}{_inside(operands[0], row.precedence)}"
    else:
        # Operators of one precedence group from the left.
        left, right = operands
        after = row.precedence + 1
        text = f"{_inside(left, row.precedence)} {sign} {_inside(right, after)}"
    return _Phrase(shorten(text, _LONGEST), row.precedence)


def _inside(phrase: _Phrase, at_least: int) -> str:
    return phrase.text if phrase.precedence >= at_least else f"({phrase.text})"
