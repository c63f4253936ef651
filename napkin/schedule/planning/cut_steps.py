"""Cuts of a diagram, and the ways to join two of their kernels or to part one.

In: a diagram's boxes and a cut: the boxes that are kept in memory. Out: cuts in which one kernel
gives what two gave, or two what one gave; the last resort is a kernel that walks two axes, where some
outputs sum the one and some the other: its groups' parts of the former are added up in memory
(`napkin.algebra.parts`).

What a cut costs is not asked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napkin.algebra.parts import added_axes, core_sum
from napkin.diagram import Box, Reduce, topological


@dataclass(frozen=True, slots=True)
class Cut:
    """The boxes to keep, and the sets of them that one kernel gives.

    `added` are kept sums and the axes over which their kernel leaves their parts to be added up in memory.
    """

    kept: frozenset[int]
    together: frozenset[frozenset[int]] = frozenset()
    added: frozenset[tuple[int, tuple[str, ...]]] = frozenset()

    def without(self, each: int) -> Cut:
        """Return the cut that computes one box again instead."""
        left = (group - {each} for group in self.together)
        together = frozenset(group for group in left if len(group) > 1)
        return Cut(self.kept - {each}, together, _of(self.added, self.kept - {each}))

    def joined(self, one: frozenset[int], other: frozenset[int]) -> Cut:
        """Return the cut in which one kernel gives what two gave."""
        return Cut(self.kept, self.together - {one, other} | {one | other}, self.added)

    def with_all(self, outputs: frozenset[int]) -> Cut:
        """Return the same cut with the outputs among the kept: those that were not, one kernel gives."""
        rest = outputs - self.kept
        together = {rest} if len(rest) > 1 else set()
        return Cut(self.kept | rest, self.together | together, self.added)

    @property
    def groups(self) -> list[frozenset[int]]:
        """The kept boxes by the kernel that gives them."""
        alone = self.kept.difference(*self.together)
        return sorted((*self.together, *(frozenset({each}) for each in alone)), key=min)


def read_apart(boxes: Sequence[Box], chosen: Cut) -> Cut:
    """Return the cut in which what a kernel gives and computes others of its outputs from has one of its own.

    A kernel that needs arrays for less may have a form of warps with roles.
    """
    read = {
        each
        for group in chosen.together
        for each in group
        if each in topological(boxes, sorted(group - {each}))
    }
    left = (group - read for group in chosen.together)
    return Cut(chosen.kept, frozenset(group for group in left if len(group) > 1), chosen.added)


def joined_by_adding(
    boxes: Sequence[Box], chosen: Cut, groups: Sequence[frozenset[int]]
) -> list[Cut]:
    """Return the cuts in which one kernel gives sums of these kernels, some of them added up from parts.

    What has no part in it keeps a kernel: a row's statistic may be needed before. A sum that is added up is
    kept as it is, and what is computed from it is so by a kernel behind.
    """
    cores = {each: core_sum(boxes, each) for group in groups for each in group}
    summed = {axis for core in cores.values() for axis in _over(boxes, core)}
    found: dict[Cut, None] = {}
    for stream in sorted(summed):
        for axis in sorted(summed - {stream}):
            members = frozenset(
                each
                for each, core in cores.items()
                if axis in (*boxes[each].axes, *_over(boxes, core))
            )
            if all(members & group for group in groups):
                added = added_axes(boxes, members, chosen.kept - members, stream)
                if added is not None and any(axis in each for each in added.values()):
                    found[_added(chosen, cores, added, groups)] = None
    return list(found)


def _added(
    chosen: Cut,
    cores: dict[int, int | None],
    added: dict[int, tuple[str, ...]],
    groups: Sequence[frozenset[int]],
) -> Cut:
    members = frozenset(added)
    made: dict[int, tuple[str, ...]] = {}
    for each in members:
        core = cores[each]
        made[core if added[each] and core is not None else each] = added[each]
    left = (group - members for group in groups)
    together = chosen.together - set(groups) | {group for group in left if len(group) > 1}
    kept = chosen.kept - members | set(made)
    sums = {(each, axes) for each, axes in made.items() if axes}
    return Cut(kept, together | {frozenset(made)}, _of(chosen.added, kept - members) | sums)


def _of(
    added: frozenset[tuple[int, tuple[str, ...]]], kept: frozenset[int]
) -> frozenset[tuple[int, tuple[str, ...]]]:
    return frozenset(each for each in added if each[0] in kept)


def _over(boxes: Sequence[Box], each: int | None) -> tuple[str, ...]:
    box = None if each is None else boxes[each]
    return box.over if isinstance(box, Reduce) else ()
