"""Launches that are recorded and made again, on a stand-in for a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from napkin.runtime.launch import layout_of

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)


@cache
def found() -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.launches"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize(
    ("name", "kernels", "results"),
    [("causal", 1, 1), ("window", 1, 1), ("chain", 2, 1), ("attention_lse", 1, 2)],
)
def test_launches_made_again_are_the_entrys_but_for_addresses(
    name: str, kernels: int, results: int
) -> None:
    case = found()[name]
    assert case == {
        "case": name, "recorded": True, "same": True, "results": results, "kernels": kernels
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "recorded"),
    [
        ("as it is", True),
        ("views", True),
        ("copies", False),
        ("reads data", False),
        ("clears", True),
        ("fills", False),
        ("picks", False),
    ],
)
def test_an_entry_that_does_more_than_allocate_and_view_is_run_as_it_stands(
    change: str, recorded: bool
) -> None:
    assert found()[change]["recorded"] is recorded


@pytest.mark.parametrize("name", ["causal", "window", "attention_lse"])
def test_a_kernel_is_compiled_once_for_all_lengths(name: str) -> None:
    assert found()[f"lengths of {name}"]["variants"] == 1


def test_what_an_entry_clears_is_cleared_every_time() -> None:
    assert found()["clears"]["cleared"]


def test_a_new_modules_kernels_are_all_compiled_before_the_first_runs() -> None:
    assert found()["new"]["compiled"] == [2, 2]


def test_a_layout_holds_all_that_launches_depend_on() -> None:
    plain = torch.randn(4, 6)
    others = [
        torch.randn(6, 4),
        torch.randn(6, 4).T,
        torch.randn(4, 6).half(),
        torch.randn(4, 7)[:, 1:],
        torch.randn(25)[1:].view(4, 6),
    ]
    assert layout_of([plain]) == layout_of([torch.randn(4, 6)])
    assert all(layout_of([each]) != layout_of([plain]) for each in others)
    assert layout_of([plain, 1]) != layout_of([plain, 2])
    assert layout_of([plain, None]) is None
    assert layout_of([torch._neg_view(plain)]) is None


def test_recording_imports_nothing_of_torchs_compiler() -> None:
    assert found()["imports"]["torch._dynamo"] is False
