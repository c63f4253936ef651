"""The kernels of one diagram, made on demand and launched: what an operator runs on a GPU.

In: a diagram, perhaps a machine, and calls. Out: the outputs. A kernel is made for each combination of types,
machine and lengths of the axes that lie whole on chip (napkin.runtime.planning). A call like one before, in
shapes, strides and types, makes that one's launches again (napkin.runtime.launch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch

from napkin.diagram import Diagram
from napkin.language.errors import Diagnostic, NapkinError
from napkin.machine import Machine
from napkin.runtime.arguments import Call
from napkin.runtime.cache import Made
from napkin.runtime.gpus import machine_of, runs_on
from napkin.runtime.kernels import load_entry
from napkin.runtime.launch import Launches, Layout, layout_of, quiet
from napkin.runtime.planning import made_for
from napkin.runtime.recording import record

LAYOUTS = 1024  # calls of different shapes, strides or numbers whose launches are kept


@dataclass(frozen=True, slots=True)
class Loaded:
    """A kernel in memory."""

    made: Made
    entry: Callable[..., Any]


class Kernels:
    """The kernels of one diagram, and the launches of the calls that they served."""

    def __init__(
        self, diagram: Diagram, machine: Machine | None, deterministic: bool | None = None
    ) -> None:
        self.diagram = diagram
        self.machine = machine
        self.deterministic = deterministic
        self.loaded: dict[tuple[Diagram, str, str, bool | None], list[Loaded]] = {}
        self.launches: dict[Layout, Launches | None] = {}
        self._making = RLock()

    def again(self, arguments: Sequence[Any]) -> tuple[torch.Tensor, ...] | None:
        """Return the outputs by launches that were recorded, None where there are none for such a call."""
        if not self.launches or _requires_gradient(arguments):
            return None
        layout = layout_of(arguments)
        launches = self.launches.get(layout) if layout is not None else None
        if launches is None or not quiet():
            return None
        return launches.run(arguments)

    def run(self, call: Call) -> tuple[torch.Tensor, ...]:
        """Return the outputs by a kernel that is found or made, and keep its launches."""
        arguments = tuple(call.values.values())
        entry = self.kernel(call.diagram, call.dtype, call.sizes, call.device).entry
        layout = layout_of(arguments)
        with torch.cuda.device(call.device):
            if layout is None or layout in self.launches:
                found = entry(*arguments)
                return found if isinstance(found, tuple) else (found,)
            results, launches = record(entry, arguments)
        if len(self.launches) >= LAYOUTS:
            self.launches.clear()
        self.launches[layout] = launches
        return results

    def kernel(
        self, diagram: Diagram, dtype: str, sizes: Mapping[str, int], device: torch.device
    ) -> Loaded:
        """Return the kernel for types and lengths, made on first use."""
        machine, order = self._machine_for(device), self.deterministic
        if order is None and torch.are_deterministic_algorithms_enabled():
            order = True
        with self._making:
            loaded = self.loaded.setdefault((diagram, machine.name, dtype, order), [])
            for each in loaded:
                if each.made.fits(sizes):
                    return each
            made = made_for(diagram, dtype, sizes, machine, device, order)
            loaded.append(Loaded(made, _load(made, diagram)))
            return loaded[-1]

    def _machine_for(self, device: torch.device) -> Machine:
        if self.machine is None:
            return machine_of(device)
        if not runs_on(self.machine, device):
            found = torch.cuda.get_device_name(device)
            message = f"a kernel for {self.machine.name} does not run on `{found}`"
            help_line = "leave `machine` out, to compile for the GPU at hand"
            raise NapkinError([Diagnostic("N606", message, help=help_line)])
        return self.machine


def _load(made: Made, diagram: Diagram) -> Callable[..., Any]:
    """Return a module's entry function, whose kernels are compiled once for all lengths.

    Triton compiles a kernel anew for an integer that is 1, or that 16 divides where others did not. For a
    length or a number that buys nothing, unless it says how wide the loads of a large array may be.
    """
    from triton.runtime.jit import JITFunction

    entry = load_entry(made.text, diagram.name, made.entry)
    for function in entry.__globals__.values():
        for each in function.params if isinstance(function, JITFunction) else ():
            array, stride, _ = each.name.rpartition("_stride_")
            if stride:
                each.do_not_specialize_on_alignment = array in made.small
            elif not each.is_constexpr and not each.name.endswith(("_ptr", "_desc")):
                each.do_not_specialize = each.name.removeprefix("size_") not in made.edges
    return entry


def _requires_gradient(arguments: Sequence[Any]) -> bool:
    if torch.is_grad_enabled():
        for each in arguments:
            if isinstance(each, torch.Tensor) and each.requires_grad:
                return True
    return False
