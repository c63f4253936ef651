"""Chunks narrower than all consumers' rows: each walks what its own rows see, and lets the others pass."""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping
from typing import Any

import pytest

from napkin.emit.gluon import emit_gluon, plan_in_form
from napkin.schedule.roles.barriers import Await, PassTurn, Release, Slot, TakeTurn
from tests.test_emit_triton import functions
from tests.test_gluon_walks import LENGTHS, WIDTHS, joined, language, walks_of
from tests.test_specialise import Fault, formed, kernel_of, simulate_apart, with_stages

HEAD = {"d": 256, "v": 256}


def test_a_consumer_lets_chunks_pass_that_its_rows_do_not_see() -> None:
    passing, alone, cut, full = formed("causal", **HEAD).chunks
    k, v = Slot("k_buffer", 0), Slot("v_buffer", 0)
    turn = (Await(k), TakeTurn(), PassTurn(), Release(k))
    assert passing.steps == (*turn, Await(v), Release(v))
    assert (passing.loop.start, passing.loop.stop) == (alone.loop.stop, "x_behind")
    assert [each.is_single for each in (passing, alone, cut, full)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("name", "sizes", "loops"),
    [
        ("attention", HEAD, 3),  # no mask: all rows see the same chunks
        ("causal", {"d": 128, "v": 128}, 3),  # a chunk is as wide as all rows
        ("packed", {"d": 128, "v": 128}, 4),  # data bound the stream
        ("window", HEAD, 5),
    ],
)
def test_others_walk_the_same_chunks(name: str, sizes: Mapping[str, int], loops: int) -> None:
    assert len(formed(name, **sizes).chunks) == loops


def seen(name: str, rows: range, sizes: Mapping[str, int]) -> set[int]:
    """Return the chunks of 64 positions that hold one which some of the rows sees."""
    width = sizes["width"] if name == "window" else sizes["size_q"]
    chunks: set[int] = set()
    for row in rows[:: max(1, len(rows) - 1)]:
        for at in range(max(0, row - width + 1), min(row, sizes["size_x"] - 1) + 1):
            chunks.add(at // 64 * 64)
    return chunks


@pytest.mark.parametrize("name", ["causal", "window"])
def test_every_consumer_walks_the_chunks_that_are_copied(name: str) -> None:
    text = emit_gluon(plan_in_form(kernel_of(name, HEAD), formed(name, **HEAD)))
    module = functions(ast.parse(text))
    kept: list[ast.stmt] = []
    for each in (module["_floordiv"], module[f"{name}_place"]):
        each.decorator_list = []
        kept.append(each)
    fixed: dict[str, Any] = {"gl": language(), "BLOCK_Q": 128, "BLOCK_X": 64, "ROWS": 64}
    fixed |= {"CONSUMERS": 2, "STAGES": 2, "turn": 0, "step": 0}
    exec(compile(ast.Module(kept, []), name, "exec"), fixed)  # text of our own: plain arithmetic
    draw = random.Random(1)
    passed = []
    for _ in range(40):
        rows = draw.choice(LENGTHS)
        sizes = {"size_b": 1, "size_h": 1, "size_q": rows, "width": draw.choice(WIDTHS)}
        sizes["size_x"] = draw.choice((rows, rows, draw.randint(1, 1500)))
        for group in range(-(-rows // 128)):
            scope = fixed | sizes | {"_group": lambda turn, group=group: group}
            copied = joined(walks_of(module[f"{name}_produce"], dict(scope)))
            for consumer in range(2):
                mine = dict(scope) | {"consumer": consumer}
                walks = list(walks_of(module[f"{name}_consume"], mine))
                assert joined(walks) == copied, (sizes, group, consumer)
                own = range(mine["q_start"], min(mine["q_start"] + 64, rows))
                contracted = joined(each for each in walks if each.contracts)
                assert seen(name, own, sizes) <= set(contracted), (sizes, group, consumer)
                passed.append(len(copied) - len(contracted))
    assert max(passed) > 0


def shared_out(total: int, loops: int, draw: random.Random) -> list[int]:
    """Return how many of so many chunks each of the loops walks."""
    ends = sorted(draw.randint(0, total) for _ in range(loops - 1))
    return [end - start for start, end in zip([0, *ends], [*ends, total], strict=True)]


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_no_warp_hangs_where_consumers_pass_different_chunks(stages: int) -> None:
    form = with_stages(formed("causal", **HEAD), stages)
    for seed in range(60):
        draw = random.Random(seed)
        totals = [draw.randint(0, 6) for _ in range(4)]
        mine = [[shared_out(total, 3, draw) for total in totals] for _ in range(2)]
        simulate_apart(form, [[total] for total in totals], mine, seed)


def test_a_consumer_that_passes_a_chunk_too_few_is_seen() -> None:
    form = formed("causal", **HEAD)
    with pytest.raises(Fault):
        simulate_apart(form, [[3], [3]], [[[1, 1, 1]] * 2, [[0, 1, 1]] * 2], 0)
