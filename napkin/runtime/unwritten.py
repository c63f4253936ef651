"""Uniform registers that some path through a kernel's machine code reads before it writes them.

In: the disassembly of a kernel, as `nvdisasm -c` prints it. Out: the instructions that read such a register.
No right code has one: what they read is what another kernel left there. ptxas 12.8 makes one where two
loops in turn compute the same descriptor and the first may be skipped (docs/hopper.md, "What the compiler
needed").

A forward analysis over the control flow: a register is written where every path has written it. A write
under a predicate counts as one, so that what is found is wrong for sure. Only uniform registers are
looked at: those of a thread are written in groups that the text does not show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.L_\w+):")
_CODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
_PARTS = re.compile(r"^(@!?U?PT?\d*\s+)?([A-Z][A-Z0-9_.]*)\s*(.*)$", re.DOTALL)
_REGISTER = re.compile(r"\bUR(\d+)\b")
_TARGET = re.compile(r"\.L_\w+")
_NO_RESULT = ("BRA", "BRX", "ST", "SYNCS", "UBLK", "UTMA")  # their first operand is read
_ALL = frozenset(range(64))


@dataclass(frozen=True, slots=True)
class _Instruction:
    """One instruction: what it reads and writes of the uniform registers, and where it may go on."""

    text: str
    reads: frozenset[int]
    writes: frozenset[int]
    targets: tuple[str, ...]
    goes_on: bool


def unwritten_reads(sass: str) -> tuple[str, ...]:
    """Return the instructions that may read a uniform register which nothing has written, in order."""
    code, labels = _instructions(sass)
    written = _written_before(code, labels)
    return tuple(
        each.text for place, each in enumerate(code) if each.reads - written.get(place, _ALL)
    )


def _written_before(
    code: Sequence[_Instruction], labels: Mapping[str, int]
) -> dict[int, frozenset[int]]:
    """Return what every path has written before each instruction that a path reaches."""
    found: dict[int, frozenset[int]] = {0: frozenset()}
    waiting = [0] if code else []
    while waiting:
        place = waiting.pop()
        each = code[place]
        behind = found[place] | each.writes
        following = [labels[target] for target in each.targets if target in labels]
        following += [place + 1] if each.goes_on else []
        for other in following:
            known = found.get(other, _ALL) & behind
            if other < len(code) and known != found.get(other):
                found[other] = known
                waiting.append(other)
    return found


def _instructions(sass: str) -> tuple[list[_Instruction], dict[str, int]]:
    code: list[_Instruction] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        label, instruction = _LABEL.match(line), _CODE.match(line)
        if label:
            labels[label[1]] = len(code)
        elif instruction:
            code.append(_read(instruction[1]))
    return code, labels


def _read(text: str) -> _Instruction:
    parts = _PARTS.match(text)
    if parts is None:
        return _Instruction(text, frozenset(), frozenset(), (), True)
    predicate, operation = parts[1], parts[2]
    operands = [each.strip() for each in parts[3].split(",")]
    name = operation.partition(".")[0]
    targets = tuple(_TARGET.findall(text)) if name in ("BRA", "BRX") else ()
    is_sure = predicate is None and not re.search(r"\bU?P\d|\bUR\d", operands[0])
    ends = name in ("EXIT", "RET", "BRX") or (name == "BRA" and is_sure)
    if operation.startswith("ULOP3") and operands[0].startswith("UP"):
        operands = operands[1:]  # its truth value comes before its result
    writes = _written(operation, operands)
    read = operands[1:] if writes else operands
    reads = frozenset(register for each in read for register in _registers(each, operands))
    return _Instruction(text, reads, writes, targets, not (ends and predicate is None))


def _written(operation: str, operands: Sequence[str]) -> frozenset[int]:
    """Return the registers of the result, by its width."""
    result = re.fullmatch(r"UR(\d+)", operands[0])
    if result is None or operation.startswith(_NO_RESULT):
        return frozenset()
    first = int(result[1])
    width = 4 if ".128" in operation else 2 if re.search(r"\.(64|WIDE)\b", operation) else 1
    return frozenset(range(first, first + width))


def _registers(operand: str, operands: Sequence[str]) -> tuple[int, ...]:
    """Return the registers that an operand names: of a contraction the first of each side's descriptor."""
    named = tuple(int(each) for each in _REGISTER.findall(operand))
    if "gdesc" not in operand:
        return named
    is_left_computed = re.match(r"R\d", operands[1]) is not None
    sides = (2,) if is_left_computed else (0, 2)
    return tuple(first + side for first in named for side in sides)
