"""A derivation as numbered steps: the product of `napkin derive`.

In: a `Derivation`. Out: text. Every step names its rule, where the rule is stated, the box it is
applied to and what results; expressions are written as the language writes them. Nothing is decided
here: what is printed is what `streams`, `masks` and `laws` found, in their order.

Sections cited are those of docs/algebra.md, and of the paper, "FlashAttention on a Napkin".
"""

from __future__ import annotations

from textwrap import wrap

from napkin.algebra.derive import Derivation
from napkin.algebra.layout_steps import layout_steps
from napkin.algebra.overflow import warnings
from napkin.algebra.stream_steps import stream_steps
from napkin.algebra.view import Step, View
from napkin.diagram import Diagram, print_dims

__all__ = ["show_derivation", "warnings"]

_WIDTH = 100


def show_derivation(derivation: Derivation) -> str:
    """Return the derivation as text.

    >>> from napkin.algebra.derive import derive
    >>> from napkin.language import read
    >>> from napkin.language.source import Source
    >>> text = "diagram total(A[q x]) -> B[q]\\nB[q] = sum[x](A)"
    >>> print(show_derivation(derive(read(Source("total.napkin", text))[0])).splitlines()[0])
    total: one pass over `x` with the state (b)
    """
    view = View(derivation)
    lines = [_headline(derivation), "", *_signature(derivation.diagram)]
    for number, step in enumerate((*stream_steps(view), *layout_steps(view)), 1):
        lines += ["", *_print_step(number, step)]
    lines += _abbreviations(view)
    for each in warnings(derivation):
        lines += ["", f"warning[{each.code}]: {each.message}", f"    {each.help}"]
    return "\n".join(lines) + "\n"


def _headline(derivation: Derivation) -> str:
    name, stream = derivation.diagram.name, derivation.stream
    if stream is None:
        return f"{name}: no reduction, so nothing streams"
    states = ", ".join(each.name for each in stream.accumulators)
    passes = "one pass" if len(stream.passes) == 1 else f"{len(stream.passes)} passes"
    return f"{name}: {passes} over `{stream.axis}` with the state ({states})"


def _signature(diagram: Diagram) -> list[str]:
    inputs = [_declaration(each.name, each.dims) for each in diagram.arguments]
    outputs = [_declaration(each.name, each.dims) for each in diagram.outputs]
    return _wrapped(f"{', '.join(inputs)} -> {', '.join(outputs)}", "    ")


def _declaration(name: str, dims: tuple[tuple[str, ...], ...]) -> str:
    return f"{name}[{print_dims(dims)}]" if dims else name


def _print_step(number: int, step: Step) -> list[str]:
    lines = [*_wrapped(f"{number:>2}. {step.title}", ""), f"    [{step.reference}]"]
    for line in step.lines:
        lines += _wrapped(line, "      ")
    return [*lines, *_wrapped(f"=> {step.result}", "      ")]


def _wrapped(line: str, indent: str) -> list[str]:
    return wrap(
        line,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _abbreviations(view: View) -> list[str]:
    """Explain the names that stand for long parts; an explanation may use further names."""
    lines: list[str] = []
    done = 0
    while done < len(view.shortened):
        name, (printer, each) = list(view.shortened.items())[done]
        lines += _wrapped(f"{name} = {printer.definition(each)}", "    ")
        done += 1
    return ["", "where", *lines] if lines else []
