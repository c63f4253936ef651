"""Kernels verified in Triton's interpreter, which takes a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from napkin.api import load, parse
from napkin.runtime import compare as comparison
from napkin.runtime.compare import OutputCheck
from napkin.runtime.verify import _few_tiles, bound
from napkin.schedule.planning.plan import Plan
from napkin.schedule.program import Program

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

needs_triton = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)

PROGRAM = """
import json, sys
from napkin.runtime.interpreter import enable_interpreter
enable_interpreter()
from napkin.api import load
from napkin.runtime.verify import verify

machine, dtype, *paths = sys.argv[1:]
for path in paths:
    found = verify(load(path).plan(machine, dtype=dtype))
    checks = [[c.name, c.error, c.worst, c.bound, c.passed] for c in found.checks]
    print(json.dumps([found.diagram, found.passed, dict(found.sizes), checks]), flush=True)
"""


def verify_all(tmp_path: Path, machine: str, dtype: str, *names: str) -> list[Any]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(program), machine, dtype, *(str(EXAMPLES / n) for n in names)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("machine", ["hopper", "a100"])
def test_kernels_of_examples_are_right(tmp_path: Path, machine: str) -> None:
    names = ("causal", "gqa", "mlp", "softmax", "window", "document", "paged_decode", "mla")
    found = verify_all(tmp_path, machine, "bf16", *(f"{name}.napkin" for name in names))
    assert [each[0] for each in found] == list(names)
    for name, passed, _, checks in found:
        assert passed, (name, checks)


GRADIENTS = """
import json, sys
from napkin.runtime.interpreter import enable_interpreter
enable_interpreter()
from napkin.algebra.gradient import differentiate
from napkin.api import Diagram, load
from napkin.runtime.verify_gradient import verify_gradient

one, other = (load(path).core for path in sys.argv[1:])
sizes = {"b": 1, "h": 2, "q": 40, "x": 50, "d": 16, "v": 16}
gradient = differentiate(other)
plans = [Diagram(each).plan("hopper", sizes=sizes) for each in (gradient.forward, gradient.backward)]
for found in verify_gradient(one, gradient, *plans, sizes=sizes):
    print(json.dumps([found.diagram, [[c.name, c.passed] for c in found.checks]]))
"""


def verify_gradients(tmp_path: Path, one: str, other: str) -> list[Any]:
    program = tmp_path / "program.py"
    program.write_text(GRADIENTS, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    paths = [str(EXAMPLES / f"{name}.napkin") for name in (one, other)]
    done = subprocess.run(
        [sys.executable, str(program), *paths],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_triton
def test_gradients_are_verified_with_the_forward_that_keeps_for_them(tmp_path: Path) -> None:
    (forward, checks), (backward, others) = verify_gradients(tmp_path, "causal", "causal")
    assert (forward, backward) == ("causal", "causal_backward")
    assert [name for name, _ in checks] == ["O", "L"]
    names = ("dQ", "dK", "dV")
    derived = [f"{name} as derived, beside autograd in float64" for name in names]
    assert [name for name, _ in others] == [*names, *derived]
    assert all(passed for _, passed in (*checks, *others))


@needs_triton
def test_a_backward_of_another_diagram_is_found_out(tmp_path: Path) -> None:
    _, (_, checks) = verify_gradients(tmp_path, "causal", "attention")
    assert [passed for _, passed in checks] == [True] * 3 + [False] * 3


@needs_triton
def test_rounding_to_bf16_is_to_the_nearest(tmp_path: Path) -> None:
    (found,) = verify_all(tmp_path, "hopper", "bf16", "matmul.napkin")
    _, _, _, ((_, error, worst, _, _), *_) = found
    assert error < 2.0**-9  # towards zero would be near 2**-8
    assert worst < 2.0**-8


@needs_triton
def test_fp32_contractions_are_exact_and_not_tf32(tmp_path: Path) -> None:
    (found,) = verify_all(tmp_path, "a100", "fp32", "matmul.napkin")
    _, passed, _, ((_, error, *_),) = found
    assert passed
    assert error < 1e-5


def test_the_interpreters_lengths_are_a_few_tiles_that_no_tile_divides() -> None:
    plan = load(EXAMPLES / "attention.napkin").plan("hopper")
    lengths, said = _few_tiles(plan, {})
    (kernel,) = plan.kernels
    for each in (*kernel.program.axes, *kernel.printed.axes):
        if each.size is not None:
            assert lengths[each.axis] == each.size
        elif each.tile == 1:
            assert lengths[each.axis] <= 2
        else:
            assert lengths[each.axis] % each.tile
    assert all(lengths[e.axis] < 3 * e.tile for e in kernel.printed.axes if e.dim and not e.size)
    assert "interpreter" in said


def test_the_lengths_of_several_kernels_suit_each() -> None:
    plan = load(EXAMPLES / "attention_block.napkin").plan("hopper")
    lengths, _ = _few_tiles(plan, {})
    programs = [each for kernel in plan.kernels for each in (kernel.program, kernel.printed)]
    tiles = [each for program in programs for each in program.axes]
    for each in tiles:
        assert each.size in (None, lengths[each.axis])
        widest = max(other.tile for other in tiles if other.axis == each.axis)
        assert lengths[each.axis] < 4 * widest or widest < 64
    assert lengths["q"] == lengths["x"]


def test_lengths_that_are_asked_for_stay() -> None:
    plan = load(EXAMPLES / "attention.napkin").plan("hopper")
    lengths, _ = _few_tiles(plan, {"q": 7, "b": 3})
    assert (lengths["q"], lengths["b"]) == (7, 3)


def test_the_length_that_a_page_table_gives_follows_the_stream() -> None:
    plan = load(EXAMPLES / "paged_decode.napkin").plan("hopper")
    lengths, _ = _few_tiles(plan, {})
    assert lengths["x"] == 16 * lengths["n"]
    assert lengths["p"] <= 8


def programs(plan: Plan) -> list[Program]:
    return [each.program for each in plan.kernels]


def test_the_bound_follows_from_the_types() -> None:
    matmul = load(EXAMPLES / "matmul.napkin")
    assert bound(programs(matmul.plan("hopper")), "bf16") == pytest.approx(2 * 2.0**-8, rel=0.01)
    assert bound(programs(matmul.plan("hopper", dtype="fp32")), "fp32") < 2e-5
    counted = parse("diagram f(A[q x]: int32) -> B[q]\n    B[q] = sum[x](A)\n\nsizes q=8 x=8")
    assert bound(programs(counted.plan("hopper")), "int64") == 0.0


def compare(result: list[float], reference: list[float]) -> OutputCheck:
    return comparison.compare("O", torch.tensor(result), torch.tensor(reference), 1e-2)


def test_equal_results_pass() -> None:
    assert compare([1.0, float("-inf")], [1.0, float("-inf")]).passed


def test_a_nan_in_one_only_fails() -> None:
    found = compare([1.0, float("nan")], [1.0, 2.0])
    assert found.unlike == 1
    assert not found.passed
    assert "NaN" in str(found)


def test_one_wrong_element_among_many_fails() -> None:
    right = torch.randn(300, 300, dtype=torch.float64)
    wrong = right.clone()
    wrong[7, 7] += 2.0
    found = comparison.compare("O", wrong, right, 1e-2)
    assert found.error < 1e-2
    assert not found.passed


def test_a_reference_without_a_finite_element_proves_nothing() -> None:
    assert not compare([float("nan")], [float("nan")]).passed
