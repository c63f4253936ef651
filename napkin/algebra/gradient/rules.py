"""The derivative of every operator, as boxes.

In: a box of a graph and its adjoint. Out: what the adjoint gives to each operand that is a real number, as
the factors of a product; axes that the operand lacks are still to be summed.

At a pole, where a divisor or the operand of a logarithm or square root is 0, the derivative is taken as 0:
what `0 / 0` is here. Of two equal values under `max2` and `min2` the second gets the gradient, so that
relu has slope 0 at 0; under `max` and `min` all equal values share it evenly.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi, sqrt

from napkin.diagram import Constant, Graph, Pointwise, Reduce
from napkin.operators import Kind

Product = tuple[int, ...]
Shares = list[tuple[int, Product]]  # an operand's box and what it gets, a product of boxes


def shares(graph: Graph, each: int, adjoint: int) -> Shares:
    """Return what the adjoint of a pointwise box or a reduction gives to its operands."""
    box = graph[each]
    if isinstance(box, Reduce):
        return _reduction_shares(graph, each, box, adjoint)
    assert isinstance(box, Pointwise)
    found = _POINTWISE[box.operator](graph, each, box.operands, adjoint)
    pairs = zip(box.operands, found, strict=True)
    return [
        (operand, product)
        for operand, product in pairs
        if product is not None and graph[operand].kind is Kind.FLOAT
    ]


def inverse(graph: Graph, each: int) -> int:
    """Return 1 / box, and 0 at 0."""
    box = graph[each]
    if isinstance(box, Constant):
        # A negative zero, 1 / -inf, would stand for every zero of the graph.
        return graph.constant(1.0 / float(box.value) + 0.0 if box.value else 0.0)
    pole = graph.pointwise("eq", each, graph.constant(0))
    quotient = graph.pointwise("div", graph.constant(1.0), each)
    return graph.pointwise("where", pole, graph.constant(0.0), quotient)


def _where(graph: Graph, condition: int, yes: float | int, no: float | int) -> int:
    """Return where(condition, yes, no); whole numbers are boxes."""
    branches = [each if isinstance(each, int) else graph.constant(each) for each in (yes, no)]
    return graph.pointwise("where", condition, *branches)


# --- reductions -----------------------------------------------------------------------------------


def _reduction_shares(graph: Graph, each: int, box: Reduce, adjoint: int) -> Shares:
    if box.operator == "sum":
        return [
            (operand, (adjoint, *box.operands[:place], *box.operands[place + 1 :]))
            for place, operand in enumerate(box.operands)
            if graph[operand].kind is Kind.FLOAT
        ]
    (operand,) = box.operands
    if box.operator == "prod":
        return [(operand, (adjoint, _others(graph, each, box)))]
    reached = graph.pointwise("eq", operand, each)
    chosen = _where(graph, reached, 1.0, 0.0)
    count = graph.reduce("sum", [chosen], box.over)
    return [(operand, (adjoint, chosen, graph.pointwise("div", graph.constant(1.0), count)))]


def _others(graph: Graph, each: int, box: Reduce) -> int:
    """Return, for each element under a product, the product of the others, also where some are 0."""
    (operand,) = box.operands
    nought = graph.pointwise("eq", operand, graph.constant(0))
    count = graph.reduce("sum", [_where(graph, nought, 1.0, 0.0)], box.over)
    rest = graph.reduce("prod", [_where(graph, nought, 1.0, operand)], box.over)
    alone = graph.pointwise("eq", count, graph.constant(1))
    quotient = graph.pointwise("div", each, operand)
    return _where(graph, nought, _where(graph, alone, rest, 0.0), quotient)


# --- pointwise operators --------------------------------------------------------------------------

Rule = Callable[[Graph, int, Product, int], tuple[Product | None, ...]]


def _add(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return (adjoint,), (adjoint,)


def _sub(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return (adjoint,), (adjoint, graph.constant(-1.0))


def _mul(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return (adjoint, of[1]), (adjoint, of[0])


def _div(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    by = inverse(graph, of[1])
    return (adjoint, by), (adjoint, graph.constant(-1.0), each, by)


def _neg(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return ((adjoint, graph.constant(-1.0)),)


def _mod(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    whole = graph.pointwise("floordiv", *of)
    return (adjoint,), (adjoint, graph.constant(-1.0), whole)


def _nothing(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return (None,) * len(of)


def _pow(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    base, exponent = of
    box = graph[exponent]
    if isinstance(box, Constant):
        return (adjoint, *_power(graph, base, box)), None
    less = graph.pointwise("sub", exponent, graph.constant(1))
    positive = graph.pointwise("gt", base, graph.constant(0))
    logarithm = _where(graph, positive, graph.pointwise("log", base), 0.0)
    return (adjoint, exponent, graph.pointwise("pow", base, less)), (adjoint, each, logarithm)


def _power(graph: Graph, base: int, exponent: Constant) -> Product:
    """Return the derivative of a power by a number."""
    less = exponent.value - 1
    factor = graph.constant(float(exponent.value))
    if less == 0:
        return (factor,)
    if less == 1:
        return factor, base
    return factor, graph.pointwise("pow", base, graph.constant(less))


def _choice(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    yes = _where(graph, of[0], adjoint, 0.0)
    no = _where(graph, of[0], 0.0, adjoint)
    return None, (yes,), (no,)


def _exp(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return ((adjoint, each),)


def _exp2(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return ((adjoint, each, graph.constant(log(2))),)


def _log(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return ((adjoint, inverse(graph, of[0])),)


def _log2(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return ((adjoint, inverse(graph, of[0]), graph.constant(1 / log(2))),)


def _sqrt(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return ((adjoint, graph.constant(0.5), inverse(graph, each)),)


def _rsqrt(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return ((adjoint, graph.constant(-0.5), each, each, each),)


def _tanh(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    square = graph.pointwise("mul", each, each)
    return ((adjoint, graph.pointwise("sub", graph.constant(1.0), square)),)


def _sigmoid(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    return ((adjoint, each, graph.pointwise("sub", graph.constant(1.0), each)),)


def _erf(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    square = graph.pointwise("mul", of[0], of[0])
    bell = graph.pointwise("exp", graph.pointwise("neg", square))
    return ((adjoint, graph.constant(2 / sqrt(pi)), bell),)


def _abs(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
    zero = graph.constant(0)
    positive = _where(graph, graph.pointwise("gt", of[0], zero), 1.0, 0.0)
    sign = _where(graph, graph.pointwise("lt", of[0], zero), -1.0, positive)
    return ((adjoint, sign),)


def _extremum(comparison: str) -> Rule:
    def rule(graph: Graph, each: int, of: Product, adjoint: int) -> tuple[Product | None, ...]:
        first = graph.pointwise(comparison, *of)
        return (_where(graph, first, adjoint, 0.0),), (_where(graph, first, 0.0, adjoint),)

    return rule


_POINTWISE: dict[str, Rule] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "floordiv": _nothing,
    "mod": _mod,
    "pow": _pow,
    "where": _choice,
    "exp": _exp,
    "exp2": _exp2,
    "log": _log,
    "log2": _log2,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "abs": _abs,
    "max2": _extremum("gt"),
    "min2": _extremum("lt"),
}
