"""The last steps of a derivation as text: mask bounds, groups, inner axes, the check of the law.

In: a `View`. Out: `Step`s. See docs/algebra.md, "Masks as bounds", and the paper's section 4.
"""

from __future__ import annotations

from napkin.algebra.affine import Variation
from napkin.algebra.masks import Interval, interval
from napkin.algebra.naming import stream_leaves
from napkin.algebra.view import Step, View
from napkin.diagram import Constant, Edge, Extreme, Gather, Index, Input, Pointwise, topological
from napkin.operators import Kind

_SUM = 5  # how tight a bound must be to stand beside `<`


def layout_steps(view: View) -> tuple[Step, ...]:
    """Return the steps that follow the stream."""
    return (*_mask_steps(view), *_group_steps(view), *_inner_steps(view), *_law_steps(view))


def _mask_steps(view: View) -> list[Step]:
    stream = view.stream
    if stream is None:
        return []
    steps: list[Step] = []
    for condition in dict.fromkeys(view.derivation.conditions):
        if condition is not None:
            steps.append(_mask_step(view, condition, stream.axis))
    return steps


def _mask_step(view: View, condition: int, axis: str) -> Step:
    alone = _axes_alone(view, axis)
    bounds = interval(view.graph, condition, axis, lambda box: _variation(view, box, alone))
    lines = ["where it fails, a chunk adds nothing to the state"]
    anywhere, full = _range(view, bounds.any, axis), _range(view, bounds.full, axis)
    everything = f"every {axis}"
    if anywhere != everything:
        lines.append(f"it may hold for {anywhere}: the chunks outside are skipped")
    if bounds.residual is None:
        lines.append(f"it holds throughout for {full}: the chunks inside need no mask")
    else:
        if full != everything:
            lines.append(f"its bounds hold throughout for {full}")
        lines.append(f"tested for every element: {view.own.text(bounds.residual)}")
    if any(isinstance(view.graph[each], Edge) for each in _bound_boxes(view, bounds.any)):
        lines.append("first and last are the ends of the tile at hand")
    if any(isinstance(view.graph[each], Extreme) for each in _bound_boxes(view, bounds.any)):
        lines.append("least and greatest are taken over the tile at hand, when the kernel runs")
    title = f"mask to bounds: {view.own.definition(condition)}"
    result = f"the loop over {axis} covers {anywhere}"
    return Step(title, 'docs/algebra.md, "Masks as bounds"', tuple(lines), result)


def _bound_boxes(view: View, region: Interval) -> list[int]:
    ends = [each for each in (region.start, region.stop) if each is not None]
    return topological(view.graph, ends)


def _range(view: View, region: Interval | None, axis: str) -> str:
    if region is None:
        return f"no {axis}"
    if region.start is None and region.stop is None:
        return f"every {axis}"
    start = "" if region.start is None else f"{view.own.text(region.start, _SUM)} <= "
    return f"{start}{axis}{_upper_end(view, region.stop)}"


def _upper_end(view: View, stop: int | None) -> str:
    """Return `< stop`, or `<= last` where stop is last + 1."""
    if stop is None:
        return ""
    box = view.graph[stop]
    if isinstance(box, Pointwise) and box.operator == "add":
        last, one = box.operands
        if view.graph[one] == Constant(1, Kind.INT):
            return f" <= {view.own.text(last, _SUM)}"
    return f" < {view.own.text(stop, _SUM)}"


def _axes_alone(view: View, axis: str) -> frozenset[str]:
    """Return the axes that all streamed arrays carry: as nothing is shared, a group holds one."""
    boxes = (view.graph[each] for each in topological(view.graph, stream_leaves(view.derivation)))
    read = [set(box.axes) for box in boxes if isinstance(box, Input | Gather) and axis in box.axes]
    return frozenset(set.intersection(*read) - {axis}) if read else frozenset()


def _variation(view: View, box: int, alone: frozenset[str]) -> Variation:
    graph, axes = view.graph, set(view.graph[box].axes)
    indices = any(isinstance(graph[each], Index) for each in topological(graph, [box]))
    if graph[box].kind is Kind.INT and not indices and alone.issuperset(axes):
        return Variation.NONE
    is_split = axes & set(view.derivation.splittable)
    return Variation.BEYOND if is_split else Variation.INSIDE


def _group_steps(view: View) -> list[Step]:
    group = view.derivation.group
    if not group:
        return []
    lines = []
    for argument in view.derivation.diagram.arguments:
        missing = [axis for axis in group if axis not in argument.axes]
        if missing and argument.axes:
            them = "it" if len(missing) == 1 else "them"
            lines.append(
                f"{argument.name} lacks {' '.join(missing)}: transferred again for every group of"
                f" {them}"
            )
    if not lines:
        lines.append("every array carries all of them: nothing is transferred twice")
    lines += [
        f"{output.name} sums {' '.join(output.added)}: every group adds its part, in no fixed order"
        for output in view.derivation.diagram.outputs
        if output.added
    ]
    title = f"group partition: everything is woven over {' '.join(group)}"
    result = f"groups over {' '.join(group)}, each with a state of its own"
    return [Step(title, "paper, section 4: group partition", tuple(lines), result)]


def _inner_steps(view: View) -> list[Step]:
    inner, splittable = view.derivation.inner, view.derivation.splittable
    if not inner:
        return []
    lines = tuple(
        f"{axis}: only ever summed, so a step may walk it in chunks"
        if axis in splittable
        else f"{axis}: kept, or reduced by more than sums, so a tile holds all of it"
        for axis in inner
    )
    whole = [axis for axis in inner if axis not in splittable]
    result = f"whole on chip: {' '.join(whole)}" if whole else "nothing need be whole on chip"
    return [Step(f"inner axes: {' '.join(inner)}", "paper, section 7: sub-loops", lines, result)]


def _law_steps(view: View) -> list[Step]:
    if view.stream is None:
        return []
    error = f"{view.derivation.law_error:.0e}"
    lines = (
        "random arrays in float64, chunks of odd sizes, and empty ones",
        f"B(F(x), y) = F(x ++ y): worst relative error {error} over odd and empty chunks",
        "merge associative, and the tail gives the diagram's own outputs",
    )
    reference = 'paper, sections 4 and 10; docs/algebra.md, "Body, head, tail, merge"'
    return [Step("law check", reference, lines, "the stream is lawful")]
