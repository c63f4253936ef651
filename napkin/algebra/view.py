"""What a derivation is shown through: printers for its expressions, and the steps they fill.

In: a derivation. Out: a `View`. It holds one printer for the diagram's own values (reductions by
their names) and others for the states before and after a step; `Step` is one step of the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from napkin.algebra.derive import Derivation
from napkin.algebra.expressions import Printer, Versions
from napkin.algebra.naming import (
    counting_boxes,
    diagram_names,
    fallback_names,
    reduction_names,
    running_boxes,
)
from napkin.algebra.states import Pass

_FINAL = Versions(old="{}", new="{}")


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its rule and subject, the sections it rests on, what it says, and what results."""

    title: str
    reference: str
    lines: tuple[str, ...]
    result: str


class View:
    """A derivation and the printers for it."""

    def __init__(self, derivation: Derivation) -> None:
        self.derivation = derivation
        self.graph = derivation.graph
        self.stream = derivation.stream
        self.reductions = reduction_names(derivation)
        self.fallback = fallback_names(derivation.diagram)
        self.shortened: dict[str, tuple[Printer, int]] = {}
        running = running_boxes(derivation)
        # A named value that moves is written out, so that its running parts can be seen.
        self.still = {
            **{b: n for b, n in diagram_names(derivation.diagram).items() if b not in running},
            **counting_boxes(derivation.graph),
        }
        self.own = self._printer({**self.still, **self.reductions}, _FINAL)
        self.final = self._printer(self.still, _FINAL)

    def _printer(self, names: dict[int, str], versions: Versions) -> Printer:
        return Printer(
            self.graph, names, versions, fallback=self.fallback, shortened=self.shortened
        )

    def moving(self, one: Pass) -> Printer:
        """Return a printer for a step of a pass: what earlier passes found no longer moves."""
        return self._printer(self.still, Versions(settled=self._settled(one)))

    def _settled(self, one: Pass) -> frozenset[str]:
        states = self.stream.accumulators if self.stream else ()
        here = {each.name for each in one.accumulators}
        return frozenset(each.name for each in states if each.name not in here)

    def side(self, one: Pass, side: int) -> Printer:
        """Return a printer for one side of a merge: `m1` moves to `m`."""
        states = self.stream.accumulators if self.stream else ()
        plain = not any(each.name[-1].isdigit() for each in states)
        old = f"{{}}{side}" if plain else f"{{}}_{side}"
        return self._printer(self.still, Versions(old, "{}", self._settled(one)))

    def left_side(self, box: int) -> str:
        """Return a box of the diagram with its axes, as the left side of a statement."""
        name = {**self.fallback, **self.still, **self.reductions}[box]
        return f"{name}[{' '.join(self.graph[box].axes)}]"

    def output(self, number: int) -> str:
        """Return an output with its axes."""
        output = self.derivation.diagram.outputs[number]
        return f"{output.name}[{' '.join(output.axes)}]"
