"""A generated module's launches, recorded once and made again: a call without the cost of Triton's binder.

In: a module's entry function and the arguments of a call. Out: its results, and `Launches`: the kernels
that the entry launched, on which grids, with which arguments. For other tensors of the same shapes,
strides and types the same launches are right with other addresses: the entry computes nothing from
data. That is seen to, not assumed: while it is recorded, every function of torch is watched, and an
entry that does more than allocate and view is run as it stands, every time. So is one whose launches
cannot be taken apart.

The parts of Triton that are touched here are its own, not its interface, so they are used only in the release
that they were read in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from inspect import getclosurevars
from threading import Lock
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_RELEASE = "3.6."
_ALLOCATE = frozenset({"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"})
_VIEW = frozenset(
    {"as_strided", "detach", "expand", "permute", "squeeze", "transpose", "unsqueeze", "view"}
)
# Of a tensor's layout, never of its data.
_ASK = frozenset({"__get__", "__len__", "data_ptr", "dim", "element_size", "get_device"}) | {
    *("is_contiguous", "is_floating_point", "numel", "size", "storage_offset", "stride"),
    "untyped_storage",
}
_ADDRESSES = 256  # descriptors kept a tensor argument, one an address
_RECORDING = Lock()


@dataclass(frozen=True, slots=True)
class Pointer:
    """An argument that is an address: that of tensor number `place`, plus some bytes."""

    place: int
    offset: int


@dataclass(slots=True)
class Descriptor:
    """An argument that describes a tensor to the copy engine: three or more arguments of the launcher."""

    pointer: Pointer
    encode: Callable[[int], Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    known: dict[int, Any] = field(default_factory=dict)

    def at(self, address: int) -> Any:
        """Return the descriptor of the tensor at an address."""
        found = self.known.get(address)
        if found is None:
            if len(self.known) >= _ADDRESSES:
                self.known.clear()
            found = self.known[address] = self.encode(address)
        return found


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel's launch.

    `fixed` is what the launcher takes between the stream and the kernel's arguments; `holes` are the
    arguments that a call fills.
    """

    launcher: Callable[..., None]
    grid: tuple[int, int, int]
    fixed: tuple[Any, ...]
    arguments: tuple[Any, ...]
    holes: tuple[tuple[int, Pointer | Descriptor], ...]

    def run(self, stream: int, addresses: Sequence[int]) -> None:
        """Launch on a stream, with the tensors at these addresses."""
        arguments = list(self.arguments)
        for place, hole in self.holes:
            if isinstance(hole, Pointer):
                arguments[place] = addresses[hole.place] + hole.offset
            else:
                pointer = hole.pointer
                arguments[place] = hole.at(addresses[pointer.place] + pointer.offset)
        self.launcher(*self.grid, stream, *self.fixed, *arguments)


@dataclass(frozen=True, slots=True)
class Launches:
    """All launches of a call: `inputs` are the places of its tensors among its arguments.

    `allocated` are the tensors to allocate, which take the numbers after the inputs'; `results` are those of
    them that are returned.
    """

    device: int
    inputs: tuple[int, ...]
    allocated: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    results: tuple[int, ...]
    launches: tuple[Launch, ...]

    def run(self, arguments: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Return the results for other tensors of the same layout; it runs on the current stream."""
        if torch._C._cuda_getDevice() != self.device:
            with torch.cuda.device(self.device):
                return self._run(arguments)
        return self._run(arguments)

    def _run(self, arguments: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        new = [
            torch.empty(shape, dtype=dtype, device=arguments[self.inputs[0]].device)
            for shape, dtype in self.allocated
        ]
        addresses = [arguments[place].data_ptr() for place in self.inputs]
        addresses += [each.data_ptr() for each in new]
        stream = torch._C._cuda_getCurrentRawStream(self.device)
        for each in self.launches:
            each.run(stream, addresses)
        return tuple(new[place] for place in self.results)


def layout_of(arguments: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return what the launches of a call depend on, None where the arguments are not plain tensors."""
    key: list[Any] = []
    for each in arguments:
        kind = type(each)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            address = each.data_ptr()
            if not address or each.is_neg():
                return None
            key += (each.device, each.dtype, each.shape, each.stride(), address % 16)
        elif kind is int or kind is float:
            key.append(each)
        else:
            return None
    return tuple(key)


def quiet() -> bool:
    """Tell whether nothing listens to launches, such as a profiler of Triton's."""
    runtime = _runtime_knobs()
    hooks = (runtime.launch_enter_hook, runtime.launch_exit_hook)
    return not any(each is not None and getattr(each, "calls", True) for each in hooks)


@cache
def _runtime_knobs() -> Any:
    from triton import knobs

    return knobs.runtime


# --- recording ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """One launch as the entry asked for it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]


class _Watch(TorchFunctionMode):
    """Every function of torch: what is allocated, and whether anything else but views is made."""

    def __init__(self) -> None:
        super().__init__()
        self.allocated: list[torch.Tensor] = []
        self.other = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _ALLOCATE:
            self.allocated.append(result)
        elif name not in _ASK and not _is_view(name, result, args):
            self.other = True
        return result


def _is_view(name: str, result: Any, args: Sequence[Any]) -> bool:
    if name == "__getitem__":  # a view, unless it is indexed by data
        return bool(result.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr())
    return name in _VIEW


def record(
    entry: Callable[..., Any], arguments: Sequence[Any]
) -> tuple[tuple[torch.Tensor, ...], Launches | None]:
    """Run an entry; return its results, and its launches if they may be made again for other tensors."""
    # One tensor may be given twice: as tensors of their own they can be told apart.
    given = [each.detach() if isinstance(each, torch.Tensor) else each for each in arguments]
    watch = _Watch()
    with _RECORDING, _launches_of(entry) as seen, watch:
        results = entry(*given)
    found = results if isinstance(results, tuple) else (results,)
    if watch.other or not _is_known_release():
        return found, None
    return found, _taken_apart(given, watch.allocated, found, seen)


@contextmanager
def _launches_of(entry: Callable[..., Any]) -> Iterator[list[_Seen]]:
    """Note every launch of the kernels in the entry's module."""
    from triton.runtime.jit import JITFunction

    seen: list[_Seen] = []
    kernels = [each for each in entry.__globals__.values() if isinstance(each, JITFunction)]

    def noting(function: Any) -> Callable[..., Any]:
        def run(*args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            kernel = type(function).run(function, *args, grid=grid, warmup=warmup, **named)
            names = function.arg_names[len(args) :]
            seen.append(_Seen(kernel, grid, (*args, *(named[name] for name in names))))
            return kernel

        return run

    for each in kernels:
        each.run = noting(each)
    try:
        yield seen
    finally:
        for each in kernels:
            del each.run


def _taken_apart(
    arguments: Sequence[Any],
    allocated: Sequence[torch.Tensor],
    results: Sequence[torch.Tensor],
    seen: Sequence[_Seen],
) -> Launches | None:
    inputs = tuple(i for i, each in enumerate(arguments) if isinstance(each, torch.Tensor))
    tensors = [*(arguments[place] for place in inputs), *allocated]
    places = [_place(each, allocated) for each in results]
    whole = all(each.is_contiguous() for each in allocated)
    if not inputs or not seen or not whole or None in places:
        return None
    try:
        launches = tuple(_launch(each, tensors) for each in seen)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None
    return Launches(
        tensors[0].device.index,
        inputs,
        tuple((tuple(each.shape), each.dtype) for each in allocated),
        tuple(place for place in places if place is not None),
        launches,
    )


def _place(result: torch.Tensor, allocated: Sequence[torch.Tensor]) -> int | None:
    """Return which of the allocated tensors a result is, as a whole."""
    for place, each in enumerate(allocated):
        alike = each.shape == result.shape and each.stride() == result.stride()
        if alike and each.data_ptr() == result.data_ptr() and each.dtype == result.dtype:
            return place
    return None


def _launch(seen: _Seen, tensors: Sequence[torch.Tensor]) -> Launch:
    """Take a launch apart. Raises ValueError, or what a missing part raises, where that can't be done."""
    kernel = seen.kernel
    runner = kernel.run
    if runner.global_scratch_size or runner.profile_scratch_size:
        raise ValueError("the kernel takes scratch memory, allocated at every launch")
    launcher, descriptions = runner.launch, None
    if any(_describes(each) for each in seen.arguments):
        parts = getclosurevars(launcher).nonlocals
        launcher, descriptions = parts["launcher"], list(parts["tensordesc_meta"])
    arguments: list[Any] = []
    holes: list[tuple[int, Pointer | Descriptor]] = []
    for each in seen.arguments:
        if isinstance(each, torch.Tensor):
            holes.append((len(arguments), _pointer(each, tensors)))
            arguments.append(0)
        elif _describes(each):
            assert descriptions is not None
            described = _descriptor(each, descriptions.pop(0), tensors)
            holes.append((len(arguments), described))
            arguments += (None, *described.shape, *described.strides)
        else:
            arguments.append(each)
    width, height, depth = (*seen.grid, 1, 1)[:3]
    fixed = (
        kernel.function,
        runner.launch_cooperative_grid,
        runner.launch_pdl,
        *(None, None),  # no scratch memory
        kernel.packed_metadata,
        *(None, None, None),  # nobody listens
    )
    return Launch(launcher, (width, height, depth), fixed, tuple(arguments), tuple(holes))


def _describes(argument: Any) -> bool:
    return hasattr(argument, "base") and hasattr(argument, "block_shape")


def _pointer(tensor: torch.Tensor, tensors: Sequence[torch.Tensor]) -> Pointer:
    for place, each in enumerate(tensors):
        if each is tensor:
            return Pointer(place, 0)
    storage = tensor.untyped_storage().data_ptr()
    places = [i for i, e in enumerate(tensors) if e.untyped_storage().data_ptr() == storage]
    if len(places) != 1:
        raise ValueError("a tensor that is not a view of one argument or of one allocated")
    return Pointer(places[0], tensor.data_ptr() - tensors[places[0]].data_ptr())


@cache
def _is_known_release() -> bool:
    return version("triton").startswith(_RELEASE)


def _descriptor(
    argument: Any, meta: Mapping[str, Any], tensors: Sequence[torch.Tensor]
) -> Descriptor:
    """Return a descriptor's parts; how it is encoded is Triton's `make_tensordesc_arg`."""
    from triton.backends.nvidia.driver import TMA_DTYPE_DEVICE_TO_HOST
    from triton.runtime import driver

    if meta["fp4_padded"] or argument.padding != "zero" or argument.strides[-1] != 1:
        raise ValueError("a descriptor of another kind")
    fill = driver.active.utils.fill_tma_descriptor
    before = (meta["swizzle"], meta["elem_size"], TMA_DTYPE_DEVICE_TO_HOST[meta["elem_type"]])
    after = (meta["block_size"], tuple(argument.shape), tuple(argument.strides), 0)
    pointer = _pointer(argument.base, tensors)
    return Descriptor(
        pointer,
        lambda address: fill(address, *before, *after),
        tuple(argument.shape),
        tuple(argument.strides),
    )
