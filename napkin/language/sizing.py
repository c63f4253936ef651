"""Which axes a diagram has, and whose lengths its arguments tell.

In: a `Diagram`. Out: labels.
"""

from __future__ import annotations

from napkin.diagram import Diagram, Size, implied_sizes


def every_axis(diagram: Diagram) -> tuple[str, ...]:
    """Return the axes of a diagram, and those of which only the size is taken."""
    counted = (box.axis for box in diagram.boxes if isinstance(box, Size))
    return tuple(dict.fromkeys((*diagram.axes, *counted)))


def sized_axes(diagram: Diagram) -> set[str]:
    """Return the axes whose length the arguments' shapes give, as they are or by one division."""
    unknown = [set(dim) for argument in diagram.arguments for dim in argument.dims]
    users: dict[str, list[set[str]]] = {}
    for dim in unknown:
        for axis in dim:
            users.setdefault(axis, []).append(dim)
    ready = [dim for dim in unknown if len(dim) == 1]
    known: set[str] = set()
    while ready:
        for axis in tuple(ready.pop()):
            known.add(axis)
            for dim in users[axis]:
                dim.discard(axis)
                ready += [dim] if len(dim) == 1 else []
    return known | {
        axis for axis, each in implied_sizes(diagram).items() if known.issuperset(each.axes)
    }
