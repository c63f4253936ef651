"""A diagram over a further axis gives what the diagram gives for each slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import napkin
from napkin.algebra.batch import batched
from napkin.diagram import implied_sizes
from napkin.evaluate import reference
from napkin.runtime.data import axis_lengths, random_arguments

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.napkin"))


@pytest.mark.parametrize("chosen", ["first", "last", "all"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_slice_is_the_diagrams_own(path: Path, chosen: str) -> None:
    core = napkin.load(path).core
    arrays = [each.name for each in core.arguments if each.dims]
    names = {"first": arrays[:1], "last": arrays[-1:], "all": arrays}[chosen]
    over = batched(core, names)
    wished = {axis: 3 for axis in core.axes if axis not in implied_sizes(core)}
    sizes = axis_lengths(core, wished)
    slices = [
        {name: np.asarray(value) for name, value in drawn.items()}
        for drawn in (random_arguments(core, sizes, dtype="fp32", seed=seed) for seed in range(3))
    ]
    shared = slices[0]
    many = shared | {name: np.stack([each[name] for each in slices]) for name in names}
    found = reference(over, many)
    for place, each in enumerate(slices):
        wanted = reference(core, shared | {name: each[name] for name in names})
        for old, new in zip(core.outputs, over.outputs, strict=True):
            result = found[new.name][place] if len(new.dims) > len(old.dims) else found[new.name]
            np.testing.assert_allclose(result, wanted[old.name], rtol=1e-9, atol=1e-12)


def test_what_depends_on_no_batched_argument_stays_as_it_is() -> None:
    text = "diagram f(A[x], B[y]) -> C[x], D[y], E[x y]\n    C[x] = 2 * A\n    D[y] = 3 * B\n"
    over = batched(napkin.parse(f"{text}    E[x y] = A * B").core, {"B"})
    assert [each.dims for each in over.outputs] == [
        (("x",),),
        (("n",), ("y",)),
        (("n",), ("x",), ("y",)),
    ]


def test_the_new_axis_has_a_name_of_its_own() -> None:
    text = "diagram f(n[x n1], A[x]) -> C[n1]\n    C[n1] = sum[x](n * A)"
    over = batched(napkin.parse(text).core, {"A"})
    assert over.arguments[1].dims == (("n2",), ("x",))
    assert batched(over, {"A"}).arguments[1].dims == (("n3",), ("n2",), ("x",))
