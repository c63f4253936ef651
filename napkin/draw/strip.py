"""Draw a derivation as a strip: the diagram, then one panel a relabelling, each with its rules.

In: a plan. Out: SVG text that stands alone. The steps are those of paper section 4, in its two
colours, and at the end the machine's own levels; the rules' words are those of `napkin derive`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from napkin.algebra.derive import derive
from napkin.algebra.layout_steps import layout_steps
from napkin.algebra.stream_steps import stream_steps
from napkin.algebra.view import Step, View
from napkin.draw.bundles import draw_ribbons
from napkin.draw.diagram import (
    MOST_NODES,
    describe,
    diagram_panel,
    draw_scene,
    extent,
    plate_edges,
    too_many,
)
from napkin.draw.look import GLOBAL, SHARED, Look
from napkin.draw.regions import (
    CAPTION,
    PAD,
    draw_bands,
    draw_group,
    draw_loop,
    unmarked,
    with_loop_room,
)
from napkin.draw.relabel import Relabelling, relabel
from napkin.draw.relabelled import plan_panel
from napkin.draw.scene import set_scene
from napkin.draw.shapes import Drawing, Label, Panel, Word, word
from napkin.draw.sheet import print_sheet
from napkin.draw.text import text_width, widest, wrap_text
from napkin.schedule.planning.plan import KernelPlan, Plan
from napkin.schedule.program import AxisRole

_TEXT, _LINE = 12.0, 17.0
_CHARACTERS, _MOST_LINES = 108, 4
_GROUPED, _STREAMED = "group partition", "inner axes"


def draw_strip(plan: Plan) -> str:
    """Return the derivation of every kernel of a plan as SVG text.

    Raises NapkinError (N610) where Graphviz's program `dot` is not installed.
    """
    panels: list[Panel] = []
    for kernel in plan.kernels:
        found = relabel(kernel)
        if len(found.nodes) > MOST_NODES:
            return too_many(plan.diagram, len(found.nodes))
        panels += _panels(kernel, found, "" if len(plan.kernels) == 1 else f"{kernel.name}: ")
    title = f"{plan.diagram.name}: from the diagram to the stream"
    return print_sheet(title, describe(plan.diagram), [[each] for each in panels])


def _panels(kernel: KernelPlan, found: Relabelling, name: str) -> list[Panel]:
    diagram = kernel.derivation.diagram
    view = View(derive(diagram, axis=found.streamed))
    streams, layouts = stream_steps(view), layout_steps(view)
    groups = [each for each in layouts if each.title.startswith(_GROUPED)]
    panels = [
        _captioned(
            diagram_panel(diagram),
            f"{name}the diagram",
            ("every array in global memory; each step reads and writes it",),
        )
    ]
    if groups:
        panels.append(
            _captioned(
                _partitioned(found, (AxisRole.GROUP,)), f"{name}{groups[0].title}", _said(groups[0])
            )
        )
    if found.streamed and streams:
        rules = [line for each in streams[1:] for line in (each.title, *_results(each))]
        roles = (AxisRole.GROUP, AxisRole.STREAM, AxisRole.SPLIT)
        panels.append(_captioned(_partitioned(found, roles), f"{name}{streams[0].title}", rules))
    recoloured = f"{name}recolouring: the levels of {kernel.machine.title}"
    panels.append(_captioned(plan_panel(found), recoloured, ("paper, section 7",)))
    return panels


def _said(step: Step) -> tuple[str, ...]:
    return (f"[{step.reference}]", *step.lines)


def _results(step: Step) -> tuple[str, ...]:
    """Return what is worth a line below a picture: the updates of the body, else the result."""
    if step.title.startswith(("head", "body", "tail", "merge")):
        return tuple(f"    {each}" for each in step.lines)
    return (f"    {step.result}",)


# --- pictures -------------------------------------------------------------------------------------


def _partitioned(found: Relabelling, roles: Sequence[AxisRole]) -> Panel:
    """Draw a diagram with the axes of some roles partitioned, in two colours: above and below."""
    roles_of = {each.axis: each.role for each in found.kernel.printed.axes}
    tiles: Mapping[str, Label] = {
        axis: tuple(unmarked(runs)) for axis, runs in found.tiles.items() if roles_of[axis] in roles
    }
    levels = tuple(each if each == GLOBAL else SHARED for each in found.levels)
    scene = set_scene(found.nodes, Look(levels, tiles))
    is_streamed = AxisRole.STREAM in roles
    if is_streamed:
        scene = replace(scene, columns=with_loop_room(scene, found))
    top, bottom = extent(scene)
    edges = plate_edges(scene)
    drawing = draw_bands(scene, found, top, bottom)
    drawing += draw_loop(scene, found, top, bottom) if is_streamed else Drawing()
    drawing += draw_scene(scene)
    drawing += draw_group(found, edges, top, bottom) + draw_ribbons(scene, *edges)
    return Panel(drawing, 12.0, top - CAPTION, scene.columns[-1].end, bottom + PAD + 10)


def _captioned(panel: Panel, title: str, lines: Sequence[str]) -> Panel:
    """Return a panel with the rule's name and a few lines under it."""
    y = panel.bottom + 24
    words: list[Word] = [word("heading", panel.left, y, title.replace("`", ""))]
    right = max(panel.right, panel.left + text_width(title, _TEXT) * 1.12)
    for line in (each.replace("`", "") for each in lines):
        indent = 14.0 * (len(line) - len(line.lstrip()) > 0)
        shown = wrap_text(line, width=_CHARACTERS, lines=_MOST_LINES)
        for each in shown:
            y += _LINE
            words.append(word("label", panel.left + indent, y, each))
        right = max(right, panel.left + indent + widest(shown, 13.0))
    drawing = panel.drawing + Drawing(words=tuple(words))
    return Panel(drawing, panel.left, panel.top, right, y + 6)
