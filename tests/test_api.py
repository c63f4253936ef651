"""The Python interface as a user calls it, on the CPU; with a GPU, the kernel as well."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import napkin
from napkin.machine import load_machine
from napkin.runtime.arguments import Call, bind
from napkin.runtime.compiled import Kernel
from napkin.runtime.planning import misfits, plan_for
from napkin.schedule.planning.plan import Plan

ROOT = Path(__file__).parent.parent
ATTENTION = ROOT / "examples" / "attention.napkin"
TWO = """diagram double(A[x]) -> B[x]
    B[x] = 2 * A

diagram triple(A[x]) -> B[x]
    B[x] = 3 * A
"""


@pytest.fixture(scope="module")
def attention() -> Kernel:
    return napkin.compile(ATTENTION, machine="hopper")


def plan_of(call: Call) -> Plan:
    hopper = load_machine("hopper")
    return plan_for(call.diagram, call.dtype, call.sizes, hopper, call.device)


def tensors(*shape: int, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


# --- the surface ----------------------------------------------------------------------------------


def test_the_public_surface_is_small_sorted_and_there() -> None:
    assert len(napkin.__all__) <= 10
    assert sorted(napkin.__all__) == napkin.__all__
    for name in napkin.__all__:
        assert getattr(napkin, name) is not None


def test_the_version_is_that_of_the_project() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == napkin.__version__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `lode`"):
        napkin.lode  # noqa: B018


def test_importing_napkin_imports_nothing_heavy() -> None:
    code = "import napkin, napkin.cli, sys; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "triton", "sympy", "lark", "jinja2", "numpy", "graphviz"}


# --- diagrams -------------------------------------------------------------------------------------


def test_a_diagram_prints_as_a_listing_that_parses_again() -> None:
    diagram = napkin.load(ATTENTION)
    assert napkin.parse(str(diagram)).core == diagram.core


def test_the_last_diagram_is_meant_unless_named() -> None:
    assert napkin.parse(TWO).name == "triple"
    assert napkin.parse(TWO, "double").name == "double"


def test_an_unknown_diagram_names_the_closest() -> None:
    with pytest.raises(napkin.NapkinError, match="did you mean `double`") as raised:
        napkin.parse(TWO, "doubel")
    assert raised.value.diagnostics[0].code == "N612"


@pytest.mark.parametrize("name", ["nowhere.napkin", "", "a\0b", "x" * 5000])
def test_what_cannot_be_read_is_a_napkin_error(name: str) -> None:
    with pytest.raises(napkin.NapkinError) as raised:
        napkin.load(name)
    assert raised.value.diagnostics[0].code == "N604"


def test_a_folder_is_no_file() -> None:
    with pytest.raises(napkin.NapkinError, match="name a file in it"):
        napkin.load(ATTENTION.parent)


def test_a_misspelt_file_names_the_closest() -> None:
    with pytest.raises(napkin.NapkinError, match=r"did you mean `attention\.napkin`"):
        napkin.load(ATTENTION.with_name("atention.napkin"))


def test_every_stage_is_a_method() -> None:
    diagram = napkin.load(ATTENTION)
    derivation = diagram.derive()
    assert derivation.stream is not None
    assert derivation.stream.axis == "x"
    assert "attention: one pass over `x`" in str(derivation)
    assert diagram.plan("a100").machine.name == "a100"
    assert "q" in diagram.pseudo("a100")
    assert diagram.svg().startswith("<svg ")


def test_sizes_and_types_replace_the_files() -> None:
    cost = napkin.load(ATTENTION).cost("hopper", sizes={"q": 128, "d": 64}, dtype="fp16")
    assert dict(cost.sizes)["q"] == 128
    assert cost.dtype == "fp16"


def test_an_unknown_axis_is_refused() -> None:
    with pytest.raises(napkin.NapkinError, match="not an axis"):
        napkin.load(ATTENTION).plan("hopper", sizes={"k": 1})


def test_the_cost_counts_what_a_mask_leaves() -> None:
    sizes = {"b": 1, "h": 1, "q": 1024, "x": 1024}
    dense = napkin.load(ATTENTION).cost("hopper", sizes=sizes)
    causal = napkin.load(ATTENTION.with_name("causal.napkin")).cost("hopper", sizes=sizes)
    assert dense.flops == 4 * 1024 * 1024 * 128
    assert causal.flops == pytest.approx(dense.flops / 2, rel=2e-3)


# --- calls ----------------------------------------------------------------------------------------


def test_cpu_tensors_run_a_reference_in_their_own_type(attention: Kernel) -> None:
    q, k, v = tensors(1, 2, 40, 16)
    found = attention(q, k, v)
    assert found.dtype == torch.float32
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found, wanted)
    narrow = attention(*(each.bfloat16() for each in (q, k, v)))
    assert narrow.dtype == torch.bfloat16


def test_cpu_tensors_have_gradients(attention: Kernel) -> None:
    q, k, v = (each.requires_grad_() for each in tensors(1, 1, 8, 4))
    (ours,) = torch.autograd.grad(attention(q, k, v).sum(), q)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v).sum()
    torch.testing.assert_close(ours, torch.autograd.grad(wanted, q)[0])


def test_several_outputs_are_a_tuple() -> None:
    both = napkin.compile(ATTENTION.with_name("attention_lse.napkin"))
    found = both(*tensors(1, 1, 8, 4))
    assert [tuple(each.shape) for each in found] == [(1, 1, 8, 4), (1, 1, 8)]


def test_scalars_are_numbers() -> None:
    window = napkin.compile(ATTENTION.with_name("window.napkin"))
    q, k, v = tensors(1, 1, 8, 4)
    torch.testing.assert_close(window(q, k, v, 1), v)
    torch.testing.assert_close(window(q, k, v, torch.tensor(1)), v)
    with pytest.raises(napkin.NapkinError, match=r"`width` should be an integer, it is 1\.5"):
        window(q, k, v, 1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q, k), "takes 3 arguments, 2 were given"),
        (lambda q, k, v: (q, k, v[0]), "should have the 4 dims"),
        (lambda q, k, v: (q, k, v[:, :, :5]), "`V` has 5 along `x`, which should be 8"),
        (lambda q, k, v: (q, k, v.long()), r"declare it: `V\[b h x v\]: int64`"),
        (lambda q, k, v: (q, k, [1.0]), "it is of type list"),
        (lambda q, k, v: (q, k, v.to("meta")), "`Q` lies on cpu, `V` on meta"),
    ],
)
def test_a_wrong_call_names_the_argument(attention: Kernel, change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(napkin.NapkinError, match=message) as raised:
        attention(*change(*tensors(1, 1, 8, 4)))
    assert [each.code for each in raised.value.diagnostics] == ["N607"]


def test_a_declared_type_is_held_to() -> None:
    document = napkin.compile(ATTENTION.with_name("document.napkin"))
    q, k, v = tensors(1, 1, 8, 4)
    with pytest.raises(napkin.NapkinError, match="`doc_x` should be of int32"):
        document(q, k, v, torch.zeros(1, 8, dtype=torch.int32), torch.zeros(1, 8))


def test_the_parts_of_a_kernel_are_those_of_the_file(attention: Kernel) -> None:
    assert attention.plan.machine.name == "h100"
    assert attention.cost.diagram == "attention"
    compile_source = compile(attention.source, "attention.py", "exec")
    assert compile_source is not None
    assert "import napkin" not in attention.source
    assert "from napkin" not in attention.source


def test_another_head_size_or_type_is_planned_for_without_being_asked(attention: Kernel) -> None:
    core = napkin.load(ATTENTION).core
    for dtype, head in ((torch.float16, 64), (torch.bfloat16, 128), (torch.float16, 40)):
        call = bind(core, tuple(each.to(dtype) for each in tensors(1, 2, 24, head)))
        plan = plan_of(call)
        fixed = {
            each.axis: each.size for each in plan.kernels[0].program.axes if each.size is not None
        }
        assert fixed["d"] == head
        assert {each.dtype for each in plan.kernels[0].program.arrays} == {call.dtype}


def test_a_cut_diagram_is_planned_for_the_lengths_that_its_kernels_fix() -> None:
    block = napkin.load(ATTENTION.with_name("attention_block.napkin")).core
    shapes = {"b": 1, "q": 40, "e": 96, "h": 4, "d": 32, "v": 32, "f": 96}
    given = tuple(
        torch.randn(*(shapes[axis] for axis in each.axes), dtype=torch.float16)
        for each in block.arguments
    )
    call = bind(block, given)
    plan = plan_of(call)
    assert not misfits(plan, call.sizes)
    assert {each.dtype for each in plan.arrays} == {"fp16"}
    result = napkin.compile(ATTENTION.with_name("chain.napkin"))(*(torch.eye(4),) * 3)
    torch.testing.assert_close(result, torch.eye(4))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["chain", "attention_block"])
def test_on_a_gpu_kernels_run_one_after_the_other(name: str) -> None:
    front = napkin.load(ATTENTION.with_name(f"{name}.napkin"))
    kernel = front.compile()
    assert len(kernel.plan.kernels) > 1
    sizes = dict(front.core.sizes) | {"b": 1, "q": 333, "m": 333, "k": 520, "e": 520}
    given = [
        torch.randn(*(sizes[axis] for axis in each.axes), device="cuda", dtype=torch.bfloat16)
        for each in front.core.arguments
    ]
    wanted = kernel(*(each.cpu() for each in given))
    error = (kernel(*given).cpu().float() - wanted.float()).norm() / wanted.float().norm()
    assert error < 2e-2


@pytest.mark.gpu
def test_on_a_gpu_the_kernel_runs_and_is_kept() -> None:
    attention = napkin.parse(ATTENTION.read_text().replace("attention", "kept")).compile()
    for dtype, head in ((torch.bfloat16, 128), (torch.float16, 64), (torch.bfloat16, 128)):
        q, k, v = (each.to("cuda", dtype) for each in tensors(2, 3, 200, head))
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(attention(q, k, v), wanted, atol=2e-2, rtol=2e-2)
    loaded = attention.operator.kernels.loaded
    assert {len(each) for each in loaded.values()} == {1}
    assert [dtype for _, _, dtype, _ in loaded] == ["bf16", "fp16"]
