"""Modules of several kernels, some or all of them warp-specialised: names apart, each as its form said."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from napkin.algebra.derive import derive
from napkin.emit.gluon import emit_gluon
from napkin.emit.triton import kernel_names
from napkin.machine import load_machine
from napkin.runtime.inspect import inspect_plan
from napkin.schedule.planning.plan import Plan, make_plan
from tests.programs import diagram_of, example
from tests.test_emit_triton import functions, imported, planned
from tests.test_gluon import needs_triton

LAYERS = """
diagram layers(Q[h q d], K[h x d], V[h x v], A[h y v], B[h y w]) -> O[h q w]
    S[h q x] = sum[d](Q * K) / 8
    N[h q v] = sum[x](softmax[x](S) * V)
    T[h q y] = where(y <= q, sum[v](N * A), -inf)
    O[h q w] = sum[y](softmax[y](T) * B)

sizes h=16 q=4096 x=4096 y=4096 d=64 v=64 w=64
"""


@cache
def layers() -> Plan:
    """Return a plan of two warp-specialised kernels with different tiles."""
    plan = make_plan(derive(diagram_of(LAYERS)), load_machine("h200"))
    assert [each.form is not None for each in plan.kernels] == [True, True]
    return plan


def names_of(module: ast.Module) -> list[str]:
    """Return what a module defines, constants and functions, in order."""
    constants = (each for each in module.body if isinstance(each, ast.Assign))
    targets = (target for each in constants for target in each.targets)
    made = [target.id for target in targets if isinstance(target, ast.Name)]
    return made + list(functions(module))


def test_the_kernels_of_a_module_have_names_of_their_own() -> None:
    text = emit_gluon(layers())
    module = ast.parse(text)
    names = names_of(module)
    assert len(names) == len(set(names))
    rows = dict(re.findall(r"^(ROWS_\d|CONSUMERS_\d) = .*\((\d+)\)", text, re.M))
    consumers = [each.form.warps.consumers for each in layers().kernels if each.form]
    assert [rows[f"CONSUMERS_{number}"] for number in (1, 2)] == [str(each) for each in consumers]
    for name, function in functions(module).items():
        used = set(re.findall(r"\b[A-Z][A-Z_]*_(\d)\b", ast.unparse(function)))
        part = re.match(r"layers_(\d)_", name)
        assert used <= ({part[1]} if part else {"1", "2"}), name


def test_a_module_holds_plain_loops_beside_warps_with_roles() -> None:
    plan = planned("rmsnorm_linear", "h200")
    text = emit_gluon(plan)
    module = ast.parse(text)
    assert imported(module) <= {"__future__", "torch", "triton"}
    names = names_of(module)
    assert len(names) == len(set(names))
    jits = {
        each.name: ast.unparse(each.decorator_list[0])
        for each in functions(module).values()
        if each.decorator_list
    }
    kernels = dict(zip(kernel_names(plan), plan.kernels, strict=True))
    assert {name: jits[name] == "gluon.jit" for name in kernels} == {
        name: kernel.form is not None for name, kernel in kernels.items()
    }
    assert len(set(jits.values())) == 2
    # No function calls one of the other kind.
    for each in functions(module).values():
        called = {node.id for node in ast.walk(each) if isinstance(node, ast.Name)} & set(jits)
        if each.name in jits:
            assert {jits[name] for name in called} <= {jits[each.name]}, each.name


@needs_triton
def test_the_kernels_of_a_module_compile_each_as_its_form_said() -> None:
    for kernel, found in zip(layers().kernels, inspect_plan(layers()), strict=True):
        assert kernel.form is not None
        assert found.resources.shared_bytes == kernel.expected.shared_bytes
        assert found.resources.warps == kernel.form.warps.warps
        assert found.spills == 0


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [512, 333])
def test_kernels_that_run_in_turn_give_what_the_reference_gives(rows: int) -> None:
    from napkin.runtime.verify import verify

    found = verify(layers(), sizes={"h": 3, "q": rows, "x": 450, "y": rows}, seed=rows)
    assert found.passed, str(found)
    assert found.form == "the warp-specialised form"


# --- bounds that a kernel finds, and groups handed out, on a GPU ----------------------------------------


@cache
def documents() -> Plan:
    return make_plan(derive(example("document")), load_machine("h200"))


@needs_triton
def test_a_kernel_behind_the_one_that_bounds_it_compiles_as_its_form_said() -> None:
    plan = documents()
    hull, kernel = inspect_plan(plan)
    assert not hull.spills
    (formed,) = (each for each in plan.kernels if each.form is not None)
    assert formed.form is not None
    assert formed.form.warps.dispatched
    assert kernel.resources.shared_bytes == formed.expected.shared_bytes
    assert not any("C75" in warning for warning in kernel.resources.warnings)
    assert kernel.resources.unwritten == ()
    assert kernel.spills <= 72  # around the loops whose chunks a mask cuts


@pytest.mark.gpu
@pytest.mark.parametrize("labels", ["sorted", "in no order", "met by no key", "far"])
def test_a_kernel_walks_what_the_one_before_it_found_to_matter(labels: str) -> None:
    import torch

    from napkin.runtime.data import random_arguments
    from napkin.runtime.kernels import load_kernel
    from napkin.runtime.reference import torch_reference
    from napkin.runtime.verify import bound

    plan = documents()
    sizes = dict(plan.sizes) | {"b": 2, "h": 3, "q": 1000, "x": 1000}
    given = random_arguments(
        plan.diagram, sizes, dtype=plan.dtype, device=torch.device("cuda"), seed=2
    )
    rows = torch.randint(0, 6, (2, 1000), device="cuda", dtype=torch.int32)
    rows = rows if labels == "in no order" else rows.sort(1).values
    keys = rows + (rows == 3) if labels == "met by no key" else rows
    far = 2**31 - 8 if labels == "far" else 0
    given |= {"doc_q": rows + far, "doc_x": keys + far}
    entry = load_kernel(emit_gluon(plan), plan.diagram)
    result = entry(*(given[each.name] for each in plan.diagram.arguments))
    (want,) = torch_reference(plan.diagram, given)
    error = float((result.double() - want).norm() / want.norm())
    assert error <= bound([each.program for each in plan.kernels], "bf16")


@pytest.mark.gpu
def test_calls_at_once_share_no_groups() -> None:
    import torch

    from napkin.runtime.data import random_arguments
    from napkin.runtime.kernels import load_kernel

    plan = documents()
    sizes = dict(plan.sizes) | {"b": 2, "h": 4, "q": 1024, "x": 1024}
    given = random_arguments(
        plan.diagram, sizes, dtype=plan.dtype, device=torch.device("cuda"), seed=3
    )
    values = [given[each.name] for each in plan.diagram.arguments]
    entry = load_kernel(emit_gluon(plan), plan.diagram)
    alone = entry(*values)
    torch.cuda.synchronize()
    found = []
    for _ in range(4):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            found += [entry(*values) for _ in range(5)]
    torch.cuda.synchronize()
    assert all(torch.equal(each, alone) for each in found)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = entry(*values)
    for _ in range(3):
        captured.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, alone)
