"""Launches that were recorded, made again: a call without the cost of Triton's binder.

In: `Launches`, the kernels that an entry function launched, on which grids and with which arguments
(napkin.runtime.recording), and the arguments of a call of the same layout: shapes, strides and types. Out:
its results. Other addresses, nothing else: all that is not an address was decided when it was recorded, and
picking it is left to C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.autograd import forward_ad

_ADDRESSES = 256  # descriptors kept a tensor argument, one an address

Pick = Callable[[Sequence[Any]], tuple[Any, ...]]
Allocate = Callable[[], torch.Tensor]
Layout = tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Pointer:
    """An argument that is an address: that of tensor number `place`, plus some bytes."""

    place: int
    offset: int


class Descriptors(dict[int, Any]):
    """What describes a tensor to the copy engine, by the address where it lies; made when it is asked for."""

    def __init__(self, encode: Callable[[int], Any]) -> None:
        super().__init__()
        self.encode = encode

    def __missing__(self, address: int) -> Any:
        if len(self) >= _ADDRESSES:
            self.clear()
        found = self[address] = self.encode(address)
        return found


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel's launch: `pick` takes what the launcher is given from all values of a call.

    These are: the stream, every address, every descriptor, every constant.
    """

    launcher: Callable[..., None]
    pick: Pick


@dataclass(frozen=True, slots=True)
class Launches:
    """All launches of a call: `inputs` are the places of its tensors among its arguments.

    `allocated` make further tensors, which take the numbers after the inputs'; `results` are those of
    them that are returned. `within` are addresses inside tensors, which are numbered after the tensors.
    `descriptors` are arguments that describe what lies at the address of such a number.
    """

    device: int
    inputs: tuple[int, ...]
    allocated: tuple[Allocate, ...]
    results: tuple[int, ...]
    within: tuple[Pointer, ...]
    descriptors: tuple[tuple[int, Descriptors], ...]
    constants: tuple[Any, ...]
    launches: tuple[Launch, ...]

    def run(self, arguments: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Return the results for other tensors of the same layout; it runs on the current stream."""
        if torch._C._cuda_getDevice() != self.device:
            with torch.cuda.device(self.device):
                return self._run(arguments)
        return self._run(arguments)

    def _run(self, arguments: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        new = [allocate() for allocate in self.allocated]
        addresses = [arguments[place].data_ptr() for place in self.inputs]
        addresses += [each.data_ptr() for each in new]
        addresses += [addresses[each.place] + each.offset for each in self.within]
        described = [known[addresses[place]] for place, known in self.descriptors]
        stream = torch._C._cuda_getCurrentRawStream(self.device)
        values = (stream, *addresses, *described, *self.constants)
        for each in self.launches:
            each.launcher(*each.pick(values))
        return tuple([new[place] for place in self.results])


def layout_of(arguments: Sequence[Any]) -> Layout:
    """Return what the launches of a call depend on, None where the arguments are not plain tensors.

    Where torch asks for deterministic algorithms, another kernel may be launched.
    """
    key: list[Any] = [torch._C._get_deterministic_algorithms()]
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
    for each in (runtime.launch_enter_hook, runtime.launch_exit_hook):
        if each is not None and getattr(each, "calls", True):
            return False
    return True


def nothing_listens() -> bool:
    """Tell whether no mode, transform, autocast or trace of torch's is to see a call."""
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.maybe_current_level() is not None
        or torch.is_autocast_enabled("cuda")
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    )


@cache
def _runtime_knobs() -> Any:
    from triton import knobs

    return knobs.runtime
