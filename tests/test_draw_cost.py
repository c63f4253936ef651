"""Cost pictures: filled from a plan or by hand, legible, and safe whatever the words are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import inf, nan
from pathlib import Path
from xml.etree import ElementTree

import pytest

from napkin.algebra.derive import derive
from napkin.draw.cost import CostBar, CostView, cost_view, draw_cost
from napkin.draw.units import in_time, in_units
from napkin.language import read, source_from_bytes
from napkin.machine import load_machine
from napkin.operators import Pipeline
from napkin.schedule.count import totals
from napkin.schedule.planning.plan import Plan, make_plan
from tests.pictures import check_legible, check_standalone, labels
from tests.rasters import check_by_eye

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"
# One of each kind: bound by tensor cores, by DRAM, without a stream's mask, with one.
_EXAMPLES = ("matmul", "softmax", "mlp", "causal")


@cache
def plan_of(name: str, machine: str = "hopper") -> Plan:
    path = ROOT / "examples" / f"{name}.napkin"
    (diagram,) = read(source_from_bytes(path.name, path.read_bytes()))
    return make_plan(derive(diagram), load_machine(machine))


@pytest.mark.parametrize("name", _EXAMPLES)
def test_an_example_s_cost_draws(name: str) -> None:
    view = cost_view(plan_of(name))
    picture = draw_cost(view)
    root = ElementTree.fromstring(picture)
    assert root.findtext(f"{SVG}title") == f"cost of {name}"
    assert len(picture.encode()) < 150_000
    assert picture == draw_cost(cost_view(plan_of(name)))
    check_standalone(picture)
    check_legible(root)
    check_by_eye(picture)
    shown = [each.text for each in labels(root)]
    assert shown.count("binds") == 1
    assert view.headline in shown
    assert {bar.name for bar in view.bars} <= set(shown)


def test_bars_are_counts_over_peaks() -> None:
    plan = plan_of("matmul")
    seconds = {bar.name: bar.seconds for bar in cost_view(plan).bars}
    assert seconds["tensor cores"] == pytest.approx(2 * 4096**3 / 989e12, rel=0.01)
    assert seconds["DRAM"] == pytest.approx(3 * 4096**2 * 2 / 3.35e12, rel=0.01)
    counted = totals(plan.kernels[0].program, dict(plan.sizes))
    assert seconds["L2"] == pytest.approx(counted.bytes / plan.machine.bandwidth("l2"))
    assert counted.on(Pipeline.TENSOR) == 2 * 4096**3
    assert seconds["whole kernel"] == plan.kernels[0].expected.seconds


def test_what_binds_is_the_longest_bar_but_the_whole() -> None:
    for name in _EXAMPLES:
        bars = cost_view(plan_of(name)).bars
        (binding,) = (bar for bar in bars if bar.is_binding)
        parts = [bar for bar in bars if bar.name != "whole kernel"]
        assert binding.seconds == max(bar.seconds for bar in parts)


def test_a_causal_mask_halves_the_work_shown() -> None:
    tensor = {name: cost_view(plan_of(name)).bars[0].seconds for name in ("causal", "attention")}
    assert 0.5 < tensor["causal"] / tensor["attention"] < 0.56


def test_the_parts_of_a_prediction_add_up() -> None:
    for name in _EXAMPLES:
        view = cost_view(plan_of(name))
        assert sum(each.seconds for each in view.parts) == pytest.approx(
            plan_of(name).kernels[0].expected.seconds, rel=0.02
        )


def test_an_older_machine_draws_too() -> None:
    view = cost_view(plan_of("matmul", "a100"))
    assert "A100" in view.machine
    check_legible(ElementTree.fromstring(draw_cost(view)))


# --- filled by hand -------------------------------------------------------------------------------


def filled(word: str, seconds: float = 1e-3) -> CostView:
    bars = (
        CostBar(word, seconds, word, False, "pipelines"),
        CostBar(f"{word} 2", seconds / 2, word, True, "memory"),
    )
    return CostView(word, word, ((word, 4),), word, bars, ((word, f"{word} {word}"),), word)


@pytest.mark.parametrize(
    "word",
    [
        "<script>alert(1)</script>",
        "]]><!--&amp;\"'",
        "{{ 7 * 7 }}{% raw %}",
        "\x00\x1b\ud800\ufffe",
        "",
        "n" * 300,
        "word " * 100,
    ],
)
def test_hostile_words_stay_text(word: str) -> None:
    picture = draw_cost(filled(word))
    root = ElementTree.fromstring(picture.encode())
    check_standalone(picture)
    check_legible(root)
    assert "{{ 7" not in word or not any("49" in each.text for each in labels(root))


@pytest.mark.parametrize("seconds", [0.0, 1e-12, 3.7, 1e9, -1.0, inf, nan])
def test_any_length_draws(seconds: float) -> None:
    root = ElementTree.fromstring(draw_cost(filled("a", seconds)))
    check_legible(root)
    for path in root.iter(f"{SVG}path"):
        assert "nan" not in path.attrib["d"]
        assert "inf" not in path.attrib["d"]


def test_a_view_without_bars_or_rows_draws() -> None:
    view = CostView("f", "machine", (), "bf16", (), (), "nothing to do")
    check_legible(ElementTree.fromstring(draw_cost(view)))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (lambda: in_time(0.0010986), "1.10 ms"),
        (lambda: in_time(0.99999e-3), "1.00 ms"),
        (lambda: in_time(999.4e-6), "999 µs"),
        (lambda: in_time(4e9), "4 Gs"),
        (lambda: in_time(2.0), "2 s"),
        (lambda: in_time(0.0), "0 s"),
        (lambda: in_units(4.43e9, "B"), "4.43 GB"),
        (lambda: in_units(999.96e12, "FLOP/s"), "1.00 PFLOP/s"),
        (lambda: in_units(12, "B"), "12 B"),
    ],
)
def test_numbers_have_three_figures_and_a_unit(shown: Callable[[], str], text: str) -> None:
    assert shown() == text
