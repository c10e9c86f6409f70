"""The experiment file: what it means, and what is said of a wrong one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from halo_forge.core.errors import ConfigError, HaloForgeError
from halo_forge.experiments.file import Comparison, Experiment, load_experiment

BASE = """\
model: {model_name_or_path: owner/name}
raft: {num_cycles: 4}
training: {learning_rate: 1e-4}
"""
FILE = """\
question: Does decay help?
base: base.yaml
set: {raft.num_cycles: 6}
arms:
  constant: {}
  decay: {training.learning_rate: {kind: exponential, base: 1e-4, decay: 0.8}}
seeds: [3, 5]
primary:
  - {treatment: decay, control: constant, expect: higher}
output_dir: runs/decay
"""


def load(folder: Path, text: str = FILE, *overrides: str) -> Experiment:
    (folder / "base.yaml").write_text(BASE)
    path = folder / "experiment.yaml"
    path.write_text(text)
    return load_experiment(path, overrides)


def test_every_run_has_the_settings_of_its_arm_its_seed_and_a_folder_of_its_own(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert [(arm.name, seed) for arm, seed in experiment.runs()] == [
        ("constant", 3),
        ("decay", 3),
        ("constant", 5),
        ("decay", 5),
    ]
    for arm, seed in experiment.runs():
        config = experiment.config(arm, seed).config
        assert (config.seed, config.raft.num_cycles) == (seed, 6)
        assert config.output_dir == f"runs/decay/{arm.name}/seed-{seed}" == str(experiment.run_root(arm, seed))
    rates = {arm.name: experiment.config(arm, 3).config.training.learning_rate for arm in experiment.arms}
    assert [rates["constant"].value(2, 6, []), rates["decay"].value(2, 6, [])] == [1e-4, pytest.approx(8e-5)]
    assert experiment.primary == (Comparison("decay", "constant", "test/pass_rate", "chosen", "higher"),)


def test_trackers_show_the_experiment_as_a_project_and_each_arm_as_a_group(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    shown = {arm.name: experiment.config(arm, 3).config.tracking for arm in experiment.arms}
    assert {(name, each.project, each.group) for name, each in shown.items()} == {
        ("constant", "decay", "constant"),
        ("decay", "decay", "decay"),
    }
    said = load(tmp_path, FILE.replace("set: {", "set: {tracking.project: mine, "))
    assert {each.project for each in (said.config(arm, 3).config.tracking for arm in said.arms)} == {"mine"}
    assert said.digest == experiment.digest, "where it is shown makes it no other experiment"


def test_a_grid_is_every_combination_named_after_its_values(tmp_path: Path) -> None:
    grid = "grid: {training.learning_rate: [3e-5, 1e-4], raft.num_cycles: [1, 10]}"
    experiment = load(tmp_path, f"question: q\nbase: base.yaml\n{grid}\nseeds: [0]")
    assert [arm.name for arm in experiment.arms] == [
        "learning_rate=3e-5,num_cycles=1",
        "learning_rate=3e-5,num_cycles=10",
        "learning_rate=0.0001,num_cycles=1",
        "learning_rate=0.0001,num_cycles=10",
    ]
    assert [arm.folder for arm in experiment.arms] == [arm.name for arm in experiment.arms]
    assert experiment.root == Path("runs/experiments/experiment")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "-rf", "a b", "x" * 300, "\u202ee", "~", "..", "state"])
def test_no_name_of_an_arm_leads_out_of_the_experiment_or_into_another_arm(tmp_path: Path, name: str) -> None:
    text = FILE.replace(
        "  constant: {}", f"  constant: {{}}\n  {name!r}: {{raft.num_cycles: 2}}\n  a_b: {{raft.num_cycles: 3}}"
    )
    experiment = load(tmp_path, text)
    folders = [arm.folder for arm in experiment.arms]
    assert len({folder.casefold() for folder in folders}) == len(folders) == 4
    for arm in experiment.arms:
        assert arm.folder[0] not in ".-" and len(arm.folder) < 100
        assert experiment.run_root(arm, 3).resolve().parent.parent == experiment.root.resolve()


def test_arms_whose_names_differ_in_case_only_have_folders_that_differ_in_more(tmp_path: Path) -> None:
    experiment = load(tmp_path, FILE.replace("  constant: {}", "  constant: {}\n  Decay: {raft.num_cycles: 2}"))
    assert len({arm.folder.casefold() for arm in experiment.arms}) == 3


def test_set_changes_the_file_or_what_all_arms_have_in_common(tmp_path: Path) -> None:
    experiment = load(tmp_path, FILE, "seeds=[9]", "raft.num_cycles=2", "output_dir=elsewhere")
    assert experiment.seeds == (9,)
    assert experiment.root == Path("elsewhere")
    assert {experiment.config(arm, 9).config.raft.num_cycles for arm in experiment.arms} == {2}


def test_the_digest_is_that_of_what_the_answer_depends_on(tmp_path: Path) -> None:
    same = load(tmp_path).digest
    assert load(tmp_path, FILE.replace("Does decay help?", "Is decay better?")).digest == same
    assert load(tmp_path, FILE + "share: false\n").digest == same
    assert load(tmp_path, FILE, "output_dir=x").digest == same
    assert load(tmp_path, FILE, "report_to=[tensorboard]").digest == same
    for change in ("seeds=[3]", "raft.num_cycles=5", "primary=[]"):
        assert load(tmp_path, FILE, change).digest != same, change


WRONG = [
    ("question: .*", "", "experiment.yaml:.*question: missing; this key is required"),
    ("base: base.yaml", "base: other.yaml", r"experiment.yaml:2: base: .*other.yaml: no such file"),
    ("base: base.yaml", "", "base: missing; this key is required"),
    ("seeds: .*", "", "seeds: missing; this key is required"),
    ("seeds: .*", "seeds: []", "experiment.yaml:7: seeds: found an empty list, allowed: at least one value"),
    ("seeds: .*", "seeds: [1, 2, 1]", "experiment.yaml:7: seeds: 1 is given twice"),
    ("seeds: .*", "seeds: [1.5]", "seeds.0.: found 1.5, allowed: a whole number"),
    ("seeds: .*", "seeds: [-1]", "seeds.0.: found -1, allowed: at least 0"),
    ("seeds: ", "seed: 1\nseeds: ", "experiment.yaml:7: seed: unknown key; a setting of the runs belongs into seeds"),
    ("seeds: ", "raft: {}\nseeds: ", "raft: unknown key; a setting of the runs belongs into `set`, as a dotted key"),
    ("seeds: ", "sedes: 1\nseeds: ", "sedes: unknown key; did you mean seeds?"),
    ("seeds: ", "grid: {raft.num_cycles: [1]}\nseeds: ", "grid: given together with arms"),
    ("seeds: ", "extends: base.yaml\nseeds: ", "extends: an experiment file does not extend another one"),
    ("raft.num_cycles: 6", "seed: 6", "experiment.yaml:3: set.seed: the experiment sets it; give seeds at the top"),
    ("raft.num_cycles: 6", "raft..num_cycles: 6", "allowed: a dotted key such as raft.num_cycles"),
    (
        "raft.num_cycles: 6",
        "raft.num_cycels: 6",
        "arm constant: experiment.yaml:3: raft.num_cycels: unknown key; did you",
    ),
    (
        "raft.num_cycles: 6",
        "raft.num_cycles: x",
        'experiment.yaml:3: raft.num_cycles: found "x", allowed: a whole number',
    ),
    ("decay: 0.8", "decay: 8", "arm decay: experiment.yaml:6: training.learning_rate.decay: found 8"),
    ("constant: {}", "constant: {output_dir: x}", "arms.constant.output_dir: the experiment sets it"),
    ("constant: {}", "constant: {}\n  same: {}", "experiment.yaml:6: arm same has the same settings as arm constant"),
    ("constant: {}", "'': {}", "an arm needs a name"),
    (
        "treatment: decay",
        "treatment: decoy",
        r"primary\[0\].treatment: found .decoy., which is no arm; did you mean decay",
    ),
    ("control: constant", "control: decay", r"primary\[0\].control: found .decay., which is the treatment"),
    ("expect: higher", "expect: better", "expect: found .better., allowed: higher, lower, different"),
    ("expect: higher", "at: peak", "only dev is measured in every cycle"),
    ("expect: higher", "metric: test/reward", "allowed: test/pass_rate, test/compile_rate"),
    ("expect: higher", "metrics: test/pass_rate", "metrics: unknown key; did you mean metric?"),
    ("arms:(.|\n)*seeds", "arms: {}\nseeds", "arms: found none, allowed: at least one"),
    ("arms:(.|\n)*seeds", "seeds", "arms: missing; write arms, or a grid"),
    ("arms:(.|\n)*seeds", "grid: {seed: [1]}\nseeds", "grid.seed: the experiment sets it"),
    ("arms:(.|\n)*seeds", "grid: {raft.num_cycles: [1, 1]}\nseeds", "grid.raft.num_cycles: 1 is given twice"),
    (
        "arms:(.|\n)*seeds",
        "grid: {a: [" + ",".join(map(str, range(501))) + "]}\nseeds",
        "1002 runs, allowed: at most 1000",
    ),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG)
def test_a_wrong_file_is_refused_with_the_place_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text, count = re.subn(old, new.replace("\\", "\\\\"), FILE, count=1)
    assert count == 1
    with pytest.raises(ConfigError, match=said.replace("experiment.yaml", str(tmp_path / "experiment.yaml"))):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (FILE.replace("constant: {}", "constant: {raft: {samples_per_prompt: 4}}"), "arms.constant.raft"),
        (FILE.replace("{raft.num_cycles: 6}", "{raft: {samples_per_prompt: 4}}"), "set.raft"),
    ],
)
def test_a_section_that_would_take_the_place_of_that_of_the_base_is_refused(
    tmp_path: Path, text: str, place: str
) -> None:
    """The other keys of the section would silently have their defaults, in this arm alone."""
    with pytest.raises(ConfigError, match=f"{re.escape(place)}: would drop num_cycles of the base; .*raft.samples_per"):
        load(tmp_path, text)


def test_a_schedule_or_a_section_of_another_kind_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    text = FILE.replace("{raft.num_cycles: 6}", "{training.learning_rate: {kind: cosine, base: 1e-4}}")
    decay = load(tmp_path, text.replace("constant: {}", "constant: {replay: {kind: window}}")).arm("decay")
    assert decay.overrides["training.learning_rate"]["kind"] == "exponential"


def test_a_set_that_an_arm_overrides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set training.learning_rate=1e-3: arm decay sets training.learning_rate"):
        load(tmp_path, FILE, "training.learning_rate=1e-3")


def test_a_fork_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    text = "question: q\nfork: {run: nowhere, from_cycle: 2}\narms: {a: {}}\n"
    with pytest.raises(HaloForgeError, match="nowhere: not a run directory"):
        load(tmp_path, text)
    with pytest.raises(ConfigError, match="base: given together with fork"):
        load(tmp_path, text + "base: base.yaml\n")
