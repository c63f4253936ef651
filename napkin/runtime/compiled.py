"""A diagram as a callable on torch tensors: the kernel on a GPU, a torch reference on the CPU.

In: a diagram, and perhaps a machine. Out: `Kernel`. A call's tensors give every axis its length
and every untyped array its type; a kernel is made for each combination of types, machine and
lengths of the axes that lie whole on chip, once, without the user's doing. All other lengths are
free. What is called wrongly is a NapkinError that names the argument.

Deliberately absent: gradients. Asking for them is an error, not silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from napkin.algebra.derive import derive
from napkin.diagram import Argument, Diagram, print_dims
from napkin.evaluate import axis_sizes
from napkin.language.errors import Diagnostic, NapkinError
from napkin.machine import Machine
from napkin.operators import Kind
from napkin.runtime.data import STORAGE_NAMES, TORCH_TYPES, Value
from napkin.runtime.gpus import machine_at_hand, machine_of, runnable, runs_on
from napkin.runtime.kernels import Entry, kernel_source, load_kernel
from napkin.runtime.reference import torch_reference
from napkin.schedule.cost import Cost, cost_of
from napkin.schedule.plan import Plan, make_plan, storage_types

_DTYPE = "bf16"
_ATTEMPTS = 4  # plans until the axes that one fixes are fixed to the lengths at hand
_SCALARS = {"int": int, "float": float}


@dataclass(frozen=True, slots=True)
class _Loaded:
    plan: Plan
    entry: Entry


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of one call, and what they say: types, lengths, the device."""

    diagram: Diagram
    dtype: str
    values: Mapping[str, Value]
    sizes: Mapping[str, int]
    device: torch.device


class Kernel:
    """A compiled diagram. Call it with tensors, positional as in the signature.

    `source`, `plan` and `cost` are those for the file's sizes in bf16; a call with other types or
    another head size makes its own kernel.
    """

    def __init__(self, diagram: Diagram, machine: Machine | None = None) -> None:
        self._diagram = diagram
        self._machine = machine
        self._loaded: dict[tuple[Diagram, str, str], list[_Loaded]] = {}

    @property
    def name(self) -> str:
        """The diagram's name."""
        return self._diagram.name

    @cached_property
    def plan(self) -> Plan:
        """The plan for the file's sizes."""
        return make_plan(derive(self._diagram), self._machine or machine_at_hand(), dtype=_DTYPE)

    @cached_property
    def source(self) -> str:
        """The text of the kernel's module, which needs torch and triton alone."""
        return kernel_source(self.plan)

    @cached_property
    def cost(self) -> Cost:
        """The plan's cost."""
        return cost_of(self.plan)

    def __repr__(self) -> str:
        machine = self._machine.name if self._machine else "the GPU at hand"
        return f"<napkin kernel {self.name} for {machine}>"

    def __call__(self, *arguments: Any) -> Any:
        """Run the diagram; return its output, or a tuple of them."""
        call = _bind(self._diagram, arguments)
        results = self._run(call) if call.device.type == "cuda" else _reference(call)
        return results[0] if len(results) == 1 else results

    def _run(self, call: _Call) -> tuple[torch.Tensor, ...]:
        _refuse_gradients(call)
        if 0 in call.sizes.values():
            return _reference(call)  # nothing to plan for
        results = self._kernel(call).entry(*call.values.values())
        return results if isinstance(results, tuple) else (results,)

    def _kernel(self, call: _Call) -> _Loaded:
        """Return the kernel for a call's types and fixed lengths, made on first use."""
        machine = self._machine_for(call.device)
        loaded = self._loaded.setdefault((call.diagram, machine.name, call.dtype), [])
        for each in loaded:
            if not _misfits(each.plan, call.sizes):
                return each
        plan = _plan(call, machine)
        loaded.append(_Loaded(plan, load_kernel(kernel_source(plan), call.diagram)))
        return loaded[-1]

    def _machine_for(self, device: torch.device) -> Machine:
        if self._machine is None:
            return machine_of(device)
        if not runs_on(self._machine, device):
            found = torch.cuda.get_device_name(device)
            message = f"a kernel for {self._machine.name} does not run on `{found}`"
            raise _error("N606", message, "leave `machine` out, to compile for the GPU at hand")
        return self._machine


# --- planning -------------------------------------------------------------------------------------


def _plan(call: _Call, machine: Machine) -> Plan:
    """Plan for the file's lengths, but for those that the kernel fixes, which are the call's.

    The file's lengths are what its author tuned for, so that the kernel does not depend on which
    call came first.
    """
    derivation = derive(call.diagram)
    sizes = dict(call.sizes) | dict(call.diagram.sizes)
    sizes |= {axis: call.sizes[axis] for axis in derivation.inner}
    for _ in range(_ATTEMPTS):
        plan = runnable(make_plan(derivation, machine, sizes=sizes, dtype=call.dtype), call.device)
        misfits = _misfits(plan, call.sizes)
        if not misfits:
            return plan
        sizes |= {axis: call.sizes[axis] for axis in misfits}
    plan = make_plan(derivation, machine, sizes=call.sizes, dtype=call.dtype)
    return runnable(plan, call.device)


def _misfits(plan: Plan, sizes: Mapping[str, int]) -> list[str]:
    """Return the axes that the plan's kernel fixes to another length."""
    return [
        each.axis
        for kernel in plan.kernels
        for each in kernel.printed.axes
        if each.size is not None and each.size != sizes[each.axis]
    ]


def _reference(call: _Call) -> tuple[torch.Tensor, ...]:
    types = storage_types(call.diagram, call.dtype)
    results = torch_reference(call.diagram, call.values)
    return tuple(
        result.to(TORCH_TYPES[types[output.name]])
        for output, result in zip(call.diagram.outputs, results, strict=True)
    )


def _refuse_gradients(call: _Call) -> None:
    if not torch.is_grad_enabled():
        return
    for name, value in call.values.items():
        if isinstance(value, torch.Tensor) and value.requires_grad:
            message = f"`{name}` requires a gradient, which napkin's kernels do not give yet"
            raise _error("N609", message, "call under torch.no_grad(), or detach the tensor")


# --- arguments ------------------------------------------------------------------------------------


def _bind(diagram: Diagram, arguments: tuple[Any, ...]) -> _Call:
    """Check a call's arguments against the signature; the tensors' types fill those left open."""
    wanted = diagram.arguments
    if len(arguments) != len(wanted):
        listed = ", ".join(each.name for each in wanted)
        message = f"`{diagram.name}` takes {len(wanted)} arguments, {len(arguments)} were given"
        raise _error("N607", message, f"give {listed}")
    pairs = list(zip(wanted, arguments, strict=True))
    device = _device(pairs)
    values = {each.name: _value(each, value, device) for each, value in pairs}
    shapes = {
        name: tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        for name, value in values.items()
    }
    try:
        sizes = axis_sizes(diagram, shapes)
    except ValueError as error:
        raise _error("N607", str(error), "each axis has one length in all arguments") from None
    typed = tuple(_typed(each, values[each.name]) for each in wanted)
    dtype = next(
        (new.dtype for old, new in zip(wanted, typed, strict=True) if not old.dtype and new.dtype),
        _DTYPE,
    )
    return _Call(replace(diagram, arguments=typed), dtype, values, sizes, device)


def _device(pairs: list[tuple[Argument, Any]]) -> torch.device:
    """Return the one device that all tensors lie on."""
    tensors = [(each.name, value) for each, value in pairs if isinstance(value, torch.Tensor)]
    if not tensors:
        return torch.device("cpu")
    (first, tensor), *others = tensors
    for name, value in others:
        if value.device != tensor.device:
            message = f"`{first}` lies on {tensor.device}, `{name}` on {value.device}"
            raise _error("N607", message, "move them to one device")
    return tensor.device


def _value(argument: Argument, value: Any, device: torch.device) -> Value:
    """Return an argument as a kernel takes it: a tensor, or a number for a typed scalar."""
    name = argument.name
    if argument.dtype in _SCALARS:
        return _scalar(argument, value)
    if not argument.dims and isinstance(value, int | float):
        return torch.tensor(value, device=device, dtype=TORCH_TYPES[argument.dtype or "fp32"])
    if not isinstance(value, torch.Tensor):
        wanted = f"[{print_dims(argument.dims)}]"
        message = f"`{name}` should be a tensor {wanted}, it is of type {type(value).__name__}"
        raise _error("N607", message, None)
    if value.ndim != len(argument.dims):
        message = (
            f"`{name}` should have the {len(argument.dims)} dims [{print_dims(argument.dims)}], "
            f"it has {value.ndim}: {tuple(value.shape)}"
        )
        raise _error("N607", message, None)
    _check_type(argument, value)
    return value


def _scalar(argument: Argument, value: Any) -> float | int:
    wanted = _SCALARS[str(argument.dtype)]
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        message = f"`{argument.name}` should be a number, it is of type {type(value).__name__}"
        raise _error("N607", message, None)
    if wanted is int and value != int(value):
        raise _error("N607", f"`{argument.name}` should be an integer, it is {value}", None)
    number: float | int = wanted(value)
    return number


def _check_type(argument: Argument, value: torch.Tensor) -> None:
    name, found = argument.name, STORAGE_NAMES.get(value.dtype)
    if argument.dtype is not None:
        if found != argument.dtype:
            message = f"`{name}` should be of {argument.dtype}, it is of {value.dtype}"
            raise _error("N607", message, f"give `{name}.to({TORCH_TYPES[argument.dtype]})`")
    elif found is None or not value.is_floating_point():
        message = f"`{name}` has no type in the diagram, so it holds floats; this is {value.dtype}"
        help_line = f"declare it: `{name}[{print_dims(argument.dims)}]: {found}`" if found else None
        raise _error("N607", message, help_line)


def _typed(argument: Argument, value: Value) -> Argument:
    if argument.dtype is not None or not isinstance(value, torch.Tensor):
        return argument
    assert argument.kind is Kind.FLOAT
    return replace(argument, dtype=STORAGE_NAMES[value.dtype])


def _error(code: str, message: str, help_line: str | None) -> NapkinError:
    return NapkinError([Diagnostic(code, message, help=help_line)])
