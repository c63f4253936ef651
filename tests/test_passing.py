"""Chunks narrower than all consumers' rows: each walks what its own rows see, and lets the others pass."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from napkin.schedule.roles.barriers import Await, PassTurn, Release, Slot, TakeTurn
from tests.test_gluon_walks import check_walks
from tests.test_specialise import Fault, formed, simulate_apart, with_stages

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


@pytest.mark.parametrize("name", ["causal", "window"])
def test_every_consumer_walks_the_chunks_that_are_copied(name: str) -> None:
    assert max(check_walks(name, HEAD, formed(name, **HEAD), 64)) > 0


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
