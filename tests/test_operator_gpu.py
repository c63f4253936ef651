"""The operator on a GPU: launches made again, graphs, streams, gradients, and what torch's compiler
makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import vmap
from torch.library import opcheck
from torch.nn.functional import scaled_dot_product_attention

import napkin
from napkin.runtime.compiled import Kernel
from napkin.runtime.launch import Launches

ATTENTION = Path(__file__).parent.parent / "examples" / "attention.napkin"
BF16 = torch.bfloat16

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def attention() -> Kernel:
    return napkin.compile(ATTENTION)


@pytest.fixture(autouse=True)
def _fresh_graphs() -> Iterator[None]:
    yield
    torch.compiler.reset()


def tensors(*shape: int, count: int = 3, seed: int = 0, **options: Any) -> list[torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator, device="cuda") for _ in range(count)]
    return [each.to(options.get("dtype", BF16)) for each in drawn]


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q.double(), k.double(), v.double())


def launches_of(kernel: Kernel) -> list[Launches | None]:
    return list(kernel.operator.kernels.launches.values())


def variants_of(kernel: Kernel) -> set[int]:
    """Return how often Triton compiled each kernel that has run."""
    from triton.runtime.jit import JITFunction

    return {
        len(caches[0])
        for loaded in kernel.operator.kernels.loaded.values()
        for each in loaded
        for function in each.entry.__globals__.values()
        if isinstance(function, JITFunction)
        for caches in function.device_caches.values()
        if caches[0]
    }


# --- launches made again --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["attention", "causal", "alibi", "window", "gqa", "chain", "softmax"]
)
def test_a_second_call_makes_the_firsts_launches_on_other_data(name: str) -> None:
    from napkin.runtime.data import axis_lengths, random_arguments

    kernel = napkin.compile(ATTENTION.with_stem(name))
    diagram = kernel.operator.diagram
    wished = {axis: 200 for axis in ("q", "x", "m", "n") if axis in diagram.axes}
    sizes = axis_lengths(diagram, wished | {axis: 2 for axis in ("b", "h") if axis in diagram.axes})
    for seed in (0, 1, 2):
        given = list(random_arguments(diagram, sizes, device="cuda", seed=seed).values())
        found = kernel(*given)
        wanted = kernel(*(each.cpu() if isinstance(each, torch.Tensor) else each for each in given))
        assert distance(found.cpu(), wanted) < 1e-2
    assert launches_of(kernel)
    assert all(each is not None for each in launches_of(kernel))


def test_one_tensor_given_thrice_is_not_three_given_later(attention: Kernel) -> None:
    q, k, v = tensors(1, 2, 96, 64)
    assert distance(attention(q, q, q), exact(q, q, q)) < 1e-2
    assert distance(attention(q, k, v), exact(q, k, v)) < 1e-2


def test_results_of_two_calls_do_not_share_memory(attention: Kernel) -> None:
    q, k, v = tensors(1, 2, 96, 64)
    first, second = attention(q, k, v), attention(k, q, v)
    assert first.data_ptr() != second.data_ptr()
    assert distance(first, exact(q, k, v)) < 1e-2


def test_layouts_are_told_apart(attention: Kernel) -> None:
    packed = tensors(2, 100, 3, 4, 64, count=1)[0]
    q, k, v = (each.transpose(1, 2) for each in packed.unbind(2))
    whole = [each.contiguous() for each in (q, k, v)]
    for given in (whole, [q, k, v], whole, [q, k, v], [whole[0], k, v]):
        assert distance(attention(*given), exact(q, k, v)) < 1e-2
    shifted = [each.flatten()[1:].view(-1)[: 2 * 4 * 99 * 64].view(2, 4, 99, 64) for each in whole]
    assert distance(attention(*shifted), exact(*shifted)) < 1e-2


def test_lengths_that_change_compile_nothing(attention: Kernel) -> None:
    kernel = napkin.parse(ATTENTION.read_text().replace("Q * K", "2.0 * Q * K")).compile()
    for batch, heads, queries, keys in (
        (1, 1, 64, 64),
        (2, 3, 65, 130),
        (1, 5, 1, 1000),
        (3, 1, 7, 1),
    ):
        (q,) = tensors(batch, heads, queries, 64, count=1)
        k, v = tensors(batch, heads, keys, 64, count=2)
        assert distance(kernel(q, k, v), exact(2 * q, k, v)) < 1e-2
    assert [len(each) for each in kernel.operator.kernels.loaded.values()] == [1]
    assert variants_of(kernel) == {1}


def test_a_call_made_again_reads_the_truth_values_that_it_is_given() -> None:
    text = ATTENTION.read_text().replace("V[b h x v]", "V[b h x v], seen[b q x]: bool")
    score = next(line for line in text.splitlines() if "S[b h q x] =" in line)
    name, product = score.split(" = ")
    text = text.replace(score, f"{name} = where(seen, {product}, -inf)")
    kernel = napkin.parse(text).compile()
    generator = torch.Generator("cuda").manual_seed(6)
    for head in (64, 128):
        for seed in range(3):
            *values, above = tensors(2, 3, 300, head, count=4, seed=seed)
            seen = torch.rand(2, 300, 300, generator=generator, device="cuda") < 0.5
            mask = seen[:, None]

            def masked(
                q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor = mask
            ) -> torch.Tensor:
                return scaled_dot_product_attention(q, k, v, attn_mask=mask)

            def ours(
                q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor = seen
            ) -> torch.Tensor:
                found: torch.Tensor = kernel(q, k, v, seen)
                return found

            wide = [each.double() for each in values]
            assert distance(ours(*values), masked(*wide)) < 1e-2
            pairs = zip(
                gradients(ours, values, above), gradients(masked, wide, above.double()), strict=True
            )
            assert all(distance(one, other) < 1e-2 for one, other in pairs)
    assert launches_of(kernel)
    assert kernel.operator._recorded


def test_a_profiler_of_tritons_sees_every_launch(attention: Kernel) -> None:
    from triton import knobs

    q, k, v = tensors(1, 2, 96, 64)
    attention(q, k, v)
    seen: list[object] = []

    def hook(metadata: object) -> None:
        seen.append(metadata)

    knobs.runtime.launch_enter_hook.add(hook)
    try:
        attention(q, k, v)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    assert len(seen) == 1


# --- graphs, streams, devices ---------------------------------------------------------------------


def test_a_cuda_graph_captures_it(attention: Kernel) -> None:
    q, k, v = tensors(2, 3, 130, 64)
    for _ in range(2):
        attention(q, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = attention(q, k, v)
    for seed in (1, 2):
        for old, new in zip((q, k, v), tensors(2, 3, 130, 64, seed=seed), strict=True):
            old.copy_(new)
        graph.replay()
        assert distance(found, exact(q, k, v)) < 1e-2


def test_it_runs_on_the_current_stream(attention: Kernel) -> None:
    q, k, v = tensors(2, 3, 130, 64)
    attention(q, k, v)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # type: ignore[no-untyped-call]
        scaled = q * 3
        found = attention(scaled, k, v)
    torch.cuda.current_stream().wait_stream(stream)
    assert distance(found, exact(3 * q, k, v)) < 1e-2


def test_tensors_of_another_gpu_run_there(attention: Kernel) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    q, k, v = tensors(2, 3, 130, 64)
    for _ in range(2):
        here = attention(q, k, v)
        there = attention(*(each.to("cuda:1") for each in (q, k, v)))
        assert there.device.index == 1
        assert torch.equal(here, there.to("cuda:0"))


def test_inputs_on_two_devices_are_refused(attention: Kernel) -> None:
    q, k, v = tensors(1, 1, 64, 64)
    with pytest.raises(napkin.NapkinError, match="`Q` lies on cuda:0, `V` on cpu"):
        attention(q, k, v.cpu())


# --- gradients ------------------------------------------------------------------------------------


def gradients(
    function: Callable[..., torch.Tensor], values: list[torch.Tensor], seed: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    leaves = [each.detach().requires_grad_() for each in values]
    return torch.autograd.grad(function(*leaves), leaves, seed)


def test_a_seed_that_is_expanded_is_as_good_as_one_in_memory(attention: Kernel) -> None:
    values = tensors(1, 2, 100, 64)
    one = torch.ones((), device="cuda", dtype=BF16).expand(1, 2, 100, 64)
    for found, wanted in zip(
        gradients(attention, values, one),
        gradients(attention, values, one.contiguous()),
        strict=True,
    ):
        assert torch.equal(found, wanted)


def test_vmap_runs_one_kernel_over_a_further_axis(attention: Kernel) -> None:
    q, k, v = tensors(3, 1, 2, 100, 64)
    found = vmap(attention, in_dims=(0, 0, None))(q, k, v[0])
    wanted = torch.stack([attention(q[i], k[i], v[0]) for i in range(3)])
    assert distance(found, wanted) < 1e-2


def test_autocast_lowers(attention: Kernel) -> None:
    q, k, v = (each.requires_grad_() for each in tensors(1, 2, 100, 64, dtype=torch.float32))
    with torch.autocast("cuda", dtype=torch.float16):
        found = attention(q, k, v)
    assert found.dtype == torch.float16
    assert distance(found, exact(q, k, v)) < 1e-2
    (given,) = torch.autograd.grad(found.float().sum(), q)
    assert given.dtype == torch.float32


# --- torch's compiler -----------------------------------------------------------------------------


def test_torchs_own_checks_pass(attention: Kernel) -> None:
    values = tuple(each.requires_grad_() for each in tensors(1, 2, 100, 64, dtype=torch.float16))
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    found = opcheck(attention.operator.overload, values, test_utils=tests)
    assert set(found.values()) == {"SUCCESS"}


def test_compiled_it_gives_the_same(attention: Kernel) -> None:
    def block(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = attention(torch.relu(q) * 2, k, v)
        return found + q

    compiled = torch.compile(block, fullgraph=True)
    for length in (100, 128, 333):
        *values, seed = tensors(1, 2, length, 64, count=4)
        assert distance(compiled(*values), block(*values)) < 1e-2
        pairs = zip(gradients(compiled, values, seed), gradients(block, values, seed), strict=True)
        assert all(distance(one, other) < 2e-2 for one, other in pairs)


def test_compiled_with_cuda_graphs_it_gives_the_same(attention: Kernel) -> None:
    compiled = torch.compile(
        lambda q, k, v: attention(q * 2, k, v), fullgraph=True, mode="reduce-overhead"
    )
    for seed in range(4):
        q, k, v = tensors(1, 2, 128, 64, seed=seed)
        with torch.no_grad():
            assert distance(compiled(q, k, v), exact(2 * q, k, v)) < 1e-2
