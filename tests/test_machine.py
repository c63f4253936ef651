"""The machine files: complete, consistent with the data sheets, and found by name or alias."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from typing import Any

import pytest

from napkin.language.errors import InternalError, NapkinError
from napkin.machine import Machine, load_machine, machine_names
from napkin.machine.load import parse_machine
from napkin.operators import Pipeline

ALL = machine_names()
TERA = 1e12


def text_of(name: str) -> str:
    return (files("napkin") / "machine" / f"{name}.toml").read_text(encoding="utf-8")


def test_names_are_sorted_and_aliases_are_not_among_them() -> None:
    assert list(ALL) == sorted(ALL)
    assert {"a100", "h100", "h200"} <= set(ALL)


@pytest.mark.parametrize(("alias", "name"), [("ampere", "a100"), ("Hopper", "h100")])
def test_an_alias_finds_its_machine(alias: str, name: str) -> None:
    assert load_machine(alias) is load_machine(name)


def test_no_two_machines_share_a_name_or_alias() -> None:
    words = [word for name in ALL for word in (name, *load_machine(name).aliases)]
    assert len(words) == len(set(words))


def test_an_unknown_machine_is_refused_with_the_closest_name_and_the_list() -> None:
    with pytest.raises(NapkinError) as caught:
        load_machine("hoper")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "N401"
    assert diagnostic.message == "unknown machine `hoper`"
    assert diagnostic.help == "did you mean `hopper`?"
    assert "a100 (ampere)" in diagnostic.notes[0]
    assert "h200" in diagnostic.notes[0]


@pytest.mark.parametrize("name", ALL)
def test_every_figure_has_a_source(name: str) -> None:
    machine = load_machine(name)
    parts: tuple[Any, ...] = (
        *machine.levels,
        *machine.pipelines,
        *machine.instructions,
        *machine.corrections,
    )
    assert all(len(part.source) > 20 for part in (machine, machine.limits, *parts))


@pytest.mark.parametrize("name", ALL)
def test_the_levels_run_from_dram_to_fragments(name: str) -> None:
    machine = load_machine(name)
    path = [level.name for level in machine.path("fragment")]
    assert path == ["dram", "l2", "shared", "register", "fragment"]
    assert machine.parent("dram") is None
    capacities = [machine.level(level).capacity for level in path[:3]]
    assert capacities == sorted(capacities, reverse=True)
    speeds = [machine.nominal_bandwidth(level) for level in path[:3]]
    assert speeds == sorted(speeds)


@pytest.mark.parametrize("name", ALL)
def test_limits_agree_with_the_levels(name: str) -> None:
    machine = load_machine(name)
    limits = machine.limits
    shared = machine.level("shared")
    assert limits.shared_per_block + limits.shared_reserved_per_block == shared.capacity
    assert limits.registers_per_unit * 4 == machine.level("register").capacity
    assert shared.instances == machine.units


@pytest.mark.parametrize(
    ("name", "storage_type", "tera"),
    [
        ("a100", "fp16", 312),
        ("a100", "tf32", 156),
        ("a100", "int8", 624),
        ("a100", "fp64", 19.5),
        ("h100", "bf16", 989),
        ("h100", "fp8e4m3", 1979),
        ("h200", "fp16", 989),
    ],
)
def test_tensor_peaks_are_those_of_the_data_sheets(
    name: str, storage_type: str, tera: float
) -> None:
    peak = load_machine(name).nominal_peak(Pipeline.TENSOR, storage_type)
    assert peak / TERA == pytest.approx(tera, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "intensity"), [("a100", 153), ("h100", 295), ("h200", 206)], ids=str
)
def test_the_tiles_that_balance_dram_are_those_of_the_paper(name: str, intensity: float) -> None:
    machine = load_machine(name)
    peak = machine.nominal_peak(Pipeline.TENSOR, "fp16")
    assert peak / machine.nominal_bandwidth("dram") == pytest.approx(intensity, rel=3e-3)


def test_a_measured_figure_replaces_the_nominal_one() -> None:
    machine = load_machine("h200")
    assert machine.nominal_bandwidth("dram") == 4.8e12
    assert machine.bandwidth("dram") == 4.26e12
    assert machine.peak(Pipeline.TENSOR, "bf16") < machine.nominal_peak(Pipeline.TENSOR, "bf16")
    assert machine.bandwidth("l2") == machine.nominal_bandwidth("l2")


def test_ampere_has_no_fp8_and_no_tma() -> None:
    ampere, hopper = load_machine("ampere"), load_machine("hopper")
    assert not ampere.has_rate(Pipeline.TENSOR, "fp8e4m3")
    assert hopper.has_rate(Pipeline.TENSOR, "fp8e4m3")
    assert (ampere.has("tma"), hopper.has("tma")) == (False, True)
    assert (ampere.capability, hopper.capability) == (80, 90)
    with pytest.raises(InternalError, match="no tensor rate for fp8e4m3"):
        ampere.rate(Pipeline.TENSOR, "fp8e4m3")


def test_a_matrix_instruction_is_deeper_for_narrower_types() -> None:
    wgmma = load_machine("hopper").instructions[0]
    assert wgmma.name == "wgmma"
    assert [wgmma.depth(size) for size in (4, 2, 1)] == [8, 16, 32]


def test_a_machine_can_be_a_key() -> None:
    assert {load_machine("h100"): 1}[load_machine("hopper")] == 1


def fields_of(table: dict[str, Any], place: str = "") -> list[str]:
    found: list[str] = []
    for key, value in table.items():
        found.append(f"{place}{key}")
        if isinstance(value, dict):
            found += fields_of(value, f"{place}{key}.")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found += fields_of(value[0], f"{place}{key}.")
    return found


OPTIONAL = re.compile(
    r"architecture|level|pipeline|instruction|correction|level\.(within|bytes_per_.*)"
    r"|pipeline\.rates\..*"
)
FIELDS = [field for field in fields_of(tomllib.loads(text_of("h200"))) if "." in field]


@pytest.mark.parametrize("field", [each for each in FIELDS if not OPTIONAL.fullmatch(each)])
def test_a_missing_field_is_an_internal_error(field: str) -> None:
    key = re.escape(field.rpartition(".")[2])
    section = re.escape(field.partition(".")[0])
    without = re.sub(
        rf"(\[+{section}\]+\n(?:[^\[\n].*\n)*?){key} = .*\n", r"\1", text_of("h200"), count=1
    )
    assert without != text_of("h200")
    with pytest.raises(InternalError, match="lacks the field"):
        parse_machine(without, name="h200")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("units = 132", "units = 132\nspeed = 1", r"unknown fields: \['speed'\]"),
        ("[limits]", "[limits]\nwarps = 1", r"unknown fields: \['warps'\]"),
        ("units = 132", 'units = "132"', "units is not a positive integer"),
        ("units = 132", "units = 0", "units is not a positive integer"),
        ("clock_hz = 1.83e9", "clock_hz = -1.0", "clock_hz is not a positive number"),
        ('name = "sfu"', 'name = "sfx"', "pipeline sfx"),
        ('children = ["l2"]', 'children = ["l3"]', "has no level l3"),
        ('children = ["l2"]', "children = []", "are no tree"),
        ("children = []", 'children = ["dram"]', "are no tree"),
        ('within = "register"', 'within = "tmem"', "unknown level tmem"),
        ('figure = "tensor.bf16"', 'figure = "tensor.fp4"', "corrects no figure tensor.fp4"),
        ("measured = 2026-11-22", 'measured = "once"', "measured is not a date"),
        ('name = "h200"', 'name = "h201"', "names itself h201"),
        ("bytes_per_clock = 128", "bytes_per_clock = 128\nbytes_per_second = 1", "exclude"),
    ],
)
def test_a_wrong_field_is_an_internal_error(before: str, after: str, message: str) -> None:
    text = text_of("h200").replace(before, after, 1)
    assert text != text_of("h200")
    with pytest.raises(InternalError, match=message):
        parse_machine(text, name="h200")


def test_a_machine_may_be_for_costs_only() -> None:
    text = text_of("h200").replace('architecture = "sm_90"\n', "")
    machine: Machine = parse_machine(text, name="h200")
    assert machine.architecture is None
    assert machine.capability is None
