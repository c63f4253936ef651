"""The Python interface: text to diagrams, diagrams to their stages and to torch callables.

In: a path or a text. Out: `Diagram`, with a method for every stage, named as the command line's.
Each stage's module is imported when it is asked for, since some need SymPy or torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napkin.diagram import Diagram as Core
from napkin.language import MAX_BYTES, read, source_from_bytes
from napkin.language.errors import Diagnostic, NapkinError, did_you_mean

if TYPE_CHECKING:
    from napkin.algebra.derive import Derivation
    from napkin.machine import Machine
    from napkin.runtime.compiled import Kernel
    from napkin.schedule.planning.cost import Cost
    from napkin.schedule.planning.plan import Plan
    from napkin.schedule.planning.unplanned import Unplanned

DEFAULT_MACHINE = "hopper"
DEFAULT_TYPE = "bf16"

__all__ = ["Diagram", "Kernel", "compile", "load", "parse"]


@dataclass(frozen=True, slots=True)
class Diagram:
    """A diagram and its stages. `core` is the typed diagram that every stage takes.

    `machine` is a name (`hopper`, `a100`), `sizes` lengths that replace the file's, `dtype` the
    type of arrays of rank two and more that the file leaves untyped.
    """

    core: Core

    @property
    def name(self) -> str:
        """The diagram's name."""
        return self.core.name

    def derive(self) -> Derivation:
        """Return which axes may be grouped, which one streams, and with what state."""
        from napkin.algebra.derive import derive

        return derive(self.core)

    def gradient(self, wanted: Collection[str] | None = None) -> Gradient:
        """Return the diagram with what its backward keeps, and the backward, which is a diagram too.

        The gradient is by the wanted arguments, or by every real one. Raises NapkinError (N303).
        """
        from napkin.algebra.gradient import differentiate

        made = differentiate(self.core, wanted)
        return Gradient(Diagram(made.forward), made.kept, Diagram(made.backward), made.wanted)

    def plan(
        self,
        machine: str = DEFAULT_MACHINE,
        *,
        sizes: Mapping[str, int] | None = None,
        dtype: str = DEFAULT_TYPE,
        deterministic: bool | None = None,
    ) -> Plan:
        """Return the diagram laid on a machine: its kernels, each with tiles, warps and loop program.

        A `deterministic` plan gives the same bits every time: no sum is added up in memory in an order that
        is left open. None leaves that to the planner, which keeps the order where it costs less than a tenth.
        """
        from napkin.algebra.derive import derive
        from napkin.machine import load_machine
        from napkin.schedule.planning.plan import make_plan

        derivation = derive(_resized(self.core, sizes or {}))
        order = deterministic
        return make_plan(
            derivation, load_machine(machine), sizes=sizes, dtype=dtype, deterministic=order
        )

    def cost(
        self,
        machine: str = DEFAULT_MACHINE,
        *,
        sizes: Mapping[str, int] | None = None,
        dtype: str = DEFAULT_TYPE,
    ) -> Cost:
        """Return what the plan costs: formulas, counts and the prediction.

        Where no kernel can be made, it is the least that one kernel must cost: for a machine that no code
        is generated for, or without a type that an array is stored in.
        """
        from napkin.machine import load_machine
        from napkin.schedule.planning.cost import cost_of
        from napkin.schedule.planning.plan import has_kernels

        if not has_kernels(self.core, load_machine(machine), dtype):
            return self.cost_without_plan(machine, sizes=sizes, dtype=dtype).as_cost()
        return cost_of(self.plan(machine, sizes=sizes, dtype=dtype))

    def cost_without_plan(
        self,
        machine: str = DEFAULT_MACHINE,
        *,
        sizes: Mapping[str, int] | None = None,
        dtype: str = DEFAULT_TYPE,
        registers: str = "fp32",
    ) -> Unplanned:
        """Return the model's word before any plan: formulas, the least transfers, an `on` block's tables.

        `registers` is the type in which the tables hold what is computed.
        """
        from napkin.algebra.derive import derive
        from napkin.machine import load_machine
        from napkin.schedule.planning.unplanned import cost_without_plan

        return cost_without_plan(
            derive(_resized(self.core, sizes or {})),
            load_machine(machine),
            sizes=sizes,
            dtype=dtype,
            computed=registers,
        )

    def pseudo(
        self,
        machine: str = DEFAULT_MACHINE,
        *,
        sizes: Mapping[str, int] | None = None,
        dtype: str = DEFAULT_TYPE,
    ) -> str:
        """Return the plan's loop programs as pseudocode with their costs."""
        from napkin.emit.pseudo import pseudo_of_plan

        return pseudo_of_plan(self.plan(machine, sizes=sizes, dtype=dtype))

    def svg(
        self,
        machine: str | None = None,
        *,
        sizes: Mapping[str, int] | None = None,
        dtype: str = DEFAULT_TYPE,
    ) -> str:
        """Return the picture of the diagram as SVG text, relabelled by its plan if a machine is given.

        Raises NapkinError (N610) where Graphviz's program `dot` is not installed.
        """
        from napkin.draw.diagram import draw_diagram
        from napkin.draw.relabelled import draw_plan

        if machine is None:
            return draw_diagram(self.core)
        return draw_plan(self.plan(machine, sizes=sizes, dtype=dtype))

    def compile(self, machine: str | None = None, *, deterministic: bool | None = None) -> Kernel:
        """Return a callable on torch tensors; without a machine, for the GPU at hand.

        `deterministic` is as in `napkin.compile`.
        """
        from napkin.runtime.compiled import Kernel

        return Kernel(self.core, _machine(machine), deterministic)

    def __str__(self) -> str:
        return str(self.core)

    def _repr_svg_(self) -> str | None:
        """Return the picture for a notebook, which shows the text where there is none."""
        try:
            return self.svg()
        except NapkinError:
            return None


@dataclass(frozen=True, slots=True)
class Gradient:
    """A diagram's forward, with the arrays named in `kept` as further outputs, and its backward."""

    forward: Diagram
    kept: tuple[str, ...]
    backward: Diagram
    wanted: tuple[str, ...]


def parse(text: str, name: str | None = None) -> Diagram:
    """Return the diagram of that name in a text; without a name, the last, which may call the rest.

    >>> print(parse("diagram double(A[x]) -> B[x]\\n    B[x] = 2 * A"), end="")
    diagram double(A[x]) -> B[x]
        B[x] = 2 * A
    """
    return _choose(text.encode("utf-8", "surrogatepass"), "<text>", name)


def load(path: str | Path, name: str | None = None) -> Diagram:
    """Return the diagram of that name in a file; without one the last, which may call the rest."""
    return _choose(_read_bytes(Path(path)), str(path), name)


def load_all(path: str | Path) -> tuple[Diagram, ...]:
    """Return every diagram of a file."""
    source = source_from_bytes(str(path), _read_bytes(Path(path)))
    return tuple(Diagram(each) for each in read(source))


def compile(
    diagram: Diagram | str | Path,
    machine: str | None = None,
    *,
    deterministic: bool | None = None,
) -> Kernel:
    """Return a callable on torch tensors, positional as in the signature.

    Tensors on a GPU run the generated kernel, tensors on the CPU a torch reference. Without a
    machine the kernel is made for the GPU at hand, without a GPU for Hopper. `.source`, `.plan`
    and `.cost` are its parts.

    A `deterministic` kernel gives the same bits every time, gradients included. None, the default, does what
    `torch.use_deterministic_algorithms` says at the call; where that asks for nothing, the order of sums is
    kept where it costs less than a tenth of the time (docs/training.md).
    """
    if not isinstance(diagram, Diagram):
        diagram = load(diagram)
    return diagram.compile(machine, deterministic=deterministic)


def __getattr__(name: str) -> object:
    # `Kernel` is public here but needs torch.
    if name == "Kernel":
        from napkin.runtime.compiled import Kernel

        return Kernel
    raise AttributeError(f"module `napkin.api` has no attribute `{name}`")


def _machine(name: str | None) -> Machine | None:
    if name is None:
        return None
    from napkin.machine import load_machine

    return load_machine(name)


def _resized(core: Core, sizes: Mapping[str, int]) -> Core:
    """Return the diagram with lengths replaced, since the choice of a stream asks for them."""
    known = {axis: size for axis, size in sizes.items() if axis in core.axes and size > 0}
    return replace(core, sizes=tuple((dict(core.sizes) | known).items()))


def _choose(data: bytes, file: str, name: str | None) -> Diagram:
    diagrams = read(source_from_bytes(file, data))
    if name is None:
        return Diagram(diagrams[-1])
    for each in diagrams:
        if each.name == name:
            return Diagram(each)
    known = [each.name for each in diagrams]
    message = f"`{file}` has no diagram `{name}`"
    notes = (f"it has {', '.join(f'`{each}`' for each in known)}",)
    raise NapkinError([Diagnostic("N612", message, notes=notes, help=did_you_mean(name, known))])


def _read_bytes(path: Path) -> bytes:
    """Return a file's bytes, no more than one past the limit of what a diagram may hold."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        near = _nearby(path)
        message = f"cannot read `{path}`: {reason}"
        raise NapkinError([Diagnostic("N604", message, help=near)]) from None


def _nearby(path: Path) -> str | None:
    """Suggest a file beside a missing one."""
    try:
        if path.is_dir():
            found = sorted(path.glob("*.napkin"))
            return f"name a file in it, such as `{found[0]}`" if found else "name a file"
        names = [each.name for each in path.parent.glob("*.napkin")]
    except (OSError, ValueError):
        return None
    return did_you_mean(path.name, names)
