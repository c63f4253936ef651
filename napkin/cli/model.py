"""The commands about the model itself: measuring a machine's figures, and holding predictions to a GPU."""

from __future__ import annotations

import argparse

from napkin.cli.terminal import as_json, patience


def calibrate_command(arguments: argparse.Namespace) -> int:
    from datetime import date

    with patience("importing torch"):
        from napkin.machine import load_machine
        from napkin.runtime.bench import require_gpu
        from napkin.runtime.calibrate import calibrate, save, show
        from napkin.runtime.gpus import machine_at_hand
    require_gpu()
    machine = load_machine(arguments.machine) if arguments.machine else machine_at_hand()
    with patience("measuring"):
        measured = calibrate(machine, today=date.today())
    path = save(measured)
    print(show(machine, measured))
    print(f"\nwritten to {path}; delete it to go back to the figures that napkin ships")
    return 0


def verify_model_command(arguments: argparse.Namespace) -> int:
    from napkin.api import load

    with patience("importing torch"):
        from napkin.runtime.bench import require_gpu
        from napkin.runtime.counters import Watched
        from napkin.runtime.gpus import machine_at_hand
        from napkin.runtime.verify_model import Errors, Verdict, show_verdicts, verify_model
    require_gpu()
    machine = arguments.machine or machine_at_hand().name
    verdicts: list[Verdict] = []
    for file in arguments.files:
        watched = Watched(file, None, machine, arguments.sizes, arguments.dtype, 0)
        with patience(f"measuring {file}"):
            plan = load(file).plan(machine, sizes=arguments.sizes, dtype=arguments.dtype)
            verdicts += verify_model(plan, watched)
    if not arguments.json:
        print(show_verdicts(verdicts))
        return 0
    errors = Errors.of([each.error for each in verdicts])
    roofline = Errors.of([each.roofline_error for each in verdicts])
    found = {
        "kernels": [each.as_json() for each in verdicts],
        "median_error": errors.median,
        "worst_error": errors.worst,
        "roofline_median_error": roofline.median,
        "roofline_worst_error": roofline.worst,
    }
    print(as_json(found))
    return 0
