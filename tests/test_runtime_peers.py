"""Other libraries' kernels: found by what a diagram computes, refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napkin.api import load, parse
from napkin.cli.arguments import PEERS
from napkin.diagram import Diagram
from napkin.diagram.fingerprint import fingerprint
from napkin.language.errors import NapkinError
from napkin.runtime.data import random_arguments
from napkin.runtime.peers import NAMES, find_contenders, known_name
from napkin.runtime.peers.compiled import FUNCTIONS
from napkin.runtime.reference import torch_reference
from tests.programs import example

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))
CAUSAL = """diagram mine(A[n k i e], B[n k j e], C[n k j f]) -> Y[n k i f]
    W[n k i j] = softmax[j](where({mask}, sum[e]({product}) / sqrt(size(e)), -inf))
    Y[n k i f] = sum[j](W * C)
"""
PLAIN = CAUSAL.format(mask="j <= i", product="A * B")


@pytest.mark.parametrize(("mask", "product"), [("j <= i", "B * A"), ("i >= j", "A * B")])
def test_names_and_order_do_not_count(mask: str, product: str) -> None:
    turned = parse(CAUSAL.format(mask=mask, product=product)).core
    assert fingerprint(turned) == fingerprint(parse(PLAIN).core) == fingerprint(example("causal"))


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("j <= i", "j < i"),
        PLAIN.replace("sqrt(size(e))", "size(e)"),
        PLAIN.replace("A[n k i e]", "A[n i k e]"),
        PLAIN.replace("W * C", "2 * W * C"),
    ],
)
def test_what_is_computed_counts(text: str) -> None:
    assert fingerprint(parse(text).core) != fingerprint(example("causal"))


def test_a_contender_gives_what_the_diagram_means() -> None:
    (contender,) = find_contenders(["torch"], example("softmax"))
    x = torch.randn(4, 8)
    assert torch.allclose(contender.prepare([x])(), torch.softmax(x, -1))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_pytorch_compiles_is_what_the_diagram_means(name: str) -> None:
    (diagram,) = (each for each in map(_core, EXAMPLES) if known_name(each) == name)
    arguments = random_arguments(diagram, dict.fromkeys(diagram.axes, 16), dtype="fp32", seed=0)
    (wanted,) = torch_reference(diagram, arguments)
    found = FUNCTIONS[name](*(arguments[each.name] for each in diagram.arguments))
    assert torch.allclose(found.double(), wanted, atol=1e-4)


def _core(path: Path) -> Diagram:
    return load(path).core


@pytest.mark.parametrize(
    ("name", "diagram", "said"),
    [
        ("cudn", "causal", "did you mean `cudnn`"),
        ("fa2", "sinks", "no kernel of `fa2` for the diagram `sinks`"),
        ("fa3", "causal", "pip install"),
    ],
)
def test_a_library_is_refused_with_the_reason(name: str, diagram: str, said: str) -> None:
    with pytest.raises(NapkinError) as refused:
        find_contenders([name], example(diagram))
    (diagnostic,) = refused.value.diagnostics
    assert diagnostic.code == "N613"
    assert said in str(refused.value)


def test_the_command_line_offers_every_library() -> None:
    assert set(PEERS) == set(NAMES)
