"""Fresh random arguments for a diagram: what verification and benchmarks run it on.

In: a diagram, axis lengths, a storage type, a device and a seed. Out: its arguments by name.
Floats are normal. Integers get the range that the diagram gives them by what it does with them:
one that indexes an axis stays inside it, and names no position twice where there are enough of them (a
table of pages), one compared with an index (a sequence's length, a
window) covers the axis, with a zero among them so that some row may be masked throughout.

Deliberately absent: a distribution that suits one model. The reference sees the same data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import torch

from napkin.diagram import (
    STORAGE_TYPES,
    Argument,
    Box,
    Diagram,
    Gather,
    Index,
    Input,
    Pointwise,
    implied_sizes,
    operands_of,
    storage_types,
)
from napkin.language.errors import Diagnostic, NapkinError, did_you_mean
from napkin.operators import POINTWISE, Kind

Value = torch.Tensor | float | int

TORCH_TYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
    "fp8e4m3": torch.float8_e4m3fn,
    "fp8e5m2": torch.float8_e5m2,
    "int8": torch.int8,
    "int32": torch.int32,
    "int64": torch.int64,
    "bool": torch.bool,
}
STORAGE_NAMES: dict[torch.dtype, str] = {kind: name for name, kind in TORCH_TYPES.items()}

UNSIZED = 256  # the length of an axis that neither the file nor the caller sizes
_FEW = 4  # integers that are only compared with one another: few values, so that many agree
_WINDOW = 4  # an integer scalar is this fraction of the axis that it is compared with
_COMPARISONS = frozenset(name for name, row in POINTWISE.items() if row.precedence == 4)
_BYTE_RANGE = 8  # int8 data are quantised numbers: both signs, and products that stay small


def axis_lengths(diagram: Diagram, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return every axis's length: the caller's, else the file's, else a default.

    The length of an axis that no argument carries follows from the axis that it reads.
    """
    for axis in sizes or {}:
        if axis not in diagram.axes:
            message = f"`{axis}` is not an axis of `{diagram.name}`"
            raise NapkinError([Diagnostic("N403", message, help=did_you_mean(axis, diagram.axes))])
    known = dict.fromkeys(diagram.axes, UNSIZED) | dict(diagram.sizes) | dict(sizes or {})
    for axis, implied in implied_sizes(diagram).items():
        read = implied.axes[0]
        if axis in (sizes or {}) and read not in (sizes or {}):
            known[read] = max(1, known[axis] * known[read] // implied.length(known))
        known[axis] = implied.length(known)
    return known


def random_arguments(
    diagram: Diagram,
    sizes: Mapping[str, int],
    *,
    dtype: str = "bf16",
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, Value]:
    """Return arguments for the diagram, the same for the same seed on the same kind of device."""
    lengths = axis_lengths(diagram, sizes)
    source = _Source(torch.Generator(device).manual_seed(seed), torch.device(device), lengths)
    types = storage_types(diagram, dtype)
    ranges = _ranges(diagram, lengths)
    return {
        each.name: source.argument(each, types[each.name], ranges.get(each.name))
        for each in diagram.arguments
    }


class _Source:
    """Random values, drawn in the order of the signature."""

    def __init__(
        self, generator: torch.Generator, device: torch.device, lengths: Mapping[str, int]
    ) -> None:
        self.generator = generator
        self.device = device
        self.lengths = lengths

    def argument(self, each: Argument, storage: str, limit: _Range | None) -> Value:
        """Return one argument."""
        shape = [prod(self.lengths[axis] for axis in dim) for dim in each.dims]
        if each.dtype == "int":
            return max(1, limit.stop // _WINDOW) if limit else _FEW
        if each.dtype == "float":
            return 0.5 + float(torch.rand((), generator=self.generator, device=self.device))
        kind = TORCH_TYPES[storage]
        if STORAGE_TYPES[storage] is Kind.BOOL:
            return self._mask(shape)
        if STORAGE_TYPES[storage] is Kind.INT:
            return self._integers(shape, limit, storage).to(kind)
        return torch.randn(shape, generator=self.generator, device=self.device).to(kind)

    def _mask(self, shape: list[int]) -> torch.Tensor:
        drawn = torch.rand(shape, generator=self.generator, device=self.device) < 0.5
        if drawn.numel() and drawn.ndim:
            drawn.view(-1, drawn.shape[-1])[0] = False
        return drawn

    def _integers(self, shape: list[int], limit: _Range | None, storage: str) -> torch.Tensor:
        low, high = (-_BYTE_RANGE, _BYTE_RANGE) if storage == "int8" else (0, _FEW)
        if limit is not None:
            low, high = 0, limit.stop
            if not limit.has_zero and prod(shape) <= limit.stop:
                return self._permuted(limit.stop)[: prod(shape)].view(shape)
        drawn = torch.randint(low, high, shape, generator=self.generator, device=self.device)
        if limit is not None and limit.has_zero and drawn.numel():
            drawn.view(-1)[0] = 0
        return drawn

    def _permuted(self, length: int) -> torch.Tensor:
        return torch.randperm(length, generator=self.generator, device=self.device)


class _Range:
    """The integers below `stop`; `has_zero` asks for one 0 among them."""

    def __init__(self, stop: int, *, has_zero: bool) -> None:
        self.stop = max(1, stop)
        self.has_zero = has_zero


def _ranges(diagram: Diagram, lengths: Mapping[str, int]) -> dict[str, _Range]:
    """Return the range of every integer argument that is an index or is compared with one."""
    compared: dict[str, int] = {}
    for left, right in _compared(diagram):
        axes = [b.axis for b in _below(diagram, right) if isinstance(b, Index)]
        for name in _integers_below(diagram, left) if axes else ():
            compared[name] = max(compared.get(name, 0), *(lengths[axis] for axis in axes))
    indexing: dict[str, int] = {}
    for name, axis in indexing_arguments(diagram):
        indexing[name] = min(indexing.get(name, lengths[axis]), lengths[axis])
    ranges = {name: _Range(length + 1, has_zero=True) for name, length in compared.items()}
    return ranges | {name: _Range(length, has_zero=False) for name, length in indexing.items()}


def indexing_arguments(diagram: Diagram) -> Iterator[tuple[str, str]]:
    """Yield (integer argument, axis that it indexes) for every read at positions from data."""
    for box in diagram.boxes:
        if isinstance(box, Gather):
            axes = diagram.boxes[box.array].axes
            for index, axis in zip(box.indices, axes, strict=True):
                for name in _integers_below(diagram, index):
                    yield name, axis


def _compared(diagram: Diagram) -> Iterator[tuple[int, int]]:
    for box in diagram.boxes:
        if isinstance(box, Pointwise) and box.operator in _COMPARISONS:
            left, right = box.operands
            yield left, right
            yield right, left


def _below(diagram: Diagram, box: int) -> list[Box]:
    """Return the boxes that a value is computed from, but for where they are read."""
    found, stack = {box: None}, [box]
    while stack:
        each = diagram.boxes[stack.pop()]
        below = (each.array,) if isinstance(each, Gather) else operands_of(each)
        stack += [operand for operand in below if operand not in found]
        found |= dict.fromkeys(below)
    return [diagram.boxes[each] for each in found]


def _integers_below(diagram: Diagram, box: int) -> list[str]:
    below = _below(diagram, box)
    return [b.name for b in below if isinstance(b, Input) and b.kind is Kind.INT]
