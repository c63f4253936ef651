"""Names for generated code: from the diagram where they are legal, unique, and never a keyword.

A diagram may call an array `lambda` or `tl`; the kernel may not. `Names` gives each wish a legal name of its
own, the same on every run.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Iterable

_LIBRARY = {"tl", "triton", "torch", "TensorDescriptor", "self", "os", "math", "napkin", "pid"}
_MODULE = {"WARPS", "STAGES", "_aligned", "_and", "_divide", "_float", "_floordiv", "_inside"}
_MODULE |= {"_modulo", "_multiply", "_or", "_power", "_sigmoid", "_tanh"}
_GLUON = {
    "GluonDescriptor",
    "gl",
    "gluon",
    "tma",
    "mbarrier",
    "fence_async_shared",
    "warpgroup_mma",
    "warpgroup_mma_wait",
    "async_copy",
    "mma_v2",
    "_contract_computed",
    "_contract_shared",
}
_GLUON |= {"CONSUMERS", "ROWS", "_group", "_lane_sum", "_packed", "_pass_turn", "_reciprocal"}
_GLUON |= {"_rounds", "_take_turn"}
_WORDS = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins)}
RESERVED = frozenset(_WORDS | _LIBRARY | _MODULE | _GLUON)


class Names:
    """Hands out unique legal Python names."""

    def __init__(self, taken: frozenset[str] = RESERVED) -> None:
        self._taken = set(taken)

    def fresh(self, wish: str) -> str:
        """Return the wished name, with an underscore or a number behind it if it is not free."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}_" if number == 2 and wish in RESERVED else f"{wish}{number}"
        self._taken.add(name)
        return name

    def release(self, names: Iterable[str]) -> None:
        """Free names again: what a loop's body names is not seen outside it."""
        self._taken.difference_update(names)
