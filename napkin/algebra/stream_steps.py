"""The steps of a derivation that make its stream, as text: from the choice of axis to the tail.

In: a `View`. Out: `Step`s, in the order in which `streams` takes the reductions. See
docs/algebra.md.
"""

from __future__ import annotations

from napkin.algebra.derive import Candidate
from napkin.algebra.expressions import Printer, print_number
from napkin.algebra.naming import stream_leaves
from napkin.algebra.reduction_steps import reduction_step, refusal_step
from napkin.algebra.states import Accumulator, Pass, Stream, Transport
from napkin.algebra.view import Step, View
from napkin.diagram import Gather, Input, Leaf, topological
from napkin.operators import POINTWISE, REDUCTIONS

_ONE_OR_SEVERAL = 'docs/algebra.md, "One pass or several"'
_BODY = 'docs/algebra.md, "Body, head, tail, merge"'


def stream_steps(view: View) -> tuple[Step, ...]:
    """Return the steps that make the stream; none if nothing streams."""
    stream = view.stream
    if stream is None:
        return ()
    steps = [_choice(view, stream), _normal_form(view, stream), *_fusion(view, stream)]
    known: tuple[str, ...] = ()
    for number, one in enumerate(stream.passes):
        steps += _cuts(view, stream, number)
        for each in one.reductions:
            known = _grow(known, one, each.accumulators)
            steps.append(reduction_step(view, one, each, known))
        steps += _run(view, stream, number)
    if stream.tail:
        steps.append(_tail(view, stream))
    return tuple(steps)


def _grow(known: tuple[str, ...], one: Pass, made: tuple[str, ...]) -> tuple[str, ...]:
    """Add a reduction's states, and those before them that only their transport needs."""
    order = [each.name for each in one.accumulators]
    last = max(order.index(name) for name in made)
    return tuple(dict.fromkeys((*known, *order[: last + 1])))


# --- before the reductions ------------------------------------------------------------------------


def _choice(view: View, stream: Stream) -> Step:
    candidates = view.derivation.candidates
    lines = [_candidate(each) for each in candidates]
    if len(candidates) > 1:
        lines.append(
            "the fewest long axes whole win, then the fewest passes, then the last reduction"
        )
    reference = f"paper, section 4: stream partition; {_ONE_OR_SEVERAL}"
    title = f"stream partition over `{stream.axis}`"
    return Step(title, reference, tuple(lines), f"{stream.axis} streams")


def _candidate(each: Candidate) -> str:
    passes = "1 pass" if each.passes == 1 else f"{each.passes} passes"
    if not each.whole:
        return f"{each.axis}: {passes}, no long axis would lie whole on chip"
    return f"{each.axis}: {passes}, but the long {' '.join(each.whole)} would lie whole on chip"


def _normal_form(view: View, stream: Stream) -> Step:
    axis = stream.axis
    reductions = [each for one in stream.passes for each in one.reductions]
    lines = [f"{view.left_side(each.box)} = {_opened(view, each.box)}" for each in reductions]
    for number, box in enumerate(view.derivation.outputs):
        if box not in view.reductions:
            added = view.derivation.diagram.outputs[number].added
            text = _opened(view, box) if added else view.own.text(box)
            lines.append(f"{view.output(number)} = {text}")
    result = f"{len(reductions)} over {axis}, in order of dependency"
    title = f"normal form: the reductions over `{axis}`"
    return Step(title, 'docs/algebra.md, "Normal form"', tuple(lines), result)


def _opened(view: View, box: int) -> str:
    return view.own.definition(box)


def _fusion(view: View, stream: Stream) -> list[Step]:
    """Say what is woven over the stream and joins the body as it is."""
    graph, axis = view.graph, stream.axis
    leaves = stream_leaves(view.derivation)
    needed = topological(graph, leaves)
    computed = [
        each
        for each in needed
        if (each in view.still or each in leaves)
        and not isinstance(graph[each], Leaf)
        and axis in graph[each].axes
    ]
    if not computed:
        return []
    lines = tuple(f"{view.left_side(each)} = {_opened(view, each)}" for each in computed)
    title = f"fusion theorem: what is woven over `{axis}` joins the body"
    result = f"the body computes it for each chunk of {', '.join(_streamed(view, needed, axis))}"
    return [Step(title, "paper, section 4: fusion theorem (i)", lines, result)]


def _streamed(view: View, needed: list[int], axis: str) -> list[str]:
    """Return the arrays that a chunk is made of; the axis itself if they are none."""
    names: dict[str, None] = {}
    for each in needed:
        box = view.graph[each]
        if isinstance(box, Gather) and axis in box.axes:
            box = view.graph[box.array]
            names[box.name if isinstance(box, Input) else ""] = None
        elif isinstance(box, Input) and axis in box.axes:
            names[box.name] = None
    return list(names) or [axis]


# --- passes ---------------------------------------------------------------------------------------


def _cuts(view: View, stream: Stream, number: int) -> list[Step]:
    """Say why a pass had to wait for the one before."""
    if number == 0:
        return []
    one = stream.passes[number]
    here = {each.box for each in one.reductions}
    steps = [
        refusal_step(view, each, stream.axis, number + 1)
        for each in stream.refusals
        if each.box in here
    ]
    stores = [view.output(output) for output, _ in one.stores]
    if stores:
        lines = (
            f"it carries {stream.axis} itself, and needs values that are final only when"
            f" {stream.axis} has been read through",
        )
        title = f"cut into passes: {', '.join(stores)}"
        steps.append(Step(title, _ONE_OR_SEVERAL, lines, f"pass {number + 1} writes it"))
    return steps


def _run(view: View, stream: Stream, number: int) -> list[Step]:
    """Give a pass's head, body and merge."""
    one = stream.passes[number]
    which = "" if len(stream.passes) == 1 else f" of pass {number + 1}"
    body = _body(view, stream, one, which)
    return [_head(one, which), body, _merge(view, one, which)] if one.accumulators else [body]


def _names(one: Pass, form: str = "{}") -> str:
    return f"({', '.join(form.format(each.name) for each in one.accumulators)})"


def _head(one: Pass, which: str) -> Step:
    lines = tuple(
        f"{each.name}[{' '.join(each.axes)}] = {print_number(each.unit)}"
        for each in one.accumulators
    )
    units = ", ".join(print_number(each.unit) for each in one.accumulators)
    reference = f"paper, section 4: head; {_BODY}"
    return Step(f"head{which}: nothing seen yet", reference, lines, f"{_names(one)} = ({units})")


def _body(view: View, stream: Stream, one: Pass, which: str) -> Step:
    printer = view.moving(one)
    lines = [_update(printer, each) for each in one.accumulators]
    lines += [f"{view.output(number)} = {view.final.text(box)}" for number, box in one.stores]
    lines += [_part(printer, view.output(number), each) for number, each in one.parts]
    ends = (*one.stores, *one.parts)
    written = ", ".join(view.output(number) for number, _ in ends)
    moved = f"{_names(one, '{}_old')} -> {_names(one, '{}_new')}"
    result = f"the chunk's part of {written}" if written else moved
    result = f"{moved}; {result}" if one.parts and one.accumulators else result
    title = f"body{which}: for each chunk of `{stream.axis}`"
    return Step(title, f"paper, section 4: body; {_BODY}", tuple(lines), result)


def _part(printer: Printer, output: str, each: Accumulator) -> str:
    """Return what a chunk adds to an output in memory."""
    return f"{output} += {printer.contribution(each.operator, each.factors, each.over)}"


def _update(printer: Printer, each: Accumulator) -> str:
    chunk = printer.contribution(each.operator, each.factors, each.over)
    return f"{each.name}_new = {_combine(each, _moved(printer, each), chunk)}"


def _moved(printer: Printer, each: Accumulator) -> str:
    """Return an accumulator's old value, carried to the new running values."""
    return " + ".join(_moved_term(printer, term) for term in each.transport)


def _moved_term(printer: Printer, term: Transport) -> str:
    old = printer.versions.old.format(term.source)
    return old if term.factor is None else f"{old} * {printer.factor(term.factor)}"


def _combine(each: Accumulator, *parts: str) -> str:
    row = POINTWISE[REDUCTIONS[each.operator].combine]
    return f" {row.symbol} ".join(parts) if row.precedence else f"{row.symbol}({', '.join(parts)})"


def _merge(view: View, one: Pass, which: str) -> Step:
    first, second = view.side(one, 1), view.side(one, 2)
    lines = [
        f"{each.name} = {_combine(each, _moved(first, each), _moved(second, each))}"
        for each in one.accumulators
    ]
    if any(each.is_carried for each in one.accumulators):
        lines.append("a side that has seen nothing is 0, whatever it is multiplied by")
    old = (_names(one, printer.versions.old) for printer in (first, second))
    title = f"merge{which}: two parts of the stream become one"
    return Step(title, _BODY, tuple(lines), f"{', '.join(old)} -> {_names(one)}")


def _tail(view: View, stream: Stream) -> Step:
    lines = tuple(f"{view.output(number)} = {view.final.text(box)}" for number, box in stream.tail)
    reference = f"paper, section 4: fusion theorem (iii); {_BODY}"
    result = ", ".join(view.output(number) for number, _ in stream.tail)
    return Step("tail: once a group, from the final state", reference, lines, result)
