"""Numbers as a picture shows them: three figures and a unit."""

from __future__ import annotations

from math import isfinite

_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def in_units(value: float, unit: str) -> str:
    """Return a number with a decimal prefix.

    >>> in_units(67108864, "B"), in_units(989.4e12, "FLOP/s"), in_units(12, "B")
    ('67.1 MB', '989 TFLOP/s', '12 B')
    """
    for step, prefix in _STEPS:
        if abs(value) >= 0.9995 * step:
            return f"{_three_figures(value / step)} {prefix}{unit}"
    return f"{_three_figures(value)} {unit}"


def in_time(seconds: float) -> str:
    """Return a time in the unit that suits it.

    >>> in_time(0.0010986), in_time(4.63e-05), in_time(0.0)
    ('1.10 ms', '46.3 µs', '0 s')
    """
    if seconds == 0 or not isfinite(seconds):
        return f"{seconds:g} s"
    if abs(seconds) >= 999.5:
        return in_units(seconds, "s")
    for step, unit in _TIMES:
        if abs(seconds) >= 0.9995 * step:
            return f"{_three_figures(seconds / step)} {unit}"
    return f"{_three_figures(seconds / 1e-9)} ns"


def _three_figures(value: float) -> str:
    if abs(value - round(value)) < 1e-9 and abs(value) < 1000:
        return f"{round(value)}"
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}"
