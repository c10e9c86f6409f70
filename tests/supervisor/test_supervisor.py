"""`--supervised`: what hangs is ended and resumed, what is killed is resumed, what fails for good is given up."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line
from scripted_runs import differences, rows, tree, write_inputs

from halo_forge.core.errors import NoProgress
from halo_forge.hardware import Machine
from halo_forge.sandbox import processes
from halo_forge.store.attempts import Attempts
from halo_forge.supervisor import child as _child
from halo_forge.supervisor.join import PIPE_VARIABLE
from halo_forge.supervisor.supervise import RestartPolicy, supervise

SUPPORT = Path(__file__).parents[1] / "support"
NO_GPU = Machine(Path("nowhere"), {}, None)


# ---- small children: the rules alone


class Children:
    """Starts the same small Python program again and again in `root`, which counts its starts there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []

    def run(
        self,
        body: str,
        *,
        stall: float = 60.0,
        loading: float | None = None,
        restarts: int = 3,
        machine: Machine = NO_GPU,
    ) -> int:
        program = f"""
import os, signal, time
with open({str(self.root / "starts")!r}, "a") as starts:
    starts.write(os.environ.get("HSA_ENABLE_INTERRUPT", "unset") + "\\n")
attempt = len(open({str(self.root / "starts")!r}).readlines())
os.makedirs({str(self.root / "cycles/001/training.part")!r}, exist_ok=True)
os.chdir({str(self.root / "cycles/001")!r})
signal.pthread_sigmask(signal.SIG_SETMASK, [])
beat = lambda sign=b".": os.write(int(os.environ["HALO_FORGE_HEARTBEAT"]), sign)
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
{body}
"""
        command = [sys.executable, "-I", "-S", "-c", program]
        policy = RestartPolicy(stall, restarts, stall if loading is None else loading)
        return supervise(command, lambda: command, Attempts(self.root), policy, self.said.append, machine)

    @property
    def starts(self) -> list[str]:
        return (self.root / "starts").read_text().splitlines()


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2, 5, 130])
def test_exit_codes_pass_through(children: Children, code: int) -> None:
    assert children.run(f"raise SystemExit({code})") == code
    assert len(children.starts) == 1 and children.said == []


def test_slow_is_not_stalled(children: Children) -> None:
    assert children.run("for _ in range(15): time.sleep(0.1); beat()", stall=1.0) == 0
    assert children.said == []


def test_still_is_stalled(children: Children) -> None:
    assert children.run("beat(); time.sleep(60 if attempt == 1 else 0)", stall=1.0) == 0
    (said,) = children.said
    assert "produced no token, verdict or training pass for" in said and "state S, 0 cores busy" in said
    assert "restart 1 of at most 3" in said


def test_a_stopped_process_is_stalled_too(children: Children) -> None:
    assert children.run("if attempt == 1: os.kill(os.getpid(), signal.SIGSTOP)", stall=1.0) == 0
    (said,) = children.said
    assert "state T" in said and "ended by SIGKILL" in said


@pytest.mark.parametrize("begun", ["", "beat(); beat(b'l')"], ids=["before the first sign", "after one of loading"])
def test_loading_may_be_silent_for_longer(children: Children, begun: str) -> None:
    assert children.run(f"{begun}\ntime.sleep(2.5); beat()", stall=0.8, loading=30.0) == 0
    assert children.said == []


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (RestartPolicy(), 900),
        (RestartPolicy(60), 900),
        (RestartPolicy(3600), 3600),
        (RestartPolicy(3600, loading_seconds=60), 60),
    ],
)
def test_a_longer_stall_is_allowed_while_loading_too(policy: RestartPolicy, seconds: float) -> None:
    assert policy.silent_seconds(is_loading=True) == seconds


def test_who_allows_a_longer_silence_allows_it_while_loading(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_forge.supervisor.supervise.LOADING_SECONDS", 0.5)
    command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(1.5)"]
    policy, attempts = RestartPolicy(30), Attempts(children.root)
    assert supervise(command, lambda: command, attempts, policy, children.said.append, NO_GPU) == 0
    assert children.said == []


def test_loading_that_moves_nothing_is_stalled_too(children: Children) -> None:
    body = "if attempt == 1: beat(); beat(b'l'); time.sleep(60)"
    assert children.run(body, stall=60.0, loading=1.0) == 0
    (said,) = children.said
    assert "moved no data while loading for" in said


def test_after_loading_silence_counts_as_before(children: Children) -> None:
    assert children.run("if attempt == 1: beat(b'l'); beat(); time.sleep(60)", stall=1.0, loading=60.0) == 0
    (said,) = children.said
    assert "produced no token, verdict or training pass for" in said


@pytest.mark.parametrize(("sign", "option"), [(".", "--stall-seconds"), ("l", "--loading-seconds")])
def test_what_is_given_up_names_the_limit_that_was_hit(children: Children, sign: str, option: str) -> None:
    with pytest.raises(NoProgress) as caught:
        children.run(f"beat(b'{sign}'); time.sleep(60)", stall=0.8, restarts=0)
    assert f"raise {option} if it was only slow" in caught.value.hint


def test_what_finishes_something_is_never_given_up(children: Children) -> None:
    body = "if attempt == 6: raise SystemExit(0)\nopen(f'{attempt}.json', 'w').write('{}'); die()"
    assert children.run(body, restarts=1) == 0
    assert len(children.starts) == 6


@pytest.mark.parametrize(
    "body",
    [
        "die()",
        "open(f'training.part/{attempt}', 'w').write('x'); die()",
        "open(f'.{attempt}.tmp', 'w').write('x'); die()",
        "open('same.json', 'w').write('x'); beat(); die()",
    ],
    ids=["nothing", "half a training", "a temporary file", "signs only"],
)
def test_what_finishes_nothing_is_given_up(children: Children, body: str) -> None:
    (children.root / "cycles/001").mkdir(parents=True)
    (children.root / "cycles/001/same.json").write_text("x")
    with pytest.raises(NoProgress, match="2 restarts without progress; the last attempt was ended by SIGKILL"):
        children.run(body, restarts=2)
    assert len(children.starts) == 3


def test_no_restart_at_all(children: Children) -> None:
    with pytest.raises(NoProgress):
        children.run("open(f'{attempt}.json', 'w').write('{}'); die()", restarts=0)
    assert len(children.starts) == 1


def strix_halo(root: Path) -> Machine:
    node = root / "sys/class/kfd/kfd/topology/nodes/1"
    node.mkdir(parents=True)
    (node / "properties").write_text("simd_count 80\ngfx_target_version 110501\n")
    card = root / "sys/class/drm/card1/device"
    monitor = card / "hwmon/hwmon5"
    monitor.mkdir(parents=True)
    for path, text in (
        (card / "vendor", "0x1002"),
        (card / "gpu_busy_percent", "100"),
        (monitor / "name", "amdgpu"),
        (monitor / "power1_average", "51900000"),
    ):
        path.write_text(text)
    return Machine(root, {}, "2.14.0+rocm10.1")


def test_the_second_start_after_a_stall_on_gfx1151(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HSA_ENABLE_INTERRUPT", raising=False)
    machine = strix_halo(children.root / "machine")
    body = "if attempt == 1: die()\nif attempt == 2: time.sleep(60)"
    assert children.run(body, stall=1.0, machine=machine) == 0
    assert children.starts == ["unset", "unset", "0"]  # a kill is no stall
    assert "GPU 100% busy, GPU at 52 W" in children.said[1]
    assert [said.endswith("with HSA_ENABLE_INTERRUPT=0") for said in children.said] == [False, True]


def test_sensors_that_hang_do_not_keep_the_child_alive(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a driver hangs together with what runs on it."""
    root = children.root / "machine"
    (root / "dev").mkdir(parents=True)
    (root / "dev/nvidia0").touch()
    (root / "pynvml.py").write_text("import time; time.sleep(120)")
    monkeypatch.setenv("PYTHONPATH", str(root), prepend=":")
    machine = Machine(root, {}, "2.13.0+cu130")
    body = """
def ended(*ignored):
    open("ended", "w").write(str(time.monotonic()))
    die()
if attempt == 1:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ended)
    open("begun", "w").write(str(time.monotonic()))
    time.sleep(60)
"""
    assert children.run(body, stall=1.0, machine=machine) == 0
    assert "GPU: its sensors do not answer within 5 s" in children.said[0]
    begun, ended = (float((children.root / "cycles/001" / name).read_text()) for name in ("begun", "ended"))
    assert ended - begun < 4.5, "it is ended before the sensors are given up"


def test_what_the_user_has_set_stays(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSA_ENABLE_INTERRUPT", "1")
    machine = strix_halo(children.root / "machine")
    assert children.run("if attempt == 1: time.sleep(60)", stall=1.0, machine=machine) == 0
    assert children.starts == ["1", "1"]


def test_elsewhere_nothing_is_set(children: Children) -> None:
    assert children.run("if attempt == 1: time.sleep(60)", stall=1.0) == 0
    assert children.starts == ["unset", "unset"]


def test_a_process_that_cannot_be_killed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Undying:
        pid = os.getpid()

        def kill(self) -> None:
            pass

        def wait(self, seconds: float) -> None:
            raise subprocess.TimeoutExpired("it", seconds)

    read = processes.read

    def waits_in_the_kernel(pid: int) -> Any:
        found = read(pid)
        assert found is not None
        found.state = "D"
        return found

    monkeypatch.setattr(processes, "read", waits_in_the_kernel)
    with pytest.raises(NoProgress, match=r"is still alive .* after SIGKILL: state D \(blocked in the kernel"):
        _child.kill(Undying())  # type: ignore[arg-type]


def test_finished_work_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert Attempts(tmp_path / "nothing").finished_work() == frozenset()


# ---- the command line: real runs in trouble


def troubled(trouble: str, after: int, times: int, folder: Path, *arguments: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    program = [sys.executable, str(SUPPORT / "troubled_run.py"), trouble, str(after), str(times), str(folder)]
    return [*program, "raft", *arguments, "--supervised", "--stall-seconds", "3"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(write_inputs(tmp_path / "inputs"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def undisturbed(config: str, tmp_path: Path) -> dict[str, bytes]:
    command = troubled("wait", 0, 0, tmp_path / "none", "run", config, "--output-dir", "quiet")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "supervisor" not in done.stderr, done.stderr
    return tree(tmp_path / "quiet")


def test_a_troubled_run_ends_as_one_that_was_not(config: str, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    for trouble, state in (("spin", "R"), ("die", None)):
        command = troubled(trouble, 3, 1, tmp_path / f"{trouble}-starts", "run", config, "--output-dir", trouble)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("supervisor: ") == 1
        assert ("in meet" in done.stderr) == (trouble == "spin"), "its stacks say where it hung"
        changed = differences(tree(tmp_path / trouble), undisturbed)
        assert changed == ["config.resolved.yaml"], trouble  # which holds the output_dir
        events = rows(tmp_path / trouble / "events.jsonl")
        (ended,) = [event for event in events if event["event"] == "attempt_ended"]
        assert (ended["signal"], ended.get("process_state")) == ("SIGKILL", state)
        assert ended["why"] == ("killed" if trouble == "die" else "stalled")
        assert ended["restart"] == 1
        assert [event["resumed"] for event in events if event["event"] == "attempt_started"] == [False, True]


def test_a_run_that_loads_for_longer_than_a_stall_may_last_is_left_alone(config: str, tmp_path: Path) -> None:
    command = troubled("load", 4, 1, tmp_path / "starts", "run", config, "--output-dir", "out")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "supervisor" not in done.stderr, done.stderr
    command = troubled("load", 30, 1, tmp_path / "starts", "run", config, "--output-dir", "other")
    command += ["--loading-seconds", "1", "--max-restarts", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 5 and "moved no data while loading" in done.stderr, done.stderr


def test_a_run_that_fails_for_good(config: str, tmp_path: Path) -> None:
    command = troubled("die", 0, 9, tmp_path / "starts", "run", config, "--output-dir", "out", "--max-restarts", "1")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 5
    assert "error: gave up after 1 restart without progress" in done.stderr and "fix:" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    ended = [event for event in rows(tmp_path / "out/events.jsonl") if event["event"] == "attempt_ended"]
    # The settings of the first cycle were finished work; the two attempts after it finished nothing.
    assert [event.get("restart") for event in ended] == [1, None]


def test_cycles_are_redone_once(config: str, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    command = troubled("die", 2, 1, tmp_path / "starts", "resume", "quiet", "--from-cycle", "2", "--json")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and '"state": "finished"' in done.stdout, done.stderr
    assert done.stderr.count("supervisor: ") == 1
    assert len(list((tmp_path / "quiet/superseded").iterdir())) == 1
    now = {name: data for name, data in tree(tmp_path / "quiet").items() if not name.startswith("superseded")}
    assert differences(now, undisturbed) == []


# ---- interrupting


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def is_gone(pid: int) -> bool:
    found = processes.read(pid)
    return found is None or found.state in "ZX"


@pytest.mark.parametrize("how", ["the supervisor", "its group", "the terminal", "hang-up"])
def test_an_interrupt_ends_both(config: str, tmp_path: Path, how: str) -> None:
    command = troubled("wait", 1, 1, tmp_path / "starts", "run", config, "--output-dir", "out")
    command[-1] = "600"
    process, output = on_a_terminal(command) if how == "the terminal" else in_a_session(command)
    try:
        # Not for its first completion on disk: it may then be anywhere before the sleep that records the interrupt.
        wait_for((tmp_path / "starts.waiting").exists)
        child = child_of(process)
        if how == "the terminal":
            os.write(output, b"\x03")
        elif how == "its group":
            os.killpg(process, signal.SIGINT)
        else:
            os.kill(process, signal.SIGINT if how == "the supervisor" else signal.SIGHUP)
        said = read_all(output)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        end(process)
        os.close(output)
    assert (tmp_path / "starts.interrupted").exists()  # a child that does not answer is killed after a while
    assert status == 130, said
    assert said.count("Interrupted. Completed work is saved; rerun with --resume.") == 1 and "Traceback" not in said
    assert is_gone(child)


def test_a_second_interrupt_ends_what_does_not_answer(config: str, tmp_path: Path) -> None:
    command = troubled("spin", 1, 1, tmp_path / "starts", "run", config, "--output-dir", "out")
    command[-1] = "600"
    process, output = in_a_session(command)
    try:
        wait_for((tmp_path / "starts/0").exists)
        time.sleep(0.2)
        child = child_of(process)
        os.kill(process, signal.SIGTERM)
        time.sleep(0.5)
        assert not is_gone(child)
        os.kill(process, signal.SIGTERM)
        said = read_all(output)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        end(process)
        os.close(output)
    assert status == 130 and is_gone(child), said


def test_the_child_does_not_outlive_its_supervisor(config: str, tmp_path: Path) -> None:
    command = troubled("wait", 1, 1, tmp_path / "starts", "run", config, "--output-dir", "out")
    command[-1] = "600"
    process, output = in_a_session(command)
    try:
        wait_for((tmp_path / "starts/0").exists)
        child = child_of(process)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        wait_for(lambda: is_gone(child))
    finally:
        end(process)
        os.close(output)


def test_a_child_whose_supervisor_is_gone_before_it_joins_ends() -> None:
    program = "from halo_forge.supervisor.join import join\njoin()\nprint('goes on')"
    reading, writing = os.pipe()
    options: dict[str, Any] = {
        "env": {**os.environ, PIPE_VARIABLE: str(writing)},
        "pass_fds": (writing,),
        "capture_output": True,
    }
    assert subprocess.run([sys.executable, "-c", program], **options).stdout == b"goes on\n"
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", program], **options)
    os.close(writing)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_time_in_which_both_are_stopped_does_not_count() -> None:
    """Ctrl-Z, or a machine that sleeps."""
    program = '''
import pathlib, sys
from halo_forge.store.attempts import Attempts
from halo_forge.supervisor.supervise import RestartPolicy, supervise
body = """import time
end = time.monotonic() + 4
print("asleep", flush=True)
while time.monotonic() < end: time.sleep(0.05)
"""
command = [sys.executable, "-I", "-S", "-c", body]
sys.exit(supervise(command, lambda: command, Attempts(pathlib.Path("nowhere")), RestartPolicy(3.0), print))
'''
    process, output = in_a_session([sys.executable, "-c", program])
    try:
        assert os.read(output, 100) == b"asleep\n"
        os.killpg(process, signal.SIGSTOP)
        time.sleep(3)
        os.killpg(process, signal.SIGCONT)
        said = read_all(output)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        end(process)
        os.close(output)
    assert (status, said) == (0, "")


def in_a_session(command: list[str]) -> tuple[int, int]:
    """Process id, and where its output can be read."""
    reading, writing = os.pipe()
    process = subprocess.Popen(command, stdout=writing, stderr=writing, start_new_session=True)
    os.close(writing)
    process.returncode = 0  # it is waited for by its id
    return process.pid, reading


def on_a_terminal(command: list[str]) -> tuple[int, int]:
    """The same on a terminal of its own, whose other end reads what it says and types."""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(command[0], command)
    return process, terminal


def read_all(output: int) -> str:
    found = b""
    while True:
        try:
            part = os.read(output, 65536)
        except OSError:  # how a terminal says that nobody is left on it
            part = b""
        if not part:
            return found.decode()
        found += part


def end(process: int) -> None:
    try:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it has ended and was waited for


# ---- usage


def test_settings_without_a_supervisor_are_refused(cli: Cli, config: str) -> None:
    for option in ("--stall-seconds", "--loading-seconds", "--max-restarts"):
        refused = cli("raft", "run", config, option, "1")
        assert refused.code == 2 and f"{option} 1: the run is not supervised" in refused.err


def test_a_wrong_configuration_is_refused_before_anything_starts(cli: Cli, config: str) -> None:
    assert cli("raft", "run", config, "--supervised", "--set", "raft.num_cycles=-1").code == 2
    assert cli("raft", "resume", "nowhere", "--supervised").code == 3
    assert cli("raft", "run", config, "--supervised", "--stall-seconds", "0").code == 2
    assert cli("raft", "run", config, "--supervised", "--dry-run").code == 0
