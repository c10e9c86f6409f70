"""A sandbox with all that a hostile program might reach for around it, and the check that it reached nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hostile_programs import COMPILE, MARK, MEBIBYTE, RUN, Program, ending, main_of

from halo_forge.sandbox import processes
from halo_forge.sandbox.job import Job, SandboxError
from halo_forge.sandbox.local import LocalSandbox, open_sandbox

PATH = "/usr/local/bin:/usr/bin:/bin"
SECRET = b"canary-7f3a91c2"
DISK_BYTES = 5 * MEBIBYTE
RSS_BYTES = 20 * MEBIBYTE
SUFFIXES = {"c": "c", "cpp": "cpp", "asm": "s"}
WATCHED = ("/", "/home", "/root", "/tmp", "/var/tmp", "/dev/shm", "/run", "/usr", "/usr/bin", "/etc", "/opt", "/srv")
PYTHON_TOPS = ("/usr/lib/python3/dist-packages", "/usr/local/lib")
# Harmless: leaves a file and a directory, and sends the signal 0.
TRY = 'leave(getenv("%s")); leave(getenv("REAL_HOME")); return kill(atoi(getenv("VICTIM")), 0) == 0;'


def compile_command(language: str) -> tuple[str, ...]:
    compiler = shutil.which("g++" if language == "cpp" else "gcc", path=PATH)
    assert compiler is not None, "gcc and g++ are needed"
    # -pipe keeps the compiler from filling the workdir, which is what some sources want.
    flags = ("-Wall", "-Wextra", "-O0", "-pipe", "-pthread", "-fmax-errors=20", "-fdiagnostics-color=never")
    return (compiler, *flags, f"answer.{SUFFIXES[language]}", "-o", "program")


@functools.cache
def compiled(language: str, source: str) -> bytes:
    """The program that a source makes which does no harm to its compiler; made once for all levels."""
    name = f"answer.{SUFFIXES[language]}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_text(source)
        subprocess.run([*compile_command(language), "-w"], cwd=folder, check=True, timeout=60)
        return Path(folder, "program").read_bytes()


@dataclass(frozen=True, slots=True)
class Snapshot:
    below: frozenset[int]
    marks: frozenset[str]
    launcher_files: frozenset[str]
    free_bytes: int
    rss_bytes: int
    shared_memory: bytes


class Arena:
    """One level of isolation.

    Attributes:
        breaches: What a harmless try did outside its workdir; destructive programs are not run then.
        own_user: Jobs run as a user of their own.
    """

    def __init__(self, level: str) -> None:
        self.level = level
        self.sandbox: LocalSandbox = self._open()
        self._cleanup = contextlib.ExitStack()
        try:
            self._surround()
            before = self.snapshot()
            # At `limits` everybody's files are everybody's.
            source = main_of(TRY % ("REAL_HOME" if level == "limits" else "CANARY"))
            tried = self.sandbox.run(self.job(Program("try", source, ("ok",))))
            self.breaches = [*self.changes(before), *([] if ending(tried) == "ok" else [repr(tried)])]
        except BaseException:
            self.close()
            raise

    def _surround(self) -> None:
        self.canary = Path(tempfile.mkdtemp(prefix="canary-"))
        self._cleanup.callback(self._remove_files)
        self.restore_canary()
        self.victim = subprocess.Popen(
            ["sleep", "3600"], env={"TOKEN": SECRET.decode()}, cwd=self.canary, start_new_session=True
        )
        self._cleanup.callback(self.victim.wait)
        self._cleanup.callback(self.victim.kill)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.abstract.bind(b"\0canary-" + os.urandom(8).hex().encode())
        self.abstract.listen()
        for listener in (self.tcp, self.udp, self.abstract):
            listener.setblocking(False)
            self._cleanup.enter_context(listener)
        self.own_user = self.sandbox.run(Job(("/usr/bin/id", "-u"), RUN)).stdout.strip() != b"%d" % os.geteuid()

    def _open(self) -> LocalSandbox:
        opened = open_sandbox(self.level)
        assert isinstance(opened, LocalSandbox) and opened.isolation.level == self.level
        return opened

    def restore_canary(self) -> None:
        """The canary as every program must find and leave it."""
        self.canary.chmod(0o777)
        (self.canary / "note").write_bytes(SECRET)
        (self.canary / "note").chmod(0o666)

    def job(self, program: Program) -> Job:
        """What runs `program`, or the compiler on it."""
        limits = dataclasses.replace(COMPILE if program.compiling else RUN, **program.limits)
        env = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "VICTIM": str(self.victim.pid),
            "LAUNCHER": str(self.sandbox.launcher),
            "CANARY": str(self.canary),
            "REAL_HOME": str(Path.home()),
            "TCP_PORT": str(self.tcp.getsockname()[1]),
            "UDP_PORT": str(self.udp.getsockname()[1]),
            "ABSTRACT": self.abstract.getsockname()[1:].decode(),
        }
        if program.language == "python":
            python = shutil.which("python3", path=PATH)
            assert python is not None, f"python3 is needed in {PATH}"
            return Job((python, "main.py"), limits, {"main.py": program.source.encode()}, program.stdin, env)
        if program.compiling:
            source = program.source.replace("@CANARY@", str(self.canary)).replace("@REAL_HOME@", str(Path.home()))
            files = {f"answer.{SUFFIXES[program.language]}": source.encode()}
            return Job(compile_command(program.language), limits, files, program.stdin, env, fetch="program")
        content = compiled(program.language, program.source)
        return Job(("./program",), limits, {"program": content}, program.stdin, env, fetch=program.fetch)

    def secrets(self, program: Program) -> list[bytes]:
        """What no output may hold."""
        found = [b"root:x:", b"root:*:", b"root:!", b"daemon:*:"] if program.needs != "nothing" else []
        with contextlib.suppress(FileNotFoundError):
            lines = (Path.home() / ".bashrc").read_bytes().splitlines()
            found += [line for line in lines if len(line) > 20][:5] if program.needs != "nothing" else []
        # At `limits` everybody's files are everybody's.
        return [*found, SECRET] if self.level != "limits" else found

    def snapshot(self) -> Snapshot:
        marks: set[str] = set()
        for top in {*WATCHED, *PYTHON_TOPS, str(Path.home()), os.getcwd(), str(self.canary), tempfile.gettempdir()}:
            if os.access(top, os.R_OK):  # what this user may not even read, a job cannot write
                marks.update(os.path.join(top, name) for name in os.listdir(top) if name.startswith(MARK))
        directory = self.sandbox._directory
        return Snapshot(
            below=frozenset(process.pid for process in processes.below(self.sandbox._process.pid)),
            marks=frozenset(marks),
            launcher_files=frozenset(os.path.join(top, name) for top, _, names in os.walk(directory) for name in names),
            free_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
            rss_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            shared_memory=Path("/proc/sysvipc/shm").read_bytes(),
        )

    def changes(self, before: Snapshot) -> list[str]:
        """What a job left behind or did outside, in words; empty when all is as it was."""
        after = self.snapshot()
        found: list[str] = []
        if new := after.below - before.below:
            found.append(f"left processes {[processes.read(pid) for pid in new]}")
        if new_files := (after.marks - before.marks) | (after.launcher_files ^ before.launcher_files):
            found.append(f"left or removed files {sorted(new_files)}")
        if before.free_bytes - after.free_bytes > DISK_BYTES:
            found.append(f"disk: {before.free_bytes - after.free_bytes} bytes less")
        if abs(after.rss_bytes - before.rss_bytes) > RSS_BYTES:
            found.append(f"memory of this process: {after.rss_bytes - before.rss_bytes} bytes more")
        if after.shared_memory.count(b"\n") > before.shared_memory.count(b"\n"):
            found.append("left shared memory")
        if self.victim.poll() is not None or self._state(self.victim.pid) in "TtZX":
            found.append("another process was signalled")
        note = self.canary / "note"
        if os.stat(self.canary).st_mode & 0o777 != 0o777 or not note.exists() or note.read_bytes() != SECRET:
            found.append("another job's files were changed")
        return found + self._arrivals()

    def _state(self, pid: int) -> str:
        process = processes.read(pid)
        return "X" if process is None else process.state

    def _arrivals(self) -> list[str]:
        found: list[str] = []
        for name, listener in (("a TCP", self.tcp), ("an abstract", self.abstract)):
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append(f"connected to {name} socket")
        with contextlib.suppress(BlockingIOError):
            self.udp.recv(100)
            found.append("sent a datagram")
        return found

    def next_job_problems(self) -> list[str]:
        """The next job is as good as on a fresh launcher."""
        try:
            outcome = self.sandbox.run(Job(("/bin/sh", "-c", "ls -A; pwd > x; wc -l < x"), RUN, env={"PATH": PATH}))
        except SandboxError as error:
            return [f"the next job failed: {error}"]
        return [] if outcome.clean and outcome.stdout.split() == [b"1"] else [f"the next job was not clean: {outcome}"]

    def kill_everything(self) -> None:
        """End the launcher with all below it, without its help."""
        launcher = self.sandbox._process.pid
        processes.send_signal(launcher, signal.SIGSTOP)  # what it would do meanwhile is what is in doubt
        for _ in range(50):
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in [*processes.below(launcher)]:
                    processes.send_signal(process.pid, number)
        processes.send_signal(launcher, signal.SIGKILL)

    def mend(self) -> None:
        """A new launcher where the old one was killed or broke, and the canary as it was."""
        self.restore_canary()
        if self.sandbox._process.poll() is not None or self.sandbox._broken is not None:
            self.sandbox.close()
            self.sandbox = self._open()

    def close(self) -> None:
        self.sandbox.close()
        self._cleanup.close()

    def _remove_files(self) -> None:
        self.canary.chmod(0o700)
        shutil.rmtree(self.canary)
        for top in {*WATCHED, *PYTHON_TOPS, str(Path.home())}:
            for mark in Path(top).glob(f"{MARK}*") if os.access(top, os.R_OK) else ():
                shutil.rmtree(mark) if mark.is_dir() and not mark.is_symlink() else mark.unlink()
