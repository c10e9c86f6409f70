"""What the ladder makes of containers and kernels of other kinds, emulated by `shapes.py`; see its docstring."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

import halo_forge
from halo_forge.sandbox import ladder, landlock, seccomp
from halo_forge.sandbox.job import LEVELS, Isolation, Level, SandboxError
from halo_forge.sandbox.ladder import LevelProbe, probe_ladder
from halo_forge.sandbox.local import LocalSandbox, open_sandbox
from halo_forge.sandbox.self_test import self_test

USER = 64_321
LAST_SECONDS = 60
TESTS = {"network", "home", "fork bomb", "kill -1", "memory", "daemon"}
WORKING = {probe.level for probe in probe_ladder() if probe.works}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, or hide parts of /proc")
needs_both = pytest.mark.skipif(
    not {"namespace", "landlock"} <= WORKING, reason=f"a shape takes away what is there; this machine has {WORKING}"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of what a launcher needs, which every user can read."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="halo-forge-shape-") as name:
        root = Path(name)
        root.chmod(0o755)
        source = Path(halo_forge.__file__).parent
        shutil.copytree(source / "sandbox", root / "halo_forge" / "sandbox", ignore=shutil.ignore_patterns("__py*"))
        shutil.copy(source / "__init__.py", root / "halo_forge")
        shutil.copy(Path(__file__).with_name("shapes.py"), root)
        subprocess.run(["chmod", "-R", "a+rX", name], check=True)
        yield root


def python_for(user: int | None) -> str:
    """An interpreter that this user can start."""
    if user is None:
        return sys.executable
    for path in (sys.executable, "/usr/bin/python3"):
        check = [path, "-I", "-S", "-c", "import os, sys; assert sys.version_info >= (3, 11); os.pidfd_open"]
        try:
            done = subprocess.run(check, user=user, group=user, extra_groups=[], capture_output=True, cwd="/")
        except OSError:
            continue
        if done.returncode == 0:
            return path
    pytest.skip("no Python 3.11 that another user can start")


def in_shape(package: Path, shape: str, user: int | None, *level: str) -> dict[str, Any]:
    arguments = [str(package), shape, "-" if user is None else str(user), *level]
    script = [python_for(user), "-B", str(package / "shapes.py"), *arguments]
    # Neither the shape's filters nor what it leaves behind reach this process.
    done = subprocess.run(script, capture_output=True, text=True, timeout=LAST_SECONDS, cwd="/")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def works(found: dict[str, Any]) -> set[str]:
    return {probe["level"] for probe in found["probes"] if probe["works"]}


@needs_both
@pytest.mark.parametrize(
    ("shape", "user", "level", "add_ons"),
    [
        ("plain", None, "namespace", {"fresh_proc": True}),
        pytest.param("plain", USER, "namespace", {"fresh_proc": True, "uid_drop": False}, marks=needs_root),
        pytest.param("masked", None, "namespace", {"fresh_proc": False, "uid_drop": True}, marks=needs_root),
        pytest.param("masked", USER, "namespace", {"fresh_proc": False, "uid_drop": False}, marks=needs_root),
        ("no landlock", None, "namespace", {"landlock_abi": 0, "seccomp": True}),
        pytest.param("no filters", USER, "namespace", {"seccomp": False}, marks=needs_root),
        pytest.param("docker", None, "landlock", {"uid_drop": True, "seccomp": True}, marks=needs_root),
        pytest.param("docker", USER, "landlock", {"uid_drop": False, "seccomp": True}, marks=needs_root),
        pytest.param("docker with older landlock", USER, "landlock", {"landlock_abi": 5}, marks=needs_root),
        pytest.param("docker with older landlock", None, "landlock", {"landlock_abi": 5}, marks=needs_root),
        pytest.param(
            "docker with namespaces", None, "namespace", {"uid_drop": True, "seccomp": True}, marks=needs_root
        ),
        pytest.param("docker with namespaces", USER, "namespace", {"uid_drop": False}, marks=needs_root),
        pytest.param("docker without clone", USER, "landlock", {"seccomp": True}, marks=needs_root),
        ("apparmor", None, "landlock", {"seccomp": True}),
        pytest.param("apparmor", USER, "landlock", {"uid_drop": False}, marks=needs_root),
        ("no user namespaces", None, "landlock", {}),
    ],
)
def test_auto_takes_the_best_that_is_left(
    package: Path, shape: str, user: int | None, level: str, add_ons: dict[str, Any]
) -> None:
    found = in_shape(package, shape, user)
    assert found.get("level") == level, found
    assert found["add_ons"] | add_ons == found["add_ons"]
    assert set(found["attempts"]) == TESTS
    # A home that the user cannot write to himself is not tried.
    assert [attempt for attempt in found["attempts"].items() if attempt[1][0] is False] == []
    assert found["ordinary"] == ["hello\n", 6, "hello\n"]
    assert found["bystander"] == "alive, tried"
    assert found["own"].startswith("143 134 137 ")
    if level == "landlock":
        assert "namespace" not in works(found)


@needs_both
def test_auto_never_falls_to_limits(package: Path) -> None:
    found = in_shape(package, "docker without landlock", None)
    assert works(found) == {"limits"}
    assert "level" not in found
    for word in ("namespace", "landlock", "EPERM", "ENOSYS", "verifier.isolation: limits", "seccomp=FILE"):
        assert word in found["error"]
    named = in_shape(package, "docker without landlock", None, "limits")
    assert (named["level"], named["bystander"]) == ("limits", "alive, tried")


@needs_root
def test_a_job_at_limits_does_not_end_its_user_s_processes(package: Path) -> None:
    found = in_shape(package, "plain", USER, "limits")
    assert (found["bystander"], found["ordinary"]) == ("alive, tried", ["hello\n", 6, "hello\n"])
    assert found["own"] == "143 134 137 1"  # the last is kill -1
    assert found["add_ons"]["seccomp"] and not found["add_ons"]["uid_drop"]


@needs_both
@pytest.mark.parametrize(("shape", "level"), [("docker", "namespace"), ("no landlock", "landlock")])
def test_a_named_level_is_never_lowered(package: Path, shape: str, level: str) -> None:
    found = in_shape(package, shape, None, level)
    assert "level" not in found and f"isolation level {level} does not work here" in found["error"]
    assert "; fix: " in found["error"]


def test_probes_name_errno_and_what_would_mend() -> None:
    probes = probe_ladder()
    assert [probe.level for probe in probes] == list(LEVELS)
    for probe in probes:
        assert probe.works == (probe.reason == "") == (probe.fix == "")
    assert probes[-1] == LevelProbe("limits", True)


@pytest.mark.skipif("namespace" not in WORKING, reason="user namespaces do not work here")
def test_a_level_that_fails_half_way_leaves_the_system_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 5.12, or where a container's filter refuses mount_setattr; of the system, one folder is enough."""
    system = tmp_path / "system"
    (system / "bin").mkdir(parents=True)
    (system / "bin" / "program").write_text("x")
    system.chmod(0o755)
    boot = f"""
import errno, os, sys
sys.path.insert(0, sys.argv[1])
from halo_forge.sandbox import rootfs
from halo_forge.sandbox.launcher import main
def not_known(place):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
rootfs.SYSTEM_DIRECTORIES = [{str(system)!r}]
rootfs._place = lambda root, path: root + "/usr"
rootfs.syscalls.set_read_only = not_known
main()
"""
    monkeypatch.setattr("halo_forge.sandbox.local.BOOT", boot)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SandboxError, match="bind system directories: Function not implemented"):
        open_sandbox("namespace")
    assert system.stat().st_mode & 0o777 == 0o755
    assert (system / "bin" / "program").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["system"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="auto or one of namespace, landlock, limits, found 'docker'"):
        open_sandbox("docker")
    with pytest.raises(ValueError, match="must exist"):
        open_sandbox("limits", ["/not/there"])


@pytest.mark.skipif(not WORKING & {"namespace", "landlock"}, reason="no level that holds programs in works here")
def test_auto_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    open_sandbox().close()
    monkeypatch.setattr(ladder, "_try", None)
    sandbox = open_sandbox()
    assert sandbox.isolation.level == ladder._best[0] == next(level for level in LEVELS if level in WORKING)
    sandbox.close()


# Every process in a session of its own, which has as much of the CPUs as the launcher's.
BOMB = """
#include <unistd.h>
int main(void) { alarm(20); for (;;) if (fork() == 0) { setsid(); alarm(20); } }
"""
RUN_BOMB = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from halo_forge.sandbox.job import Job, Limits
from halo_forge.sandbox.local import LocalSandbox
limits = Limits(cpu_seconds=60.0, wall_seconds=25.0, memory_bytes=512 << 20, num_processes=16)
sandbox = LocalSandbox(sys.argv[2])
started = time.monotonic()
outcome = sandbox.run(Job(("./bomb",), limits, {"bomb": Path(sys.argv[1], "bomb").read_bytes()}))
seconds = time.monotonic() - started
print(json.dumps([outcome.process_limit, seconds, sandbox.run(Job(("/bin/true",), limits)).clean]))
sandbox.close()
"""


@needs_root
@pytest.mark.parametrize("level", sorted(WORKING - {"namespace"}))
def test_a_fork_bomb_of_an_ordinary_user_ends_soon(package: Path, build: Callable[[str], bytes], level: str) -> None:
    (package / "bomb").write_bytes(build(BOMB))
    (package / "bomb").chmod(0o755)
    script = [python_for(USER), "-B", "-c", RUN_BOMB, str(package), level]
    done = subprocess.run(
        script, user=USER, group=USER, extra_groups=[], capture_output=True, text=True, timeout=LAST_SECONDS, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    seen, seconds, next_is_clean = json.loads(done.stdout)
    assert seen and next_is_clean
    # 2 to 8 s on two cores, and 12 to 16 s where every look at the processes is a whole one.
    assert seconds < 11.0


class LateSandbox(LocalSandbox):
    """Level `namespace` is late; how often is told by `num_late`, and each start is noted in `started`."""

    num_late = 0
    started: ClassVar[list[str]] = []

    def __init__(self, level: Level = "limits", read_only: Sequence[str] = ()) -> None:
        self.started.append(level)
        if level == "namespace" and len(self.started) <= self.num_late:
            raise SandboxError("the launcher does not start: TimeoutError: timed out")
        super().__init__("limits", read_only)  # whatever works
        self.isolation = Isolation(level)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> type[LateSandbox]:
    monkeypatch.setattr(ladder, "_best", [])
    monkeypatch.setattr(ladder, "LocalSandbox", LateSandbox)
    monkeypatch.setattr(LateSandbox, "started", [])
    return LateSandbox


def test_a_level_that_is_late_once_is_not_given_up(late: type[LateSandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "num_late", 1)
    sandbox = open_sandbox()
    sandbox.close()
    assert sandbox.isolation.level == "namespace" and late.started == ["namespace", "namespace"]


def test_a_level_that_is_late_again_is_an_error(late: type[LateSandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "num_late", 2)
    with pytest.raises(SandboxError, match=r"no lower level is used .* the launcher does not start: TimeoutErr"):
        open_sandbox()
    assert late.started == ["namespace", "namespace"] and ladder._best == []
    monkeypatch.setattr(late, "started", [])
    late_one = probe_ladder()[0]
    assert not late_one.works and not late_one.refused and "less busy" in late_one.fix


def test_the_self_test_tells_what_happened_at_limits() -> None:
    sandbox = open_sandbox("limits")
    try:
        attempts = {attempt.name: attempt for attempt in self_test(sandbox)}
    finally:
        sandbox.close()
    assert set(attempts) == TESTS
    # It is honest: nothing keeps the network out there.
    assert attempts["network"].held in (False, None)
    assert attempts["memory"].held and attempts["fork bomb"].held and attempts["daemon"].held


@pytest.mark.skipif("landlock" not in WORKING, reason="this kernel has no Landlock")
def test_older_versions_of_landlock_take_what_they_know(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("x")
    for abi in range(1, landlock.kernel_abi() + 1):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                seccomp.syscalls.prctl(seccomp.syscalls.PR_SET_NO_NEW_PRIVS, 1)
                landlock.enter(landlock.new_ruleset(["/usr"], [], abi))
                os.listdir("/usr")
                try:
                    (tmp_path / "note").read_text()
                except PermissionError:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, abi


def test_refusals_of_the_launcher_are_errors_of_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/not/there/python")
    with pytest.raises(SandboxError, match="launcher cannot be started"):
        open_sandbox("limits")
