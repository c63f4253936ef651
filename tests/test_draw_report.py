"""Strips, dataflow graphs and the page: every step is there, and nothing needs the network."""

from __future__ import annotations

import json
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from napkin.api import load, parse
from napkin.cli import main
from napkin.draw.columns import draw_columns, line_clocks
from napkin.draw.cost import Measured, cost_view, read_measured
from napkin.draw.curves import typeset
from napkin.draw.flow import draw_flow
from napkin.draw.performance import curve_of, resident_blocks, timeline_of
from napkin.draw.report import draw_report
from napkin.draw.shapes import plain
from napkin.draw.strip import draw_strip
from napkin.emit.notation import byte_size
from napkin.emit.pseudo import listing
from napkin.language.errors import NapkinError
from napkin.operators import Pipeline
from napkin.schedule.count import totals
from napkin.schedule.forms.form import in_plain_form
from napkin.schedule.planning.plan import Plan
from napkin.schedule.tiling.tables import kernel_shares, throughput_of
from tests.pictures import SVG, check_legible, check_standalone
from tests.programs import EXAMPLES, ROOT
from tests.rasters import check_by_eye


@cache
def plan(name: str) -> Plan:
    return load(ROOT / "examples" / f"{name}.napkin").plan("hopper")


def texts(picture: str) -> list[str]:
    root = ElementTree.fromstring(picture)
    return ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]


# --- the strip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention", "matmul", "softmax", "mla"])
def test_a_strip_draws(name: str) -> None:
    picture = draw_strip(plan(name))
    check_standalone(picture)
    check_legible(ElementTree.fromstring(picture))
    if name != "mla":
        check_by_eye(picture)


def test_the_strip_of_attention_names_every_rule_in_order() -> None:
    said = texts(draw_strip(plan("attention")))
    wanted = [
        "the diagram",
        "group partition: everything is woven over b h q v",
        "stream partition over x",
        "fusion theorem: what is woven over x joins the body",
        "recolouring: the levels of NVIDIA H100 SXM 80 GB",
    ]
    places = [said.index(each) for each in wanted]
    heights = _heights(draw_strip(plan("attention")), wanted)
    assert len(places) == len(wanted)
    assert heights == sorted(heights)
    assert any(each.startswith("o_new = o_old * exp(m_old - m_new)") for each in said)


def _heights(picture: str, wanted: list[str]) -> list[float]:
    """Return how far down each of these lines stands."""
    found: dict[str, float] = {}
    for part in ElementTree.fromstring(picture).iter(f"{SVG}g"):
        if "transform" in part.attrib:
            down = float(part.attrib["transform"].rstrip(")").split()[1])
            for each in part.iter(f"{SVG}text"):
                found.setdefault("".join(each.itertext()), down + float(each.attrib["y"]))
    return [found[each] for each in wanted]


# --- columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention", "mla", "layernorm"])
def test_columns_draw(name: str) -> None:
    picture = draw_columns(plan(name))
    check_standalone(picture)
    check_legible(ElementTree.fromstring(picture))
    check_by_eye(picture)


def test_columns_show_the_lines_and_figures_of_the_pseudocode() -> None:
    lines, rows = listing(plan("attention").kernels[0].program)
    said = texts(draw_columns(plan("attention")))
    assert {each.text for each in lines} <= set(said)
    assert [each for each in said if each.isdigit() and int(each) <= len(rows)]
    for row in rows:
        for size in row.resident.values():
            assert byte_size(size) in said


def test_clocks_of_a_line_add_up_to_the_throughput_table_s() -> None:
    """A step's clocks on each pipeline, which a thread's share of times its threads gives too."""
    kernel = in_plain_form(plan("attention").kernels[0])
    table = throughput_of(kernel)
    _, rows = listing(kernel.program)
    summed: dict[Pipeline, float] = {}
    for row in rows:
        if row.columns[0].loops and not row.is_part:
            for pipeline, clocks in line_clocks(kernel, row).items():
                summed[pipeline] = summed.get(pipeline, 0.0) + clocks
    expected = {each: clocks * table.threads for each, clocks in table.clocks.items()}
    assert summed == pytest.approx(expected, rel=0.01)


# --- dataflow graphs ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_dataflow_graph_draws(name: str) -> None:
    picture = draw_flow(load(EXAMPLES[name]).core)
    check_standalone(picture)
    check_legible(ElementTree.fromstring(picture))


def test_a_dataflow_graph_names_steps_and_axes() -> None:
    said = texts(draw_flow(load(EXAMPLES["attention"]).core))
    assert {"Q", "contract d", "softmax x", "contract x", "O", "[b h q d]"} <= set(said)


# --- charts ---------------------------------------------------------------------------------------


def test_in_the_pipeline_chart_nothing_is_in_two_places_at_once() -> None:
    for name in ("attention", "matmul", "mlp", "layernorm"):
        timeline = timeline_of(plan(name).kernels[0])
        assert timeline is not None
        spans = [span for track in timeline.tracks for span in track.spans]
        for track in timeline.tracks:
            for one, other in pairwise(track.spans):
                assert one.end <= other.start + 1e-6
        for pipeline in {each.pipeline for each in spans}:
            ordered = sorted((s.start, s.end) for s in spans if s.pipeline == pipeline)
            for (_, end), (start, _) in pairwise(ordered):
                assert end <= start + 1e-6
        assert all(0 <= each.start <= each.end <= timeline.shown + 1e-6 for each in spans)


def test_two_blocks_of_attention_keep_the_tensor_cores_busy() -> None:
    kernel = in_plain_form(plan("attention").kernels[0])
    timeline = timeline_of(kernel)
    assert timeline is not None
    assert len(timeline.tracks) == resident_blocks(kernel) * kernel_shares(kernel)
    busy = sum(
        span.end - span.start
        for track in timeline.tracks
        for span in track.spans
        if span.pipeline == Pipeline.TENSOR
    )
    assert busy > 0.9 * timeline.shown
    table = throughput_of(kernel)
    assert timeline.step == table.longest * table.threads * len(timeline.tracks)


def test_the_curve_falls_to_every_array_once_and_the_plan_lies_above_it() -> None:
    kernel = plan("attention").kernels[0]
    counted = totals(kernel.program, dict(kernel.sizes))
    curve = curve_of(kernel, counted)
    assert curve is not None
    heights = [each for _, each in curve.points]
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == curve.once == 4 * 64 * 4096 * 128 * 2
    least = min(height for memory, height in curve.points if memory <= curve.own[0])
    assert curve.own[1] > 0.9 * least


def test_a_roofline_has_the_kernel_at_every_level() -> None:
    roofline = cost_view(plan("attention")).roofline
    assert roofline is not None
    assert [each.name for each in roofline.roofs] == ["DRAM", "L2"]
    assert roofline.flops == 4 * 64 * 4096 * 4096 * 128
    assert roofline.peak == pytest.approx(989e12, rel=0.01)
    assert cost_view(plan("layernorm")).roofline is None


def test_the_plan_is_no_slower_than_its_runner_up() -> None:
    for name in ("attention", "matmul", "gqa"):
        first, *others = cost_view(plan(name)).rivals
        assert others
        assert all(first.seconds <= each.seconds for each in others)


def test_formulas_are_typeset() -> None:
    runs = typeset("b*q*(d + v)**2/M^(1/2) + 2*g_q")
    assert plain(runs).replace("\u2009", "") == "bq(d + v)2/M1/2 + 2gq"
    assert [each.text for each in runs if each.rise] == ["2", "1/2", "q"]


# --- measurements ---------------------------------------------------------------------------------


def test_what_was_measured_stands_beside_the_prediction() -> None:
    text = json.dumps({"results": [{"name": "napkin", "seconds": 2e-3}]})
    assert read_measured(text, "f.json") == (Measured("napkin", 2e-3),)
    bar = cost_view(plan("attention"), measured=read_measured(text, "f.json")).bars[-1]
    assert (bar.name, bar.seconds) == ("napkin", 2e-3)
    assert f"{2e-3 / plan('attention').seconds:.2f} times the prediction" in bar.label


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": [{"name": "a"}]}', '{"results": 3}'])
def test_what_is_no_measurement_is_refused(text: str) -> None:
    with pytest.raises(NapkinError) as caught:
        read_measured(text, "f.json")
    assert caught.value.diagnostics[0].code == "N604"


# --- the page -------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Notes what a page needs from elsewhere, and whether its tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["attention", "mla"])
def test_the_page_stands_alone(name: str) -> None:
    text = draw_report(plan(name), "def kernel(): ...  # <b>")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert all(each.startswith("#") for each in page.links)
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert {"svg", "math", "pre"} <= page.tags
    assert "&lt;b&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert len(text.encode()) < 400_000
    assert text == draw_report(plan(name), "def kernel(): ...  # <b>")


# --- the command line -----------------------------------------------------------------------------

_BY_HAND = """diagram f(A[m k], B[k n]) -> C[m n]
    C[m n] = sum[k](A * B)
    on hopper
        group m by 64, n by 64
sizes m=256 n=256 k=256
"""


def test_draw_follows_the_machine_the_block_and_the_view(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.napkin"
    path.write_text(_BY_HAND, encoding="utf-8")
    diagram = parse(_BY_HAND)
    wanted = {
        (): diagram.svg("hopper"),
        ("--machine", "a100"): diagram.svg("a100"),
        ("--view", "diagram"): diagram.svg(),
        ("--view", "flow"): draw_flow(diagram.core),
        ("--view", "columns"): draw_columns(diagram.plan("hopper")),
        ("--view", "steps"): draw_strip(diagram.plan("hopper")),
    }
    for options, picture in wanted.items():
        assert main(["draw", str(path), *options]) == 0
        assert capsys.readouterr().out.strip() == picture.strip()


def test_report_writes_a_page_by_its_ending(tmp_path: Path) -> None:
    for ending, start in ((".svg", "<svg "), (".html", "<!doctype html>")):
        path = tmp_path / f"f{ending}"
        example = str(EXAMPLES["matmul"])
        assert main(["report", example, "--machine", "hopper", "-o", str(path)]) == 0
        assert path.read_text(encoding="utf-8").startswith(start)
