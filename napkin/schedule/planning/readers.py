"""One kernel for a diagram, beside one that sums along the readers of each place in turn.

In: a diagram and its derivation, a machine, lengths, a storage type. Out: the best kernel, and if none fits
the nearest to one. Where the diagram sums what data say was read at each place (`napkin.algebra.readers`),
kernels that put the readers in order, and one that walks those of each place, are judged beside the one
that compares every place with every reader.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from napkin.algebra.derive import Derivation, checked, sketch
from napkin.algebra.readers import Ordered, in_order
from napkin.diagram import Diagram, Implied, implied_sizes
from napkin.machine import Machine
from napkin.schedule.tiling.kernel import KernelPlan, best_kernel


@dataclass(frozen=True, slots=True)
class Whole:
    """What pieces of a diagram have from it: lengths that follow from others, and names that it has given."""

    implied: Mapping[str, Implied]
    taken: Collection[str]

    @classmethod
    def of(cls, diagram: Diagram) -> Whole:
        """Return what its pieces have from a diagram."""
        arrays = {each.name for each in diagram.arguments} | {each.name for each in diagram.outputs}
        return cls(implied_sizes(diagram), {*diagram.names, *diagram.axes} | arrays)


def best_alone(
    derivation: Derivation,
    machine: Machine,
    lengths: Mapping[str, int],
    dtype: str,
    whole: Whole,
) -> tuple[KernelPlan | None, KernelPlan | None]:
    """Return the best kernel of a derivation's diagram, or None and the nearest to one."""
    best, tightest = best_kernel(derivation, machine, lengths, dtype)
    ordered = in_order(derivation.diagram, whole.implied, lengths, whole.taken)
    found = None if ordered is None else _planned(ordered, machine, lengths, dtype)
    if found is None or (best is not None and _seconds(best) <= _seconds(found)):
        return best, tightest
    return found, None


def _seconds(kernel: KernelPlan) -> float:
    return sum(each.prediction.seconds for each in (*kernel.before, kernel))


def _planned(
    ordered: Ordered, machine: Machine, lengths: Mapping[str, int], dtype: str
) -> KernelPlan | None:
    """Return the kernel that walks the readers of each place, after those that put them in order."""
    shared = _shared(ordered)
    if shared is None:
        return None
    every = {**lengths, **{axis: each.length(lengths) for axis, each in ordered.implied.items()}}
    found: list[KernelPlan] = []
    for derivation in (*map(sketch, ordered.before), shared):
        kernel, _ = best_kernel(checked(derivation), machine, every, dtype)
        if kernel is None:
            return None
        found.append(kernel)
    return replace(found[-1], before=tuple(found[:-1]))


def _shared(ordered: Ordered) -> Derivation | None:
    """Return the derivation of the sum along the readers, which are shared out among the places.

    None where a group has all places: another output lacks them.
    """
    derivation = sketch(ordered.diagram, axis=ordered.reads)
    if ordered.axis not in derivation.group:
        return None
    group = tuple(axis for axis in derivation.group if axis not in ordered.fixed)
    inner = (*derivation.inner, *(axis for axis in derivation.group if axis in ordered.fixed))
    return replace(derivation, group=group, inner=inner, parted=(ordered.axis,))


def once(kernels: Iterable[KernelPlan]) -> tuple[KernelPlan, ...]:
    """Return kernels without those that give what one before them gives."""
    found: dict[tuple[str, ...], KernelPlan] = {}
    for each in kernels:
        found.setdefault(tuple(array.name for array in each.program.outputs), each)
    return tuple(found.values())
