"""What a job finds when it starts, and what is left when it is over: nothing of others, nothing of its own."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from halo_forge.sandbox import local, processes
from halo_forge.sandbox.job import LEVELS, MEBIBYTE, Job, Limits, SandboxError
from halo_forge.sandbox.local import LevelUnavailable, LocalSandbox, without_workdir_path
from halo_forge.sandbox.workdir import Workdir, remove_tree

LIMITS = Limits(cpu_seconds=5.0, wall_seconds=30.0, memory_bytes=128 * MEBIBYTE)


def alive(pid: int) -> bool:
    process = processes.read(pid)
    return process is not None and process.state not in "ZX"


def wait_until(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def sleeper(seconds: str) -> Job:
    """Sleeps in two sessions, for a time that tells its processes from all others."""
    script = f"setsid sleep {seconds} & sleep {seconds}"
    return Job(("/bin/sh", "-c", script), LIMITS, env={"PATH": "/usr/bin:/bin"})


def asleep(seconds: str) -> list[int]:
    """The processes of `sleeper`, wherever they are."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and Path("/proc", name, "cmdline").read_bytes() == f"sleep\0{seconds}\0".encode():
                found.append(int(name))
        except OSError:
            continue  # ended meanwhile
    return found


@pytest.fixture
def seconds() -> str:
    return f"60.{secrets.randbelow(10**9)}"


def opened(level: str) -> LocalSandbox:
    try:
        return LocalSandbox(level)  # type: ignore[arg-type]
    except LevelUnavailable as refusal:
        pytest.skip(f"this machine has no level {level}: {refusal}")


def test_environment_is_scrubbed(shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "do not tell")
    outcome = shell("env")
    names = {line.split(b"=")[0] for line in outcome.stdout.splitlines()}
    assert names <= {b"PATH", b"LANG", b"HOME", b"TMPDIR", b"PWD", b"_", b"SHLVL", b"OLDPWD"}
    assert b"do not tell" not in outcome.stdout


def test_home_and_working_directory_are_the_box(shell) -> None:
    lines = shell('pwd; echo "$HOME"; echo "$TMPDIR"; ls -A; cat note', files={"note": b"hello"}).stdout.decode()
    here, home, temporary, *rest = lines.splitlines()
    assert here == home == temporary and without_workdir_path(here) == ""
    assert rest == ["note", "hello"]
    assert not os.path.exists(here)


def test_what_is_printed_stays(run_c, shell) -> None:
    outcome = run_c(
        '#include <unistd.h>\n#include <fcntl.h>\nint main(void) { write(1, "one\\n", 4); lseek(1, 0, 0);'
        ' write(1, "two\\n", 4); ftruncate(1, 0); truncate("/proc/self/fd/1", 0);'
        ' open("/dev/stdout", O_WRONLY | O_TRUNC); return 0; }'
    )
    assert outcome.clean and outcome.stdout == b"one\ntwo\n", outcome
    # An output that is opened by its name, as the first thing, and messages at any time: both are ordinary.
    usual = shell("echo one > /dev/stdout; echo two; echo a >&2; echo b > /dev/stderr; echo c >&2")
    assert (usual.stdout, usual.stderr) == (b"one\ntwo\n", b"b\nc\n"), usual


def test_only_the_standard_streams_are_open(shell) -> None:
    with open(os.devnull) as leak:
        os.set_inheritable(leak.fileno(), True)
        # The fourth descriptor is the directory that ls reads.
        assert shell("exec ls /proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]


def test_own_session_no_privileges_and_first_to_go(shell, sandbox: LocalSandbox) -> None:
    # Within one process: at level `landlock` no other one's /proc can be read.
    read = "read -r line < /proc/self/oom_score_adj; echo $line; while read -r key value; do echo $key $value; done"
    lines = shell(f"{read} < /proc/self/status; nice").stdout.decode().splitlines()
    status = dict(line.partition(":")[::2] for line in lines[1:-1])
    assert (lines[0], lines[-1]) == ("1000", str(min(19, os.nice(0) + 10)))
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    # Only a privileged launcher can lower the bounding set; without new privileges nothing is gained within it.
    if os.geteuid() == 0 or sandbox.isolation.level == "namespace":
        assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    pid, session = shell("read -r pid a b c d session rest < /proc/self/stat; echo $pid $session").stdout.split()
    assert pid == session


@pytest.mark.parametrize(
    "script",
    [
        "setsid sleep 60 & echo done",
        "(setsid sh -c 'sleep 60 & sleep 61' &) ; echo done",
        "(sh -c 'trap \"\" TERM HUP INT; sleep 60; sleep 60' > /dev/null 2>&1 &) ; echo done",
        "sh -c 'kill -STOP $$' & echo done",
    ],
    ids=["session", "double fork", "deaf and without streams", "stopped"],
)
def test_strays_are_killed(shell, script: str) -> None:
    outcome = shell(script)
    assert outcome.clean and outcome.stdout == b"done\n"
    assert outcome.wall_seconds < 2.0  # and the `sandbox` fixture finds no process left


@pytest.mark.parametrize(
    "script",
    [
        "rm -rf ../job; mkdir ../job ../job.1; echo x > ../job.1/y",
        'cd ..; rm -rf "$PWD"',
        "mkdir -p a/b/c; touch a/b/c/d; chmod 000 a/b/c a/b a",
        "cd ..; rmdir job; ln -s / job",
        "mkfifo pipe; ln -s /etc link; touch -- -rf '\n'",
        "for i in $(seq 300); do mkdir dddddddddddddddddddddd; cd dddddddddddddddddddddd; done",
    ],
    ids=["replaced", "removed", "locked", "linked", "odd", "deep"],
)
def test_the_box_is_removed_whatever_it_holds(shell, script: str) -> None:
    shell(script)
    assert shell("ls -A").stdout == b""
    assert os.path.isdir("/etc")


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "link").symlink_to(tmp_path / "kept")
    remove_tree(str(tmp_path / "top"))
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove_tree(str(tmp_path / "link"))
    remove_tree(str(tmp_path / "missing"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("script", "fetched"),
    [
        ("printf abc > result", b"abc"),
        (": > result", b""),
        ("true", None),
        ("ln -s /etc/passwd result", None),
        ("mkfifo result", None),
        ("mkdir result", None),
        ("printf abc > other; ln other result", None),
    ],
    ids=["file", "empty", "missing", "link", "fifo", "directory", "two names"],
)
def test_fetch(shell, script: str, fetched: bytes | None) -> None:
    assert shell(script, fetch="result").fetched == fetched


def test_fetch_has_a_longest_size(tmp_path: Path) -> None:
    workdir = Workdir(str(tmp_path / "work"))
    workdir.put("result", b"0123456789")
    assert (workdir.fetch("result", 10), workdir.fetch("result", 9)) == (b"0123456789", None)
    workdir.remove()
    assert os.listdir(tmp_path / "work") == []


def test_malformed_jobs_are_refused(sandbox: LocalSandbox) -> None:
    for job in (
        Job((), LIMITS),
        Job(("true",), LIMITS),
        Job(("/bin/true",), LIMITS, {"../x": b""}),
        Job(("/bin/true",), LIMITS, {"..": b""}),
        Job(("/bin/true",), LIMITS, fetch="/etc/passwd"),
    ):
        with pytest.raises(ValueError):
            sandbox.run(job)


def test_isolation_is_told_honestly(sandbox: LocalSandbox) -> None:
    isolation = sandbox.isolation
    told = isolation.add_ons["uid_drop"]
    if isolation.level == "namespace":
        assert sandbox.run(Job(("/usr/bin/id", "-u"), LIMITS)).stdout == b"1000\n"
    else:
        assert told == (sandbox.run(Job(("/usr/bin/id", "-u"), LIMITS)).stdout != b"%d\n" % os.geteuid())
    if isolation.level == "limits":
        assert any("network" in note for note in isolation.notes)
        assert told == any("as a separate user" in note for note in isolation.notes)
    filters = sandbox.run(Job(("/bin/sh", "-c", "exec grep Seccomp: /proc/self/status"), LIMITS)).stdout.split()
    assert (filters[1] == b"2") >= isolation.add_ons["seccomp"]
    assert set(isolation.add_ons) == {"landlock_abi", "fresh_proc", "uid_drop", "seccomp"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_jobs_of_root_own_nothing_and_cannot_fork_without_limit(sandbox: LocalSandbox, tmp_path: Path) -> None:
    assert sandbox.isolation.add_ons["uid_drop"]
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    assert not sandbox.run(Job(("/bin/cat", str(secret)), LIMITS)).clean
    # Neither can a job end its launcher, which would look like a failure of ours.
    assert not sandbox.run(Job(("/bin/sh", "-c", f"kill -9 {sandbox.launcher}"), LIMITS)).clean
    # The shell counts how many children the kernel lets it have; all are asleep at once.
    script = "n=0; while [ $n -lt 300 ]; do sleep 5 & n=$((n+1)); done; echo $n"
    outcome = sandbox.run(Job(("/bin/sh", "-c", script), LIMITS, env={"PATH": "/usr/bin:/bin"}))
    assert outcome.process_limit or b"300" not in outcome.stdout


def running(sandbox: LocalSandbox, seconds: str) -> tuple[threading.Thread, list[BaseException]]:
    """A thread whose job has started, and what it fails with."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            sandbox.run(sleeper(seconds))
        except SandboxError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert wait_until(lambda: len(asleep(seconds)) == 2)
    return thread, failures


@pytest.mark.parametrize("level", LEVELS)
def test_close_ends_the_running_job_at_once(level: str, seconds: str) -> None:
    sandbox = opened(level)
    thread, failures = running(sandbox, seconds)
    started = time.monotonic()
    sandbox.close()
    thread.join(timeout=20)
    assert time.monotonic() - started < 20.0  # the job has 30
    assert len(failures) == 1 and asleep(seconds) == []
    sandbox.close()
    with pytest.raises(SandboxError):
        sandbox.run(Job(("/bin/true",), LIMITS))


@pytest.mark.parametrize("victim", ["launcher", "reaper"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_launcher_that_dies_is_our_failure(level: str, victim: str, seconds: str) -> None:
    sandbox = opened(level)
    # At level `namespace` the two are one.
    process = sandbox.launcher if victim == "launcher" else sandbox._process.pid

    def kill_when_busy() -> None:
        assert wait_until(lambda: len(asleep(seconds)) == 3)
        os.kill(process, signal.SIGKILL)

    threading.Thread(target=kill_when_busy).start()
    script = f"(setsid sleep {seconds} &); setsid sleep {seconds} & exec sleep {seconds}"
    with pytest.raises(SandboxError, match="launcher is gone"):
        sandbox.run(Job(("/bin/sh", "-c", script), LIMITS, env={"PATH": "/usr/bin:/bin"}))
    with pytest.raises(SandboxError):
        sandbox.run(Job(("/bin/true",), LIMITS))
    assert wait_until(lambda: asleep(seconds) == [])
    sandbox.close()
    assert not os.path.exists(sandbox._directory)


@pytest.mark.parametrize("level", LEVELS)
def test_a_keeper_that_dies_between_jobs_takes_its_launcher_with_it(level: str) -> None:
    sandbox = opened(level)
    assert sandbox.run(Job(("/bin/true",), LIMITS)).clean
    os.kill(sandbox._process.pid, signal.SIGKILL)
    with pytest.raises(SandboxError, match="launcher is gone"):
        sandbox.run(Job(("/bin/true",), LIMITS))
    # What it had is given back without being closed.
    assert wait_until(lambda: not alive(sandbox.launcher)) and not os.path.exists(sandbox._directory)


@pytest.mark.parametrize("level", LEVELS)
def test_close_ends_a_launcher_that_hangs(level: str, seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_CLOSE_SECONDS", 0.2)
    sandbox = opened(level)
    thread, failures = running(sandbox, seconds)
    os.kill(sandbox.launcher, signal.SIGSTOP)
    sandbox.close()
    thread.join(timeout=20)
    assert len(failures) == 1 and wait_until(lambda: asleep(seconds) == [])
    assert not alive(sandbox.launcher) and not os.path.exists(sandbox._directory)


@pytest.mark.parametrize("level", LEVELS)
def test_a_launcher_that_is_killed_while_it_starts_a_job_leaves_nothing(level: str, seconds: str) -> None:
    for number in range(40):
        sandbox = opened(level)
        victim = threading.Timer(0.00005 * number, os.kill, (sandbox.launcher, signal.SIGKILL))
        victim.start()
        started = time.monotonic()
        with pytest.raises(SandboxError):
            sandbox.run(sleeper(seconds))
        assert time.monotonic() - started < 20.0  # the end is seen at once, not at the job's time limit
        victim.join()
        time.sleep(0.1)  # what nobody ends has begun by then
        assert wait_until(lambda: asleep(seconds) == []), f"killed after {0.05 * number:.2f} ms"
        sandbox.close()


def test_a_launcher_that_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    for executable, error in (("/not/there/python", FileNotFoundError), ("/bin/false", SandboxError)):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(error):
            LocalSandbox("limits")
        assert os.listdir(tmp_path) == []
        assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "exit", "with its launcher"])
@pytest.mark.parametrize("level", LEVELS)
def test_everything_ends_with_the_trainer(level: str, how: str, seconds: str) -> None:
    opened(level).close()
    script = f"""
import os, signal, threading, time
from test_cleanliness import asleep, sleeper
from halo_forge.sandbox.local import LocalSandbox
sandbox = LocalSandbox({level!r})
print(sandbox._process.pid, sandbox._directory, flush=True)
threading.Thread(target=sandbox.run, args=(sleeper({seconds!r}),), daemon=True).start()
while len(asleep({seconds!r})) < 2:
    time.sleep(0.01)
if {how!r} == "with its launcher":
    os.kill(sandbox.launcher, signal.SIGKILL)
os._exit(0) if {how!r} == "exit" else os.kill(os.getpid(), signal.{how if how == "SIGTERM" else "SIGKILL"})
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=30)
    launcher, directory = done.stdout.split()
    assert wait_until(lambda: asleep(seconds) == [] and not alive(int(launcher))), done.stderr
    assert wait_until(lambda: not os.path.exists(directory))


def test_both_ways_to_find_children_agree() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in processes._children_from_scan(os.getpid())
        assert child.pid in processes.children(os.getpid())
        assert child.pid in {process.pid for process in processes.below(os.getpid())}
    finally:
        child.kill()
        child.wait()
