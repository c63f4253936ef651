"""A diagram's gradient verified: what the forward keeps, the backward's kernels, and the derivation itself.

In: a diagram's gradient, and plans of its forward and its backward. Out: a `Verification` of each. The
backward runs on arguments that belong together: what the reference gives for the forward, in the types
that it is stored in, and random gradients of the outputs. Its kernels are held against the reference on the
same arguments, and the backward, in float64, against PyTorch's autograd on the forward's reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from napkin.algebra.gradient import Gradient
from napkin.diagram import Diagram, storage_types
from napkin.runtime.compare import OutputCheck, compare
from napkin.runtime.data import TORCH_TYPES, Value, random_arguments
from napkin.runtime.reference import torch_reference
from napkin.runtime.verify import Verification, verify
from napkin.schedule.planning.plan import Plan

_EXACT = 1e-9  # what float64 may lose

Arguments = Mapping[str, Value]


def verify_gradient(
    diagram: Diagram,
    gradient: Gradient,
    forward: Plan,
    backward: Plan,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[Verification, Verification]:
    """Verify a forward that keeps what the backward reads, and the backward; without a GPU, interpreted."""
    first = verify(forward, sizes=sizes, seed=seed)
    axes = backward.diagram.axes
    lengths = {axis: size for axis, size in (sizes or {}).items() if axis in axes}
    if first.reduced and not torch.cuda.is_available():
        # A kernel that adds up a long axis at once has tiles too large for the interpreter's patience.
        lengths = {axis: size for axis, size in first.sizes if axis in axes}
    drawn: list[dict[str, Value]] = []

    def draw(lengths: Mapping[str, int], device: torch.device) -> dict[str, Value]:
        found = _arguments(diagram, gradient, backward.dtype, lengths, device, seed)
        drawn.append(found)
        return found

    second = verify(backward, sizes=lengths, draw=draw)
    checks = _against_autograd(diagram, gradient, drawn[-1])
    return first, replace(second, checks=(*second.checks, *checks))


def _arguments(
    diagram: Diagram,
    gradient: Gradient,
    dtype: str,
    lengths: Mapping[str, int],
    device: torch.device,
    seed: int,
) -> dict[str, Value]:
    """Return the backward's arguments, and the forward's, as the types of both store them."""
    own = {axis: size for axis, size in lengths.items() if axis in diagram.axes}
    given = random_arguments(diagram, own, dtype=dtype, device=device, seed=seed)
    forward = gradient.forward
    types = storage_types(forward, dtype)
    outputs = zip(forward.outputs, torch_reference(forward, given), strict=True)
    found = given | {each.name: value.to(TORCH_TYPES[types[each.name]]) for each, value in outputs}
    generator = torch.Generator(device).manual_seed(seed + 1)
    for name, place in gradient.seeds.items():
        like = found[diagram.outputs[place].name]
        assert isinstance(like, torch.Tensor)
        drawn = torch.randn(like.shape, generator=generator, device=device)
        found[name] = drawn.to(like.dtype)
    return found


def _against_autograd(
    diagram: Diagram, gradient: Gradient, drawn: Arguments
) -> tuple[OutputCheck, ...]:
    """Compare the backward with autograd, both in float64 from the forward's arguments on."""
    given = {each.name: _wide(drawn[each.name]) for each in diagram.arguments}
    seeds = gradient.seeds
    above = {place: _wide(drawn[name]) for name, place in seeds.items()}
    truth = _autograd(diagram, gradient.wanted, given, above)
    outputs = zip(gradient.forward.outputs, torch_reference(gradient.forward, given), strict=True)
    exact = given | {each.name: found for each, found in outputs}
    exact |= {name: above[place] for name, place in seeds.items()}
    results = torch_reference(gradient.backward, exact)
    named = zip(gradient.backward.outputs, results, truth, strict=True)
    return tuple(
        compare(f"{output.name} as derived, beside autograd in float64", found, wanted, _EXACT)
        for output, found, wanted in named
    )


def _autograd(
    diagram: Diagram,
    wanted: Sequence[str],
    given: Mapping[str, torch.Tensor],
    above: Mapping[int, torch.Tensor],
) -> list[torch.Tensor]:
    """Return the gradients by the wanted arguments, for those of the outputs by their places."""
    leaves = {name: given[name].clone().requires_grad_() for name in wanted}
    results = torch_reference(diagram, {**given, **leaves})
    real = [place for place in above if results[place].requires_grad]
    zeros = [torch.zeros_like(each) for each in leaves.values()]
    if not real:
        return zeros
    found = torch.autograd.grad(
        [results[place] for place in real],
        list(leaves.values()),
        [above[place] for place in real],
        allow_unused=True,
    )
    return [zero if each is None else each for each, zero in zip(found, zeros, strict=True)]


def _wide(value: Value) -> torch.Tensor:
    tensor = torch.as_tensor(value)
    return tensor.double() if tensor.is_floating_point() else tensor
