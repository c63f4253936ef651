"""The arguments of a call against a diagram's signature: rank, lengths, types, device.

In: a diagram and what a call gave. Out: `Call`: the arguments by name, the diagram with the tensors' types
where it left them open, every axis's length and the device. What does not fit is a NapkinError (N607) that
names the argument and its axes. Lengths may be symbols, so that `torch.compile` traces through here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from napkin.diagram import Argument, Diagram, print_dims
from napkin.evaluate import axis_sizes
from napkin.language.errors import Diagnostic, NapkinError
from napkin.operators import Kind
from napkin.runtime.data import STORAGE_NAMES, TORCH_TYPES, Value

DEFAULT_TYPE = "bf16"
SCALARS: dict[str, type[int] | type[float]] = {"int": int, "float": float}
_DEVICES = ("cpu", "cuda", "meta")


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call, and what they say: types, lengths, the device."""

    diagram: Diagram
    dtype: str
    values: Mapping[str, Value]
    sizes: Mapping[str, int]
    device: torch.device


def bind(diagram: Diagram, arguments: Sequence[Any]) -> Call:
    """Check a call's arguments against the signature; the tensors' types fill those left open."""
    values = prepare(diagram, arguments)
    shapes = {
        name: tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        for name, value in values.items()
    }
    for each in diagram.arguments:
        _check(each, values[each.name])
    try:
        sizes = axis_sizes(diagram, shapes)
    except ValueError as error:
        raise call_error(str(error), "each axis has one length in all arguments") from None
    wanted = diagram.arguments
    typed = tuple(_typed(each, values[each.name]) for each in wanted)
    dtype = next(
        (new.dtype for old, new in zip(wanted, typed, strict=True) if not old.dtype and new.dtype),
        DEFAULT_TYPE,
    )
    return Call(replace(diagram, arguments=typed), dtype, values, sizes, _device(values))


def prepare(diagram: Diagram, arguments: Sequence[Any]) -> dict[str, Value]:
    """Return arguments as the operator takes them: tensors, and numbers for the typed scalars."""
    wanted = diagram.arguments
    if len(arguments) != len(wanted):
        listed = ", ".join(f"{each.name}[{print_dims(each.dims)}]" for each in wanted)
        message = f"`{diagram.name}` takes {len(wanted)} arguments, {len(arguments)} were given"
        raise call_error(message, f"give {listed}")
    tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
    device = tensors[0].device if tensors else torch.device("cpu")
    pairs = zip(wanted, arguments, strict=True)
    return {each.name: _value(each, value, device) for each, value in pairs}


def in_order(diagram: Diagram, arguments: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """Return positional and named arguments in the signature's order."""
    names = [each.name for each in diagram.arguments]
    for name in named:
        if name not in names:
            message = f"`{diagram.name}` has no argument `{name}`"
            raise call_error(message, f"its arguments are {', '.join(names)}")
        if name in names[: len(arguments)]:
            raise call_error(f"`{diagram.name}` was given `{name}` twice", None)
    rest = names[len(arguments) :]
    missing = [name for name in rest if name not in named]
    if missing:
        given = [each for each in diagram.arguments if each.name in missing]
        listed = ", ".join(f"`{each.name}[{print_dims(each.dims)}]`" for each in given)
        raise call_error(f"`{diagram.name}` was called without {listed}", None)
    return [*arguments, *(named[name] for name in rest)]


def call_error(message: str, help_line: str | None) -> NapkinError:
    """Return the error of a call that does not fit the signature."""
    return NapkinError([Diagnostic("N607", message, help=help_line)])


def _device(values: Mapping[str, Value]) -> torch.device:
    """Return the one device that all tensors lie on."""
    tensors = [(name, each) for name, each in values.items() if isinstance(each, torch.Tensor)]
    if not tensors:
        return torch.device("cpu")
    (first, tensor), *others = tensors
    for name, value in others:
        if value.device != tensor.device:
            message = f"`{first}` lies on {tensor.device}, `{name}` on {value.device}"
            raise call_error(message, "move them to one device")
    if tensor.device.type not in _DEVICES:
        raise call_error(f"`{first}` lies on {tensor.device}", "give tensors on a GPU or the CPU")
    return tensor.device


def _value(argument: Argument, value: Any, device: torch.device) -> Value:
    """Return an argument as a kernel takes it: a tensor, or a number for a typed scalar."""
    name = argument.name
    if argument.dtype in SCALARS:
        number: float | int = _scalar(argument, value)
        return number
    if not argument.dims and isinstance(value, int | float):
        # Filled on the device: a copy from the host may not stand in a CUDA graph.
        return torch.full((), value, device=device, dtype=TORCH_TYPES[argument.dtype or "fp32"])
    if not isinstance(value, torch.Tensor):
        wanted = f"[{print_dims(argument.dims)}]"
        message = f"`{name}` should be a tensor {wanted}, it is of type {type(value).__name__}"
        raise call_error(message, None)
    return value


def _scalar(argument: Argument, value: Any) -> Any:
    wanted = SCALARS[str(argument.dtype)]
    if isinstance(value, torch.SymInt | torch.SymFloat):
        return value  # a number that a graph leaves open
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        if value.requires_grad and torch.is_grad_enabled():
            message = f"`{argument.name}` is a number, through which no gradient flows"
            help_line = f"declare it as an array, `{argument.name}[]: fp32`, or detach it"
            raise NapkinError([Diagnostic("N609", message, help=help_line)])
        value = value.detach().item()
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        message = f"`{argument.name}` should be a number, it is of type {type(value).__name__}"
        raise call_error(message, None)
    if wanted is int and value != int(value):
        raise call_error(f"`{argument.name}` should be an integer, it is {value}", None)
    return wanted(value)


def _check(argument: Argument, value: Value) -> None:
    """Refuse a tensor of another rank or type than the signature's."""
    if not isinstance(value, torch.Tensor):
        return
    name, dims = argument.name, print_dims(argument.dims)
    if value.ndim != len(argument.dims):
        message = f"`{name}` should have the {len(argument.dims)} dims [{dims}]"
        raise call_error(f"{message}, it has {value.ndim}: {tuple(value.shape)}", None)
    found = STORAGE_NAMES.get(value.dtype)
    if argument.dtype is not None:
        if found != argument.dtype:
            message = f"`{name}` should be of {argument.dtype}, it is of {value.dtype}"
            raise call_error(message, f"give `{name}.to({TORCH_TYPES[argument.dtype]})`")
    elif found is None or not value.is_floating_point():
        message = f"`{name}` has no type in the diagram, so it holds floats; this is {value.dtype}"
        help_line = f"declare it: `{name}[{dims}]: {found}`" if found else None
        raise call_error(message, help_line)


def _typed(argument: Argument, value: Value) -> Argument:
    if argument.dtype is not None or not isinstance(value, torch.Tensor):
        return argument
    assert argument.kind is Kind.FLOAT
    return replace(argument, dtype=STORAGE_NAMES[value.dtype])
