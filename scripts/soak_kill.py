"""Kills runs with SIGKILL, resumes them, and checks that nothing is lost, nothing is doubled and nothing stays behind.

`scripted` kills runs without a model at every single write point (tests/support/kill_driver.py); `real` kills runs of a
real model at random moments, alone and under the supervisor, and resumes each until it has finished.  docs/testing.md
says what is checked.  One line for each kill, then a table; exit code 1 where anything was violated.

    python scripts/soak_kill.py [--kills 100] [--seed 0] [--model DIR] [--only scripted|real] [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from _bench import machine

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from killing import room_in_memory  # noqa: E402 -- after the path is set
from scripted_runs import differences, rows, tree  # noqa: E402

from halo_forge.sandbox import processes, syscalls  # noqa: E402
from halo_forge.store.status import read_status  # noqa: E402

DRIVER = ROOT / "tests" / "support" / "kill_driver.py"
SCRIPTED = ("everywhere", "two rounds", "again and again", "going back", "a lead")
NUM_CYCLES = 2
SETTINGS = {
    "prompts.train_limit": "3",
    "prompts.dev_limit": "1",
    "prompts.test_limit": "1",
    "engine.max_new_tokens": "32",
    "engine.stop": '["```", "\\n}"]',
    "selection.reward_threshold": "0",
    "training.optimizer.across_cycles": "carry",
    "training.per_device_train_batch_size": "2",
    "evaluation.samples_per_prompt": "1",
    "evaluation.num_drift_samples": "2",
    "raft.num_cycles": str(NUM_CYCLES),
    "raft.samples_per_prompt": "2",
    "raft.prompts_per_cycle": "null",
    "raft.min_selected": "1",
}
"""What makes a run of configs/quickstart.yaml small; with one thread, so that its results can be compared."""

BATCH_SIZES = (1, 4)
"""Rows that are sampled one by one are the same after a resume; those of a batch only up to floating-point noise."""

PHASES = {"completions": "sampling", "verdicts": "verifying", "second_verdicts": "verifying", "trained": "training"}
"""Stage -> what the table calls it; `sealing` is a state of the files, `between` everything else."""
TARGETS = ("anywhere", "sampling", "verifying", "training", "sealing")
VICTIMS = ("run", "run", "run", "child", "supervisor")
"""What is killed: an ordinary run, the child of a supervisor, or the supervisor, with which the child must end."""
END_SECONDS = 20.0
"""For what a killed process started to end, and to remove its folders."""
CACHE = "torchinductor_"
"""The one folder that torch keeps for each user, in every program that imports enough of it."""
LIMIT_SECONDS = 900.0
POLL_SECONDS = 0.001


class Violation(Exception):
    """Something that docs/run-directory.md promises did not hold."""


def expect(holds: object, said: str) -> None:
    if not holds:
        raise Violation(said)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "halo_forge", *arguments]


@dataclass
class Snapshot:
    """What a kill must not take away: sealed files, whole lines of growing files, whole lines of events.jsonl."""

    sealed: dict[str, bytes]
    lines: dict[str, set[bytes]]
    events: bytes

    @classmethod
    def of(cls, run: Path) -> Snapshot:
        files = {name: data for name, data in tree(run).items() if data != b"a folder" and not data.startswith(b"-> ")}
        sealed = {name: data for name, data in files.items() if _is_sealed(run, name)}
        lines = {
            name.removesuffix(".part"): {line for line in _whole(data) if b'"status": "error"' not in line}
            for name, data in files.items()
            if name.endswith(".jsonl.part")
        }
        events = run / "events.jsonl"
        return cls(sealed, lines, b"\n".join(_whole(events.read_bytes())) if events.is_file() else b"")

    def check(self, run: Path) -> None:
        """Whether all of it is still there, in the run as it is now."""
        now = tree(run)
        lost = [name for name, data in self.sealed.items() if now.get(name) != data]
        expect(not lost, f"sealed files changed: {lost}")
        for name, lines in self.lines.items():
            found = {*_whole(now.get(name, b"")), *_whole(now.get(f"{name}.part", b""))}
            expect(lines <= found, f"{name}: {len(lines - found)} finished records are lost")
        events = run / "events.jsonl"
        expect(not self.events or events.read_bytes().startswith(self.events), "lines of events.jsonl are lost")


def _is_sealed(run: Path, name: str) -> bool:
    path = run / name
    if name.endswith((".part", ".tmp")) or "training.part" in path.parts or not (run / "run.json").is_file():
        return False
    of_training = "adapter" in path.parts or path.name in ("training_log.jsonl", "optimizer.safetensors")
    return not of_training or (run / "cycles" / path.relative_to(run).parts[1] / "trained.json").is_file()


def _whole(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


@dataclass
class Soak:
    """Runs one after the other, each killed again and again until it has finished.

    Attributes:
        references: Batch size -> the tree of the run that nobody disturbed.
        order: Names of its files in the order in which they were sealed.
        seconds: How long one takes, from its start.
        hits: (phase, victim) -> kills.
    """

    room: Path
    model: str
    settings: dict[str, str]
    choose: random.Random
    references: dict[int, dict[str, bytes]] = field(default_factory=dict)
    order: dict[int, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    num_runs: int = 0
    num_identical: int = 0

    def start(self, folder: Path, batch_size: int, supervised: bool) -> subprocess.Popen[bytes]:
        """A command that starts or resumes the run of `folder`."""
        settings = {"model.model_name_or_path": self.model, **SETTINGS, **self.settings}
        settings["engine.batch_size"] = str(batch_size)
        overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        arguments = ["raft", "run", str(ROOT / "configs/quickstart.yaml"), *overrides, "--output-dir", "run"]
        arguments += ["--resume"] + (["--supervised", "--max-restarts", "1000"] if supervised else [])
        (folder / "tmp").mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": str(ROOT),
        }
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(command(*arguments), cwd=folder, env=environment, stdout=log, stderr=log)

    def reference(self, batch_size: int) -> None:
        """The run that nobody disturbs."""
        folder = self.room / f"undisturbed_{batch_size}"
        folder.mkdir()
        started = time.monotonic()
        process = self.start(folder, batch_size, supervised=False)
        code = process.wait(LIMIT_SECONDS)
        expect(code == 0, f"the undisturbed run ended with exit code {code}; see {folder / 'log'}")
        self.seconds = time.monotonic() - started
        run = folder / "run"
        self.references[batch_size] = found = tree(run)
        files = [name for name in found if (run / name).is_file() and not (run / name).is_symlink()]
        self.order[batch_size] = sorted(files, key=lambda name: (run / name).stat().st_mtime_ns)
        _left_behind(folder)
        print(f"undisturbed, batch size {batch_size}: {self.seconds:.0f} s, {len(files)} files", flush=True)

    def one_run(self, num_kills: int, first: int) -> int:
        """Kill a run at most `num_kills` times and resume it until it has finished; the number of kills."""
        self.num_runs += 1
        batch_size = BATCH_SIZES[self.num_runs % len(BATCH_SIZES)]
        if batch_size not in self.references:
            self.reference(batch_size)
        folder = self.room / f"run_{self.num_runs}"
        folder.mkdir()
        killed, in_sampling = 0, set[str]()
        snapshot = Snapshot({}, {}, b"")
        process: subprocess.Popen[bytes] | None = None
        while True:
            victim = self.choose.choice(VICTIMS)
            if process is None:
                process = self.start(folder, batch_size, supervised=victim != "run")
            elif victim == "run":
                victim = "child"  # the supervisor of the last kill is still at work
            target = self.choose.choice(TARGETS)
            started = time.monotonic()
            if killed == num_kills or not self.moment(folder / "run", process, target):
                code = process.wait(LIMIT_SECONDS)
                expect(code == 0, f"exit code {code}; see {folder / 'log'}")
                break
            if not _kill(process, victim):
                continue  # the supervisor has no child at this moment
            killed += 1
            run = folder / "run"
            if victim != "child":
                process = None
                _left_behind(folder)
            if run.is_dir():
                snapshot.check(run)
                snapshot = Snapshot.of(run)
            phase, where = _hit(run)
            self.hits[phase, victim] += 1
            in_sampling |= {where.split("/")[0]} if phase == "sampling" or "completions" in where else set()
            print(
                f"kill {first + killed:3d}  run {self.num_runs:2d}  {victim:10s}  wanted {target:9s}  hit {phase:9s}"
                f"  {where:28s}  after {time.monotonic() - started:5.1f} s",
                flush=True,
            )
        _left_behind(folder)
        snapshot.check(folder / "run")
        same = self.check_finished(folder / "run", batch_size, in_sampling)
        self.num_identical += same
        kind = "identical to" if same else "equal up to the sampled rows with"
        print(f"run {self.num_runs}: killed {killed} times, finished, {kind} the undisturbed run", flush=True)
        return killed

    def moment(self, run: Path, process: subprocess.Popen[bytes], target: str) -> bool:
        """Wait for a random moment of this kind; False if the process ended before it came."""
        if target == "anywhere":
            reached, delay = _at_once, self.choose.uniform(0.0, self.seconds)
        elif target == "sealing":
            skipped = _num_events(run) + self.choose.randint(0, 8)
            reached, delay = lambda: _num_events(run) >= skipped and _is_sealing(run), self.choose.uniform(0.0, 0.01)
        else:
            before = _num_events(run)
            # Some stages take seconds, verification tenths of a second.
            longest = {"sampling": self.seconds / 6, "verifying": 0.4, "training": self.seconds / 6}[target]
            reached = lambda: _num_events(run) > before and _phase(run)[0] == target  # noqa: E731
            delay = self.choose.uniform(0.0, longest)
        deadline = time.monotonic() + LIMIT_SECONDS
        while not reached():
            if process.poll() is not None:
                return False
            expect(time.monotonic() < deadline, f"no {target} in {LIMIT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        return process.poll() is None

    def check_finished(self, run: Path, batch_size: int, in_sampling: set[str]) -> bool:
        """Whether a finished run holds each record once; True if it is the undisturbed one byte for byte."""
        reference, found = self.references[batch_size], tree(run)
        undisturbed = self.room / f"undisturbed_{batch_size}" / "run"
        expect(read_status(run, NUM_CYCLES).state == "finished", "the status is not `finished`")
        expect(found.keys() == reference.keys(), f"other files: {sorted(found.keys() ^ reference.keys())}")
        for name in found:
            if name.endswith("completions.jsonl"):
                expect(_keys(run / name) == _keys(undisturbed / name), f"{name}: not each sample once")
                verdicts = run / name.replace("completions", "verdicts")
                expect(_keys(verdicts) == _keys(run / name), f"{verdicts}: not each verdict once")
            if name.endswith("training_log.jsonl"):
                steps = [row["step"] for row in rows(run / name)]
                trained = json.loads(found[name.replace("training_log.jsonl", "trained.json")])
                num_steps = int(trained["metrics"]["optimizer_steps"])
                expect(steps == list(range(1, num_steps + 1)), f"{name}: steps {steps}, not 1 to {num_steps}")
        changed = differences(found, reference)
        if changed:
            expect(batch_size > 1, f"differ from the undisturbed run: {changed}")
            first = next(name for name in self.order[batch_size] if name in changed)
            allowed = first.endswith("completions.jsonl") and Path(first).parent.name in in_sampling
            expect(allowed, f"{first} differs, and no kill hit the sampling of its rows")
        return not changed


def _at_once() -> bool:
    return True


def _keys(path: Path) -> list[tuple[str, int]]:
    return [(row["prompt_id"], row["index"]) for row in rows(path)]


def _kill(process: subprocess.Popen[bytes], victim: str) -> bool:
    """SIGKILL for the command itself, or for the child of a supervisor; False if there is none right now."""
    if victim != "child":
        process.kill()
        process.wait()
        return True
    children = processes.children(process.pid)
    for child in children:
        processes.send_signal(child, signal.SIGKILL)
    # Until it is gone, the files may still change.
    _wait(lambda: not any(_is_alive(child) for child in children), "the killed child is still there")
    return bool(children)


def _is_alive(pid: int) -> bool:
    found = processes.read(pid)
    return found is not None and found.state not in "ZX"


def _left_behind(folder: Path) -> None:
    """Wait until no process and no temporary folder of what ran in `folder` is left; this process adopts orphans."""
    _wait(lambda: not any(each.state not in "ZX" for each in processes.below(os.getpid())), "processes are left")
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    left = folder / "tmp"
    _wait(lambda: all(each.name.startswith(CACHE) for each in left.iterdir()), f"temporary files are left in {left}")


def _wait(true: Callable[[], bool], said: str) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not true():
        expect(time.monotonic() < deadline, f"{said} after {END_SECONDS:.0f} s")
        time.sleep(0.01)


def _num_events(run: Path) -> int:
    path = run / "events.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _phase(run: Path) -> tuple[str, str]:
    """What the run is, or was, doing: the phase, and the folder and stage."""
    path = run / "events.jsonl"
    events = [json.loads(line) for line in _whole(path.read_bytes())] if path.is_file() else []
    if not events or events[-1]["event"] != "stage_started":
        return "between", events[-1]["event"] if events else "loading"
    return PHASES.get(events[-1]["stage"], "between"), f"{events[-1]['folder']}/{events[-1]['stage']}"


def _is_sealing(run: Path) -> bool:
    """Whether a file has its temporary name, or lies beside its part file; or a trained adapter is being moved."""
    return any(run.rglob(".*.tmp")) or any(
        part.with_suffix("").exists() or (part / "adapter").exists() for part in run.rglob("*.part")
    )


def _hit(run: Path) -> tuple[str, str]:
    phase, where = _phase(run)
    return ("sealing" if _is_sealing(run) else phase), where


def scripted() -> None:
    """Runs without a model, killed at every write point."""
    for what in SCRIPTED:
        with room_in_memory() as room:
            print(f"scripted runs, killed {what}:", flush=True)
            done = subprocess.run([sys.executable, str(DRIVER), what, str(room)])
            expect(done.returncode == 0, f"scripted runs, killed {what}: exit code {done.returncode}")


def real(room: Path, arguments: argparse.Namespace) -> None:
    """Runs of a model, killed at random moments."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # orphans become children of this process, and are found
    settings = dict(each.split("=", 1) for each in arguments.set)
    soak = Soak(room, str(Path(arguments.model).resolve()), settings, random.Random(arguments.seed))
    num_kills = 0
    while num_kills < arguments.kills:
        num_kills += soak.one_run(arguments.kills - num_kills, num_kills)
    print(
        f"\n{num_kills} kills in {soak.num_runs} runs, {soak.num_identical} of them the undisturbed run byte for byte"
    )
    print(f"{'killed in':12s}" + "".join(f"{victim:>12s}" for victim in dict.fromkeys(VICTIMS)) + f"{'all':>8s}")
    for phase in ("sampling", "verifying", "training", "sealing", "between"):
        numbers = [soak.hits[phase, victim] for victim in dict.fromkeys(VICTIMS)]
        print(f"{phase:12s}" + "".join(f"{number:12d}" for number in numbers) + f"{sum(numbers):8d}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills of real runs (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--model", default=str(ROOT / "models/smollm2-135m-instruct"), help="a model folder")
    parser.add_argument("--only", choices=("scripted", "real"), help="one half")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value for real runs")
    arguments = parser.parse_args()
    if arguments.kills < 1:
        parser.error("--kills must be at least 1")
    print(f"machine: {machine()}", flush=True)
    room = Path(tempfile.mkdtemp(prefix="halo_forge_soak_"))
    try:
        if arguments.only != "real":
            scripted()
        if arguments.only != "scripted":
            real(room, arguments)
    except Violation as violation:
        sys.exit(f"VIOLATION: {violation}\nthe runs are in {room}")
    shutil.rmtree(room)
    print("nothing lost, nothing doubled, nothing left behind")


if __name__ == "__main__":
    main()
