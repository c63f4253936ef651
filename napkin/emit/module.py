"""The module of a plan: each of its kernels in the form that the plan chose.

In: a `Plan`. Out: the text of a Python module that stands alone. A plan with a kernel whose warps have
roles, or whose operands are read from shared memory, is printed as a module of Gluon, which holds its plain
loops as well; every other one as plain Triton loops.
"""

from __future__ import annotations

from napkin.emit.gluon import emit_gluon
from napkin.emit.triton import emit_triton
from napkin.schedule.planning.plan import Plan


def emit_module(plan: Plan, *, notes: tuple[str, ...] = ()) -> str:
    """Return the module of a plan's kernels; `notes` are lines for its header (cost, prediction)."""
    if any(each.form is not None or each.loop is not None for each in plan.kernels):
        return emit_gluon(plan, notes=notes)
    return emit_triton(plan, notes=notes)
