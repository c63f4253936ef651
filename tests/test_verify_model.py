"""The model held to a GPU: the arithmetic of its tables, and what ncu's pages say."""

from __future__ import annotations

from pathlib import Path

import pytest

from napkin.api import load
from napkin.runtime.counters import Traffic, Watched, read_counters, read_csv
from napkin.runtime.verify_model import Errors, Verdict, roofline_seconds, show_verdicts

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(each.stem for each in EXAMPLES.glob("*.napkin"))


def verdict(counted: Traffic | str) -> Verdict:
    shared, registers = (98304, 98336), (254, 255)
    return Verdict(
        "attention", "plain loop", (("q", 4096),), 1.1e-3, 1.0e-3, 0.5e-3,
        shared, registers, 268_435_456, 4_429_185_024, (201_326_592, 56_230_000), counted,
    )  # fmt: skip


def test_errors_are_relative_to_what_was_measured() -> None:
    one = verdict("no ncu")
    assert one.error == pytest.approx(0.1)
    assert one.roofline_error == pytest.approx(-0.5)


def test_the_median_and_the_worst_are_of_sizes() -> None:
    found = Errors.of([-0.3, 0.1, 0.02])
    assert (found.median, found.worst) == (0.1, 0.3)
    assert str(found) == "median 10.0%, worst 30.0%"


def test_the_tables_show_every_figure() -> None:
    text = show_verdicts([verdict(Traffic(201.5e6, 56.5e6, 3.3e9))])
    for each in (
        "1.000 ms",
        "1.100 ms",
        "+10.0%",
        "-50.0%",
        "98,336 B",
        "255",
        "201.5 MB",
        "3.3 GB",
    ):
        assert each in text
    assert "predictions: median 10.0%, worst 10.0%" in text
    assert "roofline:    median 50.0%, worst 50.0%" in text


def test_missing_counters_are_said_once() -> None:
    text = show_verdicts([verdict("ncu is not on the path")] * 2)
    assert text.count("ncu is not on the path") == 1


def test_json_has_what_the_table_has() -> None:
    found = verdict(Traffic(1.0, 2.0, 3.0)).as_json()
    assert found["dram_bytes"] == {
        "formula": 268_435_456,
        "expected_read": 201_326_592,
        "expected_written": 56_230_000,
        "read": 1.0,
        "written": 2.0,
    }
    assert found["registers"] == {"predicted": 254, "compiled": 255}
    assert "counters" not in found
    assert verdict("none").as_json()["counters"] == "none"


PAGE = """\
==PROF== Connected to process 7
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","7","other","dram__bytes_read.sum","byte","9"
"0","7","other","dram__bytes_write.sum","byte","9"
"0","7","other","lts__t_bytes.sum","byte","9"
"1","7","attention_kernel","dram__bytes_read.sum","Mbyte","201.5"
"1","7","attention_kernel","dram__bytes_write.sum","byte","56,063,488"
"1","7","attention_kernel","lts__t_bytes.sum","Gbyte","3.55"
"2","7","half","lts__t_bytes.sum","Gbyte","1"
"""


def test_the_last_whole_kernel_of_ncu_s_page_counts() -> None:
    assert read_csv(PAGE.splitlines()) == Traffic(201.5e6, 56_063_488, 3.55e9)
    assert read_csv(["==ERROR== no permission"]) is None


def test_without_ncu_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    watched = Watched("examples/attention.napkin", None, "h200", {}, "bf16", 0)
    assert read_counters(watched) == "ncu is not on the path"


@pytest.mark.parametrize("name", ["attention", "window", "matmul", "softmax", "decode", "chain"])
def test_no_prediction_beats_the_roofline(name: str) -> None:
    plan = load(EXAMPLES / f"{name}.napkin").plan("h200")
    assert 0 < roofline_seconds(plan) < plan.seconds
