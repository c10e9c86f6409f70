"""Running experiments: order, failures, kills, changed files, devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_runs import write_inputs

from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.experiments.devices import slots_of
from halo_forge.experiments.execute import _opened
from halo_forge.experiments.file import Experiment, load_experiment
from halo_forge.hardware.devices import Gpu


def test_seeds_are_outermost_and_a_failed_run_stops_no_other(drive: Callable[..., str]) -> None:
    drive("order", "failing", "two_parents", "sharing", "occupied")


def test_two_at_a_time_make_the_same_bytes_and_end_with_their_parent(drive: Callable[..., str]) -> None:
    drive("together", "orphans", "interrupted")


def test_learning_rates_are_compared_on_the_samples_of_one_cycle(drive: Callable[..., str]) -> None:
    drive("counterfactual")


def test_whatever_is_killed_and_resumed_ends_with_the_same_bytes(drive: Callable[..., str]) -> None:
    drive("kill_parent", "kill_at_random")


def test_a_run_that_takes_files_from_another_is_killed_anywhere(drive: Callable[..., str]) -> None:
    drive("kill_child", "kill_fork")


FILE = """\
question: q
base: run.yaml
arms: {a: {training.learning_rate: 1e-5}, b: {training.learning_rate: 2e-5}}
seeds: [0]
primary: [{treatment: a, control: b}]
output_dir: OUT
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    (tmp_path / "experiment.yaml").write_text(FILE.replace("OUT", str(tmp_path / "out")))
    return tmp_path


def changed(folder: Path, old: str, new: str) -> Experiment:
    text = (folder / "experiment.yaml").read_text()
    assert old in text
    (folder / "experiment.yaml").write_text(text.replace(old, new))
    return load_experiment(folder / "experiment.yaml")


REFUSED = [
    ("seeds: [0]", "seeds: [0, 1]", r"seeds: was \[0\], is \[0, 1\]"),
    ("1e-5", "3e-5", r"arms.a: training.learning_rate: was 1e-05, is 3e-05"),
    ("base: run.yaml", "base: run.yaml\nset: {raft.num_cycles: 3}", "raft.num_cycles of every arm: was 2, is 3"),
    ("b: {training.learning_rate: 2e-5}", "b: {training.learning_rate: 2e-5}, c: {}", "arms.c: was not there"),
    ("treatment: a, control: b", "treatment: b, control: a", "primary: was .*, is "),
]


@pytest.mark.parametrize(("old", "new", "said"), REFUSED)
def test_a_changed_file_is_refused_with_the_key(folder: Path, old: str, new: str, said: str) -> None:
    with _opened(load_experiment(folder / "experiment.yaml"), resume=False):
        pass
    with (
        pytest.raises(RunDirError, match=f"started with another experiment file:\n  {said}") as error,
        _opened(changed(folder, old, new), resume=True),
    ):
        pass
    assert error.value.exit_code == 3
    assert len(error.value.message.splitlines()) == 2, "one change, one line"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("question: q", "question: another"),
        ("seeds: [0]", "share: false\nseeds: [0]"),
        ("b: {", "b: {report_to: none, "),
    ],
)
def test_what_decides_nothing_may_change(folder: Path, old: str, new: str) -> None:
    with _opened(load_experiment(folder / "experiment.yaml"), resume=False):
        pass
    with _opened(changed(folder, old, new), resume=True):
        pass


def test_a_folder_with_something_else_in_it_is_refused(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").touch()
    with (
        pytest.raises(RunDirError, match=r"not the folder of an experiment \(holds thesis.tex\)"),
        _opened(load_experiment(folder / "experiment.yaml"), resume=True),
    ):
        pass


# ---- devices


def real(folder: Path, **hardware: str) -> Experiment:
    settings = "\n".join(f"  hardware.{key}: {value}" for key, value in hardware.items())
    (folder / "model.yaml").write_text("model: {model_name_or_path: owner/name}\n")
    text = FILE.replace("base: run.yaml", f"base: model.yaml\nset:\n{settings}").replace("OUT", str(folder / "out"))
    (folder / "experiment.yaml").write_text(text)
    return load_experiment(folder / "experiment.yaml")


def test_runs_at_a_time_on_the_cpu_share_its_threads_evenly(folder: Path) -> None:
    experiment = real(folder, profile="cpu")
    assert slots_of(experiment, 1) == [{}]
    assert slots_of(experiment, 3, environment={"OMP_NUM_THREADS": "8"}) == [{"OMP_NUM_THREADS": "2"}] * 3
    with pytest.raises(ConfigError, match=r"--parallel 9: runs on the CPU have 8 threads to share"):
        slots_of(experiment, 9, environment={"OMP_NUM_THREADS": "8"})


def test_each_run_at_a_time_gets_a_gpu_of_its_own(folder: Path) -> None:
    nvidia = [Gpu("H200"), Gpu("old", has_kernels=False), Gpu("H200"), Gpu("full", failure="out of memory")]
    experiment = real(folder, profile="cuda")
    found = slots_of(experiment, 2, ask=lambda _: nvidia, environment={})
    assert found == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2"}]
    given = slots_of(experiment, 2, ask=lambda _: nvidia, environment={"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
    assert given == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "6"}]
    amd = [Gpu("Radeon", architecture="gfx1100"), Gpu("Radeon", architecture="gfx1100")]
    found = slots_of(real(folder, profile="rocm"), 2, ask=lambda _: amd, environment={})
    assert found == [{"HIP_VISIBLE_DEVICES": "0"}, {"HIP_VISIBLE_DEVICES": "1"}]
    with pytest.raises(ConfigError, match=r"--parallel 3: torch can use 2 GPUs here"):
        slots_of(experiment, 3, ask=lambda _: nvidia, environment={})
