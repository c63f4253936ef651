"""What a diagram means, on torch: what kernels are held against, and the path of CPU tensors.

In: a diagram and the tensors of its arguments, on any one device. Out: its outputs. The evaluator
is `napkin.evaluate`; here is only its array library. Everything stays differentiable, and the
conventions of `napkin.operators` hold: 0 / 0 is 0 and -inf - -inf is -inf, so that a masked row
gives 0 and no NaN.

Deliberately absent: tiles and speed. It materialises every intermediate array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from napkin.diagram import Diagram
from napkin.evaluate import Stored, reference
from napkin.operators import LARGEST_RECIPROCAL, REDUCTIONS, Kind

Tensor = torch.Tensor
Argument = Tensor | float | int | bool

_INTEGER = torch.int64


class TorchArithmetic:
    """Torch on one device, floats in `dtype`, integers in int64."""

    def __init__(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype

    def tensor(self, value: Argument) -> Tensor:
        """Return an argument in the type it is computed with."""
        if isinstance(value, float):  # torch would round it to its default type
            return torch.tensor(value, device=self.device, dtype=self.dtype)
        found = torch.as_tensor(value, device=self.device)
        if found.dtype == torch.bool:
            return found
        return found.to(self.dtype if found.is_floating_point() else _INTEGER)

    def constant(self, value: float | int | bool) -> Tensor:
        """Return a rank-0 array."""
        return self.tensor(value)

    def arange(self, length: int) -> Tensor:
        """Return 0 .. length - 1."""
        return torch.arange(length, device=self.device)

    def arrange(self, value: Tensor, order: Sequence[int | None]) -> Tensor:
        """Return the array with its axes in this order; None inserts an axis of length one."""
        moved = value.permute([each for each in order if each is not None])
        for position, each in enumerate(order):
            if each is None:
                moved = moved.unsqueeze(position)
        return moved

    def pointwise(self, operator: str, operands: Sequence[Tensor]) -> Tensor:
        """Apply a pointwise operator to arrays that broadcast."""
        if operator in _OF_FLOATS:
            return _OF_FLOATS[operator](*(self._as_float(each) for each in operands))
        return _OF_ANY[operator](*operands)

    def reduce(self, operator: str, value: Tensor, positions: tuple[int, ...]) -> Tensor:
        """Reduce over the positions; an empty axis gives the unit."""
        if any(value.shape[each] == 0 for each in positions):
            left = [n for i, n in enumerate(value.shape) if i not in positions]
            return torch.full(left, REDUCTIONS[operator].unit, device=self.device).to(value.dtype)
        if operator in ("sum", "max", "min"):
            return _REDUCTIONS[operator](value, positions)
        for each in sorted(positions, reverse=True):
            value = _REDUCTIONS[operator](value, each)
        return value

    def contract(self, factors: Sequence[tuple[Tensor, str]], result: str) -> Tensor:
        """Sum a product, einsum letters per factor; integers by way of floats."""
        terms = ",".join(letters for _, letters in factors)
        total = torch.einsum(f"{terms}->{result}", *(self._as_float(each) for each, _ in factors))
        if any(each.is_floating_point() for each, _ in factors):
            return total
        return total.round().to(_INTEGER)

    def gather(self, array: Tensor, indices: Sequence[Tensor]) -> Tensor:
        """Index every axis of the array by index arrays that broadcast (clamped into range)."""
        pairs = zip(indices, array.shape, strict=True)
        return array[tuple(each.long().clamp(0, max(length - 1, 0)) for each, length in pairs)]

    def _as_float(self, value: Tensor) -> Tensor:
        return value if value.is_floating_point() else value.to(self.dtype)


def torch_reference(
    diagram: Diagram,
    tensors: Mapping[str, Argument],
    *,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, ...]:
    """Return every output in signature order, floats in `dtype`; the arguments go by name.

    It computes on the device of the first tensor among the arguments.
    """
    return reference_by(TorchArithmetic(device_of(tensors), dtype), diagram, tensors)


def reference_by(
    library: TorchArithmetic,
    diagram: Diagram,
    tensors: Mapping[str, Argument],
    stored: Stored | None = None,
) -> tuple[Tensor, ...]:
    """Return every output in signature order, as the library computes; `stored` is as in `evaluate`."""
    computed = _computed_with(diagram, tensors, library)
    found = reference(diagram, computed, library, stored)
    return tuple(found[output.name] for output in diagram.outputs)


def device_of(tensors: Mapping[str, Argument]) -> torch.device:
    """Return the device of the first tensor among the arguments."""
    cpu = torch.device("cpu")
    return next((each.device for each in tensors.values() if isinstance(each, Tensor)), cpu)


def _computed_with(
    diagram: Diagram, tensors: Mapping[str, Argument], library: TorchArithmetic
) -> dict[str, Tensor]:
    """Return the arguments in the kinds that the signature gives them."""
    found: dict[str, Tensor] = {}
    for each in diagram.arguments:
        value = library.tensor(tensors[each.name])
        found[each.name] = value.to(library.dtype) if each.kind is Kind.FLOAT else value
    return found


# --- operators whose conventions torch does not share ---------------------------------------------


def _divide(a: Tensor, b: Tensor) -> Tensor:
    nothing = (a == 0) & (b == 0)
    # The divisor is mended before the division: else the gradient is NaN where 0 / 0 was put right.
    return torch.where(nothing, 0.0, a / torch.where(nothing, 1.0, b))


def _subtract(a: Tensor, b: Tensor) -> Tensor:
    difference = a - b
    if not (a.is_floating_point() and b.is_floating_point()):
        return difference
    return torch.where(torch.isneginf(a) & torch.isneginf(b), -torch.inf, difference)


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or b.is_floating_point():
        return torch.floor_divide(a, b)
    nothing = b == 0
    return torch.where(nothing, 0, torch.floor_divide(a, torch.where(nothing, 1, b)))


def _modulo(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or b.is_floating_point():
        return torch.remainder(a, b)
    nothing = b == 0
    return torch.where(nothing, 0, torch.remainder(a, torch.where(nothing, 1, b)))


def _power(a: Tensor, b: Tensor) -> Tensor:
    if not b.is_floating_point() and not a.is_floating_point() and bool((b < 0).any()):
        a = a.to(torch.float64)
    return torch.pow(a, b)


def _reciprocal(a: Tensor) -> Tensor:
    return (1 / a).clamp(-LARGEST_RECIPROCAL, LARGEST_RECIPROCAL)


_OF_FLOATS: dict[str, Callable[..., Tensor]] = {
    "div": _divide,
    "reciprocal": _reciprocal,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
}
_OF_ANY: dict[str, Callable[..., Tensor]] = {
    "or": torch.logical_or,
    "and": torch.logical_and,
    "not": torch.logical_not,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "add": torch.add,
    "sub": _subtract,
    "mul": torch.mul,
    "floordiv": _floor_divide,
    "mod": _modulo,
    "neg": torch.neg,
    "pow": _power,
    "where": torch.where,
    "abs": torch.abs,
    "max2": torch.maximum,
    "min2": torch.minimum,
}
_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "sum": torch.sum,
    "max": torch.amax,
    "min": torch.amin,
    "prod": torch.prod,
    "any": torch.any,
    "all": torch.all,
}
