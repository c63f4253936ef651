"""The one open set of the compiler: what a pointwise operator or a reduction is.

Every fact about an operator stands in its row here: how it is written, the kinds it takes and gives,
its NumPy meaning, its work on a GPU and its Triton fragment. Adding an operator touches this table (and
`algebra.symbols` where SymPy should know its laws).

Two conventions hold everywhere, in every backend, so that a row whose every position is masked gives 0
and no NaN: `0 / 0` is 0, and `-inf - -inf` is `-inf`.

Deliberately absent: shapes and labels. Broadcasting is `diagram.py`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Kind(StrEnum):
    """What a value is while it is computed; storage types are another matter."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"


class Pipeline(StrEnum):
    """The hardware unit that an operation keeps busy."""

    FP32 = "fp32"
    SFU = "sfu"
    TENSOR = "tensor"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class PointwiseOperator:
    """A function of single elements.

    `symbol` is how it is written: infix or prefix if `precedence` is not 0, else a call by that name.
    `result` is the kind it gives, None for the wider kind of its (value) operands. `takes` restricts
    its operands' kind, None for any number. `triton` is a format string over the operands; `fp32` and
    `sfu` are operations per element on those pipelines.
    """

    name: str
    symbol: str
    arity: int
    numpy: Callable[..., Array]
    triton: str
    precedence: int = 0
    result: Kind | None = None
    takes: Kind | None = None
    fp32: int = 1
    sfu: int = 0
    public: bool = True


@dataclass(frozen=True, slots=True)
class Reduction:
    """A commutative monoid over an axis: `unit`, a pairwise combination and a whole-axis form.

    `combine` names the pointwise operator that joins two partial results.
    """

    name: str
    unit: float | int | bool
    combine: str
    numpy: Callable[..., Array]
    triton: str
    state: str
    takes: Kind | None = None


# The reciprocal of 0 is finite, with room for the factors that it meets.
LARGEST_RECIPROCAL = 2.0**100


def _divide(a: Array, b: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.divide(a, b)
    result: Array = np.where((np.asarray(a) == 0) & (np.asarray(b) == 0), 0.0, quotient)
    return result


def _reciprocal(a: Array) -> Array:
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Array = np.clip(np.divide(1.0, a), -LARGEST_RECIPROCAL, LARGEST_RECIPROCAL)
    return inverse


def _subtract(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore"):
        difference = np.subtract(a, b)
    nothing = np.isneginf(a) & np.isneginf(b)
    result: Array = np.where(nothing, -np.inf, difference) if np.any(nothing) else difference
    return result


def _quiet(function: Callable[..., Array]) -> Callable[..., Array]:
    def apply(*operands: Array) -> Array:
        with np.errstate(all="ignore"):
            return function(*operands)

    return apply


def _sigmoid(a: Array) -> Array:
    weights: Array = np.divide(1.0, 1.0 + np.exp(-np.asarray(a)))
    return weights


def _power(a: Array, b: Array) -> Array:
    if np.issubdtype(np.asarray(b).dtype, np.integer) and np.any(np.asarray(b) < 0):
        a = np.asarray(a, dtype=np.float64)
    return np.power(a, b)


_BOOL, _INT, _FLOAT = Kind.BOOL, Kind.INT, Kind.FLOAT

POINTWISE: dict[str, PointwiseOperator] = {
    row.name: row
    for row in (
        PointwiseOperator("or", "or", 2, np.logical_or, "{0} | {1}", 1, _BOOL, _BOOL),
        PointwiseOperator("and", "and", 2, np.logical_and, "{0} & {1}", 2, _BOOL, _BOOL),
        PointwiseOperator("not", "not", 1, np.logical_not, "~{0}", 3, _BOOL, _BOOL),
        PointwiseOperator("lt", "<", 2, np.less, "{0} < {1}", 4, _BOOL),
        PointwiseOperator("le", "<=", 2, np.less_equal, "{0} <= {1}", 4, _BOOL),
        PointwiseOperator("gt", ">", 2, np.greater, "{0} > {1}", 4, _BOOL),
        PointwiseOperator("ge", ">=", 2, np.greater_equal, "{0} >= {1}", 4, _BOOL),
        PointwiseOperator("eq", "==", 2, np.equal, "{0} == {1}", 4, _BOOL),
        PointwiseOperator("ne", "!=", 2, np.not_equal, "{0} != {1}", 4, _BOOL),
        PointwiseOperator("add", "+", 2, _quiet(np.add), "{0} + {1}", 5),
        PointwiseOperator("sub", "-", 2, _subtract, "{0} - {1}", 5),
        PointwiseOperator("mul", "*", 2, _quiet(np.multiply), "{0} * {1}", 6),
        PointwiseOperator("div", "/", 2, _divide, "{0} / {1}", 6, _FLOAT, fp32=2, sfu=1),
        # What a quotient by a row becomes: finite at 0, so that 0 / 0 stays 0 as a product.
        PointwiseOperator(
            "reciprocal",
            "reciprocal",
            1,
            _reciprocal,
            "_reciprocal({0})",
            0,
            _FLOAT,
            fp32=2,
            sfu=1,
            public=False,
        ),
        PointwiseOperator("floordiv", "//", 2, _quiet(np.floor_divide), "{0} // {1}", 6, fp32=2),
        PointwiseOperator("mod", "%", 2, _quiet(np.mod), "{0} % {1}", 6, fp32=3),
        PointwiseOperator("neg", "-", 1, np.negative, "-{0}", 7),
        PointwiseOperator("pow", "**", 2, _quiet(_power), "", 8, fp32=4),
        PointwiseOperator("where", "where", 3, np.where, "tl.where({0}, {1}, {2})"),
        PointwiseOperator("exp", "exp", 1, _quiet(np.exp), "tl.exp({0})", 0, _FLOAT, fp32=1, sfu=1),
        PointwiseOperator(
            "exp2", "exp2", 1, _quiet(np.exp2), "tl.exp2({0})", 0, _FLOAT, fp32=0, sfu=1
        ),
        # A polynomial, as the compiler's machine code has it: no special function unit gives all its digits.
        PointwiseOperator("log", "log", 1, _quiet(np.log), "tl.log({0})", 0, _FLOAT, fp32=18),
        PointwiseOperator(
            "log2", "log2", 1, _quiet(np.log2), "tl.log2({0})", 0, _FLOAT, fp32=0, sfu=1
        ),
        PointwiseOperator(
            "sqrt", "sqrt", 1, _quiet(np.sqrt), "tl.sqrt({0})", 0, _FLOAT, fp32=1, sfu=1
        ),
        PointwiseOperator(
            "rsqrt",
            "rsqrt",
            1,
            _quiet(lambda a: 1.0 / np.sqrt(a)),
            "tl.rsqrt({0})",
            0,
            _FLOAT,
            fp32=0,
            sfu=1,
        ),
        PointwiseOperator("tanh", "tanh", 1, np.tanh, "_tanh({0})", 0, _FLOAT, fp32=0, sfu=1),
        PointwiseOperator(
            "sigmoid", "sigmoid", 1, _quiet(_sigmoid), "_sigmoid({0})", 0, _FLOAT, fp32=2, sfu=2
        ),
        PointwiseOperator(
            "erf",
            "erf",
            1,
            np.vectorize(math.erf, otypes=[float]),
            "tl.erf({0})",
            0,
            _FLOAT,
            fp32=12,
            sfu=1,
        ),
        PointwiseOperator("abs", "abs", 1, np.abs, "tl.abs({0})"),
        PointwiseOperator("max2", "max2", 2, np.maximum, "tl.maximum({0}, {1})"),
        PointwiseOperator("min2", "min2", 2, np.minimum, "tl.minimum({0}, {1})"),
    )
}

REDUCTIONS: dict[str, Reduction] = {
    row.name: row
    for row in (
        Reduction("sum", 0.0, "add", np.sum, "tl.sum({0}, axis={1})", "l"),
        Reduction("max", -np.inf, "max2", np.max, "tl.max({0}, axis={1})", "m"),
        Reduction("min", np.inf, "min2", np.min, "tl.min({0}, axis={1})", "n"),
        Reduction("prod", 1.0, "mul", np.prod, "tl.reduce({0}, {1}, _multiply)", "p"),
        Reduction("any", False, "or", np.any, "tl.reduce({0}, {1}, _or)", "e", _BOOL),
        Reduction("all", True, "and", np.all, "tl.reduce({0}, {1}, _and)", "a", _BOOL),
    )
}

INFIX: dict[tuple[str, int], PointwiseOperator] = {
    (row.symbol, row.arity): row for row in POINTWISE.values() if row.precedence
}
CALLS: dict[str, PointwiseOperator] = {
    row.symbol: row for row in POINTWISE.values() if not row.precedence and row.public
}


def result_kind(operator: PointwiseOperator, kinds: tuple[Kind, ...]) -> Kind:
    """Return the kind that a pointwise operator gives; kinds are assumed legal (`check` refuses others)."""
    if operator.result is not None:
        return operator.result
    values = kinds[1:] if operator.name == "where" else kinds
    order = (Kind.BOOL, Kind.INT, Kind.FLOAT)
    return max(values, key=order.index)
