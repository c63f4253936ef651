"""Kernels compiled ahead of time, without a GPU, for both architectures."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from napkin.language.errors import InternalError
from napkin.runtime.aot import TRACKED, Resources, describe, inspect_kernel

needs_triton = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton is not installed"
)

KERNELS = """
import triton
import triton.language as tl


@triton.jit
def by_pointer(A, B, C, K, TILE: tl.constexpr, DEPTH: tl.constexpr):
    rows = tl.arange(0, TILE)
    deep = tl.arange(0, DEPTH)
    total = tl.zeros([TILE, TILE], tl.float32)
    for k in range(0, K, DEPTH):
        a = tl.load(A + rows[:, None] * K + k + deep[None, :])
        b = tl.load(B + (k + deep)[:, None] * TILE + rows[None, :])
        total = tl.dot(a, b, total)
    tl.store(C + rows[:, None] * TILE + rows[None, :], total.to(tl.float16))


@triton.jit
def by_descriptor(A, B, C, K, TILE: tl.constexpr):
    total = tl.zeros([TILE, TILE], tl.float32)
    for k in range(0, K, TILE):
        total = tl.dot(A.load([0, k]), B.load([k, 0]), total)
    C.store([0, 0], tl.exp2(total).to(tl.float16))


@triton.jit
def broken(A, TILE: tl.constexpr):
    tl.store(A, tl.dot(TILE, TILE))
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aot") / "kernels.py"
    path.write_text(KERNELS, encoding="utf-8")
    return path


@needs_triton
def test_a_pointer_kernel_for_ampere_uses_mma_and_cp_async(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # the worker must not inherit it
    found = inspect_kernel(
        kernels,
        "by_pointer",
        arch=80,
        signature={"A": "*fp16", "B": "*fp16", "C": "*fp16", "K": "i32"},
        constants={"TILE": 64, "DEPTH": 32},
        divisible_by_16=("A", "B", "C", "K"),
        options={"num_warps": 4, "num_stages": 3},
    )
    assert found.instructions["HMMA"] > 0
    assert found.instructions["LDGSTS"] > 0
    assert found.instructions["HGMMA"] == found.instructions["UTMALDG"] == 0
    assert 32 < found.registers <= 255
    assert (found.spill_store_bytes, found.spill_load_bytes) == (0, 0)
    assert found.shared_bytes >= 2 * 2 * 64 * 32 * 2
    assert found.warps == 4
    assert found.warnings == ()
    assert found.total_instructions > found.instructions["HMMA"]
    assert found.compile_seconds > 0


@needs_triton
def test_a_descriptor_kernel_for_hopper_uses_wgmma_and_tma(kernels: Path) -> None:
    tile = "tensordesc<fp16[64,64]>"
    found = inspect_kernel(
        kernels,
        "by_descriptor",
        arch=90,
        signature={"A": tile, "B": tile, "C": tile, "K": "i32"},
        constants={"TILE": 64},
        options={"num_warps": 4, "num_stages": 2},
    )
    assert found.instructions["HGMMA"] > 0
    assert found.instructions["UTMALDG"] > 0
    assert found.instructions["UTMASTG"] > 0
    assert found.instructions["MUFU.EX2"] > 0
    assert found.instructions["HMMA"] == found.instructions["LDGSTS"] == 0
    assert found.global_scratch_bytes == 0
    assert found.spill_store_bytes == 0


@needs_triton
def test_a_kernel_that_does_not_compile_is_an_internal_error(kernels: Path) -> None:
    with pytest.raises(InternalError, match="kernel broken does not compile for sm_90"):
        inspect_kernel(kernels, "broken", arch=90, signature={"A": "*fp16"}, constants={"TILE": 64})


@needs_triton
def test_an_argument_without_a_type_is_named(kernels: Path) -> None:
    with pytest.raises(InternalError, match=r"without a type: \['K'\]"):
        inspect_kernel(
            kernels,
            "by_descriptor",
            arch=90,
            signature={"A": "*fp16", "B": "*fp16", "C": "*fp16"},
            constants={"TILE": 64},
        )


LOG = """ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function 'k'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
    16 bytes stack frame, 284 bytes spill stores, 264 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""  # noqa: E501 - as the assembler prints it
CODE = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 MUFU.EX2 R5, R4 ;
        /*0020*/                   HGMMA.64x64x16.F32 R24, gdesc[UR4], RZ, !UPT ;
        /*0030*/         @!UP0     UTMALDG.2D [UR8], [UR4] ;
        /*0040*/                   STL [R1], R2 ;
.L_x_0:
        /*0050*/                   LDGSTS.E.BYPASS.128 [R3], [R4.64] ;
"""


def test_the_assemblers_log_and_the_code_are_read() -> None:
    answer = {"ptxas": LOG, "sass": CODE, "shared": 1024, "global_scratch": 0, "warps": 8}
    found = describe({**answer, "seconds": 0.5})
    assert isinstance(found, Resources)
    assert (found.registers, found.shared_bytes, found.warps) == (255, 1024, 8)
    assert (found.spill_store_bytes, found.spill_load_bytes) == (284, 264)
    assert len(found.warnings) == 1
    assert "serialized" in found.warnings[0]
    counted = {name: count for name, count in found.instructions.items() if count}
    assert counted == {"HGMMA": 1, "UTMALDG": 1, "LDGSTS": 1, "STL": 1, "MUFU.EX2": 1}
    assert found.total_instructions == 6
    assert set(found.instructions) == set(TRACKED)
