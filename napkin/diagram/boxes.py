"""Boxes, the closed set that diagrams are made of, and the types that arrays are stored in."""

from __future__ import annotations

from dataclasses import dataclass

from napkin.operators import Kind

STORAGE_TYPES: dict[str, Kind] = {
    "bf16": Kind.FLOAT,
    "fp16": Kind.FLOAT,
    "fp32": Kind.FLOAT,
    "fp64": Kind.FLOAT,
    "fp8e4m3": Kind.FLOAT,
    "fp8e5m2": Kind.FLOAT,
    "int8": Kind.INT,
    "int32": Kind.INT,
    "int64": Kind.INT,
    "bool": Kind.BOOL,
}
STORAGE_BYTES: dict[str, int] = {
    "bf16": 2,
    "fp16": 2,
    "fp32": 4,
    "fp64": 8,
    "fp8e4m3": 1,
    "fp8e5m2": 1,
    "int8": 1,
    "int32": 4,
    "int64": 8,
    "bool": 1,
}
SCALAR_TYPES: dict[str, Kind] = {"int": Kind.INT, "float": Kind.FLOAT}


# --- boxes: a closed set, walked by `match` -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Input:
    """An argument, as a whole array (its axes in memory order) or a scalar (no axes)."""

    name: str
    axes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class State:
    """The value of a stream's state variable, before (`old`) or after (`new`) a step; only in derivations."""

    name: str
    version: str
    axes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Edge:
    """The `first` or `last` index of an axis inside the tile at hand; only in derivations."""

    axis: str
    end: str
    kind: Kind = Kind.INT
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extreme:
    """The `least` or `greatest` value of a whole number over the tile at hand; only in derivations.

    `bounds` says which end of a walk it bounds, `start` or `stop`, and is empty if it bounds none.
    """

    operand: int
    end: str
    bounds: str = "start"
    kind: Kind = Kind.INT
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, infinity or a truth value."""

    value: float | int | bool
    kind: Kind
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """The index array of one axis: 0, 1, .. size - 1."""

    axis: str
    kind: Kind = Kind.INT

    @property
    def axes(self) -> tuple[str, ...]:
        """The one axis."""
        return (self.axis,)


@dataclass(frozen=True, slots=True)
class Size:
    """The length of an axis."""

    axis: str
    kind: Kind = Kind.INT
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pointwise:
    """An operator woven over the union of its operands' axes."""

    operator: str
    operands: tuple[int, ...]
    axes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction of the product of its operands over some axes; with two factors or more, a contraction."""

    operator: str
    operands: tuple[int, ...]
    over: tuple[str, ...]
    axes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Gather:
    """An argument read at computed positions, one index box for each axis of the argument."""

    array: int
    indices: tuple[int, ...]
    axes: tuple[str, ...]
    kind: Kind


Box = Input | State | Edge | Extreme | Constant | Index | Size | Pointwise | Reduce | Gather
Leaf = (Input, State, Edge, Constant, Index, Size)


def operands_of(box: Box) -> tuple[int, ...]:
    """Return the ids that a box reads."""
    match box:
        case Pointwise() | Reduce():
            return box.operands
        case Gather():
            return (box.array, *box.indices)
        case Extreme():
            return (box.operand,)
        case _:
            return ()
