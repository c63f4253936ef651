"""The host side of a warp-specialised kernel: the plain entry function, with Gluon's descriptors and launch.

In: what the plain entry takes, and the boxes of the descriptors. Out: the entry's lines. As many blocks of a
warp-specialised kernel are launched as there are multiprocessors, and each walks groups in turn; plain
loops among the kernels are launched as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from napkin.emit.gluon.functions import Box
from napkin.emit.triton.entry import TORCH_TYPES, EntryPrinter, Launch, Signature
from napkin.schedule.layout import TYPE_BYTES
from napkin.schedule.program import Array

WARPS = 4  # of the kernel's own partition: a warpgroup


class GluonEntry(EntryPrinter):
    """Prints the entry function of kernels of which some are warp-specialised: those that have boxes."""

    def __init__(
        self,
        signature: Signature,
        launches: Sequence[Launch],
        boxes: Mapping[str, Sequence[Box]],
        counters: Mapping[str, str],
    ) -> None:
        super().__init__(signature, launches)
        self.counters = counters
        self.boxes = {
            kernel: {box.array: box for box in theirs} for kernel, theirs in boxes.items()
        }

    def _allocate(self, array: Array, made: str) -> None:
        """Allocate an output; rows that the copy engine stores lie whole 16 bytes apart."""
        described = {name for boxes in self.boxes.values() for name in boxes}
        unit = 16 // TYPE_BYTES[array.dtype]
        known = self._fixed_sizes().get(array.axes[-1]) if array.axes else None
        if array.name not in described or (known is not None and known % unit == 0):
            super()._allocate(array, made)
            return
        *outer, row = [" * ".join(self.sizes[axis] for axis in dim) for dim in array.dims]
        self.lines.append(
            f"{self.tensors[array.name]} = torch.{made}("
            f"({', '.join(outer)}, triton.cdiv({row}, {unit}) * {unit}), "
            f"device={self._first()}.device, dtype={TORCH_TYPES[array.dtype]})[..., :{row}]"
        )

    def _launch(self, launch: Launch) -> None:
        if launch.kernel not in self.boxes:
            super()._launch(launch)
            return
        counts = []
        for axis in launch.program.grid:
            size = self.sizes[axis]
            block = launch.constants.get(launch.spelling.blocks.get(axis, ""))
            scalar = launch.program.axis(axis).dim is None
            counts.append(size if scalar else f"triton.cdiv({size}, {block}.value)")
        units = f"torch.cuda.get_device_properties({self._first()}.device).multi_processor_count"
        self.lines.append(f"grid = (min({' * '.join(counts) or '1'}, {units}),)")
        if launch.kernel in self.counters:
            # A counter of its own for every call: no two calls that run at once share one.
            self.lines.append(
                f"{self._counter()} = torch.zeros("
                f"1, device={self._first()}.device, dtype=torch.int32)"
            )
        self.lines.append(f"with torch.cuda.device_of({self._first()}):")
        self.lines.append(f"    {launch.kernel}[grid](")
        for parameter in launch.text.parameters:
            self.lines.append(f"        {self._argument(launch, parameter)},")
        self.lines += [f"        num_warps={WARPS},", "    )"]

    def _argument(self, launch: Launch, parameter: str) -> str:
        if parameter == self.counters.get(launch.kernel):
            return self._counter()
        return super()._argument(launch, parameter)

    def _counter(self) -> str:
        taken = {*self.tensors.values(), *self.sizes.values()}
        return next(
            name for number in count() if (name := f"groups_taken{number or ''}") not in taken
        )

    def _descriptor(self, launch: Launch, array: Array) -> str:
        if launch.kernel not in self.boxes:
            return super()._descriptor(launch, array)
        box = self.boxes[launch.kernel][array.name]
        tensor = self.tensors[array.name]
        shape = ", ".join(self.sizes[axis] for axis in array.axes)
        # The copy engine has no type of truth values: they travel as the bytes that they are.
        held = f"{tensor}.view(torch.int8)" if array.dtype == "bool" else tensor
        strides = ", ".join(
            self._stride(tensor, position, dim, axis)
            for position, dim in enumerate(array.dims)
            for axis in dim
        )
        blocks = ", ".join(each if each == "1" else f"{each}.value" for each in box.extents)
        layout = f"gl.{shared_layout(box)}"
        return f"GluonDescriptor({held}, [{shape}], [{strides}], [{blocks}], {layout})"


def shared_layout(box: Box) -> str:
    """Return the layout of a box in shared memory, as Gluon writes it."""
    return (
        f"NVMMASharedLayout(swizzle_byte_width={box.swizzle}, element_bitwidth={box.bits}, "
        f"rank={len(box.extents)})"
    )
