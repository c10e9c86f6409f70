"""The plan of an experiment: what it will do, what it costs, and whether it can answer its question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import Cli, command_line
from compared_runs import run_arm
from scripted_runs import read, rows, write_inputs
from terminal import assert_fits

from halo_forge.api import preview
from halo_forge.cli.experiment_plan import print_plan
from halo_forge.core.errors import ConfigError, RunDirError, StoppedByRule
from halo_forge.core.power import (
    Design,
    Variation,
    between_versions,
    chance_to_find,
    detectable,
    prompts_between_versions,
)
from halo_forge.experiments.file import Experiment, load_experiment
from halo_forge.experiments.plan import ExperimentPlan, doubts, plan

TESTS = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "1"}]}
THIRDS = """\
  - {treatment: decay, control: constant, metric: test/pass_rate, at: final, expect: higher}
  - {treatment: decay, control: constant, metric: test/compile_rate, expect: higher}
"""
PRIMARY = "primary:\n  - {treatment: decay, control: constant, metric: test/pass_rate, expect: higher}\n"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


def experiment(
    folder: Path, *, seeds: str = "[0, 1, 2]", num_prompts: tuple[int, int, int] = (4, 30, 40), more: str = PRIMARY
) -> Experiment:
    """Two arms of 3 cycles."""
    write_inputs(folder, num_prompts=num_prompts, tests=TESTS, raft__num_cycles=3, evaluation__samples_per_prompt=8)
    text = f"""\
question: Does decay help?
base: run.yaml
arms:
  constant: {{training.learning_rate: 1e-4}}
  decay: {{training.learning_rate: {{kind: exponential, base: 1e-4, decay: 0.5}}}}
seeds: {seeds}
output_dir: {folder / "experiment"}
{more}"""
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(path)


def test_an_arm_is_planned_as_its_dry_run(tmp_path: Path) -> None:
    given = experiment(tmp_path)
    found = plan(given)
    for arm, planned in zip(given.arms, found.arms, strict=True):
        cycles = preview(given.config(arm, 0)).cycles
        assert planned.cycles == cycles
        assert planned.learning_rate_mass == pytest.approx(sum(each.learning_rate_mass or 0.0 for each in cycles))
        assert planned.train_samples == 3 * 4 * 2
        # 4 versions on dev, and v_0, the chosen and the last one on test
        assert planned.evaluation_samples == 8 * (4 * 30 + 3 * 40)
        assert planned.most_tokens == (3 * 4 * 2 + 8 * 240) * 256
    rates = [[cycle.learning_rate for cycle in arm.cycles] for arm in found.arms]
    assert rates == [[1e-4] * 3, pytest.approx([1e-4, 5e-5, 2.5e-5])]
    # Once for each of the 3 seeds: v_0 on dev and test, and cycle 1's samples.
    assert found.shared_samples == 3 * (8 * (30 + 40) + 4 * 2)
    assert (found.num_runs, found.samples) == (6, 6 * (24 + 8 * 240) - 3 * (8 * (30 + 40) + 4 * 2))


@pytest.mark.parametrize(
    ("arm", "num_shared"),
    [
        ("{training.learning_rate: 1e-6}", 8 * (30 + 40) + 4 * 2),
        ("{engine.temperature: 0.5}", 8 * (30 + 40)),
        ("{engine.temperature: {kind: linear, base: 1.0, final: 0.5}}", 8 * (30 + 40) + 4 * 2),
        ("{evaluation.temperature: 0.1}", 0),
    ],
)
def test_what_arms_sample_alike_is_counted_once(tmp_path: Path, arm: str, num_shared: int) -> None:
    path = experiment(tmp_path, seeds="[0]", more="").path
    text = path.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith("  decay")]
    path.write_text("\n".join(kept).replace("seeds:", f"  other: {arm}\nseeds:"), encoding="utf-8")
    assert plan(load_experiment(path)).shared_samples == num_shared
    path.write_text(path.read_text(encoding="utf-8") + "\nshare: false\n", encoding="utf-8")
    assert plan(load_experiment(path)).shared_samples == 0


def test_the_detectable_effect_is_that_of_seeds_prompts_and_samples(tmp_path: Path) -> None:
    (each,) = plan(experiment(tmp_path)).comparisons
    assert (each.num_seeds, each.num_prompts, each.num_samples) == (3, 40, 8)
    assert each.detectable == detectable(Design(3, 40), Variation().parts(8))
    assert {known.source for known in each.variation.values()} == {"assumed"}


def test_an_experiment_that_cannot_answer_is_told_what_would(tmp_path: Path) -> None:
    found = plan(experiment(tmp_path), effect=0.06)
    (each,) = found.comparisons
    assert found.answers is False and each.reason.startswith("cannot answer: only differences of")
    assert each.seeds is not None and each.together is not None
    for seeds, prompts in ((each.seeds, 40), each.together):
        assert chance_to_find(0.06, Design(seeds, prompts), Variation().parts(8)) >= 0.8
    assert f"0.06 needs {each.seeds} seeds" in each.reason
    assert plan(experiment(tmp_path), effect=0.3).answers is True


def test_one_seed_and_few_prompts_answer_nothing(tmp_path: Path) -> None:
    one = plan(experiment(tmp_path, seeds="[0]"), effect=0.9)
    assert one.answers is False
    assert "1 seed, which says nothing about other seeds" in one.comparisons[0].reason
    few = plan(experiment(tmp_path, num_prompts=(4, 30, 19)), effect=0.9)
    assert few.answers is False
    assert "19 prompts, at least 20 are needed" in few.comparisons[0].reason


def test_no_difference_of_rates_is_beyond_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(experiment(tmp_path, seeds="[0, 1]", num_prompts=(4, 30, 20), more=PRIMARY + THIRDS), effect=0.9)
    assert found.comparisons[0].detectable is not None and found.comparisons[0].detectable > 1.0
    assert "not even a difference of 1 is found 4 times in 5" in found.comparisons[0].reason
    print_plan(found)
    assert "over 1" in capsys.readouterr().out


def test_several_comparisons_share_the_error(tmp_path: Path) -> None:
    second = "  - {treatment: decay, control: constant, metric: dev/pass_rate, at: fall, expect: lower}\n"
    alone, of_two = plan(experiment(tmp_path)), plan(experiment(tmp_path, more=PRIMARY + second))
    assert alone.comparisons[0].detectable is not None and of_two.comparisons[0].detectable is not None
    assert of_two.comparisons[0].detectable > alone.comparisons[0].detectable
    fall = of_two.comparisons[1]
    assert fall.detectable == detectable(Design(3, 30), Variation().parts(8, sides=4), 0.025)


def test_the_file_may_state_what_is_assumed(tmp_path: Path) -> None:
    stated = "assumptions: {icc: 0.6, rate: 0.2, seed_standard_deviation: 0.01}\n"
    (each,) = plan(experiment(tmp_path, more=PRIMARY + stated)).comparisons
    known = each.variation
    assert (known["intraclass_correlation"].value, known["rate"].value, known["seed_sd"].value) == (0.6, 0.2, 0.01)
    assert known["rate"].source == "the experiment file"
    assert each.detectable == detectable(Design(3, 40), Variation(0.2, 0.6, 0.1, 0.01).parts(8))


def test_without_a_primary_comparison_nothing_is_concluded(tmp_path: Path) -> None:
    found = plan(experiment(tmp_path, more=""))
    assert found.answers is None
    assert any("ranks the arms and concludes nothing" in warning for warning in found.warnings)


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The same base model with two other seeds."""
    return [
        run_arm(monkeypatch, tmp_path / "in", tmp_path / f"earlier{seed}", [0.3, 0.5, 0.4], seed=seed)
        for seed in (7, 8)
    ]


def test_an_earlier_run_gives_rate_and_speed(tmp_path: Path, earlier: list[Path]) -> None:
    found = plan(experiment(tmp_path), like=earlier)
    rate = found.comparisons[0].variation["rate"]
    passed = [row["status"] == "passed" for root in earlier for row in rows(root / "cycles/001/dev_verdicts.jsonl")]
    assert rate.value == pytest.approx(sum(passed) / len(passed))
    assert "asked 2 times" in rate.source
    correlation = found.comparisons[0].variation["intraclass_correlation"]
    assert "v0 on dev" in correlation.source and 0.0 <= correlation.value <= 1.0
    assert found.speed is not None and found.speed.source == str(earlier[0])
    assert found.hours == pytest.approx((found.samples or 0) * found.speed.seconds_per_completion / 3600)


def test_the_speed_is_that_of_the_work_also_where_files_were_taken_from_another_run(
    tmp_path: Path, earlier: list[Path]
) -> None:
    """A run that took nearly everything from another one is fast, and says little of what a new one takes."""
    before = plan(experiment(tmp_path), like=earlier).speed
    events = earlier[0] / "events.jsonl"
    taken = {**rows(events)[-1], "event": "shared", "seconds_saved": 500.0}
    files = [("001", "dev_completions.jsonl"), ("002", "dev_verdicts.jsonl"), ("001", "*"), ("v000", "verdicts.jsonl")]
    with events.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({**taken, "of": of, "file": name}) + "\n" for of, name in files)
    after = plan(experiment(tmp_path), like=earlier).speed
    num = sum(len(rows(path)) for path in earlier[0].glob("cycles/*/*completions.jsonl"))
    assert before is not None and after is not None
    assert after.seconds_per_completion == pytest.approx(before.seconds_per_completion + 1000.0 / num)


def test_a_run_of_another_model_or_hardware_says_nothing_about_speed(tmp_path: Path, earlier: list[Path]) -> None:
    identity = read(earlier[0] / "run.json")
    identity["hardware"]["profile"] = "gfx1151"
    (earlier[0] / "run.json").write_text(json.dumps(identity), encoding="utf-8")
    found = plan(experiment(tmp_path), like=earlier[:1])
    assert (found.speed, found.hours) == (None, None)
    other = experiment(tmp_path, more=PRIMARY + "set: {model.model_name_or_path: somebody/else}\n")
    assert plan(other, like=earlier[1:]).speed is None
    assert plan(experiment(tmp_path), like=earlier[1:]).speed is not None


def test_everything_is_shown_at_every_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plan(experiment(tmp_path))
    shown = {}
    for width in ("", "80", "200"):
        monkeypatch.setenv("COLUMNS", width)
        print_plan(found)
        shown[width] = capsys.readouterr().out
    for said in ("Does decay help?", "warning: decay against constant", "time: unknown", "(assumed)", "█"):
        assert said in shown[""]
    assert not {"detectable", "arm", "learning-rate mass"} & set(assert_fits(shown["80"], shown[""], 80))
    assert assert_fits(shown["200"], shown[""], 200) == []


def test_the_row_is_plain_json(tmp_path: Path) -> None:
    found: ExperimentPlan = plan(experiment(tmp_path))
    row = json.loads(json.dumps(found.to_row(), allow_nan=False))
    assert row["comparisons"][0]["detectable"] == found.comparisons[0].detectable
    assert row["answers"] is False


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="not a run directory"):
        plan(experiment(tmp_path), like=[tmp_path])
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        (tmp_path / "run.yaml").write_text("modle: 3\n", encoding="utf-8")
        plan(load_experiment(tmp_path / "experiment.yaml"))


def test_the_command_plans_as_the_function(tmp_path: Path, cli: Cli) -> None:
    given = experiment(tmp_path)
    done = cli("experiment", "plan", given.path, "--effect", "0.3", "--json")
    assert done.code == 0 and done.json["answers"] is True
    assert done.json == json.loads(json.dumps(plan(given, effect=0.3).to_row()))
    changed = cli("experiment", "plan", given.path, "--set", "raft.num_cycles=5", "--json").json
    assert len(changed["arms"][0]["cycles"]) == 5
    assert "cannot answer" in cli("experiment", "plan", given.path).out
    assert not given.root.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [(["--effect", "0"], 2, "--effect"), (["--like", "nowhere"], 3, "nowhere: not a run directory")],
)
def test_what_is_wrong_is_said(tmp_path: Path, cli: Cli, arguments: list[str], code: int, message: str) -> None:
    done = cli("experiment", "plan", experiment(tmp_path).path, *arguments)
    assert done.code == code and message in done.err


FORK = """\
question: Which learning rate trains best on one pool?
arms:
  low: {training.learning_rate: 1e-5}
  high: {training.learning_rate: 1e-4}
primary: [{treatment: high, control: low, metric: dev/pass_rate, at: final, expect: higher}]
"""


def test_a_fork_plans_only_its_own_cycles_and_needs_no_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_arm(monkeypatch, tmp_path / "in", tmp_path / "run", [0.3, 0.5, 0.4], seed=4)
    path = tmp_path / "fork.yaml"
    path.write_text(f"{FORK}fork: {{run: {run}, from_cycle: 2}}\noutput_dir: {tmp_path / 'fork'}\n", encoding="utf-8")
    found = plan(load_experiment(path), effect=0.3)
    assert [[cycle.cycle for cycle in arm.cycles] for arm in found.arms] == [[2], [2]]
    # One new version on dev, and three on test, 2 samples each.
    assert found.arms[0].evaluation_samples == 2 * (30 + 3 * 24)
    # Both arms take the pool of cycle 2, 3 prompts x 2 samples, from the run, and one takes v_0 on test from the other.
    assert found.shared_samples == 2 * 3 * 2 + 24 * 2
    (each,) = found.comparisons
    assert (each.num_seeds, each.answers) == (1, True) and "seed_sd" not in each.variation
    known = Variation(**{key: value.value for key, value in each.variation.items()})
    assert each.detectable == pytest.approx(between_versions(30, 2, known).detectable)
    (small,) = plan(load_experiment(path), effect=0.02).comparisons
    assert small.prompts == prompts_between_versions(0.02, 2, known) and small.seeds is None


def test_a_run_says_before_it_starts_that_it_cannot_answer(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = experiment(tmp_path)
    (doubt,) = doubts(given)
    assert doubt == f"{given.primary[0]}: {plan(given).comparisons[0].reason}"
    assert doubts(given, effect=0.3) == []

    def start(*arguments: object, **options: object) -> None:
        raise StoppedByRule("started", "nothing")

    monkeypatch.setattr("halo_forge.experiments.execute.execute", start)
    said = cli("experiment", "run", given.path).err
    assert said.index(f"warning: {doubt}") < said.index("error: started")
    assert "warning" not in cli("experiment", "run", given.path, "--resume").err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("evaluation.temperature: 0.3", "arms, which differ in evaluation.temperature"),
        ("verifier.timeout_seconds: 3", "arms, which differ in verifier.timeout_seconds"),
        ("prompts.test_limit: 30", "arms, which differ in the test prompts"),
        ("prompts.test: again.jsonl", None),
        ("evaluation.test_at_end: false", "the test prompts are not measured"),
        ("selection.per_prompt_cap: 1", None),
    ],
)
def test_a_comparison_that_no_result_can_decide_is_said_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    base = experiment(tmp_path, more=PRIMARY + "assumptions: {rate: 0.9, icc: 0.9, seed_standard_deviation: 0}\n")
    (tmp_path / "again.jsonl").write_bytes((tmp_path / "test.jsonl").read_bytes())
    text = base.path.read_text(encoding="utf-8").replace("decay: {training", f"decay: {{{change}, training")
    base.path.write_text(text, encoding="utf-8")
    changed = load_experiment(base.path)
    (compared,) = plan(changed, effect=0.5).comparisons
    assert doubts(changed, effect=0.5) == ([] if said is None else [f"{compared.comparison}: {compared.reason}"])
    if said is None:
        assert compared.answers
    else:
        assert said in compared.reason and (compared.answers, compared.detectable) == (False, None)
