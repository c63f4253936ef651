"""Small Programs for tests: a diagram's text or example, laid out by tiles that the test chooses.

The tiles need not fit a machine: the executor and the counts take any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napkin.algebra.derive import Derivation, derive, used_axes
from napkin.diagram import SCALAR_TYPES, Diagram, implied_sizes
from napkin.evaluate import reference
from napkin.language import read
from napkin.language.source import Source
from napkin.operators import Kind
from napkin.schedule.execute import Execution, execute
from napkin.schedule.layout import Tiling, build_layout, bundles
from napkin.schedule.lowering.lower import lower
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.planning.plan import storage_types
from napkin.schedule.program import Program
from napkin.schedule.tiling.tilings import power_of_two

Array = npt.NDArray[Any]
ROOT = Path(__file__).parent.parent
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.napkin"))}


@dataclass(frozen=True)
class Tiles:
    """Tiles for rows and columns, the stream, and chunks of split axes (0: those lie whole)."""

    row: int
    stream: int
    split: int = 0
    descriptors: bool = False
    own: tuple[tuple[str, int], ...] = ()  # axes with a tile of their own


def diagram_of(text: str) -> Diagram:
    return read(Source("test.napkin", text))[-1]


def example(name: str) -> Diagram:
    return diagram_of(EXAMPLES[name].read_text(encoding="utf-8"))


def sizes_of(diagram: Diagram, given: Mapping[str, int], default: int) -> dict[str, int]:
    """Return every axis's length: given, implied by what is given, or the default."""
    sizes = {axis: given.get(axis, default) for axis in diagram.axes}
    for axis, implied in implied_sizes(diagram).items():
        sizes[axis] = implied.length(sizes)
    return sizes


def program_of(
    diagram: Diagram, sizes: Mapping[str, int], tiles: Tiles, dtype: str = "bf16"
) -> Program:
    """Return the Program of a diagram with these tiles."""
    return lower_by(rewrite(derive(diagram)), sizes, tiles, dtype)


def lower_by(
    derivation: Derivation, sizes: Mapping[str, int], tiles: Tiles, dtype: str = "bf16"
) -> Program:
    """Return the Program of a derivation that is rewritten already."""
    chosen = dict.fromkeys(derivation.group, 1)
    together = bundles(derivation) or tuple((axis,) for axis in derivation.group[-1:])
    chosen |= {axis: tiles.row for bundle in together for axis in bundle}
    chosen |= {axis: tile for axis, tile in tiles.own if axis in chosen}
    if derivation.stream is not None:
        chosen[derivation.stream.axis] = tiles.stream
    carried = (axis for output in derivation.diagram.outputs for axis in output.axes)
    inner = dict.fromkeys((*used_axes(derivation.diagram), *carried))
    rest = [axis for axis in inner if axis not in chosen]
    split = [axis for axis in rest if tiles.split and axis in derivation.splittable]
    whole = [axis for axis in rest if axis not in split]
    chosen |= dict.fromkeys(split, tiles.split)
    chosen |= {axis: power_of_two(sizes[axis]) for axis in whole}
    tiling = Tiling(tuple(chosen.items()), tuple(whole), tuple(split), 2, tiles.descriptors)
    types = storage_types(derivation.diagram, dtype)
    return lower(derivation, build_layout(derivation, sizes, types, tiling))


def arguments_of(
    diagram: Diagram, sizes: Mapping[str, int], limits: Mapping[str, int], seed: int
) -> dict[str, Any]:
    """Return random arguments: integers below an argument's limit (4), reals around one."""
    generator = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for each in diagram.arguments:
        shape = [int(np.prod([sizes[axis] for axis in dim], dtype=int)) for dim in each.dims]
        if each.kind is Kind.INT:
            made[each.name] = generator.integers(0, limits.get(each.name, 4), shape)
        else:
            made[each.name] = generator.standard_normal(shape)
        if each.dtype in SCALAR_TYPES:
            made[each.name] = 7 if each.kind is Kind.INT else 0.7
    return made


def run(program: Program, arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> Execution:
    """Execute a program on a diagram's arguments."""
    names = {each.name for each in program.arrays}
    arrays = {name: value for name, value in arguments.items() if name in names}
    return execute(program, arrays, scalars_in(arguments, program), sizes)


def scalars_in(arguments: Mapping[str, Any], program: Program) -> dict[str, Any]:
    names = {each.name for each in program.arrays}
    return {name: value for name, value in arguments.items() if name not in names}


def worst_error(outputs: Mapping[str, Array], diagram: Diagram, arguments: Any) -> float:
    """Return the largest error of any output, relative to its largest value."""
    wanted = reference(diagram, arguments)
    return max(
        float(np.max(np.abs(outputs[name] - want)) / max(float(np.max(np.abs(want))), 1e-30))
        for name, want in wanted.items()
    )
