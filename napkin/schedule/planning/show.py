"""A plan as users read it: its kernels, what each takes, and why there are several.

In: a `Plan`. Out: text. The `on` block that would fix a kernel is printed where the plan is one, since a
block fixes one kernel.

Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.program import AxisRole, Compute, Fold, Store
from napkin.schedule.roles.rows_read import before_stream
from napkin.schedule.timing.predict import guessed_scalars
from napkin.schedule.units import duration, table


def show_plan(plan: Plan, words: Sequence[Sequence[str]] = ()) -> str:
    """Return a plan as text: what every kernel does with the axes, and what it is expected to take.

    `words` gives lines to stand below each kernel, such as why it is that one.
    """
    title = f"{plan.diagram.name} on {plan.machine.name}, {plan.dtype}"
    title += f"; {plan.machine.name} {plan.machine.calibrated}" if plan.machine.calibrated else ""
    below = [["", *each] for each in words] or [[] for _ in plan.kernels]
    if len(plan.kernels) == 1:
        (kernel,) = plan.kernels
        own = kernel.form is None and kernel.stead is None
        what = "it" if own else "the plain loop instead"
        fix = [f"to fix {what}, put this in the file:", "", *_on_block(kernel.stead or kernel)]
        return "\n".join([title, "", *_kernel_lines(kernel), *below[0], "", *fix])
    lines = [title, "", *cut_lines(plan)]
    for number, (each, more) in enumerate(zip(plan.kernels, below, strict=True), 1):
        lines += ["", f"kernel {number}, {_signature(each)}", "", *_kernel_lines(each), *more]
    lines += ["", f"predicted {duration(plan.seconds)} together, bound by {plan.bound_by}"]
    return "\n".join(lines)


def cut_lines(plan: Plan) -> list[str]:
    """Return what a cut keeps in memory, and why the diagram is not one kernel."""
    read = {array.name for kernel in plan.kernels for array in kernel.program.arrays}
    made = (array for kernel in plan.kernels for array in kernel.program.outputs)
    kept = [f"{a.name}[{' '.join(a.axes)}] {a.dtype}" for a in made if a.name in read]
    between = f"kept in memory between them: {', '.join(kept)}" if kept else "none reads another's"
    lines = [f"cut into {len(plan.kernels)} kernels; {between}", *_segment_lines(plan)]
    lines += [*_bounded_lines(plan), *_taken_in_lines(plan)]
    one = plan.turned_down
    if one is not None and one.fits:
        lines.append(
            f"as one kernel it is predicted to take {duration(one.prediction.seconds)}, "
            f"cut {duration(plan.seconds)}"
        )
    elif one is not None:
        lines.append(f"as one kernel it does not fit: the smallest tiles {one.needs}")
    return lines


def _segment_lines(plan: Plan) -> list[str]:
    """Return which streams are walked in segments, and why."""
    return [
        f"{kernel.name} walks its stream `{stream.axis}` in {plan.segments[axis]} segments side by side, by "
        f"`{axis}`, since its other groups alone leave multiprocessors idle"
        for kernel in plan.kernels
        for axis in kernel.program.grid
        if axis in plan.segments and (stream := kernel.derivation.stream) is not None
    ]


def _bounded_lines(plan: Plan) -> list[str]:
    """Return which kernels walk only what other kernels found that their masks let through."""
    return [
        f"{kernel.name} walks `{stream.axis}` only where its mask can hold, as a kernel before it has found; "
        "what that saves is not known before the data are there"
        for kernel in plan.kernels
        if kernel.derivation.hulls and (stream := kernel.derivation.stream) is not None
    ]


def _taken_in_lines(plan: Plan) -> list[str]:
    """Return what a kernel makes of the rows that it holds before its stream, for kernels behind it."""
    lines: list[str] = []
    for number, kernel in enumerate(plan.kernels, 1):
        own = before_stream(kernel.printed)
        made = {op.tile.name for op in own if isinstance(op, Compute | Fold)}
        read = {array.name for each in plan.kernels[number:] for array in each.program.arrays}
        stored = [op for op in kernel.printed.operations if isinstance(op, Store)]
        lines += [
            f"{kernel.name} makes {op.array} of the rows that it holds, before its stream, for others too"
            for op in stored
            if op.source in made and op.array in read
        ]
    return lines


def _signature(kernel: KernelPlan) -> str:
    inputs = [each.name for each in kernel.derivation.diagram.arguments]
    outputs = ", ".join(each.name for each in kernel.program.outputs)
    return f"{kernel.name}({', '.join(inputs)}) -> {outputs}"


def _kernel_lines(kernel: KernelPlan) -> list[str]:
    program, prediction = kernel.printed, kernel.expected
    sizes = dict(kernel.sizes)
    rows = [("axis", "role", "tile", "length", "tiles")]
    for each in program.axes:
        count = "" if each.role is AxisRole.WHOLE else str(-(-sizes[each.axis] // each.tile))
        rows.append((each.axis, each.role.value, str(each.tile), str(sizes[each.axis]), count))
    rings = ", ".join(_rings(kernel))
    guessed = guessed_scalars(program, sizes)
    return [
        form_line(kernel),
        "",
        *table(rows),
        "",
        f"grid, the fastest axis first: {' '.join(program.grid) or 'one block'}",
        *_adding_lines(kernel),
        f"shared memory {prediction.shared_bytes} B a block"
        + (f" (rings: {rings})" if rings else ""),
        f"registers {prediction.registers} a thread"
        + ("" if kernel.form is None else " at launch"),
        f"predicted {duration(prediction.seconds)}, bound by {prediction.bound_by}"
        + "".join(f", for {name} = {value}" for name, value in guessed.items()),
    ]


def _adding_lines(kernel: KernelPlan) -> list[str]:
    """Return to which outputs groups add, since the order of additions is left open."""
    outputs = {each.name: each for each in kernel.derivation.diagram.outputs}
    return [
        f"every group over {' '.join(outputs[name].added)} adds its part to {name}, which starts at zero, "
        "in no fixed order: the last bits may differ from run to run"
        for name in kernel.printed.accumulated
    ]


def form_line(kernel: KernelPlan) -> str:
    """Return in a line which form of a kernel is printed, and why."""
    tiles = ", ".join(f"{each.axis} {each.tile}" for each in kernel.printed.axes if each.tile > 1)
    if kernel.stead is not None:
        return (
            f"loop with operands in shared memory: {kernel.warps} warps, tiles {tiles}, "
            f"because {kernel.why}, which takes {duration(kernel.stead.prediction.seconds)}"
        )
    if kernel.form is None:
        return f"plain loop: {kernel.why}" if kernel.why else "plain loop"
    warps = kernel.form.warps
    others = "a producer, a dispatcher" if warps.dispatched else "a producer"
    return (
        f"warp-specialised: {others} and {warps.consumers} consumers, tiles {tiles}, "
        f"because {kernel.why}, which takes {duration(kernel.prediction.seconds)}"
    )


def _rings(kernel: KernelPlan) -> list[str]:
    if kernel.form is None:
        buffers = kernel.program.buffers
        return [f"{each.array} {each.stages} x {each.tile_bytes} B" for each in buffers]
    rings = kernel.form.warps.rings
    return [f"{each.load.array} {each.slots} x {each.slot_bytes} B" for each in rings]


def _on_block(kernel: KernelPlan) -> list[str]:
    group = set(kernel.derivation.group)
    lines = [f"on {kernel.machine.name}"]
    for word, roles in (
        ("group", (AxisRole.GROUP, AxisRole.WHOLE)),
        ("stream", (AxisRole.STREAM,)),
        ("split", (AxisRole.SPLIT,)),
    ):
        tiles: dict[int, list[str]] = {}
        for each in kernel.program.axes:
            if each.role in roles and (word != "group" or each.axis in group):
                tiles.setdefault(each.tile, []).append(each.axis)
        if tiles:
            phrases = (f"{' '.join(axes)} by {tile}" for tile, axes in tiles.items())
            lines.append(f"    {word} {', '.join(phrases)}")
    return [*lines, f"    warps {kernel.warps}", f"    stages {kernel.stages}"]
