"""A diagram as an operator of PyTorch: `torch.ops.napkin.NAME`, with all that torch's own operators have.

In: a diagram, and perhaps a machine. Out: `Operator`. On a GPU it runs the generated kernel, on the CPU
the torch reference; fake and meta tensors get shapes alone. So `torch.compile` and `torch.export` trace
it as one node. Under autocast, arrays of rank two and more whose type the diagram leaves open are
computed in autocast's type. `vmap` runs the diagram over one more axis (napkin.algebra.batch).

A call like one before goes straight to launches that were recorded (napkin.runtime.launch), through autograd
alone if it leads to gradients (napkin.runtime.operator_recorded), where nothing of torch's is to see it: no
transform, no mode. Every other call goes through torch's dispatcher.

The name is the diagram's and a digest of its text and machine: the same diagram is the same operator,
in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from threading import RLock
from typing import Any

import torch
from torch.autograd import forward_ad

from napkin.algebra.batch import batched
from napkin.diagram import Argument, Diagram, print_diagram, storage_types
from napkin.machine import Machine
from napkin.runtime.arguments import SCALARS, Call, bind, prepare
from napkin.runtime.cache import digest
from napkin.runtime.data import TORCH_TYPES
from napkin.runtime.launch import Layout, layout_of, nothing_listens, quiet
from napkin.runtime.operator_gradient import Rule, direct_autograd, is_wide, no_forward_mode
from napkin.runtime.operator_kernels import LAYOUTS, Kernels
from napkin.runtime.operator_recorded import Recorded
from napkin.runtime.reference import torch_reference

Tensors = tuple[torch.Tensor, ...]

NAMESPACE = "napkin"
_SCHEMA_TYPES = {"int": "SymInt", "float": "float"}
_LIBRARY: Any = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_MAKING = RLock()
_OPERATORS: dict[str, Operator] = {}


class Operator:
    """One diagram as one operator of torch. Call it with tensors, positional as in the signature.

    `overload` is the operator itself, for a graph or for `torch.library.opcheck`. `trains` is the operator
    of which this one is the forward that keeps something for the backward.
    """

    def __init__(
        self,
        diagram: Diagram,
        machine: Machine | None,
        name: str,
        deterministic: bool | None = None,
    ) -> None:
        self.diagram = diagram
        self.machine = machine
        self.name = name
        self.kernels = Kernels(diagram, machine, deterministic)
        self.trains: Operator | None = None
        self._rules: dict[tuple[tuple[str, ...], bool], Rule] = {}
        self._recorded: dict[tuple[Layout, tuple[int, ...]], Recorded] = {}
        self._holes = tuple(
            None if each.dtype in SCALARS else (len(each.dims), each.dtype or "fp32")
            for each in diagram.arguments
        )
        self._kinds = tuple(SCALARS.get(e.dtype or "", torch.Tensor) for e in diagram.arguments)
        _define(self)
        self.overload = getattr(getattr(torch.ops, NAMESPACE), name).default

    def __call__(self, *arguments: Any) -> Any:
        """Run the diagram; return its output, or a tuple of them."""
        if torch.compiler.is_compiling():
            return self._traced(arguments)
        if (self.kernels.launches or self._recorded) and nothing_listens() and quiet():
            layout, asks = layout_of(arguments), _asking(arguments)
            again = (
                self._recorded.get((layout, asks)) if asks else self.kernels.launches.get(layout)
            )
            if again is not None:
                found = again.run(arguments)
                return found[0] if len(found) == 1 else found
        if not self._fit(arguments):
            arguments = tuple(prepare(self.diagram, arguments).values())
        values = self.lowered(arguments)
        _refuse_tangents(self.diagram, values)
        wanted = self.wanted(values)
        if not wanted:
            return self.overload(*values)
        rule = self.rule(wanted, wide=is_wide(values))
        found = rule.apply(values)
        self._record(rule, values, found)
        return found

    def run(self, *values: Any) -> Any:
        """Compute: what torch's dispatcher calls in the end, on the GPU or the CPU."""
        found = self.kernels.again(values)
        if found is None:
            call = bind(self.diagram, values)
            # An axis of length 0 leaves nothing to plan for.
            by_kernel = call.device.type == "cuda" and 0 not in call.sizes.values()
            found = self.kernels.run(call) if by_kernel else _reference(call)
        return found[0] if len(found) == 1 else found

    def wanted(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the arguments that require a gradient, in the signature's order."""
        if not torch.is_grad_enabled():
            return ()
        wraps = torch._C._are_functorch_transforms_active()
        return tuple(
            [
                each.name
                for each, value in zip(self.diagram.arguments, values, strict=True)
                if isinstance(value, torch.Tensor)
                and (value.requires_grad or (wraps and _requires_gradient(value)))
            ]
        )

    def rule(self, wanted: tuple[str, ...], *, wide: bool) -> Rule:
        """Return how gradients by these arguments are computed; `wide` says that float64 is among them."""
        known = self._rules.get((wanted, wide))
        if known is None:
            with _MAKING:
                make = partial(operator_of, deterministic=self.kernels.deterministic)
                known = Rule.of(self, wanted, make, wide=wide)
                known = self._rules.setdefault((wanted, wide), known)
        return known

    def lowered(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments in autocast's type, where autocast is on and the diagram leaves it open."""
        for kind in ("cuda", "cpu"):
            if torch.is_autocast_enabled(kind):
                dtype = torch.get_autocast_dtype(kind)
                pairs = zip(self.diagram.arguments, values, strict=True)
                values = tuple(_lowered(each, value, dtype, kind) for each, value in pairs)
        return values

    def mapped(self, info: Any, in_dims: tuple[int | None, ...], *values: Any) -> tuple[Any, Any]:
        """Run over a further axis of some arguments; return the outputs, and where each has that axis."""
        pairs = zip(self.diagram.arguments, in_dims, strict=True)
        names = frozenset(each.name for each, dim in pairs if dim is not None)
        order = self.kernels.deterministic
        over = over_further_axis(self.diagram, self.machine, names, order)
        moved = [
            value if dim is None else value.movedim(dim, 0)
            for value, dim in zip(values, in_dims, strict=True)
        ]
        outputs = zip(self.diagram.outputs, over.diagram.outputs, strict=True)
        dims = tuple(0 if len(many.dims) > len(one.dims) else None for one, many in outputs)
        return over(*moved), dims[0] if len(dims) == 1 else dims

    def _record(self, rule: Rule, values: Sequence[Any], found: Any) -> None:
        """Keep a call that leads to gradients, if its launches were recorded."""
        if not rule.forward.kernels.launches or not nothing_listens():
            return
        layout = layout_of(values)
        launches = rule.forward.kernels.launches.get(layout)
        if launches is not None:
            if len(self._recorded) >= LAYOUTS:
                self._recorded.clear()
            self._recorded[layout, _asking(values)] = Recorded.of(rule, launches, values, found)

    def _fit(self, arguments: tuple[Any, ...]) -> bool:
        """Tell whether arguments are tensors and numbers already, as the operator takes them."""
        if len(arguments) != len(self._kinds):
            return False
        for each, kind in zip(arguments, self._kinds, strict=True):
            if type(each) is not kind and not (kind is torch.Tensor and isinstance(each, kind)):
                return False
        return True

    def _traced(self, arguments: tuple[Any, ...]) -> Any:
        """Run the diagram under `torch.compile`, which reads this: one node, and no more Python than this."""
        values = list(arguments)
        for place, hole in enumerate(self._holes):
            if hole is not None and not hole[0] and isinstance(values[place], int | float):
                device = next(each.device for each in values if isinstance(each, torch.Tensor))
                values[place] = torch.full((), values[place], device=device, dtype=_TYPES[hole[1]])
        asks = [isinstance(each, torch.Tensor) and each.requires_grad for each in values]
        if torch.is_grad_enabled() and any(asks):
            dtypes = [each.dtype if isinstance(each, torch.Tensor) else None for each in values]
            name, count = self._training(*asks, *dtypes)
            found = getattr(torch.ops.napkin, name).default(*values)
            return found if count == 0 else (found[0] if count == 1 else found[:count])
        return self.overload(*values)

    def _training(self, *asks_and_dtypes: Any) -> tuple[str, int]:
        """Return the operator to run for these arguments, and how many of its outputs to take, 0 for all.

        The first half says which arguments require a gradient, the second half their types. The backward is
        made as well: a graph from the compiler's cache, which nothing traced, looks it up by name.
        """
        arguments = self.diagram.arguments
        count = len(arguments)
        asks, dtypes = asks_and_dtypes[:count], asks_and_dtypes[count:]
        wanted = tuple(each.name for each, asked in zip(arguments, asks, strict=True) if asked)
        rule = self.rule(wanted, wide=torch.float64 in dtypes)
        for under in (
            dtypes,
            [_lowered_type(*pair) for pair in zip(arguments, dtypes, strict=True)],
        ):
            named = dict(zip((each.name for each in arguments), under, strict=True))
            rule.backward_for(tuple(named[name] for name in wanted))
        outputs = len(self.diagram.outputs)
        return rule.forward.name, outputs if rule.kept else 0

    def __repr__(self) -> str:
        return f"<torch.ops.{NAMESPACE}.{self.name}>"


# What `torch.compiler.assume_constant_result` does, without importing the whole compiler for it.
Operator._training._dynamo_marked_constant = True  # type: ignore[attr-defined]

_TYPES = dict(TORCH_TYPES)


@cache
def operator_of(
    diagram: Diagram,
    machine: Machine | None,
    role: str = "",
    deterministic: bool | None = None,
) -> Operator:
    """Return the operator of a diagram, one for each machine; `role` sets apart what only training calls.

    `deterministic` says whether its kernels must give the same bits every time; None, what torch says.
    """
    made_for = machine.name if machine else ""
    order = () if deterministic is None else (str(deterministic),)
    mark = digest(print_diagram(diagram), made_for, role, *order)[:8]
    name = "_".join(filter(None, (diagram.name, role, mark)))
    with _MAKING:
        if name not in _OPERATORS:  # diagrams of one text may differ in the order of their boxes
            _OPERATORS[name] = Operator(diagram, machine, name, deterministic)
        return _OPERATORS[name]


# --- what torch is told ---------------------------------------------------------------------------


def _define(operator: Operator) -> None:
    """Register the operator's schema and its behaviour under each of torch's systems."""
    name = f"{NAMESPACE}::{operator.name}"
    _LIBRARY.define(_schema(operator))
    _LIBRARY.impl(operator.name, operator.run, "CompositeExplicitAutograd")
    for kind in ("CPU", "CUDA"):
        _LIBRARY.impl(operator.name, _autocast(operator, kind), f"Autocast{kind}")
    torch.library.register_fake(name, _fake(operator), lib=_LIBRARY)
    torch.library.register_vmap(name, operator.mapped, lib=_LIBRARY)
    backward, keep = direct_autograd(operator)
    torch.library.register_autograd(name, backward, setup_context=keep, lib=_LIBRARY)


def _schema(operator: Operator) -> str:
    arguments = operator.diagram.arguments
    kinds = [_SCHEMA_TYPES.get(each.dtype or "", "Tensor") for each in arguments]
    results = ", ".join("Tensor" for _ in operator.diagram.outputs)
    results = f"({results})" if len(operator.diagram.outputs) > 1 else results
    names = [each.name for each in arguments]
    for called in (names, [f"{each}_" for each in names]):  # a name may be a word of schemas
        pairs = ", ".join(f"{kind} {each}" for kind, each in zip(kinds, called, strict=True))
        schema = f"{operator.name}({pairs}) -> {results}"
        try:
            torch._C.parse_schema(schema)
        except RuntimeError:
            continue
        return schema
    return schema


def _fake(operator: Operator) -> Callable[..., Any]:
    """Return the function that gives the outputs' shapes and types alone."""

    def fake(*values: Any) -> Any:
        call = bind(operator.diagram, values)
        types = storage_types(call.diagram, call.dtype)
        found = tuple(
            torch.empty(
                [_length(dim, call) for dim in output.dims],
                dtype=TORCH_TYPES[types[output.name]],
                device=call.device,
            )
            for output in call.diagram.outputs
        )
        return found[0] if len(found) == 1 else found

    return fake


def _length(dim: tuple[str, ...], call: Call) -> int:
    length = 1
    for axis in dim:
        length = length * call.sizes[axis]
    return length


def _autocast(operator: Operator, kind: str) -> Callable[..., Any]:
    """Return the function that runs the operator in autocast's type on a kind of device."""
    without = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{kind}"))

    def run(*values: Any) -> Any:
        lowered = operator.lowered(values)
        with torch._C._ExcludeDispatchKeyGuard(without):
            return operator.overload(*lowered)

    return run


def _lowered(argument: Argument, value: Any, dtype: torch.dtype, kind: str) -> Any:
    if not isinstance(value, torch.Tensor) or value.device.type != kind:
        return value
    return value.to(dtype) if _lowers(argument, value.dtype) else value


def _lowers(argument: Argument, dtype: torch.dtype) -> bool:
    """Tell whether autocast computes an argument in its own type."""
    open_matrix = argument.dtype is None and len(argument.dims) > 1
    return open_matrix and dtype.is_floating_point and dtype != torch.float64


def _lowered_type(argument: Argument, dtype: torch.dtype | None) -> torch.dtype | None:
    """Return the type in which autocast, if it is on, has an argument computed."""
    for kind in ("cuda", "cpu"):
        if torch.is_autocast_enabled(kind) and dtype is not None and _lowers(argument, dtype):
            return torch.get_autocast_dtype(kind)
    return dtype


@cache
def over_further_axis(
    diagram: Diagram,
    machine: Machine | None,
    names: frozenset[str],
    deterministic: bool | None = None,
) -> Operator:
    """Return the operator of a diagram with one more axis in front of these arguments."""
    return operator_of(batched(diagram, names), machine, deterministic=deterministic)


# --- values ---------------------------------------------------------------------------------------


def _reference(call: Call) -> Tensors:
    """Return the outputs by the reference, as a kernel gives them: contiguous, and in memory of their own."""
    types = storage_types(call.diagram, call.dtype)
    results = torch_reference(call.diagram, call.values)
    return tuple(
        result.to(TORCH_TYPES[types[output.name]], copy=True, memory_format=torch.contiguous_format)
        for output, result in zip(call.diagram.outputs, results, strict=True)
    )


def _requires_gradient(tensor: torch.Tensor) -> bool:
    """Tell whether a gradient is wanted by a tensor, or by what a transform of `torch.func` wraps in it."""
    return any(each.requires_grad for each in _wrapped(tensor))


def _refuse_tangents(diagram: Diagram, values: Sequence[Any]) -> None:
    """Refuse derivatives in forward mode, which torch's dispatcher would drop without a word."""
    if forward_ad._current_level < 0:
        return
    for argument, value in zip(diagram.arguments, values, strict=True):
        for each in _wrapped(value) if isinstance(value, torch.Tensor) else ():
            dual: Any = forward_ad.unpack_dual(each)  # type: ignore[no-untyped-call]
            if dual.tangent is not None:
                raise no_forward_mode(argument.name)


def _wrapped(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Give a tensor, and what transforms of `torch.func` wrap in it."""
    yield tensor
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
        yield tensor


def _asking(arguments: Sequence[Any]) -> tuple[int, ...]:
    """Return the places of the arguments that lead to gradients."""
    if not torch.is_grad_enabled():
        return ()
    return tuple(
        [place for place, each in enumerate(arguments) if getattr(each, "requires_grad", False)]
    )
