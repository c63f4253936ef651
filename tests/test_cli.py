"""The command line: products on stdout, diagnostics on stderr, statuses 0, 1 and 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from napkin.cli import main

ROOT = Path(__file__).parent.parent
ATTENTION = str(ROOT / "examples" / "attention.napkin")
MATMUL = str(ROOT / "examples" / "matmul.napkin")
VERBS = [
    "check",
    "derive",
    "pseudo",
    "cost",
    "plan",
    "draw",
    "report",
    "compile",
    "verify",
    "bench",
    "explain",
]
Capture = pytest.CaptureFixture[str]


def status_of(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "napkin", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


CHAIN = str(ROOT / "examples" / "chain.napkin")


# --- usage ----------------------------------------------------------------------------------------


def test_help_opens_with_an_example_and_lists_every_command(capsys: Capture) -> None:
    assert status_of("--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("napkin compile examples/attention.napkin --machine hopper -o out\n")
    for verb in VERBS:
        assert f"\n    {verb} " in shown


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help(verb: str, capsys: Capture) -> None:
    assert status_of(verb, "--help") == 0
    assert f"usage: napkin {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("chekc", ATTENTION),
        ("cost",),
        ("plan", ATTENTION),
        ("compile", ATTENTION, "--machine", "hopper"),
        ("cost", ATTENTION, "--sizes", "q"),
        ("cost", ATTENTION, "--sizes", "q=-1"),
        ("cost", ATTENTION, "--sizes", "q=1,q=2"),
        ("cost", ATTENTION, "--dtype", "float"),
        ("bench", ATTENTION, "--vs", "fa9"),
    ],
)
def test_a_wrong_command_line_is_status_2(arguments: tuple[str, ...], capsys: Capture) -> None:
    assert status_of(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage:" in captured.err


def test_help_needs_nothing_heavy() -> None:
    started = time.perf_counter()
    done = run("--help")
    assert done.returncode == 0
    assert time.perf_counter() - started < 3  # 0.1 s on an idle machine


def test_the_version_is_printed(capsys: Capture) -> None:
    assert status_of("--version") == 0
    assert capsys.readouterr().out.startswith("napkin 0.")


# --- commands that print --------------------------------------------------------------------------


def test_check_says_that_a_file_is_sound(capsys: Capture) -> None:
    assert status_of("check", ATTENTION) == 0
    assert "attention is sound" in capsys.readouterr().out


def test_check_warns_of_an_exponential_that_may_overflow(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "f.napkin"
    path.write_text("diagram f(S[q x]) -> O[q]\n    O[q] = sum[x](exp(S))\n", encoding="utf-8")
    assert status_of("check", str(path)) == 0
    assert "warning[N301]" in capsys.readouterr().err


def test_derive_shows_the_state(capsys: Capture) -> None:
    assert status_of("derive", ATTENTION) == 0
    assert capsys.readouterr().out.startswith("attention: one pass over `x`")


def test_pseudo_and_plan_print(capsys: Capture) -> None:
    assert status_of("pseudo", ATTENTION, "--machine", "a100") == 0
    assert capsys.readouterr().out
    assert status_of("plan", ATTENTION, "--machine", "a100") == 0
    assert "on a100" in capsys.readouterr().out


def test_the_block_that_plan_prints_fixes_the_same_plan(tmp_path: Path, capsys: Capture) -> None:
    assert status_of("plan", ATTENTION, "--machine", "hopper") == 0
    first = capsys.readouterr().out
    block = first[first.index("\non ") :]
    path = tmp_path / "fixed.napkin"
    path.write_text(Path(ATTENTION).read_text(encoding="utf-8") + block, encoding="utf-8")
    assert status_of("plan", str(path), "--machine", "hopper") == 0
    fixed = capsys.readouterr().out
    assert "plain loop: its `on` block fixes the plain loop's tiles" in fixed
    assert fixed.endswith(block)


def test_on_ampere_the_block_that_plan_prints_fixes_the_same_plan(
    tmp_path: Path, capsys: Capture
) -> None:
    assert status_of("plan", MATMUL, "--machine", "a100") == 0
    first = capsys.readouterr().out
    path = tmp_path / "fixed.napkin"
    text = Path(MATMUL).read_text(encoding="utf-8") + first[first.index("\non ") :]
    path.write_text(text, encoding="utf-8")
    assert status_of("plan", str(path), "--machine", "a100") == 0
    fixed = capsys.readouterr().out
    kept = first.index("\nchosen from ")
    assert fixed[:kept] == first[:kept]
    assert fixed[kept:].startswith("\nfixed by hand; there are ")
    assert fixed.endswith(first[first.index("\non ") :])


def test_on_ampere_the_block_that_plan_prints_fixes_the_plain_loop(
    tmp_path: Path, capsys: Capture
) -> None:
    assert status_of("plan", ATTENTION, "--machine", "a100") == 0
    first = capsys.readouterr().out
    assert "\nloop with operands in shared memory: 4 warps, tiles " in first
    assert "to fix the plain loop instead, put this in the file:" in first
    path = tmp_path / "fixed.napkin"
    text = Path(ATTENTION).read_text(encoding="utf-8") + first[first.index("\non ") :]
    path.write_text(text, encoding="utf-8")
    assert status_of("plan", str(path), "--machine", "a100") == 0
    fixed = capsys.readouterr().out
    assert "plain loop: its `on` block fixes the plain loop's tiles" in fixed
    assert fixed.endswith(first[first.index("\non ") :])


def test_plan_says_why_and_shows_as_many_plans_as_asked(capsys: Capture) -> None:
    assert status_of("plan", ATTENTION, "--machine", "a100", "--top", "3") == 0
    shown = capsys.readouterr().out
    assert "chosen from " in shown
    assert "more shared memory than the 163 KB of a block" in shown
    assert "the runner-up, " in shown
    assert [row[0] for row in shown.splitlines() if row[:3] in ("1  ", "2  ", "3  ", "4  ")] == [
        "1",
        "2",
        "3",
    ]
    assert status_of("plan", ATTENTION, "--machine", "a100", "--top", "-1") == 2
    assert "no number of plans" in capsys.readouterr().err


def test_a_type_that_a_machine_lacks_is_costed_and_not_planned(capsys: Capture) -> None:
    given = (ATTENTION, "--machine", "a100", "--dtype", "fp8e4m3")
    assert status_of("plan", *given) == 1
    assert "error[N408]: a100 has no `fp8e4m3`" in capsys.readouterr().err
    assert status_of("cost", *given) == 0
    assert "a100: it has no fp8e4m3, so there is no kernel" in capsys.readouterr().out
    assert status_of("cost", ATTENTION, "--machine", "a100", "--compare", "bf16,fp8") == 0
    assert "a100, fp8e4m3: it has no fp8e4m3" in capsys.readouterr().out


def test_cost_prints_formulas_and_a_table(capsys: Capture) -> None:
    assert status_of("cost", ATTENTION) == 0
    shown = capsys.readouterr().out
    assert "H = " in shown
    assert "M = " in shown
    assert "predicted" in shown


def test_cost_as_json_has_these_fields(capsys: Capture) -> None:
    sizes = "b=1,q=512,x=512"
    assert status_of("cost", ATTENTION, "--machine", "a100", "--sizes", sizes, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        "diagram",
        "machine",
        "sizes",
        "dtype",
        "flops",
        "pipelines",
        "levels",
        "bound_by",
        "predicted_seconds",
        "plan",
    ]
    assert found["diagram"] == "attention"
    assert found["machine"] == "a100"
    assert found["sizes"]["q"] == 512
    assert found["flops"] == 2 * 16 * 512 * 512 * 256
    fields = ["transfer_bytes", "transfer_elements", "memory_bytes", "formula"]
    for name, level in found["levels"].items():
        assert list(level) == fields + (["expected_bytes"] if name == "dram" else [])
    assert list(found["levels"]["dram"]["expected_bytes"]) == ["read", "written", "kept"]


def test_every_command_takes_a_diagram_of_several_kernels(tmp_path: Path, capsys: Capture) -> None:
    shown: dict[str, str] = {}
    for verb in ("check", "derive", "pseudo", "cost"):
        assert status_of(verb, CHAIN) == 0
        shown[verb] = capsys.readouterr().out
    for verb in ("plan", "report"):
        assert status_of(verb, CHAIN, "--machine", "hopper") == 0
        shown[verb] = capsys.readouterr().out
    assert shown["derive"].startswith("chain: one pass over `n`")
    for verb in ("pseudo", "plan"):
        assert "cut into 2 kernels; kept in memory between them: T[m n] bf16" in shown[verb]
    assert "2     " in shown["cost"].partition("cut into 2 kernels:")[2]
    assert "all 2 kernels" in shown["report"]
    assert status_of("compile", CHAIN, "--machine", "hopper", "-o", str(tmp_path)) == 0
    compile((tmp_path / "chain.py").read_text(encoding="utf-8"), "chain.py", "exec")
    kernels = json.loads((tmp_path / "chain.cost.json").read_text(encoding="utf-8"))["plan"][
        "kernels"
    ]
    assert [each["outputs"] for each in kernels] == [["T"], ["D"]]


def test_explain_prints_a_section(capsys: Capture) -> None:
    assert status_of("explain", "N203") == 0
    assert capsys.readouterr().out.startswith("## N203: ")


def test_one_of_several_diagrams_is_chosen_by_name(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "two.napkin"
    text = (
        "diagram one(A[x]) -> B[x]\n    B[x] = A\n\ndiagram two(A[x]) -> B[x]\n    B[x] = 2 * A\n"
    )
    path.write_text(text, encoding="utf-8")
    assert status_of("check", str(path)) == 0
    assert capsys.readouterr().out.count("is sound") == 2
    assert status_of("derive", str(path)) == 0
    assert capsys.readouterr().out.startswith("two: ")
    assert status_of("check", str(path), "--diagram", "one") == 0
    assert capsys.readouterr().out == f"{path}: one is sound\n"
    assert status_of("check", str(path), "--diagram", "three") == 1
    assert "error[N612]" in capsys.readouterr().err


# --- commands that write --------------------------------------------------------------------------


def test_draw_and_report_write_svg(tmp_path: Path, capsys: Capture) -> None:
    for verb, options in (("draw", ()), ("report", ("--machine", "hopper"))):
        path = tmp_path / f"{verb}.svg"
        assert status_of(verb, ATTENTION, *options, "-o", str(path)) == 0
        assert path.read_text(encoding="utf-8").startswith("<svg ")
    assert status_of("draw", ATTENTION) == 0
    assert capsys.readouterr().out.startswith("<svg ")


def test_compile_writes_five_files_and_says_so(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "deep" / "out"
    assert status_of("compile", ATTENTION, "--machine", "hopper", "-o", str(folder)) == 0
    *paths, headline = capsys.readouterr().out.splitlines()
    endings = (".py", ".pseudo.txt", ".svg", ".cost.svg", ".cost.json")
    assert paths == [str(folder / f"attention{ending}") for ending in endings]
    assert sorted(each.name for each in folder.iterdir()) == sorted(Path(p).name for p in paths)
    assert headline.startswith("attention for h100 in bf16: H = ")
    compile((folder / "attention.py").read_text(encoding="utf-8"), "attention.py", "exec")
    assert json.loads((folder / "attention.cost.json").read_text(encoding="utf-8"))


def test_compile_twice_writes_the_same(tmp_path: Path) -> None:
    texts = []
    for seed in ("0", "1"):
        done = run(
            "compile", ATTENTION, "--machine", "a100", "-o", str(tmp_path), PYTHONHASHSEED=seed
        )
        assert done.returncode == 0, done.stderr
        files = sorted(tmp_path.iterdir())
        texts.append([each.read_text(encoding="utf-8") for each in files])
    assert texts[0] == texts[1]


def test_compile_follows_no_link_out_of_its_folder(tmp_path: Path, capsys: Capture) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("mine", encoding="utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "attention.py").symlink_to(outside)
    assert status_of("compile", ATTENTION, "--machine", "hopper", "-o", str(folder)) == 1
    assert "error[N605]" in capsys.readouterr().err
    assert outside.read_text(encoding="utf-8") == "mine"


def test_without_graphviz_the_kernel_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert status_of("compile", ATTENTION, "--machine", "hopper", "-o", str(tmp_path)) == 0
    assert "warning[N610]" in capsys.readouterr().err
    assert (tmp_path / "attention.py").is_file()
    assert not (tmp_path / "attention.svg").exists()


@pytest.mark.parametrize("verb", ["draw", "compile"])
def test_what_cannot_be_written_is_an_error(verb: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    options = ["--machine", "hopper"] if verb == "compile" else []
    assert status_of(verb, ATTENTION, *options, "-o", str(tmp_path / "file" / "x.svg")) == 1
    assert "error[N605]: cannot write" in capsys.readouterr().err


# --- mistakes -------------------------------------------------------------------------------------


def test_a_mistake_in_the_file_is_status_1_and_on_stderr(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "wrong.napkin"
    path.write_text("diagram f(A[x]) -> B[x]\n    B[x] = sum[y](A)\n", encoding="utf-8")
    assert status_of("check", str(path)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error[N" in captured.err
    assert "\x1b[" not in captured.err  # no terminal, no colour


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("check", "nowhere.napkin"), "N604"),
        (("plan", ATTENTION, "--machine", "hoper"), "N401"),
        (("cost", ATTENTION, "--sizes", "z=1"), "N403"),
        (("cost", ATTENTION, "--sizes", "q=0"), "N403"),
        (("explain", "N999"), "N117"),
    ],
)
def test_every_mistake_has_a_code(arguments: tuple[str, ...], code: str, capsys: Capture) -> None:
    assert status_of(*arguments) == 1
    assert f"error[{code}]" in capsys.readouterr().err


def test_a_benchmark_without_a_gpu_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert status_of("bench", ATTENTION) == 1
    assert "error[N608]: a benchmark needs a GPU" in capsys.readouterr().err


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("napkin.api.load", interrupt)
    assert status_of("derive", ATTENTION) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_is_no_noise() -> None:
    command = f"{sys.executable} -m napkin derive {ATTENTION} | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.mark.slow
def test_verify_runs_the_kernel_without_a_gpu(tmp_path: Path) -> None:
    done = run("verify", ATTENTION, "--machine", "hopper", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (
        "on the CPU the plain form runs; the warp-specialised one needs a Hopper GPU" in done.stdout
    )
    for what in ("O", "O, by the warp-specialised program in NumPy"):
        (line,) = [each for each in done.stdout.splitlines() if f"  {what}: relative error" in each]
        assert line.endswith(": ok")
