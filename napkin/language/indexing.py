"""Arrays read at positions: `K[page[b, x // 16], x % 16, k, d]`.

In: an array's value and one index value for each of its axes. Out: the array itself where every
index is its own axis; a `Gather` of an argument; for a computed array, which has no memory to
read from, a renaming of its axes or the sum of what a comparison selects, `sum[v](where(v == y,
Z, 0))`, which still streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napkin.diagram import (
    Gather,
    Index,
    Input,
    Leaf,
    Pointwise,
    Reduce,
    join_axes,
    topological,
)
from napkin.language import syntax
from napkin.language.errors import InternalError, Label
from napkin.language.workspace import MAX_AXES, Scope, Value, Workspace
from napkin.operators import Kind


def read_element(
    space: Workspace,
    element: syntax.Element,
    array: Value,
    indices: Sequence[Value],
    scope: Scope,
) -> Value | None:
    """Return the value of an array at some positions."""
    if not _indices_fit(space, element, array, indices, scope):
        return None
    at = dict(zip(array.order, indices, strict=True))
    if all(_plain(space, index) == axis for axis, index in at.items()):
        return array
    axes = join_axes([space.axes(index) for index in indices])
    if len(axes) > MAX_AXES:
        fact = f"this has {len(axes)} axes, more than {MAX_AXES}"
        space.refuse(scope, "N219", fact, Label(element.span))
        return None
    box = space.graph[array.box]
    if isinstance(box, Input):
        # An array may be known by another order of axes than it has in memory.
        gather = space.graph.gather(array.box, [at[axis].box for axis in box.axes])
        return space.made(gather, element.span, scope)
    return _read_computed(space, element, array, at, scope)


def _indices_fit(
    space: Workspace,
    element: syntax.Element,
    array: Value,
    indices: Sequence[Value],
    scope: Scope,
) -> bool:
    name = element.array.name
    if len(indices) != len(array.order):
        count = f"{len(array.order)} ax{'i' if len(array.order) == 1 else 'e'}s"
        note = f"`{name}` is `{name}[{' '.join(array.order)}]`"
        space.refuse(
            scope,
            "N213",
            f"`{name}` has {count}, {len(indices)} indices given",
            Label(element.span),
            notes=[note],
        )
        return False
    for expression, index in zip(element.indices, indices, strict=True):
        kind = space.kind(index)
        if kind is not Kind.INT:
            fact = f"an index of `{name}` is {kind.value}, not int"
            help_line = "declare index arrays as `page[b n]: int32`"
            space.refuse(scope, "N214", fact, Label(expression.span), help=help_line)
            return False
    return True


def _plain(space: Workspace, index: Value) -> str | None:
    """Return the axis whose bare label an index is, None for any other index."""
    box = space.graph[index.box]
    return box.axis if isinstance(box, Index) else None


# --- computed arrays ------------------------------------------------------------------------------


def _read_computed(
    space: Workspace,
    element: syntax.Element,
    array: Value,
    at: Mapping[str, Value],
    scope: Scope,
) -> Value | None:
    renamed = _renaming(space, array, at)
    selected = {
        axis: index
        for axis, index in at.items()
        if axis not in renamed and _plain(space, index) != axis
    }
    kept = [renamed.get(axis, axis) for axis in array.order]
    for index in selected.values():
        used = set(selected) & set(space.axes(index))
        if used or len(set(kept)) < len(kept):
            _refuse_capture(space, element, sorted(used or selected), scope)
            return None
    box = _rename(space, array.box, renamed, scope, element) if renamed else array.box
    return _select(space, element, box, selected, scope)


def _renaming(space: Workspace, array: Value, at: Mapping[str, Value]) -> dict[str, str]:
    """Return the axes that only take another label: all targets distinct, and none bound inside."""
    plain = {axis: name for axis, index in at.items() if (name := _plain(space, index))}
    targets = [plain.get(axis, axis) for axis in array.order]
    renamed = {
        axis: name for axis, name in plain.items() if axis != name and targets.count(name) == 1
    }
    if not renamed:
        return {}
    touched = {*renamed, *renamed.values()}
    boxes = topological(space.graph, [array.box])
    space.step(len(boxes))
    bound = {
        axis for each in boxes if isinstance(box := space.graph[each], Reduce) for axis in box.over
    }
    return {} if bound & touched else renamed


def _rename(
    space: Workspace,
    root: int,
    renamed: Mapping[str, str],
    scope: Scope,
    element: syntax.Element,
) -> int:
    """Rebuild a computed array with other axes; its arguments become reads at the new labels."""
    graph = space.graph
    new: dict[int, int] = {}
    for each in topological(graph, [root]):
        box = graph[each]
        match box:
            case Input() if set(box.axes) & set(renamed):
                axes = [renamed.get(axis, axis) for axis in box.axes]
                new[each] = graph.gather(each, [graph.add(Index(axis)) for axis in axes])
            case Index():
                new[each] = graph.add(Index(renamed.get(box.axis, box.axis)))
            case Gather():
                new[each] = graph.gather(box.array, [new[index] for index in box.indices])
            case Pointwise():
                new[each] = graph.pointwise(box.operator, *(new[o] for o in box.operands))
            case Reduce():
                new[each] = graph.reduce(box.operator, [new[o] for o in box.operands], box.over)
            case _ if isinstance(box, Leaf):
                new[each] = each
            case _:
                raise InternalError(f"a box of no known class: {box}")
        space.made(new[each], element.span, scope)
    return new[root]


def _select(
    space: Workspace,
    element: syntax.Element,
    box: int,
    selected: Mapping[str, Value],
    scope: Scope,
) -> Value | None:
    graph = space.graph
    if not selected:
        return space.made(box, element.span, scope)
    if graph[box].kind is Kind.BOOL:
        fact = f"`{element.array.name}` is computed and holds truth values: it cannot be read so"
        help_line = "read the arrays that it is computed from"
        space.refuse(scope, "N215", fact, Label(element.span), help=help_line)
        return None
    tests = [
        graph.pointwise("eq", graph.add(Index(axis)), index.box) for axis, index in selected.items()
    ]
    test = tests[0]
    for each in tests[1:]:
        test = graph.pointwise("and", test, each)
    chosen = graph.pointwise("where", test, box, graph.constant(0))
    return space.made(graph.reduce("sum", [chosen], list(selected)), element.span, scope)


def _refuse_capture(
    space: Workspace, element: syntax.Element, axes: Sequence[str], scope: Scope
) -> None:
    name = element.array.name
    words = ", ".join(f"`{axis}`" for axis in axes)
    space.refuse(
        scope,
        "N215",
        f"`{name}` is computed: its axis {words} cannot be read at a function of itself",
        Label(element.span),
        notes=["an element of a computed array is selected by a sum over the axis read"],
        help=f"let the statement that assigns `{name}` use another axis, or index its arguments",
    )
