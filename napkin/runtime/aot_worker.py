"""The process in which `aot.inspect_kernel` compiles: `python -P aot_worker.py REQUEST ANSWER`.

In: a JSON request (see `aot.py`). Out: a JSON answer with the assembler's log, the machine code as
text and what Triton's metadata holds. Run as a file, so it imports nothing of napkin's.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Compile what the request names and write the answer."""
    asked, answered = Path(sys.argv[1]), Path(sys.argv[2])
    request = json.loads(asked.read_text(encoding="utf-8"))
    function = getattr(_load(Path(request["module"])), request["function"])
    started = time.perf_counter()
    kernel = _compile(function, request)
    answer = {
        "seconds": time.perf_counter() - started,
        "ptxas": _assemble(kernel.asm["ptx"], request),
        "sass": _disassemble(kernel.asm["cubin"]),
        "shared": kernel.metadata.shared,
        "global_scratch": kernel.metadata.global_scratch_size,
        "warps": kernel.metadata.num_warps,
    }
    answered.write_text(json.dumps(answer), encoding="utf-8")


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _compile(function: Any, request: dict[str, Any]) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction

    constants = request["constants"]
    types = {**request["signature"], **dict.fromkeys(constants, "constexpr")}
    missing = [name for name in function.arg_names if name not in types]
    unknown = [name for name in types if name not in function.arg_names]
    if missing or unknown:
        raise SystemExit(f"arguments without a type: {missing}, unknown arguments: {unknown}")
    places = [function.arg_names.index(name) for name in request["divisible_by_16"]]
    source_class = GluonASTSource if isinstance(function, GluonJITFunction) else ASTSource
    source = source_class(
        fn=function,
        signature={name: types[name] for name in function.arg_names},
        constexprs=constants,
        attrs={(place,): [["tt.divisibility", 16]] for place in places},
    )
    target = GPUTarget("cuda", request["arch"], 32)
    return triton.compile(source, target=target, options=request["options"])


def _assemble(ptx: str, request: dict[str, Any]) -> str:
    """Return the log of the assembler, run again as Triton runs it but with its log kept."""
    options, arch = request["options"], request["arch"]
    flags = [] if options.get("enable_fp_fusion", True) else ["--fmad=false"]
    flags += (options.get("ptx_options") or "").split()
    flags += ["-v", f"--gpu-name=sm_{arch}{'a' if arch >= 90 else ''}"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx, encoding="utf-8")
        return _run("ptxas", *flags, str(source), "-o", str(Path(folder, "kernel.cubin")))


def _disassemble(cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(cubin)
        return _run("nvdisasm", "-c", str(binary))


def _run(tool: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
