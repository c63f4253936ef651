"""A machine's calibration: figures from samples, the file that keeps them, and what a wrong file is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napkin.cli import main
from napkin.language.errors import NapkinError
from napkin.machine import Correction, load_machine
from napkin.machine.calibration import (
    Calibration,
    calibration_path,
    describe,
    read_calibration,
    with_calibration,
    write_calibration,
)
from napkin.machine.load import _as_calibrated
from napkin.operators import Pipeline
from napkin.runtime.calibrate import Probe, Sample, figures, save, seconds_each

TODAY = date(2026, 11, 23)
FIGURES = (
    Correction("tensor.bf16", 8.0e14, TODAY, "products"),
    Correction("launch.latency", 4.5e-6, TODAY, 'an "empty" kernel'),
)
MEASURED = Calibration("h200", "NVIDIA H200", TODAY, "torch 2.11.0, triton 3.6.0", FIGURES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give napkin a configuration folder of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    _as_calibrated.cache_clear()
    yield tmp_path
    _as_calibrated.cache_clear()


def write(text: str) -> Path:
    path = calibration_path("h200")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- figures from samples -------------------------------------------------------------------------


@given(
    start=st.floats(0, 1e-3),
    each=st.floats(1e-9, 1e-6),
    counts=st.lists(
        st.integers(1, 1000).map(lambda n: 1000 * n), min_size=2, max_size=6, unique=True
    ),
)
def test_what_a_kernel_takes_to_start_falls_away(
    start: float, each: float, counts: list[int]
) -> None:
    exact = [Sample(count, start + each * count) for count in counts]
    assert seconds_each(exact) == pytest.approx(each, rel=1e-6)


def test_rates_and_latencies_come_from_samples() -> None:
    machine = load_machine("h200")
    product = 2.0 * 8192**3
    probes = (
        Probe("tensor.bf16", (Sample(product, product / 8e14),), "products"),
        Probe(
            "dram.bandwidth", (Sample(1e9, 1e9 / 4e12 + 5e-6), Sample(4e9, 1e-3 + 5e-6)), "copies"
        ),
        Probe("load.latency", (Sample(1000, 6e-4), Sample(3000, 1.6e-3)), "loads"),
        Probe("contraction.latency", (Sample(1000, 3e-4), Sample(3000, 7e-4)), "a chain"),
    )
    found = {each.figure: each.value for each in figures(machine, probes, TODAY)}
    work = 2 * 64**3 / (8e14 / 132)
    assert found == {
        "tensor.bf16": pytest.approx(8e14),
        "dram.bandwidth": pytest.approx(4e12),
        "load.latency": pytest.approx(5e-7),
        "contraction.latency": pytest.approx(2e-7 - work),
    }


def test_a_figure_that_makes_no_sense_is_refused() -> None:
    probes = (Probe("load.latency", (Sample(1000, 2e-3), Sample(3000, 1e-3)), "loads"),)
    with pytest.raises(NapkinError) as caught:
        figures(load_machine("h200"), probes, TODAY)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "N616"
    assert "load.latency" in diagnostic.message


# --- the file -------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(folder: Path) -> None:
    path = calibration_path("h200")
    assert path == folder / "napkin" / "machines" / "h200.toml"
    assert read_calibration(write_calibration(MEASURED), load_machine("h200"), path) == MEASURED


def test_a_saved_calibration_is_applied_and_said(folder: Path) -> None:
    before = load_machine("h200")
    assert before.calibrated == ""
    save(MEASURED)
    _as_calibrated.cache_clear()
    machine = load_machine("h200")
    assert machine.peak(Pipeline.TENSOR, "bf16") == 8.0e14
    assert machine.latency("launch") == 4.5e-6
    assert machine.bandwidth("dram") == before.bandwidth("dram")
    wanted = "calibrated 2026-11-23 on NVIDIA H200 with torch 2.11.0, triton 3.6.0"
    assert machine.calibrated == wanted
    assert load_machine("h100").calibrated == ""
    calibration_path("h200").unlink()
    _as_calibrated.cache_clear()
    assert load_machine("h200") == before


def test_a_calibration_changes_a_prediction() -> None:
    from napkin.api import load
    from napkin.schedule.planning.plan import make_plan

    derivation = load(Path(__file__).parent.parent / "examples" / "attention.napkin").derive()
    machine = load_machine("h200")
    slow = replace(MEASURED, corrections=(Correction("tensor.bf16", 4e14, TODAY, "products"),))
    plans = [make_plan(derivation, each) for each in (machine, with_calibration(machine, slow))]
    assert plans[1].seconds > 1.5 * plans[0].seconds


def test_a_calibration_stands_beside_the_shipped_figures() -> None:
    rows = describe(load_machine("h200"), FIGURES)
    assert rows[1] == ("tensor.bf16", "800 T/s", "792 T/s", "products")
    assert rows[2][:2] == ("launch.latency", "4500 ns")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('machine = "h200"', "machine = h200", "Invalid value"),
        ('machine = "h200"', 'machine = "h100"', "it is of machine `h100`"),
        ('machine = "h200"\n', "", "lacks the field machine"),
        ("measured = 2026-11-23", 'measured = "today"', "measured is not a date"),
        ("tensor.bf16", "tensor.fp2", "`h200` has no figure `tensor.fp2`"),
        ("value = 8e+14", "value = -1", "value is not a positive number"),
        ("value = 8e+14", "value = 8e+14\nunit = 1", "unknown fields"),
    ],
)
def test_a_wrong_file_is_told_where_it_lies_and_what_to_do(
    folder: Path, before: str, after: str, reason: str
) -> None:
    text = write_calibration(MEASURED)
    path = write(text.replace(before, after))
    assert text != path.read_text(encoding="utf-8")
    with pytest.raises(NapkinError) as caught:
        load_machine("h200")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "N420"
    assert str(path) in diagnostic.message
    assert reason in diagnostic.message
    assert diagnostic.help is not None
    assert "napkin calibrate" in diagnostic.help
    assert load_machine("h100").name == "h100"


def test_a_file_that_is_no_text_is_refused(folder: Path) -> None:
    write("x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NapkinError, match="N420"):
        load_machine("h200")


# --- without a GPU --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["calibrate"], ["verify-model", "examples/attention.napkin"]])
def test_a_gpu_is_asked_for(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(command) == 1
    assert "error[N608]" in capsys.readouterr().err
