"""Speed of the plain Triton forms on the GPU at hand: full and causal attention, and every variant.

    python benchmarks/plain_forms.py > benchmarks/results/DATE-plain-forms.md

16k tokens in all, hidden size 2048, bf16, tiles as the planner chooses them. FLOPs are those of the
contractions that a mask leaves. Beside the table's own kernels stand PyTorch's: SDPA by flash and by cuDNN.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import torch
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench

from napkin.api import load
from napkin.runtime.bench import measure
from napkin.runtime.gpus import machine_at_hand

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENS, HIDDEN = 16384, 2048
GRID = [
    (d, q, name)
    for d in (64, 128, 256)
    for name in ("attention", "causal")
    for q in (1024, 4096, 16384)
]
VARIANTS = (
    "alibi", "softcap", "sinks", "document", "window", "gqa", "sigmoid", "spherical", "relative_bias",
    "attention_lse", "differential",
)  # fmt: skip
OTHERS = ("matmul", "mlp", "gated_mlp", "rmsnorm_linear", "layernorm_linear", "cross_entropy", "mla",
          "decode", "paged_decode", "softmax", "layernorm")  # fmt: skip


def attention_sizes(head: int, length: int) -> dict[str, int]:
    """Return lengths of 16k tokens and hidden size 2048."""
    return {
        "b": TOKENS // length,
        "h": HIDDEN // head,
        "q": length,
        "x": length,
        "d": head,
        "v": head,
    }


def peers(sizes: dict[str, int], *, causal: bool) -> list[float]:
    """Return PyTorch's TFLOP/s by flash and by cuDNN on random data of these sizes."""
    shape = (sizes["b"], sizes["h"], sizes["q"], sizes["d"])
    query, key, value = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    flops = 4 * sizes["b"] * sizes["h"] * sizes["q"] ** 2 * sizes["d"] * (0.5 if causal else 1.0)
    rates = []
    attend = torch.nn.functional.scaled_dot_product_attention
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        with sdpa_kernel(backend):
            time = do_bench(
                lambda: attend(query, key, value, is_causal=causal), return_mode="median"
            )
        rates.append(flops / time / 1e9)
    return rates


def row(name: str, sizes: dict[str, int] | None) -> tuple[str, float]:
    """Measure one example; return its table cells and its rate."""
    plan = load(EXAMPLES / f"{name}.napkin").plan(machine_at_hand().name, sizes=sizes, dtype="bf16")
    found = measure(plan)
    tiles = " ".join(f"{tile.axis}{tile.tile}" for tile in plan.kernels[0].program.axes if tile.dim)
    cells = (
        f"{tiles} w{plan.kernels[0].warps} s{plan.kernels[0].stages} | {found.seconds * 1e3:.3f} | "
        f"{found.predicted_seconds * 1e3:.3f} | {found.rate / 1e12:.0f}"
    )
    return cells, found.rate / 1e12


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="only head 128 at 4k, and the variants"
    )
    quick = parser.parse_args().quick
    name = torch.cuda.get_device_name()
    print(f"# Plain Triton forms on {name}\n")
    print(
        f"{datetime.date.today()}, torch {torch.__version__}, triton {triton.__version__}, bf16, random data,"
    )
    print("median of 500 ms of runs with a cold L2. Command: `python benchmarks/plain_forms.py`.\n")
    print(
        "| head | length | diagram | plan | ms | predicted ms | TFLOP/s | SDPA flash | SDPA cuDNN |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for head, length, diagram in GRID:
        if quick and (head, length) != (128, 4096):
            continue
        sizes = attention_sizes(head, length)
        cells, _ = row(diagram, sizes)
        flash, cudnn = peers(sizes, causal=diagram == "causal")
        print(
            f"| {head} | {length} | {diagram} | {cells} | {flash:.0f} | {cudnn:.0f} |", flush=True
        )
    print(
        "\n| diagram (own sizes; variants of attention: head 128, 4k) | plan | ms | predicted ms | TFLOP/s |"
    )
    print("|---|---|---|---|---|")
    for diagram in (*VARIANTS, *OTHERS):
        try:
            print(f"| {diagram} | {row(diagram, None)[0]} |", flush=True)
        except Exception as error:
            print(
                f"| {diagram} | failed: {type(error).__name__} {str(error)[:120]} | | | |",
                flush=True,
            )


if __name__ == "__main__":
    main()
