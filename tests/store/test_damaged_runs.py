"""Run directories with a file that was edited, cut off, exchanged or lost: an error with its fix, never a traceback.

More examples: HALO_FORGE_TEST_EXAMPLES=10000 (docs/testing.md).
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import damage
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from scripted_runs import MemoryVerifier, execute, steady_answers, tree, write_inputs

from halo_forge.api import RunDirectory, resume
from halo_forge.cli import app
from halo_forge.core.errors import HaloForgeError, RunDirError

DOCUMENTED = {0, 2, 3, 4, 5}
"""Exit codes of docs/index.md, without those of a bug (1) and of an interrupt."""
DERIVED = ("training_log.jsonl", "selection.jsonl", "adapter")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with a rollback, confirmations and a second round, which later cycles can be taken away from."""
    room = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier(bad_versions={1}))
        patch.setattr("signal.signal", lambda *which: None)
        config = write_inputs(
            room / "inputs", answers=steady_answers, num_prompts=(3, 2, 1), evaluation__samples_per_prompt=1
        )
        execute(config, room / "run")
        yield room / "run"


def command(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command; a bug is raised through it."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["halo-forge", *map(str, arguments)])
        try:
            app.main()
        except SystemExit as left:
            code = 0 if left.code is None else left.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def interrupt(run: Path, where: str) -> None:
    """Take the end of a finished run away."""
    if where == "finished":
        return
    (run / "result.json").unlink()
    shutil.rmtree(run / "test")
    if where == "in cycle 2":
        shutil.rmtree(run / "cycles/003")
        for name in ("report.json", "trained.json", "settings.json"):
            (run / "cycles/002" / name).unlink()


def sealed_files(run: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(run).items() if not any(each in name for each in DERIVED)}


COMMANDS = (
    ("raft", "status"),
    ("raft", "status", "--json"),
    ("verify", "--rescore", "--set", "verifier.rewards.compiles=0.4"),
    ("raft", "resume"),
)


def arguments(words: tuple[str, ...], run: Path) -> list[str]:
    at = words.index("--rescore") + 1 if "--rescore" in words else len(words)
    return [*words[:at], str(run), *words[at:]]


@given(data=st.data())
@examples(15)
def test_no_damage_ends_in_a_traceback_or_changes_what_is_sealed(data: st.DataObject, finished: Path) -> None:
    with tempfile.TemporaryDirectory() as room:
        run = Path(shutil.copytree(finished, Path(room) / "run", symlinks=True))
        interrupt(run, data.draw(st.sampled_from(["finished", "after cycle 2", "in cycle 2"]), "interrupted"))
        what = damage(data, run)
        before = sealed_files(run)
        for words in COMMANDS:
            code, _, err = command(*arguments(words, run))
            assert code in DOCUMENTED, (what, words, code, err)
            assert code == 0 or ("error: " in err and "fix: " in err), (what, words, err)
        with contextlib.suppress(HaloForgeError):
            RunDirectory(run).status()
        now = sealed_files(run)
        assert [name for name in before if now.get(name) != before[name]] == [], what


@pytest.mark.parametrize("name", ["completions.jsonl", "measurement.json", "decision.json"])
@pytest.mark.parametrize("kind", ["gone", "dangling link"])
def test_a_finished_cycle_that_lost_a_file_is_not_computed_again(
    name: str, kind: str, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))
    interrupt(run, "after cycle 2")
    path = run / "cycles/001" / name
    path.unlink()
    if kind == "dangling link":
        path.symlink_to("nowhere")
    with pytest.raises(RunDirError, match=rf"001/{name}") as caught:
        resume(run)
    assert "--from-cycle" in caught.value.hint
    assert not path.exists()
