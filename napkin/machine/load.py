"""Read the machine files that ship with the package, and find one by name or alias.

In: `napkin/machine/*.toml`. Out: `Machine`. A name nobody knows is the user's mistake, N401; a
file with a missing or unknown field is ours, an InternalError.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from napkin.language.errors import Diagnostic, InternalError, NapkinError, did_you_mean
from napkin.machine.calibration import calibrated
from napkin.machine.description import (
    Correction,
    Instruction,
    Latency,
    Level,
    Limits,
    Link,
    Machine,
    PipelineRates,
)
from napkin.machine.table import Table
from napkin.operators import Pipeline

_COUNTS = ("flops", "results")
_LATENCIES = {"launch", "load", "copy", "contraction"}


def load_machine(name: str) -> Machine:
    """Return the machine of that name or alias, as the user calibrated it if so.

    Raises NapkinError (N401, N420) for a name that nobody knows or a calibration that is none.

    >>> load_machine("hopper").title
    'NVIDIA H100 SXM 80 GB'
    """
    wanted = name.strip().lower()
    for machine in _machines():
        if wanted in (machine.name, *machine.aliases):
            return _as_calibrated(machine)
    known = [word for machine in _machines() for word in (machine.name, *machine.aliases)]
    listed = ", ".join(_with_aliases(machine) for machine in _machines())
    raise NapkinError(
        [
            Diagnostic(
                code="N401",
                message=f"unknown machine `{name}`",
                notes=(f"known machines: {listed}",),
                help=did_you_mean(wanted, known),
            )
        ]
    )


def machine_names() -> tuple[str, ...]:
    """Return the names of all machines, sorted, without their aliases."""
    return tuple(machine.name for machine in _machines())


def parse_machine(text: str, *, name: str) -> Machine:
    """Return the machine that a file's text describes; `name` is the file's."""
    table = Table(name, tomllib.loads(text))
    clock = table.optional("clock_hz", table.number)
    limits = table.optional("limits", table.table)
    machine = Machine(
        name=table.text("name"),
        title=table.text("title"),
        aliases=table.texts("aliases"),
        architecture=table.optional("architecture", table.text),
        units=table.integer("units"),
        published_clock=clock,
        features=table.texts("features"),
        source=table.text("source"),
        levels=tuple(_level(each, clock=clock) for each in table.tables("level")),
        pipelines=tuple(_pipeline(each) for each in table.tables("pipeline")),
        instructions=tuple(_instruction(each) for each in table.tables("instruction")),
        links=tuple(_link(each) for each in table.tables("link")),
        latencies=tuple(_latency(each) for each in table.tables("latency")),
        published_limits=None if limits is None else _limits(limits),
        corrections=tuple(_correction(each) for each in table.tables("correction")),
    )
    table.close()
    if machine.name != name:
        raise InternalError(f"machine file {name} names itself {machine.name}")
    return verify_machine(machine)


def verify_machine(machine: Machine) -> Machine:
    """Return the machine if its levels form a tree and its corrections name its figures."""
    _verify_levels(machine)
    for instruction in machine.instructions:
        for name in (*instruction.left, *instruction.right):
            machine.level(name)
    for link in machine.links:
        machine.level(link.joins)
    if machine.architecture is not None:
        named = {each.name for each in machine.latencies}
        if None in (machine.published_clock, machine.published_limits) or named != _LATENCIES:
            message = "is compiled for, and lacks its clock, latencies or limits"
            raise InternalError(f"machine {machine.name} {message}")
    # A cache between memory and a unit's own acts with its children's memory: its size may stay unknown.
    caches = machine.path("shared")[1:-1]
    for level in machine.levels:
        if level.published_capacity is None and level not in caches:
            raise InternalError(f"machine {machine.name} lacks the capacity of level {level.name}")
    for correction in machine.corrections:
        if correction.figure not in machine.figures:
            raise InternalError(f"machine {machine.name} corrects no figure {correction.figure}")
    return machine


@cache
def _as_calibrated(machine: Machine) -> Machine:
    return calibrated(machine)


@cache
def _machines() -> tuple[Machine, ...]:
    here = files("napkin") / "machine"
    found = sorted(each.name for each in here.iterdir() if each.name.endswith(".toml"))
    return tuple(
        parse_machine((here / each).read_text(encoding="utf-8"), name=each.removesuffix(".toml"))
        for each in found
    )


def _with_aliases(machine: Machine) -> str:
    if not machine.aliases:
        return machine.name
    return f"{machine.name} ({', '.join(machine.aliases)})"


def _level(table: Table, *, clock: float | None) -> Level:
    instances = table.integer("instances")
    per_second = table.optional("bytes_per_second", table.number)
    per_clock = table.optional("bytes_per_clock", table.number)
    if per_second is not None and per_clock is not None:
        raise InternalError(
            f"{table.place}: bytes_per_second and bytes_per_clock exclude each other"
        )
    if per_clock is not None:
        if clock is None:
            raise InternalError(f"{table.place}: bytes_per_clock without clock_hz")
        per_second = per_clock * clock * instances
    level = Level(
        name=table.text("name"),
        published_capacity=table.optional("capacity_bytes", table.integer),
        instances=instances,
        granularity=table.integer("granularity_bytes"),
        children=table.texts("children"),
        bandwidth=per_second,
        within=table.optional("within", table.text),
        source=table.text("source"),
        copies=table.optional("copies", table.number) or 1.0,
    )
    table.close()
    return level


def _pipeline(table: Table) -> PipelineRates:
    name, counts = table.text("name"), table.text("counts")
    if name not in list(Pipeline) or counts not in _COUNTS:
        raise InternalError(f"{table.place}: pipeline {name} that counts {counts}")
    by_type = table.table("rates")
    rates = PipelineRates(
        pipeline=Pipeline(name),
        counts=counts,
        rates=tuple((kind, by_type.number(kind)) for kind in by_type.names()),
        source=table.text("source"),
    )
    table.close()
    return rates


def _latency(table: Table) -> Latency:
    latency = Latency(table.text("name"), table.number("seconds"), table.text("source"))
    table.close()
    return latency


def _instruction(table: Table) -> Instruction:
    instruction = Instruction(
        name=table.text("name"),
        m=table.integer("m"),
        n_step=table.integer("n_step"),
        n_max=table.integer("n_max"),
        k_bytes=table.integer("k_bytes"),
        threads=table.integer("threads"),
        left=table.texts("left"),
        right=table.texts("right"),
        types=table.texts("types"),
        source=table.text("source"),
    )
    table.close()
    return instruction


def _link(table: Table) -> Link:
    by_count = table.table("rates")
    if not all(each.isdecimal() for each in by_count.names()):
        raise InternalError(f"{table.place}: rates are by the number joined")
    link = Link(
        name=table.text("name"),
        joins=table.text("joins"),
        rates=tuple((int(each), by_count.number(each)) for each in by_count.names()),
        source=table.text("source"),
    )
    table.close()
    return link


def _limits(table: Table) -> Limits:
    limits = Limits(
        threads_per_warp=table.integer("threads_per_warp"),
        warps_per_group=table.integer("warps_per_group"),
        warps_per_block=table.integer("warps_per_block"),
        warps_per_unit=table.integer("warps_per_unit"),
        blocks_per_unit=table.integer("blocks_per_unit"),
        blocks_per_cluster=table.integer("blocks_per_cluster"),
        registers_per_thread=table.integer("registers_per_thread"),
        registers_per_block=table.integer("registers_per_block"),
        registers_per_unit=table.integer("registers_per_unit"),
        register_granularity=table.integer("register_granularity"),
        shared_per_block=table.integer("shared_per_block_bytes"),
        shared_reserved_per_block=table.integer("shared_reserved_per_block_bytes"),
        coalesced_bytes=table.integer("coalesced_bytes"),
        source=table.text("source"),
    )
    table.close()
    return limits


def _correction(table: Table) -> Correction:
    correction = Correction(
        figure=table.text("figure"),
        value=table.number("value"),
        measured=table.day("measured"),
        source=table.text("source"),
    )
    table.close()
    return correction


def _verify_levels(machine: Machine) -> None:
    names = [each.name for each in machine.levels]
    children = [child for each in machine.levels for child in each.children]
    roots = [name for name in names if name not in children]
    repeated = len(set(names)) != len(names) or len(set(children)) != len(children)
    reached = list(roots)
    for name in reached:
        reached += [child for child in machine.level(name).children if child not in reached]
    if repeated or len(roots) != 1 or set(reached) != set(names):
        raise InternalError(f"the levels of machine {machine.name} are no tree: {names}")
    for each in machine.levels:
        if each.within is not None and each.within not in names:
            raise InternalError(f"level {each.name} lies within an unknown level {each.within}")
