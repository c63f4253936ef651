"""The module of a plan: each of its kernels in the form that the plan chose.

In: a `Plan`. Out: the text of a Python module that stands alone. A plan of one kernel whose warps have roles
is printed in Gluon, every other one as plain Triton loops.
"""

from __future__ import annotations

from napkin.emit.gluon import emit_gluon
from napkin.emit.triton import emit_triton
from napkin.schedule.plan import Plan


def emit_module(plan: Plan, *, notes: tuple[str, ...] = ()) -> str:
    """Return the module of a plan's kernels; `notes` are lines for its header (cost, prediction)."""
    forms = [each.form for each in plan.kernels]
    if len(forms) == 1 and forms[0] is not None:
        return emit_gluon(plan.kernels[0], forms[0].warps, notes=notes)
    return emit_triton(plan, notes=notes)
