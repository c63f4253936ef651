"""A cost as users read it: formulas, a table of levels, work, the plan of every kernel.

In: a `Cost`. Out: lines. Nothing is decided here.
"""

from __future__ import annotations

from napkin.schedule.planning.cost import Cost, KernelCost
from napkin.schedule.units import duration, scaled, table

_SMALL = 1e-6  # of the most: bookkeeping that a reader need not see


def cost_lines(cost: Cost) -> list[str]:
    """Return a cost as a table of levels, with its formulas, its work and its plan."""
    sizes = " ".join(f"{axis}={size}" for axis, size in cost.sizes)
    rows = [("level", "transferred", "bytes", "resident a block", "formula of the transfers")]
    for each in cost.levels:
        resident = "" if each.level == "dram" else f"{each.memory_bytes:,} B"
        rows.append(
            (
                each.level,
                f"{each.transfer_elements:,}",
                scaled(each.transfer_bytes, "B"),
                resident,
                each.formula,
            )
        )
    most = max((count for _, count in cost.operations), default=0)
    work = [(name, scaled(count, "")) for name, count in cost.operations if count > _SMALL * most]
    assumed = ", ".join(f"{name} = {value}" for name, value in cost.assumed)
    several = "; g_q_1 is one of kernel 1" if len(cost.kernels) > 1 else ""
    return [
        f"{cost.diagram} on {cost.machine}, {cost.dtype}: {sizes}",
        "",
        f"H = {cost.transferred}",
        f"M = {cost.memory}",
        *([f"K = {cost.work}"] if cost.work else []),
        *([f"a step {cost.step}"] if cost.step else []),
        *([f"H* = {cost.least}, the least H of any tiles that M holds"] if cost.least else []),
        "    in elements, K in operations; g_q is the tile of a grouped axis q, s_x that of the stream x"
        + several,
        "",
        *table(rows),
        *_passing_lines(cost),
        "",
        f"contractions {scaled(cost.flops, 'FLOP')}"
        + "".join(f"; {name} {count} operations" for name, count in work),
        *(["a mask leaves less than the formulas, which count all"] if cost.is_masked else []),
        *([f"for {assumed}, which is known at the call alone"] if assumed else []),
        *([] if cost.is_exact else ["data bound the walk: counted as if it were the longest"]),
        f"predicted {duration(cost.seconds)}, bound by {cost.bound_by}",
        *_kernel_lines(cost),
    ]


def _passing_lines(cost: Cost) -> list[str]:
    """Return what passes between memory and the cache, by the order in which groups run."""
    found = next((each for each in cost.levels if each.expected), None)
    if found is None:
        return []
    read, written, kept = (scaled(count, "B") for count in found.passing)
    return [
        f"memory: {read} read and {written} written, as groups follow one another; {kept} of the outputs "
        "are still in the cache at the end"
    ]


def _kernel_lines(cost: Cost) -> list[str]:
    """Return the plan of the one kernel, or a table of several."""
    if len(cost.kernels) == 1:
        return [f"plan: {_plan_text(cost.kernels[0])}"]
    rows = [("kernel", "gives", "predicted", "bound by", "plan")]
    for number, each in enumerate(cost.kernels, 1):
        gives = ", ".join(each.outputs)
        took = duration(each.seconds)
        rows.append((str(number), gives, took, each.bound_by, _plan_text(each)))
    return ["", f"cut into {len(cost.kernels)} kernels:", *table(rows)]


def _plan_text(kernel: KernelCost) -> str:
    plan = dict(kernel.plan)
    tiles = ", ".join(
        f"{axis} {one['role']} by {one['tile']}" for axis, one in plan["axes"].items()
    )
    form = "" if plan["form"] == "plain loop" else f"{plan['form']}, "
    stages = "stage" if plan["stages"] == 1 else "stages"
    return f"{tiles}; {form}{plan['warps']} warps, {plan['stages']} {stages}"
