"""The examples that ship: each reads, prints and reads again, quickly and always alike."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from napkin.diagram import Diagram, print_diagram, verify
from napkin.language import read, source_from_bytes
from napkin.language.source import Source

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.napkin"))
_DUMP = """
import sys
from pathlib import Path
from napkin.language import read, source_from_bytes
for name in sys.argv[1:]:
    for diagram in read(source_from_bytes(name, Path(name).read_bytes())):
        print(repr(diagram), diagram.spans)
"""


def load(path: Path) -> tuple[Diagram, ...]:
    return read(source_from_bytes(path.name, path.read_bytes()))


def test_the_examples_are_all_there() -> None:
    assert len(EXAMPLES) >= 24


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_one_documented_diagram_with_sizes(path: Path) -> None:
    (diagram,) = load(path)
    verify(diagram)
    assert diagram.name == path.stem
    assert diagram.comment.startswith(f"{path.name}: ")
    assert set(diagram.axes) == {axis for axis, _ in diagram.sizes}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_reads_back_from_its_listing(path: Path) -> None:
    (diagram,) = load(path)
    assert read(Source("listing", print_diagram(diagram))) == (diagram,)


def test_attention_is_nine_boxes() -> None:
    (diagram,) = load(ROOT / "examples" / "attention.napkin")
    assert print_diagram(diagram) == (
        "diagram attention(Q[b h q d], K[b h x d], V[b h x v]) -> O[b h q v]\n"
        "    t1[b h q x] = sum[d](Q * K)\n"
        "    t2[] = sqrt(size(d))\n"
        "    S[b h q x] = t1 / t2\n"
        "    t3[b h q] = max[x](S)\n"
        "    t4[b h q x] = S - t3\n"
        "    t5[b h q x] = exp(t4)\n"
        "    t6[b h q] = sum[x](t5)\n"
        "    P[b h q x] = t5 / t6\n"
        "    O[b h q v] = sum[x](P * V)\n"
        "\n"
        "sizes b=4 h=16 q=4096 x=4096 d=128 v=128\n"
    )


def test_two_hash_seeds_give_the_same_diagrams() -> None:
    names = [str(path) for path in EXAMPLES]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _DUMP, *names],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 1000


def test_an_example_reads_in_no_time() -> None:
    started = time.perf_counter()
    for path in EXAMPLES:
        load(path)
    assert time.perf_counter() - started < 0.15 * len(EXAMPLES)


def test_two_hundred_statements_read_in_under_a_second() -> None:
    lines = ["diagram long(A0[b q d], K[b x d]) -> A200[b q d]"]
    lines += [
        f"A{count}[b q d] = sum[x](softmax[x](sum[d](A{count - 1} * K)) * K) + A{count - 1}"
        for count in range(1, 201)
    ]
    load(EXAMPLES[0])
    started = time.perf_counter()
    (diagram,) = read(Source("long", "\n".join(lines)))
    assert time.perf_counter() - started < 1
    assert len(diagram.boxes) > 1000


def test_the_blocks_of_the_language_s_page_are_files() -> None:
    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```napkin\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        assert read(Source("language.md", block))
