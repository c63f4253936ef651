"""What the elaboration of one diagram builds and shares: its boxes, their spans, its diagnostics.

In: boxes asked for by `elaborate` and `indexing`. Out: a `Graph` whose every box knows the text
it came from, and the mistakes found. Limits are counted here, so that nothing a file says runs
for long.

A mistake inside a definition is reported where the definition is called: its own text may be the
prelude's, and the caller is who can mend it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from napkin.diagram import Constant, Graph
from napkin.language.errors import Diagnostic, Label
from napkin.language.report import MAX_SHOWN
from napkin.language.source import Source, Span
from napkin.operators import Kind

MAX_BOXES = 20_000
MAX_STEPS = 100_000
MAX_LEVELS = 1000
MAX_AXES = 12


class TooLarge(Exception):
    """A diagram passed one of the limits; `fact` says which."""

    def __init__(self, fact: str) -> None:
        super().__init__(fact)
        self.fact = fact


class Enough(Exception):
    """More mistakes were found than are shown: the rest of the diagram is not judged."""


@dataclass(frozen=True, slots=True)
class Value:
    """A box with its axes in the order by which it is indexed: as declared, not as computed."""

    box: int
    order: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """The call, in the diagram's own text, whose expansion is going on."""

    span: Span
    function: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What names mean in one text: a diagram's, or a definition's for one call of it.

    A name that maps to None was defined by something that is wrong and already reported. `owner`
    is the function whose text this is (a key of `Library`), None for a prelude text.
    """

    names: Mapping[str, Value | None]
    axes: Mapping[str, str]
    owner: tuple[str, int | None] | None
    site: Site | None = None
    later: Mapping[str, Span] = field(default_factory=dict)


@dataclass(slots=True)
class Workspace:
    """The diagram under construction."""

    source: Source
    graph: Graph = field(default_factory=Graph)
    spans: list[Span] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    steps: int = 0
    _told: set[Site] = field(default_factory=set)

    # --- boxes ------------------------------------------------------------------------------------

    def made(self, box: int, span: Span, scope: Scope) -> Value:
        """Record where a box that was just asked for came from."""
        if len(self.graph) > MAX_BOXES:
            raise TooLarge(f"the diagram holds more than {MAX_BOXES} boxes")
        place = scope.site.span if scope.site else span
        self.spans += [place] * (len(self.graph) - len(self.spans))
        return Value(box, self.graph[box].axes)

    def kind(self, value: Value) -> Kind:
        """Return what a value is."""
        return self.graph[value.box].kind

    def axes(self, value: Value) -> tuple[str, ...]:
        """Return the axes a value carries."""
        return self.graph[value.box].axes

    def negated(self, value: Value) -> float | int | None:
        """Return the number that minus a numeric constant is, None for any other value."""
        box = self.graph[value.box]
        if not isinstance(box, Constant) or isinstance(box.value, bool):
            return None
        return -box.value or 0 * box.value  # no negative zero: no text can mean it

    # --- mistakes ---------------------------------------------------------------------------------

    def step(self, count: int = 1) -> None:
        """Count work done in expansions."""
        self.steps += count
        if self.steps > MAX_STEPS:
            raise TooLarge(f"its definitions expand in more than {MAX_STEPS} steps")

    def refuse(
        self,
        scope: Scope,
        code: str,
        fact: str,
        primary: Label,
        *,
        others: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: str | None = None,
    ) -> None:
        """Report a mistake; one found in an expansion at its call, and there only the first."""
        if scope.site is not None:
            if scope.site in self._told:
                return
            self._told.add(scope.site)
            primary, others = Label(scope.site.span), ()
            notes = (*notes, f"found while expanding `{scope.site.function}`")
        self.diagnostics.append(
            Diagnostic(code, fact, self.source, primary, tuple(others), tuple(notes), help)
        )
        if len(self.diagnostics) > MAX_SHOWN:
            raise Enough
