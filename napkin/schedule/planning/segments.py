"""A kernel's stream in segments, where its groups alone leave multiprocessors idle.

In: a `KernelPlan`. Out: two kernels, one that walks the segments side by side and one that puts their states
together, if the two are predicted to be faster; else the kernel alone. The number of segments is a power of
two, found by planning: from as many as fill the machine, more or fewer while the two get faster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import inf, prod

from napkin.algebra.derive import Derivation, checked, sketch
from napkin.algebra.segments import SEGMENT_MULTIPLE, Segmented, segment
from napkin.diagram import Diagram
from napkin.schedule.planning.pieces import LAUNCH_S
from napkin.schedule.tiling.kernel import KernelPlan, best_kernel

_MOST = 64  # segments: their states are read by one kernel
_WORTH = 0.85  # of the kernel's own time: predictions err by some per cent, and states take memory
_NEARLY_FULL = 0.97  # of a thread's registers: the compiler may need more, and spill
_MAY_SPILL = 1.1  # times as long: less is gained by such a plan than predictions err
_LAUNCHES = 4  # that a kernel must take, for a second one to be worth its own


def with_segments(kernel: KernelPlan) -> tuple[KernelPlan, ...]:
    """Return the kernels that walk a kernel's stream in segments and merge them, or the kernel alone."""
    search = None if kernel.before or not _leaves_idle(kernel) else _Search.of(kernel)
    best = None if search is None else search.best()
    if search is None or best is None or best.seconds > _WORTH * kernel.prediction.seconds:
        return (kernel,)
    return _checked(best.walk, search.walk), _checked(best.merge, search.merge)


def _checked(kernel: KernelPlan, derivation: Derivation) -> KernelPlan:
    """Return a kernel with the error of its derivation's laws, which are those of any number of segments."""
    error = checked(derivation).law_error
    return replace(kernel, derivation=replace(kernel.derivation, law_error=error))


@dataclass(frozen=True, slots=True)
class _Choice:
    walk: KernelPlan
    merge: KernelPlan

    @property
    def seconds(self) -> float:
        return _judged(self.walk) + _judged(self.merge) + LAUNCH_S


def _judged(kernel: KernelPlan) -> float:
    """Return a kernel's seconds, more than predicted for one that may spill: another count may not."""
    limit = _NEARLY_FULL * kernel.machine.limits.registers_per_thread
    seconds = kernel.prediction.seconds
    return seconds * _MAY_SPILL if kernel.prediction.registers > limit else seconds


def _leaves_idle(kernel: KernelPlan) -> bool:
    """Return whether some multiprocessor has no group, and there is enough to share out for two launches."""
    stream, sizes = kernel.derivation.stream, dict(kernel.sizes)
    if stream is None or sizes[stream.axis] < 2 * SEGMENT_MULTIPLE:
        return False
    launch = dict(kernel.prediction.parts).get("launching", 0.0)
    worth = kernel.prediction.seconds > _LAUNCHES * launch
    return worth and _groups(kernel) < kernel.machine.units


def _groups(kernel: KernelPlan) -> int:
    program, sizes = kernel.program, dict(kernel.sizes)
    return prod(-(-sizes[axis] // program.axis(axis).tile) for axis in program.grid)


@dataclass(frozen=True, slots=True)
class _Search:
    """The kernels of a stream in segments, by their number; what walks and what merges is derived once."""

    kernel: KernelPlan
    derivation: Derivation
    walk: Derivation
    merge: Derivation
    most: int

    @classmethod
    def of(cls, kernel: KernelPlan) -> _Search | None:
        """Return the search for a kernel, None where its stream can't be in segments."""
        assert kernel.derivation.stream is not None
        axis = kernel.derivation.stream.axis
        derivation = sketch(kernel.derivation.diagram, axis=axis)
        found = segment(derivation, 2)
        if isinstance(found, str):
            return None
        walk, merge = sketch(found.walk), sketch(found.merge)
        # A segment's own walk must be along the stream: another axis would not be shared out.
        if walk.stream is None or walk.stream.axis != axis:
            return None
        most = min(_MOST, dict(kernel.sizes)[axis] // SEGMENT_MULTIPLE)
        return cls(kernel, derivation, walk, merge, most)

    def best(self) -> _Choice | None:
        """Return the best choice: from as many segments as fill the machine up, then down, while it gains."""
        start = 2
        while 2 * start * _groups(self.kernel) <= self.kernel.machine.units and start < self.most:
            start *= 2
        best = self.choice(start)
        for step in (2.0, 0.5):
            count = int(start * step)
            while best is not None and 2 <= count <= self.most:
                found = self.choice(count, best.seconds)
                if found is None or found.seconds >= best.seconds:
                    break
                best, count = found, int(count * step)
        return best

    def choice(self, count: int, limit: float = inf) -> _Choice | None:
        """Return the kernels of so many segments, None if one of them does not fit.

        Those that take longer than a limit in seconds may be left out.
        """
        found = segment(self.derivation, count)
        assert isinstance(found, Segmented)
        sizes = dict(self.kernel.sizes) | {found.axis: count}
        merge = self._planned(replace(self.merge, diagram=found.merge), sizes, limit - LAUNCH_S)
        if merge is None:
            return None
        left = limit - LAUNCH_S - _judged(merge)
        walk = self._planned(replace(self.walk, diagram=found.walk), sizes, left)
        return None if walk is None else _Choice(walk, merge)

    def _planned(
        self, derivation: Derivation, sizes: Mapping[str, int], limit: float
    ) -> KernelPlan | None:
        own = {axis: sizes[axis] for axis in derivation.diagram.axes}
        machine, dtype = self.kernel.machine, self.kernel.dtype
        found, _ = best_kernel(derivation, machine, own, dtype, limit)
        return found


def segment_counts(
    diagram: Diagram, kernels: tuple[KernelPlan, ...], implied: Collection[str]
) -> dict[str, int]:
    """Return the lengths of axes that kernels have and of which arguments and reads tell nothing."""
    told = {axis for each in diagram.arguments for axis in each.axes} | {*implied}
    return {
        axis: size
        for kernel in kernels
        for axis, size in kernel.sizes
        if axis not in told and axis in {each.axis for each in kernel.printed.axes}
    }
