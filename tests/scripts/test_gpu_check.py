"""scripts/gpu_check.py: a part that hangs, crashes or cannot run costs its own result and no other."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import benchmarks
import pytest
from benchmarks import ROOT
from docs_text import table
from tiny_models import save_model

DRIVER = """
import json, sys
sys.path.insert(0, "scripts")
import gpu_check
from gpu_check import Part, read_own

def part(name, code, limit=20, seconds=0, missing=""):
    return Part(name, "a part of a test", seconds, limit, lambda settings: [sys.executable, "-c", code], read_own,
                lambda settings: missing)

gpu_check.LOOK = part("machine", "print('{\\"passed\\": true, \\"found\\": \\"it\\", \\"values\\": {}}')")
gpu_check.PARTS = tuple(part(**each) for each in json.loads(sys.argv.pop(1)))
sys.exit(gpu_check.main())
"""
"""The check with parts of a test's own: small programs."""
FINE = """print('{"passed": true, "found": "all is well", "values": {"number": 3}}')"""
HANGS = """
import pathlib, subprocess, sys, time
daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path(FILE).write_text(str(daemon.pid))
print("half of the work", flush=True)
time.sleep(600)
"""


def start(
    parts: list[dict[str, Any]], output: Path, *options: str, driver: str = DRIVER, **more: Any
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", driver, json.dumps(parts), "--device", "cpu", "--tiny", "--model", "tests"]
    return subprocess.Popen(
        [*command, "--output", str(output), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def run(parts: list[dict[str, Any]], output: Path, *options: str) -> tuple[int, str, str, list[dict[str, Any]]]:
    """Exit code, standard output, standard error, and the rows of results.jsonl but the machine's."""
    with start(parts, output, *options) as process:
        out, err = process.communicate(timeout=60)
    path = output / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return process.returncode, out, err, rows[1:]


def hanging(folder: Path) -> str:
    return f"FILE = {str(folder / 'daemon')!r}\n" + HANGS


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def appears(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, "still alive"
        time.sleep(0.02)


def test_what_passes(tmp_path: Path) -> None:
    code, out, _, (row,) = run([{"name": "one", "code": FINE}], tmp_path / "out")
    assert code == 0
    assert (row["part"], row["outcome"], row["found"]) == ("one", "passed", "all is well")
    assert row["values"] == {"number": 3} and row["exit_code"] == 0 and row["date"].endswith("+00:00")
    assert "all is well" in out and str(tmp_path / "out" / "results.jsonl") in out


def test_a_part_that_hangs_is_killed_with_what_it_started_and_the_next_goes_on(tmp_path: Path) -> None:
    parts = [{"name": "hangs", "code": hanging(tmp_path), "limit": 2}, {"name": "next", "code": FINE}]
    code, _, _, rows = run(parts, tmp_path / "out")
    assert code == 1
    assert [(row["part"], row["outcome"]) for row in rows] == [("hangs", "killed"), ("next", "passed")]
    assert rows[0]["found"] == "did not end within 2 s; last output: half of the work"
    assert 2 <= rows[0]["seconds"] < 12 and rows[0]["exit_code"] is None
    gone(int((tmp_path / "daemon").read_text()))  # in a session of its own


def test_a_part_that_crashes(tmp_path: Path) -> None:
    parts = [
        {"name": "signal", "code": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"},
        {"name": "raises", "code": "print('a line'); raise RuntimeError('out of luck')"},
        {"name": "lies", "code": FINE + "\nraise SystemExit(3)"},
        {"name": "mumbles", "code": "print('well')"},
        {"name": "next", "code": FINE},
    ]
    code, _, _, rows = run(parts, tmp_path / "out")
    assert code == 1
    assert [row["outcome"] for row in rows] == ["failed"] * 4 + ["passed"]
    assert "ended by SIGSEGV" in rows[0]["found"]
    assert rows[1]["found"] == "exit code 1; last output: RuntimeError: out of luck"
    assert rows[2]["found"] == "exit code 3; all is well"
    assert "its output cannot be read" in rows[3]["found"] and "last output: well" in rows[3]["found"]


def test_what_a_part_leaves_behind_is_killed_and_told(tmp_path: Path) -> None:
    daemon = hanging(tmp_path).replace("time.sleep(600)\n", "\n") + FINE
    code, _, _, (row,) = run([{"name": "untidy", "code": daemon}], tmp_path / "out")
    assert (code, row["outcome"]) == (1, "failed")
    assert "processes that were still running were killed" in row["found"]
    gone(int((tmp_path / "daemon").read_text()))


def test_a_part_whose_tool_is_missing_is_not_run(tmp_path: Path) -> None:
    parts = [{"name": "missing", "code": "1 / 0", "missing": "vllm is not installed"}, {"name": "next", "code": FINE}]
    code, out, _, rows = run(parts, tmp_path / "out")
    assert code == 4
    assert [(row["outcome"], row["found"]) for row in rows] == [
        ("not run", "vllm is not installed"), ("passed", "all is well")
    ]  # fmt: skip
    assert "vllm is not installed" in out


def test_no_part_is_begun_or_goes_on_beyond_the_time_of_all(tmp_path: Path) -> None:
    parts = [{"name": "long", "code": "import time; time.sleep(600)", "limit": 300}, {"name": "late", "code": FINE}]
    started = time.monotonic()
    code, _, _, rows = run(parts, tmp_path / "out", "--budget-seconds", "6")
    assert code == 1 and time.monotonic() - started < 30
    assert [row["outcome"] for row in rows] == ["killed", "not run"]
    assert "no time left" in rows[1]["found"]


def test_a_check_that_is_killed_leaves_what_it_had_and_no_process(tmp_path: Path) -> None:
    parts = [{"name": "first", "code": FINE}, {"name": "hangs", "code": hanging(tmp_path)}]
    with start(parts, tmp_path / "out") as process:
        appears(tmp_path / "daemon")
        (child,) = [int(each) for each in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        process.kill()
    gone(child)
    os.kill(int((tmp_path / "daemon").read_text()), signal.SIGKILL)  # nobody is left who could know of it
    shown = subprocess.run(
        [sys.executable, "scripts/gpu_check.py", "--show", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0 and "all is well" in shown.stdout and "hangs" not in shown.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_kills_its_part_and_shows_what_it_has(number: signal.Signals, tmp_path: Path) -> None:
    parts = [{"name": "hangs", "code": hanging(tmp_path)}, {"name": "next", "code": FINE}]
    with start(parts, tmp_path / "out") as process:
        appears(tmp_path / "daemon")
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted before it" in out
    gone(int((tmp_path / "daemon").read_text()))


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/gpu_check.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd"), reason="this machine has a GPU")
def test_without_a_gpu_the_machine_has_failed_and_nothing_else_is_begun(tmp_path: Path) -> None:
    done = gpu_check("--output", str(tmp_path / "out"), "--model", "tests")
    assert done.returncode == 4 and "torch finds no GPU" in done.stderr
    (row,) = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert (row["part"], row["outcome"]) == ("machine", "failed")
    assert gpu_check("--show", str(tmp_path / "out")).returncode == 1


def test_a_torch_that_crashes_is_not_called_a_missing_gpu(tmp_path: Path) -> None:
    crashing = DRIVER.replace("print('{", "import os; os.abort(); print('{")
    with start([{"name": "fine", "code": FINE}], tmp_path / "out", driver=crashing) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "torch cannot look for a GPU: ended by SIGABRT" in err


def test_a_last_line_that_was_cut_off_is_left_out_and_said(tmp_path: Path) -> None:
    row = {"part": "machine", "outcome": "passed", "found": "it", "command": []}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + '\n{"part": "doc')
    done = gpu_check("--show", str(tmp_path))
    assert done.returncode == 0 and "machine" in done.stdout and "was cut off" in done.stderr
    (tmp_path / "results.jsonl").write_text('{"a": 1}\n')
    done = gpu_check("--show", str(tmp_path))
    assert done.returncode == 2 and "was not written by this check" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [("--output", "/dev/null/x"), ("--only", ",")])
def test_what_cannot_be_used_is_an_error(options: tuple[str, str]) -> None:
    done = gpu_check("--device", "cpu", "--model", "tests", *options)
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_fits_the_terminal(columns: int, tmp_path: Path) -> None:
    code = FINE.replace("all is well", "word " * 60)
    assert run([{"name": "generation-1.5b", "code": code}], tmp_path / "out")[0] == 0
    terminal, other = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    command = [sys.executable, "scripts/gpu_check.py", "--show", str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, stdout=other, env=environment, check=True)
    os.close(other)
    with os.fdopen(terminal, "rb") as handle:
        text = b""
        try:
            while chunk := handle.read1():
                text += chunk
        except OSError:  # what Linux says where the other end is closed
            pass
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.decode())
    assert columns - 20 < max(len(line.rstrip()) for line in plain.splitlines()) <= columns
    assert plain.split().count("word") == 60 and "generation-1.5b" in plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "no-such-part"], "unknown part 'no-such-part' (parts: one)"),
        (["--skip", "one"], "no part is left"),
        (["--budget-seconds", "0"], "--budget-seconds must be more than"),
        (["--show", "tests"], "there is no results.jsonl in it"),
    ],
)
def test_useless_arguments_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    code, _, err, rows = run([{"name": "one", "code": FINE}], tmp_path / "out", *options)
    assert (code, rows) == (2, []) and message in err


def test_an_output_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("keep me")
    code, _, err, rows = run([{"name": "one", "code": FINE}], tmp_path)
    assert (code, rows) == (2, []) and "not an empty folder" in err and "fix:" in err
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


# ---- what the parts say, read


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with benchmarks.script("gpu_check") as module:
        yield module


FIGURE = (
    'target ratio >= 5: {met}\n{{"ours": 30.0, "baseline": 10.0, "unit": "tokens/s", "ratio": 3.0, "benchmark": "it"}}'
)


def test_a_benchmark_below_its_target_has_not_passed(script: ModuleType) -> None:
    real, tiny = script.Settings(), script.Settings(tiny=True)
    outcome, words, values = script.read_figure(0, FIGURE.format(met="MISSED"), real)
    assert outcome == "missed" and values["ratio"] == 3.0
    assert words == "30 against 10 tokens/s: ratio 3 (target ratio >= 5, MISSED)"
    assert script.read_figure(0, FIGURE.format(met="met"), real)[0] == "passed"
    assert script.read_figure(0, FIGURE.format(met="MISSED"), tiny)[0] == "passed"  # its speed means nothing
    assert script.exit_code([script.Result("it", "missed", "")]) == 1


@pytest.mark.parametrize(
    ("code", "last", "outcome"),
    [
        (0, "12 passed, 1 skipped in 3.21s", "passed"),
        (0, "5 skipped in 0.10s", "failed"),
        (1, "1 failed, 12 passed in 3.21s", "failed"),
        (5, "no tests ran in 0.01s", "failed"),
    ],
)
def test_tests_pass_when_some_ran_and_none_failed(script: ModuleType, code: int, last: str, outcome: str) -> None:
    output = f"..F\nFAILED tests/gpu/test_it.py::test_that - assert 0\n{last}\n"
    found = script.read_tests(code, output, script.Settings())
    assert found[0] == outcome and last in found[1] and "test_it.py::test_that" in found[1]


def doctor(profile: str, state: str = "ok", can_run: bool = True) -> str:
    lines = [{"name": "kernel launch", "state": state, "found": "it is so", "do": ""}]
    facts = {"profile": profile, "why": "because", "torch": "2.13.0"}
    other = {"name": "verifiers", "facts": {}, "lines": [{"name": "go", "state": "failed", "found": "no go"}]}
    return json.dumps({"can_run": can_run, "sections": [other, {"name": "hardware", "facts": facts, "lines": lines}]})


def test_the_doctor_has_to_see_the_gpu(script: ModuleType) -> None:
    gpu, cpu = script.Settings(), script.Settings(device="cpu")
    assert script.read_doctor(0, doctor("cuda"), gpu)[0] == "passed"
    assert script.read_doctor(0, doctor("cpu"), gpu)[0] == "failed"
    assert script.read_doctor(0, doctor("cpu"), cpu)[0] == "passed"
    assert script.read_doctor(0, doctor("cuda", can_run=False), gpu)[0] == "failed"
    outcome, words, _ = script.read_doctor(0, doctor("cuda", state="failed"), gpu)
    assert outcome == "failed" and "kernel launch: it is so" in words


# ---- launches, as the profiler of a real GPU would tell them


@pytest.fixture(scope="module")
def parts() -> Iterator[ModuleType]:
    with benchmarks.script("_gpu_parts") as module:
        yield module


def test_calls_of_the_host_are_told_apart_by_name(parts: ModuleType) -> None:
    names = [
        *["cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch", "hipExtModuleLaunchKernel"],
        *["cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize", "cudaMemcpy"],
        *["cudaMemcpyAsync", "cudaMemsetAsync"],
        *["aten::add", "cudaMalloc", "cudaStreamWaitEvent", "cudaEventRecord", "Memcpy DtoH (Device -> Pinned)"],
        *["void at::native::vectorized_elementwise_kernel<4>", "cudaStreamIsCapturing"],
    ]
    found = parts.host_calls(names)
    assert found == {"launches": 5, "waits": 4, "copies": 3}  # a plain cudaMemcpy both copies and waits


def test_the_pretended_count_is_read_from_what_the_benchmark_printed(parts: ModuleType) -> None:
    rows = [
        {"benchmark": "launches of an optimizer step, tiny", "ours": 443.0},
        {"benchmark": "launches of a decode step, tiny, 3 rows", "ours": 82.0},
    ]
    text = "decode step of 2 rows: 79 launches\n" + "".join(json.dumps(row) + "\n" for row in rows)
    assert parts.pretended_launches(text) == {"optimizer": 443.0, "decode": 82.0}
    assert parts.pretended_launches("") == {}


def test_a_count_that_was_carried_goes_to_the_part(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert "--pretended" not in script.launches(script.Settings())
    (tmp_path / script.LAUNCHES).parent.mkdir(parents=True)
    (tmp_path / script.LAUNCHES).touch()
    assert script.launches(script.Settings())[-2:] == ["--pretended", str(tmp_path / script.LAUNCHES)]


# ---- the parts themselves


def test_the_plan_leaves_no_part_without_time(script: ModuleType) -> None:
    machine = 10
    parts = [part for part in script.PARTS if not part.name.startswith("vllm")]  # an option asks for those
    assert machine + sum(part.seconds for part in parts) <= script.BUDGET_SECONDS - script.REPORT_SECONDS
    assert all(part.seconds <= part.limit <= script.BUDGET_SECONDS / 3 for part in script.PARTS)


def test_the_page_has_the_plan_of_every_part(script: ModuleType) -> None:
    rows = table(ROOT / "docs/gpu-check.md", "## The parts")
    written = [(row[0].strip("`"), row[1], row[2]) for row in rows]
    assert written == [(part.name, f"{part.seconds:g} s", f"{part.limit:g} s") for part in script.PARTS]


def test_vllm_is_asked_for_by_its_interpreter(script: ModuleType) -> None:
    settings = script.Settings()
    assert "no --vllm PYTHON" in script.no_vllm(settings)
    assert "there is no program no-such-python" in script.no_vllm(script.Settings(vllm="no-such-python"))
    assert "has no vllm" in script.no_vllm(script.Settings(vllm=sys.executable))
    part = next(part for part in script.PARTS if part.name == "vllm")
    command = part.command(script.Settings(vllm="/there/python"))
    assert command[-4:] == ["--against", "vllm", "--vllm", "/there/python"]


def test_tests_on_the_gpu_need_the_tests_and_a_gpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert "no tests/gpu" in script.no_tests(script.Settings())
    (tmp_path / "tests/gpu").mkdir(parents=True)
    assert script.no_tests(script.Settings()) == ""
    assert "needs a GPU" in script.no_tests(script.Settings(device="cpu"))


@pytest.fixture(scope="module")
def pretended_gpu() -> None:
    """The pretended GPU can be had here."""
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        pytest.skip("the pretended GPU needs a CPU build of torch")
    if shutil.which("g++") is None:
        pytest.skip("the pretended GPU is compiled with g++, and there is none")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("gpu-check") / "tiny", hidden_size=128)


FOUND = {
    "quickstart": r"finished, profile cuda, .*; dev compile rate 0.00 -> 0.00",
    "greedy": r"float32: 3 of 3 completions equal; bfloat16 agrees for \d+% of a completion on average",
    "training": r"\S+ against \S+ useful tokens/s: ratio \S+",
    "generation": r"\S+ against \S+ tokens/s \(generate at batch size 4\): ratio \S+",
}
"""Part -> what it says that it found."""


@pytest.mark.timeout(600)  # a process for each part
@pytest.mark.usefixtures("pretended_gpu")
def test_parts_work_on_the_pretended_gpu(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/gpu_check.py", "--device", "pretended", "--tiny", "--model", str(model)]
    done = subprocess.run(
        [*command, "--only", ",".join(FOUND), "--output", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert done.returncode == 0, done.stdout
    assert {row["part"]: row["outcome"] for row in rows} == dict.fromkeys(["machine", *FOUND], "passed")
    assert rows[0]["values"]["gpu"] == "Pretended GPU"
    for row in rows[1:]:
        assert re.fullmatch(FOUND[row["part"]], row["found"]) and row["values"], row
