"""Arrays between kernels in lines: where threads add parts of sums to them, by vectors.

In: a plan's kernels, and the names of its outputs. Out: the kernels, whose Programs say which arrays lie
so (`Array.in_lines`). A plan's own outputs lie as their signature has them, and so does what other than a
plain loop reads, or by other than pointers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from napkin.schedule.program import (
    LINE_COLUMNS,
    LINE_ROWS,
    Array,
    Load,
    Path,
    Program,
    Store,
    walk,
)
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.tiling.kernel import KernelPlan


def with_lines(kernels: Sequence[KernelPlan], outputs: Collection[str]) -> tuple[KernelPlan, ...]:
    """Return the kernels with what their threads add to, and no output is, in lines."""
    added = {name for each in kernels for name in _added_by_threads(each)} - set(outputs)
    chosen = {name for name in added if all(_may_read(each, name) for each in kernels)}
    return tuple(_marked(each, chosen) for each in kernels)


def in_memory_order(kernel: KernelPlan) -> KernelPlan:
    """Return the kernel with every array as its signature has it."""
    return _marked(kernel, ())


def _added_by_threads(kernel: KernelPlan) -> Iterator[str]:
    """Yield the outputs that a form adds to without a stage in shared memory."""
    if kernel.form is None:
        return
    form = kernel.form.warps
    staged = {each.store.array for each in form.staged}
    for op in walk(form.program.operations):
        is_added = isinstance(op, Store) and op.adds and op.array not in staged
        if isinstance(op, Store) and is_added and _has_lines(form, op):
            yield op.array


def _has_lines(form: Specialised, store: Store) -> bool:
    """Tell whether a chunk's rows and a consumer's columns of what it adds to are whole lines."""
    program, dims = form.program, form.program.array(store.array).dims
    row, column = (program.axis(dim[-1]) for dim in dims[-2:])
    is_apart = [len(dim) for dim in dims[-2:]] == [1, 1]
    takes_rows = row.tile == program.dim(form.rows).extent
    is_whole = takes_rows or form.adder is not None
    width = column.tile if is_whole else column.tile // form.consumers
    is_so = (row.dim, column.dim) == store.source_dims
    return is_apart and is_so and row.tile % LINE_ROWS == 0 and width % LINE_COLUMNS == 0


def _may_read(kernel: KernelPlan, name: str) -> bool:
    """Tell whether a kernel reads the array, if it does, as a plain loop does by pointers."""
    loads = [
        op for op in walk(kernel.printed.operations) if isinstance(op, Load) and op.array == name
    ]
    is_plain = kernel.form is None and kernel.loop is None
    return not loads or (
        is_plain
        and all(op.path is not Path.DESCRIPTOR and not any(op.gathered) for op in loads)
        and all(
            kernel.program.axis(axis).dim is not None for op in loads for axis in op.indices[-2:]
        )
        and all(kernel.program.axis(axis).dim is None for op in loads for axis in op.indices[:-2])
    )


def _marked(kernel: KernelPlan, names: Collection[str]) -> KernelPlan:
    kernel = replace(kernel, program=_with_order(kernel.program, names))
    if kernel.form is None:
        return kernel
    warps = replace(kernel.form.warps, program=_with_order(kernel.form.warps.program, names))
    return replace(kernel, form=replace(kernel.form, warps=warps))


def _with_order(program: Program, names: Collection[str]) -> Program:
    def ordered(arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(replace(each, in_lines=each.name in names) for each in arrays)

    return replace(program, arrays=ordered(program.arrays), outputs=ordered(program.outputs))
