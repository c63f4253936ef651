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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from napkin.algebra.naming import diagram_names, fresh_name
from napkin.algebra.picks import without_picks
from napkin.algebra.stored import memory_order, stored_types
from napkin.diagram import (
    Argument,
    Box,
    Diagram,
    Gather,
    Graph,
    Implied,
    Index,
    Input,
    Leaf,
    Output,
    Reduce,
    implied_sizes,
    operands_of,
    renumbered,
    topological,
    verify,
)
from napkin.language.source import NOWHERE, Span

_ADDED_TYPE = "fp32"  # of sums that are added up in memory
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
    return Cutter(diagram, types).pieces(kept, together, added or {})


@dataclass(frozen=True, slots=True)
class _Kept:
    """A kept box as an array: its name, dims and storage type, and whether it is an output as it is."""

    name: str
    dims: tuple[tuple[str, ...], ...]
    dtype: str
    is_output: bool


@dataclass(frozen=True, slots=True)
class Part:
    """What a piece is, but for names: the kept boxes that it gives and those that it reads.

    `rest` are the outputs of a piece that gives no kept box. `added` are those of its boxes that are sums of
    parts, with their axes. A part that `is_whole` is all of the diagram.
    """

    own: frozenset[int]
    read: frozenset[int]
    rest: tuple[str, ...]
    added: frozenset[tuple[int, tuple[str, ...]]]
    is_whole: bool


class Cutter:
    """A diagram that is cut in many ways: what no cut changes is found once, and parts have one piece."""

    def __init__(self, diagram: Diagram, types: Mapping[str, str]) -> None:
        self.diagram = diagram
        self.types = types
        self.needed = topological(diagram.boxes, [each.box for each in diagram.outputs])
        self.readers: dict[int, list[int]] = {}
        for each in self.needed:
            for operand in operands_of(diagram.boxes[each]):
                self.readers.setdefault(operand, []).append(each)
        self.stored = stored_types(diagram, types)
        self.given_by = {each.name for each in diagram.outputs}
        own = {*diagram.names, *diagram.axes, diagram.name}
        self.taken = own | {each.name for each in diagram.arguments} | self.given_by
        self.own_names = diagram_names(diagram)
        self.lengths = _lengths(diagram)

    def pieces(
        self,
        kept: Collection[int],
        together: Collection[Collection[int]],
        added: Mapping[int, tuple[str, ...]],
    ) -> tuple[Diagram, ...]:
        """Return the pieces of a cut, as `cut` does."""
        return self._cut(kept, together, added).pieces()

    def parts(
        self,
        kept: Collection[int],
        together: Collection[Collection[int]],
        added: Mapping[int, tuple[str, ...]],
    ) -> tuple[Part, ...]:
        """Return what the pieces of a cut are, in order; those of many cuts share parts.

        Raises ValueError if two pieces would each wait for the other.
        """
        return self._cut(kept, together, added).parts()

    def piece(self, part: Part) -> Diagram:
        """Return a part as a diagram; its arrays may have other names than in a cut."""
        return _Cut(self, part.own | part.read, (part.own,), dict(part.added)).piece(part)

    def _cut(
        self,
        kept: Collection[int],
        together: Collection[Collection[int]],
        added: Mapping[int, tuple[str, ...]],
    ) -> _Cut:
        """Return a cut that keeps no box that only its own piece reads."""
        found = _Cut(self, kept, together, added)
        unread = found.unread()
        return _Cut(self, set(kept) - unread, together, added) if unread else found


class _Cut:
    def __init__(
        self,
        cutter: Cutter,
        kept: Collection[int],
        together: Collection[Collection[int]],
        added: Mapping[int, tuple[str, ...]],
    ) -> None:
        self.cutter = cutter
        self.diagram, self.types = cutter.diagram, cutter.types
        self.boxes = cutter.diagram.boxes
        self.kept = [
            each
            for each in cutter.needed
            if each in kept and not isinstance(self.boxes[each], Leaf)
        ]
        self.together = [frozenset(each) for each in together]
        self.added = added
        self.taken = set(cutter.taken)

    @cached_property
    def arrays(self) -> dict[int, _Kept]:
        """The kept boxes as arrays."""
        return {each: self._array(each) for each in self.kept}

    def parts(self) -> tuple[Part, ...]:
        """Return what the pieces are, in order."""
        kept, groups = frozenset(self.kept), self._groups()
        rest = [each for each in self.diagram.outputs if not self._is_given(each)]
        is_whole = len(groups) + bool(rest) == 1
        roots: list[tuple[frozenset[int], list[int], tuple[str, ...]]]
        roots = [(own, sorted(own), ()) for own in groups]
        if rest:
            names = tuple(each.name for each in rest)
            roots.append((frozenset(), [each.box for each in rest], names))
        found: list[Part] = []
        for own, first, names in roots:
            read = kept.intersection(self._reached(first, own)) - own
            added = {(each, axes) for each, axes in self.added.items() if each in own | read}
            found.append(Part(own, read, names, frozenset(added), is_whole))
        return tuple(found)

    def unread(self) -> set[int]:
        """Return the kept boxes that are no outputs, and that no piece reads but the one that gives them."""
        read = {each for part in self.parts() for each in part.read}
        outputs = {each.box for each in self.diagram.outputs}
        return set(self.kept) - read - outputs

    def piece(self, part: Part) -> Diagram:
        """Return the piece that a part is."""
        return self._whole() if part.is_whole else verify(self._of_part(part))

    def _of_part(self, part: Part) -> Diagram:
        outputs = [each for each in self.diagram.outputs if each.name in part.rest]
        if not part.rest:
            outputs = [output for each in sorted(part.own) for output in self._outputs(each)]
        return without_picks(self._piece(outputs, part.own))

    def _whole(self) -> Diagram:
        outputs = self.diagram.outputs
        marked = (replace(each, added=self.added.get(each.box, ())) for each in outputs)
        return verify(replace(self.diagram, outputs=tuple(marked)))

    def pieces(self) -> tuple[Diagram, ...]:
        """Return a piece for every kept box, then one for the outputs that none of them gives."""
        parts = self.parts()
        if len(parts) == 1:
            return (self._whole(),)
        made = [self._of_part(each) for each in parts]
        stem = self.diagram.name[:_LONGEST_NAME]
        names = (fresh_name(f"{stem}_{number}", self.taken) for number in range(1, len(made) + 1))
        return tuple(
            verify(replace(each, name=name)) for name, each in zip(names, made, strict=True)
        )

    def _is_given(self, output: Output) -> bool:
        """Return whether the piece that gives an output's box gives the output: a sum of parts is in fp32."""
        is_cast = output.box in self.added and self.types[output.name] != _ADDED_TYPE
        return output.box in self.kept and not is_cast

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
        dtype = _ADDED_TYPE if each in self.added else self.cutter.stored[each]
        for output in self.diagram.outputs:
            if output.box == each and self.types[output.name] == dtype:
                return _Kept(output.name, output.dims, dtype, is_output=True)
        dims = tuple(
            (axis,) for axis in memory_order(self.boxes, self.cutter.readers.get(each, ()), each)
        )
        return _Kept(self._name(each), dims, dtype, is_output=False)

    def _name(self, each: int) -> str:
        """Return the diagram's own name for a box if no output has it, else what the box computes."""
        own = self.cutter.own_names.get(each)
        if own is not None and own not in self.cutter.given_by:
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
        if (each in self.cutter.readers or found != own) and not array.is_output:
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
        sizes = (
            (axis, self.cutter.lengths[axis]) for axis in piece.axes if axis in self.cutter.lengths
        )
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
        is_array = each in self.arrays and (each not in own or each not in self.cutter.own_names)
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
            label == own or implied.get(label) == Implied((own,))
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
    for axis, implied in implied_sizes(diagram).items():
        if lengths.keys() >= set(implied.axes):
            lengths.setdefault(axis, implied.length(lengths))
    return lengths
