"""Loops with operands in shared memory: copies and waits, which kernels have one, their machine code."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napkin.algebra.derive import derive
from napkin.api import parse
from napkin.emit.gluon import loop_text
from napkin.emit.module import emit_module
from napkin.emit.triton import emit_triton, kernel_names
from napkin.emit.triton.spelling import spell
from napkin.machine import load_machine
from napkin.runtime.data import random_arguments
from napkin.runtime.gpus import runnable
from napkin.runtime.inspect import inspect_plan
from napkin.runtime.reference import torch_reference
from napkin.schedule.liveness import reads
from napkin.schedule.planning.plan import Plan, make_plan
from napkin.schedule.program import Load, Loop, Program, walk
from napkin.schedule.roles.shared_loop import Arrive, Fetch, SharedLoop, SharedStep
from napkin.schedule.tiling.kernel import KernelPlan
from tests.conftest import Golden
from tests.gluon_numpy import Pointer, run_kernel
from tests.programs import EXAMPLES, example

ROOT = Path(__file__).parent.parent
COMPILED = ("attention", "causal", "window", "sigmoid", "alibi", "gemma")
# Bytes that spill, stores and loads together, at most: row values that wait while a chunk is contracted
# (8 accesses beside 900 instructions), and what chunks hold besides that a mask cuts.
SPILLS = {
    "attention": 160,
    "causal": 256,
    "window": 768,
    "sigmoid": 96,
    "alibi": 640,
    "gemma": 192,
}
MACHINES = ("a100", "a100_40gb")
BY_NUMPY = [
    *((name, 64) for name in ("alibi", "attention", "attention_lse", "sigmoid", "sinks", "window")),
    *(("causal", head) for head in (16, 64, 96)),
]


def planned(name: str, machine: str = "a100", **sizes: int) -> Plan:
    return make_plan(derive(example(name)), load_machine(machine), sizes=sizes)


def shared(name: str, machine: str = "a100", **sizes: int) -> tuple[KernelPlan, SharedLoop]:
    """Return an example's one kernel, and its loop."""
    (kernel,) = planned(name, machine, **sizes).kernels
    assert kernel.loop is not None, kernel.why
    return kernel, kernel.loop


# --- copies and waits -------------------------------------------------------------------------------


def walked(program: Program, loop: SharedLoop, trips: list[int]) -> Iterator[SharedStep]:
    """Give the steps in the order in which a block does them, every loop walked so many times."""
    yield from loop.opening
    for _, steps, count in zip(
        (op for op in program.operations if isinstance(op, Loop)), loop.steps, trips, strict=True
    ):
        for _ in range(count):
            yield from steps


@pytest.mark.parametrize("name", ["attention", "causal", "window"])
@settings(deadline=None)  # the first one plans
@given(data=st.data())
def test_every_tile_has_arrived_when_it_is_read_and_has_been_read_when_its_slot_is_filled(
    name: str, data: st.DataObject
) -> None:
    program, loop = _programs()[name]
    count = len(loop.steps)
    trips = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    order = list(walked(program, loop, trips))
    waits = [place for place, step in enumerate(order) if isinstance(step, Arrive)]
    groups = [place for place, step in enumerate(order) if isinstance(step, Fetch)]
    for load in loop.streamed:
        fetched = [place for place in groups if load.array in arrays_of(order[place])]
        chunks = _reads_by_chunk(order, program, load.array)
        assert len(fetched) >= len(chunks)
        for number, readers in enumerate(chunks):
            for reader in readers:
                assert any(
                    fetched[number] < wait < reader
                    and sum(fetched[number] < each < wait for each in groups) >= order[wait].behind  # type: ignore[union-attr]
                    for wait in waits
                ), "it is read before it has arrived"
            if number + 1 < len(fetched):
                filled = fetched[number + 1]
                met = any(max(readers) < wait < filled for wait in waits)
                assert met, "its slot is filled while a warp may still read it"


@cache
def _programs() -> dict[str, tuple[Program, SharedLoop]]:
    """Return loops that are cut at their end, and at both ends."""
    found = {}
    for name in ("attention", "causal", "window"):
        kernel, loop = shared(name)
        found[name] = kernel.program, loop
    assert (len(found["window"][1].steps), len(found["causal"][1].steps)) == (3, 2)
    return found


def arrays_of(step: SharedStep) -> set[str]:
    return {load.array for load in step.loads} if isinstance(step, Fetch) else set()


def _reads_by_chunk(order: list[SharedStep], program: Program, array: str) -> list[list[int]]:
    """Return where an array's tile is read, chunk by chunk: every chunk reads it as often."""
    tiles = {
        op.tile.name
        for op in walk(program.operations)
        if isinstance(op, Load) and op.array == array and op.tile.level == "shared"
    }
    places = [
        place
        for place, step in enumerate(order)
        if not isinstance(step, Arrive | Fetch) and tiles & set(reads(step))
    ]
    body = next(op for op in program.operations if isinstance(op, Loop)).body
    times = sum(bool(tiles & set(reads(op))) for op in body)
    return [places[first : first + times] for first in range(0, len(places), times)]


# --- which kernels have one -------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("head", [64, 128, 256])
def test_attention_has_one_on_every_machine_that_contracts_registers(
    machine: str, head: int
) -> None:
    kernel, loop = shared("causal", machine, d=head, v=head)
    limits = kernel.machine.limits
    assert kernel.prediction.shared_bytes == loop.shared_bytes(kernel.program)
    assert kernel.prediction.shared_bytes <= limits.shared_per_block
    assert kernel.prediction.registers <= limits.registers(kernel.warps)
    assert kernel.stead is not None
    assert kernel.prediction.seconds <= kernel.stead.prediction.seconds


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("matmul", "`A` is streamed along its rows"),
        ("softmax", "no tile of rows is shared by every contraction"),
        ("paged_decode", "`q` fills no block: it is 1 long"),
        ("mla", "a step reads what is streamed all through"),
        ("cross_entropy", "a step has a loop of its own"),
    ],
)
def test_a_kernel_without_one_says_why(name: str, why: str) -> None:
    kernel = planned(name).kernels[0]
    assert kernel.loop is None
    assert kernel.why.startswith(why)


def test_other_machines_have_none() -> None:
    assert all(each.loop is None for each in planned("causal", "hopper").kernels)


def test_tiles_by_hand_stay_triton_s() -> None:
    text = "\non ampere\n    group b h by 1, q by 64\n    stream x by 64\n"
    plan = parse(EXAMPLES["causal"].read_text(encoding="utf-8") + text).plan("ampere")
    assert [each.loop for each in plan.kernels] == [None]


# --- what is printed --------------------------------------------------------------------------------


def test_the_plain_plan_is_triton_s_own_loop() -> None:
    plan = planned("causal")
    assert "mma_v2" in emit_module(plan)
    assert "triton.language as tl" not in emit_module(plan)
    assert emit_module(plan.plain) == emit_triton(plan)
    assert runnable(plan, torch.device("cpu")) == plan.plain


def test_a_module_is_as_before(golden: Golden) -> None:
    text = emit_module(planned("causal"))
    ast.parse(text)
    golden(ROOT / "tests" / "golden" / "causal" / "ampere_shared.py", text)


@pytest.mark.parametrize(("queries", "keys"), [(150, 213), (128, 64), (65, 1), (1, 130)])
@pytest.mark.parametrize(("name", "head"), BY_NUMPY)
def test_the_printed_kernel_is_right_by_numpy(
    name: str, head: int, queries: int, keys: int
) -> None:
    plan = planned(name, d=head, v=head)
    (kernel,), (called,) = plan.kernels, kernel_names(plan)
    sizes = dict(plan.sizes) | {"b": 1, "h": 2, "q": queries, "x": keys}
    given = random_arguments(plan.diagram, sizes, dtype="bf16", device="cpu", seed=0)
    arrays = {each.name: each for each in (*plan.arrays, *plan.outputs)}
    held = {
        each: torch.as_tensor(given[each]).float().numpy().ravel()
        if each in given
        else np.full(prod(sizes[axis] for axis in arrays[each].axes), np.nan, np.float32)
        for each in arrays
    }
    text, names = loop_text(kernel), spell(kernel.program)
    values: dict[str, object] = {names.pointers[each]: Pointer(held[each]) for each in arrays}
    values |= {name: sizes[axis] for axis, name in names.sizes.items()}
    values |= {name: given[each] for each, name in names.scalars.items()}
    for (array, axis), stride in names.strides.items():
        inner = arrays[array].axes
        values[stride] = prod(sizes[each] for each in inner[inner.index(axis) + 1 :])
    parameters = [each.partition(":")[0] for each in text.parameters]
    arguments = [values[each] for each in parameters if each not in text.blocks]
    tiles = (kernel.program.axis(axis) for axis in kernel.program.grid)
    grid = prod(-(-sizes[each.axis] // each.tile) for each in tiles)
    run_kernel(emit_module(plan), name, called, arguments, text.blocks, grid)
    wanted = torch_reference(plan.diagram, given)
    for output, right in zip(plan.outputs, wanted, strict=True):
        found = held[output.name].reshape(right.shape)
        distance = np.linalg.norm(found - right.numpy()) / np.linalg.norm(right.numpy())
        assert distance < 4e-3  # of rounding to bf16


# --- machine code -----------------------------------------------------------------------------------


@pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)
@pytest.mark.parametrize("name", COMPILED)
def test_the_machine_code_is_what_the_plan_said(name: str) -> None:
    plan = planned(name)
    for kernel, found in zip(plan.kernels, inspect_plan(plan), strict=True):
        assert kernel.loop is not None, kernel.why
        assert found.resources.shared_bytes == kernel.prediction.shared_bytes, str(found)
        assert found.spills <= SPILLS.get(name, 0), str(found)
        counts = found.resources.instructions
        assert counts["HMMA"] > counts["HGMMA"] == 0
        assert counts["LDGSTS"] > 0
        # Every contraction of a step reads its operands anew: 16 rows and 16 columns are four 8 x 8 matrices.
        assert counts["LDSM"] >= counts["HMMA"] // 4
