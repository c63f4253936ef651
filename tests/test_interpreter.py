"""Kernels against the float64 reference in Triton's interpreter: examples, extremes, random texts.

Each test starts `interpret.py`, which is a process of its own because the interpreter is one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.programs import EXAMPLES, ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)

HALVES = tuple(tuple(EXAMPLES)[half::2] for half in range(2))
FAR_ERROR = 1e-2  # where differences of numbers of 300 decide
FP32_ERROR = 1e-5  # of a kernel whose contractions are exact products of fp32
ROWS_THAT_SEE_NOTHING = {
    "rows that see nothing": [0, 1, 2],
    "rows that see nothing, long": [0, 1, 2],
    "-inf in a bias": [1, 36],
    "the largest number for a last position": list(range(74, 111)),
}
RANDOM_RUNS = 105  # of diagrams in each of two processes


def interpreted(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return the lines that `interpret.py` prints; generated modules stay in the test's folder."""
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.interpret", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("names", HALVES, ids=("one half", "other half"))
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_examples_are_right_at_lengths_that_no_tile_divides(
    tmp_path: Path, machine: str, dtype: str, names: tuple[str, ...]
) -> None:
    found = interpreted(tmp_path, "examples", machine, dtype, *names)
    assert [each["name"] for each in found] == list(names)
    for each in found:
        assert each["passed"], each["said"]
        assert dtype != "fp32" or each["error"] < FP32_ERROR, each["said"]


def test_extremes_are_right(tmp_path: Path) -> None:
    found = interpreted(tmp_path, "cases")
    assert len(found) == 22
    for each in found:
        assert each["error"] < FP32_ERROR, each
        assert each["unlike"] == 0, each
        assert each["zero_rows"] == ROWS_THAT_SEE_NOTHING.get(each["case"], []), each


BACKWARDS = ("late", "causal", "cross_entropy", "mlp", "layernorm_linear", "sinks")


def test_backward_kernels_are_right_on_what_their_forward_gives(tmp_path: Path) -> None:
    found = interpreted(tmp_path, "gradients", "hopper", *BACKWARDS)
    assert [each["name"] for each in found] == list(BACKWARDS)
    assert any(each["kernels"] > 1 for each in found)
    for each in found:
        assert each["finite"], each
        assert max(each["errors"].values()) < FP32_ERROR, each


@pytest.mark.parametrize("machine", ["hopper", "ampere"])
def test_sums_that_are_added_up_in_memory_are_right(tmp_path: Path, machine: str) -> None:
    found = interpreted(tmp_path, "adding", machine)
    assert len(found) == 4
    for each in found:
        assert not each["deterministic"], each
        assert max(each["errors"].values()) < FP32_ERROR, each


def test_scores_far_from_zero_leave_nothing_past_the_last_key(tmp_path: Path) -> None:
    found = interpreted(tmp_path, "far")
    assert [each["ordered"] for each in found] == [True, True, False] * 2
    for each in found:
        assert all(error < FAR_ERROR for error in each["errors"].values()), each


def test_hostile_names_are_only_names(tmp_path: Path) -> None:
    found = interpreted(tmp_path, "names")
    assert len(found) >= 20
    for each in found:
        assert each.get("error", 1) < FP32_ERROR, each
        assert each["unlike"] == 0, each


@pytest.mark.parametrize("first", [0, 3])
def test_random_diagrams_give_what_the_reference_gives(tmp_path: Path, first: int) -> None:
    (found,) = interpreted(tmp_path, "random", str(first), str(RANDOM_RUNS))
    # The rest have a contraction of operands with three tiled axes, which a kernel can't hold.
    assert found["ran"] + found["ran cut"] > 0.8 * RANDOM_RUNS
    assert found["ran cut"] > 0.2 * RANDOM_RUNS
