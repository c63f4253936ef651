"""The command line: it parses arguments, calls the interface and prints, and decides nothing.

In: arguments. Out: a product on stdout or in the file of `-o`, diagnostics on stderr, and a
status: 0, 1 for a mistake of the user's (or a kernel that is wrong), 2 for a mistake in the
command line itself.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence

from napkin.cli.arguments import argument_parser
from napkin.cli.terminal import report, say

_FAILED, _INTERRUPTED = 1, 130
_COLLECT_AFTER = 1_000_000  # objects: a command ends soon, and collecting took a tenth of it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its status."""
    gc.set_threshold(_COLLECT_AFTER)
    try:
        status = _run(argument_parser().parse_args(argv))
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
        report(error)
    except InternalError as error:
        say(str(error))
    return _FAILED
