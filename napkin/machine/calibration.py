"""What a user measured of a machine, kept as a file that corrects the figures that napkin ships.

In: a machine, and `NAME.toml` in the user's configuration folder. Out: the machine with that file's figures
in place of its own, or the text of such a file. `napkin calibrate` writes it; to go back to the shipped
figures, delete it. A file that is wrong is the user's to mend: N420 says where it lies and what is wrong.

Deliberately absent: measuring (`runtime.calibrate`), and any figure that a machine file does not have.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from napkin.language.errors import Diagnostic, InternalError, NapkinError
from napkin.machine.description import Correction, Machine
from napkin.machine.table import Table


@dataclass(frozen=True, slots=True)
class Calibration:
    """Figures measured on a GPU: which, when, with what versions, and each figure's value and way."""

    machine: str
    device: str
    measured: date
    versions: str
    corrections: tuple[Correction, ...]

    @property
    def headline(self) -> str:
        """When and on what it was measured, in a line."""
        return f"calibrated {self.measured.isoformat()} on {self.device} with {self.versions}"


def calibration_path(machine: str) -> Path:
    """Return where a machine's calibration lies, whether there is one or not."""
    base = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(base) if base else Path.home() / ".config"
    return folder / "napkin" / "machines" / f"{machine}.toml"


def calibrated(machine: Machine) -> Machine:
    """Return the machine as the user calibrated it, as it is without a file."""
    try:
        path = calibration_path(machine.name)
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        return machine
    except (OSError, ValueError) as error:
        raise _refused(path, machine, str(error)) from None
    return with_calibration(machine, read_calibration(text, machine, path))


def with_calibration(machine: Machine, calibration: Calibration) -> Machine:
    """Return the machine with a calibration's figures in place of its own."""
    taken = {each.figure for each in calibration.corrections}
    kept = tuple(each for each in machine.corrections if each.figure not in taken)
    corrections = (*kept, *calibration.corrections)
    return replace(machine, corrections=corrections, calibrated=calibration.headline)


def read_calibration(text: str, machine: Machine, path: Path) -> Calibration:
    """Return what a file says; raises NapkinError (N420) for what is no calibration of the machine."""
    try:
        table = Table(str(path), tomllib.loads(text))
        day = table.day("measured")
        found = Calibration(
            machine=table.text("machine"),
            device=table.text("device"),
            measured=day,
            versions=table.text("versions"),
            corrections=tuple(_figure(each, day) for each in table.tables("figure")),
        )
        table.close()
    except (tomllib.TOMLDecodeError, InternalError) as error:
        raise _refused(path, machine, str(error)) from None
    if found.machine != machine.name:
        raise _refused(path, machine, f"it is of machine `{found.machine}`")
    for each in found.corrections:
        if each.figure not in machine.figures:
            raise _refused(path, machine, f"`{machine.name}` has no figure `{each.figure}`")
    return found


def write_calibration(calibration: Calibration) -> str:
    """Return the text of a calibration's file."""
    lines = [
        "# Measured by `napkin calibrate`. Delete this file to go back to the figures that napkin ships.",
        f"machine = {_quoted(calibration.machine)}",
        f"device = {_quoted(calibration.device)}",
        f"measured = {calibration.measured.isoformat()}",
        f"versions = {_quoted(calibration.versions)}",
    ]
    for each in calibration.corrections:
        lines += ["", "[[figure]]", f"name = {_quoted(each.figure)}"]
        lines += [f"value = {each.value:.4g}", f"how = {_quoted(each.source)}"]
    return "\n".join(lines) + "\n"


def _figure(table: Table, day: date) -> Correction:
    figure = Correction(table.text("name"), table.number("value"), day, table.text("how"))
    table.close()
    return figure


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each for each in escaped if each.isprintable()) + '"'


def _refused(path: Path, machine: Machine, reason: str) -> NapkinError:
    message = f"`{path}` is no calibration of {machine.name}: {reason}"
    help_line = (
        "run `napkin calibrate` again, or delete the file to use the figures that napkin ships"
    )
    return NapkinError([Diagnostic("N420", message, help=help_line)])


def describe(
    machine: Machine, corrections: Sequence[Correction]
) -> list[tuple[str, str, str, str]]:
    """Return rows of figure, measured, shipped and how, for a table; units are those of the figures."""
    rows = [("figure", "measured", "shipped", "how")]
    for each in corrections:
        rows.append((each.figure, _in_units(each), _in_units(_shipped(machine, each)), each.source))
    return rows


def _shipped(machine: Machine, figure: Correction) -> Correction:
    own = next((each for each in machine.corrections if each.figure == figure.figure), None)
    return own or replace(figure, value=machine.nominal(figure.figure))


def _in_units(figure: Correction) -> str:
    name, _, kind = figure.figure.partition(".")
    if kind == "bandwidth":
        return f"{figure.value / 1e12:.2f} TB/s"
    if kind == "latency":
        return f"{figure.value * 1e9:.0f} ns"
    return f"{figure.value / 1e12:.{2 if name in ('sfu', 'fp32') else 0}f} T/s"
