"""What gradients are held against: torch autograd in float64 on the reference, and a backward's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from napkin.algebra.gradient import Gradient
from napkin.diagram import Diagram
from napkin.evaluate import reference
from napkin.operators import Kind
from napkin.runtime.data import axis_lengths
from napkin.runtime.reference import torch_reference

Arrays = Mapping[str, Any]

ODD = (3, 2, 5, 7, 4, 6, 3, 5, 2, 3, 4, 5)
FORCED = {
    "paged_decode": {"n": 2, "x": 32, "s": 16, "p": 5},
    "attention_block": {"q": 5, "x": 5},
    "decode": {"q": 2, "x": 5},
}


def odd_sizes(diagram: Diagram) -> dict[str, int]:
    """Return small odd lengths that the diagram can have."""
    lengths = axis_lengths(diagram)
    cut = {axis: min(size, odd) for (axis, size), odd in zip(lengths.items(), ODD, strict=False)}
    return cut | FORCED.get(diagram.name, {})


def float_arguments(arguments: Arrays) -> dict[str, Any]:
    """Return tensors as NumPy arrays, reals in float64."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        array = np.asarray(value)
        found[name] = array.astype(np.float64) if array.dtype.kind == "f" else array
    return found


def seeds_of(gradient: Gradient, outputs: Arrays, seed: int = 1) -> dict[str, Any]:
    """Return random adjoints of the forward's own real outputs, by output."""
    own = [each for each in gradient.forward.outputs if each.name not in gradient.kept]
    random = np.random.default_rng(seed)
    real = [each for each in own if gradient.forward.boxes[each.box].kind is Kind.FLOAT]
    return {each.name: random.standard_normal(np.shape(outputs[each.name])) for each in real}


def backward_arguments(gradient: Gradient, given: Arrays, outputs: Arrays, seeds: Arrays) -> Arrays:
    """Return the arguments that the backward takes; adjoints come last, in the outputs' order."""
    known = {**given, **outputs}
    names = [each.name for each in gradient.backward.arguments]
    found = {name: known[name] for name in names if name in known}
    adjoints = {f"d{name}": seed for name, seed in seeds.items()}
    return found | {name: adjoints[name] for name in names if name not in found}


def autograd(diagram: Diagram, wanted: tuple[str, ...], given: Arrays, seeds: Arrays) -> Arrays:
    """Return the gradients by torch, of the outputs' product with the seeds."""
    tensors = {name: torch.as_tensor(value) for name, value in given.items()}
    leaves = [tensors[name].clone().requires_grad_() for name in wanted]
    tensors |= dict(zip(wanted, leaves, strict=True))
    results = torch_reference(diagram, tensors)
    named = zip(diagram.outputs, results, strict=True)
    parts = [
        (value * torch.as_tensor(seeds[each.name])).sum()
        for each, value in named
        if each.name in seeds and value.requires_grad
    ]
    if not parts:
        return {name: np.zeros(np.shape(given[name])) for name in wanted}
    found = torch.autograd.grad(sum(parts), leaves, allow_unused=True)  # type: ignore[arg-type]
    pairs = zip(wanted, found, strict=True)
    return {
        name: np.zeros(np.shape(given[name])) if one is None else one.numpy() for name, one in pairs
    }


def derived(gradient: Gradient, given: Arrays, seed: int = 1) -> tuple[Arrays, Arrays]:
    """Return the gradients that the backward gives by argument, and the seeds they are for."""
    with np.errstate(all="ignore"):
        outputs = reference(gradient.forward, given)
        seeds = seeds_of(gradient, outputs, seed)
        results = reference(gradient.backward, backward_arguments(gradient, given, outputs, seeds))
    names = (each.name for each in gradient.backward.outputs)
    return dict(zip(gradient.wanted, (results[name] for name in names), strict=True)), seeds


def relative_error(found: Any, truth: Any) -> float:
    """Return the largest difference, relative to the largest true value."""
    found, truth = np.asarray(found), np.asarray(truth)
    assert found.shape == truth.shape
    if not truth.size:
        return 0.0
    return float(np.abs(found - truth).max() / max(float(np.abs(truth).max()), 1e-6))
