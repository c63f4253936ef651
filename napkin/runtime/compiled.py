"""A diagram as a callable on torch tensors: the kernel on a GPU, a torch reference on the CPU.

In: a diagram, and perhaps a machine. Out: `Kernel`. A call's tensors give every axis its length
and every untyped array its type; a kernel is made for each combination of types, machine and
lengths of the axes that lie whole on chip, once, without the user's doing. All other lengths are
free. What is called wrongly is a NapkinError that names the argument. How a call behaves under
torch's systems is the operator's (napkin.runtime.operator).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from napkin.diagram import Diagram
from napkin.machine import Machine
from napkin.runtime.arguments import DEFAULT_TYPE, in_order
from napkin.runtime.gpus import machine_at_hand
from napkin.runtime.kernels import kernel_source
from napkin.runtime.operator import Operator, operator_of

if TYPE_CHECKING:
    from napkin.schedule.planning.cost import Cost
    from napkin.schedule.planning.plan import Plan


class Kernel:
    """A compiled diagram. Call it with tensors, positional as in the signature, or by name.

    `source`, `plan` and `cost` are those for the file's sizes in bf16; a call with other types or
    another head size makes its own kernel. `operator` is the same as an operator of torch's.
    `deterministic` says whether results and gradients must be the same bits every time (docs/training.md).
    """

    def __init__(
        self,
        diagram: Diagram,
        machine: Machine | None = None,
        deterministic: bool | None = None,
    ) -> None:
        self._diagram = diagram
        self._machine = machine
        self._deterministic = deterministic
        self.operator: Operator = operator_of(diagram, machine, deterministic=deterministic)

    @property
    def name(self) -> str:
        """The diagram's name."""
        return self._diagram.name

    @cached_property
    def plan(self) -> Plan:
        """The plan for the file's sizes."""
        from napkin.algebra.derive import derive
        from napkin.schedule.planning.plan import make_plan

        machine = self._machine or machine_at_hand()
        order = self._deterministic
        return make_plan(derive(self._diagram), machine, dtype=DEFAULT_TYPE, deterministic=order)

    @cached_property
    def source(self) -> str:
        """The text of the kernel's module, which needs torch and triton alone."""
        return kernel_source(self.plan)

    @cached_property
    def cost(self) -> Cost:
        """The plan's cost."""
        from napkin.schedule.planning.cost import cost_of

        return cost_of(self.plan)

    def __reduce__(self) -> tuple[type[Kernel], tuple[Diagram, Machine | None, bool | None]]:
        """Copy and pickle as what it was made from: a model that holds a kernel is copied and saved."""
        return Kernel, (self._diagram, self._machine, self._deterministic)

    def __repr__(self) -> str:
        machine = self._machine.name if self._machine else "the GPU at hand"
        return f"<napkin kernel {self.name} for {machine}>"

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the diagram; return its output, or a tuple of them."""
        if named:
            arguments = tuple(in_order(self._diagram, arguments, named))
        return self.operator(*arguments)
