"""Torch computes with as many threads as there are processors that other programs leave free."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import load_policy, prompts, request

from halo_forge.core.records import Completion
from halo_forge.engines.transformers import TransformersEngine
from halo_forge.policy import threads
from halo_forge.policy.threads import ThreadBudget, used_by_others, yielding_threads


class Machine:
    """Processors on which other programs use `others` of them; a clock that only we move."""

    def __init__(self, num_processors: int, most: int) -> None:
        self.now = self.used = self.others = 0.0
        self.processors = ThreadBudget(most, num_processors, lambda: self.used, lambda: self.now)

    def pass_time(self, seconds: float) -> int:
        """The number of threads after so long."""
        self.now += seconds
        self.used += self.others * seconds
        return self.processors.look(0.5)


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("num_processors", "others", "left"),
    [(2, 0.0, 2), (2, 0.2, 2), (2, 0.5, 1), (2, 1.0, 1), (2, 2.0, 1), (16, 1.0, 15), (16, 6.6, 9), (16, 40.0, 1)],
)
def test_a_thread_gives_way_for_each_processor_that_others_use(num_processors: int, others: float, left: int) -> None:
    machine = Machine(num_processors, most=num_processors)
    machine.others = others
    assert machine.pass_time(0.6) == left


def test_threads_that_fit_beside_the_others_do_not_give_way() -> None:
    machine = Machine(num_processors=16, most=8)
    machine.others = 7.0
    assert machine.pass_time(0.6) == 8
    machine.others = 10.0
    assert machine.pass_time(0.6) == 6


def test_a_thread_comes_back_after_some_time_of_quiet_only() -> None:
    machine = Machine(2, most=2)
    machine.others = 1.0
    assert machine.pass_time(0.6) == 1
    for _ in range(3):  # work that comes and goes
        machine.others = 0.0
        assert [machine.pass_time(0.6), machine.pass_time(0.6)] == [1, 1]
        machine.others = 1.0
        assert machine.pass_time(0.6) == 1
    machine.others = 0.0
    assert [machine.pass_time(0.6) for _ in range(3)] == [1, 1, 2]


def test_it_is_said_once_where_others_stay(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(threads, "_said", False)
    machine = Machine(2, most=2)
    for others, seconds, num_said in ((1.0, 9.0, 0), (0.0, 3.0, 0), (1.0, 9.0, 0), (1.0, 3.0, 1), (1.0, 60.0, 1)):
        machine.others = others
        for _ in range(int(seconds)):
            machine.pass_time(1.0)
        assert len(caplog.records) == num_said
    assert "keep 1.0 of 2 processors busy; meanwhile the model computes with 1 of 2 threads" in caplog.text


def test_nothing_is_concluded_from_a_moment() -> None:
    machine = Machine(2, most=2)
    machine.others = 2.0
    assert machine.pass_time(0.1) == 2
    assert machine.pass_time(0.5) == 1


def test_one_thread_never_gives_way() -> None:
    machine = Machine(2, most=1)
    machine.others = 2.0
    assert machine.pass_time(5.0) == 1


def test_without_proc_all_threads_are_used(tmp_path: Path) -> None:
    assert used_by_others(tmp_path / "stat") is None
    processors = ThreadBudget(2, 2, lambda: used_by_others(tmp_path / "stat"), iter([0.0, 9.0]).__next__)
    assert processors.look(0.5) == 2


@pytest.mark.parametrize(("priority", "ticks"), [(0, 1300), (-5, 1300), (10, 1500)])
def test_only_what_others_do_on_our_processors_counts(
    priority: int, ticks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of that not what gives way to us: the second column is the time of processes with a nice value."""
    one = min(os.sched_getaffinity(0))
    lines = [
        "cpu  900000 900000 900000 1 2 3 4 5 6 7",
        *(f"cpu{number} 1000 200 300 9 9 9 9 9 9 9" for number in (one, 9999)),
        "ctxt 5",
    ]
    (tmp_path / "stat").write_text("\n".join(lines), encoding="ascii")
    monkeypatch.setattr(os, "getpriority", lambda which, who: priority)
    used = used_by_others(tmp_path / "stat", tmp_path)
    assert used is not None
    assert used + time.process_time() == pytest.approx(ticks / os.sysconf("SC_CLK_TCK"), abs=0.1)


@pytest.mark.parametrize(
    ("name", "text", "is_known"),
    [
        ("cpu.max", "max 100000", True),
        ("cpu.max", "200000 100000", False),
        ("cpu/cpu.cfs_quota_us", "-1", True),
        ("cpu/cpu.cfs_quota_us", "200000", False),
    ],
)
def test_under_a_quota_what_other_containers_do_is_no_reason(
    name: str, text: str, is_known: bool, tmp_path: Path
) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / name).write_text(f"{text}\n", encoding="ascii")
    (tmp_path / "stat").write_text(f"cpu{min(os.sched_getaffinity(0))} 1000 200 300 9", encoding="ascii")
    assert (used_by_others(tmp_path / "stat", tmp_path) is not None) == is_known


def test_a_busy_process_counts_and_our_own_work_does_not(tmp_path: Path) -> None:
    def others_during(seconds: float) -> float:
        before = used_by_others(cgroup=tmp_path)  # whatever quota the tests run under
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        after = used_by_others(cgroup=tmp_path)
        assert before is not None and after is not None
        return after - before

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            seen = others_during(1.0)
        finally:
            busy.kill()
    assert seen >= 0.2  # other tests may run too, so there is no upper limit to test


def busy_after(quiet_looks: int) -> Callable[[], float]:
    """Used by others: nothing at first, and from then on more than there can be."""
    moments = iter(range(10**6))
    return lambda: 1000.0 * max(0, next(moments) - quiet_looks)


def test_sampling_beside_others_gives_the_same_tokens_and_gives_the_threads_back(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, torch_threads: None
) -> None:
    policy = load_policy(tiny_models["llama"])
    asked = {f"p{number}": request(f"p{number}") for number in range(3)}
    texts = prompts(["add two numbers", "x", "the user and the assistant"])

    def sample() -> tuple[list[Completion], set[int]]:
        engine = TransformersEngine(policy, batch_size=2, stop=())
        drawn, found, seen = engine.sample(texts, list(asked.values()), 0), [], set()
        for completion in drawn:
            found.append(completion)
            seen.add(torch.get_num_threads())
        return found, seen

    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(threads, "used_by_others", lambda: 0.0)
    alone, seen = sample()
    assert seen == {2}
    for quiet_looks, expected in ((0, {1}), (40, {1, 2})):
        monkeypatch.setattr(threads, "used_by_others", busy_after(quiet_looks))
        beside, seen = sample()
        assert seen == expected
        assert beside == alone
        assert torch.get_num_threads() == 2


def test_on_a_gpu_no_thread_gives_way(monkeypatch: pytest.MonkeyPatch, torch_threads: None) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "used_by_others", busy_after(0))
    for device, left in (("cpu", 1), ("cuda", 2)):
        with yielding_threads(torch.device(device)):
            threads.adjust()
            assert torch.get_num_threads() == left
        threads.adjust()
        assert torch.get_num_threads() == 2
