"""Kernels found again: in memory, by the next process, and by two processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import napkin
from napkin.machine import load_machine
from napkin.runtime import cache, planning
from napkin.runtime.arguments import bind
from napkin.runtime.cache import Made

ROOT = Path(__file__).parent.parent
MATMUL = ROOT / "examples" / "matmul.napkin"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)


def made(text: str, *shapes: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> Made:
    """Return the kernel for a diagram and arguments of these shapes."""
    given = [torch.empty(shape, dtype=dtype) for shape in shapes]
    call = bind(napkin.parse(text).core, given)
    return planning.made_for(call.diagram, call.dtype, call.sizes, load_machine("hopper"), CPU)


def test_a_kernel_is_planned_once_whatever_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    text = MATMUL.read_text()
    first = made(text, (256, 64), (64, 128))

    def refuse(*_: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr(planning, "plan_for", refuse)
    assert made(text, (256, 64), (64, 128)) == first
    assert made(text, (1000, 333), (333, 17)) == first


def test_another_type_head_size_or_machine_is_another_kernel() -> None:
    text = (ROOT / "examples" / "attention.napkin").read_text()
    shape = (1, 2, 64, 64)
    first = made(text, shape, shape, shape)
    assert dict(first.fixed) == {"d": 64, "v": 64}
    wider = made(text, *((1, 2, 64, 128),) * 3)
    assert dict(wider.fixed) == {"d": 128, "v": 128}
    assert "torch.float16" in made(text, shape, shape, shape, dtype=torch.float16).text
    assert made(text, shape, shape, shape) == first
    assert made(text, *((3, 1, 7, 64),) * 3) == first


def test_without_a_length_in_the_file_the_first_call_decides() -> None:
    text = MATMUL.read_text().partition("sizes")[0]
    small = made(text, (16, 16), (16, 16))
    large = made(text, (8192, 8192), (8192, 8192))
    assert small.text != large.text
    assert made(text, (8000, 7999), (7999, 5000)) == large  # rounded up to powers of two


def test_what_is_read_is_what_was_written() -> None:
    kept = Made("text of ü", "entry", (("d", 64),), ("d", "x"), ("L",))
    cache.keep("some", kept)
    assert cache.find("some", {"d": 64, "q": 7}) == kept
    assert cache.find("some", {"d": 128, "q": 7}) is None
    assert cache.find("other", {"d": 64}) is None


@pytest.mark.parametrize(
    "body", ["", "{}", "[]", "null", '{"sha": "0", "made": "{}"}', '{"sha": 1, "made": 2}', "\0"]
)
def test_what_is_no_entry_counts_as_absent(tmp_path: Path, body: str) -> None:
    kept = Made("text", "entry", (), (), ())
    cache.keep("some", kept)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(body)
    assert cache.find("some", {}) is None
    cache.keep("some", kept)
    assert cache.find("some", {}) == kept


def test_an_entry_with_another_text_counts_as_absent(tmp_path: Path) -> None:
    cache.keep("some", Made("text", "entry", (), (), ()))
    (path,) = tmp_path.rglob("*.json")
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"made": body["made"].replace("text", "other")}))
    assert cache.find("some", {}) is None


def test_a_folder_that_cannot_be_written_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "file")
    cache.keep("some", Made("text", "entry", (), (), ()))
    assert cache.find("some", {}) is None


def test_what_nothing_used_for_long_goes_with_a_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.keep("some", Made("text", "entry", (), (), ()))
    (old,) = tmp_path.iterdir()
    (tmp_path / "kernel.py").write_text("")
    (tmp_path / "used.py").write_text("")
    long_ago = time.time() - (cache.KEPT_DAYS + 1) * 24 * 3600
    os.utime(tmp_path / "kernel.py", (long_ago, long_ago))
    cache.keep("other", Made("text", "entry", (), (), ()))  # the same version: nothing goes
    assert (tmp_path / "kernel.py").exists()
    os.utime(old, (long_ago, long_ago))
    monkeypatch.setattr(cache, "source_digest", lambda: "another")
    cache.keep("some", Made("text", "entry", (), (), ()))
    assert {path.name for path in tmp_path.iterdir()} == {"another", "used.py"}


def test_an_entry_that_is_found_counts_as_used(tmp_path: Path) -> None:
    cache.keep("some", Made("text", "entry", (), (), ()))
    (folder,) = tmp_path.iterdir()
    os.utime(folder, (0, 0))
    assert cache.find("some", {}) is not None
    cache.forget_unused()
    assert folder.exists()


def test_a_changed_source_is_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep("some", Made("text", "entry", (), (), ()))
    monkeypatch.setattr(cache, "source_digest", lambda: "another")
    assert cache.find("some", {}) is None


def test_two_processes_at_once_leave_one_whole_entry(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from napkin.runtime import cache\n"
        "cache.cache_folder = lambda: pathlib.Path(sys.argv[1])\n"
        "made = cache.Made('x' * 1_000_000, 'entry', (('d', 64),), (), ())\n"
        "for _ in range(30):\n"
        "    cache.keep('some', made)\n"
        "    assert cache.find('some', {'d': 64}) == made\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [each.wait(timeout=120) for each in running] == [0, 0]
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert len(files) == 1
    found = cache.find("some", {"d": 64})
    assert found is not None
    assert replace(found, text="") == Made("", "entry", (("d", 64),), (), ())


def test_a_kernel_from_the_cache_imports_nothing_that_plans(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, torch, napkin\n"
        "from napkin.machine import load_machine\n"
        "from napkin.runtime import cache, planning\n"
        "from napkin.runtime.arguments import bind\n"
        "from napkin.runtime.operator_kernels import _load\n"
        "cache.cache_folder = lambda: pathlib.Path(sys.argv[1])\n"
        "cache.source_digest = lambda: 'one'\n"
        "kernel = napkin.compile('examples/attention.napkin')\n"
        "call = bind(kernel.operator.diagram, [torch.empty(1, 1, 9, 64)] * 3)\n"
        "machine, device = load_machine('hopper'), torch.device('cpu')\n"
        "made = planning.made_for(call.diagram, call.dtype, call.sizes, machine, device)\n"
        "assert callable(_load(made, call.diagram))\n"
        "print('sympy' in sys.modules, 'torch._dynamo' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    printed = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert printed == ["True False\n", "False False\n"]
