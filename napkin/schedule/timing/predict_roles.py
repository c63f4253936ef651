"""How long a kernel takes whose warps have roles, whatever its steps are.

In: a `Specialised` kernel, a machine, lengths. Out: its `Prediction`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from napkin.machine import Machine
from napkin.schedule.count import extent
from napkin.schedule.liveness import reads, writes
from napkin.schedule.program import Compute, Dot, Loop, Operation, Program
from napkin.schedule.roles.allocation import allocated_bytes
from napkin.schedule.roles.lag import mostly_one
from napkin.schedule.roles.warps import Specialised
from napkin.schedule.timing.predict import Prediction, predict_specialised
from napkin.schedule.timing.predict_adding import predict_adding

# Columns of sums, and times as long as predicted: kernels of gradients at heads of 64 took 1.08 to 1.32.
_NARROW, _SLOWER = 64, 1.2


def predict_roles(warps: Specialised, machine: Machine, sizes: Mapping[str, int]) -> Prediction:
    """Return what a kernel whose warps have roles needs, its time, and what that is made of."""
    said = _predict(warps, machine, sizes)
    return replace(said, shared_bytes=allocated_bytes(warps, sizes))


def _predict(warps: Specialised, machine: Machine, sizes: Mapping[str, int]) -> Prediction:
    """Return the prediction by the bytes of rings and stages alone."""
    if warps.parts:
        return predict_adding(warps, machine, sizes)
    said = predict_specialised(
        without_moves(warps.program),
        machine,
        sizes,
        warps.consumers,
        warps.shared_bytes,
        shares_slot=any(each.ring is not None for each in warps.staged),
        is_sliced=bool(warps.cuts),
    )
    is_slower = is_of_several(warps) and _has_narrow_sums(warps)
    return _with_narrow_sums(said) if is_slower else said


def without_moves(program: Program) -> Program:
    """Return the program without the products of its sums with factors that are mostly 1."""
    rare = mostly_one(program)
    if not rare:
        return program
    operations = tuple(
        replace(op, body=tuple(each for each in op.body if not _moves_sums(each, rare)))
        if isinstance(op, Loop)
        else op
        for op in program.operations
    )
    return replace(program, operations=operations)


def _moves_sums(op: Operation, factors: frozenset[str]) -> bool:
    is_matrix = isinstance(op, Compute) and len(op.tile.dims) > 1
    return is_matrix and not factors.isdisjoint(reads(op))


def is_of_several(warps: Specialised) -> bool:
    """Return whether a step's sum takes what is made of several contractions, as a gradient's does."""
    body = _body(warps)
    made_of: dict[str, frozenset[str]] = {}
    for op in body:
        name = writes(op)
        if name is not None:
            is_score = isinstance(op, Dot) and op.accumulator is None
            read = (made_of.get(each, frozenset()) for each in reads(op))
            made_of[name] = frozenset({name}) if is_score else frozenset().union(*read)
    return any(len(made_of.get(dot.left, ())) > 1 for dot in _sums(body))


def _has_narrow_sums(warps: Specialised) -> bool:
    return all(extent(dot.tile.dims[1:], warps.program) <= _NARROW for dot in _sums(_body(warps)))


def _body(warps: Specialised) -> tuple[Operation, ...]:
    return next((each.loop.body for each in reversed(warps.chunks) if each.loop.body), ())


def _sums(body: Sequence[Operation]) -> list[Dot]:
    return [op for op in body if isinstance(op, Dot) and op.accumulator is not None]


def _with_narrow_sums(said: Prediction) -> Prediction:
    """Return the prediction of a step whose short contractions wait for one another."""
    more = (_SLOWER - 1) * said.seconds
    parts = (*said.parts, ("waiting for short contractions", more))
    return replace(said, seconds=said.seconds + more, parts=parts)
