"""The arguments of every command. Nothing heavy is imported to read them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from napkin.cli.commands import (
    FLOATS,
    bench_command,
    check_command,
    compile_command,
    cost_command,
    derive_command,
    draw_command,
    explain_command,
    plan_command,
    pseudo_command,
    report_command,
    verify_command,
)
from napkin.cli.model import calibrate_command, verify_model_command

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["_Parser"]

_EXAMPLE = """\
napkin compile examples/attention.napkin --machine hopper -o out

"""
_AFTER = """\
`napkin COMMAND --help` describes a command. Without a GPU, `verify` runs the kernel on the CPU.
"""
PEERS = ("fa2", "cudnn", "torch", "compile", "flex", "fa3", "fa4")


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


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
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
        _add_calibrate,
        _add_verify_model,
        _add_explain,
    ):
        add(commands)
    return parser


def _add_check(commands: Commands) -> None:
    _command(commands, "check", check_command, "read a file and report its mistakes")


def _add_derive(commands: Commands) -> None:
    parser = _command(
        commands, "derive", derive_command, "show how the diagram streams, step by step"
    )
    _add_grad(parser)


def _add_pseudo(commands: Commands) -> None:
    parser = _command(
        commands, "pseudo", pseudo_command, "print the kernel as pseudocode with costs"
    )
    _add_plan_options(parser, default="hopper")
    _add_grad(parser)


def _add_cost(commands: Commands) -> None:
    parser = _command(commands, "cost", cost_command, "print the cost formulas and counts")
    _add_plan_options(parser, default="hopper")
    _add_grad(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="what any one kernel must cost, and the tables of the file's `on` block",
    )
    parser.add_argument(
        "--registers",
        choices=FLOATS,
        help="how those tables hold what is computed (default: fp32); implies --no-plan",
    )
    parser.add_argument(
        "--compare",
        type=_several,
        metavar="A,B,..",
        help="side by side: machines (a100,h100) or types (bf16,fp8)",
    )


def _add_plan(commands: Commands) -> None:
    parser = _command(
        commands, "plan", plan_command, "print the tiles chosen for a machine, and why"
    )
    _add_plan_options(parser)
    _add_grad(parser)
    parser.add_argument(
        "--top", type=_count, default=0, metavar="N", help="also the first N of the ranked plans"
    )


def _add_draw(commands: Commands) -> None:
    parser = _command(commands, "draw", draw_command, "draw the diagram as SVG")
    _add_plan_options(parser, default=None, otherwise="that of the `on` block, else none")
    _add_grad(parser)
    parser.add_argument(
        "--view",
        choices=("plan", "diagram", "steps", "columns", "flow"),
        default="plan",
        help="relabelled by its plan if there is a machine (default), as it is, the steps from the one "
        "to the other, the kernel's lines with their costs, or a dataflow graph",
    )
    parser.add_argument("-o", dest="output", metavar="F.svg", help="the file (default: stdout)")


def _add_report(commands: Commands) -> None:
    parser = _command(commands, "report", report_command, "draw the cost report as SVG")
    _add_plan_options(parser)
    _add_grad(parser)
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
    parser = _command(
        commands, "compile", compile_command, "write the kernel and all that goes with it"
    )
    _add_plan_options(parser)
    _add_grad(parser)
    parser.add_argument("-o", dest="output", metavar="DIR", required=True, help="the folder")


def _add_verify(commands: Commands) -> None:
    parser = _command(
        commands,
        "verify",
        verify_command,
        "run the kernel against a float64 reference on random data",
    )
    _add_plan_options(parser, default=None)
    parser.add_argument("--seed", type=int, default=0, help="of the random data (default: 0)")
    parser.add_argument("--grad", action="store_true", help="verify the gradients as well")


def _add_bench(commands: Commands) -> None:
    parser = _command(commands, "bench", bench_command, "time the kernel; needs a GPU")
    _add_plan_options(parser, default=None)
    parser.add_argument("--vs", type=_peers, metavar="NAME,..", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--json", metavar="F", help="write the figures as JSON to this file")


def _add_calibrate(commands: Commands) -> None:
    purpose = "measure the GPU at hand for the predictor, and keep the figures"
    parser = commands.add_parser("calibrate", help=purpose, description=f"M{purpose[1:]}.")
    parser.add_argument("--machine", metavar="M", help="such as h200 (default: that of the GPU)")
    parser.set_defaults(command=calibrate_command)


def _add_verify_model(commands: Commands) -> None:
    purpose = "hold predictions to the GPU at hand: time, needs and traffic of every kernel"
    parser = commands.add_parser("verify-model", help=purpose, description=f"H{purpose[1:]}.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a .napkin file")
    _add_plan_options(parser, default=None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=verify_model_command)


def _add_explain(commands: Commands) -> None:
    parser = commands.add_parser(
        "explain", help="explain an error code", description="Explain an error code."
    )
    parser.add_argument("code", metavar="CODE", help="such as N203")
    parser.set_defaults(command=explain_command)


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
    parser.set_defaults(command=command, grad=False)
    return parser


def _add_grad(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grad", action="store_true", help="of the diagram's gradient: its backward instead"
    )


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
        choices=FLOATS,
        default="bf16",
        help="of untyped arrays of rank two and more (default: bf16)",
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"`{text}` is no number of plans")
    return int(text)


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
    unknown = [each for each in names if each not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"`{unknown[0]}` is none of {', '.join(PEERS)}")
    return names
