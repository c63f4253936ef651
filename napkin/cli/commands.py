"""The commands: each takes parsed arguments, calls the interface, prints, and returns a status."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from napkin.cli.terminal import (
    as_json,
    hand_over,
    in_colour,
    load_diagram,
    mistake,
    patience,
    pictures,
    say,
)

if TYPE_CHECKING:
    from napkin.api import Diagram
    from napkin.draw.cost import Measured
    from napkin.runtime.verify import Verification
    from napkin.schedule.planning.cost import Cost

_FAILED = 1
FLOATS = ("bf16", "fp16", "fp32", "fp64", "fp8e4m3", "fp8e5m2")
SHORT_TYPES = {"fp8": "fp8e4m3"}


def check_command(arguments: argparse.Namespace) -> int:
    from napkin.algebra.show import warnings
    from napkin.api import load_all
    from napkin.language.errors import render

    diagrams = (load_diagram(arguments),) if arguments.diagram else load_all(arguments.file)
    for diagram in diagrams:
        for each in warnings(diagram.derive()):
            say(render(each, colour=in_colour()))
        print(f"{arguments.file}: {diagram.name} is sound")
    return 0


def derive_command(arguments: argparse.Namespace) -> int:
    from napkin.algebra.show import show_derivation
    from napkin.api import load

    if arguments.grad:
        gradient = load(arguments.file, arguments.diagram).gradient()
        print(f"{gradient.forward}\n{gradient.backward}")
    print(show_derivation(load_diagram(arguments).derive()).rstrip())
    return 0


def pseudo_command(arguments: argparse.Namespace) -> int:
    with patience("planning"):
        text = load_diagram(arguments).pseudo(
            arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype
        )
    print(text.rstrip())
    return 0


def cost_command(arguments: argparse.Namespace) -> int:
    from napkin.emit.report import show_cost
    from napkin.machine import load_machine
    from napkin.schedule.planning.cost import cost_of
    from napkin.schedule.planning.plan import has_kernels

    if arguments.compare:
        return _compare(arguments)
    diagram, machine = load_diagram(arguments), load_machine(arguments.machine)
    is_planned = not arguments.no_plan and not arguments.registers
    if not (is_planned and has_kernels(diagram.core, machine, arguments.dtype)):
        return _cost_without_plan(diagram, arguments)
    with patience("planning"):
        plan = diagram.plan(arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype)
        cost = cost_of(plan)
    print(as_json(cost.as_json()) if arguments.json else show_cost(plan, cost))
    return 0


def _cost_without_plan(diagram: Diagram, arguments: argparse.Namespace) -> int:
    from napkin.emit.report import show_unplanned

    found = diagram.cost_without_plan(
        arguments.machine,
        sizes=arguments.sizes,
        dtype=arguments.dtype,
        registers=arguments.registers or "fp32",
    )
    print(as_json(found.as_json()) if arguments.json else show_unplanned(found))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from napkin.emit.report import show_comparison

    diagram = load_diagram(arguments)
    types = [SHORT_TYPES.get(each, each) for each in arguments.compare]
    if all(each in FLOATS for each in types):
        settings = [(arguments.machine, each) for each in types]
    else:
        settings = [(each, arguments.dtype) for each in arguments.compare]
    with patience("planning"):
        costs = [_compared(diagram, arguments, machine, dtype) for machine, dtype in settings]
    found = {"costs": [each.as_json() for each in costs]}
    print(as_json(found) if arguments.json else show_comparison(costs))
    return 0


def _compared(diagram: Diagram, arguments: argparse.Namespace, machine: str, dtype: str) -> Cost:
    if arguments.no_plan:
        found = diagram.cost_without_plan(machine, sizes=arguments.sizes, dtype=dtype)
        return found.as_cost()
    return diagram.cost(machine, sizes=arguments.sizes, dtype=dtype)


def plan_command(arguments: argparse.Namespace) -> int:
    from napkin.schedule.planning.choice import choice_lines, choices_of, ranked_table
    from napkin.schedule.planning.show import show_plan

    with patience("planning"):
        plan = load_diagram(arguments).plan(
            arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype
        )
        choices = choices_of(plan)
    words = [[*choice_lines(each), *_ranked(ranked_table(each, arguments.top))] for each in choices]
    print(show_plan(plan, words))
    return 0


def _ranked(rows: list[str]) -> list[str]:
    return ["", *rows] if len(rows) > 1 else []


def draw_command(arguments: argparse.Namespace) -> int:
    from napkin.draw.flow import draw_flow

    diagram = load_diagram(arguments)
    # The `on` block of a file is its own choice of a machine.
    hand = diagram.core.relabellings[0].machine if diagram.core.relabellings else None
    if arguments.view == "flow":
        return hand_over(draw_flow(diagram.core), arguments.output)
    if arguments.view == "diagram":
        return hand_over(diagram.svg(), arguments.output)
    if arguments.view in ("steps", "columns"):
        from napkin.api import DEFAULT_MACHINE
        from napkin.draw.columns import draw_columns
        from napkin.draw.strip import draw_strip

        with patience("planning"):
            plan = diagram.plan(
                arguments.machine or hand or DEFAULT_MACHINE,
                sizes=arguments.sizes,
                dtype=arguments.dtype,
            )
        draw = draw_strip if arguments.view == "steps" else draw_columns
        return hand_over(draw(plan), arguments.output)
    with patience("planning"):
        text = diagram.svg(arguments.machine or hand, sizes=arguments.sizes, dtype=arguments.dtype)
    return hand_over(text, arguments.output)


def report_command(arguments: argparse.Namespace) -> int:
    from napkin.draw.cost import cost_view
    from napkin.draw.page import draw_cost

    with patience("planning"):
        plan = load_diagram(arguments).plan(
            arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype
        )
    measured = _read_measured(arguments.measured) if arguments.measured else ()
    if arguments.output and arguments.output.endswith((".html", ".htm")):
        from napkin.draw.report import draw_report
        from napkin.runtime.kernels import kernel_source

        return hand_over(
            draw_report(plan, kernel_source(plan), measured=measured), arguments.output
        )
    return hand_over(draw_cost(cost_view(plan, measured=measured)), arguments.output)


def _read_measured(path: str) -> tuple[Measured, ...]:
    from napkin.draw.cost import read_measured

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise mistake(
            "N604", f"cannot read `{path}`", "name a file of `napkin bench --json`"
        ) from error
    return read_measured(text, path)


def compile_command(arguments: argparse.Namespace) -> int:
    from napkin.emit.pseudo import pseudo_of_plan
    from napkin.runtime.kernels import kernel_source, make_folder, write_inside
    from napkin.schedule.planning.cost import cost_of

    diagram = load_diagram(arguments)
    with patience("planning"):
        plan = diagram.plan(arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype)
    cost = cost_of(plan)
    files = {
        ".py": kernel_source(plan),
        ".pseudo.txt": pseudo_of_plan(plan).rstrip() + "\n",
        **pictures(plan),
        ".cost.json": as_json(cost.as_json()) + "\n",
    }
    folder = make_folder(Path(arguments.output))
    for ending, text in files.items():
        print(write_inside(folder, f"{diagram.name}{ending}", text))
    print(cost.headline())
    return 0


def verify_command(arguments: argparse.Namespace) -> int:
    from napkin.api import load

    diagram = load(arguments.file, arguments.diagram)
    with patience("importing torch"):
        from napkin.runtime.gpus import machine_at_hand
    machine = arguments.machine or machine_at_hand().name
    found = _verify_gradient if arguments.grad else _verify_kernel
    passed = True
    for verification in found(arguments, diagram, machine):
        print(verification)
        passed &= verification.passed
    if not passed:
        say("error: a kernel is farther from the reference than its types explain")
    return 0 if passed else _FAILED


def _verify_kernel(
    arguments: argparse.Namespace, diagram: Diagram, machine: str
) -> tuple[Verification, ...]:
    from napkin.runtime.verify import verify

    with patience("planning"):
        plan = diagram.plan(machine, sizes=arguments.sizes, dtype=arguments.dtype)
    with patience("running the kernel and the reference"):
        return (verify(plan, sizes=arguments.sizes, seed=arguments.seed),)


def _verify_gradient(
    arguments: argparse.Namespace, diagram: Diagram, machine: str
) -> tuple[Verification, ...]:
    from napkin.algebra.gradient import differentiate
    from napkin.api import Diagram
    from napkin.runtime.verify_gradient import verify_gradient

    gradient, sizes = differentiate(diagram.core), arguments.sizes or {}
    axes = gradient.backward.axes
    among = {axis: size for axis, size in sizes.items() if axis in axes}
    with patience("planning"):
        forward = Diagram(gradient.forward).plan(machine, sizes=sizes, dtype=arguments.dtype)
        backward = Diagram(gradient.backward).plan(machine, sizes=among, dtype=arguments.dtype)
    with patience("running the kernels and the references"):
        return verify_gradient(
            diagram.core, gradient, forward, backward, sizes=sizes, seed=arguments.seed
        )


def bench_command(arguments: argparse.Namespace) -> int:
    diagram = load_diagram(arguments)
    with patience("importing torch"):
        from napkin.runtime.bench import measure, require_gpu
        from napkin.runtime.gpus import machine_at_hand
        from napkin.runtime.kernels import write_text
        from napkin.runtime.peers import find_contenders
    require_gpu()
    contenders = find_contenders(arguments.vs or (), diagram.core)
    machine = arguments.machine or machine_at_hand().name
    with patience("planning"):
        plan = diagram.plan(machine, sizes=arguments.sizes, dtype=arguments.dtype)
    with patience("measuring"):
        measured = measure(plan, contenders)
    if arguments.json:
        write_text(Path(arguments.json), as_json(measured.as_json()) + "\n")
    print(measured)
    return 0


def explain_command(arguments: argparse.Namespace) -> int:
    from napkin.language.explain import explain

    print(explain(arguments.code).rstrip())
    return 0
