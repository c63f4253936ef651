"""One page with everything about a plan: pictures, derivation, formulas, pseudocode and kernel.

In: a plan and its kernel's source. Out: HTML text that stands alone: no script, nothing from
elsewhere, light or dark as the reader's system is. Formulas are MathML, which browsers typeset.

Nothing is computed here: pictures, costs and texts come from the same stages as the command line's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp
from markupsafe import Markup
from sympy.printing.mathml import MathMLPresentationPrinter

from napkin.algebra.derive import derive
from napkin.algebra.show import show_derivation
from napkin.draw.columns import draw_columns
from napkin.draw.cost import Measured, cost_view, draw_cost
from napkin.draw.relabelled import draw_plan
from napkin.draw.render import render
from napkin.draw.strip import draw_strip
from napkin.draw.units import in_time
from napkin.emit.pseudo import pseudo_of_plan
from napkin.model.costs import two_level_costs
from napkin.model.optimum import power_law
from napkin.schedule.planning.plan import KernelPlan, Plan

Expression = Any
_MEMORY, _LEAST = "M", "H*"


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula: what it is, and its MathML."""

    name: str
    mathml: Markup


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the template prints, decided. Pictures are SVG text of this package's own."""

    title: str
    headline: str
    source: str
    plan: Markup
    steps: Markup
    cost: Markup
    formulas: tuple[Formula, ...]
    derivation: str
    pseudocode: str
    kernel: str
    columns: Markup


def draw_report(plan: Plan, kernel: str, *, measured: Sequence[Measured] = ()) -> str:
    """Return the page of a plan; `kernel` is the text of its kernel module.

    Raises NapkinError (N610) where Graphviz's program `dot` is not installed.
    """
    report = Report(
        title=f"{plan.diagram.name} on {plan.machine.title}",
        headline=f"{in_time(plan.seconds)} predicted, bound by {plan.bound_by}",
        source=(plan.diagram.source.text if plan.diagram.source else str(plan.diagram)).rstrip(),
        plan=_inline(draw_plan(plan)),
        steps=_inline(draw_strip(plan)),
        cost=_inline(draw_cost(cost_view(plan, measured=measured))),
        formulas=tuple(
            each for kernel_plan in plan.kernels for each in _formulas(plan, kernel_plan)
        ),
        derivation="\n\n".join(
            show_derivation(derive(each.derivation.diagram)).rstrip() for each in plan.kernels
        ),
        pseudocode=pseudo_of_plan(plan).rstrip(),
        kernel=kernel.rstrip(),
        columns=_inline(draw_columns(plan)),
    )
    return render("html/report.html.jinja", report=report)


def _inline(picture: str) -> Markup:
    """Return a picture as part of a page: every text in it was escaped when it was printed."""
    return Markup(picture)


def _formulas(plan: Plan, kernel: KernelPlan) -> tuple[Formula, ...]:
    costs = two_level_costs(kernel.derivation)
    of = f" of {kernel.name}" if len(plan.kernels) > 1 else ""
    found = [
        Formula(f"values transferred{of}", _mathml("H", costs.transferred)),
        Formula(f"values held by a group{of}", _mathml(_MEMORY, costs.memory.elements)),
    ]
    law = power_law(costs)
    if law is not None:
        least = sum(
            (each.alpha * sp.Symbol(_MEMORY) ** -each.beta for each in law.terms), sp.S.Zero
        )
        found.append(Formula(f"least transfers by memory M{of}", _mathml(_LEAST, least)))
    return tuple(found)


def _mathml(name: str, value: Expression) -> Markup:
    """Return `name = value` as MathML; symbols like g_q get a subscript."""
    printer = MathMLPresentationPrinter({"mul_symbol": None})
    printed = printer.doprint(sp.Eq(sp.Symbol(name), value, evaluate=False))
    return Markup(
        f'<math display="block" xmlns="http://www.w3.org/1998/Math/MathML">{printed}</math>'
    )
