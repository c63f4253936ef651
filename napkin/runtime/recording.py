"""A generated module's launches, recorded while its entry function runs.

In: a module's entry function and the arguments of a call. Out: its results, and `Launches`: the kernels
that the entry launched, on which grids, with which arguments. For other tensors of the same shapes,
strides and types the same launches are right with other addresses: the entry computes nothing from
data. That is seen to, not assumed: while it is recorded, every function of torch is watched, and an
entry that does more than allocate, clear and view is run as it stands, every time. So is one whose launches
cannot be taken apart.

The parts of Triton that are touched here are its own, not its interface, so they are used only in the release
that they were read in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from inspect import getclosurevars
from operator import itemgetter
from threading import Lock
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from napkin.runtime.launch import Allocate, Descriptors, Launch, Launches, Pointer

_RELEASE = "3.6."
_ALLOCATE = frozenset({"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"})
_CLEAR = frozenset({"zeros", "zeros_like", "new_zeros"})
_VIEW = frozenset(
    {"as_strided", "detach", "expand", "permute", "squeeze", "transpose", "unsqueeze", "view"}
)
# Of a tensor's layout, never of its data.
_ASK = frozenset({"__get__", "__len__", "data_ptr", "dim", "element_size", "get_device"}) | {
    *("is_contiguous", "is_floating_point", "numel", "size", "storage_offset", "stride"),
    "untyped_storage",
}
_COMPILERS = 8  # kernels compiled at a time
_RECORDING = Lock()
_STREAM = object()  # stands for the stream among a launch's arguments


@dataclass(frozen=True, slots=True)
class _Seen:
    """One launch as the entry asked for it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]


class _Watch(TorchFunctionMode):
    """Every function of torch: what is allocated or cleared, and whether anything else but views is made."""

    def __init__(self) -> None:
        super().__init__()
        self.allocated: list[torch.Tensor] = []
        self.cleared: list[torch.Tensor] = []
        self.other = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _ALLOCATE or name in _CLEAR:
            self.allocated.append(result)
            self.cleared += [result] if name in _CLEAR else []
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
    watch, seen = _Watch(), list[_Seen]()
    with _RECORDING:
        _compile_side_by_side(entry, given)
        with _running(entry, lambda kernel: _noting(kernel, seen)), watch:
            results = entry(*given)
    found = results if isinstance(results, tuple) else (results,)
    if watch.other or not _is_known_release():
        return found, None
    return found, _taken_apart(given, watch, found, seen)


def _compile_side_by_side(entry: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Compile all kernels that an entry launches at a time, since one after the other takes long.

    What fails here fails again, and says so, where the kernel is launched.
    """
    from triton.runtime._async_compile import AsyncCompileMode, active_mode

    if len(_kernels_of(entry)) < 2 or active_mode.get() is not None or not _is_known_release():
        return
    with (
        ThreadPoolExecutor(_COMPILERS) as pool,
        AsyncCompileMode(pool, ignore_errors=True),
        _running(entry, _warming),
    ):
        entry(*arguments)


def _warming(kernel: Any) -> Callable[..., Any]:
    """Return what compiles a kernel for a launch, which it does not make."""

    def run(*args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        return type(kernel).run(kernel, *args, grid=grid, warmup=True, **named)

    return run


def _noting(kernel: Any, seen: list[_Seen]) -> Callable[..., Any]:
    """Return what launches a kernel and notes how."""

    def run(*args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        compiled = type(kernel).run(kernel, *args, grid=grid, warmup=warmup, **named)
        names = kernel.arg_names[len(args) :]
        seen.append(_Seen(compiled, grid, (*args, *(named[name] for name in names))))
        return compiled

    return run


@contextmanager
def _running(entry: Callable[..., Any], way: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """Have the kernels of the entry's module run in another way."""
    kernels = _kernels_of(entry)
    for each in kernels:
        each.run = way(each)
    try:
        yield
    finally:
        for each in kernels:
            del each.run


def _kernels_of(entry: Callable[..., Any]) -> list[Any]:
    from triton.runtime.jit import JITFunction

    return [each for each in entry.__globals__.values() if isinstance(each, JITFunction)]


def _taken_apart(
    arguments: Sequence[Any],
    watch: _Watch,
    results: Sequence[torch.Tensor],
    seen: Sequence[_Seen],
) -> Launches | None:
    inputs = tuple(i for i, each in enumerate(arguments) if isinstance(each, torch.Tensor))
    tensors = [*(arguments[place] for place in inputs), *watch.allocated]
    places = [_place(each, watch.allocated) for each in results]
    whole = all(each.is_contiguous() for each in watch.allocated)
    if not inputs or not seen or not whole or None in places:
        return None
    try:
        launches = [_launch(each, tensors) for each in seen]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None
    allocated = [
        _allocation(each, any(each is cleared for cleared in watch.cleared))
        for each in watch.allocated
    ]
    returned = [place for place in places if place is not None]
    return _numbered(inputs, allocated, returned, launches, tensors[0].device)


def _allocation(tensor: torch.Tensor, cleared: bool) -> Allocate:
    """Return what allocates a tensor like this one, by torch's quickest way where it is there."""
    shape, strides, dtype = tuple(tensor.shape), tensor.stride(), tensor.dtype
    device = tensor.device
    if cleared:
        return partial(torch.zeros, shape, dtype=dtype, device=device)
    quick = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}", None)
    if quick is not None:
        return partial(quick, shape, strides, dtype)
    return partial(torch.empty_strided, shape, strides, dtype=dtype, device=device)


def _place(result: torch.Tensor, allocated: Sequence[torch.Tensor]) -> int | None:
    """Return which of the allocated tensors a result is, as a whole."""
    for place, each in enumerate(allocated):
        alike = each.shape == result.shape and each.stride() == result.stride()
        if alike and each.data_ptr() == result.data_ptr() and each.dtype == result.dtype:
            return place
    return None


@dataclass(frozen=True, slots=True)
class _Described:
    """An argument that describes what lies at a pointer to the copy engine."""

    pointer: Pointer
    encode: Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A launch taken apart: what stands for the stream, for addresses and descriptors, and constants."""

    launcher: Callable[..., None]
    arguments: tuple[Any, ...]


def _launch(seen: _Seen, tensors: Sequence[torch.Tensor]) -> _Taken:
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
    for each in seen.arguments:
        if isinstance(each, torch.Tensor):
            arguments.append(_pointer(each, tensors))
        elif _describes(each):
            assert descriptions is not None
            arguments.append(_described(each, descriptions.pop(0), tensors))
            arguments += (*each.shape, *each.strides)
        else:
            arguments.append(each)
    fixed = (
        kernel.function,
        runner.launch_cooperative_grid,
        runner.launch_pdl,
        *(None, None),  # no scratch memory
        kernel.packed_metadata,
        *(None, None, None),  # nobody listens
    )
    width, height, depth = (*seen.grid, 1, 1)[:3]
    return _Taken(launcher, (width, height, depth, _STREAM, *fixed, *arguments))


def _numbered(
    inputs: tuple[int, ...],
    allocated: Sequence[Allocate],
    results: Sequence[int],
    launches: Sequence[_Taken],
    device: torch.device,
) -> Launches:
    """Return the launches, each argument as a place among all values of a call."""
    tensors = len(inputs) + len(allocated)
    given = [each for launch in launches for each in launch.arguments]
    pointers = [each for each in given if isinstance(each, Pointer)]
    pointers += [each.pointer for each in given if isinstance(each, _Described)]
    within = list(dict.fromkeys(each for each in pointers if each.offset))
    descriptors: list[tuple[int, Descriptors]] = []
    constants: list[Any] = []
    described = sum(isinstance(each, _Described) for each in given)
    first_descriptor = 1 + tensors + len(within)  # after the stream

    def address(pointer: Pointer) -> int:
        return tensors + within.index(pointer) if pointer.offset else pointer.place

    def place(each: Any) -> int:
        if each is _STREAM:
            return 0
        if isinstance(each, Pointer):
            return 1 + address(each)
        if isinstance(each, _Described):
            descriptors.append((address(each.pointer), Descriptors(each.encode)))
            return first_descriptor + len(descriptors) - 1
        constants.append(each)
        return first_descriptor + described + len(constants) - 1

    picked = [Launch(each.launcher, itemgetter(*map(place, each.arguments))) for each in launches]
    return Launches(
        device.index,
        inputs,
        tuple(allocated),
        tuple(results),
        tuple(within),
        tuple(descriptors),
        tuple(constants),
        tuple(picked),
    )


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


def _described(
    argument: Any, meta: Mapping[str, Any], tensors: Sequence[torch.Tensor]
) -> _Described:
    """Return a descriptor's parts; how it is encoded is Triton's `make_tensordesc_arg`."""
    from triton.backends.nvidia.driver import TMA_DTYPE_DEVICE_TO_HOST
    from triton.runtime import driver

    if meta["fp4_padded"] or argument.padding != "zero" or argument.strides[-1] != 1:
        raise ValueError("a descriptor of another kind")
    fill = driver.active.utils.fill_tma_descriptor
    before = (meta["swizzle"], meta["elem_size"], TMA_DTYPE_DEVICE_TO_HOST[meta["elem_type"]])
    after = (meta["block_size"], tuple(argument.shape), tuple(argument.strides), 0)
    pointer = _pointer(argument.base, tensors)
    return _Described(pointer, lambda address: fill(address, *before, *after))
