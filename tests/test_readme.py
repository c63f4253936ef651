"""What the README says of a plan is what the command says."""

from __future__ import annotations

import re
from pathlib import Path

from napkin.api import load
from napkin.schedule.units import duration

ROOT = Path(__file__).parent.parent


def test_the_prediction_of_the_first_diagram_is_the_commands() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    plan = load(ROOT / "examples" / "attention.napkin").plan("h100")
    (kernel,) = plan.kernels
    tiles = {each.axis: each.tile for each in kernel.printed.axes}
    words = (
        f"Its kernel for an H100, derived, chosen and printed .* tiles of {tiles['q']} queries and "
    )
    words += f"{tiles['x']} keys, .* predicted {re.escape(duration(plan.seconds))}, "
    assert re.search(words, text)
