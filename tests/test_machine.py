"""The machine files: complete, consistent with the data sheets, and found by name or alias."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from napkin.language.errors import InternalError, NapkinError
from napkin.machine import Machine, load_machine, machine_names
from napkin.machine.load import parse_machine
from napkin.operators import Pipeline

ALL = machine_names()
COMPILED = tuple(name for name in ALL if load_machine(name).capability is not None)
LIMITED = tuple(name for name in ALL if load_machine(name).published_limits is not None)
TERA = 1e12


def text_of(name: str) -> str:
    return (files("napkin") / "machine" / f"{name}.toml").read_text(encoding="utf-8")


def test_names_are_sorted_and_aliases_are_not_among_them() -> None:
    assert list(ALL) == sorted(ALL)
    assert {"a100", "h100", "h200"} <= set(COMPILED)
    assert {"b200", "l40s", "m4_max", "mi300x", "rtx4090"} == set(ALL) - set(COMPILED)


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
        *machine.links,
        *machine.corrections,
        *filter(None, (machine.published_limits,)),
    )
    assert all(len(part.source) > 20 for part in (machine, *parts))


@pytest.mark.parametrize("name", ALL)
def test_levels_get_smaller_and_faster_on_the_way_down(name: str) -> None:
    machine = load_machine(name)
    path = machine.path(machine.levels[-1].name)
    assert path[0].name == "dram"
    assert "shared" in [level.name for level in path]
    known = [each.bandwidth for each in path if each.bandwidth is not None]
    assert known == sorted(known)
    memories = [level for level in path if level.name not in ("register", "fragment")]
    held = [each.published_capacity for each in memories if each.published_capacity is not None]
    assert held == sorted(held, reverse=True)


@pytest.mark.parametrize("name", COMPILED)
def test_the_levels_run_from_dram_to_fragments(name: str) -> None:
    machine = load_machine(name)
    path = [level.name for level in machine.path("fragment")]
    assert path == ["dram", "l2", "shared", "register", "fragment"]
    assert machine.parent("dram") is None
    capacities = [machine.level(level).capacity for level in path[:3]]
    assert capacities == sorted(capacities, reverse=True)
    speeds = [machine.nominal_bandwidth(level) for level in path[:3]]
    assert speeds == sorted(speeds)


@pytest.mark.parametrize("name", LIMITED)
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
        ("a100_40gb", "bf16", 312),
        ("h100_pcie", "bf16", 756),
        ("h100_pcie", "fp8e4m3", 1513),
        ("rtx4090", "fp16", 165.2),
        ("rtx4090", "fp8e4m3", 330.3),
        ("rtx4090", "int8", 660.6),
        ("mi300x", "bf16", 1307.4),
        ("mi300x", "fp8e4m3", 2614.9),
    ],
)
def test_tensor_peaks_are_those_of_the_data_sheets(
    name: str, storage_type: str, tera: float
) -> None:
    peak = load_machine(name).nominal_peak(Pipeline.TENSOR, storage_type)
    assert peak / TERA == pytest.approx(tera, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "storage_type", "tera"),
    [
        ("l40s", "fp16", 362),
        ("l40s", "fp8e4m3", 733),
        ("b200", "bf16", 2250),
        ("b200", "int8", 4500),
    ],
)
def test_peaks_from_inferred_rates_are_near_the_data_sheets(
    name: str, storage_type: str, tera: float
) -> None:
    peak = load_machine(name).nominal_peak(Pipeline.TENSOR, storage_type)
    assert peak / TERA == pytest.approx(tera, rel=1.5e-2)


@pytest.mark.parametrize(
    ("name", "terabytes"),
    [
        ("a100_40gb", 1.555),
        ("a100", 2.039),
        ("h100_pcie", 2.0),
        ("h100", 3.35),
        ("h200", 4.8),
        ("l40s", 0.864),
        ("rtx4090", 1.008),
        ("b200", 8.0),
        ("mi300x", 5.3),
        ("m4_max", 0.546),
    ],
)
def test_memory_is_as_fast_as_on_the_data_sheet(name: str, terabytes: float) -> None:
    assert load_machine(name).nominal_bandwidth("dram") == pytest.approx(terabytes * TERA)


@pytest.mark.parametrize(
    ("name", "units", "clock", "fp16", "fp8", "fma", "l2", "block", "unit"),
    [
        ("a100", 108, 1.41e9, 2048, None, 64, 40, 163, 164),
        ("a100_40gb", 108, 1.41e9, 2048, None, 64, 40, 163, 164),
        ("h100", 132, 1.83e9, 4096, 8192, 128, 50, 227, 228),
        ("h200", 132, 1.83e9, 4096, 8192, 128, 50, 227, 228),
    ],
)
def test_the_papers_hardware_figures(
    name: str,
    units: int,
    clock: float,
    fp16: int,
    fp8: int | None,
    fma: int,
    l2: int,
    block: int,
    unit: int,
) -> None:
    machine = load_machine(name)
    assert (machine.units, machine.clock) == (units, clock)
    assert machine.rate(Pipeline.TENSOR, "fp16") == fp16
    assert machine.has_rate(Pipeline.TENSOR, "fp8e4m3") is (fp8 is not None)
    assert fp8 is None or machine.rate(Pipeline.TENSOR, "fp8e4m3") == fp8
    assert machine.rate(Pipeline.SFU, "fp32") == 16
    assert machine.rate(Pipeline.FP32, "fp32") == fma
    assert machine.level("l2").capacity == l2 * 1024**2
    assert machine.limits.shared_per_block == block * 1024
    assert machine.level("shared").capacity == unit * 1024
    assert machine.level("register").capacity == 256 * 1024
    assert machine.limits.registers_per_thread == 255


def test_the_documentation_names_every_machine() -> None:
    page = (Path(__file__).parent.parent / "docs" / "model.md").read_text(encoding="utf-8")
    for name in ALL:
        assert f"| `{name}`" in page
        for alias in load_machine(name).aliases:
            assert f"`{alias}`" in page


def test_links_join_neighbours() -> None:
    links = {each.name: each for each in load_machine("h100").links}
    assert links["nvlink"].joins == "dram"
    assert links["cluster"].joins == "shared"
    assert dict(links["cluster"].rates) == {2: 3.27e12, 4: 2.65e12}
    (pcie,) = load_machine("l40s").links
    assert (pcie.name, pcie.joins) == ("pcie", "dram")
    assert dict(pcie.rates)[2] == pytest.approx(16 * 16e9 * 128 / 130 / 8, rel=1e-3)
    assert load_machine("m4_max").links == ()


def test_what_is_not_published_is_left_out_and_asked_for_in_vain() -> None:
    machine = load_machine("m4_max")
    assert machine.pipelines == ()
    assert not machine.has_bandwidth("shared")
    with pytest.raises(InternalError, match="level l2 has no capacity"):
        _ = machine.level("l2").capacity
    for figure, message in (("clock", "no clock"), ("limits", "no limits")):
        with pytest.raises(InternalError, match=message):
            getattr(machine, figure)
    with pytest.raises(InternalError, match="no bandwidth for level shared"):
        machine.nominal_bandwidth("shared")


@pytest.mark.parametrize(
    ("name", "intensity"),
    [("a100_40gb", 200.6), ("a100", 153), ("h100", 295), ("h200", 206)],
    ids=str,
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
    r"architecture|level|pipeline|instruction|correction|level\.(within|bytes_per_.*|capacity_bytes)"
    r"|pipeline\.rates\..*|link\.rates\..*"
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
        ("clock_hz = 1.83e9\n", "", "bytes_per_clock without clock_hz"),
        ('joins = "dram"', 'joins = "host"', "has no level host"),
        ("8 = 4.5e11", "all = 4.5e11", "rates are by the number joined"),
        ("capacity_bytes = 233_472\n", "", "lacks the capacity of level shared"),
        ("[limits]", "[bounds]", r"unknown fields: \['bounds'\]"),
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


def test_a_machine_that_is_compiled_for_needs_its_limits() -> None:
    text = text_of("h200")
    start = text.index("[limits]")
    end = text.index("[[correction]]")
    with pytest.raises(InternalError, match="lacks its clock, latencies or limits"):
        parse_machine(text[:start] + text[end:], name="h200")
    costed = (text[:start] + text[end:]).replace('architecture = "sm_90"\n', "")
    assert parse_machine(costed, name="h200").published_limits is None
