"""Whatever bytes come in, the answer is diagrams or a NapkinError, soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from napkin.diagram import Diagram
from napkin.language import read, source_from_bytes
from napkin.language.errors import NapkinError

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))
TEXTS = [path.read_text(encoding="utf-8") for path in EXAMPLES]
HEAD = "diagram f(A[x]) -> B[x]\n"
WORDS = "[ ] ( ) , : = -> + - * / // ** % < <= == != and or not where sum max x q S inf 1 1e9 -1 \n"
PIECES = [*WORDS.split(" "), " ", "#", "diagram", "def", "sizes", "on", "at", "by", "{{", "\0", "é"]


@contextmanager
def soon(seconds: float = 1.0) -> Iterator[None]:
    started = time.perf_counter()
    yield
    assert time.perf_counter() - started < seconds


def codes(text: str | bytes) -> list[str]:
    """Return the codes of all that is wrong with a file."""
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(NapkinError) as raised:
        read(source_from_bytes("test.napkin", data))
    return [each.code for each in raised.value.diagnostics]


def outcome(data: bytes) -> tuple[Diagram, ...] | NapkinError:
    try:
        return read(source_from_bytes("fuzz.napkin", data))
    except NapkinError as error:
        return error


# --- by size --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "N101"),
        (b" \n\t\n", "N101"),
        (b"\xef\xbb\xbf", "N101"),
        (b"\x7fELF\x00\x00", "N102"),
        (b"\xff\xfe", "N102"),
        (b"# " + b"a" * 10_000_000, "N103"),
        (b"\xff" * 10_000_000, "N103"),
    ],
)
def test_what_is_no_page_of_text_is_refused(data: bytes, code: str) -> None:
    with soon():
        assert codes(data) == [code]


def test_ten_thousand_open_brackets() -> None:
    with soon():
        assert codes(HEAD + "B[x] = " + "(" * 10_000) == ["N108"]
        assert codes(HEAD + "B[x] = " + "(\n" * 10_000) == ["N108"]
        assert codes(HEAD + "B[x] = " + "[" * 10_000 + "A") == ["N108"]


def test_sixty_four_brackets_are_fine() -> None:
    text = HEAD + "B[x] = " + "(" * 64 + "A" + ")" * 64
    assert read(source_from_bytes("test", text.encode()))


@pytest.mark.parametrize("sign", ["+", "**", "and", "*", "<"])
def test_chains_without_end(sign: str) -> None:
    with soon():
        assert codes(HEAD + "B[x] = A" + f" {sign} A" * 100_000) == ["N103"]
        assert codes(HEAD + "B[x] = A" + f" {sign} A" * 30_000) == ["N114"]
    with soon(2):
        assert codes(HEAD + "B[x] = A" + f" {sign} A" * 8_000)[0] in ("N108", "N111")


@pytest.mark.parametrize("sign", ["-", "not "])
def test_prefixes_without_end(sign: str) -> None:
    with soon(2):
        assert codes(HEAD + "B[x] = " + sign * 12_000 + "A") == ["N108"]


def test_a_sum_over_a_long_product_is_bounded() -> None:
    with soon():
        assert codes("diagram f(A[x]) -> B[]\nB = sum[x](A" + " * A" * 1_000 + ")") == ["N108"]


def test_more_words_than_a_person_writes() -> None:
    with soon():
        assert codes(HEAD + "B[x]=A+A\n" * 100_000) == ["N103"]


def test_many_bad_lines() -> None:
    with soon(3):
        found = codes(HEAD + "B[x] = A +\n" * 15_000)
    assert len(found) == 50


# --- by expansion ---------------------------------------------------------------------------------


def test_definitions_that_double_are_shared() -> None:
    lines = [
        "def f0(s) = exp(s)",
        *(f"def f{n}(s) = f{n - 1}(s) + f{n - 1}(s)" for n in range(1, 61)),
    ]
    text = "\n".join(lines) + "\ndiagram g(A[x]) -> B[x]\nB[x] = f60(A)\n"
    with soon():
        (diagram,) = read(source_from_bytes("test", text.encode()))
    assert len(diagram.boxes) == 62


@pytest.mark.parametrize("form", ["{0}(2 * s) + {0}(s + 1)", "{0}(s) + {0}({0}(s))"])
def test_definitions_that_double_and_differ_are_refused(form: str) -> None:
    lines = [
        "def f0(s) = exp(s)",
        *(f"def f{n}(s) = {form.format(f'f{n - 1}')}" for n in range(1, 41)),
    ]
    text = "\n".join(lines) + "\ndiagram g(A[x]) -> B[x]\nB[x] = f40(A)\n"
    with soon(4):
        assert codes(text) == ["N218"]


def test_a_long_chain_of_definitions_is_refused() -> None:
    lines = ["def f0(s) = exp(s)", *(f"def f{n}(s) = 1 + f{n - 1}(s)" for n in range(1, 3_000))]
    text = "\n".join(lines) + "\ndiagram g(A[x]) -> B[x]\nB[x] = f2999(A)\n"
    with soon(4):
        assert codes(text) == ["N218"]


def test_a_long_chain_of_diagrams_is_read_or_refused() -> None:
    lines = ["diagram f0(A[x]) -> B[x]", "B[x] = exp(A)"]
    for n in range(1, 100):
        lines += [f"diagram f{n}(A[x]) -> B[x]", f"B[x] = f{n - 1}(A) + 1"]
    with soon(4):
        assert len(read(source_from_bytes("test", "\n".join(lines).encode()))) == 100


def test_every_circle_is_reported_once() -> None:
    text = "def a(s) = b(s)\ndef b(s) = c(s)\ndef c(s) = a(s)\ndef d(s) = d(s)\ndef e(s) = a(s)\n"
    with soon():
        assert codes(text + HEAD + "B[x] = e(A) + d(A)\n") == ["N217", "N217"]


def test_a_thousand_circles() -> None:
    text = "".join(f"def f{n}(s) = f{n}(s)\n" for n in range(1_000))
    with soon(2):
        assert set(codes(text + HEAD + "B[x] = f1(A)\n")) == {"N217"}


def test_a_deep_text_in_a_deep_definition_does_not_exhaust_python() -> None:
    lines = ["def f0(s) = " + "-" * 120 + "s"]
    lines += [f"def f{n}(s) = " + "-" * 120 + f"f{n - 1}(s)" for n in range(1, 6)]
    text = "\n".join(lines) + "\n" + HEAD + "B[x] = " + "-" * 120 + "f5(A)\n"
    assert read(source_from_bytes("test", text.encode()))


# --- fuzz -----------------------------------------------------------------------------------------


@settings(deadline=1_000, max_examples=300)
@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    outcome(data)


@settings(deadline=1_000, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
@example(["diagram", " ", "S", "(", ")", "->", "S"])
def test_random_words(words: list[str]) -> None:
    outcome((HEAD + "".join(words)).encode())
    outcome(" ".join(words).encode())


@settings(deadline=1_000, max_examples=400)
@given(st.data())
def test_mutated_examples(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 6)))
        piece = data.draw(st.sampled_from([*PIECES, text[end : end + 20]]))
        text = text[:start] + piece + text[end:]
    outcome(text.encode())
