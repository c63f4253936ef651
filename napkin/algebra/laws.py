"""Every derived body and merge, checked with numbers: B(F(x), y) = F(x ++ y), and merge is F's too.

In: a graph, its stream and random arrays. Out: the largest relative error; `check_laws` raises
InternalError past the bound, since a stream that breaks its law is napkin's fault and not the
user's. Chunks have odd sizes and one of them is empty; `F` is the plain evaluation of the diagram's
own reductions in float64, which shares nothing with the derivation. See docs/algebra.md, "Body,
head, tail, merge".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napkin.algebra.states import Accumulator, Pass, Stream
from napkin.diagram import Argument, Graph, Input, Output, Reduce, Size, topological
from napkin.evaluate import evaluate
from napkin.language.errors import InternalError
from napkin.operators import POINTWISE, REDUCTIONS, Kind

Array = Any
States = dict[str, Array]
_BOUND = 1e-8


@dataclass(frozen=True, slots=True)
class Trial:
    """Random arrays (axes as the Input boxes have them) and axis lengths."""

    arrays: Mapping[str, Array]
    sizes: Mapping[str, int]


def random_trial(
    arguments: Sequence[Argument], axes: Sequence[str], stream: str, seed: int = 0
) -> Trial:
    """Return small random arrays: lengths 2 to 4, 11 along the stream; integers stay in range."""
    random = np.random.default_rng(seed)
    sizes = {axis: 2 + number % 3 for number, axis in enumerate(axes)}
    sizes[stream] = 11
    arrays: dict[str, Array] = {}
    for argument in arguments:
        shape = tuple(sizes[axis] for axis in argument.axes)
        if argument.kind is Kind.FLOAT:
            arrays[argument.name] = random.normal(size=shape)
        elif argument.kind is Kind.BOOL:
            arrays[argument.name] = random.random(shape) < 0.5
        else:
            arrays[argument.name] = random.integers(0, 8 if not shape else 3, size=shape)
    for argument in arguments:
        if not argument.dims and argument.kind is Kind.FLOAT:
            arrays[argument.name] = np.asarray(1.0 + random.random())
    return Trial(arrays, sizes)


def fold_chunks(
    graph: Graph, stream: Stream, trial: Trial, chunks: Sequence[int]
) -> dict[tuple[str, str], Array]:
    """Run every pass over the chunks; return the final states, keyed as `evaluate` wants them."""
    final: dict[tuple[str, str], Array] = {}
    for one in stream.passes:
        states = head(one, trial)
        start = 0
        for length in chunks:
            states = step(graph, stream, one, trial, states, final, (start, start + length))
            start += length
        final |= {(name, "new"): value for name, value in states.items()}
    return final


def head(one: Pass, trial: Trial) -> States:
    """Return the states before any chunk: the units."""
    return {
        each.name: np.full([trial.sizes[axis] for axis in each.axes], each.unit, dtype=float)
        for each in one.accumulators
    }


def step(
    graph: Graph,
    stream: Stream,
    one: Pass,
    trial: Trial,
    old: States,
    final: Mapping[tuple[str, str], Array],
    bounds: tuple[int, int],
) -> States:
    """Apply the body to one chunk `[start, end)` of the stream."""
    context = _chunk(graph, stream.axis, trial, bounds)
    known = dict(final) | {(name, "old"): value for name, value in old.items()}
    new: States = {}
    for each in one.accumulators:
        chunk = _contribution(graph, each, context, known)
        moved = _moved(graph, one, each, old, context, known)
        new[each.name] = POINTWISE[_combine(each)].numpy(moved, chunk)
        known[each.name, "new"] = new[each.name]
    return new


def merge(
    graph: Graph,
    stream: Stream,
    one: Pass,
    trial: Trial,
    sides: tuple[States, States],
    final: Mapping[tuple[str, str], Array],
) -> States:
    """Merge the states of two parts of the stream (docs/algebra.md, "merge")."""
    context = _chunk(graph, stream.axis, trial, (0, 0))
    merged: States = {}
    for each in one.accumulators:
        parts = []
        for side in sides:
            known = dict(final) | {(name, "old"): value for name, value in side.items()}
            known |= {(name, "new"): value for name, value in merged.items()}
            parts.append(_moved(graph, one, each, side, context, known))
        merged[each.name] = POINTWISE[_combine(each)].numpy(*parts)
    return merged


def check_laws(
    graph: Graph, stream: Stream, outputs: Sequence[int], arguments: Sequence[Argument]
) -> float:
    """Return the worst relative error of bodies, merges, tails; raise InternalError past 1e-8."""
    axes = _axes(graph, outputs, arguments)
    worst = 0.0
    with np.errstate(all="ignore"):
        for seed in range(2):
            trial = random_trial(arguments, axes, stream.axis, seed)
            worst = max(worst, _trial_error(graph, stream, outputs, trial))
    if not worst < _BOUND:
        raise InternalError(f"the stream over `{stream.axis}` breaks its law by {worst:.1e}")
    return worst


def check_parts(graph: Graph, outputs: Sequence[Output], arguments: Sequence[Argument]) -> float:
    """Return the worst relative error of sums that are added up from parts; raise InternalError past 1e-8."""
    axes = _axes(graph, [each.box for each in outputs], arguments)
    worst = 0.0
    with np.errstate(all="ignore"):
        for output in outputs:
            for axis in output.added:
                trial = random_trial(arguments, axes, axis)
                parts = (_part(graph, output.box, axis, trial, ends) for ends in ((0, 4), (4, 11)))
                whole = _part(graph, output.box, axis, trial, (0, 11))
                worst = max(worst, _error(whole, sum(parts)))
    if not worst < _BOUND:
        raise InternalError(f"a sum differs from its parts by {worst:.1e}")
    return worst


def _part(graph: Graph, box: int, axis: str, trial: Trial, bounds: tuple[int, int]) -> Array:
    return evaluate(graph, [box], **_chunk(graph, axis, trial, bounds))[box]


def _trial_error(graph: Graph, stream: Stream, outputs: Sequence[int], trial: Trial) -> float:
    reduced = [each.box for one in stream.passes for each in one.reductions]
    truth = evaluate(graph, [*reduced, *outputs], dict(trial.arrays), trial.sizes)
    if any(_overflows(graph, each, truth[each]) for each in reduced):
        return 0.0  # what an infinite sum is depends on the order of chunks: nothing to learn
    final = fold_chunks(graph, stream, trial, (3, 0, 5, 1, 2))
    context = _chunk(graph, stream.axis, trial, (0, trial.sizes[stream.axis]))
    pairs = [(each.box, each.value) for one in stream.passes for each in one.reductions]
    pairs += [(outputs[number], box) for number, box in stream.tail]
    pairs += [(outputs[number], box) for one in stream.passes for number, box in one.stores]
    values = evaluate(graph, [box for _, box in pairs], **context, states=final)
    worst = _merge_error(graph, stream, trial, final)
    for whole, streamed in pairs:
        value = _broadcast(values[streamed], graph[streamed].axes, graph[whole].axes)
        worst = max(worst, _error(truth[whole], value))
    return worst


def _overflows(graph: Graph, each: int, value: Array) -> bool:
    box = graph[each]
    folds = isinstance(box, Reduce) and box.operator in ("sum", "prod")
    return folds and not bool(np.isfinite(value).all())


def _merge_error(
    graph: Graph,
    stream: Stream,
    trial: Trial,
    final: Mapping[tuple[str, str], Array],
) -> float:
    worst = 0.0
    for one in stream.passes:
        parts = []
        for bounds in ((0, 4), (4, 4), (4, 11)):
            parts.append(step(graph, stream, one, trial, head(one, trial), final, bounds))
        left = merge(graph, stream, one, trial, (parts[0], parts[1]), final)
        left = merge(graph, stream, one, trial, (left, parts[2]), final)
        right = merge(graph, stream, one, trial, (parts[1], parts[2]), final)
        right = merge(graph, stream, one, trial, (parts[0], right), final)
        for each in one.accumulators:
            whole = final[each.name, "new"]
            for merged in (left, right):
                worst = max(worst, _error(whole, merged[each.name]))
    return worst


def _contribution(
    graph: Graph, each: Accumulator, context: dict[str, Any], states: Mapping[Any, Array]
) -> Array:
    scratch = Graph(graph.boxes)
    total = scratch.reduce(each.operator, each.factors, each.over)
    value = evaluate(scratch, [total], **context, states=states)[total]
    return _ordered(value, scratch[total].axes, each.axes)


def _moved(
    graph: Graph,
    one: Pass,
    each: Accumulator,
    old: States,
    context: dict[str, Any],
    states: Mapping[Any, Array],
) -> Array:
    if not each.is_carried:
        return old[each.name]
    total: Array = 0.0
    axes_of = {state.name: state.axes for state in one.accumulators}
    for term in each.transport:
        value = _broadcast(old[term.source], axes_of[term.source], each.axes)
        if term.factor is not None:
            factor = evaluate(graph, [term.factor], **context, states=states)[term.factor]
            axes = graph[term.factor].axes
            factor = _broadcast(factor, axes, each.axes)
            # T applied to nothing is nothing: 0 times an infinite factor is 0 here.
            with np.errstate(all="ignore"):
                value = np.where(value == 0, 0.0, value * factor)
        total = total + value
    return total


def _combine(each: Accumulator) -> str:
    return REDUCTIONS[each.operator].combine


def _chunk(graph: Graph, axis: str, trial: Trial, bounds: tuple[int, int]) -> dict[str, Any]:
    start, end = bounds
    sliced = {}
    for box in graph.boxes:
        if isinstance(box, Input) and box.name in trial.arrays:
            array = trial.arrays[box.name]
            where = [slice(start, end) if each == axis else slice(None) for each in box.axes]
            sliced[box.name] = array[tuple(where)]
    return {
        "inputs": sliced,
        "sizes": trial.sizes,
        "indices": {axis: np.arange(start, end)},
        "whole": trial.arrays,
    }


def _axes(graph: Graph, outputs: Sequence[int], arguments: Sequence[Argument]) -> list[str]:
    seen: dict[str, None] = dict.fromkeys(axis for each in arguments for axis in each.axes)
    for each in topological(graph, outputs):
        box = graph[each]
        seen |= dict.fromkeys((box.axis,) if isinstance(box, Size) else box.axes)
    return list(seen)


def _ordered(value: Array, axes: tuple[str, ...], target: tuple[str, ...]) -> Array:
    return np.transpose(value, [axes.index(axis) for axis in target])


def _broadcast(value: Array, axes: tuple[str, ...], target: tuple[str, ...]) -> Array:
    order = [axis for axis in target if axis in axes]
    value = np.transpose(value, [axes.index(axis) for axis in order])
    missing = tuple(i for i, axis in enumerate(target) if axis not in axes)
    return np.expand_dims(value, missing)


def _error(truth: Array, value: Array) -> float:
    """Return the largest error relative to the largest finite element."""
    truth, value = np.broadcast_arrays(np.asarray(truth, float), np.asarray(value, float))
    if truth.size == 0:
        return 0.0
    same = (truth == value) | (np.isnan(truth) & np.isnan(value))
    finite = np.where(np.isfinite(truth), truth, 0.0)
    scale = np.max(np.abs(finite), initial=1e-30)
    error = np.where(same, 0.0, np.abs(truth - value) / max(scale, 1e-3))
    return float(np.max(np.where(np.isnan(error), np.inf, error)))
