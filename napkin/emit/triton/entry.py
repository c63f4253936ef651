"""The host side of a Triton kernel: its typed entry function.

In: a Program and the kernel's text. Out: lines that read axis lengths off the tensors, refuse what the kernel
was not made for, allocate the outputs and launch.
"""

from __future__ import annotations

from collections.abc import Mapping

from napkin.diagram import print_dims
from napkin.emit.triton.body import KernelText, Spelling
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import Array, Load, Path, Program, walk

TORCH_TYPES = {
    "bf16": "torch.bfloat16",
    "fp16": "torch.float16",
    "fp32": "torch.float32",
    "fp64": "torch.float64",
    "fp8e4m3": "torch.float8_e4m3fn",
    "fp8e5m2": "torch.float8_e5m2",
    "int8": "torch.int8",
    "int32": "torch.int32",
    "int64": "torch.int64",
    "bool": "torch.bool",
}


class EntryPrinter:
    """Prints the entry function of one kernel."""

    def __init__(
        self,
        program: Program,
        text: KernelText,
        spelling: Spelling,
        kernel: str,
        order: list[str],
        implied: Mapping[str, tuple[str, int]],
    ) -> None:
        self.program = program
        self.implied = implied
        self.text = text
        self.spelling = spelling
        self.kernel = kernel
        self.order = order
        names = Names(RESERVED | {"grid", kernel, *text.blocks})
        self.arguments = {name: names.fresh(name) for name in order}
        self.outputs = {each.name: names.fresh(each.name) for each in program.outputs}
        axes = [each.axis for each in program.axes]
        extra = [axis for each in program.arrays for axis in each.axes if axis not in axes]
        self.sizes = {axis: names.fresh(axis) for axis in dict.fromkeys([*axes, *extra])}
        self.lines: list[str] = []

    def signature(self) -> str:
        """Return the entry's parameters with their types."""
        scalars = dict(self.program.scalars)
        return ", ".join(
            f"{self.arguments[name]}: {scalars.get(name, 'torch.Tensor')}" for name in self.order
        )

    def returns(self) -> str:
        """Return the entry's result type."""
        if len(self.program.outputs) == 1:
            return "torch.Tensor"
        return f"tuple[{', '.join('torch.Tensor' for _ in self.program.outputs)}]"

    def body(self) -> list[str]:
        """Return the entry's lines."""
        self._read_sizes()
        self._check()
        self._allocate()
        self._launch()
        results = ", ".join(self.outputs.values())
        self.lines.append(f"return {results}")
        return ["    " + line if line else "" for line in self.lines]

    def _read_sizes(self) -> None:
        known: set[str] = set()
        pending = [
            (each, position, dim)
            for each in self.program.arrays
            for position, dim in enumerate(each.dims)
        ]
        while pending:
            rest = []
            for each, position, dim in pending:
                unknown = [axis for axis in dim if axis not in known]
                if len(unknown) > 1:
                    rest.append((each, position, dim))
                elif unknown:
                    others = [self.sizes[axis] for axis in dim if axis != unknown[0]]
                    shape = f"{self.arguments[each.name]}.shape[{position}]"
                    divided = f" // ({' * '.join(others)})" if others else ""
                    self.lines.append(f"{self.sizes[unknown[0]]} = {shape}{divided}")
                    known.add(unknown[0])
            pending = rest
        for axis, (read, factor) in self.implied.items():
            self.lines.append(f"{self.sizes[axis]} = {self.sizes[read]} * {factor}")

    def _check(self) -> None:
        for each in self.program.arrays:
            name = self.arguments[each.name]
            shape = self._shape(each)
            self.lines += [
                f"if tuple({name}.shape) != {shape}:",
                f'    raise ValueError(f"{each.name} should be [{print_dims(each.dims)}] = '
                f'{{{shape}}}, it is {{tuple({name}.shape)}}")',
                f"if {name}.dtype != {TORCH_TYPES[each.dtype]}:",
                f'    raise TypeError(f"{each.name} should be {TORCH_TYPES[each.dtype]}, '
                f'it is {{{name}.dtype}}")',
            ]
        for tile in self.program.axes:
            if tile.size is not None and tile.axis in self.sizes:
                name = self.sizes[tile.axis]
                self.lines += [
                    f"if {name} != {tile.size}:",
                    f'    raise ValueError(f"this kernel is made for {tile.axis} = {tile.size}, '
                    f'not {{{name}}}: compile again with --sizes {tile.axis}={{{name}}}")',
                ]

    def _shape(self, each: Array) -> str:
        dims = [" * ".join(self.sizes[axis] for axis in dim) for dim in each.dims]
        return f"({', '.join(dims)}{',' if len(dims) == 1 else ''})"

    def _device(self) -> str:
        return f"{self.arguments[self.program.arrays[0].name]}.device"

    def _allocate(self) -> None:
        for each in self.program.outputs:
            self.lines.append(
                f"{self.outputs[each.name]} = torch.empty({self._shape(each)}, "
                f"device={self._device()}, dtype={TORCH_TYPES[each.dtype]})"
            )

    def _launch(self) -> None:
        described = [
            each.name
            for each in self.program.arrays
            if self.spelling.descriptors[each.name] in self.text.parameters
        ]
        for name in described:
            self.lines.append(f"{self.arguments[name]} = _aligned({self.arguments[name]})")
        counts = []
        for axis in self.program.grid:
            tile = self.program.axis(axis)
            size = self.sizes[axis]
            block = self.spelling.blocks.get(axis)
            counts.append(size if tile.dim is None else f"triton.cdiv({size}, {block})")
        grid = " * ".join(counts) or "1"
        self.lines.append(f"grid = ({grid},)")
        self.lines.append(
            f"with torch.cuda.device_of({self.arguments[self.program.arrays[0].name]}):"
        )
        self.lines.append(f"    {self.kernel}[grid](")
        for parameter in self.text.parameters:
            self.lines.append(f"        {self._argument(parameter)},")
        self.lines += ["        num_warps=WARPS,", "        num_stages=STAGES,", "    )"]

    def _argument(self, parameter: str) -> str:
        name = parameter.split(":")[0]
        if parameter.endswith("tl.constexpr"):
            return f"{name}={name}"
        for array in (*self.program.arrays, *self.program.outputs):
            tensor = self.arguments.get(array.name) or self.outputs[array.name]
            if name == self.spelling.pointers[array.name]:
                return tensor
            if name == self.spelling.descriptors[array.name]:
                return self._descriptor(array, tensor)
            for position, dim in enumerate(array.dims):
                for axis in dim:
                    if name == self.spelling.strides[array.name, axis]:
                        return self._stride(tensor, position, dim, axis)
        for axis, size in self.spelling.sizes.items():
            if name == size:
                return self.sizes[axis]
        scalar = next(raw for raw, legal in self.spelling.scalars.items() if legal == name)
        return self.arguments[scalar]

    def _stride(self, tensor: str, position: int, dim: tuple[str, ...], axis: str) -> str:
        inner = dim[dim.index(axis) + 1 :]
        factors = [f"{tensor}.stride({position})", *(self.sizes[each] for each in inner)]
        return " * ".join(factors)

    def _descriptor(self, array: Array, tensor: str) -> str:
        shape = ", ".join(self.sizes[axis] for axis in array.axes)
        strides = ", ".join(
            self._stride(tensor, position, dim, axis)
            for position, dim in enumerate(array.dims)
            for axis in dim
        )
        blocks = ", ".join(self._block(axis) for axis in array.axes)
        return f"TensorDescriptor({tensor}, [{shape}], [{strides}], [{blocks}])"

    def _block(self, axis: str) -> str:
        """Return a block's extent along an axis: by name if the kernel has one, else in numbers."""
        tile = self.program.axis(axis)
        name = self.spelling.blocks.get(axis)
        if name in self.text.blocks:
            return name
        return "1" if tile.dim is None else str(tile.tile)


def uses_descriptors(program: Program) -> bool:
    """Return whether any load travels by descriptor."""
    return any(
        isinstance(op, Load) and op.path is Path.DESCRIPTOR for op in walk(program.operations)
    )
