"""Configuration: every field takes default < file < --set; spellings, digests, cost."""

from __future__ import annotations

import json
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from halo_forge.config import (
    RaftConfig,
    config_digest,
    differing_keys,
    json_schema,
    load_config,
    resolved,
)
from halo_forge.config.names import all_keys, default_kind, fields, models_at, walk
from halo_forge.config.spellings import DEFAULT_KINDS
from halo_forge.config.yaml_io import dump
from halo_forge.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for path in (ROOT / "configs").rglob("*.yaml"))
MODEL = "model: {model_name_or_path: owner/name}\n"


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def value_at(data: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        data = data[part]
    return data


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    result = dict(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


# ---- precedence, for every field of every kind


def kinds_of(path: tuple[str, ...]) -> list[Any]:
    """The classes that have the key at `path`."""
    return [model for model in models_at(path[:-1], None) if path[-1] in fields(model)]


# A level of reward cannot rise above the next one.
NEEDS: dict[tuple[str, ...], Any] = {
    ("engine", "server"): {"engine": {"adapter": "none"}},
    ("engine", "restart_command"): {"engine": {"adapter": "merged_restart", "restart_command": ["needed"]}},
    ("verifier", "compare", "checker", "language"): {"verifier": {"compare": {"checker": {"source": "needed"}}}},
    ("verifier", "compare", "checker", "source"): {"verifier": {"compare": {"checker": {"language": "c"}}}},
    ("verifier", "rewards", "no_program"): {"verifier": {"rewards": {"not_compiling": 0.2}}},
    **{
        ("verifier", "controls", key): {"verifier": {"kind": "command", "command": "needed", "language": "needed"}}
        for key in ("passing", "broken", "tests")
    },
}


# The control arm shares the settings of the policies, and refuses to filter.
FIXED: dict[str | None, list[tuple[str, ...]]] = {
    "unfiltered": [("selection", key) for key in ("reward_threshold", "deduplicate", "drop_flagged", "drop_prompts")]
}


def context(path: tuple[str, ...], model: Any) -> dict[str, Any]:
    """What else the file has to say so that the field exists: the model, its kind and the kind's required keys."""
    data: dict[str, Any] = {"model": {"model_name_or_path": "owner/name"}, **NEEDS.get(path, {})}
    if default_kind(model) is None:
        return data
    required = {key: "needed" for key, field in fields(model).items() if field.is_required() and key != path[-1]}
    return merged(data, nested(path[:-1], {"kind": default_kind(model), **required}))


def candidates(annotation: Any, default: Any) -> list[Any]:
    """Values that a field might take, the plausible ones first."""
    literals = [
        value
        for part in parts(annotation)
        if typing.get_origin(part) is typing.Literal
        for value in typing.get_args(part)
    ]
    near = [default + 0.01, default + 0.02, default - 0.01, default - 0.02] if isinstance(default, float) else []
    if isinstance(default, int) and not isinstance(default, bool):
        near = [default + 1, default + 2]
    lists = [[value] for value in literals] + [literals[:2], ["first"], ["first", "second"], ["third", "fourth"]]
    mappings = [{"final_ratio": 0.25}, {"final_ratio": 0.5}, {"family": ["first"]}, {"family": ["second"]}]
    mappings += [{"base": "first"}, {"base": "second"}]
    others = [
        0.25,
        0.5,
        3,
        5,
        21,
        2**30,
        2**31,
        "first",
        "second",
        "2026-11-30",
        "2026-12-01",
        "http://first",
        "http://second",
        *mappings,
    ]
    return [*literals, True, False, *near, *lists, *others]


def parts(annotation: Any) -> list[Any]:
    return [annotation, *(inner for part in typing.get_args(annotation) for inner in parts(part))]


FIELDS = [
    pytest.param(path, model, id=".".join(path) + (f" ({default_kind(model)})" if default_kind(model) else ""))
    for path in dict.fromkeys(typing.cast("tuple[str, ...]", path) for path, _ in walk(RaftConfig))
    if path[-1] != "kind"
    for model in kinds_of(path)
]


def default_of(field: Any) -> Any:
    return field.get_default(call_default_factory=True)


def accepted(path: tuple[str, ...], model: Any, folder: Path) -> list[tuple[Any, Any]]:
    """(value in the file, value in the resolved configuration), both different for each pair."""
    field = fields(model)[path[-1]]
    found: list[tuple[Any, Any]] = []
    for candidate in candidates(field.annotation, None if field.is_required() else default_of(field)):
        file = write(folder, dump(merged(context(path, model), nested(path, candidate))))
        try:
            value = value_at(resolved(load_config(file).config), path)
        except ConfigError:
            continue
        if all(value != other for _, other in found):
            found.append((candidate, value))
    return found


@pytest.mark.parametrize(("path", "model"), FIELDS)
def test_default_then_file_then_set(path: tuple[str, ...], model: Any, tmp_path: Path) -> None:
    field, dotted = fields(model)[path[-1]], ".".join(path)
    bare = write(tmp_path, dump(context(path, model)), "bare.yaml")
    if field.is_required() and path != ("output_dir",):
        with pytest.raises(ConfigError, match=rf"{dotted}: missing"):
            load_config(write(tmp_path, "model: {}\n") if path[0] == "model" else bare)
        default = None
    else:
        default = value_at(resolved(load_config(bare).config), path)
    values = accepted(path, model, tmp_path)
    if path in FIXED.get(default_kind(model), ()):
        assert all(value == default for _, value in values)
        return
    literal = typing.get_origin(field.annotation) is typing.Literal
    if literal and len(typing.get_args(field.annotation)) == 1:
        assert [value for _, value in values] == [default]
        return
    first = next(pair for pair in values if pair[1] != default)
    second = next(pair for pair in values if pair[1] != first[1])
    file = write(tmp_path, dump(merged(context(path, model), nested(path, first[0]))))
    assert value_at(resolved(load_config(file).config), path) == first[1]
    override = f"{dotted}={json.dumps(second[0])}"
    assert value_at(resolved(load_config(file, [override]).config), path) == second[1]
    assert value_at(resolved(load_config(bare, [override]).config), path) == second[1]


def test_every_family_is_walked() -> None:
    assert {path.values[0] for path in FIELDS} >= {
        ("engine", "answers"),
        ("verifier", "timeout_seconds"),
        ("selection", "reward_threshold"),
        ("training", "optimizer", "across_cycles"),
        ("seed",),
    }


def test_kind_by_default_file_and_set(tmp_path: Path) -> None:
    file = write(tmp_path, MODEL + "engine: {kind: scripted, answers: a.jsonl}\nselection: {kind: threshold}\n")
    bare = write(tmp_path, MODEL, "bare.yaml")
    assert {path[0]: kind for path, kind in DEFAULT_KINDS.items() if len(path) == 1} == {
        name: resolved(load_config(bare).config)[name]["kind"] for name in ("engine", "verifier", "selection")
    }
    config = load_config(file).config
    assert (config.engine.kind, config.selection.kind) == ("scripted", "threshold")
    config = load_config(file, ["engine.kind=transformers", "selection.kind=top_fraction"]).config
    assert (config.engine.kind, config.selection.kind) == ("transformers", "top_fraction")


def test_keys_without_a_kind_belong_to_the_default_kind(tmp_path: Path) -> None:
    overrides = ["training.learning_rate.base=1e-3", "engine.max_new_tokens=64", "selection.per_prompt_cap=null"]
    data = resolved(load_config(write(tmp_path, MODEL), overrides).config)
    rate = data["training"]["learning_rate"]
    assert (rate["kind"], rate["base"], rate["decay"], rate["min"]) == ("exponential", 1e-3, 0.85, 1e-6)
    assert data["engine"]["max_new_tokens"] == 64
    assert data["selection"] == {**data["selection"], "kind": "best_per_prompt", "per_prompt_cap": None}


def test_zero_is_a_value(tmp_path: Path) -> None:
    text = MODEL + (
        "training: {learning_rate: 0, warmup_steps: 0, weight_decay: 0, max_grad_norm: 0}\n"
        "lora: {lora_dropout: 0}\nselection: {reward_threshold: 0}\n"
        "evaluation: {temperature: 0, samples_per_prompt: 1}\nseed: 0\n"
    )
    config = load_config(write(tmp_path, text)).config
    zeros = [config.training.learning_rate, config.training.max_grad_norm, config.selection.reward_threshold]
    assert [schedule.value(3, 6) for schedule in zeros] == [0, 0, 0]
    assert (config.training.warmup_steps, config.lora.lora_dropout, config.evaluation.temperature) == (0, 0, 0)


def test_output_dir_follows_the_file_name(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MODEL, "my_run.yaml")).config.output_dir == "runs/my_run"


# ---- older spellings


@pytest.mark.parametrize(
    ("training", "rates"),
    [
        ("learning_rate: 5e-5", [5e-5] * 5),
        ("learning_rate: [5e-5, 4e-5]", [5e-5, 4e-5, 4e-5, 4e-5, 4e-5]),
        (
            "learning_rate_schedule: {cycle_1: 5e-5, cycle_2: 4e-5, cycle_3: 3e-5, cycle_4: 2.5e-5, cycle_5: 2e-5}",
            [5e-5, 4e-5, 3e-5, 2.5e-5, 2e-5],
        ),
        ("learning_rate: {cycle_1: 5e-5, cycle_3: 1e-5}", [5e-5, 5e-5, 1e-5, 1e-5, 1e-5]),
        ("base_learning_rate: 5e-5\n  lr_decay_factor: 0.85", [5e-5, 4.25e-5, 3.6125e-5, 3.070625e-5, 2.61003125e-5]),
        ("base_learning_rate: 8e-5\n  lr_decay_factor: 0.5\n  min_lr: 3e-5", [8e-5, 4e-5, 3e-5, 3e-5, 3e-5]),
        ("warmup_steps: 1", [5e-5, 4.25e-5, 3.6125e-5, 3.070625e-5, 2.61003125e-5]),
    ],
)
def test_learning_rate_spellings(tmp_path: Path, training: str, rates: list[float]) -> None:
    config = load_config(write(tmp_path, f"{MODEL}training:\n  {training}\nraft: {{num_cycles: 5}}\n")).config
    assert [config.training.learning_rate.value(cycle, 5) for cycle in range(1, 6)] == pytest.approx(rates, rel=1e-12)


def test_spellings_work_without_a_file() -> None:
    training = {"base_learning_rate": 5e-5, "lr_decay_factor": 0.85}
    data = {"model": {"model_name_or_path": "x"}, "output_dir": "y", "training": training}
    assert RaftConfig.model_validate(data) == RaftConfig.model_validate({**data, "training": {}})
    with pytest.raises(ValidationError, match="different spellings"):
        RaftConfig.model_validate({**data, "training": {**training, "learning_rate": 1e-4}})
    assert training == {"base_learning_rate": 5e-5, "lr_decay_factor": 0.85}


# ---- resolved, digest, differences, schema


def test_resolved_is_complete_plain_and_loads_back(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MODEL + "training: {learning_rate: [1e-4, 2e-4]}\n")).config
    data = resolved(config)
    again = load_config(write(tmp_path, dump(data), "resolved.yaml")).config
    assert again == config
    assert config_digest(again) == config_digest(config)
    assert data["engine"]["temperature"] == 1.0
    assert data["raft"]["samples_per_prompt"] == 8
    assert isinstance(data["raft"]["samples_per_prompt"], int)
    assert next(iter(data["engine"])) == "kind"


def test_digest_sees_results_only(tmp_path: Path) -> None:
    def digest(*overrides: str) -> str:
        return config_digest(load_config(write(tmp_path, MODEL), overrides).config)

    base = digest()
    assert len(base) == 64
    assert base == digest("output_dir=elsewhere", "report_to=[tensorboard]", "verifier.workers=3")
    assert base == digest("training.base_learning_rate=5e-5", "training.lr_decay_factor=0.85")
    assert base == digest("engine.temperature={kind: constant, value: 1}")
    different = ["seed=1", "training.learning_rate.base=6e-5", "verifier.timeout_seconds=9", "raft.num_cycles=7"]
    assert len({base, *map(digest, different)}) == 5


def test_differing_keys(tmp_path: Path) -> None:
    path = write(tmp_path, MODEL)
    old = resolved(load_config(path).config)
    new = resolved(load_config(path, ["seed=3", "training.learning_rate=1e-4", "lora.target_modules=[q]"]).config)
    assert differing_keys(old, old) == []
    found = {key: (before, after) for key, before, after in differing_keys(old, new)}
    assert found["seed"] == (0, 3)
    assert found["lora.target_modules"] == ("all-linear", ["q"])
    assert found["training.learning_rate.base"] == (5e-5, None)
    assert found["training.learning_rate"] == (None, 1e-4)


def test_json_schema_has_every_key() -> None:
    schema = json_schema()
    assert schema["required"] == ["model"]
    known = set(schema["properties"]) | {key for part in schema["$defs"].values() for key in part.get("properties", {})}
    assert {key.rpartition(".")[2] for key in all_keys()} <= known


# ---- cost


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    path = write(tmp_path, MODEL)
    program = (
        "import sys\nfrom halo_forge.config import load_config\nload_config(sys.argv[1])\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
