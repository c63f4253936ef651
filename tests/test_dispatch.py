"""Groups handed out by a warp: the printed protocol run by threads in Python, and which kernels have one."""

from __future__ import annotations

import ast
import heapq
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from napkin.algebra.derive import derive
from napkin.emit.module import emit_module
from napkin.machine import load_machine
from napkin.schedule.order import tile_order
from napkin.schedule.planning.plan import make_plan
from napkin.schedule.program import Band
from tests.programs import example

HANDED = ("place_buffer", "place_full", "place_empty")
WAIT = 10  # seconds, past which the protocol hangs


@cache
def module(name: str) -> str:
    return emit_module(make_plan(derive(example(name)), load_machine("h200")))


@cache
def functions(name: str) -> dict[str, ast.FunctionDef]:
    found = ast.parse(module(name)).body
    return {each.name: each for each in found if isinstance(each, ast.FunctionDef)}


class Barrier:
    """A barrier in shared memory: a phase ends when all have arrived."""

    def __init__(self, count: int) -> None:
        self.count = self.left = count
        self.phase = 0
        self.changed = threading.Condition()

    def arrive(self) -> None:
        with self.changed:
            self.left -= 1
            assert self.left >= 0
            if not self.left:
                self.left, self.phase = self.count, self.phase + 1
                self.changed.notify_all()

    def wait(self, parity: int) -> None:
        """Wait until the phase of this parity has ended."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.phase % 2 != parity, WAIT), "it hangs"


class Indexed:
    """A row of barriers of which there is one."""

    def __init__(self, count: int) -> None:
        self.barrier = Barrier(count)

    def index(self, place: int) -> Barrier:
        assert place == 0
        return self.barrier


class Counter:
    """A number in global memory that all blocks add to."""

    def __init__(self) -> None:
        self.value = 0
        self.lock = threading.Lock()

    def add(self, more: int) -> int:
        with self.lock:
            self.value += more
            return self.value - more


def keeps(each: ast.stmt, names: tuple[str, ...]) -> bool:
    used = {part.id for part in ast.walk(each) if isinstance(part, ast.Name)}
    return bool(used & set(names))


def hands_over(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Keep of a partition what hands groups over, and note each group once it is read."""
    for each in statements:
        if isinstance(each, ast.While):
            each.body = list(hands_over(each.body))
            yield each
        elif isinstance(each, ast.Assign | ast.AugAssign | ast.Expr) and (
            keeps(each, HANDED) or ast.unparse(each) in ("turn = 0", "turn += 1")
        ):
            yield each
            if "place_empty" in ast.unparse(each):
                yield ast.parse("seen.append((b_start, h_start, q_start))").body[0]


def runner(name: str, body: list[ast.stmt], scope: dict[str, Any]) -> Callable[[], None]:
    function = ast.parse(f"def {name}():\n    pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = body
    exec(compile(ast.fix_missing_locations(ast.Module([function], [])), name, "exec"), scope)
    made: Callable[[], None] = scope[name]
    return made


def block(program: int, programs: int, groups: int, counter: Counter, noted: list[Any]) -> Any:
    """Return the partitions of a block, each to be run by a thread of its own."""
    printed = functions("packed")
    slots: dict[int, int] = {}
    full, empty = Indexed(1), Indexed(CONSUMERS + 1)
    chance = random.Random(program)

    def pause() -> None:
        threading.Event().wait(chance.random() * 1e-4)

    def hand_over(buffer: Any, place: int, number: int) -> None:
        pause()
        slots[place] = number

    def handed_over(buffer: Any, place: int, warps: int) -> int:
        pause()
        return slots[place]

    def place(group: int, *rest: Any) -> tuple[int, ...]:
        return (0, 0, group, *(0,) * (NUMBERS - 3))

    language = SimpleNamespace(
        program_id=lambda axis: program,
        num_programs=lambda axis: programs,
        atomic_add=lambda pointer, more, sem: pointer.add(more),
        BlockedLayout=lambda *given: None,
    )
    barriers = SimpleNamespace(
        wait=lambda barrier, parity: barrier.wait(parity),
        arrive=lambda barrier, count: barrier.arrive(),
    )
    shared = {
        "gl": language,
        "mbarrier": barriers,
        "_hand_over": hand_over,
        "_handed_over": handed_over,
        "packed_place": place,
        "counter": counter,
        "groups": groups,
        **dict(zip(HANDED, (None, full, empty), strict=True)),
    }
    names = {part.arg for part in printed["packed_dispatch"].args.args} - set(shared)
    dispatch = shared | dict.fromkeys(names)
    yield runner("dispatch", printed["packed_dispatch"].body, dispatch)
    for consumer, reader in enumerate(("packed_consume",) * CONSUMERS + ("packed_produce",)):
        body = list(hands_over(ast.parse(ast.unparse(printed[reader])).body[0].body))  # type: ignore[attr-defined]
        seen: list[Any] = []
        noted.append(seen)
        yield runner("read", body, shared | {"seen": seen, "consumer": consumer})


CONSUMERS = module("packed").count("            (\n                packed_consume,")
NUMBERS = next(
    len(each.targets[0].elts)
    for each in ast.walk(functions("packed")["packed_dispatch"])
    if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Tuple)
)


@pytest.mark.parametrize(("groups", "programs"), [(1, 1), (5, 5), (7, 3), (40, 4), (3, 1)])
def test_every_group_is_handed_out_once_and_every_partition_gets_it(
    groups: int, programs: int
) -> None:
    counter = Counter()
    noted: list[list[Any]] = []
    threads = [
        threading.Thread(target=part, daemon=True)
        for program in range(programs)
        for part in block(program, programs, groups, counter, noted)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(WAIT)
    assert not any(each.is_alive() for each in threads), "it hangs"
    found: list[int] = []
    for program in range(programs):
        produced, *others = noted[(CONSUMERS + 1) * program :][: CONSUMERS + 1]
        assert all(each == produced for each in others)
        found += [row for _, _, row in produced]
    assert sorted(found) == list(range(groups))


def test_a_counter_is_cleared_for_every_call() -> None:
    text = module("packed")
    assert text.count("groups_taken = torch.zeros(1, ") == 1
    assert text.index("groups_taken = torch.zeros(1, ") < text.index("packed_kernel[grid](")


@pytest.mark.parametrize(
    ("name", "is_dispatched"), [("packed", True), ("document", True), ("attention", False)]
)
def test_groups_are_handed_out_where_data_bound_their_streams(
    name: str, is_dispatched: bool
) -> None:
    assert ("_hand_over(" in module(name)) is is_dispatched
    assert ("_rounds(" in module(name)) is not is_dispatched


# --- the order of what is handed out ------------------------------------------------------------------

SIZES = {"b": 4, "h": 16, "q": 4096, "x": 4096, "d": 128, "v": 128}
BLOCKS, TILE, FIXED = 132, 128, 256  # a group takes as long as so many positions, whatever it walks


def last_done(tiles: Sequence[tuple[int, int]], starts: Sequence[Sequence[int]]) -> float:
    """Return when the last block is done, if groups of these batches and tiles are handed out in this order.

    In units of what every block would take were they all done at once.
    """
    done = [0] * BLOCKS
    for batch, tile in tiles:
        seen = (tile + 1) * TILE - starts[batch][tile * TILE]
        heapq.heapreplace(done, done[0] + FIXED + seen)
    return max(done) * BLOCKS / sum(done)


@pytest.mark.parametrize("name", ["packed", "document"])
def test_groups_whose_streams_data_bound_are_handed_out_the_longest_first(name: str) -> None:
    form = make_plan(derive(example(name)), load_machine("h200"), sizes=SIZES).kernels[-1].form
    assert form is not None
    program = form.warps.program
    assert (program.band, program.descending) == (Band("q", 1, ("h", "b")), ("q",))
    draw = random.Random(0)
    starts = []
    for _ in range(SIZES["b"]):
        cuts = sorted({0, *(draw.randrange(SIZES["q"]) for _ in range(7))})
        starts.append([max(cut for cut in cuts if cut <= row) for row in range(SIZES["q"])])
    found = []
    for each in (program, replace(program, band=None, descending=())):
        order = tile_order(each, SIZES)
        found.append(last_done(list(zip(order["b"], order["q"], strict=True)), starts))
    longest_first, in_turn = found
    assert longest_first < 1.03 < in_turn
