"""The statements of docs/numerics.md about data at the edges of their types, each a function of a kernel.

    python -m tests.numerics     a JSON line a statement: its name, whether it holds in Triton's interpreter

It is a program of its own, since the interpreter is one a process; `test_numerics` starts it, and calls the
same statements with kernels on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
SHAPE = (1, 1, 40, 32)

Run = Callable[..., torch.Tensor]
Kernels = Callable[[str], Run]


def drawn() -> list[torch.Tensor]:
    """Return Q, K and V in fp16."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator).half() for _ in range(3)]


def interpreted(name: str) -> Run:
    """Return an example's plain kernel in fp16 as a function of its arguments, run by the interpreter."""
    from napkin.api import load
    from napkin.runtime.verify import run

    front = load(EXAMPLES / f"{name}.napkin")
    sizes = {"b": 1, "h": 1, "q": 40, "x": 40, "d": 32, "v": 32, "m": 40, "n": 40, "k": 32}
    known = {axis: size for axis, size in sizes.items() if axis in front.core.axes}
    plan = front.plan("hopper", sizes=known, dtype="fp16").plain

    def call(*values: torch.Tensor) -> torch.Tensor:
        names = (each.name for each in front.core.arguments)
        (found,) = run(plan, dict(zip(names, values, strict=True)))
        return found

    return call


def masked_rows_are_zero(kernel: Kernels) -> bool:
    """A query that sees no key."""
    q, k, v = drawn()
    here = torch.zeros(1, 40, dtype=torch.int32)
    there = here.clone()
    there[0, 5] = 7
    found = kernel("document")(q, k, v, there, here)
    return bool(
        (found[0, 0, 5] == 0).all() and found.isfinite().all() and (found[0, 0, 6] != 0).any()
    )


def nan_stays_in_its_query(kernel: Kernels) -> bool:
    """A query that holds NaN."""
    q, k, v = drawn()
    clean = kernel("attention")(q, k, v)
    q[0, 0, 3, 1] = float("nan")
    found = kernel("attention")(q, k, v)
    rest = [row for row in range(40) if row != 3]
    return bool(found[0, 0, 3].isnan().all() and torch.equal(found[0, 0, rest], clean[0, 0, rest]))


def nan_in_a_key_reaches_who_sees_it(kernel: Kernels) -> bool:
    """A key that holds NaN, under a causal mask."""
    q, k, v = drawn()
    clean = kernel("causal")(q, k, v)
    k[0, 0, 20, 1] = float("nan")
    found = kernel("causal")(q, k, v)
    before = torch.equal(found[0, 0, :20], clean[0, 0, :20])
    return bool(before and found[0, 0, 20:].isnan().all())


def large_scores_do_not_overflow(kernel: Kernels) -> bool:
    """Scores far past the exponential's range: the largest wins."""
    q, k, v = drawn()
    q, k = 100 * q.sign(), 100 * k.sign()
    found = kernel("attention")(q, k, v).double()
    scores = q.double() @ k.double().mT / 32**0.5
    wanted = torch.softmax(scores, -1) @ v.double()
    return bool(scores.max() > 10_000 and (found - wanted).norm() < 1e-2 * wanted.norm())


def a_score_past_fp16_is_no_infinity(kernel: Kernels) -> bool:
    """A contraction whose sum is past fp16's largest number stays finite on chip."""
    q, k, v = drawn()
    q, k = torch.full_like(q, 200.0), torch.full_like(k, 200.0)
    found = kernel("attention")(q, k, v).double()
    wanted = v.double().mean(-2, keepdim=True).expand_as(found)
    return bool((q.double() @ k.double().mT).max() > 65_504 and (found - wanted).abs().max() < 1e-2)


def an_output_past_fp16_is_infinite(kernel: Kernels) -> bool:
    """What is stored past the largest number of its type is an infinity, not a wrong number."""
    a = torch.full((40, 32), 100.0, dtype=torch.float16)
    return bool(kernel("matmul")(a, -a.T.contiguous()).isneginf().all())


STATEMENTS = (
    masked_rows_are_zero,
    nan_stays_in_its_query,
    nan_in_a_key_reaches_who_sees_it,
    large_scores_do_not_overflow,
    a_score_past_fp16_is_no_infinity,
    an_output_past_fp16_is_infinite,
)


def main() -> None:
    """Print a line a statement."""
    from napkin.runtime.interpreter import enable_interpreter

    enable_interpreter()
    for each in STATEMENTS:
        print(json.dumps({"statement": each.__name__, "holds": each(interpreted)}), flush=True)


if __name__ == "__main__":
    main()
