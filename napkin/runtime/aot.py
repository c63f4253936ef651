"""Look at a kernel's machine code without a GPU: registers, spills, shared memory, instructions.

In: a generated kernel's file, the name of its function and the types of its arguments. Out:
`Resources`, what Triton's own compiler and NVIDIA's bundled assembler say of it. A generator is
judged by four of them: no spills, no serialised wgmma, the expected instructions, none that reads what
nothing wrote.

The compilation runs in a process of its own (`aot_worker.py`): this one may hold Triton's
interpreter, and a fault in LLVM must not end it. Deliberately absent: how fast the kernel is, or
whether it is right.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from napkin.language.errors import Diagnostic, InternalError, NapkinError
from napkin.runtime.unwritten import unwritten_reads

Constant = int | float | bool | str | None

TRACKED = (
    "HGMMA",  # wgmma, 16-bit and tf32
    "QGMMA",  # wgmma, 8-bit floats
    "IGMMA",  # wgmma, 8-bit integers
    "HMMA",  # mma, 16-bit and tf32
    "QMMA",  # mma, 8-bit floats
    "IMMA",  # mma, 8-bit integers
    "UTMALDG",  # TMA load
    "UTMASTG",  # TMA store
    "UTMAREDG",  # TMA reduction
    "LDGSTS",  # cp.async
    "LDG",
    "STG",
    "LDS",
    "STS",
    "LDSM",
    "STSM",
    "LDL",  # spilled, or an indexed local array
    "STL",
    "ATOMG",
    "RED",
    "REDG",
    "MUFU.EX2",
    "MUFU.LG2",
    "MUFU.RCP",
    "MUFU.RSQ",
    "MUFU.TANH",
    "FFMA",
    "FMUL",
    "FADD",
    "FMNMX",
    "SHFL",
    "BAR",
    "SYNCS",  # mbarrier
    "WARPGROUP",
    "USETMAXREG",
)

_TIMEOUT_S = 600
_WORKER = Path(__file__).with_name("aot_worker.py")
_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled kernel takes.

    `registers` are those at launch; a warp-specialised kernel moves them between its warps later.
    `instructions` counts machine instructions in the code, not executions, for each of `TRACKED`;
    `total_instructions` counts all. `warnings` are the assembler's, among them each "wgmma
    serialized". `unwritten` are instructions that may read a register which nothing has written.
    """

    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int
    global_scratch_bytes: int
    warps: int
    warnings: tuple[str, ...]
    instructions: Mapping[str, int]
    total_instructions: int
    unwritten: tuple[str, ...]
    compile_seconds: float


def inspect_kernel(
    module: Path,
    function: str,
    *,
    arch: int,
    signature: Mapping[str, str],
    constants: Mapping[str, Constant],
    divisible_by_16: Sequence[str] = (),
    options: Mapping[str, Constant] | None = None,
) -> Resources:
    """Compile a `triton.jit` or `gluon.jit` function for an architecture (80, 90) and describe it.

    `signature` gives Triton's type of every run-time argument (`*fp16`, `i32`, `fp32`,
    `tensordesc<fp16[64,64]>`, with the layout after the shape for Gluon), `constants` the values
    of the constexpr ones. `divisible_by_16` names pointers that are aligned and integers that are
    multiples of 16, as a run would find out. `options` are `num_warps`, `num_stages` and the like.
    """
    if find_spec("triton") is None:
        message = "ahead-of-time inspection needs triton, which is not installed"
        raise NapkinError([Diagnostic("N601", message, help="pip install 'triton>=3.6'")])
    request = {
        "module": str(module),
        "function": function,
        "arch": arch,
        "signature": dict(signature),
        "constants": dict(constants),
        "divisible_by_16": list(divisible_by_16),
        "options": dict(options or {}),
    }
    return describe(_run_worker(request))


def describe(answer: Mapping[str, object]) -> Resources:
    """Return the resources that the worker's answer holds."""
    log, code = str(answer["ptxas"]), str(answer["sass"])
    opcodes = _OPCODE.findall(code)
    return Resources(
        registers=max(_numbers(r"Used (\d+) registers", log), default=0),
        spill_store_bytes=sum(_numbers(r"(\d+) bytes spill stores", log)),
        spill_load_bytes=sum(_numbers(r"(\d+) bytes spill loads", log)),
        shared_bytes=int(str(answer["shared"])),
        global_scratch_bytes=int(str(answer["global_scratch"])),
        warps=int(str(answer["warps"])),
        warnings=tuple(line.strip() for line in log.splitlines() if _is_warning(line)),
        instructions={name: _count(opcodes, name) for name in TRACKED},
        total_instructions=len(opcodes),
        unwritten=unwritten_reads(code),
        compile_seconds=float(str(answer["seconds"])),
    )


def _is_warning(line: str) -> bool:
    return bool(re.search(r"warning|serializ|\bC75\d\d\b", line, re.IGNORECASE))


def _numbers(pattern: str, text: str) -> list[int]:
    return [int(number) for number in re.findall(pattern, text)]


def _count(opcodes: Sequence[str], name: str) -> int:
    return sum(opcode == name or opcode.startswith(f"{name}.") for opcode in opcodes)


def _run_worker(request: Mapping[str, object]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        # -P keeps this folder off the path, so that no module here shadows one that Triton imports.
        command = [sys.executable, "-P", str(_WORKER), str(asked), str(answered)]
        environment = {key: each for key, each in os.environ.items() if key != "TRITON_INTERPRET"}
        finished = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        if finished.returncode or not answered.exists():
            raise InternalError(_failure(request, finished))
        answer: dict[str, object] = json.loads(answered.read_text(encoding="utf-8"))
        return answer


def _failure(request: Mapping[str, object], finished: subprocess.CompletedProcess[str]) -> str:
    what = f"kernel {request['function']} does not compile for sm_{request['arch']}"
    said = (finished.stderr.strip() or finished.stdout.strip())[-2000:]
    return f"{what} (status {finished.returncode}):\n{said}\n"
