"""Pictures of diagrams: well-formed, alike on every run, legible, safe whatever the names are."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from napkin.diagram import Argument, Constant, Diagram, Input, Output, Pointwise
from napkin.draw.diagram import draw_diagram
from napkin.draw.formula import write_formula
from napkin.draw.frames import frame
from napkin.draw.layout import dot_text
from napkin.draw.nodes import Shape, build_nodes
from napkin.draw.orders import result_orders, woven_axes
from napkin.draw.parts import find_parts
from napkin.draw.render import render
from napkin.draw.text import text_width, wrap_text
from napkin.draw.weave import take_out_woven
from napkin.language import read, source_from_bytes
from napkin.language.errors import NapkinError
from napkin.language.source import Source
from napkin.operators import Kind
from tests.conftest import Golden
from tests.pictures import SVG, check_legible, check_standalone, labels
from tests.rasters import check_by_eye, meetings_of_text_and_lines, meetings_of_texts, texts_cut_off

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.napkin"))
_HOSTILE = (
    "<script>alert(1)</script>",
    "]]><!--&amp;",
    "\"'`${x}{{ 7 * 7 }}{% raw %}",
    "\x00\x1b\ud800\ufffe",
    "]; evil [label=<b>",
    "文字" * 20,
)


def load(name: str) -> Diagram:
    path = ROOT / "examples" / f"{name}.napkin"
    return read(source_from_bytes(path.name, path.read_bytes()))[0]


def parse(text: str) -> Diagram:
    return read(Source("test", text))[0]


# --- every example --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_draws(path: Path) -> None:
    picture = draw_diagram(load(path.stem))
    root = ElementTree.fromstring(picture)
    assert root.findtext(f"{SVG}title") == path.stem
    check_standalone(picture)
    check_legible(root)
    check_by_eye(picture)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_picture_names_every_argument_output_and_axis(path: Path) -> None:
    diagram = load(path.stem)
    shown = [each.text for each in labels(ElementTree.fromstring(draw_diagram(diagram)))]
    ends: tuple[Argument | Output, ...] = (*diagram.arguments, *diagram.outputs)
    for each in ends:
        assert each.name in shown
        # Woven axes stand together on one ribbon: `b h`.
        assert set(each.axes) <= {axis for text in shown for axis in text.split()}


def test_pictures_are_alike_in_every_process() -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from napkin.draw.diagram import draw_diagram\n"
        "from napkin.language import read, source_from_bytes\n"
        "for name in sys.argv[1:]:\n"
        "    data = Path(name).read_bytes()\n"
        "    print(draw_diagram(read(source_from_bytes(name, data))[0]))\n"
    )
    names = [str(ROOT / "examples" / f"{each}.napkin") for each in ("mla", "sinks", "matmul")]
    runs = [
        subprocess.run(
            [sys.executable, "-c", script, *names],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", ["attention", "gqa", "matmul", "mlp"])
def test_the_graph_for_dot_is_the_golden_one(name: str, golden: Golden) -> None:
    diagram = load(name)
    nodes, _ = take_out_woven(diagram, build_nodes(diagram))
    text = dot_text(nodes, [frame(nodes, each) for each in nodes])
    golden(ROOT / "tests" / "golden" / name / "layout.dot", text)


# --- what is drawn --------------------------------------------------------------------------------


def test_attention_reads_as_on_the_napkin() -> None:
    nodes = build_nodes(load("attention"))
    chain = [(each.shape, each.text) for each in nodes if each.text]
    assert chain == [
        (Shape.CONTRACTION, "contract d"),
        (Shape.FORMULA, "· / √|d|"),
        (Shape.NORMALISATION, "softmax x"),
        (Shape.CONTRACTION, "contract x"),
    ]


def test_a_chain_of_pointwise_boxes_is_one_formula() -> None:
    texts = [each.text for each in build_nodes(load("window"))]
    assert "where(x ≤ q and q − x < width, · / √|d|, −∞)" in texts  # noqa: RUF001


def test_parts_are_found_by_the_prelude_s_own_definitions() -> None:
    names = {
        name: [part.name for part in find_parts(load(name)).values()]
        for name in ("mlp", "gated_mlp", "spherical", "layernorm", "cross_entropy")
    }
    assert names == {
        "mlp": ["gelu"],
        "gated_mlp": ["silu"],
        "spherical": ["l2norm"],
        "layernorm": ["layernorm"],
        "cross_entropy": ["logsumexp"],
    }


def test_a_part_that_something_else_reads_into_is_drawn_box_by_box() -> None:
    assert not find_parts(load("attention_lse"))
    texts = [each.text for each in build_nodes(load("attention_lse"))]
    assert {"max x", "sum x"} <= set(texts)


def test_a_part_with_further_arguments_is_a_formula() -> None:
    diagram = parse("diagram f(A[b x], e: float) -> B[b x]\n    B[b x] = rmsnorm[x](A, e)")
    node = next(each for each in build_nodes(diagram) if each.text)
    assert (node.shape, node.text) == (Shape.FORMULA, "rmsnorm[x](A, e)")


def test_temporaries_are_named_where_a_formula_needs_them() -> None:
    nodes = build_nodes(load("differential"))
    formula = next(each for each in nodes if "lambda" in each.text)
    assert formula.text == "t8 − lambda * t13"  # noqa: RUF001
    assert {"t8", "t13", "lambda"} == {nodes[each].name for each in formula.inputs}


def test_brackets_keep_a_formula_s_meaning() -> None:
    diagram = parse("diagram f(a: float, b: float) -> c[]\n    c[] = a - (b - a) * -(a + b) ** 2")
    root = diagram.outputs[0].box
    words = {i: box.name for i, box in enumerate(diagram.boxes) if isinstance(box, Input)}
    members = range(len(diagram.boxes))
    text = write_formula(diagram, root, members=members, parts={}, words=words)
    assert text == "a − (b − a) * −(a + b) ** 2"  # noqa: RUF001


def test_contracted_wires_lie_next_to_each_other() -> None:
    nodes = build_nodes(load("attention"))
    orders = dict(zip((each.name for each in nodes), result_orders(nodes), strict=True))
    assert orders["Q"] == ("b", "h", "q", "d")
    assert orders["K"] == ("d", "x", "b", "h")


def test_what_all_is_woven_over_is_drawn_once() -> None:
    diagram = load("mla")
    nodes, woven = take_out_woven(diagram, build_nodes(diagram))
    assert woven == ("b",)
    ends = {each.name: each.woven for each in nodes if each.is_end}
    assert ends == {"Qc": ("b",), "Qr": ("b",), "C": ("b",), "R": ("b",), "scale": (), "O": ("b",)}
    assert not any("b" in each.axes for each in nodes)


def test_an_axis_read_at_other_positions_keeps_its_wire() -> None:
    diagram = parse(
        "diagram f(A[b x], B[b x], other[b]: int32) -> C[b]\n    C[b] = sum[x](A[other[b], x] * B)"
    )
    nodes, woven = take_out_woven(diagram, build_nodes(diagram))
    assert woven == ()
    assert {"b", "x"} == set(next(each for each in nodes if each.name == "A").axes)


def test_without_a_contraction_every_axis_keeps_its_wire() -> None:
    diagram = load("softmax")
    nodes = build_nodes(diagram)
    assert take_out_woven(diagram, nodes) == (nodes, ())


def test_woven_axes_are_those_that_no_contraction_reuses() -> None:
    assert woven_axes(build_nodes(load("gqa"))) == {"b", "k"}
    assert woven_axes(build_nodes(load("matmul"))) == frozenset()


_ODD = {
    "a scalar": "diagram f(A[x]) -> B[]\n    B[] = sum[x](A)",
    "a dot product": "diagram f(A[x], B[x]) -> C[]\n    C[] = sum[x](A * B)",
    "three factors": "diagram f(A[x i], B[x j], C[x k]) -> D[i j k]\n"
    "    D[i j k] = sum[x](A * B * C)",
    "two axes": "diagram f(A[i x y], B[x y j]) -> D[i j]\n    D[i j] = sum[x y](A * B)",
    "one side": "diagram f(A[i x], B[x y j]) -> D[i j]\n    D[i j] = sum[x y](A * B)",
    "a factor without axes": "diagram f(A[x y], s: float) -> B[y]\n    B[y] = sum[x](A * s)",
    "a factor from indices": "diagram f(A[x y]) -> B[y]\n    B[y] = sum[x](A * where(x < y, 1, 0))",
    "an unused argument": "diagram f(A[x], Z[q r]) -> B[x]\n    B[x] = A + 1",
    "nothing done": "diagram f(A[x y]) -> B[y x]\n    B[y x] = A",
    "a constant": "diagram f(A[x]) -> B[]\n    B[] = 2",
    "many outputs": "diagram f(A[x y]) -> B[x], C[y], D[x y]\n"
    "    B[x] = sum[y](A)\n    C[y] = max[x](A)\n    D[x y] = A / B * C",
    "long names": f"diagram {'n' * 60}({'Q' * 60}[{'a' * 60} {'b' * 60}]) -> "
    f"{'O' * 60}[{'a' * 60}]\n"
    f"    {'O' * 60}[{'a' * 60}] = sum[{'b' * 60}](exp({'Q' * 60}))",
    "many arguments": f"diagram f({', '.join(f'A{i}[x y]' for i in range(20))}) -> B[x y]\n"
    f"    B[x y] = {' + '.join(f'A{i}' for i in range(20))}",
}


@pytest.mark.parametrize("text", _ODD.values(), ids=_ODD)
def test_odd_diagrams_draw(text: str) -> None:
    root = ElementTree.fromstring(draw_diagram(parse(text)))
    check_legible(root)


def test_a_diagram_too_large_to_read_says_so() -> None:
    steps = [f"    C{i}[] = sum[x](A * {i} + C{i - 1})" for i in range(1, 90)]
    text = "\n".join(["diagram f(A[x]) -> B[]", "    C0[] = max[x](A)", *steps, "    B[] = C89"])
    picture = draw_diagram(parse(text))
    assert "too many to draw" in picture
    ElementTree.fromstring(picture)


# --- safety ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    diagram = _named(name)
    picture = draw_diagram(diagram)
    root = ElementTree.fromstring(picture.encode())
    check_standalone(picture)
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        *("svg", "title", "desc", "rect", "g", "path", "circle", "text", "tspan")
    }
    assert "{{ 7" not in name or "49" not in picture


def _named(name: str) -> Diagram:
    """Return `2 * A`, with everything that can be named named so."""
    dims = ((name,), (f"{name}2",))
    axes = (name, f"{name}2")
    boxes = (
        Constant(2, Kind.INT),
        Input(name, axes, Kind.FLOAT),
        Pointwise("mul", (0, 1), axes, Kind.FLOAT),
    )
    argument = Argument(name, dims, None)
    output = Output(f"{name}3", dims, None, 2)
    diagram = Diagram(name, (argument,), (output,), boxes, ("2", name, f"{name}3"))
    return replace(diagram, comment=name, sizes=((name, 4),))


def test_without_dot_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NapkinError) as caught:
        draw_diagram(load("matmul"))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "N610"
    assert "apt-get install graphviz" in (diagnostic.help or "")


def test_a_template_s_missing_name_is_an_error() -> None:
    with pytest.raises(Exception, match="sheet"):
        render("svg/sheet.svg.jinja")


# --- how a picture is looked at -------------------------------------------------------------------


def test_the_eye_sees_text_on_a_line_text_on_text_and_text_past_the_edge() -> None:
    def page(*inside: str) -> str:
        start = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90 40" width="90" height="40">'
        )
        return "".join((start, *inside, "</svg>"))

    high, low = '<text x="9" y="14">word</text>', '<text x="9" y="34">word</text>'
    far = '<text x="70" y="14">word</text>'
    stroke = '<g fill="none" stroke="#999" stroke-width="2"><path d="M0 30H90"/></g>'
    assert not meetings_of_text_and_lines(page(high, stroke))
    assert meetings_of_text_and_lines(page(low, stroke))
    assert not meetings_of_texts(page(high, low))
    assert meetings_of_texts(page(high, high))
    assert not texts_cut_off(page(high))
    assert texts_cut_off(page(far))


# --- text -----------------------------------------------------------------------------------------


def test_text_is_wrapped_and_cut_within_its_width() -> None:
    lines = wrap_text("aa bb cc dd ee ff gg", width=5, lines=2)
    assert lines == ("aa bb", "cc d…")
    assert wrap_text("x" * 50, width=10, lines=1) == ("x" * 9 + "…",)
    assert text_width("", 12) == 0
