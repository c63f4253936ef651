"""The type that an argument states.

In: a parameter of a signature. Out: its type's name; an unknown one is refused with the closest name, or the
one that it has here.
"""

from __future__ import annotations

from napkin.diagram import SCALAR_TYPES, STORAGE_TYPES
from napkin.language import syntax
from napkin.language.errors import Diagnostic, Label, closest
from napkin.language.source import Source

_TYPES_ELSEWHERE = {
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float64": "fp64",
    "double": "fp64",
    "long": "int64",
    "float8": "fp8e4m3",
    "fp8": "fp8e4m3",
}
_TYPES_IN_WORDS = ", ".join((*STORAGE_TYPES, *SCALAR_TYPES))


def storage_type(
    parameter: syntax.Parameter, source: Source, found: list[Diagnostic]
) -> str | None:
    """Return the type that an argument states, None if it states none or a wrong one; `found` tells why."""
    dtype = parameter.dtype
    if dtype is None:
        return None
    if dtype.name not in STORAGE_TYPES | SCALAR_TYPES:
        known = closest(dtype.name, (*STORAGE_TYPES, *SCALAR_TYPES))
        known = _TYPES_ELSEWHERE.get(dtype.name.lower(), known)
        help_line = f"did you mean `{known}`?" if known else f"types are {_TYPES_IN_WORDS}"
        found.append(
            Diagnostic(
                "N211", f"unknown type `{dtype.name}`", source, Label(dtype.span), help=help_line
            )
        )
        return None
    if dtype.name in SCALAR_TYPES and parameter.dims:
        example = "int32" if dtype.name == "int" else "fp32"
        fact = f"`{dtype.name}` is a scalar's type, and `{parameter.name.name}` is an array"
        help_line = f"name a storage type: `{example}`"
        found.append(Diagnostic("N211", fact, source, Label(dtype.span), help=help_line))
        return None
    return dtype.name
