"""napkin: a diagram of labelled axes to one fused GPU kernel, with the cost formula it follows.

    >>> import napkin
    >>> napkin.parse("diagram double(A[x]) -> B[x]\\n    B[x] = 2 * A").name
    'double'

All that is promised stands in `__all__`; it is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napkin.api import Diagram, Kernel, compile, load, parse
    from napkin.language.errors import NapkinError

__version__ = "0.1.0"

__all__ = ["Diagram", "Kernel", "NapkinError", "__version__", "compile", "load", "parse"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module `napkin` has no attribute `{name}`")
    home = "napkin.language.errors" if name == "NapkinError" else "napkin.api"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
