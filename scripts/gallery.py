"""Draw every example anew: docs/gallery.md, its pictures, and the README's.

    python scripts/gallery.py

In: examples/*.napkin. Out: files under docs/, alike on every run with one version of Graphviz.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from napkin.api import Diagram, load
from napkin.draw.columns import draw_columns
from napkin.draw.cost import cost_view, draw_cost
from napkin.draw.relabelled import draw_plan
from napkin.draw.strip import draw_strip

ROOT = Path(__file__).parent.parent
_MACHINE = "hopper"
_PLANNED = ("attention", "gqa", "matmul", "mla")  # also drawn relabelled by their plan
_SHOWN = "attention"  # in every picture that there is of a plan
_HEAD = """\
# Gallery

Every example, drawn from its file by `napkin draw`. A wire is an axis; a double line at the left is the
axes that the whole diagram is mapped over, and the frame is one copy of it. Dashed lines part the members
of a tuple. A cup is a contraction, a triangle a normalisation, a half disc a reduction, a hexagon a read at
computed positions, a box pointwise work; `·` is the array that comes in, `|d|` the length of axis d.

`make gallery`, or `python scripts/gallery.py`, draws all of it anew. Drawn with Graphviz {version}.
"""
_PLANS = """
## Relabelled

`napkin draw FILE --machine hopper`: colour and pattern are memory levels, labels are tiles (g of a group, s
of a stream's step, in brackets what divides them), the dotted frame is the stream's loop. Above stand the
values held (M) and moved (H) at each column.
"""
_OTHERS = (
    "\n## Step by step\n\n`napkin draw FILE --view steps --machine hopper`: from the diagram to the stream.\n"
    "\n![the derivation of {name}](gallery/{name}.steps.svg)\n",
    "\n## Line by line\n\n`napkin draw FILE --view columns --machine hopper`: what each line of the kernel\n"
    "holds, moves and computes.\n\n![the columns of {name}](gallery/{name}.columns.svg)\n",
    "\n## Cost\n\n`napkin report FILE --machine hopper -o F.svg`; with `-o F.html` one page with all of\n"
    "these, the formulas and the kernel.\n\n![what {name} costs](gallery/{name}.cost.svg)\n",
)


def graphviz_version() -> str:
    """Return the version of the program `dot`."""
    said = subprocess.run(["dot", "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"\d+(\.\d+)+", said)
    return found.group() if found else "unknown"


def gallery() -> Mapping[str, str]:
    """Return every file of the gallery by its path from the repository's root."""
    diagrams = {path.stem: load(path) for path in sorted((ROOT / "examples").glob("*.napkin"))}
    files = {f"docs/gallery/{name}.svg": each.svg() for name, each in diagrams.items()}
    for name in _PLANNED:
        plan = diagrams[name].plan(_MACHINE)
        files[f"docs/gallery/{name}.{_MACHINE}.svg"] = draw_plan(plan)
        if name == _SHOWN:
            files[f"docs/gallery/{name}.steps.svg"] = draw_strip(plan)
            files[f"docs/gallery/{name}.columns.svg"] = draw_columns(plan)
            files[f"docs/gallery/{name}.cost.svg"] = draw_cost(cost_view(plan))
    files["docs/attention.svg"] = files["docs/gallery/attention.svg"]
    files["docs/gallery.md"] = _page(diagrams)
    return {path: text.rstrip("\n") + "\n" for path, text in files.items()}


def _page(diagrams: Mapping[str, Diagram]) -> str:
    parts = [_HEAD.format(version=graphviz_version())]
    for name, each in diagrams.items():
        comment = f"{each.core.comment}\n\n" if each.core.comment else ""
        parts.append(f"\n## {name}\n\n{comment}![{name}](gallery/{name}.svg)\n")
    parts.append(_PLANS)
    for name in _PLANNED:
        parts.append(f"\n![{name} on {_MACHINE}](gallery/{name}.{_MACHINE}.svg)\n")
    parts += [text.format(name=_SHOWN) for text in _OTHERS]
    return "".join(parts)


def main() -> int:
    """Write the gallery, and remove pictures of examples that are gone."""
    files = gallery()
    folder = ROOT / "docs" / "gallery"
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.svg"):
        if path.relative_to(ROOT).as_posix() not in files:
            path.unlink()
    for name, text in files.items():
        (ROOT / name).write_text(text, encoding="utf-8")
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
