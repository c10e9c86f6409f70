"""Checks what only a GPU can show, in at most 8 minutes: each part is a separate process with its own time limit.

A part that hangs is killed with everything it started, and the next one follows.  The most valuable parts come first,
because the machine may be taken away.  `results.jsonl` in the output folder gets a line, flushed to disk, as soon as a
part has ended; the output of a part is in `NAME.stdout` and `NAME.stderr` beside it.

    python scripts/gpu_check.py                          # every part; make gpu-check
    python scripts/gpu_check.py --list                   # the parts, and the time each takes
    python scripts/gpu_check.py --only doctor,greedy
    python scripts/gpu_check.py --show DIR               # the table of an earlier check

Exit code 0: every part passed.  1: a part failed, was killed, missed its target, or had no time left.  2: usage.
4: every part that ran passed, but a part could not run, or there is no GPU.  130: interrupted.

docs/gpu-check.md describes the parts, their timing, and how to bring them to a machine without a network.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from get_smollm2 import DEFAULT_TARGET
from pack_gpu_check import LAUNCHES, SITE

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
MODEL = str(DEFAULT_TARGET)
BUDGET_SECONDS = 480.0
REPORT_SECONDS = 3.0
"""Seconds reserved for what follows the last part."""
LEFTOVER_SECONDS = 2.0
"""Seconds that processes started by a part may take to end after it."""
END_SECONDS = 10.0
"""Seconds from SIGKILL to the end of a process that is not stuck in a driver."""
RESULTS = "results.jsonl"

PASSED, MISSED, FAILED, KILLED, NOT_RUN = "passed", "missed", "failed", "killed", "not run"
Reading = tuple[str, str, dict[str, Any]]
"""Outcome, the finding in words, and the same as values."""


@dataclass(frozen=True)
class Settings:
    """The options of the command line.

    Attributes:
        device: "cuda", or "cpu" or "pretended" (tests/support) to try the parts without a GPU.
        tiny: Use sizes that say nothing about speed.
        output: An empty folder for this check.
        vllm: The Python interpreter of the environment that has vLLM.
    """

    model: str = MODEL
    device: str = "cuda"
    tiny: bool = False
    output: Path = Path()
    vllm: str | None = None


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        seconds: Its planned duration on the machine of docs/gpu-check.md; it is not started with less time left.
        limit: It is killed after this many seconds.
        command: The command, run at the top of the repository.
        read: Turns exit code and standard output into a finding.
        missing: Why it cannot run here; empty if it can.
    """

    name: str
    what: str
    seconds: float
    limit: float
    command: Callable[[Settings], list[str]]
    read: Callable[[int, str, Settings], Reading]
    missing: Callable[[Settings], str] = lambda settings: ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The result of a part; one line of results.jsonl."""

    part: str
    outcome: str
    found: str
    seconds: float = 0.0
    limit_seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    command: tuple[str, ...] = ()
    date: str = ""


# ---- what the parts print


def last_object(stdout: str) -> dict[str, Any]:
    """The JSON object of the last line.

    Raises:
        ValueError: There is none.
    """
    lines = stdout.strip().splitlines()
    found = json.loads(lines[-1]) if lines else None
    if not isinstance(found, dict):
        raise ValueError("its last line is not a JSON object")
    return found


def read_own(code: int, stdout: str, settings: Settings) -> Reading:
    """A part of _gpu_parts.py."""
    found = last_object(stdout)
    return PASSED if found["passed"] else FAILED, found["found"], found["values"]


def read_machine(code: int, stdout: str, settings: Settings) -> Reading:
    """What torch sees; without a GPU there is nothing to check, unless the CPU was requested."""
    values = last_object(stdout)
    found = f"{values['gpu'] or 'no GPU'}, torch {values['torch']}"
    return PASSED if values["gpu"] or settings.device == "cpu" else FAILED, found, values


def read_figure(code: int, stdout: str, settings: Settings) -> Reading:
    """A benchmark; the targets are for the real sizes."""
    found = last_object(stdout)
    missed = not settings.tiny and any(line.endswith(": MISSED") for line in stdout.splitlines())
    target = next((line.partition(": ")[0] for line in stdout.splitlines() if line.startswith("target ratio")), "")
    words = f"{found['ours']:g} against {found['baseline']:g} {found['unit']}: ratio {found['ratio']:g}"
    if target and not settings.tiny:
        words += f" ({target}{', MISSED' if missed else ''})"
    return MISSED if missed else PASSED, words, found


def read_doctor(code: int, stdout: str, settings: Settings) -> Reading:
    """The doctor's JSON: whether a run can start, on the requested device."""
    found = json.loads(stdout)
    hardware = next(section for section in found["sections"] if section["name"] == "hardware")
    broken = [f"{line['name']}: {line['found']}" for line in hardware["lines"] if line["state"] == "failed"]
    on_device = settings.device == "cpu" or hardware["facts"]["profile"] != "cpu"
    words = f"profile {hardware['facts']['profile']} ({hardware['facts']['why']}), torch {hardware['facts']['torch']}"
    words += "".join(f"; failed: {each}" for each in broken)
    passed = found["can_run"] and on_device and not broken
    return PASSED if passed else FAILED, words, found


def read_tests(code: int, stdout: str, settings: Settings) -> Reading:
    """The last line of pytest; tests that were all skipped prove nothing."""
    lines = [line for line in stdout.strip().splitlines() if " in " in line]
    words = lines[-1].strip("= ") if lines else "no summary"
    failed = [line for line in stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    passed = code == 0 and " passed" in f" {words}"
    return PASSED if passed else FAILED, "; ".join([words, *failed]), {}


# ---- the parts


def own(name: str, *arguments: str) -> Callable[[Settings], list[str]]:
    """A part of _gpu_parts.py."""

    def command(settings: Settings) -> list[str]:
        device = "cpu" if settings.device == "cpu" else "cuda"
        options = ["--model", settings.model, "--device", device, "--output", str(settings.output / name)]
        return [sys.executable, "scripts/_gpu_parts.py", name, *options, *["--tiny"] * settings.tiny, *arguments]

    return command


def bench(name: str, real: str, tiny: str) -> Callable[[Settings], list[str]]:
    """A benchmark of scripts/, with its options for both sizes."""

    def command(settings: Settings) -> list[str]:
        options = (tiny if settings.tiny else real).split()
        return [sys.executable, f"scripts/{name}.py", "--model", settings.model, *options]

    return command


def generation(real: str, *, against: str, shape: bool = False) -> Callable[[Settings], list[str]]:
    """bench_generation.py, for the model or for random weights of a larger shape."""
    shapes = ("--shape qwen2.5-1.5b", "--shape qwen2-tiny") if shape else ("", "")
    plain = bench(
        "bench_generation",
        f"{real} {shapes[0]} --against {against}",
        f"--prompts 2 --samples 2 --new-tokens 8 {shapes[1]} --against {against}",
    )
    return lambda settings: plain(settings) + (["--vllm", str(settings.vllm)] if against == "vllm" else [])


def launches(settings: Settings) -> list[str]:
    """With the counts of the simulated GPU, if they were packed."""
    carried = ROOT / LAUNCHES
    return own("launches", *(["--pretended", str(carried)] if carried.is_file() else []))(settings)


def needs_gpu(settings: Settings) -> str:
    return f"it needs a GPU (--device {settings.device})" if settings.device != "cuda" else ""


def no_vllm(settings: Settings) -> str:
    from halo_forge.core.errors import HaloForgeError
    from halo_forge.engines.vllm import VllmSpec

    if settings.vllm is None:
        return "no --vllm PYTHON: the Python interpreter of the environment that has vLLM"
    try:
        VllmSpec(python=settings.vllm).check()
    except HaloForgeError as error:
        return error.message
    return ""


def no_tests(settings: Settings) -> str:
    if not (ROOT / "tests/gpu").is_dir():
        return "there is no tests/gpu in this checkout"
    return needs_gpu(settings)


PARTS = (
    Part(
        "doctor",
        "halo-forge doctor: the profile, a kernel, attention, memory",
        25,
        75,
        lambda settings: [sys.executable, "-m", "halo_forge", "doctor", "--json"],
        read_doctor,
    ),
    Part(
        "quickstart",
        "two cycles of configs/quickstart.yaml with fewer prompts, through the command line",
        60,
        120,
        own("quickstart"),
        read_own,
    ),
    Part(
        "greedy",
        "greedy completions: GPU against CPU in float32, and how far bfloat16 agrees",
        30,
        75,
        own("greedy"),
        read_own,
    ),
    Part(
        "launches",
        "kernels and waits of a decode and an optimizer step in torch's profiler, beside those of the simulated GPU",
        30,
        75,
        launches,
        read_own,
        needs_gpu,
    ),
    Part(
        "tests",
        "the tests of tests/gpu on the real GPU",
        60,
        120,
        lambda settings: [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"],
        read_tests,
        no_tests,
        {"HALO_FORGE_TEST_GPU": "real"},
    ),
    Part(
        "training",
        "bench_training.py: our training against a bare loop",
        25,
        60,
        bench("bench_training", "--rows 32 --batch 8 --repeats 3", "--rows 4 --batch 2 --repeats 1"),
        read_figure,
    ),
    Part(
        "generation",
        "bench_generation.py: the model, against generate",
        50,
        100,
        generation("--prompts 32 --samples 8 --new-tokens 128", against="generate"),
        read_figure,
    ),
    Part(
        "graphs",
        "decoding steps as CUDA graphs: the same tokens as without, and tokens per second of both",
        35,
        80,
        own("graphs"),
        read_own,
        needs_gpu,
    ),
    Part(
        "generation-1.5b",
        "bench_generation.py: random weights of Qwen2.5-1.5B's shape, against generate",
        55,
        100,
        generation("--prompts 32 --samples 8 --new-tokens 64", against="generate", shape=True),
        read_figure,
    ),
    Part(
        "batch",
        "bench_generation.py: the model, against generate_batch",
        40,
        80,
        generation("--prompts 32 --samples 8 --new-tokens 128", against="generate_batch"),
        read_figure,
    ),
    Part(
        "batch-1.5b",
        "bench_generation.py: random weights of Qwen2.5-1.5B's shape, against generate_batch",
        45,
        80,
        generation("--prompts 32 --samples 8 --new-tokens 64", against="generate_batch", shape=True),
        read_figure,
    ),
    Part(
        "vllm",
        "bench_generation.py: the model, against vLLM on a server that we start",
        110,
        160,
        generation("--prompts 32 --samples 8 --new-tokens 128", against="vllm"),
        read_figure,
        no_vllm,
    ),
    Part(
        "vllm-1.5b",
        "bench_generation.py: random weights of Qwen2.5-1.5B's shape, against vLLM",
        120,
        160,
        generation("--prompts 32 --samples 8 --new-tokens 64", against="vllm", shape=True),
        read_figure,
        no_vllm,
    ),
)


# ---- one part after the other


def run_part(part: Part, settings: Settings, seconds: float) -> Result:
    """Run one part to its end, or to its limit.

    Args:
        seconds: Time left for the whole check.
    """
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    reason = part.missing(settings)
    if not reason and (seconds <= 0 or (seconds < part.seconds and not settings.tiny)):
        reason = f"no time left: it takes about {part.seconds:g} s, and {max(0.0, seconds):.0f} s were left"
        return Result(part.name, NOT_RUN, reason, date=date, values={"no_time": True})
    if reason:
        return Result(part.name, NOT_RUN, reason, date=date)
    limit, command = min(part.limit, seconds), part.command(settings)
    logs = [settings.output / f"{part.name}.{name}" for name in ("stdout", "stderr")]
    started = time.monotonic()
    code, left = run_child(command, child_environment(part, settings), logs, limit)
    outcome, found, values = PASSED, "", {}
    if code is None:
        outcome, found = KILLED, f"did not end within {round(limit, 1):g} s; last output: {last_words(logs)}"
    elif code < 0:
        outcome, found = FAILED, f"ended by {signal.Signals(-code).name}; last output: {last_words(logs)}"
    else:
        stdout = logs[0].read_text(encoding="utf-8", errors="backslashreplace")
        try:
            outcome, found, values = part.read(code, stdout, settings)
        except (ValueError, KeyError, StopIteration) as error:
            reason = f"exit code {code}" if code else f"its output cannot be read ({error})"
            outcome, found = FAILED, f"{reason}; last output: {last_words(logs)}"
        if code != 0 and outcome == PASSED:
            outcome, found = FAILED, f"exit code {code}; {found}"
    if left:
        outcome = outcome if outcome == KILLED else FAILED
        found += f"; processes that were still running were killed: {', '.join(left)}" if code is not None else ""
    spent = round(time.monotonic() - started, 1)
    return Result(part.name, outcome, found, spent, limit, values, code, tuple(command), date)


def run_child(
    command: Sequence[str], environment: Mapping[str, str], logs: Sequence[Path], limit: float
) -> tuple[int | None, list[str]]:
    """(exit code, None if it was killed at its limit; the processes that it left behind, which are killed)."""
    from halo_forge.sandbox import syscalls

    def tied() -> None:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # if this check itself is killed

    with logs[0].open("wb") as stdout, logs[1].open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=ROOT,
            env=dict(environment),
            preexec_fn=tied,
        )
        code: int | None = None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            pass  # which `None` stands for
        finally:
            names = end_all(process, 0.0 if code is None else LEFTOVER_SECONDS)
    return code, names


def end_all(process: subprocess.Popen[bytes], patience: float) -> list[str]:
    """Kill a part and everything it started; returns the command lines of processes that outlived it.

    Args:
        patience: Seconds in which they may end by themselves.
    """
    from halo_forge.sandbox import processes

    # Its processes become children of this one when it ends (a subreaper), in whatever session they are.
    process.kill()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"{name_of(process.pid)} (does not end after SIGKILL: it is stuck in the kernel)"]
    deadline = time.monotonic() + patience
    while (left := [each for each in processes.below(os.getpid()) if each.state != "Z"]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    names = [name_of(each.pid) for each in left]
    try:
        processes.kill_all_below(os.getpid(), reap)
    except TimeoutError:
        names.append("some do not end after SIGKILL: they are stuck in the kernel")
    return names


def reap() -> None:
    """Collect processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return  # there are none left


def name_of(pid: int) -> str:
    """The command line of a process, or what the kernel still knows about it."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="backslashreplace")
    except OSError:
        words = ""
    return words.strip()[:80] or f"process {pid}"


def last_words(logs: Sequence[Path]) -> str:
    """The last line of standard error, else of standard output."""
    for path in reversed(logs):
        lines = path.read_text(encoding="utf-8", errors="backslashreplace").strip().splitlines()
        if lines:
            return lines[-1].strip()[:300]
    return "none"


def child_environment(part: Part, settings: Settings) -> dict[str, str]:
    """The environment of a part: this checkout and the packed packages come before everything else."""
    paths = [str(ROOT), *([str(ROOT / SITE)] if (ROOT / SITE).is_dir() else [])]
    changes = {
        "PYTHONPATH": os.pathsep.join(filter(None, [*paths, os.environ.get("PYTHONPATH", "")])),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",  # the output of a killed part
    }
    if settings.device == "cpu":
        changes["CUDA_VISIBLE_DEVICES"] = ""
    found = {**os.environ, **changes, **part.environment}
    if settings.device == "pretended":
        sys.path.insert(0, str(ROOT / "tests"))
        from support import pretended_gpu

        found = pretended_gpu.environment(found)
    return found


def check(parts: Sequence[Part], settings: Settings, budget: float) -> Iterator[Result]:
    """Yields the result of each part as it ends, after it is written to disk.

    Args:
        budget: Seconds for all parts.
    """
    from halo_forge.sandbox import syscalls

    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    end = time.monotonic() + budget - REPORT_SECONDS
    interrupted = False
    with (settings.output / RESULTS).open("a", encoding="utf-8") as handle:
        for part in parts:
            if interrupted:
                result = Result(part.name, NOT_RUN, "interrupted before it started", values={"no_time": True})
            else:
                print(f"{part.name}: {part.what}", file=sys.stderr, flush=True)
                started = time.monotonic()
                try:
                    result = run_part(part, settings, end - started)
                except KeyboardInterrupt:
                    interrupted = True
                    result = Result(part.name, KILLED, INTERRUPTED, round(time.monotonic() - started, 1))
            handle.write(json.dumps(asdict(result)) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
            print(f"    {result.outcome} after {result.seconds:g} s", file=sys.stderr, flush=True)
            yield result
    if interrupted:
        raise KeyboardInterrupt


# ---- the machine, the table, and the command line

MACHINE = """
import json, platform, sys, torch
found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
         "hip": torch.version.hip, "gpu": None}
if torch.cuda.is_available():
    found |= {"gpu": torch.cuda.get_device_name(), "capability": list(torch.cuda.get_device_capability()),
              "gpu_memory_bytes": torch.cuda.get_device_properties(0).total_memory,
              "bfloat16": torch.cuda.is_bf16_supported(), "num_gpus": torch.cuda.device_count()}
    torch.ones(8, device="cuda").sum().item()
print(json.dumps(found))
"""
INTERRUPTED = "interrupted"
LOOK = Part(
    "machine",
    "the GPU, the driver and torch",
    0,
    90,
    lambda settings: [sys.executable, "-c", MACHINE],
    read_machine,
)


def print_results(results: Sequence[Result]) -> None:
    """A table as wide as the terminal."""
    from halo_forge.cli.render import Column, print_table

    print_table(
        [
            Column("part", [each.part for each in results], align="left"),
            Column("outcome", [each.outcome for each in results], align="left"),
            Column("seconds", [f"{each.seconds:.0f}" if each.seconds else "" for each in results]),
            Column("found", [each.found for each in results], text=True),
        ]
    )


def exit_code(results: Sequence[Result]) -> int:
    """0, 1 or 4, as described in the docstring of this file."""
    outcomes = {each.outcome for each in results if each.outcome != NOT_RUN}
    late = any(each.outcome == NOT_RUN and each.values.get("no_time") for each in results)
    if late or outcomes - {PASSED}:
        return 1
    return 4 if any(each.outcome == NOT_RUN for each in results) else 0


def chosen(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Part]:
    """The parts of --only without those of --skip, in the usual order."""
    names = [part.name for part in PARTS]
    for each in [*(arguments.only or ()), *arguments.skip]:
        if each not in names:
            parser.error(f"unknown part {each!r} (parts: {', '.join(names)})")
    if arguments.only is None:
        # vLLM needs a separate environment, which most machines lack.
        only = [part.name for part in PARTS if part.missing is not no_vllm or arguments.vllm is not None]
    else:
        only = arguments.only
    parts = [part for part in PARTS if part.name in only and part.name not in arguments.skip]
    if not parts:
        parser.error("no part is left")
    return parts


def fail(code: int, message: str, fix: str) -> NoReturn:
    print(f"error: {message}\n  fix: {fix}", file=sys.stderr)
    sys.exit(code)


def prepared_output(given: Path | None) -> Path:
    """An empty folder for this check."""
    name = datetime.datetime.now().strftime("gpu-check-%Y%m%d-%H%M%S")
    output = (ROOT / "runs" / name if given is None else given).absolute()
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            fail(2, f"--output {output}: not an empty folder", "choose another one, or remove it")
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(2, f"--output {output}: {error.strerror}", "choose a folder that can be created and written")
    return output


def show(folder: Path) -> int:
    """Show the table of a check that has ended or was cut off; returns its exit code."""
    path = folder / RESULTS
    if not path.is_file():
        fail(2, f"--show {folder}: there is no {RESULTS} in it", "give the output folder of a check")
    lines = path.read_text(encoding="utf-8", errors="backslashreplace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        print(f"note: the last line of {path} was cut off and is ignored", file=sys.stderr)
        lines.pop()
    try:
        rows = [json.loads(line) for line in lines]
        results = [Result(**{**row, "command": tuple(row["command"])}) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        fail(
            2, f"--show {folder}: {path} was not written by this check ({error!r})", "give the output folder of a check"
        )
    print_results(results)
    return exit_code(results)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the check like Ctrl-C: what it started is killed, and the table is shown."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parser() -> argparse.ArgumentParser:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("--list", action="store_true", help="show the parts and the time each takes")
    found.add_argument("--only", type=names, metavar="PART,...", help="run only these parts")
    found.add_argument("--skip", type=names, default=[], metavar="PART,...", help="skip these parts")
    found.add_argument("--output", type=Path, metavar="DIR", help="an empty folder (default runs/gpu-check-DATE-TIME)")
    found.add_argument("--show", type=Path, metavar="DIR", help="show the results of an earlier check")
    found.add_argument("--model", default=MODEL, help=f"folder (default {MODEL})")
    found.add_argument(
        "--device",
        choices=("cuda", "cpu", "pretended"),
        default="cuda",
        help="cpu and the simulated GPU of the tests (pretended) try the parts without a GPU",
    )
    found.add_argument(
        "--vllm", metavar="PYTHON", help="Python interpreter of the environment that has vLLM, if there is one"
    )
    found.add_argument("--tiny", action="store_true", help="sizes that only show that the parts work")
    found.add_argument(
        "--budget-seconds", type=float, default=BUDGET_SECONDS, help=f"for all parts (default {BUDGET_SECONDS:g})"
    )
    return found


def main() -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / SITE)]
    commands = parser()
    arguments = commands.parse_args()
    needed = [
        name for name in ("pydantic", "rich", "transformers", "peft", "trl") if not importlib.util.find_spec(name)
    ]
    if needed:
        fail(4, f"not installed for {sys.executable}: {', '.join(needed)}", "see docs/gpu-check.md")
    if arguments.show is not None:
        return show(arguments.show)
    parts = chosen(arguments, commands)
    if arguments.list:
        from halo_forge.cli.render import Column, print_table

        print_table(
            [
                Column("part", [part.name for part in parts], align="left"),
                Column("about", [f"{part.seconds:g} s" for part in parts]),
                Column("limit", [f"{part.limit:g} s" for part in parts]),
                Column("what", [part.what for part in parts], text=True),
            ]
        )
        return 0
    if not arguments.budget_seconds > REPORT_SECONDS:
        commands.error(f"--budget-seconds must be more than {REPORT_SECONDS:g}")
    if not Path(ROOT, arguments.model).exists():
        fail(4, f"{arguments.model} is missing", "make model")
    settings = Settings(
        arguments.model, arguments.device, arguments.tiny, prepared_output(arguments.output), arguments.vllm
    )
    results: list[Result] = []
    with sigterm_interrupts():
        try:
            for result in check([LOOK, *parts], settings, arguments.budget_seconds):
                results.append(result)
                if result.part == LOOK.name and result.outcome != PASSED and result.found != INTERRUPTED:
                    if result.values:
                        fail(4, f"torch finds no GPU ({result.found})", "see docs/gpu-check.md, or try --device cpu")
                    fail(1, f"torch cannot look for a GPU: {result.found}", f"see {settings.output}; halo-forge doctor")
        except KeyboardInterrupt:
            print_results(results)
            print(f"interrupted; results so far: {settings.output}")
            return 130
    print_results(results)
    print(f"results: {settings.output / RESULTS}")
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
