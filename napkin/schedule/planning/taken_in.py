"""Kernels that take in another: what that one gives of rows is computed where the rows are held anyway.

In: the pieces of a diagram's cuts, and a cut. Out: the cuts in which one kernel computes, before its stream,
what it would otherwise read: a statistic of the rows that its groups hold. It is kept for later kernels as
before; its own kernel is gone, which reads once more what both need.

Whether that is faster is not asked here.
"""

from __future__ import annotations

from napkin.schedule.planning.cut_steps import Cut
from napkin.schedule.planning.pieces import Piece, Pieces
from napkin.schedule.program import Dot, walk
from napkin.schedule.tiling.kernel import KernelPlan


def taking_in(pieces: Pieces, chosen: Cut) -> list[Cut]:
    """Return the cuts in which a kernel takes in one that contracts nothing, whose axes it groups."""
    chosen = chosen.with_all(frozenset(each.box for each in pieces.diagram.outputs))
    parts = tuple(zip(pieces.parts(chosen), pieces.of(chosen), strict=True))
    found = (
        chosen.joined(one.own, other.own)
        for one, piece in parts
        if one.own and not _contracts(pieces, piece)
        for other, reader in parts
        if one.own & other.read and other.own and _groups_all(pieces, one.own, reader)
    )
    return [each for each in found if pieces.of(each)]


def _contracts(pieces: Pieces, piece: Piece) -> bool:
    plan = pieces.plan(piece)
    operations = walk(plan.program.operations) if isinstance(plan, KernelPlan) else ()
    return any(isinstance(op, Dot) for op in operations)


def _groups_all(pieces: Pieces, given: frozenset[int], reader: Piece) -> bool:
    """Return whether a kernel streams, and holds for every group all that some values of rows take."""
    derivation = pieces.derive(reader)
    axes = {axis for each in given for axis in pieces.diagram.boxes[each].axes}
    return derivation.stream is not None and axes <= set(derivation.group)
