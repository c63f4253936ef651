"""Generated modules launched on a stand-in for the GPU's driver: kernels compile, and nothing runs.

    python -m tests.launches     a JSON line a case: its name, what was found

It is a program of its own, since Triton has one driver a process; `test_launch` starts it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime.jit import JITFunction

from napkin.api import load, parse
from napkin.machine import load_machine
from napkin.runtime import planning
from napkin.runtime.data import axis_lengths, random_arguments
from napkin.runtime.kernels import kernel_source, load_kernel
from napkin.runtime.operator_kernels import _load
from napkin.runtime.recording import record

EXAMPLES = Path(__file__).parent.parent / "examples"
STREAM = 77
calls: list[tuple[Any, ...]] = []
before_launches: list[Callable[[], None]] = []


def _note(*args: Any) -> None:
    calls.append(args)


class Launcher:
    """Triton's launcher, but that a launch is noted and not made."""

    def __init__(self, src: Any, metadata: Any) -> None:
        described = getattr(metadata, "tensordesc_meta", None)
        signature = dict(enumerate(src.signature.values()))
        self.launch = nvidia.wrap_handle_tensordesc(_note, signature, described)
        self.global_scratch_size = metadata.global_scratch_size
        self.profile_scratch_size = metadata.profile_scratch_size
        self.launch_cooperative_grid = metadata.launch_cooperative_grid
        self.launch_pdl = metadata.launch_pdl

    def __call__(
        self, width: int, height: int, depth: int, stream: int, function: int, *args: Any
    ) -> None:
        for each in before_launches:
            each()
        fixed = (self.launch_cooperative_grid, self.launch_pdl, None, None)
        self.launch(width, height, depth, stream, function, *fixed, *args)


class Driver:
    """A Hopper GPU that is not there."""

    launcher_cls = Launcher
    utils = types.SimpleNamespace(
        load_binary=lambda *_: (1, 2, 3, 0, 1024),
        get_device_properties=lambda _: {"max_shared_mem": 232_448},
        fill_tma_descriptor=lambda *args: ("descriptor", *args),
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return STREAM


def stand_in() -> None:
    """Put the stand-in in the place of the GPU."""
    triton.runtime.driver.set_active(Driver())
    properties = types.SimpleNamespace(multi_processor_count=132)
    cuda: Any = torch.cuda
    cuda.get_device_properties = lambda _: properties
    cuda.device_of = lambda _: contextlib.nullcontext()
    library: Any = torch._C
    library._cuda_getDevice = lambda: None
    library._cuda_getCurrentRawStream = lambda _: STREAM


def seen_of(arguments: tuple[Any, ...]) -> list[list[Any]]:
    """Return the launches that were noted, addresses named after the arguments that lie there."""
    names = {
        each.data_ptr(): f"argument {place}"
        for place, each in enumerate(arguments)
        if isinstance(each, torch.Tensor)
    }
    found = [[*_named(call, names)] for call in calls]
    calls.clear()
    return found


def _named(call: tuple[Any, ...], names: dict[int, str]) -> Iterator[Any]:
    listeners = slice(10, 13)  # metadata and hooks, of which there are none the second time
    for place, each in enumerate(call):
        if place in range(13)[listeners]:
            continue
        value = each
        if isinstance(value, torch.Tensor):
            value = value.data_ptr()
        if isinstance(value, tuple) and value and value[0] == "descriptor":
            address, *rest = value[1:]
            yield [
                names.get(address, "new"),
                *(list(r) if isinstance(r, tuple) else r for r in rest),
            ]
        elif isinstance(value, int) and value > 1 << 32:
            yield names.get(value, "new")
        else:
            yield value


def again(name: str, *, plain: bool) -> dict[str, Any]:
    """Record a call of an example, and make its launches for other tensors."""
    front = load(EXAMPLES / f"{name}.napkin")
    plan = front.plan("hopper")
    entry = load_kernel(kernel_source(plan.plain if plan and plain else plan), front.core)
    wished = {axis: 120 for axis in ("q", "x", "m", "n", "p") if axis in front.core.axes}
    sizes = axis_lengths(front.core, wished | {a: 2 for a in ("b",) if a in front.core.axes})
    first, other = (tuple(random_arguments(front.core, sizes, seed=s).values()) for s in (0, 1))
    _, launches = record(entry, first)
    calls.clear()
    entry(*other)
    wanted = seen_of(other)
    if launches is None:
        return {"case": name, "recorded": False}
    results = launches.run(other)
    found = seen_of(other)
    same = json.dumps(found) == json.dumps(wanted)
    return {
        "case": name,
        "recorded": True,
        "same": same,
        "results": len(results),
        "kernels": len(found),
    }


def with_an_entry_that(change: Callable[[str], str]) -> dict[str, bool]:
    """Tell whether launches of an entry whose text was changed are recorded, and their result is cleared."""
    front = parse("diagram twice(A[x]) -> B[x]\n    B[x] = 2 * A\n\nsizes x=4096")
    text = change(kernel_source(front.plan("hopper")))
    entry = load_kernel(text, front.core)
    _, launches = record(entry, (torch.randn(100),))
    torch.ones(100).add_(1)  # memory that is given out next, and is not zero
    again = None if launches is None else launches.run((torch.randn(100),))
    return {"recorded": again is not None, "cleared": bool(again and not again[0].any())}


def compiled_at_launches(name: str) -> list[int]:
    """Return how many kernels of a new module were compiled at each of its first launches."""
    front = load(EXAMPLES / f"{name}.napkin")
    entry = load_kernel(f"{kernel_source(front.plan('hopper'))}\n# new\n", front.core)
    functions = [each for each in entry.__globals__.values() if isinstance(each, JITFunction)]
    found: list[int] = []

    def count() -> None:
        caches = [each.device_caches[0][0] for each in functions if 0 in each.device_caches]
        found.append(sum(map(len, caches)))

    before_launches.append(count)
    record(entry, tuple(random_arguments(front.core, axis_lengths(front.core)).values()))
    before_launches.clear()
    calls.clear()
    return found


def variants(name: str) -> int:
    """Return how often Triton compiles an example's kernel over many lengths."""
    front = load(EXAMPLES / f"{name}.napkin")
    made = planning._make(front.plan("hopper"))
    entry = _load(made, front.core)
    for length, batch in ((64, 1), (65, 2), (128, 3), (1000, 1), (17, 1)):
        wished = {axis: length for axis in ("q", "x") if axis in front.core.axes}
        sizes = axis_lengths(front.core, wished | {"b": batch})
        entry(*random_arguments(front.core, sizes).values())
    functions = [each for each in entry.__globals__.values() if isinstance(each, JITFunction)]
    return max(len(each.device_caches[0][0]) for each in functions if 0 in each.device_caches)


def main() -> None:
    """Print a line a case."""
    stand_in()
    assert load_machine("hopper").capability == 90
    for name in ("causal", "window", "attention_lse"):
        print(json.dumps({"case": f"lengths of {name}", "variants": variants(name)}), flush=True)
    for name, plain in (
        ("causal", False),
        ("window", True),
        ("chain", False),
        ("attention_lse", True),
    ):
        print(json.dumps(again(name, plain=plain)), flush=True)
    changes = {
        "as it is": lambda text: text,
        "copies": lambda text: text.replace(
            "    B = torch.empty", "    A = A + 0\n    B = torch.empty"
        ),
        "reads data": lambda text: text.replace(
            "    B = torch", "    assert A[0].item() < 99\n    B = torch"
        ),
        "clears": lambda text: text.replace("    B = torch.empty", "    B = torch.zeros"),
        "fills": lambda text: text.replace("    B = torch.empty", "    B = torch.ones"),
        "views": lambda text: text.replace("    B = torch", "    A = A[None, :][0]\n    B = torch"),
        "picks": lambda text: text.replace(
            "    B = torch", "    A = A[torch.arange(100)]\n    B = torch"
        ),
    }
    for name, change in changes.items():
        print(json.dumps({"case": name, **with_an_entry_that(change)}), flush=True)
    print(json.dumps({"case": "new", "compiled": compiled_at_launches("chain")}), flush=True)
    print(json.dumps({"case": "imports", "torch._dynamo": "torch._dynamo" in sys.modules}))


if __name__ == "__main__":
    main()
