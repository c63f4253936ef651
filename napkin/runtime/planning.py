"""From a call to the kernel that serves it, and every later call that it fits.

In: a call's diagram with its types, its lengths, a machine, a device. Out: `Made`, from the cache if it
was made before. A kernel is fixed to the lengths of the axes that lie on chip whole, such as the head
size; all other lengths are run-time arguments. It is planned for the file's lengths, so that it does
not depend on which call came first; an axis that the file gives no length is planned for at the first
call's, rounded up to a power of two. A call at another length runs the same kernel, also where a plan
for that length would have other tiles.

What plans is imported where something is to be planned: a kernel from the cache needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from napkin.diagram import Diagram, implied_sizes, print_diagram
from napkin.language.errors import NapkinError
from napkin.machine import Machine
from napkin.runtime import cache
from napkin.runtime.cache import Made
from napkin.runtime.gpus import has_specialised_form, runnable

if TYPE_CHECKING:
    from napkin.schedule.planning.plan import Plan

_ATTEMPTS = 4  # plans until the axes that one fixes are fixed to the lengths at hand


def made_for(
    diagram: Diagram,
    dtype: str,
    sizes: Mapping[str, int],
    machine: Machine,
    device: torch.device,
    deterministic: bool | None = None,
) -> Made:
    """Return the kernel for a typed diagram and a call's lengths, from the cache or planned anew.

    `deterministic` is what `make_plan` takes.
    """
    form = "specialised" if has_specialised_form(machine, device) else "plain"
    unsized = _planned_for(diagram, sizes).items() - dict(diagram.sizes).items()
    lengths = " ".join(f"{axis}={size}" for axis, size in sorted(unsized))
    order = str(deterministic)
    key = cache.digest(print_diagram(diagram), repr(machine), dtype, form, lengths, order)
    found = cache.find(key, sizes)
    if found is None:
        found = _make(plan_for(diagram, dtype, sizes, machine, device, deterministic))
        cache.keep(key, found)
    return found


def plan_for(
    diagram: Diagram,
    dtype: str,
    sizes: Mapping[str, int],
    machine: Machine,
    device: torch.device,
    deterministic: bool | None = None,
) -> Plan:
    """Plan for the file's lengths, but for those that the kernel fixes, which are the call's.

    Which lengths are fixed is seen from the plan: one that is cut in several kernels may fix fewer.
    """
    from napkin.algebra.derive import derive
    from napkin.schedule.planning.plan import make_plan

    make = partial(make_plan, derive(diagram), machine, dtype=dtype, deterministic=deterministic)
    wished = _planned_for(diagram, sizes)
    for _ in range(_ATTEMPTS):
        try:
            plan = runnable(make(sizes=wished), device)
        except NapkinError:  # what does not fit at the file's lengths may fit at the call's
            break
        axes = misfits(plan, sizes)
        if not axes:
            return plan
        wished |= {axis: sizes[axis] for axis in axes}
    return runnable(make(sizes=sizes), device)


def misfits(plan: Plan, sizes: Mapping[str, int]) -> list[str]:
    """Return the axes that the plan's kernel fixes to another length."""
    return [axis for axis, size in _fixed(plan).items() if size != sizes[axis]]


def _planned_for(diagram: Diagram, sizes: Mapping[str, int]) -> dict[str, int]:
    implied = implied_sizes(diagram)
    rounded = {
        axis: 1 << max(0, size - 1).bit_length()
        for axis, size in sizes.items()
        if axis not in implied
    }
    return rounded | dict(diagram.sizes)


def _make(plan: Plan) -> Made:
    from napkin.emit.triton import entry_name
    from napkin.runtime.kernels import kernel_source

    arrays = (*plan.arrays, *plan.kept, *plan.outputs)
    small = [each for each in arrays if any(set(each.axes) < set(other.axes) for other in arrays)]
    edges = dict.fromkeys(each.axes[-1] for each in arrays if each.axes and each not in small)
    names = tuple(each.name for each in small)
    return Made(
        kernel_source(plan),
        entry_name(plan.diagram),
        tuple(_fixed(plan).items()),
        tuple(edges),
        names,
    )


def _fixed(plan: Plan) -> dict[str, int]:
    return {
        each.axis: each.size
        for kernel in plan.kernels
        for each in kernel.printed.axes
        if each.size is not None
    }
