"""A call that leads to gradients, made again: forward and backward by launches that were recorded.

In: a rule (napkin.runtime.operator_gradient) and the launches of its forward at some layout of arguments.
Out: `Recorded`, which runs calls of that layout. What a call asks by name, such as which tensors the
backward reads and where its gradients go, is decided here once and is a choice of places after that. A
backward that is not as the recorded one (a gradient is missing, or is wanted of the gradient; a mode
listens) goes the rule's way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch

from napkin.runtime.launch import Launches, Pick, nothing_listens
from napkin.runtime.operator_gradient import Held, Rule, gradients_of, padded
from napkin.runtime.operator_kernels import Kernels


@dataclass(frozen=True, slots=True)
class Recorded:
    """A forward whose launches are recorded, and the kernels of its backward.

    `save` picks what the backward reads from arguments and outputs, `outputs` what the caller gets. `fill`
    picks the backward's arguments from what was saved, the outputs' gradients and the numbers, `deal` the
    gradients of all arguments from None and the backward's results.
    """

    held: Held
    launches: Launches
    outputs: Pick
    save: Pick
    backward: Kernels
    fill: Pick
    deal: Pick

    @staticmethod
    def of(rule: Rule, launches: Launches, values: Sequence[Any], outputs: Any) -> Recorded:
        """Return the record of a call that was made, for others of its layout and its numbers."""
        held = Held.of(rule, rule.named(values, padded(rule, rule.own(outputs))), again=False)
        names = [each.name for each in rule.operator.diagram.arguments]
        own = [each.name for each in rule.operator.diagram.outputs]
        known = [*names, *(each.name for each in rule.forward.diagram.outputs)]
        seeds = {name: len(held.tensors) + place for name, place in rule.seeds.items()}
        numbers = {
            name: len(held.tensors) + len(own) + place for place, name in enumerate(held.numbers)
        }
        read = {name: place for place, name in enumerate(held.tensors)} | seeds | numbers
        gradients = {name: 1 + place for place, name in enumerate(rule.wanted)}
        return Recorded(
            held,
            launches,
            _picking(range(len(own))),
            _picking([known.index(name) for name in held.tensors]),
            rule.backward_for(held.dtypes).kernels,
            _picking([read[each.name] for each in rule.backward.arguments]),
            _picking([0, *(gradients.get(name, 0) for name in names)]),
        )

    def run(self, values: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Return the outputs for other tensors of the same layout, so that autograd finds the backward."""
        found: tuple[torch.Tensor, ...] = _Again.apply(self, *values)  # type: ignore[no-untyped-call]
        return found


class _Again(torch.autograd.Function):
    """A recorded call as a function of autograd: its first argument is the record."""

    @staticmethod
    def forward(ctx: Any, call: Recorded, *values: Any) -> Any:
        found = call.launches.run(values)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*call.save((*values, *found)))
        ctx.call = call
        return call.outputs(found)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        call: Recorded = ctx.call
        saved = ctx.saved_tensors
        if not torch.is_grad_enabled() and nothing_listens():
            numbers = call.held.numbers.values()
            found = call.backward.again(call.fill((*saved, *grads, *numbers)))
            if found is not None:
                return call.deal((None, *found))
        return (None, *gradients_of(call.held, saved, grads))


def _picking(places: Sequence[int]) -> Pick:
    """Return what picks these places from a sequence, as a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple([values[place] for place in places])
