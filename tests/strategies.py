"""Random napkin texts that are well formed: what every stage must accept.

`napkin_texts()` draws one diagram with its arguments, statements (contractions, pointwise maps,
reductions, masks, reads), one to three outputs, sizes and perhaps a relabelling by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

AXES = ("b", "h", "q", "x", "d", "v")
_UNARY = ("exp({0})", "tanh({0})", "abs({0})", "-{0}", "gelu({0})", "rsqrt({0})", "{0} ** 2")
_BINARY = ("{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} / {1}", "max2({0}, {1})", "min2({0}, {1})")
_OVER = ("sum[{1}]({0})", "max[{1}]({0})", "min[{1}]({0})", "mean[{1}]({0})", "prod[{1}]({0})")
_OVER_ONE = ("softmax[{1}]({0})", "l2norm[{1}]({0})", "logsumexp[{1}]({0})")
_COMPARISONS = ("{0} < {1}", "{0} <= {1}", "{0} > {1}", "{0} >= {1}", "{0} == {1}", "{0} != {1}")


@dataclass(frozen=True)
class Term:
    """An expression's text and the axes it carries."""

    text: str
    axes: frozenset[str]


@dataclass
class Drawing:
    """What has been written so far."""

    draw: Callable[[st.SearchStrategy[object]], object]
    arrays: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def pick(self, options: object) -> str:
        return str(self.draw(st.sampled_from(list(options))))  # type: ignore[call-overload]

    def number(self, low: int, high: int) -> int:
        return int(str(self.draw(st.integers(low, high))))

    def some(self, options: tuple[str, ...], least: int = 1) -> tuple[str, ...]:
        count = self.number(least, len(options))
        order = list(options)
        return tuple(order.pop(self.number(0, len(order) - 1)) for _ in range(count))

    # --- expressions ------------------------------------------------------------------------------

    def term(self, depth: int) -> Term:
        """Return a numeric expression."""
        if depth == 0:
            return self.leaf()
        form = self.number(0, 7)
        if form == 0:
            return self.leaf()
        if form == 1:
            inner = self.term(depth - 1)
            return Term(self.pick(_UNARY).format(f"({inner.text})"), inner.axes)
        if form in (2, 3):
            left, right = self.term(depth - 1), self.term(depth - 1)
            text = self.pick(_BINARY).format(f"({left.text})", f"({right.text})")
            return Term(text, left.axes | right.axes)
        if form == 4:
            return self.contraction(depth)
        if form == 5:
            return self.reduction(depth)
        if form == 6:
            return self.mask(depth)
        return self.read()

    def leaf(self) -> Term:
        form = self.number(0, 9)
        if form == 0:
            return Term(
                self.pick(("0", "1", "0.5", "1e-5", "(-3)", "inf", "-inf", "2.0")), frozenset()
            )
        if form == 1:
            axis = self.pick(AXES)
            return Term(axis, frozenset({axis}))
        if form == 2:
            return Term(f"size({self.pick(AXES)})", frozenset())
        name = self.pick(self.arrays)
        return Term(name, frozenset(self.arrays[name]))

    def contraction(self, depth: int) -> Term:
        factors = [self.term(depth - 1) for _ in range(self.number(2, 3))]
        axes = frozenset[str]().union(*(each.axes for each in factors))
        product = " * ".join(f"({each.text})" for each in factors)
        return self.over(Term(product, axes), "sum[{1}]({0})")

    def reduction(self, depth: int) -> Term:
        inner = self.term(depth - 1)
        if inner.axes and self.number(0, 2) == 0:
            axis = self.pick(sorted(inner.axes))
            form = self.pick(_OVER_ONE)
            kept = inner.axes if not form.startswith("log") else inner.axes - {axis}
            return Term(form.format(inner.text, axis), kept)
        return self.over(inner, self.pick(_OVER))

    def over(self, inner: Term, form: str) -> Term:
        if not inner.axes:
            return Term(f"({inner.text})", inner.axes)
        axes = self.some(tuple(sorted(inner.axes)))
        return Term(form.format(inner.text, " ".join(axes)), inner.axes - set(axes))

    def mask(self, depth: int) -> Term:
        condition, kept = self.condition(depth), self.term(depth - 1)
        other = self.pick(("-inf", "0", "1.5"))
        text = f"where({condition.text}, {kept.text}, {other})"
        return Term(text, condition.axes | kept.axes)

    def condition(self, depth: int) -> Term:
        if self.number(0, 2) == 0:
            return self.positions()
        left, right = self.term(depth - 1), self.leaf()
        text = self.pick(_COMPARISONS).format(f"({left.text})", f"({right.text})")
        one = Term(text, left.axes | right.axes)
        form = self.number(0, 3)
        if form == 0:
            return Term(f"not {one.text}", one.axes)
        if form == 1 and depth > 1:
            other = self.condition(depth - 1)
            return Term(
                f"({one.text} {self.pick(('and', 'or'))} {other.text})", one.axes | other.axes
            )
        if form == 2 and one.axes:
            return self.over(one, self.pick(("any[{1}]({0})", "all[{1}]({0})")))
        return one

    def positions(self) -> Term:
        """Return a comparison of positions, computed or read from data: what may bound a stream."""
        axis, other = self.pick(AXES), self.pick(AXES)
        forms = ("{0}", "{0} // 2", "place[{0}]", "2 * place[{0}] - 1", "max2({0}, place[{0}])")
        bound = self.pick(forms).format(other)
        text = self.pick(_COMPARISONS).format(*self.some((axis, bound), 2))
        return Term(f"({text})", frozenset({axis, other}))

    def read(self) -> Term:
        """Return an argument read at positions that another argument holds, or at other labels."""
        name = self.pick(self.tables)
        indices: list[str] = []
        axes: set[str] = set()
        for own in self.tables[name]:
            label = self.pick(AXES)
            index = self.pick((own, label, f"place[{label}]", f"{label} // 2", f"{label} % 3"))
            axes.add(own if index == own else label)
            indices.append(index)
        return Term(f"{name}[{', '.join(indices)}]", frozenset(axes))

    # --- the text ---------------------------------------------------------------------------------

    def signature(self) -> list[str]:
        arguments = []
        for count in range(self.number(1, 3)):
            name = f"A{count}"
            self.arrays[name] = self.some(AXES)
            arguments.append(f"{name}[{self.dims(self.arrays[name])}]{self.dtype()}")
        self.tables = dict(self.arrays)
        # One array for each axis, so that every size is known however the others are drawn.
        arguments += [f"G{axis}[{axis}]" for axis in AXES]
        self.arrays |= {f"G{axis}": (axis,) for axis in AXES}
        arguments += ["place[p]: int32", "cap: float", "lambda"]
        self.arrays |= {"cap": (), "lambda": ()}
        return arguments

    def dtype(self) -> str:
        return self.pick(("", "", ": bf16", ": fp32", ": int8"))

    def dims(self, axes: tuple[str, ...]) -> str:
        if len(axes) > 1 and self.number(0, 3) == 0:
            return " ".join((f"({axes[0]} {axes[1]})", *axes[2:]))
        return " ".join(axes)

    def statement(self, name: str, form: str = "{0}") -> None:
        term = self.term(self.number(1, 3))
        axes = self.some(tuple(sorted(term.axes)), len(term.axes)) if term.axes else ()
        self.lines.append(f"    {name}[{self.dims(axes)}] = {form.format(term.text)}")
        self.arrays[name] = axes

    def relabelling(self, name: str) -> list[str]:
        if self.number(0, 2):
            return []
        lines = ["on hopper", f"    group {' '.join(self.some(AXES))} by 16"]
        if self.number(0, 1):
            lines += ["    stream b by 8, h by 4", f"    at shared: {name}"]
        if self.number(0, 1):
            lines += ["    warps 4", "    stages 2"]
        return lines


@st.composite
def napkin_texts(draw: Callable[[st.SearchStrategy[object]], object]) -> str:
    """Draw the text of one diagram."""
    drawing = Drawing(draw)
    arguments = drawing.signature()
    names = [f"S{count}" for count in range(drawing.number(1, 5))]
    for name in names[:-1]:
        drawing.statement(name)
    drawing.statement(names[-1], "exp({0})")  # never a bare label: those have no place on chip
    outputs = [names[-1], *(each for each in names[:-1] if drawing.number(0, 3) == 0)]
    shown = (f"{each}[{drawing.dims(drawing.arrays[each])}]" for each in outputs)
    head = f"diagram random({', '.join(arguments)}) -> {', '.join(shown)}"
    sizes = "sizes " + " ".join(f"{axis}={drawing.number(1, 9)}" for axis in AXES)
    return "\n".join((head, *drawing.lines, sizes, *drawing.relabelling(names[-1]))) + "\n"
