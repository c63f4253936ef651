"""Past an axis's end, where loads read zero: what may be infinite there, and how it is masked."""

from __future__ import annotations

import numpy as np
import pytest

from napkin.algebra.conditions import poles
from napkin.algebra.derive import derive
from napkin.diagram import Graph, Index, Pointwise, Size
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.evaluate import reference
from napkin.machine import load_machine
from napkin.schedule.execute import execute
from napkin.schedule.planning.plan import make_plan
from napkin.schedule.program import Compute, Loop, walk
from tests.programs import arguments_of, diagram_of
from tests.test_adding import backward
from tests.test_gluon_adding import forms_of, kernel_of

FACTORS = {
    "exp(sum[d](Q * K))": (),  # of zero
    "exp(sum[d](Q * K) - L)": ("exp",),  # L is what it is
    "exp(sum[d](Q * K) - M)": (),  # M has no rows past the end either
    "exp(tanh(sum[d](Q * K) - L))": (),
    "exp(sum[d](Q * K) - max[x](sum[d](Q * K)))": ("exp",),  # a maximum of what lies within
    "exp(where(x < n, sum[d](Q * K), -inf) - L)": ("exp",),
    "1 / M": ("div",),
    "1 / L": (),
    "tanh(exp(sum[d](Q * K) - L))": ("exp",),
    "M * exp(sum[d](Q * K) - L)": (),  # zero, or no number where L is none
}


@pytest.mark.parametrize("factor", FACTORS)
def test_what_may_be_infinite_past_the_end_of_the_keys(factor: str) -> None:
    text = f"""diagram d(Q[q d], K[x d], L[q], M[x], n: int) -> O[q x]
        O[q x] = {factor} + 0 * sum[d](Q * K) + 0 * L + 0 * M + 0 * n
    """
    diagram = diagram_of(text)
    graph = Graph(diagram.boxes)
    box = diagram.outputs[0].box
    for _ in range(4):  # the sums by which every argument is read
        added = graph[box]
        assert isinstance(added, Pointwise)
        box = added.operands[0]
    inside = graph.pointwise("lt", graph.add(Index("x")), graph.add(Size("x")))
    found = [graph[each] for each in poles(graph, box, inside, "x")]
    assert tuple(each.operator for each in found if isinstance(each, Pointwise)) == FACTORS[factor]


@pytest.mark.parametrize("length", [256, 200])
def test_a_form_that_starts_at_the_end_masks_the_chunk_that_it_meets_there(length: int) -> None:
    plan = make_plan(derive(backward("causal")), load_machine("h200"), deterministic=True)
    assert any(each.form is not None for each in plan.kernels)
    sizes = {"b": 1, "h": 1, "q": length, "x": length, "d": 64, "v": 64}
    given = arguments_of(plan.diagram, sizes, {}, 0)
    known = dict(given)
    with np.errstate(all="ignore"):
        want = reference(plan.diagram, given)
        for kernel in plan.kernels:
            arrays = {each.name: known[each.name] for each in kernel.printed.arrays}
            known |= execute(kernel.printed, arrays, {}, sizes).outputs
    for name, wanted in want.items():
        np.testing.assert_allclose(known[name], wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


def test_rows_past_the_end_are_masked_by_the_groups_that_reach_it() -> None:
    kernel = kernel_of(backward("attention"))
    form = forms_of(kernel)[0]
    loops = [op for op in walk(form.program.operations) if isinstance(op, Loop)]
    masks = [op for op in loops[0].body if isinstance(op, Compute) and op.operator == "where"]
    assert len(masks) == 1
    lines = emit_gluon(plan_in_form(kernel, form)).splitlines()
    cuts = [
        place for place, line in enumerate(lines) if line.strip() == "if x_start + ROWS > size_x:"
    ]
    assert len(cuts) == 1
    assert "where" in lines[cuts[0] + 1]
    assert "size_x" in lines[cuts[0] + 1]
