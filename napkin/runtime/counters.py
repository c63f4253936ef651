"""What the GPU's own counters say of a kernel's traffic, read by Nsight Compute (`ncu`) in another process.

In: a file, how its diagram is planned, which of the plan's kernels. Out: `Traffic`, or in words why there is
none: ncu is not everywhere, and where it is it may not be allowed to read. What it watches is the program
`napkin.cli.watched`, which runs the kernel once. Clocks are left as they are.

L2's bytes are those of its slices. Hopper joins neighbouring units' requests before they get there, so that
they may be fewer than what the units asked for.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

_METRICS = {
    "dram__bytes_read.sum": "dram_read",
    "dram__bytes_write.sum": "dram_written",
    "lts__t_bytes.sum": "l2",
}
_SECONDS = 180  # of one kernel's run under ncu, its planning and compiling included
_UNITS = {"byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "Tbyte": 1e12}


@dataclass(frozen=True, slots=True)
class Watched:
    """The kernel to watch: a file's diagram as it is planned, and the kernel's place in the plan."""

    file: str
    diagram: str | None
    machine: str
    sizes: dict[str, int]
    dtype: str
    place: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one kernel: read from memory, written to it, and through L2's slices."""

    dram_read: float
    dram_written: float
    l2: float


def read_counters(watched: Watched) -> Traffic | str:
    """Return a kernel's traffic, or why it cannot be told."""
    found = shutil.which("ncu")
    if found is None:
        return "ncu is not on the path"
    own = [sys.executable, "-m", "napkin.cli.watched", json.dumps(asdict(watched))]
    command = [found, "--clock-control", "none", "--csv", "--metrics", ",".join(_METRICS), *own]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return f"ncu did not finish: {type(error).__name__}"
    read = read_csv(told.stdout.splitlines())
    if read is None:
        said = [line for line in told.stdout.splitlines() if "ERROR" in line]
        return f"ncu read no counters: {said[0] if said else f'it ended with {told.returncode}'}"
    return read


def read_csv(lines: Iterable[str]) -> Traffic | None:
    """Return the traffic of the last kernel that ncu's table tells of: its pages may follow other output."""
    rows = list(csv.reader(line for line in lines if line.startswith('"')))
    if not rows:
        return None
    header, *body = rows
    kernels: dict[str, dict[str, float]] = {}
    for row in body:
        cells = dict(zip(header, row, strict=False))
        name = _METRICS.get(cells.get("Metric Name", ""))
        if name is not None:
            value = float(cells["Metric Value"].replace(",", ""))
            kernels.setdefault(cells["ID"], {})[name] = value * _UNITS[cells["Metric Unit"]]
    whole = [each for each in kernels.values() if len(each) == len(_METRICS)]
    return Traffic(**whole[-1]) if whole else None
