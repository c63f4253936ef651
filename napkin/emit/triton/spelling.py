"""The words of a Triton kernel: its names, and how types and numbers are written.

In: a `Program`. Out: `Spelling`, every name that the kernel and its entry share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf, isinf, isnan

from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Compute, Length, Load, Program, Store, tiles_of, walk

TRITON_TYPES = {
    "bf16": "tl.bfloat16",
    "fp16": "tl.float16",
    "fp32": "tl.float32",
    "fp64": "tl.float64",
    "fp8e4m3": "tl.float8e4nv",
    "fp8e5m2": "tl.float8e5",
    "int8": "tl.int8",
    "int32": "tl.int32",
    "int64": "tl.int64",
    "bool": "tl.int1",
}
NARROW = {"bf16", "fp16", "fp8e4m3", "fp8e5m2", "int8"}  # computed with as 32 bits
_LARGEST_INT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Spelling:
    """Every name that the kernel and its entry share, unique and legal."""

    scalars: dict[str, str]
    sizes: dict[str, str]
    starts: dict[str, str]
    lanes: dict[str, str]
    blocks: dict[str, str]
    pointers: dict[str, str]
    descriptors: dict[str, str]
    strides: dict[tuple[str, str], str]
    tiles: dict[str, str]
    further: dict[tuple[str, tuple[str, ...]], str]

    def tile_of(self, array: str, dims: tuple[str, ...]) -> str:
        """Return the name of an array's addresses; of another shape they have another: a loop carries one."""
        return self.further.get((array, dims), self.tiles[array])


def spell(program: Program) -> Spelling:
    """Choose the kernel's names: none meets a tile, an argument, a keyword or another."""
    tiles = {tile.name for tile in tiles_of(program.operations)}
    # The module's functions and its constants share a scope: BLOCK_Q may be a diagram's name as well.
    functions = {program.name, f"{program.name}_", f"{program.name}_kernel"}
    names = Names(RESERVED | tiles | functions)
    arrays = (*program.arrays, *program.outputs)
    return Spelling(
        {name: names.fresh(name) for name, _ in program.scalars},
        {axis: names.fresh(f"size_{axis}") for axis in _all_axes(program)},
        {each.axis: names.fresh(f"{each.axis}_start") for each in program.axes},
        {each.axis: names.fresh(f"lane_{each.axis}") for each in program.axes},
        {dim.name: names.fresh(f"BLOCK_{dim.name.upper()}") for dim in program.dims}
        | {
            each.axis: names.fresh(f"BLOCK_{each.axis.upper()}")
            for each in program.axes
            if each.dim is not None and each.dim != each.axis
        },
        {each.name: names.fresh(f"{each.name}_ptr") for each in arrays},
        {each.name: names.fresh(f"{each.name}_desc") for each in arrays},
        {
            (each.name, axis): names.fresh(f"{each.name}_stride_{axis}")
            for each in arrays
            for axis in each.axes
        },
        {each.name: names.fresh(f"{each.name}_tile") for each in arrays},
        {
            (array, dims): names.fresh(f"{array}_tile")
            for array, shapes in _shapes_read(program).items()
            for dims in shapes[1:]
        },
    )


def _shapes_read(program: Program) -> dict[str, list[tuple[str, ...]]]:
    """Return the shapes of the tiles that are read of each array, in the order of their reads."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for each in walk(program.operations):
        if isinstance(each, Load) and each.tile.dims not in found.setdefault(each.array, []):
            found[each.array].append(each.tile.dims)
    return found


def _all_axes(program: Program) -> list[str]:
    """Return every axis, then those that are only read by position, then those of lengths alone."""
    seen = dict.fromkeys(each.axis for each in program.axes)
    seen |= dict.fromkeys(axis for each in program.arrays for axis in each.axes)
    for each in walk(program.operations):
        operands = each.operands if isinstance(each, Compute) else ()
        operands += (each.source,) if isinstance(each, Store) else ()
        seen |= dict.fromkeys(one.axis for one in operands if isinstance(one, Length))
    return list(seen)


def uses(text: str, name: str) -> bool:
    """Return whether a text names something."""
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def literal(value: float | int | bool) -> str:
    """Return a number as Python writes it in a kernel."""
    if isinstance(value, float) and isnan(value):
        return 'float("nan")'
    if isinstance(value, float) and isinf(value):
        return 'float("inf")' if value == inf else 'float("-inf")'
    return repr(value)


def as_integer(value: float | int | bool) -> int:
    """Return a number as an integer tile holds it: the units of reductions are written as floats."""
    return int(max(min(value, _LARGEST_INT), -_LARGEST_INT - 1))
