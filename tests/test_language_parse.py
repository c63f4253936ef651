"""Text to syntax: precedence, lines, spans, comments."""

from __future__ import annotations

import pytest

from napkin.language import read, syntax
from napkin.language.errors import NapkinError
from napkin.language.lines import split_lines
from napkin.language.parse import parse
from napkin.language.source import Source

HEAD = "diagram f(a[x], b[x], c[x], p[x]: bool, r[x]: bool) -> o[x]\n"


def expression(text: str) -> str:
    """Return the diagram's listing for an expression, which brackets everything by names."""
    (diagram,) = read(Source("test", f"{HEAD}o[x] = {text}\n"))
    return str(diagram)


@pytest.mark.parametrize(
    ("text", "bracketed"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a / b * c", "(a / b) * c"),
        ("a // b % c", "(a // b) % c"),
        ("a ** b ** c", "a ** (b ** c)"),
        ("-a ** b", "-(a ** b)"),
        ("a ** -b", "a ** (-b)"),
        ("-a * b", "(-a) * b"),
        ("a - -b", "a - (-b)"),
        ("where(p or r and a < b, a, b)", "where(p or (r and (a < b)), a, b)"),
        ("where(not a < b, a, b)", "where(not (a < b), a, b)"),
        ("where(not p and r, a, b)", "where((not p) and r, a, b)"),
        ("where(a + b < c * 2, a, b)", "where((a + b) < (c * 2), a, b)"),
        ("where(not not p, a, b)", "where(not (not p), a, b)"),
    ],
)
def test_operators_bind_as_in_python(text: str, bracketed: str) -> None:
    assert expression(text) == expression(bracketed)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", "3"), ("0.5", "0.5"), ("1e-5", "1e-05"), (".5", "0.5"), ("-inf", "(-inf)")],
)
def test_numbers_are_read_as_written(text: str, value: str) -> None:
    assert f"a * {value}" in expression(f"a * {text}")


def test_minus_folds_into_a_number_only() -> None:
    assert "(-3)" in expression("a * -3")
    assert "a * 0.0" in expression("a * -0.0")
    assert "3 ** 2" in expression("a * -3 ** 2")


def test_every_node_knows_its_text() -> None:
    text = f"{HEAD}o[x] = sum[x](a * b) + softmax[x](c)[0:0]\n".replace("[0:0]", "")
    source = Source("test", text)
    value = parse(source).diagrams[0].statements[0].value
    assert value is not None
    texts = [text[each.span.start : each.span.end] for each, _ in syntax.walk(value)]
    assert texts == [
        "sum[x](a * b) + softmax[x](c)",
        "sum[x](a * b)",
        "a * b",
        "a",
        "b",
        "softmax[x](c)",
        "c",
    ]


def test_a_line_goes_on_while_a_bracket_is_open() -> None:
    text = "diagram f(\n  A[x],  # first\n\n  B[x]\n) -> C[x]\nC[x] = exp(\n  A +\n  B)\n"
    (diagram,) = read(Source("test", text))
    assert [each.name for each in diagram.arguments] == ["A", "B"]


def test_an_open_bracket_ends_before_a_line_that_begins_anew() -> None:
    text = "diagram f(A[x]) -> B[x]\n C = exp(A\n B[x] = A\n sizes x=4"
    lines, diagnostics = split_lines(Source("test", text))
    assert [text[each.span.start : each.span.end] for each in lines] == [
        "diagram f(A[x]) -> B[x]",
        "C = exp(A",
        "B[x] = A",
        "sizes x=4",
    ]
    assert [each.broken for each in lines] == [False, True, False, False]
    assert len(diagnostics) == 1


def test_the_comment_right_above_a_diagram_is_its_own() -> None:
    text = "# of the file\n\n# one\n#two\ndiagram f(A[x]) -> B[x]\n# inside\nB[x] = A\n"
    text += "diagram g(A[x]) -> B[x]\nB[x] = A\n"
    first, second = read(Source("test", text))
    assert (first.comment, second.comment) == ("one\ntwo", "")


def test_windows_and_old_line_ends_and_a_byte_order_mark_are_fine() -> None:
    from napkin.language import source_from_bytes

    text = "diagram f(A[x]) -> B[x]\nB[x] = A + 1\n"
    plain = read(Source("test", text))
    for end in ("\r\n", "\r"):
        data = b"\xef\xbb\xbf" + text.replace("\n", end).encode()
        assert read(source_from_bytes("test", data)) == plain


def test_layout_is_free() -> None:
    tight = "diagram f(A[x],k:int)->B[x]\nB[x]=where(x<=k,A,-inf)\nsizes x=4\non h\ngroup x by 2"
    loose = """
        diagram  f ( A [ x ] , k : int )  -> B [ x ]   # comment
      B [ x ]  =  where ( x <= k , A , - inf )
            sizes   x = 4
      on h
                group   x   by   2
    """
    assert read(Source("a", tight)) == read(Source("b", loose))


def test_several_on_blocks_and_clauses_belong_to_the_line_above() -> None:
    text = (
        "diagram f(A[x y]) -> B[x]\nB[x] = sum[y](A)\n"
        "on hopper\n group x by 4\n stream y by 8\n at shared: A\n at register: B\n warps 8\n"
        "on ampere\n group x by 2\n split y by 2\n stages 3\nsizes x=4 y=8\n"
    )
    (diagram,) = read(Source("test", text))
    hopper, ampere = diagram.relabellings
    assert (hopper.warps, hopper.stages, ampere.warps, ampere.stages) == (8, None, None, 3)
    assert [each.level for each in hopper.placements] == ["shared", "register"]
    assert ampere.split[0].tile == 2
    assert diagram.sizes == (("x", 4), ("y", 8))


@pytest.mark.parametrize(
    "name", ["lambda", "class", "None", "print", "self", "import", "tl", "triton", "max", "exp"]
)
def test_python_words_are_names_like_others(name: str) -> None:
    text = f"diagram {name}({name}[x]) -> out[x]\nout[x] = 2 * {name}\n"
    (diagram,) = read(Source("test", text))
    assert diagram.arguments[0].name == name


@pytest.mark.parametrize(
    "name", ["__import__", "_x", "{{x}}", "{%x%}", "é", "x.y", "x-y", "os;", "'x'", "at", "by"]
)
def test_what_could_be_code_is_no_name(name: str) -> None:
    with pytest.raises(NapkinError) as raised:
        read(Source("test", f"diagram f({name}[x]) -> B[x]\nB[x] = {name}\n"))
    assert all(each.code.startswith("N1") for each in raised.value.diagnostics)


def test_errors_come_in_source_order_and_are_capped() -> None:
    text = HEAD + "".join(f"t{count}[x] = a +\n" for count in range(200))
    with pytest.raises(NapkinError) as raised:
        read(Source("test", text))
    found = raised.value.diagnostics
    places = [each.primary.span.start for each in found if each.primary]
    assert len(found) == 50
    assert places == sorted(places)
    assert "only the first 50" in found[-1].notes[-1]


def test_the_grammar_has_no_colliding_terminals() -> None:
    # Lark's strict mode proves it, with `interegular`; without it, the lexer's order must do.
    pytest.importorskip("interegular")
    from lark import Lark

    from napkin.resources import read_text

    Lark(read_text("grammars", "napkin.lark"), parser="lalr", start="line", strict=True)
