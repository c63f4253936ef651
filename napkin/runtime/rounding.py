"""What rounding makes of a diagram's outputs on given data, and the bound that follows from it.

In: a diagram, its arguments by name, and the type that kernels round to. Out: the outputs, in float64 but for
what kernels round: the operands of contractions, and arrays that are stored as contractions read them
(napkin.algebra.stored). Each number goes at random to one of its two neighbours, so that what comes out is as
far off as rounding explains, by another amount for every seed. Where scores are large, or a sum cancels, that
is far more than the type's own precision, in any kernel: `bounded_by_data` lets a result be so far off.

Deliberately absent: tiles, the order of sums, and the rounding of outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev

import torch

from napkin.algebra.stored import stored_types
from napkin.diagram import Diagram, Leaf
from napkin.runtime.compare import OutputCheck, compare
from napkin.runtime.data import STORAGE_NAMES, TORCH_TYPES, Value
from napkin.runtime.reference import TorchArithmetic, device_of, reference_by
from napkin.schedule.planning.plan import Plan

Tensor = torch.Tensor

_EXACT = torch.finfo(torch.float32).eps  # contractions of these are exact
_SEEDS = 8
_DEVIATIONS = 3  # from the mean over the seeds: single numbers differ much, large arrays hardly
_ROOM = 1.2  # a kernel may round what is equal up to a factor of each row


def bounded_by_data(
    plan: Plan,
    arguments: Mapping[str, Value],
    wanted: Sequence[Tensor],
    checks: Sequence[OutputCheck],
    unit: torch.dtype,
) -> list[OutputCheck]:
    """Return the checks; of those that are past the bound of their types, with the bound of the data.

    `unit` is the type that the plan's kernels round to. It is the reference that is rounded, never what the
    kernels gave: a bound grows where the data make rounding grow, and nowhere else.
    """
    if all(each.near for each in checks) or torch.finfo(unit).eps <= _EXACT:
        return list(checks)
    types = {each.name: each.dtype for each in (*plan.arrays, *plan.outputs)}
    rounded = [
        [
            compare(each.name, one, reference, each.bound)
            for each, one, reference in zip(checks, found, wanted, strict=True)
        ]
        for found in (
            rounded_reference(plan.diagram, arguments, types, unit, seed) for seed in range(_SEEDS)
        )
    ]
    return [
        each if each.near else _bounded(each, seeds, unit)
        for each, seeds in zip(checks, zip(*rounded, strict=True), strict=True)
    ]


def _bounded(check: OutputCheck, seeds: Sequence[OutputCheck], unit: torch.dtype) -> OutputCheck:
    errors, worst = [each.error for each in seeds], [each.worst for each in seeds]
    moved = f"{mean(errors):.2e} and {mean(worst):.2e}"
    return replace(
        check,
        bound=max(check.bound, _largest(errors)),
        worst_bound=max(check.worst_bound, _largest(worst)),
        why=f"rounding to {STORAGE_NAMES[unit]} moves the reference by {moved}",
    )


def _largest(values: Sequence[float]) -> float:
    return _ROOM * (mean(values) + _DEVIATIONS * stdev(values))


def rounded_reference(
    diagram: Diagram,
    arguments: Mapping[str, Value],
    types: Mapping[str, str],
    unit: torch.dtype,
    seed: int,
) -> tuple[Tensor, ...]:
    """Return every output in signature order, off by what rounding to `unit` explains.

    `types` is the storage type of every argument and output.
    """
    library = RoundingArithmetic(unit, device_of(arguments), seed)
    kept = {
        each
        for each, name in stored_types(diagram, types).items()
        if TORCH_TYPES[name] == unit and not isinstance(diagram.boxes[each], Leaf)
    }

    def stored(each: int, value: Tensor) -> Tensor:
        return library.rounded(value) if each in kept and value.is_floating_point() else value

    return reference_by(library, diagram, arguments, stored)


class RoundingArithmetic(TorchArithmetic):
    """Torch in float64, the operands of contractions of two matrices rounded at random."""

    def __init__(self, unit: torch.dtype, device: torch.device, seed: int) -> None:
        super().__init__(device)
        self._unit = unit
        self._generator = torch.Generator(device).manual_seed(seed)

    def contract(self, factors: Sequence[tuple[Tensor, str]], result: str) -> Tensor:
        """Sum a product, einsum letters per factor."""
        if _are_matrices([letters for _, letters in factors], result):
            factors = [(self.rounded(self._as_float(each)), letters) for each, letters in factors]
        return super().contract(factors, result)

    def rounded(self, value: Tensor) -> Tensor:
        """Return numbers of as many digits as the type has, each the one below or the one above.

        Its range counts for nothing: a kernel's reference keeps what it rounds near 1.
        """
        mantissa, exponent = torch.frexp(value)
        drawn = torch.rand(value.shape, generator=self._generator, device=value.device)
        steps = 2 / torch.finfo(self._unit).eps
        return torch.ldexp(torch.floor(mantissa * steps + drawn) / steps, exponent)


def _are_matrices(factors: Sequence[str], result: str) -> bool:
    """Tell whether factors part into two sides with an axis of their own, and each with a summed one."""
    free = [frozenset(letters) & frozenset(result) for letters in factors]
    alike = frozenset.intersection(*(each for each in free if each), frozenset(result))
    sides: list[set[str]] = []
    for letters, axes in zip(factors, free, strict=True):
        own, side = axes - alike, {*letters}
        if own:
            for other in [each for each in sides if each & own]:
                sides.remove(other)
                side |= other
            sides.append(side)
    return len(sides) == 2 and all(each - {*result} for each in sides)
