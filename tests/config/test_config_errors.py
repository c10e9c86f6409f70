"""Configuration errors: all of them at once, each with its place, what was found and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halo_forge.config import RaftConfig, load_config, resolved
from halo_forge.config.names import FOREIGN, all_keys, models_in, walk
from halo_forge.config.rules import SCHEDULED
from halo_forge.config.yaml_io import dump
from halo_forge.core.errors import ConfigError
from halo_forge.core.schedules import Schedule

MODEL = "model: {model_name_or_path: owner/name}\n"


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


FIRST = "FILE:2: "
ERRORS = [
    ("seed: 1", "model: missing; this key is required"),
    ("model: {model_name: x}", "FILE:1: model.model_name_or_path: missing; this key is required"),
    ("model: {model_name: x}", "model.model_name: unknown key; halo-forge calls it model.model_name_or_path"),
    ("M\nfoo: 1", FIRST + "foo: unknown key; allowed here: model, prompts,"),
    ("M\nselecton: {}", FIRST + "selecton: unknown key; did you mean selection?"),
    ("M\nengine: {temprature: 1}", FIRST + "engine.temprature: unknown key; did you mean temperature?"),
    ("M\nengine: {answers: x}", "engine.answers: unknown key; only engine.kind 'scripted' has this key"),
    ("M\nengine: {num_cycles: 1}", "unknown key; it belongs to another section: raft.num_cycles"),
    ("M\nraft.num_cycles: 1", "names with dots are for --set; in a file write num_cycles in the section raft"),
    ("M\nverifier: {stack_limit_bytes: 0}", "verifier.stack_limit_bytes: found 0, allowed: at least 1048576"),
    ("M\nverifier: {reasoning_marks: <a>}", 'verifier.reasoning_marks: found "<a>", allowed: a list of 2 or more'),
    ("M\nseed: 99999999999999999999", "seed: found 99999999999999999999, allowed: below 9223372036854775808"),
    ("M\nnum_generations: 4", "halo-forge calls it raft.samples_per_prompt or evaluation.samples_per_prompt"),
    ("M\nraft: {n: 4}", "raft.n: unknown key; halo-forge calls it raft.samples_per_prompt"),
    ("M\nbatch_size: 4", "halo-forge calls it engine.batch_size or training.per_device_train_batch_size"),
    ("M\ntraining: {batch_size: 4}", "unknown key; halo-forge calls it training.per_device_train_batch_size"),
    ("M\ntraining: {lr: 4}", "training.lr: unknown key; halo-forge calls it training.learning_rate"),
    ("M\nlora: {lora_r: 4}", "lora.lora_r: unknown key; halo-forge calls it lora.r"),
    ("M\nkeep_top_percent: 0.5", "halo-forge calls it selection.keep_fraction (a share: 0.5 is 50 %)"),
    ("M\nlr_decay_per_cycle: 0.9", "halo-forge calls it training.lr_decay_factor (with base_learning_rate;"),
    ("M\nprompts: {temprature: 1}", "did you mean engine.temperature or evaluation.temperature?"),
    ("M\ntraining: {learning_rate: {kind: exponential, bas: 1}}", "training.learning_rate.bas: unknown key; did you"),
    ("M\nselection: {kind: best_per_promt}", 'selection.kind: found "best_per_promt", allowed: best_per_prompt, thr'),
    ("M\nselection: {kind: best_per_promt}", "(did you mean best_per_prompt?)"),
    ("M\nverifier: {kind: fortran}", 'verifier.kind: found "fortran", allowed: '),
    ("M\ntraining: {lr_scheduler_type: cosin}", 'found "cosin", allowed: constant, linear, cosine'),
    ("M\ntraining: {optimizer: {across_cycles: keep}}", 'across_cycles: found "keep", allowed: reset'),
    ("M\ntraining: {start_from: first}", 'training.start_from: found "first", allowed: previous, base, best, average'),
    ("M\nmodel2: x\nmodel: y", "FILE:3: model: given twice, first on line 1"),
    ("model: owner/name", 'FILE:1: model: found "owner/name", allowed: a section with keys such as model_name_or_path'),
    ("M\nraft:", FIRST + "raft: found null, allowed: a section with keys such as num_cycles"),
    ("M\nseed: 1.5", "seed: found 1.5, allowed: a whole number"),
    ("M\nseed: 1e30", "seed: found 1e+30, allowed: a whole number"),
    ("M\nseed: 9007199254740993.0", "seed: found 9.00719925474e+15, allowed: a whole number"),
    ("M\nseed: .inf", "seed: found inf, allowed: a whole number"),
    ("M\nraft: {num_cycles: 3.5}", "raft.num_cycles: found 3.5, allowed: a whole number"),
    ("M\ndecisions: {max_rollbacks: " + "9" * 400 + "}", "has 400 digits, allowed: at most 300"),
    ("M\nraft: {samples_per_prompt: 0x" + "F" * 5000 + "}", "has 5002 digits, allowed: at most 300"),
    ("M\nreport_to: wandbb", 'found "wandbb", allowed: a list of tensorboard, wandb, trackio, mlflow (did you mean w'),
    ("M\nreport_to: [none, wandb]", 'report_to[0]: found "none", allowed: tensorboard, wandb'),
    ("M\noutput_dir: $HOME/x", "output_dir: found $HOME in it: variables are not expanded; write out the path"),
    ("M\nprompts: {train: '${DATA}/x.jsonl'}", "prompts.train: found ${DATA} in it: variables are not expanded"),
    ("M\noutput_dir: " + "x" * 300, "output_dir: found a name of 300 bytes in it, allowed: at most 255"),
    ("model: {model_name_or_path: 'a\\0'}\noutput_dir: \"a\\0\"", "a path cannot contain a NUL character"),
    (
        "M\nprompts: {train: a/b, dev: c/d, test: a/b}",
        'prompts.test is "a/b", but prompts.train is "a/b" (FILE:2): a model must not be measured on what it was',
    ),
    (
        "M\nprompts:\n  dev: builtin:c/train",
        'FILE:3: prompts.dev is "builtin:c/train", but prompts.train is "builtin:c/train" (default): a model must not',
    ),
    ("M\nseed: -1", "seed: found -1, allowed: at least 0"),
    ("M\nraft: {num_cycles: true}", "raft.num_cycles: found true, allowed: a whole number"),
    ("M\nraft: {num_cycles: 0}", "raft.num_cycles: found 0, allowed: at least 1"),
    ("M\nlora: {r: '16'}", 'lora.r: found "16", allowed: a whole number; remove the quotes'),
    ("M\nlora: {lora_dropout: 1}", "lora.lora_dropout: found 1, allowed: below 1"),
    ("M\nlora: {target_modules: []}", "found [], allowed: all-linear or at least 1 of them"),
    ("M\nlora: {target_modules: [q, 5]}", "lora.target_modules[1]: found 5, allowed: text"),
    ("M\nevaluation: {test_at_end: no}", 'found "no", allowed: true or false; only true and false are booleans'),
    ("M\nevaluation: {top_p: .nan}", "evaluation.top_p: found nan, allowed: a finite number"),
    ("M\nreport_to: tensorboard", 'report_to: found "tensorboard", allowed: a list; write [tensorboard]'),
    (
        "M\nreport_to: [wandbb]",
        'report_to[0]: found "wandbb", allowed: tensorboard, wandb, trackio, mlflow (did you mean',
    ),
    ("M\nengine: {temperature: hot}", 'engine.temperature: found "hot", allowed: a number from 0 to 10, or a schedule'),
    ("M\nengine: {temperature: -1}", "engine.temperature: found -1, allowed: a number from 0 to 10"),
    ("M\nengine: {batch_size: 0}", "engine.batch_size: found 0, allowed: auto or at least 1"),
    ("M\nengine: {batch_size: big}", 'engine.batch_size: found "big", allowed: a whole number or auto'),
    ("M\nengine: {stop: ['']}", 'engine.stop: found "" in it'),
    ("M\nverifier: {stages: [run]}", "verifier.stages: stages must be [compile], [compile, run]"),
    ("M\nverifier: {rewards: {runs: 0.2}}", "verifier.rewards: found"),
    (
        "M\ntraining: {start_from: base, optimizer: {across_cycles: carry}}",
        'training.optimizer.across_cycles is "carry", but training.start_from is "base" (FILE:2): the state belongs',
    ),
    (
        "M\nraft: {sampling: budgeted, samples_per_prompt: 3}",
        'raft.sampling is "budgeted", but raft.samples_per_prompt is 3 (FILE:2): half of the samples decide which',
    ),
    ("M\nreplay: {share: 1}", "replay.share: found 1, allowed: below 1"),
    ("M\ntraining: {average_weight: 0}", "training.average_weight: found 0, allowed: a number above 0 and up to 1"),
    (
        "M\ntraining: {learning_rate: {kind: plateau, base: 1e-4, metric: dev/passrate}}",
        'training.learning_rate.metric: found "dev/passrate", allowed: a metric (`halo-forge docs metrics`) of a'
        " prompt set (with dev/ or train/), of drift or of kept samples; did you mean dev/pass_rate?",
    ),
    (
        "M\ntraining: {learning_rate: {kind: kl_target, base: 1e-4}}\nevaluation: {num_drift_samples: 0}",
        'training.learning_rate.metric is "kl_to_previous", but evaluation.num_drift_samples is 0 (FILE:3): ',
    ),
    (
        "M\nengine: {temperature: {kind: temperature_floor, base: 0.7}}\nevaluation: {samples_per_prompt: 1}",
        'engine.temperature.metric is "dev/diversity/effective_number", but evaluation.samples_per_prompt is 1 ',
    ),
    (
        "M\nengine: {temperature: {kind: temperature_floor, base: 0.7, metric: dev/diversity/distinct@4}}\n"
        "evaluation: {samples_per_prompt: 3}",
        "but evaluation.samples_per_prompt is 3 (FILE:3): it needs at least 4 samples per prompt",
    ),
    (
        "M\ntraining: {learning_rate: {kind: plateau, base: 1e-4, metric: dev/pass@8}}\n"
        "evaluation: {samples_per_prompt: 4}",
        "it needs at least 8 samples per prompt",
    ),
    ("M\ntraining: {learning_rate: {kind: plateau, base: 1e-4, metric: dev/pass@k}}", 'found "dev/pass@k", allowed'),
    ("M\nraft: {curriculum_fraction: [0.5, 1.5]}", "raft.curriculum_fraction: found 1.5 in cycle 2, allowed: a number"),
    (
        "M\nselection: {kind: everything}",
        "allowed: best_per_prompt, threshold, top_fraction, unfiltered (everything is now called unfiltered)",
    ),
    ("M\nselection: {kind: unfiltered, deduplicate: true}", "a control arm without a filter: remove deduplicate"),
    ("M\nengine: {min_p: 1.5}", "engine.min_p: found 1.5, allowed: a number from 0 to 1"),
    (
        "M\ntraining: {learning_rate_mass: 4e-4, learning_rate: 5e-5}",
        "FILE:2: training.learning_rate_mass is 0.0004, but training.learning_rate is 5e-05 (FILE:2): the peak",
    ),
    (
        "M\ntraining: {learning_rate_mass: [4e-4], base_learning_rate: 5e-5, lr_decay_factor: 0.9}",
        'training.learning_rate_mass is {"kind": "manual", "values": [0.0004]}, but training.learning_rate is {',
    ),
    ("M\ntraining: {learning_rate: null}", "training.learning_rate: found null, allowed: a number or a schedule; null"),
    ("M\ntraining: {learning_rate_mass: -1}", "training.learning_rate_mass: found -1"),
    (
        "M\ntraining: {gradient_accumulation_steps: 1.5}",
        "training.gradient_accumulation_steps: found 1.5, allowed: a whole number of at least 1",
    ),
    (
        "M\ntraining: {gradient_accumulation_steps: [4, 0]}",
        "training.gradient_accumulation_steps: found 0 in cycle 2, allowed: a whole number of at least 1",
    ),
    (
        "M\ntraining: {learning_rate: {kind: budget_matched, reference: {kind: plateau, base: 1e-4}}}",
        "found a reference of kind plateau, which depends on results",
    ),
    (
        "M\ntraining: {learning_rate: {kind: budget_matched, reference: {kind: exponentail, base: 1e-4}}}",
        'training.learning_rate.reference.kind: found "exponentail", allowed: budget_matched, constant',
    ),
    (
        "M\ntraining: {learning_rate: {kind: budget_matched, reference: {kind: exponential, bas: 1e-4}}}",
        "training.learning_rate.reference.bas: unknown key; did you mean base?",
    ),
    ("M\nengine: {top_p: 0}", "engine.top_p: found 0, allowed: a number above 0 and up to 1"),
    (
        "M\nengine: {top_p: {kind: linear, base: 0.5, final: 1.5}}",
        "engine.top_p: found 1.1 in cycle 4, allowed: a number",
    ),
    ("M\nengine: {temperature: pass}", 'engine.temperature: found "pass", allowed: a number from 0 to 10'),
    ("M\nselection: {reward_threshold: 1.5}", 'found 1.5, allowed: a number from 0 to 1, or "pass"'),
    ("M\nselection: {reward_threshold: fail}", 'found "fail", allowed: a number from 0 to 1, or "pass"'),
    ("M\nselection: {keep_fraction: 0}", "selection.keep_fraction: found 0, allowed: a number above 0 and up to 1"),
    ("M\ntraining: {learning_rate: 5}", "training.learning_rate: found 5, allowed: a number from 0 to 1"),
    ("M\ntraining: {learning_rate: .inf}", "training.learning_rate: found inf, allowed: a number from 0 to 1"),
    ("M\ntraining: {learning_rate: [1e-5, x]}", "training.learning_rate[1]: found"),
    ("M\ntraining: {weight_decay: '0.1'}", 'found "0.1", allowed: a number from 0 to 1, or a schedule'),
    ("M\ntraining: {num_train_epochs: 0}", "training.num_train_epochs: found 0, allowed: above 0, at most 1000"),
    ("M\nraft: {samples_per_prompt: 2.5}", "raft.samples_per_prompt: found 2.5, allowed: a whole number of at least 1"),
    ("M\nraft: {samples_per_prompt: 0}", "raft.samples_per_prompt: found 0, allowed: a whole number of at least 1"),
    ("M\ntraining: {lr_scheduler_kwargs: {power: 2}}", "lr_scheduler_type linear has no setting power"),
    ("M\ntraining: {lr_decay_factor: 0.5}", "training.lr_decay_factor: needs training.base_learning_rate as well"),
    (
        "M\ntraining: {base_learning_rate: 1e-5}",
        "training.base_learning_rate: needs training.lr_decay_factor as well",
    ),
    ("M\ntraining: {base_learning_rate: 1e-5, lr_decay_factor: 85}", "training.lr_decay_factor: found 85, allowed: at"),
    ("M\ntraining: {learning_rate_schedule: {cycle_1: x}}", "training.learning_rate_schedule.cycle_1: found"),
    (
        "M\ntraining:\n  learning_rate: 5e-5\n  lr_decay_factor: 0.85",
        "FILE:3: training.learning_rate is 5e-05, but training.lr_decay_factor is 0.85 (FILE:4): these are different",
    ),
    (
        "M\nevaluation: {temperature: 0}",
        "FILE:2: evaluation.temperature is 0, but evaluation.samples_per_prompt is 4 (default): at temperature 0 all s",
    ),
    (
        "M\nengine: {temperature: 0}",
        "FILE:2: engine.temperature is 0, but raft.samples_per_prompt is 8 (default): at temperature 0 all samples of",
    ),
    (
        "M\nprompts: {train_limit: 3}\nraft: {prompts_per_cycle: 4}",
        "FILE:3: raft.prompts_per_cycle is 4, but prompts.train_limit is 3 (FILE:2): a cycle cannot use more prompts",
    ),
    (
        "M\nprompts: {train_limit: 3}\nraft: {samples_per_prompt: 2}",
        "raft.min_selected is 8, but prompts.train_limit is 3 (FILE:2) and raft.samples_per_prompt is 2 (FILE:3): a c",
    ),
    ("M\nprompts: {train_limit: 2}\nselection: {per_prompt_cap: 3}", "a cycle selects at most 6 samples"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_errors(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text.replace("M\n", MODEL))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in caught.value.message.replace(str(path), "FILE")
    assert caught.value.exit_code == 2
    assert "docs configuration" in caught.value.hint or "given twice" in message or "digits" in message


def test_whole_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    text = "seed: 1e3\nraft: {num_cycles: 3.0, samples_per_prompt: 8.0}\nengine: {batch_size: 4.0}\nreport_to: none\n"
    config = load_config(write(tmp_path, MODEL + text), ["lora.r=1.6e1"]).config
    assert (config.seed, config.raft.num_cycles, config.engine.batch_size, config.lora.r) == (1000, 3, 4, 16)
    assert (type(config.seed), config.report_to) == (int, [])
    same = load_config(write(tmp_path, MODEL + "report_to: [none]\nseed: 1000\n")).config
    assert same == load_config(write(tmp_path, MODEL + "seed: 1e3\n")).config


def test_every_problem_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "model: {dtype: bf16}\nengine: {kind: transformers, top_p: 3, temprature: 1}\n"
        "selection: {kind: nonsense, cap: 1}\n"
        "training:\n  learning_rate: {kind: exponential}\n  max_grad_norm: [1, -1]\n  optimizer: adam\n"
        "evaluation: {temperature: 0, top_p: 5}\n"
    )
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["lora.r=0"])
    told = [line.split(": ")[:2] for line in caught.value.message.splitlines()]
    assert told == [
        [str(path), "11 problems"],
        ["--set lora.r=0", "lora.r"],
        [f"{path}:1", "model.model_name_or_path"],
        [f"{path}:1", "model.dtype"],
        [f"{path}:2", "engine.temprature"],
        [f"{path}:2", "engine.top_p"],
        [f"{path}:3", "selection.kind"],
        [f"{path}:5", "training.learning_rate.base"],
        [f"{path}:6", "training.max_grad_norm[1]"],
        [f"{path}:7", "training.optimizer"],
        [f"{path}:8", "evaluation.top_p"],
        [f"{path}:8", "evaluation.temperature is 0, but evaluation.samples_per_prompt is 4 (default)"],
    ]


def test_places_in_the_extended_file_and_in_set(tmp_path: Path) -> None:
    base = write(tmp_path, MODEL + "lora:\n  r: 0\n", "base.yaml")
    child = write(tmp_path, "extends: base.yaml\nseed: -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(child, ["raft.num_cycles=x"])
    lines = caught.value.message.splitlines()[1:]
    assert sorted(line.split(": ")[0] for line in lines) == sorted(
        [f"{base}:3", f"{child}:2", "--set raft.num_cycles=x"]
    )


def test_foreign_names_lead_to_keys_that_exist(tmp_path: Path) -> None:
    sections = {key.rpartition(".")[0] for key in all_keys()}
    targets = {*all_keys(), *sections, "training.lr_decay_factor", "training.min_lr"}
    assert [name for name, found in FOREIGN.items() if not targets.issuperset(found)] == []
    assert FOREIGN.keys().isdisjoint(resolved(load_config(write(tmp_path, MODEL)).config))
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MODEL + "".join(f"{name}: 1\n" for name in FOREIGN)))
    for name, found in FOREIGN.items():
        assert f"{name}: unknown key; halo-forge calls it {found[0]}" in caught.value.message


def test_every_scheduled_field_has_a_range() -> None:
    scheduled = {
        path for path, field in walk(RaftConfig) if any(issubclass(m, Schedule) for m in models_in(field.annotation))
    }
    assert scheduled == set(SCHEDULED)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats()
    | st.sampled_from(["auto", "pass", "x", "linear", "c"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["kind", "base", "values", "cycle_1", "phases", "r"]), inner, max_size=3)
    ),
    max_leaves=4,
)
keys = st.sampled_from(sorted({part for key in all_keys() for part in key.split(".")} | {"min_lr", "lr", "zzz"}))
sections = st.dictionaries(keys, st.dictionaries(keys, values, max_size=4) | values, max_size=5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sections, st.lists(st.builds("{}.{}={}".format, keys, keys, st.sampled_from(["1", "x", "null", "[]"])), max_size=2)
)
def test_any_file_is_loaded_or_refused_with_an_explanation(
    tmp_path: Path, data: dict[str, Any], overrides: list[str]
) -> None:
    path = write(tmp_path, dump({"model": {"model_name_or_path": "x"}, **data}))
    try:
        config = load_config(path, overrides).config
    except ConfigError as error:
        assert error.message and error.hint
    else:
        assert RaftConfig.model_validate(resolved(config)) == config
