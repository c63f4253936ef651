"""A printed loop with operands in shared memory, run by NumPy: Triton interprets no Gluon.

In: the text of a module, its kernel's name, arguments. Layouts are ignored. Copies land when they are waited
for, and leave nothing but NaN in their slot until then; none may reach outside its array.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]


def rounded(values: Values) -> Values:
    """Return float32 values rounded to bfloat16."""
    words = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    even = ((words >> 16) & 1) + 0x7FFF
    return ((words + even) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class Tile(np.ndarray[Any, Any]):
    """A tile in registers; its layout is never asked for."""

    type = type("Type", (), {"layout": None})

    def to(self, kind: str) -> Tile:
        return (rounded(self) if kind == "bfloat16" else np.asarray(self)).view(Tile)


class Shared:
    """A tile in shared memory, or a view of it."""

    def __init__(self, values: Values) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def slice(self, start: int, length: int, dim: int) -> Shared:
        part = slice(start, start + length)
        return Shared(self.values[part] if dim == 0 else self.values[:, part])

    def permute(self, order: Sequence[SupportsIndex]) -> Shared:
        return Shared(self.values.transpose(order))

    def load(self, layout: None) -> Tile:
        assert not np.isnan(self.values).any(), "it is read before it has arrived"
        return self.values.copy().view(Tile)


class Pointer:
    """Places in an array."""

    def __init__(self, array: Values, places: Any = 0) -> None:
        self.array = array
        self.places = places

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.array, self.places + more)

    def read(self, shape: tuple[int, ...], mask: Values | None) -> Values:
        places, inside = self.inside(shape, mask)
        return np.where(inside, self.array[np.where(inside, places, 0)], 0)

    def inside(self, shape: tuple[int, ...], mask: Values | None) -> tuple[Values, Values]:
        places = np.broadcast_to(self.places, shape)
        taken = np.broadcast_to(True if mask is None else mask, shape)
        within = (places >= 0) & (places < self.array.size)
        assert within[taken].all(), "outside of the array"
        return places, taken


class Copies:
    """Copies in groups, on their way until they are waited for."""

    def __init__(self) -> None:
        self.begun: list[tuple[Shared, Values]] = []
        self.groups: list[list[tuple[Shared, Values]]] = []

    def async_copy_global_to_shared(
        self, slot: Shared, pointer: Pointer, mask: Values | None = None
    ) -> None:
        values = pointer.read(slot.shape, mask)
        slot.values[...] = np.nan
        self.begun.append((slot, values))

    def commit_group(self) -> None:
        self.groups.append(self.begun)
        self.begun = []

    def wait_group(self, behind: int) -> None:
        while len(self.groups) > behind:
            for slot, values in self.groups.pop(0):
                slot.values[...] = values


class Language:
    """What the kernels call of Gluon's language, for one block."""

    float32, int32, int64, bfloat16 = "float32", "int32", "int64", "bfloat16"
    static_range = range

    def __init__(self, block: int) -> None:
        self.block = block

    def __getattr__(self, name: str) -> Any:
        if name.endswith("Layout"):
            return lambda *_, **__: None
        return _VALUES[name]

    def program_id(self, axis: int) -> int:
        return self.block

    def load(self, pointer: Pointer, mask: Values | None = None, other: float | None = None) -> Any:
        shape = np.broadcast(pointer.places, True if mask is None else mask).shape
        values = pointer.read(shape, mask)
        if mask is not None:
            values = np.where(mask, values, np.float32(np.nan if other is None else other))
        return values.view(Tile)

    def store(self, pointer: Pointer, values: Tile, mask: Values | None = None) -> None:
        places, taken = pointer.inside(values.shape, mask)
        pointer.array[places[taken]] = np.asarray(values)[taken]

    def inline_asm_elementwise(
        self, text: str, constraints: str, operands: Sequence[Any], **_: Any
    ) -> Tile:
        """Run a reciprocal or the choice by a comparison: these kernels write no more in assembly."""
        if text.startswith("rcp.approx.ftz.f32"):
            reciprocal: Tile = (np.float32(1) / operands[0]).view(Tile)
            return reciprocal
        found = re.search(r"setp\.(\w+)\.s32 p, \$2, \$3; selp\.f32 \$0, \$1, \$4, p;", text)
        assert found, text
        value, a, b, other = operands
        return np.where(_TESTS[found[1]](a, b), value, np.float32(other)).view(Tile)


_TESTS: Mapping[str, Any] = {
    "eq": np.equal,
    "le": np.less_equal,
    "lt": np.less,
    "ne": np.not_equal,
}


def _either(values: Any) -> Any:
    return values.view(Tile) if isinstance(values, np.ndarray) else values.item()


_VALUES: Mapping[str, Any] = {
    "cdiv": lambda a, b: -(-a // b),
    "arange": lambda start, stop, _: np.arange(start, stop).view(Tile),
    "full": lambda shape, value, *_: np.full(shape, value, np.float32).view(Tile),
    "zeros": lambda shape, *_: np.zeros(shape, np.float32).view(Tile),
    "allocate_shared_memory": lambda _, shape, __: Shared(np.full(shape, np.nan, np.float32)),
    "multiple_of": lambda value, _: value,
    "cast": lambda value, _: value,
    "minimum": lambda a, b: _either(np.minimum(a, b)),
    "maximum": lambda a, b: _either(np.maximum(a, b)),
    "where": lambda test, a, b: _either(np.where(test, a, b)),
    "exp2": np.exp2,
    "log": np.log,
    "max": lambda tile, axis: tile.max(axis),
    "sum": lambda tile, axis: tile.sum(axis),
    "convert_layout": lambda tile, *_: tile,
    "reshape": lambda tile, shape: tile.reshape(shape),
    "permute": lambda tile, order: tile.transpose(order),
    "split": lambda tile: (tile[..., 0], tile[..., 1]),
}


def _contract(left: Tile, right: Tile, result: Tile) -> Tile:
    made: Tile = (result + left.astype(np.float32) @ right.astype(np.float32)).view(Tile)
    return made


def run_kernel(
    text: str,
    entry: str,
    kernel: str,
    arguments: Sequence[Any],
    blocks: Mapping[str, int],
    grid: int,
) -> None:
    """Run a kernel's blocks one after the other."""
    functions = text[text.index("@gluon.jit") : text.index(f"def {entry}(")]
    code = compile(functions.replace(": gl.constexpr", ""), kernel, "exec")
    for block in range(grid):
        copies = Copies()
        names: dict[str, Any] = {
            "gl": Language(block),
            "gluon": type("Gluon", (), {"jit": staticmethod(lambda function: function)}),
            "async_copy": copies,
            "mma_v2": _contract,
        }
        exec(code, names)
        with np.errstate(
            divide="ignore"
        ):  # a row whose every position is masked chooses another value
            names[kernel](*arguments, **blocks)
        assert not any(copies.groups), "copies are left on their way"
