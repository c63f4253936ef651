"""Emitted kernel modules as text: they stand alone, read well, and are the same on every run.

What they compute is `test_interpreter`'s business. The golden files under tests/golden/<example>/
show every stage but the pseudocode, which `test_emit_pseudo` keeps.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from napkin.algebra.derive import derive
from napkin.algebra.show import show_derivation
from napkin.api import parse
from napkin.diagram import print_diagram
from napkin.emit.triton import emit_triton, entry_name, kernel_names
from napkin.machine import load_machine
from napkin.schedule.planning.plan import Plan, make_plan
from tests.conftest import Golden
from tests.programs import EXAMPLES, ROOT, example

MACHINES = ("hopper", "ampere")
SHOWN = ("matmul", "attention", "causal", "gqa", "mlp", "layernorm")
GOLDEN = ROOT / "tests" / "golden"
LONGEST = 160  # characters of a line of a kernel's body
EVERY = [(name, machine) for name in EXAMPLES for machine in MACHINES]

HASHES = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from tests.test_emit_triton import EVERY, emitted
for name, machine in EVERY[:: int(sys.argv[2])]:
    print(name, machine, hashlib.sha256(emitted(name, machine).encode()).hexdigest())
"""


@cache
def planned(name: str, machine: str) -> Plan:
    """Return the planner's choice for an example."""
    return make_plan(derive(example(name)), load_machine(machine))


@cache
def emitted(name: str, machine: str) -> str:
    """Return the kernel module of an example as the planner chooses it."""
    return emit_triton(planned(name, machine))


def functions(module: ast.Module) -> dict[str, ast.FunctionDef]:
    return {each.name: each for each in ast.walk(module) if isinstance(each, ast.FunctionDef)}


def imported(module: ast.Module) -> set[str]:
    names: set[str] = set()
    for each in ast.walk(module):
        if isinstance(each, ast.Import):
            names |= {alias.name.split(".")[0] for alias in each.names}
        if isinstance(each, ast.ImportFrom):
            names.add((each.module or "").split(".")[0])
    return names


@pytest.mark.parametrize(("name", "machine"), EVERY)
def test_a_module_stands_alone_with_one_typed_entry(name: str, machine: str) -> None:
    diagram = example(name)
    module = ast.parse(emitted(name, machine))
    assert imported(module) <= {"__future__", "os", "torch", "triton"}
    found = functions(module)
    entry = found[entry_name(diagram)]
    plain = [each for each in found if not found[each].decorator_list]
    assert [each for each in plain if not each.startswith("_")] == [entry.name]
    for kernel in kernel_names(planned(name, machine)):
        assert found[kernel].decorator_list
    parameters = entry.args.args
    assert len(parameters) == len(diagram.arguments)
    for parameter, argument in zip(parameters, diagram.arguments, strict=True):
        assert parameter.arg.rstrip("_") == argument.name
        assert parameter.annotation is not None
        scalar = argument.dtype in ("int", "float") and not argument.dims
        wanted = argument.dtype if scalar else "torch.Tensor"
        assert ast.unparse(parameter.annotation) == wanted
    assert entry.returns is not None
    assert ast.unparse(entry.returns).count("torch.Tensor") == len(diagram.outputs)


@pytest.mark.parametrize(("name", "machine"), EVERY)
def test_no_line_of_a_kernel_is_long(name: str, machine: str) -> None:
    text = emitted(name, machine)
    assert text.endswith("\n")
    for each in kernel_names(planned(name, machine)):
        kernel = functions(ast.parse(text))[each]
        for line in text.splitlines()[kernel.lineno - 1 : kernel.end_lineno]:
            assert len(line) <= LONGEST, line
            assert line == line.rstrip()


def test_a_long_pointer_shows_its_base_then_the_tile_then_the_lanes() -> None:
    assert """
    Q_tile = (
        Q_ptr
        + tl.cast(b_start, tl.int64) * Q_stride_b + tl.cast(h_start, tl.int64) * Q_stride_h
        + tl.cast(q_start, tl.int64) * Q_stride_q
        + lane_q[:, None] * Q_stride_q + lane_d[None, :] * Q_stride_d
    )
""" in emitted("attention", "ampere")


@pytest.mark.parametrize(("seed", "step"), [("1", 1), ("2", 3)])
def test_modules_are_the_same_on_every_run(seed: str, step: int) -> None:
    done = [
        subprocess.run(
            [sys.executable, "-c", HASHES, str(ROOT), str(step)],
            env={**os.environ, "PYTHONHASHSEED": each},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for each in ("0", seed)
    ]
    assert done[0] == done[1]
    assert len(done[0].splitlines()) == len(EVERY[::step])


def test_modules_pass_ruff(tmp_path: Path) -> None:
    beside = Path(sys.executable).with_name("ruff")
    ruff = str(beside) if beside.exists() else which("ruff")
    assert ruff is not None, "ruff is one of the development tools"
    for name, machine in EVERY:
        path = tmp_path / f"{name}_{machine}.py"
        path.write_text(emitted(name, machine), encoding="utf-8")
    command = [ruff, "check", "--isolated", "--no-cache", "--select", "E9,F", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("operator", ["any", "all", "prod"])
def test_a_reduction_brings_its_helper(operator: str) -> None:
    operand = "A" if operator == "prod" else "A > 0"
    text = f"diagram f(A[q x]) -> O[q]\n    O[q] = where({operator}[x]({operand}) == 1, 1, 0)\n"
    if operator != "prod":
        text = f"diagram f(A[q x]) -> O[q]\n    O[q] = where({operator}[x]({operand}), 1, 0)\n"
    module = ast.parse(emit_triton(parse(text + "\nsizes q=64 x=64\n").plan("ampere")))
    called = {each.id for each in ast.walk(module) if isinstance(each, ast.Name)}
    known = {each for each in called if each.startswith("_")}
    assert known <= set(functions(module))
    assert known & {"_or", "_and", "_multiply"}


def test_an_integer_stays_one_through_a_stream() -> None:
    text = (
        "diagram f(A[q x]: int32) -> M[q], S[q]\n    M[q] = max[x](A)\n    S[q] = sum[x](A * x)\n"
    )
    made = emit_triton(parse(text + "\nsizes q=64 x=5000\n").plan("ampere"))
    kernel = made[made.index("def f_kernel") : made.index("def f(")]
    assert "-2147483648" in kernel
    assert "inf" not in kernel  # Triton refuses a state that changes its type


def test_a_position_from_data_is_taken_into_its_axis() -> None:
    text = emitted("paged_decode", "ampere")
    assert "_inside(page2, size_p)" in text
    assert "page2 = tl.load(page_tile, mask=" in text  # past the end of the stream


# --- golden files ---------------------------------------------------------------------------------


def steadied(text: str) -> str:
    """Leave out the size of rounding errors, which is the machine's."""
    return re.sub(r"\d(\.\d+)?e-1\d", "1e-16", text)


@pytest.mark.parametrize("name", SHOWN)
def test_every_stage_is_as_before(name: str, golden: Golden) -> None:
    diagram = example(name)
    stages: dict[str, Any] = {
        "listing.txt": print_diagram(diagram),
        "derivation.txt": steadied(show_derivation(derive(diagram))),
        **{f"{machine}.py": emitted(name, machine) for machine in MACHINES},
    }
    for file, text in stages.items():
        golden(GOLDEN / name / file, text)
