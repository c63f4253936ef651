"""Every diagnostic of the language as users see it, and the page that explains each code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from napkin.language import read, source_from_bytes
from napkin.language.errors import NapkinError
from napkin.language.explain import explain
from tests.conftest import Golden

ROOT = Path(__file__).parent.parent
CASES = sorted((ROOT / "tests" / "errors").glob("*.napkin"))
RAISED = sorted(
    {
        code
        for path in (ROOT / "napkin").rglob("*.py")
        for code in re.findall(r'"(N\d{3})"', path.read_text(encoding="utf-8"))
    }
)


# N103 needs a file of more than a mebibyte (test_language_limits), N117 is about no file.
NO_FILE = ("N103", "N117")
NO_EXAMPLE = ("N101", "N102", "N108", "N109", "N114", "N218", "N219", *NO_FILE)


def diagnostics_of(path: Path) -> str:
    with pytest.raises(NapkinError) as raised:
        read(source_from_bytes(path.name, path.read_bytes()))
    return str(raised.value)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_mistake_is_reported_as_blessed(path: Path, golden: Golden) -> None:
    text = diagnostics_of(path)
    number = path.stem.partition("_")[0]
    assert f"error[N{number}]" in text or number == "299"
    golden(path.with_suffix(".err"), text + "\n")


@pytest.mark.parametrize("code", RAISED)
def test_every_code_raised_anywhere_is_explained(code: str) -> None:
    assert explain(code).startswith(f"## {code}: ")


@pytest.mark.parametrize("code", [code for code in RAISED if code < "N3" and code not in NO_FILE])
def test_every_code_of_the_language_has_a_case(code: str) -> None:
    assert any(path.stem.startswith(code[1:]) for path in CASES)


@pytest.mark.parametrize("code", [code for code in RAISED if code < "N3"])
def test_the_explained_example_fails_with_its_code(code: str) -> None:
    example = re.search(r"```napkin\n(.*?)```", explain(code), re.DOTALL)
    if example is None:
        assert code in NO_EXAMPLE
        return
    with pytest.raises(NapkinError) as raised:
        read(source_from_bytes("example.napkin", example.group(1).encode()))
    assert [each.code for each in raised.value.diagnostics] == [code]


def test_an_unknown_code_names_the_closest() -> None:
    with pytest.raises(NapkinError, match="did you mean `N203`"):
        explain("N0203")


def test_messages_keep_the_house_voice() -> None:
    for path in CASES:
        with pytest.raises(NapkinError) as raised:
            read(source_from_bytes(path.name, path.read_bytes()))
        for each in raised.value.diagnostics:
            assert not each.message.endswith(".")
            assert each.message[0] in "`" or each.message[0].islower()
