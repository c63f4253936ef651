"""How far an output is from its reference, and whether that is within a bound.

In: two tensors and the relative error that is allowed. Out: `OutputCheck`. A single element may be off by
four times the bound of the whole, measured against its own size, its row's and the array's together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

WORST = 4  # a single element against the whole array's bound


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """One output. `error` is ||out - ref|| / ||ref||; `worst` the farthest element, as said above.

    `unlike` counts elements that are NaN or infinite in only one of the two, `compared` those that
    are finite in both. `why` says where the bounds come from if not from the types alone.
    """

    name: str
    error: float
    worst: float
    bound: float
    worst_bound: float
    unlike: int
    compared: int
    why: str = ""

    @property
    def near(self) -> bool:
        """Whether what can be measured is within the bounds."""
        return self.error <= self.bound and self.worst <= self.worst_bound

    @property
    def passed(self) -> bool:
        """Whether the output is as near as its types allow."""
        return self.near and not self.unlike and self.compared > 0

    def __str__(self) -> str:
        text = f"{self.name}: relative error {self.error:.2e}, at most {self.bound:.2e} allowed"
        text += f"; worst element {self.worst:.2e}, at most {self.worst_bound:.2e}"
        text += f" ({self.why})" if self.why else ""
        if self.unlike:
            text += f"; {self.unlike} elements are NaN or infinite in one and not in the other"
        if not self.compared:
            text += "; no element of the reference is finite"
        return text + (": ok" if self.passed else ": WRONG")


def compare(
    name: str, result: torch.Tensor, reference: torch.Tensor, allowed: float
) -> OutputCheck:
    """Return how far a result is from its reference."""
    out, ref = result.to(torch.float64), reference.to(torch.float64)
    finite = out.isfinite() & ref.isfinite()
    alike = finite | (out == ref) | (out.isnan() & ref.isnan())
    unlike = int((~alike).sum())
    difference = torch.where(finite, out - ref, 0.0)
    size = torch.where(finite, ref, 0.0)
    norm = float(size.norm())
    error, worst = float(difference.norm()) / (norm or 1.0), _worst(difference, size)
    return OutputCheck(name, error, worst, allowed, WORST * allowed, unlike, int(finite.sum()))


def _worst(difference: torch.Tensor, size: torch.Tensor) -> float:
    """Return the largest difference relative to its element, its row and the array."""
    if not difference.numel():
        return 0.0
    squares = size.square()
    row = squares.mean(dim=-1, keepdim=True).sqrt() if size.ndim else 0.0
    scale = size.abs() + row + squares.mean().sqrt()
    return float((difference.abs() / torch.where(scale == 0, 1.0, scale)).max())
