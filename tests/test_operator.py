"""A diagram as an operator of PyTorch, on CPU tensors: all that does not depend on where a kernel runs."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jacrev, vmap
from torch.library import opcheck
from torch.nn.functional import scaled_dot_product_attention

import napkin
from napkin.algebra.batch import batched
from napkin.algebra.gradient import Gradient
from napkin.diagram import Diagram, implied_sizes
from napkin.language.errors import Diagnostic
from napkin.runtime.compiled import Kernel
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.operator import operator_of

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))
ATTENTION = EXAMPLES[0].with_stem("attention")
# Their outputs are stored in fp32, whatever the inputs: too coarse for a difference quotient.
STORED_IN_FP32 = {"attention_lse", "cross_entropy"}


@pytest.fixture(scope="module")
def attention() -> Kernel:
    return napkin.compile(ATTENTION)


@pytest.fixture(autouse=True)
def _fresh_graphs() -> Iterator[None]:
    yield
    torch.compiler.reset()


def tensors(
    *shape: int, count: int = 3, dtype: torch.dtype = torch.float32, requires_grad: bool = False
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(count)]
    return [each.requires_grad_(requires_grad) for each in drawn]


def arguments_of(path: Path, length: int = 3) -> tuple[Kernel, list[Any]]:
    """Return an example's kernel and small float64 arguments, which require gradients."""
    diagram = napkin.load(path).core
    free = [axis for axis in diagram.axes if axis not in implied_sizes(diagram)]
    sizes = axis_lengths(diagram, dict.fromkeys(free, length))
    drawn = random_arguments(diagram, sizes, dtype="fp64")
    values: list[Any] = []
    for each in diagram.arguments:
        value = drawn[each.name]
        if isinstance(value, torch.Tensor) and each.dtype is None:
            value = value.double().requires_grad_()
        values.append(value)
    return napkin.compile(path), values


def graph_of(function: Callable[..., object], *arguments: object) -> list[str]:
    """Return what a function calls, as `torch.compile` sees it, with no break."""
    called: list[str] = []

    def backend(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        called.extend(str(n.target) for n in module.graph.nodes if n.op == "call_function")
        return module

    torch.compile(function, backend=backend, fullgraph=True)(*arguments)
    return called


# --- the operator ---------------------------------------------------------------------------------


def test_the_operator_is_torchs_own_with_the_signatures_names(attention: Kernel) -> None:
    overload = attention.operator.overload
    assert str(overload._schema).endswith("(Tensor Q, Tensor K, Tensor V) -> Tensor")
    q, k, v = tensors(1, 2, 5, 4)
    wanted = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(overload(q, k, v), wanted)
    torch.testing.assert_close(overload(q, V=v, K=k), wanted)


def test_the_same_diagram_is_the_same_operator_and_another_is_another() -> None:
    first, second = napkin.compile(ATTENTION), napkin.compile(ATTENTION)
    assert first.operator is second.operator
    assert first.operator.name != napkin.compile(ATTENTION, machine="a100").operator.name
    other = napkin.parse(ATTENTION.read_text().replace("Q * K", "2.0 * Q * K")).compile()
    assert first.operator.name != other.operator.name


def test_diagrams_of_one_text_are_one_operator() -> None:
    alibi = batched(napkin.load(ATTENTION.with_stem("alibi")).core, {"Q"})
    again = napkin.parse(str(napkin.Diagram(alibi))).core
    assert again != alibi  # the order of boxes
    assert operator_of(again, None) is operator_of(alibi, None)


def test_a_name_that_schemas_reserve_is_still_an_argument() -> None:
    kernel = napkin.parse(
        "diagram f(Tensor[x], int8[x]) -> B[x]\n    B[x] = Tensor - int8"
    ).compile()
    torch.testing.assert_close(kernel(torch.ones(3), torch.ones(3)), torch.zeros(3))


@pytest.mark.parametrize("name", ["attention", "window", "attention_lse", "gqa", "document"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_torchs_own_checks_of_operators_pass(name: str, requires_grad: bool) -> None:
    kernel, values = arguments_of(ATTENTION.with_stem(name))
    if not requires_grad:
        values = [each.detach() if isinstance(each, torch.Tensor) else each for each in values]
    found = opcheck(kernel.operator.overload, tuple(values))
    assert set(found.values()) == {"SUCCESS"}


def test_a_model_that_holds_it_is_copied_and_saved(attention: Kernel) -> None:
    copied, loaded = copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))
    assert copied.operator is loaded.operator is attention.operator


def test_subclasses_of_tensors_and_parameters_are_tensors(attention: Kernel) -> None:
    class Named(torch.Tensor):
        pass

    q, k, v = tensors(1, 1, 4, 2)
    found = attention(q.as_subclass(Named), torch.nn.Parameter(k), v)
    assert isinstance(found, Named)
    assert found.requires_grad


def test_scalars_empty_axes_and_arrays_without_axes() -> None:
    text = "diagram f(A[x y], s[], n: int) -> B[x y], m[x]\n    B[x y] = s * A * n\n    m[x] = max[y](A)"
    kernel = napkin.parse(text).compile()
    a, s = torch.randn(3, 4), torch.tensor(2.0, requires_grad=True)
    torch.testing.assert_close(kernel(a, 2.0, 3)[0], 6 * a)
    (given,) = torch.autograd.grad(kernel(a, s, 3)[0].sum(), s)
    torch.testing.assert_close(given, 3 * a.sum())
    compiled = torch.compile(kernel, backend="aot_eager", fullgraph=True)
    for number in (2.0, 5.0):
        torch.testing.assert_close(compiled(a, number, 3), kernel(a, number, 3))
    assert [each.shape for each in kernel(torch.randn(0, 4), 2.0, 3)] == [(0, 4), (0,)]
    assert [each.shape for each in kernel(torch.randn(3, 0), 2.0, 3)] == [(3, 0), (3,)]


def test_outputs_share_no_memory_with_arguments() -> None:
    kernel = napkin.parse(
        "diagram same(A[x y]) -> B[x y], C[y x]\n    B[x y] = A\n    C[y x] = A"
    ).compile()
    (a,) = tensors(3, 4, count=1)
    b, c = kernel(a)
    torch.testing.assert_close(b, a)
    torch.testing.assert_close(c, a.T)
    assert len({each.untyped_storage().data_ptr() for each in (a, b, c)}) == 3
    assert c.is_contiguous()


def test_arguments_may_lie_in_memory_otherwise(attention: Kernel) -> None:
    q, k, v = (each.transpose(1, 2) for each in tensors(2, 7, 3, 4))
    torch.testing.assert_close(attention(q, k, v), scaled_dot_product_attention(q, k, v))


def test_arguments_go_by_name_as_well(attention: Kernel) -> None:
    q, k, v = tensors(1, 1, 4, 2)
    torch.testing.assert_close(attention(q, V=v, K=k), attention(q, k, v))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, q: f(q, V=q), r"called without `K\[b h x d\]`"),
        (lambda f, q: f(q, q, q, W=q), r"no argument `W`\n  = help: its arguments are Q, K, V"),
        (lambda f, q: f(q, q, q, Q=q), "was given `Q` twice"),
        (lambda f, q: f(q, q, q, q), r"takes 3 arguments, 4 were given"),
        (lambda f, q: f(q, q[0], q), r"`K` should have the 4 dims \[b h x d\], it has 3"),
        (lambda f, q: f(q, q, q[:, :, 1:]), "`V` has 3 along `x`, which should be 4"),
        (lambda f, q: f(q, q, q.int()), "`V` has no type in the diagram, so it holds floats"),
        (lambda f, q: f(q, q, q.to("meta")), "`Q` lies on cpu, `V` on meta"),
        (lambda f, q: f(q, q, 1.0), r"`V` should be a tensor \[b h x v\]"),
    ],
)
def test_a_wrong_call_is_told_apart(
    attention: Kernel, call: Callable[..., object], message: str
) -> None:
    with pytest.raises(napkin.NapkinError, match=message) as raised:
        call(attention, tensors(1, 1, 4, 2, count=1)[0])
    assert [each.code for each in raised.value.diagnostics] == ["N607"]


def test_meta_tensors_get_shapes_alone() -> None:
    both = napkin.compile(ATTENTION.with_stem("attention_lse"))
    q = torch.empty(2, 3, 5, 8, device="meta", dtype=torch.bfloat16)
    o, lse = both(q, q, q)
    assert (o.shape, o.dtype, o.device.type) == (q.shape, torch.bfloat16, "meta")
    assert (lse.shape, lse.dtype) == ((2, 3, 5), torch.float32)


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [each for each in EXAMPLES if each.stem not in STORED_IN_FP32], ids=lambda p: p.stem
)
def test_gradients_are_those_of_difference_quotients(path: Path) -> None:
    kernel, values = arguments_of(path)
    assert torch.autograd.gradcheck(kernel, values, fast_mode=True)


@pytest.mark.parametrize("name", sorted(STORED_IN_FP32))
def test_gradients_are_those_of_the_reference_in_float64(name: str) -> None:
    from napkin.runtime.reference import torch_reference

    kernel, values = arguments_of(ATTENTION.with_stem(name))
    diagram = kernel.operator.diagram
    named = {each.name: value for each, value in zip(diagram.arguments, values, strict=True)}
    wanted = [value for value in values if isinstance(value, torch.Tensor) and value.requires_grad]
    found = kernel(*values)
    ours = sum(
        each.double().sin().sum() for each in (found if isinstance(found, tuple) else (found,))
    )
    theirs = sum(each.sin().sum() for each in torch_reference(diagram, named))
    assert isinstance(ours, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    for one, other in zip(
        torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_the_gradients_that_are_wanted_are_computed(
    attention: Kernel, wanted: tuple[int, ...]
) -> None:
    values = tensors(1, 2, 5, 4, dtype=torch.float64)
    for place in wanted:
        values[place].requires_grad_()
    ours = attention(*values)
    theirs = scaled_dot_product_attention(values[0], values[1], values[2])
    chosen = [values[place] for place in wanted]
    seed = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, chosen, seed),
        torch.autograd.grad(theirs, chosen, seed),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_a_gradient_has_its_arguments_type() -> None:
    kernel = napkin.compile(ATTENTION.with_stem("alibi"))
    q, k, v = tensors(1, 2, 6, 4, dtype=torch.bfloat16, requires_grad=True)
    slope = torch.rand(2, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(kernel(q, k, v, slope).float().sum())
    assert [each.grad.dtype for each in (q, slope) if each.grad is not None] == [
        q.dtype,
        slope.dtype,
    ]


def test_an_output_without_gradient_counts_as_zero() -> None:
    both = napkin.compile(ATTENTION.with_stem("attention_lse"))
    q, k, v = tensors(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(both(q, k, v)[0].sum(), q)
    (theirs,) = torch.autograd.grad(scaled_dot_product_attention(q, k, v, is_causal=True).sum(), q)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_gradient_has_a_gradient(attention: Kernel) -> None:
    values = tensors(1, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(attention, values)


def test_a_second_gradient_that_cannot_be_says_so_when_it_is_taken(
    attention: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napkin.runtime import operator_gradient

    derived = operator_gradient._differentiated

    def once(diagram: Diagram, wanted: tuple[str, ...]) -> Gradient:
        if diagram.name.endswith("_backward"):
            reason = napkin.NapkinError([Diagnostic("N303", "no rule for this")])
            raise operator_gradient._no_gradient(diagram, wanted, reason)
        return derived(diagram, wanted)

    monkeypatch.setattr(operator_gradient, "_differentiated", once)
    kernel = napkin.parse(ATTENTION.read_text().replace("Q * K", "K * Q * 3.0")).compile()
    q, k, v = tensors(1, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(kernel(q, k, v).sum(), q, create_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(kernel(q, k, v).sum(), q)[0])
    with pytest.raises(napkin.NapkinError, match="has no kernel\n  = note: no rule for this"):
        torch.autograd.backward(first.sum())


def test_a_second_gradient_that_needs_what_was_not_kept_says_so() -> None:
    text = ATTENTION.read_text().replace("V[b h x v])", "V[b h x v], R[b h q v])")
    kernel = napkin.parse(text.replace("(P * V)", "(P * V) + R")).compile()
    values = tensors(1, 1, 3, 2, count=4, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(kernel(*values).sum(), values[:1], create_graph=True)
    rule = kernel.operator.rule(("Q", "K", "V", "R"), wide=True)
    assert "R" not in rule.saved
    with pytest.raises(napkin.NapkinError, match="would need arguments that are not kept"):
        torch.autograd.backward(first.sum())


def test_a_backward_without_a_kernel_is_told_when_the_forward_is_called(
    attention: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napkin.runtime import operator_gradient
    from napkin.runtime.operator_kernels import Kernels

    def nothing_fits(*_: object) -> None:
        raise napkin.NapkinError([Diagnostic("N407", "no tiles fit")])

    monkeypatch.setattr(operator_gradient, "_runs_kernels", lambda _: True)
    monkeypatch.setattr(Kernels, "kernel", nothing_fits)
    values = tensors(1, 1, 11, 4, requires_grad=True)
    message = "the gradient of `attention` by `Q`, `K`, `V` has no kernel\n  = note: no tiles fit"
    with pytest.raises(napkin.NapkinError, match=message) as raised:
        attention(*values)
    assert [each.code for each in raised.value.diagnostics] == ["N609"]
    with torch.no_grad():
        attention(*values)


def test_no_graph_is_made_where_none_is_wanted(attention: Kernel) -> None:
    values = tensors(1, 1, 3, 2, requires_grad=True)
    with torch.no_grad():
        assert attention(*values).grad_fn is None
    with torch.inference_mode():
        assert attention(*values).is_inference()


def test_a_number_has_no_gradient_and_says_so() -> None:
    kernel = napkin.compile(ATTENTION.with_stem("softcap"))
    q, k, v = tensors(1, 1, 3, 2)
    scale = torch.tensor(20.0, requires_grad=True)
    with pytest.raises(
        napkin.NapkinError, match="`cap` is a number, through which no gradient flows"
    ):
        kernel(q, k, v, scale)
    with torch.no_grad():
        kernel(q, k, v, scale)


def test_checkpoints_run_the_forward_again(attention: Kernel) -> None:
    from torch.utils.checkpoint import checkpoint

    values = tensors(1, 1, 5, 4, requires_grad=True)
    again = checkpoint(attention, *values, use_reentrant=False)
    plain = attention(*values)
    for one, other in zip(
        torch.autograd.grad(again.sum(), values),
        torch.autograd.grad(plain.sum(), values),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


# --- transforms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, None), (None, 2, None), (-1, 1, 0)])
def test_vmap_is_a_loop_over_slices(attention: Kernel, in_dims: tuple[int | None, ...]) -> None:
    many = tensors(5, 1, 2, 4, 3)
    given = [
        each[0] if dim is None else each.movedim(0, dim)
        for each, dim in zip(many, in_dims, strict=True)
    ]
    wanted = torch.stack(
        [
            attention(
                *(
                    each[0] if dim is None else each[i]
                    for each, dim in zip(many, in_dims, strict=True)
                )
            )
            for i in range(5)
        ]
    )
    torch.testing.assert_close(vmap(attention, in_dims=in_dims)(*given), wanted)


def test_vmap_nests_and_runs_one_operator(attention: Kernel) -> None:
    q, k, v = tensors(2, 3, 1, 2, 4, 3)
    found = vmap(vmap(attention))(q, k, v)
    wanted = [[attention(*(each[i, j] for each in (q, k, v))) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(found, torch.stack([torch.stack(row) for row in wanted]))


@pytest.mark.parametrize("name", ["gqa", "paged_decode", "cross_entropy", "sinks", "relative_bias"])
def test_vmap_serves_composite_axes_reads_by_data_and_shared_arrays(name: str) -> None:
    kernel, values = arguments_of(ATTENTION.with_stem(name), 2)
    first = values[0]
    assert isinstance(first, torch.Tensor)
    many = torch.stack([first.detach(), 2 * first.detach()])
    rest = [each.detach() if isinstance(each, torch.Tensor) else each for each in values[1:]]
    found = vmap(kernel, in_dims=(0, *(None for _ in rest)))(many, *rest)
    torch.testing.assert_close(found, torch.stack([kernel(each, *rest) for each in many]))


def test_gradients_and_vmap_go_together(attention: Kernel) -> None:
    queries = torch.randn(5, 1, 2, 4, 3, generator=torch.Generator().manual_seed(1))
    _, k, v = tensors(1, 2, 4, 3)

    def loss(q: torch.Tensor) -> torch.Tensor:
        return torch.sin(attention(q, k, v)).sum()

    wanted = torch.stack([grad(loss)(each) for each in queries])
    torch.testing.assert_close(vmap(grad(loss))(queries), wanted)
    torch.testing.assert_close(grad(lambda many: vmap(loss)(many).sum())(queries), wanted)


def test_a_jacobian_is_that_of_the_formula(attention: Kernel) -> None:
    q, k, v = tensors(1, 1, 3, 2, dtype=torch.float64)
    ours = jacrev(attention, argnums=(0, 1, 2))(q, k, v)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.mT / 2**0.5, -1) @ v

    theirs = jacrev(plain, argnums=(0, 1, 2))(q, k, v)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_forward_mode_is_refused(attention: Kernel) -> None:
    q, k, v = tensors(1, 1, 3, 2)
    with pytest.raises(napkin.NapkinError, match="no derivatives in forward mode"):
        torch.func.jvp(lambda each: attention(each, k, v), (q,), (q,))
    with forward_ad.dual_level(), pytest.raises(napkin.NapkinError, match="`K` has a tangent"):
        attention(q, forward_ad.make_dual(k, k), v)  # type: ignore[no-untyped-call]
    with pytest.raises(napkin.NapkinError, match="no derivatives in forward mode"):
        torch.func.hessian(lambda each: attention(each, k, v).sum())(q)


# --- autocast -------------------------------------------------------------------------------------


def test_autocast_lowers_arrays_of_open_type_alone() -> None:
    kernel = napkin.compile(ATTENTION.with_stem("alibi"))
    q, k, v = tensors(1, 2, 6, 4, requires_grad=True)
    slope = torch.rand(2, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kernel(q, k, v, slope)
        direct = kernel.operator.overload(q, k, v, slope)
    assert found.dtype == direct.dtype == torch.bfloat16
    torch.testing.assert_close(found, direct)
    torch.autograd.backward(found.float().sum())
    assert q.grad is not None
    assert slope.grad is not None
    assert q.grad.dtype == slope.grad.dtype == torch.float32
    doubles = [each.detach().double() for each in (q, k, v)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernel(*doubles, slope.detach()).dtype == torch.float64


def test_a_backward_under_autocast_is_in_the_forwards_type(attention: Kernel) -> None:
    q, k, v = tensors(1, 2, 6, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(attention(q, k, v).float().sum(), q)[0]
        found = attention(q, k, v)
    torch.testing.assert_close(inside, torch.autograd.grad(found.float().sum(), q)[0])


# --- graphs ---------------------------------------------------------------------------------------


def test_compiled_it_is_one_node(attention: Kernel) -> None:
    q, k, v = tensors(1, 1, 6, 4)
    assert graph_of(attention, q, k, v) == [f"napkin.{attention.operator.name}.default"]


def test_lengths_that_change_trace_no_third_graph(attention: Kernel) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(module)
        return module

    compiled = torch.compile(attention, backend=backend, fullgraph=True)
    for length in (6, 9, 17, 64):
        q, k, v = tensors(1, 1, length, 4)
        torch.testing.assert_close(compiled(q, k, v), attention(q, k, v))
    assert len(graphs) == 2


@pytest.mark.parametrize("name", ["attention", "softcap", "gqa", "attention_lse"])
def test_compiled_gradients_are_those_without(name: str) -> None:
    kernel, values = arguments_of(ATTENTION.with_stem(name))
    wanted = [each for each in values if isinstance(each, torch.Tensor) and each.requires_grad]

    def loss(*given: object) -> torch.Tensor:
        found = kernel(*given)
        first = found[0] if isinstance(found, tuple) else found
        assert isinstance(first, torch.Tensor)
        return first.sin().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours = torch.autograd.grad(compiled(*values), wanted)
    for one, other in zip(ours, torch.autograd.grad(loss(*values), wanted), strict=True):
        torch.testing.assert_close(one, other)


def test_compiled_under_autocast_it_lowers_as_without(attention: Kernel) -> None:
    q, k, v = tensors(1, 1, 6, 4)

    def lowered(*values: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found: torch.Tensor = attention(*values)
        return found

    compiled = torch.compile(lowered, backend="aot_eager", fullgraph=True)
    assert compiled(q, k, v).dtype == torch.bfloat16
    torch.testing.assert_close(compiled(q, k, v), lowered(q, k, v))


def test_numbers_in_a_graph_may_change() -> None:
    window = napkin.compile(ATTENTION.with_stem("window"))
    compiled = torch.compile(window, backend="aot_eager", fullgraph=True)
    q, k, v = tensors(1, 1, 8, 4)
    for width in (1, 2, 3, 8):
        torch.testing.assert_close(compiled(q, k, v, width), window(q, k, v, width))


def test_a_model_that_holds_it_is_exported_with_free_lengths(
    attention: Kernel, tmp_path: Path
) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = attention(self.linear(q), k, v)
            return found

    model, length = Model().requires_grad_(False), torch.export.Dim("length", min=2)
    shapes = ({2: length}, {2: length}, {2: length})
    program = torch.export.export(model, tuple(tensors(1, 2, 9, 4)), dynamic_shapes=shapes)
    assert f"torch.ops.napkin.{attention.operator.name}" in program.graph_module.code
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    given = tensors(1, 2, 31, 4)
    torch.testing.assert_close(loaded(*given), model(*given))


# --- the page -------------------------------------------------------------------------------------


def test_the_python_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = ATTENTION.parents[1]
    monkeypatch.chdir(root)
    page = (root / "docs" / "pytorch.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 8
    exec(compile("\n".join(blocks), "docs/pytorch.md", "exec"), {"__name__": "page"})


# --- caches of torch's compiler -------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_graph_from_the_cache_finds_its_backward(tmp_path: Path) -> None:
    code = (
        "import torch, napkin\n"
        "attention = napkin.compile('examples/attention.napkin')\n"
        "values = [torch.ones(1, 1, 8, 4).requires_grad_() for _ in range(3)]\n"
        "compiled = torch.compile(lambda *given: attention(*given) + 1, fullgraph=True)\n"
        "compiled(*values).sum().backward()\n"
        "from torch._dynamo.utils import counters\n"
        "print(counters['aot_autograd']['autograd_cache_hit'])\n"
    )
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    printed = [
        subprocess.run(
            command,
            cwd=ATTENTION.parents[1],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert printed == [["0"], ["1"]]
