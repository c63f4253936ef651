"""Streams whose steps walk a loop of contractions, as warp-specialised kernels without a GPU."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import pytest

from napkin.algebra.derive import derive
from napkin.emit.module import emit_module
from napkin.machine import load_machine
from napkin.runtime.data import random_arguments
from napkin.runtime.inspect import inspect_plan
from napkin.runtime.reference import torch_reference
from napkin.runtime.verify import _in_numpy
from napkin.schedule.forms.nested import is_nested, nested_forms
from napkin.schedule.forms.shapes import row_axis
from napkin.schedule.planning.plan import Plan, make_plan
from napkin.schedule.program import Dot, Loop, walk
from napkin.schedule.roles.barriers import Release, Step
from napkin.schedule.roles.warps import Chunks, Nest, Specialised
from napkin.schedule.tiling.kernel import KernelPlan, rank_kernels
from tests.programs import diagram_of, example
from tests.test_specialise import Fault, simulate

PROJECTION = """diagram project(O[b q h v], W[h v f]) -> Y[b q f]
    Y[b q f] = sum[h v](O * W)

sizes b=4 q=4096 h=16 v=128 f=2048
"""
BIASED = """diagram biased(X[t d], W[d v], bias[v]) -> m[t]: fp32, s[t]: fp32
    Z[t v] = sum[d](X * W) + bias
    m[t] = max[v](Z)
    s[t] = sum[v](exp(Z - m))

sizes t=8192 d=1024 v=32768
"""


@cache
def planned(name: str, **sizes: int) -> Plan:
    texts = {"project": PROJECTION, "biased": BIASED}
    diagram = diagram_of(texts[name]) if name in texts else example(name)
    return make_plan(derive(diagram), load_machine("h200"), sizes=sizes)


def nested(name: str) -> tuple[KernelPlan, Specialised]:
    """Return the kernel of a plan that has this form, and the form."""
    (kernel,) = (k for k in planned(name).kernels if k.form is not None and k.form.warps.nests)
    assert kernel.form is not None
    return kernel, kernel.form.warps


NAMES = ("cross_entropy", "attention_block", "project", "biased")


# --- the form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_form_fits_its_machine_and_keeps_every_operation(name: str) -> None:
    kernel, form = nested(name)
    assert form.shared_bytes < kernel.machine.limits.shared_per_block
    inner = [op for each in form.chunks for op in each.loop.body if isinstance(op, Loop)]
    assert [nest.loop for nest in form.nests] == inner
    for nest in form.nests:
        (dot,) = (op for op in nest.loop.body if isinstance(op, Dot))
        assert dot in nest.steps
        (first,) = (step for step in nest.first if isinstance(step, Dot))
        assert (first.tile, first.over) == (dot.tile, dot.over)
        assert {first.left, first.right}.isdisjoint({dot.left, dot.right})
    for each in form.chunks:
        assert each.steps == each.loop.body


def test_sums_alone_and_sums_that_a_step_reads_have_their_own_tiles() -> None:
    tiles = {name: nested(name)[1].program for name in NAMES}
    assert tiles["cross_entropy"].axis("t").tile == 128
    assert tiles["cross_entropy"].axis("v").tile == 256
    assert tiles["project"].axis("f").tile == 256
    assert nested("project")[1].staged, "the output leaves by the copy engine"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            # The values of a second contraction come beside the loop that the first one is.
            "diagram f(Q[q d], K[x d], V[x v]) -> O[q v]\n"
            "    O[q v] = sum[x](sum[d](Q * K) * V)\n\nsizes q=4096 x=4096 d=2048 v=128\n",
            "a step reads a shared tile beside its loop",
        ),
        (
            "diagram f(X[t d]: fp32, W[d v]: fp32) -> m[t]\n    m[t] = max[v](sum[d](X * W))\n\n"
            "sizes t=4096 d=1024 v=4096\n",
            "a contraction over `d` takes fp32",
        ),
    ],
)
def test_what_has_no_such_form_says_why(text: str, why: str) -> None:
    diagram = diagram_of(text)
    ranked = rank_kernels(derive(diagram), load_machine("h200"), dict(diagram.sizes), "bf16")
    kernel = next(each for each in ranked.kernels if is_nested(each.program))
    rows = row_axis(kernel)
    assert rows is not None
    assert nested_forms(kernel, rows) == why


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cross_entropy", {"t": 130, "v": 300}),
        ("cross_entropy", {"t": 64, "v": 513}),
        ("project", {"b": 2, "q": 133, "v": 72, "f": 264}),
        ("biased", {"t": 130, "v": 304}),
    ],
)
def test_its_program_gives_what_the_reference_gives(name: str, sizes: dict[str, int]) -> None:
    plan = planned(name)
    lengths = dict(plan.sizes) | sizes
    given = random_arguments(plan.diagram, lengths, dtype="bf16", device="cpu", seed=0)
    wanted = torch_reference(plan.diagram, given)
    for check in _in_numpy(plan, given, lengths | plan.segments, wanted):
        assert check.passed, str(check)


# --- the barriers -------------------------------------------------------------------------------------


def flat(form: Specialised, nest: Nest) -> Specialised:
    """Return a form whose groups are the walks of a nest's loop: between them consumers touch no ring."""
    chunks = Chunks(nest.loop, nest.first, True), Chunks(nest.loop, nest.steps, False)
    return replace(form, prelude=(), chunks=chunks, drain=nest.behind, nests=())


@pytest.mark.parametrize("name", ["cross_entropy", "project"])
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_no_warp_hangs_and_no_slot_is_overwritten(name: str, stages: int) -> None:
    _, form = nested(name)
    rings = tuple(replace(ring, slots=stages) for ring in form.rings)
    order = random.Random(stages)
    for nest in form.nests:
        for seed in range(8):
            walks = [[order.randint(0, 6)] for _ in range(5)]
            simulate(flat(replace(form, rings=rings), nest), walks, seed)


@pytest.mark.parametrize("part", ["steps", "behind"])
def test_the_simulation_sees_a_release_that_is_left_out(part: str) -> None:
    _, form = nested("cross_entropy")

    def without(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(step for step in steps if not isinstance(step, Release))

    nest = form.nests[0]
    if part == "steps":
        nest = replace(nest, steps=without(nest.steps))
    else:
        nest = replace(nest, behind=without(nest.behind))
    with pytest.raises(Fault):
        simulate(flat(form, nest), [[5], [5], [5]], 0)


# --- the text and its machine code ----------------------------------------------------------------


def test_the_first_chunk_of_a_loop_has_names_of_its_own() -> None:
    text = emit_module(planned("cross_entropy"))
    assert "x_first = x_buffer.index" in text
    assert "for d_start in range(BLOCK_D_1, 1024, BLOCK_D_1):" in text


@pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)
@pytest.mark.parametrize("name", ["cross_entropy", "project", "biased"])
def test_its_machine_code_spills_nothing_and_waits_for_nothing(name: str) -> None:
    plan = planned(name)
    kernel, form = nested(name)
    found = inspect_plan(plan)[plan.kernels.index(kernel)].resources
    assert found.spill_store_bytes == found.spill_load_bytes == 0, str(found)
    assert not [line for line in found.warnings if "C75" in line], str(found)
    assert not found.unwritten, str(found)
    dots = sum(isinstance(op, Dot) for op in walk(kernel.program.operations))
    assert found.instructions["HGMMA"] >= 2 * dots * form.consumers
