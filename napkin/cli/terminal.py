"""What the commands share: reading the diagram, handing over a product, telling the user how it goes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napkin.api import Diagram
    from napkin.language.errors import NapkinError
    from napkin.schedule.planning.plan import Plan

_NO_DOT = "N610"
_PATIENCE_S = 2.0


def load_diagram(arguments: argparse.Namespace) -> Diagram:
    """Return the diagram that a command is about: with `--grad`, its backward."""
    from napkin.api import load

    diagram = load(arguments.file, arguments.diagram)
    return diagram.gradient().backward if arguments.grad else diagram


def pictures(plan: Plan) -> dict[str, str]:
    """Return the pictures by their file's ending; without Graphviz a warning, and none."""
    from napkin.draw.cost import cost_view
    from napkin.draw.page import draw_cost
    from napkin.draw.relabelled import draw_plan
    from napkin.language.errors import NapkinError

    drawn: dict[str, Callable[[], str]] = {
        ".svg": lambda: draw_plan(plan),
        ".cost.svg": lambda: draw_cost(cost_view(plan)),
    }
    found: dict[str, str] = {}
    for ending, draw in drawn.items():
        try:
            found[ending] = draw()
        except NapkinError as error:
            if any(each.code != _NO_DOT for each in error.diagnostics):
                raise
            report(error, severity="warning")
    return found


def hand_over(text: str, output: str | None) -> int:
    if output is None:
        print(text.rstrip("\n"))
        return 0
    from napkin.runtime.kernels import write_text

    write_text(Path(output), text if text.endswith("\n") else text + "\n")
    return 0


def as_json(value: Mapping[str, object]) -> str:
    import json

    return json.dumps(value, indent=2)


@contextmanager
def patience(what: str) -> Iterator[None]:
    """Say what is being done if it takes long and somebody watches."""
    timer = Timer(_PATIENCE_S, lambda: say(f"{what} ..."))
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def report(error: NapkinError, *, severity: str | None = None) -> None:
    from dataclasses import replace

    from napkin.language.errors import render

    shown = [replace(each, severity=severity or each.severity) for each in error.diagnostics]
    say("\n\n".join(render(each, colour=in_colour()) for each in shown))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def mistake(code: str, message: str, help_line: str) -> NapkinError:
    from napkin.language.errors import Diagnostic, NapkinError

    return NapkinError([Diagnostic(code, message, help=help_line)])
