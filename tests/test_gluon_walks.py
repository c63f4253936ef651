"""The chunks that a printed producer copies are those that every consumer contracts: run in Python.

A consumer finds by itself where its own rows need no mask. If it walked one chunk more or less than are
copied, the kernel would hang. What its rows see it contracts; the other chunks it lets pass.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.schedule.roles.warps import Specialised
from tests.test_emit_triton import functions
from tests.test_specialise import formed, kernel_of

LENGTHS = (64, 65, 100, 192, 333, 640, 1024, 1111)
WIDTHS = (-1000, -5, 0, 1, 9, 100, 128, 129, 500, 5000)


def language() -> SimpleNamespace:
    return SimpleNamespace(
        cdiv=lambda a, b: -(-a // b),
        where=lambda condition, a, b: a if condition else b,
        maximum=max,
        minimum=min,
        program_id=lambda axis: 0,
        num_programs=lambda axis: 1,
    )


@dataclass(frozen=True)
class Walked:
    """The positions of a printed loop, and whether it contracts what lies there."""

    positions: list[int]
    contracts: bool


def walks_of(function: ast.FunctionDef, scope: dict[str, Any]) -> Iterator[Walked]:
    """Yield every loop in the walk over groups, after the whole numbers before it."""
    (groups,) = (each for each in function.body if isinstance(each, ast.For))
    for each in groups.body:
        if isinstance(each, ast.For) and "static_range" not in ast.unparse(each.iter):
            found = list(eval(compile(ast.Expression(each.iter), "", "eval"), scope))
            yield Walked(found, "warpgroup_mma" in ast.unparse(each))
        elif isinstance(each, ast.Assign):
            with suppress(NameError, AttributeError, TypeError):  # what is no whole number
                exec(ast.unparse(each), scope)
            if ast.unparse(each.targets[0]) == "x_start":  # one chunk by itself
                yield Walked([scope["x_start"]], True)


def joined(walks: Iterable[Walked]) -> list[int]:
    return [position for walk in walks for position in walk.positions]


def seen(name: str, rows: range, sizes: Mapping[str, int], chunk: int) -> set[int]:
    """Return the chunks that hold a position which one of the rows sees."""
    width = sizes["width"] if name == "window" else sizes["size_q"]
    chunks: set[int] = set()
    for row in rows[:: max(1, len(rows) - 1)]:  # what is seen grows with the row
        last = sizes["size_x"] - 1 if name == "attention" else row
        first = max(0, row - width + 1) if last == row else 0
        positions = range(first, min(last, sizes["size_x"] - 1) + 1)
        chunks |= {at // chunk * chunk for at in positions}
    return chunks


def check_walks(name: str, head: Mapping[str, int], form: Specialised, chunk: int) -> list[int]:
    """Hold every consumer's walk against what is copied and what its rows see, in random groups.

    Returns how many chunks each of the consumers let pass. In slices, one without rows contracts one chunk.
    """
    module = functions(ast.parse(emit_gluon(plan_in_form(kernel_of(name, head), form))))
    kept: list[ast.stmt] = []
    for each in (module.get("_floordiv"), module[f"{name}_place"]):
        if each is not None:
            each.decorator_list = []
            kept.append(each)
    fixed: dict[str, Any] = {"gl": language(), "BLOCK_Q": 64 * form.consumers, "BLOCK_X": chunk}
    fixed |= {"ROWS": 64, "CONSUMERS": form.consumers, "STAGES": 2, "turn": 0, "step": 0}
    exec(compile(ast.Module(kept, []), name, "exec"), fixed)  # text of our own: plain arithmetic
    draw = random.Random(1)
    passed: list[int] = []
    for _ in range(60):
        rows = draw.choice(LENGTHS)
        sizes = {"size_b": 1, "size_h": 1, "size_q": rows, "width": draw.choice(WIDTHS)}
        sizes["size_x"] = draw.choice((rows, rows, draw.randint(1, 1500)))
        for group in range(-(-rows // (64 * form.consumers))):
            scope = fixed | sizes | {"_group": lambda turn, group=group: group}
            copied = joined(walks_of(module[f"{name}_produce"], dict(scope)))
            for consumer in range(form.consumers):
                mine = dict(scope) | {"consumer": consumer}
                walks = list(walks_of(module[f"{name}_consume"], mine))
                assert joined(walks) == copied, (sizes, group, consumer)
                own = range(mine["q_start"], min(mine["q_start"] + 64, rows))
                contracted = joined(each for each in walks if each.contracts)
                assert seen(name, own, sizes, chunk) <= set(contracted), (sizes, group, consumer)
                assert own or not form.cuts or len(contracted) == 1, (sizes, group, consumer)
                passed.append(len(copied) - len(contracted))
    return passed


@pytest.mark.parametrize("name", ["attention", "causal", "window", "sinks", "softcap"])
def test_every_consumer_walks_the_chunks_that_are_copied(name: str) -> None:
    head = {"d": 64, "v": 64}
    form = replace(formed(name, **head), dispatched=False)  # groups in turn: by their number
    assert form.cuts
    assert max(check_walks(name, head, form, 128)) > 0
