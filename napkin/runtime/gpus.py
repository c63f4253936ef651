"""Which machine description fits the GPU at hand, and which form of a plan's kernels runs on it.

In: a torch device. Out: a `Machine` whose instructions and shared memory the GPU has, the very one
where its name says so. Without a GPU, Hopper: the machine that kernels are made for ahead of time. Of a
plan: the plan as the device can run it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch

from napkin.language.errors import Diagnostic, NapkinError
from napkin.machine import Machine, load_machine, machine_names

if TYPE_CHECKING:
    from napkin.schedule.planning.plan import Plan

_WITHOUT_GPU = "hopper"
_GLUON = "3.6."  # the releases of triton whose Gluon has the names that the emitter calls


def machine_at_hand() -> Machine:
    """Return the machine of the current GPU, or the default without one."""
    if not torch.cuda.is_available():
        return load_machine(_WITHOUT_GPU)
    return machine_of(torch.device("cuda", torch.cuda.current_device()))


def machine_of(device: torch.device) -> Machine:
    """Return the machine of a GPU: by its name, else the newest whose kernels run on it."""
    name = torch.cuda.get_device_name(device)
    known = [load_machine(each) for each in machine_names()]
    for machine in known:
        if machine.name.upper() in name.upper() and runs_on(machine, device):
            return machine
    fitting = [machine for machine in known if runs_on(machine, device)]
    if not fitting:
        raise NapkinError(
            [
                Diagnostic(
                    "N606",
                    f"no machine file describes the GPU `{name}`",
                    notes=(f"known machines: {', '.join(machine_names())}",),
                    help="name one that is like it, or add a file to napkin/machine/",
                )
            ]
        )
    return max(fitting, key=lambda machine: machine.capability or 0)


def runs_on(machine: Machine, device: torch.device) -> bool:
    """Tell whether a GPU has a machine's instructions and its shared memory."""
    if machine.capability is None:
        return False
    found = torch.cuda.get_device_properties(device)
    shared = getattr(found, "shared_memory_per_block_optin", machine.limits.shared_per_block)
    enough = shared >= machine.limits.shared_per_block
    return 10 * found.major + found.minor >= machine.capability and enough


def runnable(plan: Plan, device: torch.device) -> Plan:
    """Return the plan as a device can run it: with kernels in their forms, or with plain loops alone.

    Plain loops run on newer GPUs and in Triton's interpreter; the instructions of warp-specialised ones are
    those of one architecture. Loops with operands in shared memory run on newer GPUs, but not in the
    interpreter. Triton renames what both call from release to release.
    """
    if any(each.form is not None for each in plan.kernels):
        return plan if has_specialised_form(plan.machine, device) else plan.plain
    if any(each.loop is not None for each in plan.kernels):
        return plan if device.type == "cuda" and _has_gluon() else plan.plain
    return plan


def has_specialised_form(machine: Machine, device: torch.device) -> bool:
    """Tell whether a device runs the warp-specialised kernels that are made for a machine."""
    if device.type != "cuda" or not _has_gluon():
        return False
    major, minor = torch.cuda.get_device_capability(device)
    return bool(10 * major + minor == machine.capability)


def _has_gluon() -> bool:
    try:
        return version("triton").startswith(_GLUON)
    except PackageNotFoundError:
        return False
