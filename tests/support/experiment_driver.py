"""Cases of experiments with scripted runs, in forked children of this light process: experiment_driver.py CASE..."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forked_runs import Forks, in_child, run_forked, without_cost
from killing import WritePoints, room_in_memory
from scripted_runs import differences, execute, read, rows, steady_answers, tree, write_inputs

import halo_forge.experiments.execute
from halo_forge import api
from halo_forge.core.errors import RunDirError
from halo_forge.engines.scripted import ScriptedEngine
from halo_forge.experiments.file import load_experiment
from halo_forge.experiments.progress import read_progress
from halo_forge.store.lock import RunLock, writing_process
from halo_forge.store.run import Run

SHARED = ("cycles/001/dev_completions.jsonl", "test/v000/verdicts.jsonl")
KILLED = -signal.SIGKILL
FILE = """\
question: Does decay help?
base: inputs/run.yaml
arms:
  constant: {{training.learning_rate: 5e-5}}
  decay: {{}}
seeds: [0, 1]
primary: [{{treatment: decay, control: constant, expect: higher}}]
output_dir: {root}
{more}
"""


FORK = """\
question: Which learning rate makes the most of the samples of cycle 2?
fork: {run: parent, from_cycle: 2}
arms:
  low: {training.learning_rate: 1e-5}
  middle: {training.learning_rate: 5e-5}
  high: {training.learning_rate: 2e-4}
primary: [{treatment: low, control: middle, metric: dev/pass_rate, at: final}]
output_dir: out
"""


def expect(holds: bool, said: str) -> None:
    if not holds:
        sys.exit(said)


def prepare(room: Path, more: str = "", **changes: Any) -> Path:
    """The file of an experiment of 2 arms, 2 seeds and 2 cycles in `room`, which becomes the working directory."""
    os.chdir(room)
    without_cost()
    write_inputs(room / "inputs", answers=steady_answers, **changes)
    path = room / "experiment.yaml"
    path.write_text(FILE.format(root="out", more=more), encoding="utf-8")
    return path


def trees(root: Path) -> dict[str, bytes]:
    """The trees of all runs of an experiment."""
    found = {}
    for run in sorted(root.glob("*/seed-*")):
        if run.parent.parent == root:
            found |= {f"{run.relative_to(root)}/{name}": data for name, data in tree(run).items()}
    return found


def undisturbed(path: Path, room: Path, **words: Any) -> dict[str, bytes]:
    """The trees of an experiment that nothing disturbs; its folder is moved to `room / "undisturbed"`."""
    outcome = run_forked(path, **words)
    expect(outcome.exit_code == 0, f"the undisturbed experiment failed: {outcome}")
    found = trees(room / "out")
    (room / "out").rename(room / "undisturbed")
    return found


def attempt(path: Path, work: Callable[[], object] = lambda: None, forks: Forks | None = None, **words: Any) -> int:
    """An attempt at the experiment in a child, after `work`; its exit code."""

    def run() -> None:
        work()
        outcome = run_forked(path, forks=forks, **words)
        if outcome.exit_code:
            os._exit(outcome.exit_code)

    return in_child(run)


def order(room: Path) -> None:
    """Seeds outermost, finished runs are not run again, and a second start without --resume is refused."""
    path = prepare(room)
    forks, said = Forks(), list[str]()
    expect(run_forked(path, resume=False, forks=forks, said=said).exit_code == 0, "not finished")
    started = [line.partition(": started")[0] for line in said if ": started" in line]
    wanted = ["constant, seed 0", "decay, seed 0", "constant, seed 1", "decay, seed 1"]
    expect(started == wanted, f"started as {started}")
    expect(any("unknown until" in line for line in said) is False, "the remaining time is known after a finished run")
    timed = [line for line in said if line.startswith("1 of 4 runs finished; ") and line.endswith("min left")]
    expect(timed != [], f"no remaining time: {said}")
    before = trees(room / "out")
    again = Forks()
    expect(run_forked(path, forks=again).exit_code == 0 and again.started == [], "finished runs were started again")
    expect(trees(room / "out") == before, "a finished experiment changed")
    try:
        run_forked(path, resume=False)
    except RunDirError as error:
        expect("already started" in str(error), f"said: {error}")
    else:
        sys.exit("a second start was not refused")


def kill_parent(room: Path) -> None:
    """Killed at write points of the parent, its children end too, and a resumed experiment has the same bytes."""
    path = prepare(room, raft__num_cycles=1)
    wanted = undisturbed(path, room)

    class OnlyHere(WritePoints):
        def __init__(self, kill_at: int) -> None:
            super().__init__(kill_at)
            self.process = os.getpid()

        def hit(self, last_words: Callable[[], object] = lambda: None) -> None:
            if os.getpid() == self.process:
                super().hit(last_words)

    for kill_at in itertools.count(1, 13):
        code = attempt(path, lambda number=kill_at: OnlyHere(number).install())
        if code == 0:
            break
        expect(code == KILLED, f"exit code {code} at write point {kill_at}")
        expect(attempt(path) == 0, f"not resumable after a kill at write point {kill_at}")
        changed = differences(trees(room / "out"), wanted)
        expect(changed == [], f"killed at write point {kill_at}: {changed} differ")
        shutil.rmtree(room / "out")
    expect(kill_at > 30, f"only {kill_at} write points")
    print(f"killed at {kill_at // 13} write points")


def kill_child(room: Path) -> None:
    """Killed at write points of a run that takes files from another one; the other runs go on."""
    path = prepare(room, raft__num_cycles=1)
    wanted = undisturbed(path, room)
    for kill_at in itertools.count(1, 61):

        def in_run(command: Sequence[str], number: int = kill_at) -> None:
            if any("decay/seed-0" in word for word in command):
                WritePoints(number).install()

        code = attempt(path, forks=Forks(in_run))
        if code == 0:
            break
        expect(code == 1, f"exit code {code} at write point {kill_at}")
        errors = [each["error"] for each in read(room / "out/state/failures.json")["failures"]]
        expect(errors == ["ended by SIGKILL"], f"said {errors}")
        expect((room / "out/decay/seed-1/result.json").is_file(), "a killed run stopped another one")
        expect(attempt(path) == 0, f"not resumable after a kill at write point {kill_at}")
        changed = differences(trees(room / "out"), wanted)
        expect(changed == [], f"killed at write point {kill_at}: {changed} differ")
        shutil.rmtree(room / "out")
    expect(kill_at > 100, f"only {kill_at} write points")


def kill_fork(room: Path) -> None:
    """Killed at write points of a fork, from its first file to its last."""
    prepare(room)
    execute(room / "inputs/run.yaml", "parent")

    def continue_it(root: str, kill_at: int = 0) -> int:
        def work() -> None:
            WritePoints(kill_at).install()
            api.fork("parent", 2, root, ["training.learning_rate=1e-4"], resume=True)

        return in_child(work)

    expect(continue_it("wanted") == 0, "failed")
    wanted = tree(room / "wanted")
    for kill_at in itertools.count(1, 17):
        code = continue_it("fork", kill_at)
        if code == 0:
            break
        expect(code == KILLED, f"exit code {code} at write point {kill_at}")
        expect(continue_it("fork") == 0, f"not resumable after a kill at write point {kill_at}")
        changed = [name for name in differences(tree(room / "fork"), wanted) if not name.startswith("config")]
        expect(changed == [], f"killed at write point {kill_at}: {changed} differ")
        taken = [row["of"] for row in rows(room / "fork/events.jsonl") if row["event"] == "shared"]
        expect("001" in taken, f"killed at write point {kill_at}: nobody says where cycle 1 is from")
        shutil.rmtree(room / "fork")
    expect(kill_at > 60, f"only {kill_at} write points")


def interrupted(room: Path) -> None:
    """Ctrl-C ends the runs, loses nothing, and says so by its exit code."""
    path = prepare(room)
    wanted = undisturbed(path, room)
    parent = os.fork()
    if parent == 0:
        os._exit(attempt(path, forks=Forks(slowly)) & 0xFF)
    wait_for_work(parent, room / "out", 4)
    owner = writing_process(room / "out")
    expect(owner is not None, "it ended too early")
    os.kill(int(owner or 0), signal.SIGINT)
    code = os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1])
    expect(code == 130, f"exit code {code}")
    expect(all(writing_process(run) is None for run in room.glob("out/*/seed-*")), "a run goes on")
    expect(attempt(path) == 0, "not resumable")
    expect(differences(trees(room / "out"), wanted) == [], "other bytes after an interruption")


def slowly(command: Sequence[str]) -> None:
    """Completions take time, so that kills at random moments hit something."""
    sample = ScriptedEngine.sample

    def slow_sample(*arguments: Any) -> Any:
        for completion in sample(*arguments):
            time.sleep(0.01)
            yield completion

    ScriptedEngine.sample = slow_sample  # type: ignore[method-assign]


def sealed(root: Path) -> dict[Path, tuple[int, int]]:
    """Every sealed file of every run -> what tells whether it was written again."""
    found = {}
    for part in ("cycles", "test"):
        for path in root.glob(f"*/seed-*/{part}/**/*.json*"):
            if path.suffix != ".part" and "training.part" not in path.parts and not path.name.startswith("."):
                state = path.stat()
                found[path] = (state.st_ino, state.st_mtime_ns)
    return found


def wait_for_work(child: int, root: Path, num_records: int) -> None:
    """Until there are so many more lines in files that grow, or files; or until the child has ended."""

    def done() -> int:
        paths = [path for path in root.glob("*/seed-*/*/**/*") if path.is_file()]
        num_lines = 0
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # sealed meanwhile
                num_lines += path.read_bytes().count(b"\n") if path.suffix == ".part" else 1
        return num_lines

    before, deadline = done(), time.monotonic() + 10
    while done() < before + num_records and time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.005)


def victim_of(root: Path, which: str) -> int | None:
    """The process that runs the experiment, or one of its runs; None if there is none for a second."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        places = [root] if which == "parent" else list(root.glob("*/seed-*"))
        found = [process for place in places if (process := writing_process(place)) is not None]
        if found:
            return found[0]
        time.sleep(0.005)
    return None


def kill_at_random(room: Path) -> None:
    """Parent or child killed at random moments, time after time: what was sealed stays as it is."""
    path = prepare(room, raft__num_cycles=1)
    wanted = undisturbed(path, room)
    draw, num_kills = random.Random(16), {"parent": 0, "child": 0}
    for number in itertools.count():
        expect(number < 60, "no progress")
        before = sealed(room / "out")
        child = os.fork()
        if child == 0:
            os._exit(attempt(path, forks=Forks(slowly), parallel=1 + number % 2) & 0xFF)
        wait_for_work(child, room / "out", draw.randint(1, 12))
        which = ("parent", "child")[number % 2]
        victim = victim_of(room / "out", which)
        if victim is not None:
            os.kill(victim, signal.SIGKILL)
            num_kills[which] += 1
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        after = sealed(room / "out")
        changed = [str(name) for name, state in before.items() if after.get(name) != state]
        expect(changed == [], f"sealed files were written again: {changed}")
        if code == 0:
            break
    expect(attempt(path) == 0, "not resumable")
    expect(min(num_kills.values()) > 0, f"not both were killed: {num_kills}")
    changed = differences(trees(room / "out"), wanted)
    expect(changed == [], f"{changed} differ")
    print(f"killed: {num_kills}")


def orphans(room: Path) -> None:
    """A parent that is killed takes its runs with it, at once: their directories are free."""
    path = prepare(room)
    parent = os.fork()
    if parent == 0:
        os._exit(attempt(path, forks=Forks(slowly), parallel=2) & 0xFF)
    root = room / "out"
    deadline = time.monotonic() + 30
    while sum(writing_process(run) is not None for run in root.glob("*/seed-*")) < 2:
        expect(time.monotonic() < deadline, "no two runs at a time")
        time.sleep(0.01)
    runs = [run for run in root.glob("*/seed-*") if writing_process(run) is not None]
    owner = writing_process(root)
    expect(owner is not None, "nobody has the lock of the experiment")
    os.kill(int(owner or 0), signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 5
    while any(writing_process(run) is not None for run in runs):
        expect(time.monotonic() < deadline, "a run outlived the experiment")
        time.sleep(0.01)
    for run in runs:
        Run(run).close()
    expect(attempt(path) == 0, "not resumable")


def failing(room: Path) -> None:
    """An arm that cannot run does not stop the others, is named with its error, and can be tried again."""
    path = prepare(room)
    path.write_text(path.read_text().replace("  decay: {}", "  decay: {raft.min_selected: 1000}"))
    said = list[str]()
    outcome = run_forked(path, said=said)
    expect(outcome.exit_code == 5, f"exit code {outcome.exit_code}")
    expect([(each.arm, each.seed) for each in outcome.failures] == [("decay", 0), ("decay", 1)], str(outcome))
    expect(
        "allowed: at least" in outcome.failures[0].error or "min_selected" in outcome.failures[0].error, str(outcome)
    )
    expect("fix:" in outcome.failures[0].error, str(outcome))
    expect(sum(": finished" in line for line in said) == 2, f"the other arm did not finish: {said}")
    expect(len(read(room / "out/state/failures.json")["failures"]) == 2, "not remembered")
    expect(run_forked(path).exit_code == 5, "a failed run is tried again, and fails again")
    expect(len(read(room / "out/state/failures.json")["failures"]) == 2, "a failure is remembered twice")


def occupied(room: Path) -> None:
    """A run that somebody else is working on fails; the others are run."""
    halo_forge.experiments.execute.END_SECONDS = 0.2
    path = prepare(room)
    overrides = ["seeds=[1]"]
    expect(run_forked(path, overrides=overrides).exit_code == 0, "failed")
    shutil.rmtree(room / "out/decay/seed-1")
    with Run(room / "out/decay/seed-1"):
        outcome = run_forked(path, overrides=overrides)
    expect(outcome.exit_code == 3, f"exit code {outcome.exit_code}")
    expect(f"(process {os.getpid()})" in outcome.failures[0].error, str(outcome))
    with Run(room / "out/decay/seed-1"):
        run_forked(path, overrides=overrides)
    found = read(room / "out/state/failures.json")["failures"]
    expect(len(found) == 1, f"remembered: {found}")


def together(room: Path) -> None:
    """Two at a time: the same bytes as one after the other."""
    path = prepare(room)
    wanted = undisturbed(path, room)
    said = list[str]()
    expect(run_forked(path, parallel=2, said=said).exit_code == 0, "failed")
    expect(differences(trees(room / "out"), wanted) == [], "other bytes than one after the other")
    events = [
        "started" if ": started" in line else "ended" for line in said if ": started" in line or ": finished" in line
    ]
    expect(events[:2] == ["started", "started"], f"not two at a time: {said}")


def two_parents(room: Path) -> None:
    """Two attempts at one experiment: the second one is refused, and names the first."""
    path = prepare(room)
    run_forked(path)
    lock = RunLock(room / "out", "experiment")
    try:
        run_forked(path)
    except RunDirError as error:
        expect(f"writing to this experiment (process {os.getpid()})" in str(error), f"said: {error}")
    else:
        sys.exit("a second process was not refused")
    lock.release()


def sharing(room: Path) -> None:
    """Shared or not, the same bytes; of each seed the start model is sampled once, and what that saved is said."""
    path = prepare(room, "share: false")
    wanted = undisturbed(path, room)
    path.write_text(path.read_text().replace("share: false", "share: true"))
    said = list[str]()
    expect(run_forked(path, said=said).exit_code == 0, "failed")
    expect(differences(trees(room / "out"), wanted) == [], "sharing changed the bytes")
    for seed in (0, 1):
        files = [room / f"out/{arm}/seed-{seed}/{name}" for arm in ("constant", "decay") for name in SHARED]
        expect(all(left.samefile(right) for left, right in zip(files[:2], files[2:], strict=True)), "not linked")
    saved = read_progress(load_experiment(path)).saved
    expect(saved.num_samples > 2 * (6 + 4) and saved.num_verdicts == saved.num_samples, f"saved {saved}")
    expect(sum(": taken from other runs, not made again: " in line for line in said) == 2, f"not said: {said}")


def counterfactual(room: Path) -> None:
    """From the samples of one cycle, three learning rates: only training and measuring is done in each arm."""
    prepare(room)
    execute(room / "inputs/run.yaml", "parent")
    path = room / "experiment.yaml"
    path.write_text(FORK)
    outcome = run_forked(path)
    expect(outcome.exit_code == 0, f"failed: {outcome}")
    parent = Path("parent/cycles/002")
    for name in ("low", "middle", "high"):
        run = Path("out") / name / "seed-0"
        rate = read(run / "cycles/002/settings.json")["learning_rate"]
        expect(rate == {"low": 1e-5, "middle": 5e-5, "high": 2e-4}[name], f"{name} trained at {rate}")
        for file in ("completions.jsonl", "verdicts.jsonl", "dev_completions.jsonl", "dev_verdicts.jsonl"):
            expect((run / "cycles/002" / file).samefile(parent / file), f"{name} sampled or verified {file} again")
        first = run / "cycles/001/trained.json"
        expect(first.samefile("parent/cycles/001/trained.json"), f"{name} trained cycle 1 again")
    before = trees(room / "out")
    shutil.rmtree("out/low/seed-0/test")
    Path("out/low/seed-0/result.json").unlink()
    expect(run_forked(path).exit_code == 0, "not resumable")
    expect(differences(trees(room / "out"), before) == [], "a resumed arm has other bytes")
    changed = path.read_text().replace("from_cycle: 2", "from_cycle: 1")
    path.write_text(changed)
    try:
        run_forked(path)
    except RunDirError as error:
        expect("'from_cycle': 2" in str(error), f"said: {error}")
    else:
        sys.exit("another cycle was not refused")


CASES = {
    case.__name__: case
    for case in (
        order,
        kill_parent,
        kill_at_random,
        kill_child,
        kill_fork,
        interrupted,
        orphans,
        failing,
        occupied,
        together,
        two_parents,
        sharing,
        counterfactual,
    )
}


def main() -> None:
    for name in sys.argv[1:]:
        with room_in_memory() as room:
            CASES[name](room)
            os.chdir("/")
        print(f"{name}: as it should be")


if __name__ == "__main__":
    main()
