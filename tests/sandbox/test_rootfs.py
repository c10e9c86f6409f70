"""What jobs of level `namespace` see of the paths that they are to see, wherever these are, however named."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from halo_forge.sandbox.job import MEBIBYTE, Job, Limits
from halo_forge.sandbox.local import LevelUnavailable, LocalSandbox

LIMITS = Limits(cpu_seconds=5.0, wall_seconds=10.0, memory_bytes=128 * MEBIBYTE)


@pytest.fixture
def tree() -> Iterator[Path]:
    """`a` with a file, `a/b` with a file, `other` with a link to `a`; below a directory for temporary files."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="halo-forge-tree-") as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "a/b").mkdir(parents=True)
        (top / "other").mkdir()
        (top / "a/one").write_text("1")
        (top / "a/b/two").write_text("2")
        (top / "other/link").symlink_to("../a")
        yield top


def said(script: str, *read_only: object) -> Sequence[str]:
    """The lines that a shell script prints where these paths are to be seen."""
    try:
        sandbox = LocalSandbox("namespace", [str(path) for path in read_only])
    except LevelUnavailable as refusal:
        pytest.skip(f"this machine has no level namespace: {refusal}")
    try:
        outcome = sandbox.run(Job(("/bin/sh", "-c", script), LIMITS, env={"PATH": "/usr/bin:/bin"}))
    finally:
        sandbox.close()
    return [*outcome.stdout.decode().split(), *outcome.stderr.decode().splitlines()]


def test_a_parent_after_its_child_is_seen_whole(tree: Path) -> None:
    assert said(f"cat {tree}/a/one; echo; cat {tree}/a/b/two", tree / "a/b", tree / "a") == ["1", "2"]


def test_a_link_and_what_it_leads_to_are_seen_and_nothing_next_to_it(tree: Path) -> None:
    found = said(f"cat {tree}/other/link/b/two; echo; ls {tree} {tree}/a", tree / "other/link/b")
    assert found == ["2", f"{tree}:", "a", "other", f"{tree}/a:", "b"]


def test_the_temporary_directories_stay_writable(tree: Path) -> None:
    script = f"for d in /tmp /var/tmp /dev/shm; do echo $d > $d/new; cat $d/new; done; cat {tree}/a/one"
    assert said(script, tree / "a") == ["/tmp", "/var/tmp", "/dev/shm", "1"]
    refused = said(f"echo x > {tree}/a/new; rm -f {tree}/a/one; cat {tree}/a/one", tree / "a")
    assert refused[0] == "1" and len(refused) == 3 and not (tree / "a/new").exists()


def test_etc_is_seen_where_it_is_named() -> None:
    names = set(said("ls -A /etc"))
    assert {"passwd", "group"} <= names < set(os.listdir("/etc")) | {"passwd", "group"}
    assert set(said("ls -A /etc", "/etc")) == set(os.listdir("/etc"))
    assert said("grep -c . /etc/passwd", "/etc/passwd") == [str(len(Path("/etc/passwd").read_text().splitlines()))]


@pytest.mark.parametrize("path", ["/", "/dev", "/proc", "/proc/self", "/tmp", "/var", "/dev/shm", "/usr/.."])
@pytest.mark.parametrize("level", ["namespace", "landlock", "limits"])
def test_what_holds_the_files_of_others_is_no_path_to_name(level: str, path: str) -> None:
    with pytest.raises(ValueError, match="too much"):
        LocalSandbox(level, [path])  # type: ignore[arg-type]


def test_where_boxes_are_is_no_path_to_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tree / "a"))
    (tree / "to").symlink_to(tree)
    for path in (tree, tree / "a", tree / "to"):
        with pytest.raises(ValueError, match="too much"):
            LocalSandbox("limits", [str(path)])
    LocalSandbox("limits", [str(tree / "a/b")]).close()
