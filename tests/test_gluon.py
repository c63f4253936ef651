"""Warp-specialised modules: as text, compiled ahead of time for Hopper, and (marked) on a GPU.

What the compiler says is held against what the form says: shared memory, no spills, no serialised wgmma,
and the instructions that it is there for.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from math import isfinite
from types import SimpleNamespace
from typing import Any

import pytest

from napkin.algebra.derive import derive
from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.emit.gluon.lanes import keep_by_lane
from napkin.emit.triton import emit_triton, entry_name
from napkin.machine import load_machine
from napkin.runtime.inspect import inspect_specialised
from napkin.schedule.forms.specialise import specialise
from napkin.schedule.planning.plan import Plan
from napkin.schedule.program import Fill, Fold
from napkin.schedule.roles.allocation import allocated_bytes
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import KernelPlan, rank_kernels
from tests.programs import (
    ROOT,
    arguments_of,
    diagram_of,
    example,
    run,
    sizes_of,
    worst_error,
)
from tests.test_emit_triton import LONGEST, functions, imported
from tests.test_specialise import FORMED, kernel_of

VARIANTS = [
    *((name, 128, 128) for name in FORMED),
    *((name, size, size) for name in ("attention", "causal") for size in (64, 256)),
    *((name, 64, 64) for name in ("alibi", "document", "sigmoid", "window")),
    *((name, 64, 64) for name in ("gqa", "sinks", "softcap")),
    ("attention", 32, 64),
    ("causal", 192, 128),
    ("causal", 96, 96),
]
# Bytes that spill, stores and loads together, at most: what lies around the loops where masks, row values
# or elements read by pointer crowd the registers.
SPILLS = {
    ("alibi", 128): 60,
    ("differential", 128): 160,  # two maps of scores at a time
    ("document", 128): 64,
    ("gemma", 128): 56,  # both ends of a window in one test
    ("mlp", 128): 424,  # biases of the hidden layer, read by pointer
    ("causal", 192): 16,  # three panels of keys beside a mask
    ("relative_bias", 128): 260,  # a tile of biases, read by pointer
    ("sigmoid", 128): 32,
    ("softcap", 128): 16,
    ("window", 64): 16,  # three consumers' own bounds, once a tile
}

HASHES = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from tests.test_gluon import FORMED, emitted
for name in FORMED[::4]:
    print(name, hashlib.sha256(emitted(name).encode()).hexdigest())
"""

needs_triton = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)


@cache
def formed(name: str, key: int = 128, value: int = 128) -> tuple[KernelPlan, Specialised]:
    """Return an example's kernel and its warp-specialised form."""
    sizes = {"d": key, "v": value} if (key, value) != (128, 128) else {}
    kernel = kernel_of(name, sizes)
    form = specialise(kernel)
    assert not isinstance(form, str), form
    return kernel, form


@cache
def emitted(name: str) -> str:
    """Return an example's module in its warp-specialised form."""
    return emit_gluon(plan_in_form(*formed(name)))


# --- row sums by lane ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMED)
def test_row_sums_by_lane_add_up_to_the_same(name: str) -> None:
    diagram = example(name)
    few = {
        "b": 1,
        "h": 2,
        "k": 1,
        "g": 2,
        "q": 150,
        "x": 300,
        "d": 16,
        "v": 16,
        "t": 150,
        "f": 300,
        "m": 150,
    }
    sizes = sizes_of(diagram, few, 16)
    form = specialise(kernel_of(name, sizes))
    assert not isinstance(form, str), form
    made, lane = keep_by_lane(form)
    # The executor has no lanes: with one a row, the parts are the whole.
    dims = tuple(replace(dim, extent=1) if dim.name == lane else dim for dim in made.program.dims)
    program = replace(made.program, dims=dims)
    arguments = arguments_of(diagram, sizes, {}, 0)
    assert worst_error(run(program, arguments, sizes).outputs, diagram, arguments) < 1e-12


def test_a_sum_that_is_only_rescaled_is_kept_by_lane_and_a_maximum_is_not() -> None:
    _, form = formed("causal")
    made, lane = keep_by_lane(form)
    fills = [op.tile for op in made.prelude if isinstance(op, Fill)]
    assert {tile.name: lane in tile.dims for tile in fills} == {
        "m": False,
        "l": True,
        "o": False,
        "p_last": False,
    }
    totals = [op for op in made.drain if isinstance(op, Fold)]
    assert [(op.source, op.over) for op in totals] == [("l", (lane,))]


# --- as text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMED)
def test_a_module_stands_alone_with_the_plain_module_s_entry(name: str) -> None:
    kernel, form = formed(name)
    diagram = kernel.derivation.diagram
    plan = Plan(diagram, kernel.machine, kernel.sizes, kernel.dtype, (kernel,))
    module, plain = ast.parse(emitted(name)), ast.parse(emit_triton(plan))
    assert imported(module) <= {"__future__", "torch", "triton"}
    mine, other = (functions(each)[entry_name(diagram)] for each in (module, plain))
    assert ast.unparse(mine.args) == ast.unparse(other.args)
    refused, by_plain = (
        [ast.unparse(each) for each in ast.walk(entry) if isinstance(each, ast.Raise)]
        for entry in (mine, other)
    )
    # Each fixes the lengths of the axes that lie whole in its own tiles.
    lengths = [each for each in refused if "is made for" in each]
    fixed = {axis.axis: axis.size for axis in form.program.axes if axis.size is not None}
    assert len(lengths) == len(fixed)
    for axis, size in fixed.items():
        assert any(f"is made for {axis} = {size}," in each for each in lengths)
    others = [each for each in by_plain if "is made for" not in each]
    assert [each for each in refused if each not in lengths] == others


@pytest.mark.parametrize("name", FORMED)
def test_no_line_of_a_kernel_is_long(name: str) -> None:
    text = emitted(name)
    for function in functions(ast.parse(text)).values():
        if function.name == entry_name(example(name)):
            continue
        for line in text.splitlines()[function.lineno - 1 : function.end_lineno]:
            assert len(line) <= LONGEST, line
            assert line == line.rstrip()


def test_a_consumer_contracts_the_chunk_before_beside_its_own() -> None:
    text = emitted("causal")
    loop = text[text.index("# stream x: chunks that need no mask") :]
    order = (
        "_take_turn(",
        "t1 = warpgroup_mma(",
        "o = warpgroup_mma(p_last, v_last, o, ",
        "_pass_turn(",
        "t1 = warpgroup_mma_wait(1, [t1])",
        "p = gl.exp2(",
        "o = warpgroup_mma_wait(0, [o])",
        "o = o * gl.convert_layout(rescale, ",
        "p_last = gl.convert_layout(p.to(gl.bfloat16), ",
    )
    places = [loop.index(each) for each in order]
    assert places == sorted(places)


def test_contractions_that_only_add_run_on_into_the_next_chunk() -> None:
    text = emitted("matmul")
    loop = text[text.index("# stream k: chunks that need no mask") :]
    order = (
        "mbarrier.wait(a_full.index(slot), phase)",
        "mbarrier.wait(b_full.index(slot), phase)",
        "c = warpgroup_mma(a, b, c, is_async=True)",
        "c = warpgroup_mma_wait(1, [c])",
        "mbarrier.arrive(a_empty.index(last_slot), count=1)",
        "mbarrier.arrive(b_empty.index(last_slot), count=1)",
        "# what the chunk at k_start is still to add",
        "c = warpgroup_mma_wait(0, [c])",
        "mbarrier.arrive(a_empty.index(last_slot), count=1)",
    )
    place = 0
    for each in order:
        place = loop.index(each, place) + 1
    assert "_turn" not in text


def test_an_output_that_the_copy_engine_stores_has_rows_of_whole_16_bytes() -> None:
    (line,) = (
        line for line in emitted("matmul").splitlines() if "torch.empty" in line and " C = " in line
    )
    assert "torch.empty((m, triton.cdiv(n, 8) * 8), " in line
    assert line.endswith("[..., :n]")


def test_modules_are_the_same_on_every_run() -> None:
    done = [
        subprocess.run(
            [sys.executable, "-c", HASHES, str(ROOT)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
        for seed in ("1", "2")
    ]
    assert done[0] == done[1]
    assert done[0]


# --- the order of groups, run in Python -----------------------------------------------------------------


@cache
def forward_looking() -> str:
    """Return the module of attention to what comes later: its first tiles have the longest streams."""
    text = (ROOT / "examples" / "causal.napkin").read_text(encoding="utf-8")
    diagram = diagram_of(text.replace("x <= q", "x >= q"))
    lengths = dict(diagram.sizes)
    kernel = rank_kernels(derive(diagram), load_machine("hopper"), lengths, "bf16").kernels[0]
    form = specialise(kernel)
    assert not isinstance(form, str), form
    return emit_gluon(plan_in_form(kernel, form))


def scheduling(text: str, program: int, programs: int) -> dict[str, Any]:
    """Return a module's functions of whole numbers, run by Python on one block of several."""
    language = SimpleNamespace(
        cdiv=lambda a, b: -(-a // b),
        where=lambda condition, a, b: a if condition else b,
        maximum=max,
        minimum=min,
        program_id=lambda axis: program,
        num_programs=lambda axis: programs,
    )
    module = ast.parse(text)
    wanted = ("_rounds", "_group", "_floordiv", "causal_place")
    kept: list[ast.stmt] = []
    for each in functions(module).values():
        if each.name in wanted:
            each.decorator_list = []
            kept.append(each)
    scope: dict[str, Any] = {"gl": language, "BLOCK_Q": 128, "BLOCK_X": 128}
    code = compile(ast.Module(kept, []), "causal", "exec")
    exec(code, scope)  # text of our own: plain arithmetic
    return scope


@pytest.mark.parametrize(
    ("heads", "rows", "programs"),
    [
        (1, 128, 132),
        (3, 333, 132),
        (16, 2048, 132),
        (64, 1024, 132),
        (64, 1500, 132),
        (40, 300, 7),
        (16, 1111, 5),
        (2, 1111, 5),
    ],
)
def test_every_group_is_walked_once_the_longest_first(heads: int, rows: int, programs: int) -> None:
    tiles = -(-rows // 128)
    groups = heads * tiles
    walked: list[tuple[int, int]] = []
    work: list[int] = []
    for program in range(min(programs, groups)):
        scope = scheduling(emitted("causal"), program, min(programs, groups))
        chunks = 0
        for turn in range(scope["_rounds"](groups)):
            place = scope["causal_place"](scope["_group"](turn), 1, heads, rows, rows)
            _, head, row, full_end, first, stop = place
            walked.append((head, row))
            assert stop <= full_end <= first + 128
            assert first == min(row + 127, rows - 1) // 128 * 128
            chunks += first // 128 + 1
        work.append(chunks)
    assert sorted(walked) == [(h, 128 * t) for h in range(heads) for t in range(tiles)]
    if groups > 4 * programs:
        assert max(work) <= 1.1 * sum(work) / len(work) + tiles / 4


@pytest.mark.parametrize(("heads", "rows"), [(1, 128), (3, 333), (16, 16384), (64, 1500)])
def test_tiles_whose_streams_shrink_are_walked_the_longest_first(heads: int, rows: int) -> None:
    tiles, programs = -(-rows // 128), 132
    blocks = min(programs, heads * tiles)
    walked: list[tuple[int, int]] = []
    work: list[int] = []
    for program in range(blocks):
        scope = scheduling(forward_looking(), program, blocks)
        chunks = 0
        for turn in range(scope["_rounds"](heads * tiles)):
            _, head, row, *_ = scope["causal_place"](scope["_group"](turn), 1, heads, rows, rows)
            walked.append((head, row))
            chunks += tiles - row // 128
        work.append(chunks)
    assert sorted(walked) == [(h, 128 * t) for h in range(heads) for t in range(tiles)]
    if heads * tiles > 4 * programs:
        assert max(work) <= 1.1 * sum(work) / len(work) + tiles / 4


# --- compiled ahead of time -----------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize(("name", "key", "value"), VARIANTS)
def test_a_kernel_is_what_its_form_said(name: str, key: int, value: int) -> None:
    kernel, form = formed(name, key, value)
    found = inspect_specialised(kernel, form)
    assert not any("C75" in warning for warning in found.warnings), found.warnings
    assert found.unwritten == ()
    spilled = found.spill_store_bytes + found.spill_load_bytes
    assert spilled <= SPILLS.get((name, key), 0), spilled
    assert found.shared_bytes == allocated_bytes(form, dict(kernel.sizes))
    assert found.shared_bytes <= kernel.machine.limits.shared_per_block
    assert found.warps == 4 * (form.consumers + 1)
    for instruction in ("HGMMA", "UTMALDG", "USETMAXREG", "SYNCS"):
        assert found.instructions[instruction] > 0, instruction
    assert bool(found.instructions["UTMASTG"]) == bool(form.staged)


OTHERS = {
    "no heads": (
        "f(Q[q d], K[x d], V[x v]) -> O[q v]\n"
        "    S[q x] = where(x <= q, sum[d](Q * K) / 8, -inf)\n"
        "    O[q v] = sum[x](softmax[x](S) * V)",
        {"q": 4096, "x": 4096, "d": 128, "v": 128},
    ),
    "heads inside": (
        "f(Q[b q h d], K[b x h d], V[b x h v]) -> O[b q h v]\n"
        "    S[b h q x] = sum[d](Q * K) / 8\n"
        "    O[b q h v] = sum[x](softmax[x](S) * V)",
        {"b": 2, "h": 4, "q": 4096, "x": 4096, "d": 128, "v": 128},
    ),
    "keys are values": (
        "f(Q[h q d], C[h x d]) -> O[h q d]\n"
        "    S[h q x] = sum[d](Q * C) / 8\n"
        "    O[h q d] = sum[x](softmax[x](S) * C)",
        {"h": 4, "q": 4096, "x": 4096, "d": 128},
    ),
    "transposed operands": (
        "f(Q[h q d], K[h d x], V[h v x]) -> O[h v q]\n"
        "    S[h q x] = sum[d](Q * K) / 8\n"
        "    O[h v q] = sum[x](softmax[x](S) * V)",
        {"h": 4, "q": 4096, "x": 4096, "d": 128, "v": 128},
    ),
    "a length from data": (
        "f(Q[b h q d], K[b h x d], V[b h x v], length[b]: int32) -> O[b h q v]\n"
        "    S[b h q x] = where(x < length[b], sum[d](Q * K) / 8, -inf)\n"
        "    O[b h q v] = sum[x](softmax[x](S) * V)",
        {"b": 2, "h": 4, "q": 4096, "x": 4096, "d": 128, "v": 128},
    ),
    "a bias a key": (
        "f(Q[h q d], K[h x d], V[h x v], bias[h x]) -> O[h q v]\n"
        "    S[h q x] = sum[d](Q * K) / 8 + bias\n"
        "    O[h q v] = sum[x](softmax[x](S) * V)",
        {"h": 4, "q": 4096, "x": 4096, "d": 128, "v": 128},
    ),
    "keys that are padding": (
        "f(Q[b h q d], K[b h x d], V[b h x v], keep[b x]: bool) -> O[b h q v]\n"
        "    S[b h q x] = where(x <= q and keep, sum[d](Q * K) / sqrt(size(d)), -inf)\n"
        "    O[b h q v] = sum[x](softmax[x](S) * V)",
        {"b": 2, "h": 16, "q": 4096, "x": 4096, "d": 128, "v": 128},
    ),
}


@cache
def other(name: str) -> tuple[KernelPlan, Specialised]:
    """Return the kernel and form of a diagram that is no example."""
    text, sizes = OTHERS[name]
    derivation = derive(diagram_of(f"diagram {text}\n"))
    kernel = rank_kernels(derivation, load_machine("hopper"), sizes, "bf16").kernels[0]
    form = specialise(kernel)
    assert not isinstance(form, str), form
    return kernel, form


@needs_triton
@pytest.mark.parametrize("name", OTHERS)
def test_arrays_may_lie_otherwise(name: str) -> None:
    kernel, form = other(name)
    found = inspect_specialised(kernel, form)
    assert not any("C75" in warning for warning in found.warnings), found.warnings
    assert found.unwritten == ()
    assert found.spill_store_bytes <= 64
    assert found.shared_bytes == allocated_bytes(form, dict(kernel.sizes))
    assert form.stages == (3 if name == "keys are values" else 2)
    assert bool(found.instructions["UTMASTG"]) == (name != "transposed operands")


@needs_triton
def test_the_other_sixteen_bit_type_compiles() -> None:
    kernel, _ = formed("causal")
    kernel = replace(kernel, dtype="fp16")
    form = specialise(kernel)
    assert not isinstance(form, str)
    assert {array.dtype for array in form.program.arrays} == {"fp16"}
    assert inspect_specialised(kernel, form).instructions["HGMMA"] > 0


@needs_triton
def test_a_diagram_may_use_the_module_s_own_names() -> None:
    text = (
        "diagram gl(tma[phase slot d], mbarrier[phase x d], ROWS[phase x v], step: float, "
        "turn[phase]) -> consumer[phase slot v]\n"
        "    S[phase slot x] = sum[d](tma * mbarrier) * step + turn\n"
        "    consumer[phase slot v] = sum[x](softmax[x](S) * ROWS)\n"
    )
    sizes = {"phase": 8, "slot": 512, "x": 512, "d": 64, "v": 64}
    machine = load_machine("hopper")
    kernel = rank_kernels(derive(diagram_of(text)), machine, sizes, "bf16").kernels[0]
    form = specialise(kernel)
    assert not isinstance(form, str)
    assert inspect_specialised(kernel, form).instructions["HGMMA"] > 0


# --- on a GPU -------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "keys"), [(512, 512), (333, 333), (200, 1000), (1000, 200)])
@pytest.mark.parametrize("name", [*FORMED, *OTHERS])
def test_a_kernel_gives_what_the_reference_gives(name: str, rows: int, keys: int) -> None:
    check_kernel(*(other(name) if name in OTHERS else formed(name)), rows, keys)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "rows", "keys"),
    [
        *((name, 333, 333) for name in ("attention", "causal", "alibi", "document", "window")),
        *((name, 333, 333) for name in ("gqa", "sigmoid", "sinks")),
        *((name, 1000, 200) for name in ("attention", "softcap")),
    ],
)
def test_heads_of_64_give_what_the_reference_gives(name: str, rows: int, keys: int) -> None:
    check_kernel(*formed(name, 64, 64), rows, keys)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["attention_lse", "causal", "gqa"])
def test_heads_of_32_give_what_the_reference_gives(name: str) -> None:
    check_kernel(*formed(name, 32, 32), 333, 333)


@pytest.mark.gpu
@pytest.mark.parametrize("extreme", [0, 2**31 - 1, -(2**31), 700])
def test_bounds_from_data_hold_on_a_gpu(extreme: int) -> None:
    import torch

    lengths = torch.tensor([100, 1, 27, 400, 300, 172])
    start = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    start = torch.stack([start, torch.full_like(start, extreme)]).int().cuda()
    start[0, 500] = extreme
    check_masked("packed", {"start": start})


@pytest.mark.gpu
@pytest.mark.parametrize("width", [-1000, -1, 0, 1, 130, 5000])
def test_windows_of_any_width_end_on_a_gpu(width: int) -> None:
    check_masked("window", {"width": width})


def check_kernel(kernel: KernelPlan, form: Specialised, rows: int, keys: int) -> None:
    """Hold a kernel at few heads, and so many rows and keys, against the reference."""
    import torch

    from napkin.runtime.data import random_arguments
    from napkin.runtime.kernels import load_kernel
    from napkin.runtime.reference import torch_reference
    from napkin.runtime.verify import bound

    diagram = kernel.derivation.diagram
    small = {"b": 2, "h": 3, "k": 2, "g": 3, "q": rows, "x": keys, "t": rows, "f": keys}
    small |= {"m": rows, "n": keys - 3, "k": keys} if diagram.name == "matmul" else {}
    sizes = {axis: small.get(axis, size) for axis, size in kernel.sizes}
    given = random_arguments(
        diagram, sizes, dtype=kernel.dtype, device=torch.device("cuda"), seed=rows
    )
    entry = load_kernel(emit_gluon(plan_in_form(kernel, form)), diagram)
    results = entry(*(given[each.name] for each in diagram.arguments))
    results = results if isinstance(results, tuple) else (results,)
    wanted = torch_reference(diagram, given)
    for output, result, want in zip(form.program.outputs, results, wanted, strict=True):
        error = float((result.double() - want).norm() / want.norm())
        assert isfinite(error)
        assert error <= bound([form.program], output.dtype)


def check_masked(name: str, masks: Mapping[str, Any]) -> None:
    """Hold a masked example of 1000 rows and keys against the reference."""
    import torch

    from napkin.runtime.data import random_arguments
    from napkin.runtime.kernels import load_kernel
    from napkin.runtime.reference import torch_reference
    from napkin.runtime.verify import bound

    kernel, form = formed(name)
    diagram = kernel.derivation.diagram
    sizes = dict(kernel.sizes) | {"b": 2, "h": 3, "q": 1000, "x": 1000}
    given = random_arguments(
        diagram, sizes, dtype=kernel.dtype, device=torch.device("cuda"), seed=1
    )
    given |= masks
    entry = load_kernel(emit_gluon(plan_in_form(kernel, form)), diagram)
    result = entry(*(given[each.name] for each in diagram.arguments))
    (want,) = torch_reference(diagram, given)
    difference, norm = (result.double() - want).norm(), want.norm()
    assert float(difference) <= bound([form.program], form.program.outputs[0].dtype) * float(norm)
