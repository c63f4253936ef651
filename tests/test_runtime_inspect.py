"""Kernels compiled ahead of time for both architectures, from their plans alone."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from napkin.api import load
from napkin.runtime.inspect import inspect_plan, kernel_arguments

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)


@pytest.mark.parametrize(("machine", "tensor_core"), [("hopper", "HGMMA"), ("a100", "HMMA")])
def test_attention_uses_the_tensor_core_and_spills_nothing(machine: str, tensor_core: str) -> None:
    plan = load(EXAMPLES / "attention.napkin").plan(machine)
    (found,) = inspect_plan(plan if plan.machine.has("wgmma") else plan.plain)
    assert found.resources.instructions[tensor_core] > 0
    assert found.spills == 0
    assert found.resources.warnings == ()


def test_a_warp_specialised_kernel_takes_what_its_plan_said() -> None:
    plan = load(EXAMPLES / "attention.napkin").plan("hopper")
    (found,) = inspect_plan(plan)
    said = plan.kernels[0].expected
    assert found.prediction == said
    assert found.resources.registers == said.registers == 168
    assert found.resources.shared_bytes == said.shared_bytes
    assert found.resources.instructions["USETMAXREG"] > 0
    (plain,) = inspect_plan(plan.plain)
    assert plain.prediction == plan.kernels[0].prediction
    assert plain.resources.instructions["USETMAXREG"] == 0


@pytest.mark.parametrize("machine", ["hopper", "a100"])
def test_matmul_fits_in_what_its_plan_said(machine: str) -> None:
    plan = load(EXAMPLES / "matmul.napkin").plan(machine)
    (found,) = inspect_plan(plan)
    assert found.resources.shared_bytes <= plan.machine.limits.shared_per_block
    assert found.resources.shared_bytes == plan.kernels[0].expected.shared_bytes
    assert "registers a thread" in str(found)


def test_arguments_are_specialised_as_a_launch_would() -> None:
    plan = load(EXAMPLES / "attention.napkin").plan("hopper")
    arguments = kernel_arguments(plan.kernels[0])
    block = next(each.tile for each in plan.kernels[0].program.axes if each.axis == "q")
    assert arguments.signature["Q_desc"] == f"tensordesc<bf16[1,1,{block},128]>"
    assert arguments.signature["O_ptr"] == "*bf16"
    assert arguments.constants["O_stride_v"] == 1
    assert arguments.signature["O_stride_q"] == "i32"
    assert {"O_ptr", "O_stride_q", "size_q"} <= set(arguments.divisible_by_16)
    assert arguments.constants["STAGES"] == plan.kernels[0].stages


def test_scalars_and_integer_arrays_have_their_types() -> None:
    window = kernel_arguments(load(EXAMPLES / "window.napkin").plan("a100").kernels[0])
    assert window.signature["width"] == "i32"
    document = kernel_arguments(load(EXAMPLES / "document.napkin").plan("a100").kernels[0])
    assert document.signature["doc_q_ptr"] == "*i32"
