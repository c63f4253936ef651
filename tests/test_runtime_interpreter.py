"""Triton's interpreter, each time in a process of its own, since it is one for the process."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None or find_spec("torch") is None,
    reason="torch or triton is not installed",
)

MATMUL = """
import sys

from napkin.runtime.interpreter import enable_interpreter

enable_interpreter()
enable_interpreter()

import torch
import triton
import triton.language as tl


@triton.jit
def matmul(A, B, C, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    place = i[:, None] * SIZE + i[None, :]
    tl.store(C + place, tl.dot(tl.load(A + place), tl.load(B + place)))


torch.manual_seed(0)
for kind in (torch.bfloat16, torch.float16, torch.float32):
    a, b = torch.randn(32, 32).to(kind), torch.randn(32, 32).to(kind)
    c = torch.empty(32, 32)
    matmul[(1,)](a, b, c, SIZE=32)
    print(float((c - a.float() @ b.float()).abs().max()) < 1e-2)
"""

TOO_LATE = """
import triton
from napkin.language.errors import NapkinError
from napkin.runtime.interpreter import enable_interpreter

try:
    enable_interpreter()
except NapkinError as error:
    print(error.diagnostics[0].code)
"""

NEW_NUMPY = """
import importlib.metadata
importlib.metadata.version = lambda name: "2.4.6"
from napkin.language.errors import NapkinError
from napkin.runtime.interpreter import enable_interpreter

try:
    enable_interpreter()
except NapkinError as error:
    print(error.diagnostics[0].code, "2.4.6" in error.diagnostics[0].message)
"""


def run(folder: Path, text: str, **variables: str) -> str:
    """Run a program from a file, since Triton reads the source of its kernels."""
    path = folder / "program.py"
    path.write_text(text, encoding="utf-8")
    environment = {key: each for key, each in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(path)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dot_is_right_for_every_type_bf16_included(tmp_path: Path) -> None:
    assert run(tmp_path, MATMUL).split() == ["True", "True", "True"]


def test_it_is_refused_once_triton_is_imported_without_it(tmp_path: Path) -> None:
    assert run(tmp_path, TOO_LATE) == "N602\n"


def test_it_may_be_switched_on_from_outside(tmp_path: Path) -> None:
    assert run(tmp_path, TOO_LATE, TRITON_INTERPRET="1") == ""


def test_a_numpy_that_breaks_it_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, NEW_NUMPY) == "N603 True\n"
