"""Run Triton kernels on the CPU: switch its interpreter on, and mend what it gets wrong.

In: nothing. Out: a process in which `triton.jit` functions run on NumPy. Triton reads
TRITON_INTERPRET where its own library functions are defined, so this must come before the first
import of triton.

Mended: `tl.dot` of bf16 operands, which the interpreter keeps as 16-bit patterns and multiplies as
integers; rounding to bf16, which it does towards zero; and broadcasting a truth value that came of
comparing two real numbers, which it takes for a number. Deliberately left: other bf16
arithmetic, which is as wrong; napkin's kernels compute in fp32 outside their contractions. Gluon
has no interpreter.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Any

from napkin.language.errors import Diagnostic, NapkinError

_FIRST_BAD_NUMPY = (2, 4)


def enable_interpreter() -> None:
    """Make `triton.jit` functions run on the CPU from here on; a second call changes nothing."""
    _refuse_numpy()
    if "triton" in sys.modules and not _interpreting():
        raise _error(
            "N602",
            "triton was imported before its interpreter was switched on",
            "set TRITON_INTERPRET=1, or verify before anything imports triton",
        )
    os.environ["TRITON_INTERPRET"] = "1"
    _mend_bf16_dot()
    _mend_bf16_rounding()
    _mend_splat()


def _refuse_numpy() -> None:
    found = version("numpy")
    if tuple(int(part) for part in found.split(".")[:2]) >= _FIRST_BAD_NUMPY:
        raise _error(
            "N603",
            f"triton's interpreter does not work with numpy {found}",
            "pip install 'numpy<2.4'",
        )


def _interpreting() -> bool:
    """Tell whether the triton that is already imported was imported as an interpreter."""
    import triton
    import triton.language

    return not isinstance(triton.language.sum, triton.runtime.JITFunction)


def _mend_bf16_dot() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    plain_dot = builder.create_dot
    if getattr(plain_dot, "mended", False):
        return

    def widen(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return plain_dot(self, widen(a), widen(b), *others)

    create_dot.mended = True  # type: ignore[attr-defined]
    builder.create_dot = create_dot


def _mend_bf16_rounding() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    plain_convert = interpreter._convert_float
    if getattr(plain_convert, "mended", False):
        return

    def convert(value: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return plain_convert(value, source, target, rounding)
        bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
        nearest_even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet_nan = (bits >> 16) | 0x40  # adding to a NaN's pattern could turn it into an infinity
        return np.where(np.isnan(value), quiet_nan, nearest_even).astype(np.uint16)

    convert.mended = True  # type: ignore[attr-defined]
    interpreter._convert_float = convert


def _mend_splat() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    plain_splat = builder.create_splat
    if getattr(plain_splat, "mended", False):
        return

    def create_splat(self: Any, result: Any, operand: Any) -> Any:
        if operand.data.dtype == np.bool_:
            operand = interpreter.TensorHandle(operand.data, tl.int1)
        return plain_splat(self, result, operand)

    create_splat.mended = True  # type: ignore[attr-defined]
    builder.create_splat = create_splat


def _error(code: str, message: str, help_line: str) -> NapkinError:
    return NapkinError([Diagnostic(code, message, help=help_line)])
