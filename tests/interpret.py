"""Kernels run by Triton's interpreter: a program of its own, as the interpreter is one a process.

    python -m tests.interpret examples MACHINE DTYPE NAME..   a JSON line an example: its checks
    python -m tests.interpret cases                           a JSON line a case: its largest error
    python -m tests.interpret names                           the same for hostile names
    python -m tests.interpret gradients MACHINE NAME..        the same for the backward of examples
    python -m tests.interpret adding MACHINE                  the same for sums added up in memory
    python -m tests.interpret far                             the same far from where exp(0 - x) is finite
    python -m tests.interpret random FIRST COUNT              random diagrams, counted; 1 if wrong

`test_interpreter` starts it and judges what it prints.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from napkin.algebra.cut import cut
from napkin.algebra.derive import Derivation, derive
from napkin.algebra.gradient import differentiate
from napkin.diagram import Diagram, Leaf, Pointwise, Reduce, implied_sizes
from napkin.emit.triton import emit_triton
from napkin.evaluate import evaluate, open_dims, reference
from napkin.language.errors import NapkinError
from napkin.machine import load_machine
from napkin.runtime.data import TORCH_TYPES
from napkin.runtime.interpreter import enable_interpreter
from napkin.runtime.kernels import load_kernel
from napkin.runtime.verify import verify
from napkin.schedule.layout import Layout
from napkin.schedule.lowering.rewrite import rewrite
from napkin.schedule.planning.plan import KernelPlan, Plan, make_plan, storage_types
from napkin.schedule.program import Program
from napkin.schedule.timing.predict import Prediction
from tests.gradients import backward_arguments, relative_error, seeds_of
from tests.programs import Tiles, arguments_of, diagram_of, lower_by
from tests.programs import example as shipped
from tests.strategies import napkin_texts
from tests.test_adding import SCORES, adding, text_of

Arguments = dict[str, Any]

MOST_BLOCKS = 24  # a block of a small program takes some ten milliseconds in the interpreter
LENGTH, LONGEST = 3, 5  # of an axis that the text does not size, and of any
FP32_RANGE = 1e18  # its square is still a number of fp32


def main() -> int:
    """Do what the command line asks."""
    enable_interpreter()
    what, *rest = sys.argv[1:]
    if what == "examples":
        return verify_examples(rest[0], rest[1], rest[2:])
    if what == "cases":
        return run_cases()
    if what == "names":
        return run_names()
    if what == "gradients":
        return run_gradients(rest[0], rest[1:])
    if what == "adding":
        return run_adding(rest[0])
    if what == "far":
        return run_far()
    return run_random(int(rest[0]), int(rest[1]))


def show(**values: Any) -> None:
    print(json.dumps(values), flush=True)


# --- shipped examples -----------------------------------------------------------------------------


def verify_examples(machine: str, dtype: str, names: list[str]) -> int:
    """Verify examples with the planner's own tiles, at lengths that no tile divides."""
    for name in names:
        found = verify(make_plan(derive(shipped(name)), load_machine(machine), dtype=dtype))
        errors = [each.error for each in found.checks]
        show(name=name, passed=found.passed, error=max(errors), said=str(found))
    return 0


# --- kernels from Programs ------------------------------------------------------------------------


def entry_of(diagram: Diagram, programs: Sequence[Program]) -> Callable[..., Any]:
    """Return the entry function of Programs that no machine's limits were asked about."""
    machine = load_machine("h100")
    layout = Layout((), (), (), (), (), frozenset(), descriptors=False, stages=2)
    derivation = derive(diagram)
    told = Prediction(0, 0, 0.0, "nothing")
    kernels = tuple(
        KernelPlan(machine, named(derivation, each), (), "fp32", layout, 4, each, told)
        for each in programs
    )
    return load_kernel(emit_triton(Plan(diagram, machine, (), "fp32", kernels)), diagram)


def named(derivation: Derivation, program: Program) -> Derivation:
    return replace(derivation, diagram=replace(derivation.diagram, name=program.name))


def call(entry: Callable[..., Any], diagram: Diagram, given: Arguments, dtype: str) -> Any:
    """Return the outputs by name, as NumPy arrays."""
    types = storage_types(diagram, dtype)
    values = [
        torch.as_tensor(given[each.name]).to(TORCH_TYPES[types[each.name]])
        if types[each.name] in TORCH_TYPES
        else given[each.name]
        for each in diagram.arguments
    ]
    with np.errstate(all="ignore"):
        results = entry(*values)
    results = results if isinstance(results, tuple) else (results,)
    names = [each.name for each in diagram.outputs]
    return {name: one.to(torch.float64).numpy() for name, one in zip(names, results, strict=True)}


# --- cases ----------------------------------------------------------------------------------------

LATE = """diagram late(Q[q d], K[x d], V[x v]) -> O[q v], L[q]
    S[q x] = where(x <= q - 3, sum[d](Q * K), -inf)
    O[q v] = sum[x](softmax[x](S) * V)
    L[q] = logsumexp[x](S)
"""
BIASED = """diagram biased(Q[q d], K[x d], V[x v], bias[q x]) -> O[q v]
    S[q x] = sum[d](Q * K) + bias
    O[q v] = sum[x](softmax[x](S) * V)
"""
HEADS = """diagram heads(Q[h q d], K[h x d], V[h x v]) -> O[h q v]
    S[h q x] = sum[d](Q * K) / sqrt(size(d))
    O[h q v] = sum[x](softmax[x](S) * V)
"""
LAST = """diagram last(Q[h q d], K[h x d], V[h x v], last[h]: int32) -> O[h q v]
    S[h q x] = where(x <= last, sum[d](Q * K) / sqrt(size(d)), -inf)
    O[h q v] = sum[x](softmax[x](S) * V)
"""


def run_cases() -> int:
    """Run what is extreme: each case's largest error in fp32, relative to its largest value."""
    for machine in ("hopper", "ampere"):
        for name, text, lengths, change in cases():
            show(machine=machine, case=name, **planned(text, machine, lengths, change))
    return 0


def cases() -> list[tuple[str, str, dict[str, int], Callable[[Arguments], None]]]:
    """Return every case: name, diagram, lengths, and what is done to its random arguments."""

    def unchanged(given: Arguments) -> None:
        pass

    def enlarged(given: Arguments) -> None:
        given["Q"] = given["Q"] * 1e4

    def bias_masks(given: Arguments) -> None:
        bias = given["bias"]
        bias[np.random.default_rng(3).random(bias.shape) < 0.5] = -np.inf
        bias[1], bias[-1] = -np.inf, -np.inf

    def bias_masks_first_chunks(given: Arguments) -> None:
        given["bias"][:, :140] = -np.inf
        given["bias"][2] += 50

    def farthest(given: Arguments) -> None:
        given["last"][:] = 2**31 - 1, 150, -(2**31)

    small = {"q": 37, "x": 45, "d": 16, "v": 16}
    return [
        ("rows that see nothing", LATE, small | {"q": 70, "x": 70}, unchanged),
        ("rows that see nothing, long", LATE, small | {"q": 150, "x": 300}, unchanged),
        ("scores of ten thousands", HEADS, small | {"h": 1}, enlarged),
        ("-inf in a bias", BIASED, small, bias_masks),
        ("-inf in whole chunks", BIASED, small | {"x": 300}, bias_masks_first_chunks),
        ("a stream of one", HEADS, small | {"x": 1, "h": 2}, unchanged),
        ("a row of one", HEADS, small | {"q": 1, "h": 2}, unchanged),
        ("v is not d", HEADS, small | {"h": 1, "d": 64, "v": 32}, unchanged),
        ("d of 80, v of 96", HEADS, small | {"h": 2, "d": 80, "v": 96}, unchanged),
        ("d of 7, v of 5", HEADS, small | {"h": 1, "d": 7, "v": 5}, unchanged),
        ("the largest number for a last position", LAST, small | {"h": 3, "x": 300}, farthest),
    ]


def planned(
    text: str,
    machine: str,
    lengths: dict[str, int],
    change: Callable[[Arguments], None],
    result: str = "O",
) -> dict[str, Any]:
    """Run a diagram with the planner's tiles in fp32; rows that see nothing are told apart."""
    diagram = diagram_of(text)
    plan = make_plan(derive(diagram), load_machine(machine), sizes=lengths, dtype="fp32")
    given = arguments_of(diagram, lengths, {}, 0)
    change(given)
    entry = load_kernel(emit_triton(plan), diagram)
    got = call(entry, diagram, given, "fp32")
    with np.errstate(all="ignore"):
        want = reference(diagram, given)
    unlike, error = 0, 0.0
    for name, wanted in want.items():
        finite = np.isfinite(wanted)
        unlike += int(np.sum(~(finite & np.isfinite(got[name]) | (got[name] == wanted))))
        off = np.abs(got[name][finite] - wanted[finite])
        error = max(error, float(off.max() / np.abs(wanted[finite]).max()))
    rows = got[result].reshape(-1, got[result].shape[-1])
    zeros = [row for row in range(len(rows)) if not rows[row].any()]
    return {"unlike": unlike, "error": error, "zero_rows": zeros}


# --- gradients ------------------------------------------------------------------------------------

SHORT = {"q": 70, "x": 70, "b": 2, "h": 2, "t": 37, "f": 48, "e": 40, "n": 40}


def run_gradients(machine: str, names: list[str]) -> int:
    """Run backward kernels in fp32 on what the forward gives; `late` has rows that see nothing."""
    for name in names:
        diagram = diagram_of(LATE) if name == "late" else shipped(name)
        gradient = differentiate(diagram)
        sizes = {axis: SHORT.get(axis, 16) for axis in diagram.axes}
        arrays = arguments_of(diagram, sizes, {}, 0)
        with np.errstate(all="ignore"):
            outputs = reference(gradient.forward, arrays)
            seeds = seeds_of(gradient, outputs)
            given = dict(backward_arguments(gradient, arrays, outputs, seeds))
            want = reference(gradient.backward, given)
        plan = make_plan(
            derive(gradient.backward), load_machine(machine), sizes=sizes, dtype="fp32"
        ).plain
        got = call(
            load_kernel(emit_triton(plan), gradient.backward), gradient.backward, given, "fp32"
        )
        errors = {each: relative_error(got[each], want[each]) for each in want}
        finite = all(bool(np.isfinite(got[each]).all()) for each in got)
        show(name=name, kernels=len(plan.kernels), errors=errors, finite=finite)
    return 0


def run_adding(machine: str) -> int:
    """Run plans that add up sums in memory, in fp32, at lengths that no tile divides."""
    for score in SCORES:
        diagram = diagram_of(text_of(score))
        plan = adding(diagram, machine, "fp32")
        given = arguments_of(diagram, {"b": 1, "q": 100, "x": 90, "d": 64, "e": 64}, {}, 0)
        given |= {name: given[name] / 8 for name in ("A", "C")}
        got = call(load_kernel(emit_triton(plan), diagram), diagram, given, "fp32")
        errors = {n: relative_error(got[n], want) for n, want in reference(diagram, given).items()}
        show(score=score, deterministic=plan.is_deterministic, errors=errors)
    return 0


def run_far() -> int:
    """Run attention and its backward in fp32 where all scores are about 300, or about -300.

    A row's logsumexp then is as far from 0, and the keys past the last one, which are read as 0, are not.
    """
    gradient = differentiate(shipped("attention"))
    sizes = {"b": 1, "h": 1, "q": 40, "x": 100, "d": 64, "v": 64}
    for sign in (1, -1):
        arrays = arguments_of(gradient.forward, sizes, {}, 0)
        arrays |= {"Q": 6 + arrays["Q"] / 10, "K": sign * (6 + arrays["K"] / 10)}
        outputs = reference(gradient.forward, arrays)
        given = dict(backward_arguments(gradient, arrays, outputs, seeds_of(gradient, outputs)))
        for way, diagram, arguments in (
            ("forward", gradient.forward, arrays),
            ("in order", gradient.backward, given),
            ("in one pass", gradient.backward, given),
        ):
            if way == "in one pass":
                heads = (("d", sizes["d"]), ("v", sizes["v"]))
                plan = adding(replace(diagram, sizes=heads), "hopper", "fp32")
            else:
                plan = make_plan(
                    derive(diagram),
                    load_machine("hopper"),
                    sizes=sizes,
                    dtype="fp32",
                    deterministic=True,
                )
            want = reference(diagram, arguments)
            kernel = load_kernel(emit_triton(plan.plain), diagram)
            got = call(kernel, diagram, arguments, "fp32")
            errors = {name: relative_error(got[name], each) for name, each in want.items()}
            show(sign=sign, way=way, ordered=plan.is_deterministic, errors=errors)
    return 0


# --- names ----------------------------------------------------------------------------------------

NAMED = """diagram {name}({Q}[{q} {d}], {K}[{x} {d}], {V}[{x} {v}], {c}: float, {n}: int) -> {O}[{q} {v}]
    {S}[{q} {x}] = where({x} <= {q} + {n}, {c} * sum[{d}]({Q} * {K}), -inf)
    {O}[{q} {v}] = sum[{x}](softmax[{x}]({S}) * {V})
"""
KEYS = ("name", "Q", "K", "V", "c", "n", "O", "S", "q", "x", "d", "v")
LONG = "a_name_of_sixty_four_characters_that_nobody_would_ever_choose_".ljust(62, "x")
HOSTILE = (
    "lambda class None print tl triton torch grid pid self del yield",
    "Q Q K V c n O S q x d v",
    "attention Q_ptr Q Q_desc size_q q_start O_ptr lane_q q T t v",
    "STAGES BLOCK_Q WARPS lane_x STAGES_ BLOCK_X BLOCK_T STAGES2 Q q X x",
    "BLOCK_Q BLOCK_Q_kernel kernel BLOCK STAGES WARPS Q_tile m q x l o",
    "attention attention_kernel K_stride_x K_desc scale scale_ O_tile p offs_x x_start k v",
    "aligned divide TensorDescriptor tensor size shape padded os math napkin range float",
    "f m l o p t chunk m_new rescale pid lane_pid x_end",
    "type match case len print2 id sum2 abs_ from import global nonlocal",
    " ".join(f"{LONG}{i:02d}" for i in range(12)),
    "main tuple ValueError TypeError repr str zip set list dict id hash",
)


def run_names() -> int:
    """Run one diagram under hostile names: the largest error of each, or why it is refused."""
    for number, words in enumerate(HOSTILE):
        names = dict(zip(KEYS, words.split(), strict=True))
        for machine in ("hopper", "ampere"):
            lengths = dict(zip((names[a] for a in "qxdv"), (37, 45, 16, 16), strict=True))
            try:
                found = planned(
                    NAMED.format(**names), machine, lengths, lambda given: None, names["O"]
                )
            except NapkinError as error:
                found = {"refused": [each.code for each in error.diagnostics]}
            show(number=number, machine=machine, words=words, **found)
    return 0


# --- random diagrams ------------------------------------------------------------------------------

RANDOM_TILES = (Tiles(2, 2, 2), Tiles(4, 4), Tiles(1, 2, 2), Tiles(8, 16, 4))


def run_random(first: int, count: int) -> int:
    """Run random diagrams; print how many ran, and how many were refused and why."""
    seen: Counter[str] = Counter()

    @seed(first)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(napkin_texts(), st.sampled_from(RANDOM_TILES), st.booleans(), st.randoms())
    def agree(text: str, tiles: Tiles, descriptors: bool, cuts: Random) -> None:
        chosen = Tiles(tiles.row, tiles.stream, tiles.split, descriptors)
        seen[check_random(text, chosen, cuts)] += 1

    agree()
    assert set(seen) <= {"ran", "ran cut", "N501"}, seen
    show(**seen)
    return 0


def check_random(text: str, tiles: Tiles, cuts: Random) -> str:
    """Run one diagram, whole or cut at random, against the reference in fp32; return what became of it."""
    diagram = diagram_of(text.replace(": bf16", ": fp32"))
    points = [each for each, box in enumerate(diagram.boxes) if not isinstance(box, Leaf)]
    kept = cuts.sample(points, min(cuts.choice((0, 0, 1, 2, 4)), len(points)))
    pieces = [rewrite(derive(each)) for each in cut(diagram, kept, storage_types(diagram, "fp32"))]
    sizes = dict.fromkeys(diagram.axes, LENGTH)
    sizes |= {axis: min(size, LONGEST) for axis, size in diagram.sizes}
    for piece in pieces:
        sizes = shortened(diagram, lower_by(piece, sizes, tiles, "fp32"), sizes)
    programs = [lower_by(piece, sizes, tiles, "fp32") for piece in pieces]
    given = random_arguments(diagram, sizes)
    with np.errstate(all="ignore"):
        try:
            values = values_of(diagram, given, sizes)
            assume(sums_are_finite(diagram, values))
            assume(stays_in_range(diagram, values))
            want = reference(diagram, given)
            near = reference(diagram, moved(diagram, given))
        except OverflowError:  # a maximum of integers over an empty axis has no unit
            assume(False)
    try:
        entry = entry_of(diagram, programs)
    except NapkinError as error:
        return error.diagnostics[0].code
    got = call(entry, diagram, given, "fp32")
    for name, wanted in want.items():
        assert_close(got[name], wanted, near[name])
    return "ran" if len(pieces) == 1 else "ran cut"


def shortened(diagram: Diagram, program: Program, sizes: dict[str, int]) -> dict[str, int]:
    """Return lengths at which few blocks run: axes without a tile become one long first."""
    lengths, implied = dict(sizes), implied_sizes(diagram)
    grouped = [program.axis(axis) for axis in program.grid]
    for each in sorted(grouped, key=lambda tile: tile.tile):
        tiles = [-(-lengths[other.axis] // other.tile) for other in grouped]
        if np.prod(tiles) > MOST_BLOCKS and each.axis not in implied:
            lengths[each.axis] = 1
    return lengths


def random_arguments(diagram: Diagram, sizes: dict[str, int]) -> Arguments:
    """Return positive reals that fp32 holds exactly, so that rounding them is no difference."""
    made = arguments_of(diagram, sizes, {}, 1)
    for each in diagram.arguments:
        if each.kind.value == "float" and each.dims:
            made[each.name] = np.float32(0.2 + np.abs(made[each.name])).astype(np.float64)
    return made


def values_of(diagram: Diagram, given: Arguments, sizes: dict[str, int]) -> dict[int, Any]:
    opened = {
        each.name: open_dims(np.asarray(given[each.name]), each.dims, sizes)
        for each in diagram.arguments
    }
    return evaluate(diagram.boxes, range(len(diagram.boxes)), opened, sizes)


def sums_are_finite(diagram: Diagram, values: dict[int, Any]) -> bool:
    """Return whether every sum adds numbers: infinity times a masked zero has no meaning."""
    return all(
        bool(np.all(np.isfinite(values[operand])))
        for box in diagram.boxes
        if isinstance(box, Reduce) and box.operator in ("sum", "prod")
        for operand in box.operands
    )


def stays_in_range(diagram: Diagram, values: dict[int, Any]) -> bool:
    """Return whether fp32 and int32, in which kernels compute, can hold what float64 does."""
    for each, value in values.items():
        box = diagram.boxes[each]
        if isinstance(box, (Pointwise, Reduce)):
            size = np.abs(np.asarray(value, dtype=float))
            limit = 2.0**31 if box.kind.value == "int" else FP32_RANGE
            if np.any(np.isfinite(size) & ((size >= limit) | ((size > 0) & (size < 1 / limit)))):
                return False
    return True


def moved(diagram: Diagram, given: Arguments) -> Arguments:
    """Return the arguments a little off: what that changes much, rounding may change too."""
    generator = np.random.default_rng(2)
    reals = [each.name for each in diagram.arguments if each.kind.value == "float"]
    return given | {
        name: given[name] * (1 + 1e-5 * generator.standard_normal(np.shape(given[name])))
        for name in reals
    }


def assert_close(got: Any, want: Any, near: Any) -> None:
    """Compare where the reference is finite, small and moves little when its inputs do."""
    got, want, near = (np.asarray(each, dtype=float) for each in (got, want, near))
    scale = 1e-6 + np.abs(want)
    with np.errstate(all="ignore"):
        steady = np.isfinite(want) & (np.abs(want) < 1e6) & (np.abs(near - want) <= 1e-3 * scale)
        wrong = steady & ~(np.abs(got - want) <= 2e-3 * scale)
    assert not wrong.any(), f"got {got[wrong][:4]}, want {want[wrong][:4]}"


if __name__ == "__main__":
    sys.exit(main())
