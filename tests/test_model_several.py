"""A diagram on several GPUs: what passes over their links for every axis that may be split."""

from __future__ import annotations

import pytest

from napkin.algebra.derive import derive
from napkin.api import load
from napkin.emit.report import show_unplanned
from napkin.machine import load_machine
from napkin.model.several import Several, Split, several
from napkin.schedule.tiling.kernel import storage_types
from tests.programs import EXAMPLES, example


def found_for(name: str, machine: str = "h100", dtype: str = "bf16") -> Several:
    diagram = example(name)
    sizes = {axis: dict(diagram.sizes).get(axis, 4096) for axis in diagram.axes}
    types = storage_types(diagram, dtype)
    found = several(derive(diagram), load_machine(machine), sizes, types)
    assert found is not None
    return found


def split(found: Several, axis: str) -> Split:
    (one,) = [each for each in found.splits if each.axis == axis]
    return one


def test_what_every_array_carries_is_split_for_nothing() -> None:
    heads = split(found_for("attention"), "h")
    assert heads == Split("h", (), 0.0, 0.0)
    assert found_for("attention").splits[0] == heads


def test_rows_need_all_keys_and_values() -> None:
    found = found_for("attention")
    assert (found.count, found.link, found.rate) == (8, "nvlink", 4.5e11)
    rows = split(found, "q")
    keys = 4 * 16 * 4096 * 128 * 2
    assert rows.passing == ("K", "V")
    assert rows.bytes == pytest.approx(2 * keys * 7 / 8)
    assert rows.seconds == pytest.approx(rows.bytes / 4.5e11)
    narrow = split(found_for("attention", dtype="fp8e4m3"), "q")
    assert narrow.bytes == rows.bytes / 2


def test_keys_need_the_rows_and_the_states_that_the_merge_joins() -> None:
    keys = split(found_for("decode"), "x")
    sizes = dict(example("decode").sizes)
    rows = sizes["b"] * sizes["h"] * sizes["q"]
    expected = rows * sizes["d"] * 2 + rows * 2 * 4 + rows * sizes["v"] * 4
    assert keys.passing == ("Q", "m", "l", "o")
    assert keys.bytes == pytest.approx(expected * 7 / 8)
    # Few queries beside many keys: the stream is what to split, after the batch.
    assert [each.axis for each in found_for("decode").splits][:2] == ["b", "x"]


def test_an_axis_that_a_contraction_lacks_would_repeat_it() -> None:
    assert all(each.axis != "v" for each in found_for("attention").splits)


def test_an_axis_shorter_than_the_gpus_are_many_is_not_split() -> None:
    assert all(each.axis != "b" for each in found_for("attention").splits)  # four of them


def test_without_links_there_is_nothing_to_say() -> None:
    diagram = example("matmul")
    types = storage_types(diagram, "bf16")
    found = several(derive(diagram), load_machine("m4_max"), dict(diagram.sizes), types)
    assert found is None


@pytest.mark.parametrize("name", ["attention", "matmul", "softmax", "paged_decode", "layernorm"])
def test_the_report_tells_what_passes(name: str) -> None:
    shown = show_unplanned(load(EXAMPLES[name]).cost_without_plan("h100"))
    assert "over 8 GPUs on nvlink, 450 GB/s into each" in shown
    pair = show_unplanned(load(EXAMPLES[name]).cost_without_plan("l40s"))
    assert "over 2 GPUs on pcie, 31.5 GB/s into each" in pair
