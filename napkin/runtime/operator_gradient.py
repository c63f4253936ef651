"""How gradients flow through an operator: the derived backward, itself a diagram and an operator.

In: an operator and the names of the arguments that want a gradient. Out: `Rule`: the operator that gives the
outputs and what the backward keeps, and the operators that give the gradients, each in its argument's type.
Only what the backward reads is saved. That the backward can be planned is seen to at the forward's call.

Two doors lead here: torch's dispatcher (`direct_autograd`), which graphs go through, and `Rule.apply`, a
function of autograd, which is quicker and serves `torch.func`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from napkin.diagram import Diagram
from napkin.language.errors import Diagnostic, NapkinError
from napkin.runtime.arguments import bind
from napkin.runtime.data import STORAGE_NAMES

if TYPE_CHECKING:
    from napkin.algebra.gradient import Gradient
    from napkin.runtime.operator import Operator

Make = Callable[..., "Operator"]


@dataclass(frozen=True, slots=True)
class Rule:
    """The gradient of an operator by some of its arguments, as operators.

    `operator` is differentiated, `forward` gives its outputs and then what is kept; `seeds` are the
    backward's names for the gradients of the outputs, `saved` what else it reads.
    """

    operator: Operator
    wanted: tuple[str, ...]
    forward: Operator
    backward: Diagram
    seeds: Mapping[str, int]
    saved: tuple[str, ...]
    kept: tuple[str, ...]
    make: Make
    _planned: set[tuple[Any, ...]] = field(default_factory=set, compare=False)
    _made: dict[tuple[torch.dtype, ...], Operator] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(operator: Operator, wanted: tuple[str, ...], make: Make, *, wide: bool) -> Rule:
        """Derive the gradient by the wanted arguments; `wide` keeps in fp64 what else is kept in fp32."""
        gradient = _differentiated(operator.diagram, wanted)
        gradient = _widened(gradient) if wide else gradient
        forward = operator
        if gradient.kept:
            forward = make(gradient.forward, operator.machine, "forward")
            forward.trains = operator
        backward = gradient.backward
        seeds = gradient.seeds
        saved = tuple(each.name for each in backward.arguments if each.name not in seeds)
        return Rule(operator, wanted, forward, backward, seeds, saved, gradient.kept, make)

    def apply(self, values: Sequence[Any]) -> Any:
        """Run the forward so that autograd finds the backward; return the operator's outputs."""
        through = _Apply if torch._C._are_functorch_transforms_active() else _Quick
        found = self.own(through.apply(self, *values))  # type: ignore[no-untyped-call]
        return found[0] if len(found) == 1 else found

    def own(self, found: Any) -> tuple[Any, ...]:
        """Return the operator's outputs out of the forward's."""
        outputs = found if isinstance(found, tuple) else (found,)
        return outputs[: len(self.operator.diagram.outputs)]

    def named(self, values: Sequence[Any], outputs: Any) -> dict[str, Any]:
        """Return arguments and outputs by name."""
        found = outputs if isinstance(outputs, tuple) else (outputs,)
        arguments = {
            each.name: value
            for each, value in zip(self.operator.diagram.arguments, values, strict=True)
        }
        results = zip(self.forward.diagram.outputs, found, strict=True)
        return arguments | {each.name: value for each, value in results}

    def gradients(
        self,
        named: Mapping[str, Any],
        dtypes: tuple[torch.dtype, ...],
        grads: Sequence[Any],
        like: Sequence[Any],
        last: NapkinError | None,
    ) -> dict[str, Any]:
        """Return every wanted argument's gradient in its type, for the outputs' gradients (None is zero).

        `like` are the outputs' shapes, types and devices, `last` why the results have no gradient again.
        """
        filled = [
            torch.zeros(shape, dtype=dtype, device=device) if grad is None else grad
            for grad, (shape, dtype, device) in zip(grads, like, strict=True)
        ]
        operator = self.backward_for(dtypes)
        found = _run_backward(operator, self._arguments(named, filled), last)
        results = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.wanted, results, strict=True))

    def anew(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments and outputs by name, the outputs computed once more.

        Where the gradient is itself to be differentiated, what is kept is an output like the others: a graph
        from the arguments must lead through it.
        """
        arguments = self.operator.diagram.arguments
        forward = self.forward
        if torch.is_grad_enabled():
            forward = self.make(forward.diagram, self.operator.machine)
        values = [named[each.name] for each in arguments]
        return self.named(values, forward(*values))

    def backward_for(self, dtypes: tuple[torch.dtype, ...]) -> Operator:
        """Return the backward whose results have these types."""
        if dtypes not in self._made:
            outputs = tuple(
                replace(each, dtype=STORAGE_NAMES[dtype])
                for each, dtype in zip(self.backward.outputs, dtypes, strict=True)
            )
            typed = replace(self.backward, outputs=outputs)
            self._made[dtypes] = self.make(typed, self.operator.machine)
        return self._made[dtypes]

    def plan_backward(self, named: Mapping[str, Any]) -> None:
        """Make the backward's kernels, so that what stands against them is said now (N609)."""
        given = [named[each.name] for each in self.operator.diagram.arguments]
        tensors = [each for each in given if isinstance(each, torch.Tensor)]
        key = tuple([(each.dtype, each.shape) for each in tensors])
        if not _runs_kernels(tensors[0]) or (key, tensors[0].device) in self._planned:
            return
        if any(type(each) not in (torch.Tensor, torch.nn.Parameter) for each in tensors):
            return
        operator = self.backward_for(tuple(named[name].dtype for name in self.wanted))
        outputs = [named[each.name] for each in self.operator.diagram.outputs]
        call = bind(operator.diagram, self._arguments(named, outputs))
        if 0 not in call.sizes.values():
            try:
                operator.kernels.kernel(call.diagram, call.dtype, call.sizes, call.device)
            except NapkinError as error:
                raise _no_gradient(self.operator.diagram, self.wanted, error) from None
        self._planned.add((key, tensors[0].device))

    def _arguments(self, named: Mapping[str, Any], grads: Sequence[Any]) -> list[Any]:
        """Return the backward's arguments in order."""
        return [
            grads[self.seeds[each.name]] if each.name in self.seeds else named[each.name]
            for each in self.backward.arguments
        ]


def _runs_kernels(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda


# --- what is kept between forward and backward ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """What a context holds beside the tensors that autograd saves, named in order by `tensors`.

    `again` says that these are the arguments, to run the forward again, and not what the backward reads.
    `like` are the outputs' shapes, types and devices, `dtypes` the types of the wanted arguments.
    """

    rule: Rule
    again: bool
    tensors: tuple[str, ...]
    numbers: Mapping[str, Any]
    like: tuple[tuple[torch.Size, torch.dtype, torch.device], ...]
    dtypes: tuple[torch.dtype, ...]

    @staticmethod
    def of(rule: Rule, named: Mapping[str, Any], *, again: bool) -> Held:
        """Return what is held of a call, whose arguments and outputs are given by name."""
        arguments = [each.name for each in rule.operator.diagram.arguments]
        outputs = [named[each.name] for each in rule.operator.diagram.outputs]
        read = arguments if again else rule.saved
        numbers = {
            name: named[name]
            for name in arguments
            if name in read and not isinstance(named[name], torch.Tensor)
        }
        return Held(
            rule,
            again,
            tuple([name for name in read if name not in numbers]),
            numbers,
            tuple([(each.shape, each.dtype, each.device) for each in outputs]),
            tuple([named[name].dtype for name in rule.wanted]),
        )


class _Quick(torch.autograd.Function):
    """A rule as a function of autograd: its first argument is the rule."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, *values: Any) -> Any:
        found = rule.forward(*values)
        named = rule.named(values, found)
        rule.plan_backward(named)
        _hold(ctx, Held.of(rule, named, again=False), named)
        outputs = rule.own(found)
        return outputs[0] if len(outputs) == 1 else outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return (None, *_backward(ctx, grads))


class _Apply(torch.autograd.Function):
    """The same in the form that the transforms of `torch.func` ask for, which takes longer to call."""

    @staticmethod
    def forward(rule: Rule, *values: Any) -> Any:
        return rule.forward.overload(*values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        rule, *values = inputs
        named = rule.named(values, output)
        rule.plan_backward(named)
        _keep(ctx, rule, named)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return (None, *_backward(ctx, grads))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode(ctx.held.rule.operator.diagram.name)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], rule: Rule, *values: Any) -> Any:
        return rule.forward.mapped(info, in_dims[1:], *values)


def direct_autograd(operator: Operator) -> tuple[Callable[..., Any], Callable[..., None]]:
    """Return the backward and what it keeps, as `torch.library.register_autograd` takes them."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        base = operator.trains or operator
        rule = base.rule(_needed(ctx, operator.diagram), wide=is_wide(inputs))
        if rule.forward is operator:
            _keep(ctx, rule, rule.named(inputs, output))
        else:  # it keeps nothing, or not what this gradient reads: the forward is run again
            named = rule.named(inputs, padded(rule, rule.own(output)))
            _hold(ctx, Held.of(rule, named, again=True), named)

    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, grads)

    return backward, keep


def is_wide(values: Sequence[Any]) -> bool:
    """Tell whether float64 is among the arguments."""
    return torch.float64 in [each.dtype for each in values if isinstance(each, torch.Tensor)]


def _needed(ctx: Any, diagram: Diagram) -> tuple[str, ...]:
    pairs = zip(diagram.arguments, ctx.needs_input_grad, strict=False)
    return tuple(each.name for each, needed in pairs if needed)


def padded(rule: Rule, found: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the operator's outputs with None for each of the forward's that the backward keeps."""
    return (*found, *(None for _ in rule.forward.diagram.outputs[len(found) :]))


def _keep(ctx: Any, rule: Rule, named: Mapping[str, Any]) -> None:
    if rule.kept:
        ctx.mark_non_differentiable(*(named[name] for name in rule.kept))
    _hold(ctx, Held.of(rule, named, again=False), named)


def _hold(ctx: Any, held: Held, named: Mapping[str, Any]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*[named[name] for name in held.tensors])
    ctx.held = held


def _backward(ctx: Any, grads: Sequence[Any]) -> tuple[Any, ...]:
    return gradients_of(ctx.held, ctx.saved_tensors, grads)


def gradients_of(held: Held, saved: Sequence[Any], grads: Sequence[Any]) -> tuple[Any, ...]:
    """Return the gradient of every argument, None for those that want none."""
    rule = held.rule
    arguments = rule.operator.diagram.arguments
    count = len(rule.operator.diagram.outputs)
    if all(each is None for each in grads[:count]):
        return tuple(None for _ in arguments)
    named = {**held.numbers, **dict(zip(held.tensors, saved, strict=True))}
    twice = torch.is_grad_enabled() and rule.forward is not rule.operator
    whole = all(each.name in named for each in arguments)
    if held.again or (twice and whole):
        named = rule.anew(named)
    last = _not_kept(rule) if twice and not whole else None
    found = rule.gradients(named, held.dtypes, grads[:count], held.like, last)
    return tuple(found.get(each.name) for each in arguments)


def _not_kept(rule: Rule) -> NapkinError:
    """Return why a gradient has none of its own: from what was kept, no graph leads to the arguments."""
    message = f"the gradient of `{rule.operator.diagram.name}` has no gradient of its own"
    note = "it would need arguments that are not kept for the backward"
    return NapkinError([Diagnostic("N609", message, notes=(note,))])


def _run_backward(operator: Operator, arguments: Sequence[Any], last: NapkinError | None) -> Any:
    """Run a backward in the types that the forward had, whatever autocast says now."""
    kind = next(each.device.type for each in arguments if isinstance(each, torch.Tensor))
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return _run_backward(operator, arguments, last)
    if last is None:
        try:
            return operator(*arguments)
        except NapkinError as error:
            if not torch.is_grad_enabled() or error.diagnostics[0].code != "N609":
                raise
            last = error
    # A transform asks for a graph whether or not it is walked: the error waits until it is.
    return _Last.apply(operator, last, *arguments)  # type: ignore[no-untyped-call]


class _Last(torch.autograd.Function):
    """A backward that has no gradient of its own: its first arguments are the operator, and why."""

    @staticmethod
    def forward(operator: Operator, error: NapkinError, *values: Any) -> Any:
        return operator.overload(*values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.error = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise ctx.error

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        operator: Operator,
        error: NapkinError,
        *values: Any,
    ) -> Any:
        return operator.mapped(info, in_dims[2:], *values)


# --- the derived gradient -------------------------------------------------------------------------


def _differentiated(diagram: Diagram, wanted: tuple[str, ...]) -> Gradient:
    from napkin.algebra.gradient import differentiate  # what is never trained needs no calculus

    try:
        return differentiate(diagram, wanted)
    except NapkinError as error:
        raise _no_gradient(diagram, wanted, error) from None


def _widened(gradient: Gradient) -> Gradient:
    """Return the gradient with what is kept in fp64."""

    def wide(each: Any) -> Any:
        widens = each.name in gradient.kept and each.dtype == "fp32"
        return replace(each, dtype="fp64") if widens else each

    forward = replace(gradient.forward, outputs=tuple(map(wide, gradient.forward.outputs)))
    backward = replace(gradient.backward, arguments=tuple(map(wide, gradient.backward.arguments)))
    return replace(gradient, forward=forward, backward=backward)


def no_forward_mode(name: str) -> NapkinError:
    """Return the error of a tangent that reaches an argument, or a diagram, of this name."""
    message = f"`{name}` has a tangent: there are no derivatives in forward mode"
    help_line = "take them in reverse mode: torch.func.vjp, grad or jacrev"
    return NapkinError([Diagnostic("N609", message, help=help_line)])


def _no_gradient(diagram: Diagram, wanted: Sequence[str], error: NapkinError) -> NapkinError:
    """Return the error of a backward that can't be made, with the reason."""
    listed = ", ".join(f"`{each}`" for each in wanted)
    message = f"the gradient of `{diagram.name}` by {listed} has no kernel"
    notes = tuple(each.message for each in error.diagnostics)
    help_line = "call it under torch.no_grad(), or detach the tensors"
    return NapkinError([Diagnostic("N609", message, notes=notes, help=help_line)])
