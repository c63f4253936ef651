"""What the charts of a cost picture are made of: values with units, no places.

In: numbers of whoever fills them. Out: values that axes.py, curves.py and timeline.py draw.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Roof:
    """One memory level of a roofline: bytes a second that it feeds, and bytes that the kernels draw.

    A kernel's intensity at the level is its FLOPs over those bytes.
    """

    name: str
    bytes_per_second: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """FLOPs, the seconds predicted for them, the pipeline's peak in FLOP/s, and the levels."""

    flops: float
    seconds: float
    peak: float
    peak_name: str
    roofs: tuple[Roof, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A named place on a curve's axis of memory, in bytes."""

    name: str
    memory: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The least transfers by the memory of a level, both in bytes; `own` is what the plan has.

    `once` are the bytes of every array once, below which no memory helps.
    """

    points: tuple[tuple[float, float], ...]
    marks: tuple[Mark, ...]
    own: tuple[float, float]
    once: float
    formula: str


@dataclass(frozen=True, slots=True)
class Span:
    """An operation in a row of a pipeline chart: its pipeline, its start and end in clocks."""

    name: str
    pipeline: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Track:
    """A row of a pipeline chart: what issues its operations."""

    name: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Rows over the clocks of a unit; `step` is what one stream step of every row takes the busiest.

    `busiest` is that pipeline. Only the last `shown` clocks of the simulation are in the rows, from 0.
    """

    tracks: tuple[Track, ...]
    shown: float
    step: float
    busiest: str


@dataclass(frozen=True, slots=True)
class Rival:
    """A plan beside others: a name, its predicted seconds, and what it is in a few words."""

    name: str
    seconds: float
    label: str
