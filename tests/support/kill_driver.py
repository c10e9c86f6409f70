"""Kills and resumes small runs, in children forked from this light process: kill_driver.py WHAT FOLDER.

A program of its own, because a process that has torch in memory is slow to fork and must not be forked at all once
it has threads.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from killing import WritePoints, in_child
from scripted_runs import MemoryVerifier, differences, execute, read, rows, steady_answers, tree, write_inputs

import halo_forge.runtime.identity
import halo_forge.verifiers.verifier
from halo_forge.store.run import Run

KILLED = -signal.SIGKILL
TWO_ROUNDS = {
    "raft__samples_per_prompt": 4,
    "raft__sampling": "budgeted",
    "raft__prompt_weights": "learnable",
    "replay__kind": "accumulate",
}
"""A second round of samples, and prompts and rows that depend on what earlier cycles found."""


def prepare(room: Path, bad_version: int, **changes: object) -> Path:
    """The configuration of a run of 2 cycles with 3 train prompts x 2 samples, without what only costs time.

    Args:
        bad_version: 1: v_1 degrades, so that cycle 2 also confirms the decline, goes back to v_0 and samples from it.
            0: v_1 is ahead of v_0, and at the end the dev prompts of both are sampled once more.
    """
    halo_forge.verifiers.verifier.ThreadedVerifier = lambda spec: MemoryVerifier(bad_versions={bad_version})  # type: ignore[assignment, misc]
    halo_forge.runtime.identity.package_versions = dict  # type: ignore[assignment]
    halo_forge.runtime.identity.git_commit = lambda: None
    config = write_inputs(
        room / "inputs", num_prompts=(3, 2, 1), answers=steady_answers, evaluation__samples_per_prompt=1, **changes
    )
    execute(config, room / "warm")  # what is imported late is imported here, once, and not in every child
    return config


def attempt(config: Path, folder: Path, kill_at: int = 0) -> int:
    """Run or resume in `folder`/run, in a child that dies at a write point; its exit code."""

    def work() -> None:
        os.chdir(folder)
        WritePoints(kill_at).install()
        execute(config, "run")

    return in_child(work)


def expect(holds: bool, said: str) -> None:
    if not holds:
        sys.exit(said)


def in_steps(config: Path, room: Path, undisturbed: dict[str, bytes]) -> None:
    everywhere(config, room, undisturbed, every=10)


def here_and_there(config: Path, room: Path, undisturbed: dict[str, bytes]) -> None:
    everywhere(config, room, undisturbed, every=17)


def at_the_end(config: Path, room: Path, undisturbed: dict[str, bytes], every: int = 1) -> None:
    """Every n-th write point from the last decision on, and some before it."""
    everywhere(config, room, undisturbed, every=29)
    folder = room / "decided"
    shutil.copytree(room / "undisturbed", folder, symlinks=True)
    for part in ("confirmation", "test"):
        shutil.rmtree(folder / "run" / part)
    (folder / "run/result.json").unlink()
    for kill_at in itertools.count(1, every):
        again = room / f"end_{kill_at}"
        shutil.copytree(folder, again, symlinks=True)
        code = attempt(config, again, kill_at)
        expect(code in (0, KILLED), f"exit code {code} at write point {kill_at}")
        expect(attempt(config, again) == 0, f"not resumable after a kill at write point {kill_at} of the end")
        changed = differences(tree(again / "run"), undisturbed)
        expect(changed == [], f"killed at write point {kill_at} of the end, then resumed: {changed} differ")
        shutil.rmtree(again)
        if code == 0:
            break
    expect(kill_at > 30, f"only {kill_at} write points at the end")


def at_the_end_in_steps(config: Path, room: Path, undisturbed: dict[str, bytes]) -> None:
    at_the_end(config, room, undisturbed, every=4)


def everywhere(config: Path, room: Path, undisturbed: dict[str, bytes], every: int = 1) -> None:
    for kill_at in itertools.count(1, every):
        folder = room / f"case_{kill_at}"
        folder.mkdir()
        code = attempt(config, folder, kill_at)
        if code == 0:
            break
        expect(code == KILLED, f"exit code {code} at write point {kill_at}")
        expect(attempt(config, folder) == 0, f"not resumable after a kill at write point {kill_at}")
        names = [event["event"] for event in rows(folder / "run/events.jsonl")]
        expect("attempt_started" in names, f"killed at write point {kill_at}, then resumed: no events")
        changed = differences(tree(folder / "run"), undisturbed)
        expect(changed == [], f"killed at write point {kill_at}, then resumed: {changed} differ")
        print(f"killed at write point {kill_at}, resumed: the same bytes")
        shutil.rmtree(folder)
    # 3 cycles: the number of a run this small is known roughly, and a loop that ends early is found.
    expect(200 < kill_at < 2000, f"only {kill_at} write points")
    print(f"killed at {len(range(1, kill_at, every))} write points")


def again_and_again(config: Path, room: Path, undisturbed: dict[str, bytes]) -> None:
    """The same run killed time after time; enough points for the longest stage, training, to end."""
    for survived in (97, 160):
        folder, num_kills = room / f"again_{survived}", 0
        folder.mkdir()
        while attempt(config, folder, survived) == KILLED:
            num_kills += 1
            expect(num_kills < 100, f"no progress in {num_kills} attempts of {survived} write points")
        expect(num_kills >= 3, f"only {num_kills} kills")
        changed = differences(tree(folder / "run"), undisturbed)
        expect(changed == [], f"killed {num_kills} times: {changed} differ")
        print(f"killed after every {survived} write points, {num_kills} times, resumed: the same bytes")


def going_back(config: Path, room: Path, undisturbed: dict[str, bytes]) -> None:
    """Killed while the files from cycle 2 on are set aside."""

    def work(folder: Path, kill_at: int) -> Callable[[], None]:
        def supersede() -> None:
            os.chdir(folder)
            WritePoints(kill_at).install()
            with Run(Path("run")) as run:
                run.supersede(2)

        return supersede

    for kill_at in itertools.count(1):
        folder = room / f"back_{kill_at}"
        shutil.copytree(room / "undisturbed", folder, symlinks=True)
        code = in_child(work(folder, kill_at))
        expect(code in (0, KILLED), f"exit code {code} at write point {kill_at}")
        expect(attempt(config, folder) == 0, f"not resumable after a kill at write point {kill_at}")
        now = {name: data for name, data in tree(folder / "run").items() if not name.startswith("superseded")}
        expect(differences(now, undisturbed) == [], f"killed at {kill_at}: {differences(now, undisturbed)} differ")
        shutil.rmtree(folder)
        if code == 0:
            break
        print(f"going back, killed at write point {kill_at}, resumed: the same bytes")
    expect(kill_at > 5, f"only {kill_at} write points")


def main() -> None:
    what, room = sys.argv[1], Path(sys.argv[2])
    leads = what.startswith("a lead")
    config = prepare(room, 0 if leads else 1, **(TWO_ROUNDS if what == "two rounds" else {}))
    (room / "undisturbed").mkdir()
    expect(attempt(config, room / "undisturbed") == 0, "the undisturbed run failed")
    undisturbed = tree(room / "undisturbed/run")
    decision = read(room / "undisturbed/run/cycles/002/decision.json")
    if leads:
        confirmed = {path.parent.name for path in (room / "undisturbed/run/confirmation").glob("*/verdicts.jsonl")}
        expect(confirmed == {"v000", "v001"}, f"resampled at the end: {sorted(confirmed)}")
    else:
        expect(decision["action"] == "rollback", f"cycle 2 decided to {decision['action']}: no new stages are killed")
    kinds = {
        "everywhere": everywhere,
        "in steps": in_steps,
        "two rounds": here_and_there,
        "a lead": at_the_end,
        "a lead, in steps": at_the_end_in_steps,
        "again and again": again_and_again,
        "going back": going_back,
    }
    kinds[what](config, room, undisturbed)


if __name__ == "__main__":
    main()
