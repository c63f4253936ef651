"""The host side of a warp-specialised kernel: the plain entry function, with Gluon's descriptors and launch.

In: what the plain entry takes, and the boxes of the descriptors. Out: the entry's lines. As many blocks are
launched as there are multiprocessors, and each walks groups in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from napkin.emit.gluon.functions import Box
from napkin.emit.triton.entry import EntryPrinter, Launch, Signature
from napkin.schedule.program import Array

WARPS = 4  # of the kernel's own partition: a warpgroup


class GluonEntry(EntryPrinter):
    """Prints the entry function of one warp-specialised kernel."""

    def __init__(self, signature: Signature, launch: Launch, boxes: Sequence[Box]) -> None:
        super().__init__(signature, [launch])
        self.boxes = {box.array: box for box in boxes}

    def _launch(self, launch: Launch) -> None:
        counts = []
        for axis in launch.program.grid:
            size = self.sizes[axis]
            block = launch.spelling.blocks.get(axis, "")
            scalar = launch.program.axis(axis).dim is None
            counts.append(size if scalar else f"triton.cdiv({size}, {block}.value)")
        units = f"torch.cuda.get_device_properties({self._first()}.device).multi_processor_count"
        self.lines.append(f"grid = (min({' * '.join(counts) or '1'}, {units}),)")
        self.lines.append(f"with torch.cuda.device_of({self._first()}):")
        self.lines.append(f"    {launch.kernel}[grid](")
        for parameter in launch.text.parameters:
            self.lines.append(f"        {self._argument(launch, parameter)},")
        self.lines += [f"        num_warps={WARPS},", "    )"]

    def _descriptor(self, launch: Launch, array: Array) -> str:
        box = self.boxes[array.name]
        tensor = self.tensors[array.name]
        shape = ", ".join(self.sizes[axis] for axis in array.axes)
        strides = ", ".join(
            self._stride(tensor, position, dim, axis)
            for position, dim in enumerate(array.dims)
            for axis in dim
        )
        blocks = ", ".join(each if each == "1" else f"{each}.value" for each in box.extents)
        layout = f"gl.{shared_layout(box)}"
        return f"TensorDescriptor({tensor}, [{shape}], [{strides}], [{blocks}], {layout})"


def shared_layout(box: Box) -> str:
    """Return the layout of a box in shared memory, as Gluon writes it."""
    return (
        f"NVMMASharedLayout(swizzle_byte_width={box.swizzle}, element_bitwidth={box.bits}, "
        f"rank={len(box.extents)})"
    )
