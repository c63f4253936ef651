"""Pieces of a diagram without their names, so that alike ones are equal.

In: a `Diagram`. Out: the same diagram with every name replaced by its place. Layers that differ in nothing
else are planned once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from napkin.diagram import Argument, Box, Diagram, Index, Input, Output, Reduce, Size
from napkin.schedule.remember import remembered


@remembered
def anonymous(piece: Diagram) -> Diagram:
    """Return a piece with its names replaced by their order: alike pieces, such as layers, become equal."""
    axes = {axis: f"a{number}" for number, axis in enumerate(piece.axes)}
    names = {each.name: f"A{number}" for number, each in enumerate(piece.arguments)}

    def dims_of(each: Argument | Output) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(axes[axis] for axis in dim) for dim in each.dims)

    return Diagram(
        "",
        tuple(replace(each, name=names[each.name], dims=dims_of(each)) for each in piece.arguments),
        tuple(
            replace(
                each, name="", dims=dims_of(each), added=tuple(axes[axis] for axis in each.added)
            )
            for each in piece.outputs
        ),
        tuple(_renamed(box, axes, names) for box in piece.boxes),
        (),
        tuple((axes[axis], size) for axis, size in piece.sizes),
    )


def _renamed(box: Box, axes: Mapping[str, str], names: Mapping[str, str]) -> Box:
    match box:
        case Input():
            return Input(names[box.name], tuple(axes[axis] for axis in box.axes), box.kind)
        case Index() | Size():
            return replace(box, axis=axes[box.axis])
        case Reduce():
            own = tuple(axes[axis] for axis in box.axes)
            return replace(box, axes=own, over=tuple(axes[axis] for axis in box.over))
        case _:
            return replace(box, axes=tuple(axes[axis] for axis in box.axes))
