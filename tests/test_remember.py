"""Answers that are remembered: by identity, by value where a part is a number or a name, never mixed up."""

from __future__ import annotations

from dataclasses import replace

from napkin.algebra.derive import derive
from napkin.machine import load_machine
from napkin.schedule.lowering.lower import lower
from napkin.schedule.program import Program
from napkin.schedule.remember import remembered, remembered_by
from napkin.schedule.tiling.kernel import KernelPlan, rank_kernels
from napkin.schedule.timing.occupancy import shared_bytes
from napkin.schedule.timing.predict import average_steps, predict
from napkin.schedule.timing.registers import registers_per_thread
from tests.programs import example


def test_a_function_of_several_values_answers_by_the_parts_that_it_names() -> None:
    asked: list[tuple[list[int], int, str]] = []

    @remembered_by(lambda values, factor, name: (values, factor))
    def total(values: list[int], factor: int, name: str) -> int:
        asked.append((values, factor, name))
        return factor * sum(values)

    values, same = [1, 2, 3], [1, 2, 3]
    assert total(values, 2, "one") == total(values, 2, "another") == 12
    assert len(asked) == 1
    assert total(values, 10**9, "one") == 6 * 10**9
    assert total(values, 10**9 + 1 - 1, "one") == 6 * 10**9
    assert len(asked) == 2  # numbers are told apart by value
    assert total(same, 2, "one") == 12
    assert len(asked) == 3  # all else by identity


def test_what_is_remembered_of_a_value_that_is_gone_is_of_no_other() -> None:
    @remembered
    def first(values: tuple[int, ...]) -> int:
        return values[0]

    assert [first((number, number)) for number in range(100)] == list(range(100))


def test_a_prediction_is_the_same_whatever_was_asked_before() -> None:
    machine = load_machine("hopper")
    derivation = derive(example("causal"))
    lengths = dict.fromkeys(derivation.diagram.axes, 1024) | {"d": 64, "v": 64}
    ranked = rank_kernels(derivation, machine, lengths, "bf16").kernels
    assert len({(each.stages, each.warps) for each in ranked}) > 2
    for each in ranked[:: max(1, len(ranked) // 5)]:
        fresh = _anew(each)
        walked = average_steps(fresh, lengths)
        for program, steps in (
            (fresh, walked),
            (each.program, average_steps(each.program, lengths)),
        ):
            said = predict(program, machine, dict(lengths), each.warps, steps)
            assert said.seconds == each.prediction.seconds
            assert said.parts == each.prediction.parts
            assert shared_bytes(program, each.warps, wgmma=True) == said.shared_bytes
        assert registers_per_thread(fresh, each.warps, wgmma=True) <= each.prediction.registers


def _anew(kernel: KernelPlan) -> Program:
    """Return a kernel's Program lowered again, with its own rings: no part of it was asked about before."""
    made = lower(kernel.derivation, kernel.layout)
    rings = tuple(replace(each, stages=kernel.stages) for each in made.buffers)
    return replace(made, buffers=rings)
