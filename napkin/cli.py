"""The command line: it parses arguments, calls the interface and prints, and decides nothing.

In: arguments. Out: a product on stdout or in the file of `-o`, diagnostics on stderr, and a
status: 0, 1 for a mistake of the user's (or a kernel that is wrong), 2 for a mistake in the
command line itself.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from napkin.api import Diagram
    from napkin.draw.cost import Measured
    from napkin.language.errors import NapkinError
    from napkin.schedule.cost import Cost
    from napkin.schedule.plan import Plan

    Commands = argparse._SubParsersAction["_Parser"]

_EXAMPLE = """\
napkin compile examples/attention.napkin --machine hopper -o out

"""
_AFTER = """\
`napkin COMMAND --help` describes a command. Without a GPU, `verify` runs the kernel on the CPU.
"""
_FLOATS = ("bf16", "fp16", "fp32", "fp64", "fp8e4m3", "fp8e5m2")
_SHORT_TYPES = {"fp8": "fp8e4m3"}
_PEERS = ("fa2", "cudnn", "torch", "flex", "fa3", "fa4")
_NO_DOT = "N610"
_PATIENCE_S = 2.0
_FAILED, _INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its status."""
    try:
        status = _run(_parser().parse_args(argv))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED


def _run(arguments: argparse.Namespace) -> int:
    from napkin.language.errors import InternalError, NapkinError

    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except NapkinError as error:
        _report(error)
    except InternalError as error:
        _say(str(error))
    return _FAILED


# --- commands -------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> int:
    from napkin.algebra.show import warnings
    from napkin.api import load_all
    from napkin.language.errors import render

    diagrams = (_load(arguments),) if arguments.diagram else load_all(arguments.file)
    for diagram in diagrams:
        for each in warnings(diagram.derive()):
            _say(render(each, colour=_colours()))
        print(f"{arguments.file}: {diagram.name} is sound")
    return 0


def _derive(arguments: argparse.Namespace) -> int:
    from napkin.algebra.show import show_derivation

    print(show_derivation(_load(arguments).derive()).rstrip())
    return 0


def _pseudo(arguments: argparse.Namespace) -> int:
    with _patience("planning"):
        text = _load(arguments).pseudo(
            arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype
        )
    print(text.rstrip())
    return 0


def _cost(arguments: argparse.Namespace) -> int:
    from napkin.emit.report import show_cost
    from napkin.machine import load_machine
    from napkin.schedule.cost import cost_of

    if arguments.compare:
        return _compare(arguments)
    has_kernels = load_machine(arguments.machine).capability is not None
    if arguments.no_plan or arguments.registers or not has_kernels:
        return _cost_without_plan(arguments)
    with _patience("planning"):
        plan = _load(arguments).plan(
            arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype
        )
        cost = cost_of(plan)
    print(_json(cost.as_json()) if arguments.json else show_cost(plan, cost))
    return 0


def _cost_without_plan(arguments: argparse.Namespace) -> int:
    from napkin.emit.report import show_unplanned

    found = _load(arguments).cost_without_plan(
        arguments.machine,
        sizes=arguments.sizes,
        dtype=arguments.dtype,
        registers=arguments.registers or "fp32",
    )
    print(_json(found.as_json()) if arguments.json else show_unplanned(found))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from napkin.emit.report import show_comparison

    diagram = _load(arguments)
    types = [_SHORT_TYPES.get(each, each) for each in arguments.compare]
    if all(each in _FLOATS for each in types):
        settings = [(arguments.machine, each) for each in types]
    else:
        settings = [(each, arguments.dtype) for each in arguments.compare]
    with _patience("planning"):
        costs = [_compared(diagram, arguments, machine, dtype) for machine, dtype in settings]
    as_json = {"costs": [each.as_json() for each in costs]}
    print(_json(as_json) if arguments.json else show_comparison(costs))
    return 0


def _compared(diagram: Diagram, arguments: argparse.Namespace, machine: str, dtype: str) -> Cost:
    if arguments.no_plan:
        found = diagram.cost_without_plan(machine, sizes=arguments.sizes, dtype=dtype)
        return found.as_cost()
    return diagram.cost(machine, sizes=arguments.sizes, dtype=dtype)


def _plan(arguments: argparse.Namespace) -> int:
    with _patience("planning"):
        plan = _load(arguments).plan(
            arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype
        )
    print(plan)
    return 0


def _draw(arguments: argparse.Namespace) -> int:
    from napkin.draw.flow import draw_flow

    diagram = _load(arguments)
    # The `on` block of a file is its own choice of a machine.
    hand = diagram.core.relabellings[0].machine if diagram.core.relabellings else None
    if arguments.view == "flow":
        return _product(draw_flow(diagram.core), arguments.output)
    if arguments.view == "diagram":
        return _product(diagram.svg(), arguments.output)
    if arguments.view in ("steps", "columns"):
        from napkin.api import DEFAULT_MACHINE
        from napkin.draw.columns import draw_columns
        from napkin.draw.strip import draw_strip

        with _patience("planning"):
            plan = diagram.plan(
                arguments.machine or hand or DEFAULT_MACHINE,
                sizes=arguments.sizes,
                dtype=arguments.dtype,
            )
        draw = draw_strip if arguments.view == "steps" else draw_columns
        return _product(draw(plan), arguments.output)
    with _patience("planning"):
        text = diagram.svg(arguments.machine or hand, sizes=arguments.sizes, dtype=arguments.dtype)
    return _product(text, arguments.output)


def _report_costs(arguments: argparse.Namespace) -> int:
    from napkin.draw.cost import cost_view
    from napkin.draw.page import draw_cost

    with _patience("planning"):
        plan = _load(arguments).plan(
            arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype
        )
    measured = _read_measured(arguments.measured) if arguments.measured else ()
    if arguments.output and arguments.output.endswith((".html", ".htm")):
        from napkin.draw.report import draw_report
        from napkin.runtime.kernels import kernel_source

        return _product(draw_report(plan, kernel_source(plan), measured=measured), arguments.output)
    return _product(draw_cost(cost_view(plan, measured=measured)), arguments.output)


def _read_measured(path: str) -> tuple[Measured, ...]:
    from napkin.draw.cost import read_measured

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _error(
            "N604", f"cannot read `{path}`", "name a file of `napkin bench --json`"
        ) from error
    return read_measured(text, path)


def _compile(arguments: argparse.Namespace) -> int:
    from napkin.emit.pseudo import pseudo_of_plan
    from napkin.runtime.kernels import kernel_source, make_folder, write_inside
    from napkin.schedule.cost import cost_of

    diagram = _load(arguments)
    with _patience("planning"):
        plan = diagram.plan(arguments.machine, sizes=arguments.sizes, dtype=arguments.dtype)
    cost = cost_of(plan)
    files = {
        ".py": kernel_source(plan),
        ".pseudo.txt": pseudo_of_plan(plan).rstrip() + "\n",
        **_pictures(plan),
        ".cost.json": _json(cost.as_json()) + "\n",
    }
    folder = make_folder(Path(arguments.output))
    for ending, text in files.items():
        print(write_inside(folder, f"{diagram.name}{ending}", text))
    print(cost.headline())
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    diagram = _load(arguments)
    if arguments.grad:
        raise _error(
            "N609",
            "gradients are not derived yet, so there are none to verify",
            "leave --grad out, to verify the forward kernel",
        )
    with _patience("importing torch"):
        from napkin.runtime.gpus import machine_at_hand
        from napkin.runtime.verify import verify
    machine = arguments.machine or machine_at_hand().name
    with _patience("planning"):
        plan = diagram.plan(machine, sizes=arguments.sizes, dtype=arguments.dtype)
    with _patience("running the kernel and the reference"):
        verification = verify(plan, sizes=arguments.sizes, seed=arguments.seed)
    print(verification)
    if not verification.passed:
        _say("error: the kernel is farther from the reference than its types explain")
    return 0 if verification.passed else _FAILED


def _bench(arguments: argparse.Namespace) -> int:
    diagram = _load(arguments)
    with _patience("importing torch"):
        from napkin.runtime.bench import measure, require_gpu
        from napkin.runtime.gpus import machine_at_hand
        from napkin.runtime.kernels import write_text
        from napkin.runtime.peers import find_contenders
    require_gpu()
    contenders = find_contenders(arguments.vs or (), diagram.core)
    machine = arguments.machine or machine_at_hand().name
    with _patience("planning"):
        plan = diagram.plan(machine, sizes=arguments.sizes, dtype=arguments.dtype)
    with _patience("measuring"):
        measured = measure(plan, contenders)
    if arguments.json:
        write_text(Path(arguments.json), _json(measured.as_json()) + "\n")
    print(measured)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from napkin.language.explain import explain

    print(explain(arguments.code).rstrip())
    return 0


# --- what commands share --------------------------------------------------------------------------


def _load(arguments: argparse.Namespace) -> Diagram:
    from napkin.api import load

    return load(arguments.file, arguments.diagram)


def _pictures(plan: Plan) -> dict[str, str]:
    """Return the pictures by their file's ending; without Graphviz a warning, and none."""
    from napkin.draw.cost import cost_view
    from napkin.draw.page import draw_cost
    from napkin.draw.relabelled import draw_plan
    from napkin.language.errors import NapkinError

    drawn: dict[str, Callable[[], str]] = {
        ".svg": lambda: draw_plan(plan),
        ".cost.svg": lambda: draw_cost(cost_view(plan)),
    }
    found: dict[str, str] = {}
    for ending, draw in drawn.items():
        try:
            found[ending] = draw()
        except NapkinError as error:
            if any(each.code != _NO_DOT for each in error.diagnostics):
                raise
            _report(error, severity="warning")
    return found


def _product(text: str, output: str | None) -> int:
    if output is None:
        print(text.rstrip("\n"))
        return 0
    from napkin.runtime.kernels import write_text

    write_text(Path(output), text if text.endswith("\n") else text + "\n")
    return 0


def _json(value: Mapping[str, object]) -> str:
    import json

    return json.dumps(value, indent=2)


@contextmanager
def _patience(what: str) -> Iterator[None]:
    """Say what is being done if it takes long and somebody watches."""
    timer = Timer(_PATIENCE_S, lambda: _say(f"{what} ..."))
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _report(error: NapkinError, *, severity: str | None = None) -> None:
    from dataclasses import replace

    from napkin.language.errors import render

    shown = [replace(each, severity=severity or each.severity) for each in error.diagnostics]
    _say("\n\n".join(render(each, colour=_colours()) for each in shown))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _colours() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _error(code: str, message: str, help_line: str) -> NapkinError:
    from napkin.language.errors import Diagnostic, NapkinError

    return NapkinError([Diagnostic(code, message, help=help_line)])


# --- arguments ------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose help opens with an example, and which abbreviates no option."""

    def __init__(self, *arguments: object, example: str = "", **options: object) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})  # type: ignore[arg-type]
        self._example = example

    def format_help(self) -> str:
        return self._example + super().format_help()


class _Version(argparse.Action):
    """`--version`, looked up when it is asked for."""

    def __call__(self, *_: object) -> NoReturn:
        import napkin

        print(f"napkin {napkin.__version__}")
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="napkin",
        example=_EXAMPLE,
        description="A diagram of labelled axes to one fused GPU kernel, and its cost formula.",
        epilog=_AFTER,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(
        metavar="COMMAND", dest="verb", required=True, parser_class=_Parser
    )
    for add in (
        _add_check,
        _add_derive,
        _add_pseudo,
        _add_cost,
        _add_plan,
        _add_draw,
        _add_report,
        _add_compile,
        _add_verify,
        _add_bench,
        _add_explain,
    ):
        add(commands)
    return parser


def _add_check(commands: Commands) -> None:
    _command(commands, "check", _check, "read a file and report its mistakes")


def _add_derive(commands: Commands) -> None:
    _command(commands, "derive", _derive, "show how the diagram streams, step by step")


def _add_pseudo(commands: Commands) -> None:
    parser = _command(commands, "pseudo", _pseudo, "print the kernel as pseudocode with costs")
    _add_plan_options(parser, default="hopper")


def _add_cost(commands: Commands) -> None:
    parser = _command(commands, "cost", _cost, "print the cost formulas and counts")
    _add_plan_options(parser, default="hopper")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="what any one kernel must cost, and the tables of the file's `on` block",
    )
    parser.add_argument(
        "--registers",
        choices=_FLOATS,
        help="how those tables hold what is computed (default: fp32); implies --no-plan",
    )
    parser.add_argument(
        "--compare",
        type=_several,
        metavar="A,B,..",
        help="side by side: machines (a100,h100) or types (bf16,fp8)",
    )


def _add_plan(commands: Commands) -> None:
    parser = _command(commands, "plan", _plan, "print the tiles chosen for a machine")
    _add_plan_options(parser)


def _add_draw(commands: Commands) -> None:
    parser = _command(commands, "draw", _draw, "draw the diagram as SVG")
    _add_plan_options(parser, default=None, otherwise="that of the `on` block, else none")
    parser.add_argument(
        "--view",
        choices=("plan", "diagram", "steps", "columns", "flow"),
        default="plan",
        help="relabelled by its plan if there is a machine (default), as it is, the steps from the one "
        "to the other, the kernel's lines with their costs, or a dataflow graph",
    )
    parser.add_argument("-o", dest="output", metavar="F.svg", help="the file (default: stdout)")


def _add_report(commands: Commands) -> None:
    parser = _command(commands, "report", _report_costs, "draw the cost report as SVG")
    _add_plan_options(parser)
    parser.add_argument(
        "-o",
        dest="output",
        metavar="F.svg",
        help="the file (default: stdout); F.html is one page with all pictures and texts",
    )
    parser.add_argument(
        "--measured", metavar="F", help="figures of `napkin bench --json`, to draw beside"
    )


def _add_compile(commands: Commands) -> None:
    parser = _command(commands, "compile", _compile, "write the kernel and all that goes with it")
    _add_plan_options(parser)
    parser.add_argument("-o", dest="output", metavar="DIR", required=True, help="the folder")


def _add_verify(commands: Commands) -> None:
    parser = _command(
        commands, "verify", _verify, "run the kernel against a float64 reference on random data"
    )
    _add_plan_options(parser, default=None)
    parser.add_argument("--seed", type=int, default=0, help="of the random data (default: 0)")
    parser.add_argument("--grad", action="store_true", help="verify the gradients as well")


def _add_bench(commands: Commands) -> None:
    parser = _command(commands, "bench", _bench, "time the kernel; needs a GPU")
    _add_plan_options(parser, default=None)
    parser.add_argument("--vs", type=_peers, metavar="NAME,..", help=f"of {', '.join(_PEERS)}")
    parser.add_argument("--json", metavar="F", help="write the figures as JSON to this file")


def _add_explain(commands: Commands) -> None:
    parser = commands.add_parser(
        "explain", help="explain an error code", description="Explain an error code."
    )
    parser.add_argument("code", metavar="CODE", help="such as N203")
    parser.set_defaults(command=_explain)


def _command(
    commands: Commands,
    verb: str,
    command: Callable[[argparse.Namespace], int],
    purpose: str,
) -> argparse.ArgumentParser:
    """Add a command that reads a file."""
    parser = commands.add_parser(
        verb, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}."
    )
    parser.add_argument("file", metavar="FILE", help="a .napkin file")
    parser.add_argument(
        "--diagram",
        metavar="NAME",
        help="which of the file's diagrams (default: the last; check: all)",
    )
    parser.set_defaults(command=command)
    return parser


_REQUIRED = object()


def _add_plan_options(
    parser: argparse.ArgumentParser,
    default: str | object | None = _REQUIRED,
    otherwise: str = "that of the GPU at hand, else hopper",
) -> None:
    required = default is _REQUIRED
    note = "" if required else f" (default: {default or otherwise})"
    parser.add_argument(
        "--machine",
        metavar="M",
        required=required,
        default=None if required else default,
        help=f"such as hopper, a100{note}",
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default={},
        metavar="q=4096,..",
        help="lengths in place of the file's",
    )
    parser.add_argument(
        "--dtype",
        choices=_FLOATS,
        default="bf16",
        help="of untyped arrays of rank two and more (default: bf16)",
    )


def _sizes(text: str) -> dict[str, int]:
    """Read `q=4096,x=128`."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, equals, number = (each.strip() for each in part.partition("="))
        if not (axis and equals and number.isascii() and number.isdigit() and len(number) < 19):
            raise argparse.ArgumentTypeError(f"`{part}` is not of the form q=4096")
        if axis in sizes:
            raise argparse.ArgumentTypeError(f"`{axis}` is given twice")
        sizes[axis] = int(number)
    return sizes


def _several(text: str) -> list[str]:
    names = [each.strip() for each in text.split(",")]
    if len(names) < 2 or not all(names):
        raise argparse.ArgumentTypeError(f"`{text}` does not name two to compare, as a100,h100")
    return names


def _peers(text: str) -> list[str]:
    names = [each.strip() for each in text.split(",")]
    unknown = [each for each in names if each not in _PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"`{unknown[0]}` is none of {', '.join(_PEERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
