"""A diagram cut into pieces that run in turn, some of its arrays kept in global memory in between.

In: a diagram, the boxes to keep, and every argument's and output's storage type. Out: diagrams in the
order in which they run, each an ordinary one, so that every later stage serves it unchanged. A kept box
is an output of the piece that computes it and an argument of every piece that reads it; what is not kept
is computed again wherever it is needed. The pieces together mean what the whole means.

A piece may speak of an axis that none of its arguments carries, as in `size(e)` once the sum over e is
kept: lengths are those of the whole diagram.

Deliberately absent: which boxes to keep, which is a machine's matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from napkin.algebra.naming import diagram_names, fresh_name
from napkin.algebra.picks import without_picks
from napkin.diagram import (
    STORAGE_BYTES,
    Argument,
    Box,
    Diagram,
    Gather,
    Graph,
    Index,
    Input,
    Leaf,
    Output,
    Pointwise,
    Reduce,
    implied_sizes,
    operands_of,
    renumbered,
    topological,
    verify,
)
from napkin.language.source import NOWHERE, Span
from napkin.operators import Kind

_ADDED_TYPE = "fp32"  # of sums that are added up in memory
_AS_COMPUTED, _AS_ROUNDED = (
    "as computed",
    "as rounded",
)  # how a reader takes a box that it does not round
_LONGEST_NAME = 60  # of a diagram or an array, so that a number still fits behind it


def cut(
    diagram: Diagram,
    kept: Collection[int],
    types: Mapping[str, str],
    together: Collection[Collection[int]] = (),
    added: Mapping[int, tuple[str, ...]] | None = None,
) -> tuple[Diagram, ...]:
    """Return the pieces that give the kept boxes, each its own, and last the outputs that are left.

    `kept` are boxes that compute something; those that no output needs are left out. An output's own
    box may be among them: it then has a piece of its own. `together` are sets of kept boxes that one piece
    gives; what they share it computes once. `added` are kept sums and the axes over which their piece leaves
    their parts to be added up, in fp32. `types` is the storage type of every argument and output.

    Raises ValueError if two pieces would each wait for the other.
    """
    return _Cutter(diagram, kept, types, together, added or {}).pieces()


def stored_types(diagram: Diagram, types: Mapping[str, str]) -> dict[int, str]:
    """Return, for every box, the type in which keeping it costs no result its precision.

    A contraction rounds what it multiplies to the type of its operands; it may be stored so, and other sums
    of products then multiply the very numbers that the contraction does: what they give is as far off as
    it is, and where one is taken from the other the rounding is the same on both sides. All else is kept as
    it is computed: fp32, int32, bool.
    """
    boxes = diagram.boxes
    needed = topological(boxes, [each.box for each in diagram.outputs])
    wanted: dict[int, set[str]] = {each: set() for each in needed}
    for each in needed:
        for operand in operands_of(boxes[each]):
            wanted[operand].add(_rounds(boxes, boxes[each], types) or _multiplies(boxes[each]))
    plain = {Kind.FLOAT: "fp32", Kind.INT: "int32", Kind.BOOL: "bool"}
    found: dict[int, str] = {}
    for each, ways in wanted.items():
        rounded = ways - {_AS_ROUNDED}
        alike = len(rounded) == 1 and _AS_COMPUTED not in rounded
        found[each] = rounded.pop() if alike else plain[boxes[each].kind]
    return found


def _multiplies(box: Box) -> str:
    """Return how a box that rounds nothing takes what it reads: a sum of products takes it rounded."""
    is_product = isinstance(box, Reduce) and box.operator == "sum" and len(box.operands) > 1
    return _AS_ROUNDED if is_product else _AS_COMPUTED


def _rounds(boxes: Sequence[Box], box: Box, types: Mapping[str, str]) -> str | None:
    """Return the type to which a contraction of two matrices rounds its operands, else None."""
    if not isinstance(box, Reduce) or len(box.operands) != 2 or box.operator != "sum":
        return None
    left, right = (frozenset(boxes[each].axes) - set(box.over) for each in box.operands)
    summed = all(set(boxes[each].axes) & set(box.over) for each in box.operands)
    if not summed or not left - right or not right - left:
        return None
    direct = _input_types(boxes, box.operands, types)
    found = direct or _input_types(boxes, topological(boxes, box.operands), types)
    return min(found, key=lambda each: STORAGE_BYTES[each]) if found else None


def _input_types(boxes: Sequence[Box], among: Iterable[int], types: Mapping[str, str]) -> list[str]:
    """Return the storage types of the real arrays that the boxes are or read."""
    found: list[str] = []
    for each in among:
        box = boxes[each]
        source = boxes[box.array] if isinstance(box, Gather) else box
        if isinstance(source, Input) and source.kind is Kind.FLOAT:
            found += [types[source.name]] if types[source.name] in STORAGE_BYTES else []
    return found


def memory_order(boxes: Sequence[Box], readers: Iterable[int], each: int) -> tuple[str, ...]:
    """Return a kept box's axes, outermost those that contractions take one at a time.

    The matrices that they multiply then lie side by side, as hardware that copies tiles likes it, and so do
    the values of rows that what is multiplied is made of elementwise. The axes of a matrix lie as they do in
    an array of the same axes: as keys do, so do their gradients.
    """
    axes = next(
        (
            box.axes
            for box in boxes
            if isinstance(box, Input) and {*box.axes} == {*boxes[each].axes}
        ),
        boxes[each].axes,
    )
    batch = set(axes)
    for box in _made_elementwise(boxes, readers):
        if not isinstance(box, Reduce) or len(box.operands) < 2:
            return axes
        for operand in box.operands:
            if boxes[operand].axes:  # a number is alike in every matrix
                batch &= set(boxes[operand].axes) - set(box.over)
    return tuple(sorted(axes, key=lambda axis: axis not in batch))


def _made_elementwise(boxes: Sequence[Box], readers: Iterable[int]) -> list[Box]:
    """Return the readers, in the stead of one that is elementwise those that read what it makes."""
    found: list[Box] = []
    pending, seen = list(readers), set[int]()
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        if isinstance(boxes[each], Pointwise):
            pending += [place for place, box in enumerate(boxes) if each in operands_of(box)]
        else:
            found.append(boxes[each])
    return found


@dataclass(frozen=True, slots=True)
class _Kept:
    """A kept box as an array: its name, dims and storage type, and whether it is an output as it is."""

    name: str
    dims: tuple[tuple[str, ...], ...]
    dtype: str
    is_output: bool


class _Cutter:
    def __init__(
        self,
        diagram: Diagram,
        kept: Collection[int],
        types: Mapping[str, str],
        together: Collection[Collection[int]],
        added: Mapping[int, tuple[str, ...]],
    ) -> None:
        self.diagram = diagram
        self.boxes = diagram.boxes
        needed = topological(self.boxes, [each.box for each in diagram.outputs])
        self.kept = [
            each for each in needed if each in kept and not isinstance(self.boxes[each], Leaf)
        ]
        self.readers: dict[int, list[int]] = {}
        for each in needed:
            for operand in operands_of(self.boxes[each]):
                self.readers.setdefault(operand, []).append(each)
        self.together = [frozenset(each) for each in together]
        self.added = added
        self.types = types
        self.stored = stored_types(diagram, types)
        self.taken = {*diagram.names, *diagram.axes, diagram.name}
        self.given_by = {each.name for each in diagram.outputs}
        self.taken |= {each.name for each in diagram.arguments} | self.given_by
        self.own_names = diagram_names(diagram)
        self.arrays = {each: self._array(each) for each in self.kept}
        self.lengths = _lengths(diagram)

    def pieces(self) -> tuple[Diagram, ...]:
        """Return a piece for every kept box, then one for the outputs that none of them gives."""
        rest = [each for each in self.diagram.outputs if not self._is_given(each)]
        made = [
            without_picks(
                self._piece([output for each in sorted(own) for output in self._outputs(each)], own)
            )
            for own in self._groups()
        ]
        if rest:
            made.append(without_picks(self._piece(rest, frozenset())))
        if len(made) == 1:
            outputs = self.diagram.outputs
            marked = (replace(each, added=self.added.get(each.box, ())) for each in outputs)
            return (verify(replace(self.diagram, outputs=tuple(marked))),)
        stem = self.diagram.name[:_LONGEST_NAME]
        names = (fresh_name(f"{stem}_{number}", self.taken) for number in range(1, len(made) + 1))
        return tuple(
            verify(replace(each, name=name)) for name, each in zip(names, made, strict=True)
        )

    def _is_given(self, output: Output) -> bool:
        """Return whether the piece that gives an output's box gives the output: a sum of parts is in fp32."""
        is_cast = output.box in self.added and self.types[output.name] != _ADDED_TYPE
        return output.box in self.arrays and not is_cast

    def _groups(self) -> list[frozenset[int]]:
        """Return the kept boxes by the piece that gives them, each piece after those that it reads."""
        waiting: dict[frozenset[int], set[int]] = {}
        for each in self.kept:
            group = next((one for one in self.together if each in one), frozenset({each}))
            group &= set(self.kept)
            if group not in waiting:
                waiting[group] = set(self._reached(sorted(group), group)) & set(self.kept) - group
        ready: list[frozenset[int]] = []
        given: set[int] = set()
        while len(ready) < len(waiting):
            found = next(
                (each for each in waiting if each not in ready and waiting[each] <= given), None
            )
            if found is None:
                raise ValueError("two pieces would each wait for the other")
            ready.append(found)
            given |= found
        return ready

    # --- kept arrays ------------------------------------------------------------------------------

    def _array(self, each: int) -> _Kept:
        dtype = _ADDED_TYPE if each in self.added else self.stored[each]
        for output in self.diagram.outputs:
            if output.box == each and self.types[output.name] == dtype:
                return _Kept(output.name, output.dims, dtype, is_output=True)
        dims = tuple((axis,) for axis in memory_order(self.boxes, self.readers.get(each, ()), each))
        return _Kept(self._name(each), dims, dtype, is_output=False)

    def _name(self, each: int) -> str:
        """Return the diagram's own name for a box if no output has it, else what the box computes."""
        own = self.own_names.get(each)
        if own is not None and own not in self.given_by:
            return own
        box = self.boxes[each]
        if own is not None:
            wish = f"{own}_kept"
        elif isinstance(box, Reduce):
            wish = "_".join((box.operator, *box.over))
        else:
            wish = "_".join((getattr(box, "operator", "read"), *(box.axes or ("all",))))
        return fresh_name(wish[:_LONGEST_NAME], self.taken)

    def _outputs(self, each: int) -> list[Output]:
        """Return what a kept box's piece gives: the diagram's outputs, and the array if it is read."""
        own = [output for output in self.diagram.outputs if output.box == each]
        found = [output for output in own if self._is_given(output)]
        array = self.arrays[each]
        if (each in self.readers or found != own) and not array.is_output:
            found.append(Output(array.name, array.dims, array.dtype, each, self._span(each)))
        added = self.added.get(each, ())
        return [replace(output, added=added) for output in found]

    # --- pieces -----------------------------------------------------------------------------------

    def _piece(self, outputs: Sequence[Output], own: frozenset[int]) -> Diagram:
        """Return the piece that computes its own boxes from the arguments and other kept arrays."""
        reached = self._reached([output.box for output in outputs], own)
        renamed = _renaming_reads(self.diagram, reached)
        for each in own:
            renamed.pop(each, None)
        graph, new, origin = Graph(), dict[int, int](), list[int]()
        arguments: dict[str, Argument] = {}
        for each in reached:
            box = self._seen_as(each, own, renamed)
            if box is None:
                continue
            if isinstance(box, Input):
                arguments[box.name] = self._argument(box, each)
            new[each] = graph.add(renumbered(box, new))
            origin.append(each)
        whole = [each.name for each in self.diagram.arguments if each.name in arguments]
        piece = Diagram(
            self.diagram.name,
            tuple(arguments.pop(name) for name in whole) + tuple(arguments.values()),
            tuple(replace(each, box=new[each.box]) for each in outputs),
            tuple(graph.boxes),
            tuple(
                renamed[each].name if each in renamed else self._box_name(each, own)
                for each in origin
            ),
            spans=tuple(self._span(each) for each in origin),
            source=self.diagram.source,
        )
        sizes = ((axis, self.lengths[axis]) for axis in piece.axes if axis in self.lengths)
        return replace(piece, sizes=tuple(sizes))

    def _seen_as(self, each: int, own: frozenset[int], renamed: Mapping[int, Input]) -> Box | None:
        """Return a box as a piece has it: an argument if it is kept, and None if it is not needed."""
        box = self.boxes[each]
        if each in self.arrays and each not in own:
            array = self.arrays[each]
            return Input(array.name, _open(array.dims), box.kind)
        if isinstance(box, Input) and box.name in {one.name for one in renamed.values()}:
            return None
        return renamed.get(each, box)

    def _argument(self, box: Input, each: int) -> Argument:
        """Return an argument of a piece; one that is read under other labels is declared with those."""
        if each in self.arrays:
            array = self.arrays[each]
            return Argument(array.name, array.dims, array.dtype, self._span(each))
        argument = self.diagram.argument(box.name)
        labels = dict(zip(argument.axes, box.axes, strict=True))
        dims = tuple(tuple(labels[axis] for axis in dim) for dim in argument.dims)
        return replace(argument, dims=dims)

    def _reached(self, roots: Sequence[int], own: frozenset[int]) -> list[int]:
        """Return the boxes that the roots need, operands first, not looking behind kept ones."""
        edge = set(self.kept) - own
        needed: set[int] = set()
        pending = list(roots)
        while pending:
            each = pending.pop()
            if each not in needed:
                needed.add(each)
                pending += () if each in edge else operands_of(self.boxes[each])
        return sorted(needed)

    def _box_name(self, each: int, own: frozenset[int]) -> str:
        is_array = each in self.arrays and (each not in own or each not in self.own_names)
        return self.arrays[each].name if is_array else self.diagram.names[each]

    def _span(self, each: int) -> Span:
        return self.diagram.spans[each] if self.diagram.spans else NOWHERE


def _renaming_reads(diagram: Diagram, reached: Sequence[int]) -> dict[int, Input]:
    """Return the reads that only give an argument's axes other labels, as arguments so labelled.

    All that the boxes read of the argument must be that one read, and the labels equally long.
    """
    boxes, implied = diagram.boxes, implied_sizes(diagram)
    readers: dict[int, list[int]] = {}
    for each in reached:
        for operand in operands_of(boxes[each]):
            if isinstance(boxes[operand], Input):
                readers.setdefault(operand, []).append(each)
    found: dict[int, Input] = {}
    for source, users in readers.items():
        box, array = boxes[users[0]], boxes[source]
        if len(set(users)) != 1 or not isinstance(box, Gather) or not isinstance(array, Input):
            continue
        indices = [boxes[index] for index in box.indices]
        labels = tuple(index.axis for index in indices if isinstance(index, Index))
        alike = (
            label == own or implied.get(label) == (own, 1)
            for label, own in zip(labels, array.axes, strict=False)
        )
        if len(set(labels)) == len(array.axes) == len(labels) and all(alike):
            found[users[0]] = Input(array.name, labels, array.kind)
    return found


def _open(dims: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(axis for dim in dims for axis in dim)


def _lengths(diagram: Diagram) -> dict[str, int]:
    """Return the lengths that the diagram gives, and those that they imply."""
    lengths = dict(diagram.sizes)
    for axis, (read, factor) in implied_sizes(diagram).items():
        if read in lengths:
            lengths.setdefault(axis, lengths[read] * factor)
    return lengths
