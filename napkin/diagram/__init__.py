"""The typed diagram: arrays of labelled axes, boxes, woven axes. It knows no machine.

In: boxes made through a `Graph`, which gives one id to equal boxes (hash-consing). Out: `Diagram`, an
immutable list of boxes in dependency order, with its signature, outputs, sizes and hand relabellings.
`print_diagram` gives a listing in single-assignment form that is itself a napkin file: parsing it gives
an equal diagram. `verify` checks every invariant and is run after every stage that makes one.

Notation: paper sections 2 and 3. An operand that lacks an axis of its box is woven (broadcast) over it.
"""

from __future__ import annotations

from napkin.diagram.boxes import (
    SCALAR_TYPES,
    STORAGE_BYTES,
    STORAGE_TYPES,
    Box,
    Constant,
    Edge,
    Extreme,
    Gather,
    Index,
    Input,
    Leaf,
    Pointwise,
    Reduce,
    Size,
    State,
    operands_of,
)
from napkin.diagram.graph import Graph, join_axes, renumbered, substitute, topological
from napkin.diagram.printing import print_call, print_constant, print_diagram, print_dims
from napkin.diagram.signature import (
    Argument,
    Diagram,
    Implied,
    Output,
    Placement,
    Relabelling,
    Tiling,
    implied_sizes,
    storage_types,
)
from napkin.diagram.verify import verify

__all__ = [
    "SCALAR_TYPES",
    "STORAGE_BYTES",
    "STORAGE_TYPES",
    "Argument",
    "Box",
    "Constant",
    "Diagram",
    "Edge",
    "Extreme",
    "Gather",
    "Graph",
    "Implied",
    "Index",
    "Input",
    "Leaf",
    "Output",
    "Placement",
    "Pointwise",
    "Reduce",
    "Relabelling",
    "Size",
    "State",
    "Tiling",
    "implied_sizes",
    "join_axes",
    "operands_of",
    "print_call",
    "print_constant",
    "print_diagram",
    "print_dims",
    "renumbered",
    "storage_types",
    "substitute",
    "topological",
    "verify",
]
