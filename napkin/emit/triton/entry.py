"""The host side of a Triton module: its typed entry function.

In: the diagram's signature and its kernels' Programs and texts. Out: lines that read axis lengths off the
tensors, refuse what the kernels were not made for, allocate the outputs and what lies between two kernels,
and launch each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from napkin.diagram import Implied, print_dims
from napkin.emit.triton.spelling import Spelling
from napkin.emit.triton.values import KernelText
from napkin.schedule.names import RESERVED, Names
from napkin.schedule.program import LINE_ROWS, Array, Load, Path, Program, walk

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


@dataclass(frozen=True, slots=True)
class Signature:
    """What an entry takes and gives: arguments in order, arrays among them, scalars' types, outputs.

    `implied` are the axes that no argument carries, as `implied_sizes` gives them, `chosen` those whose
    lengths the plan gives.
    """

    order: tuple[str, ...]
    arrays: tuple[Array, ...]
    scalars: Mapping[str, str]
    outputs: tuple[Array, ...]
    implied: Mapping[str, Implied]
    chosen: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel as its module names it; `constants` maps the names that it takes to the module's."""

    program: Program
    text: KernelText
    spelling: Spelling
    kernel: str
    constants: Mapping[str, str]


class EntryPrinter:
    """Prints the entry function of a module's kernels."""

    def __init__(self, signature: Signature, launches: Sequence[Launch]) -> None:
        self.given = signature
        self.launches = launches
        names = Names(RESERVED | {"grid"} | {name for each in launches for name in _globals(each)})
        self.arguments = {name: names.fresh(name) for name in signature.order}
        made = [*signature.outputs, *(out for each in launches for out in each.program.outputs)]
        unique = dict.fromkeys(each.name for each in made)
        self.tensors = self.arguments | {name: names.fresh(name) for name in unique}
        axes = [tile.axis for each in launches for tile in each.program.axes]
        axes += [axis for each in signature.arrays for axis in each.axes]
        self.sizes = {axis: names.fresh(axis) for axis in dict.fromkeys(axes)}
        self.lines: list[str] = []

    def signature(self) -> str:
        """Return the entry's parameters with their types."""
        return ", ".join(
            f"{self.arguments[name]}: {self.given.scalars.get(name, 'torch.Tensor')}"
            for name in self.given.order
        )

    def returns(self) -> str:
        """Return the entry's result type."""
        if len(self.given.outputs) == 1:
            return "torch.Tensor"
        return f"tuple[{', '.join('torch.Tensor' for _ in self.given.outputs)}]"

    def body(self) -> list[str]:
        """Return the entry's lines."""
        self._read_sizes()
        self._check()
        aligned: set[str] = set()
        for each in self.launches:
            self.lines += [""] if len(self.launches) > 1 else []
            for array in each.program.outputs:
                added = array.name in each.program.accumulated
                self._allocate(array, "zeros" if added else "empty")
            self._align(each, aligned)
            self._launch(each)
        results = ", ".join(self.tensors[each.name] for each in self.given.outputs)
        self.lines.append(f"return {results}")
        return ["    " + line if line else "" for line in self.lines]

    def _read_sizes(self) -> None:
        known: set[str] = set()
        pending = [
            (each, position, dim)
            for each in self.given.arrays
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
        for axis, implied in self.given.implied.items():
            factors = [self.sizes[read] for read in implied.axes]
            if implied.count != 1 or len(factors) == 1:
                factors.append(str(implied.count))
            self.lines.append(f"{self.sizes[axis]} = {' * '.join(factors)}")
        for axis, size in self.given.chosen.items():
            self.lines.append(f"{self.sizes[axis]} = {size}")

    def _check(self) -> None:
        for each in self.given.arrays:
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
        for axis, size in self._fixed_sizes().items():
            name = self.sizes[axis]
            self.lines += [
                f"if {name} != {size}:",
                f'    raise ValueError(f"this kernel is made for {axis} = {size}, '
                f'not {{{name}}}: compile again with --sizes {axis}={{{name}}}")',
            ]

    def _fixed_sizes(self) -> dict[str, int]:
        tiles = [tile for each in self.launches for tile in each.program.axes]
        return {tile.axis: tile.size for tile in tiles if tile.size is not None}

    def _align(self, launch: Launch, aligned: set[str]) -> None:
        """Copy what can't be taken by whole vectors as it lies, arrays between two kernels included."""
        for array in launch.program.arrays:
            name, tensor = array.name, self.tensors[array.name]
            described = launch.spelling.descriptors[name] in launch.text.parameters
            if (described or name in launch.text.aligned) and name not in aligned:
                aligned.add(name)
                self.lines.append(f"{tensor} = _aligned({tensor})")

    def _shape(self, each: Array) -> str:
        dims = [" * ".join(self.sizes[axis] for axis in dim) for dim in each.dims]
        if each.in_lines:
            dims[-2] = f"triton.cdiv({dims[-2]}, {LINE_ROWS}) * {LINE_ROWS}"
        return f"({', '.join(dims)}{',' if len(dims) == 1 else ''})"

    def _first(self) -> str:
        return self.arguments[self.given.arrays[0].name]

    def _allocate(self, array: Array, made: str) -> None:
        """Print an array's allocation by `torch.empty`, or `torch.zeros` where groups add to it."""
        self.lines.append(
            f"{self.tensors[array.name]} = torch.{made}({self._shape(array)}, "
            f"device={self._first()}.device, dtype={TORCH_TYPES[array.dtype]})"
        )

    def _launch(self, launch: Launch) -> None:
        counts = []
        for axis in launch.program.grid:
            tile, size = launch.program.axis(axis), self.sizes[axis]
            block = launch.constants.get(launch.spelling.blocks.get(axis, ""))
            counts.append(size if tile.dim is None else f"triton.cdiv({size}, {block})")
        self.lines.append(f"grid = ({' * '.join(counts) or '1'},)")
        self.lines.append(f"with torch.cuda.device_of({self._first()}):")
        self.lines.append(f"    {launch.kernel}[grid](")
        for parameter in launch.text.parameters:
            self.lines.append(f"        {self._argument(launch, parameter)},")
        warps, stages = launch.constants["WARPS"], launch.constants["STAGES"]
        self.lines += [f"        num_warps={warps},", f"        num_stages={stages},", "    )"]

    def _argument(self, launch: Launch, parameter: str) -> str:
        name, spelling = parameter.split(":")[0], launch.spelling
        if parameter.endswith("tl.constexpr"):
            return f"{name}={launch.constants[name]}"
        for array in (*launch.program.arrays, *launch.program.outputs):
            tensor = self.tensors[array.name]
            if name == spelling.pointers[array.name]:
                return tensor
            if name == spelling.descriptors[array.name]:
                return self._descriptor(launch, array)
            for position, dim in enumerate(array.dims):
                for axis in dim:
                    if name == spelling.strides[array.name, axis]:
                        return self._stride(tensor, position, dim, axis)
        for axis, size in spelling.sizes.items():
            if name == size:
                return self.sizes[axis]
        scalar = next(raw for raw, legal in spelling.scalars.items() if legal == name)
        return self.arguments[scalar]

    def _stride(self, tensor: str, position: int, dim: tuple[str, ...], axis: str) -> str:
        inner = dim[dim.index(axis) + 1 :]
        factors = [f"{tensor}.stride({position})", *(self.sizes[each] for each in inner)]
        return " * ".join(factors)

    def _descriptor(self, launch: Launch, array: Array) -> str:
        tensor = self.tensors[array.name]
        axes = launch.program.box_axes(array.name)
        steps = {
            axis: self._stride(tensor, position, dim, axis)
            for position, dim in enumerate(array.dims)
            for axis in dim
        }
        shape = ", ".join(self.sizes[axis] for axis in axes)
        strides = ", ".join(steps[axis] for axis in axes)
        blocks = ", ".join(_block(launch, axis) for axis in axes)
        return f"TensorDescriptor({tensor}, [{shape}], [{strides}], [{blocks}])"


def _globals(launch: Launch) -> tuple[str, ...]:
    return launch.kernel, *launch.constants.values()


def _block(launch: Launch, axis: str) -> str:
    """Return a block's extent along an axis: by name if the kernel has one, else in numbers."""
    tile = launch.program.axis(axis)
    name = launch.spelling.blocks.get(axis, "")
    if name in launch.text.blocks:
        return launch.constants[name]
    return "1" if tile.dim is None else str(tile.tile)


def uses_descriptors(program: Program) -> bool:
    """Return whether any load travels by descriptor."""
    return any(
        isinstance(op, Load) and op.path is Path.DESCRIPTOR for op in walk(program.operations)
    )
