"""Machines: what a plan and a cost need to know of a GPU, read from data files.

In: `NAME.toml` beside this file. Out: `Machine`, a graph of memory levels with rates, limits and
the source of each figure. Paper sections 3, 6 and 8. A new machine is a file, not code.
"""

from napkin.machine.description import (
    Correction,
    Instruction,
    Latency,
    Level,
    Limits,
    Link,
    Machine,
    PipelineRates,
)
from napkin.machine.load import load_machine, machine_names

__all__ = [
    "Correction",
    "Instruction",
    "Latency",
    "Level",
    "Limits",
    "Link",
    "Machine",
    "PipelineRates",
    "load_machine",
    "machine_names",
]
