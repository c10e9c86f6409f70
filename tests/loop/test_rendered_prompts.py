"""A run trains on exactly the prompts it sampled from, whatever its chat template says, and on another day too."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import SilentObserver, differences, execute, read, rows, tree, write_inputs
from tiny_models import CLOCK, THINKING

from halo_forge.config import load_config
from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.core.records import Prompt
from halo_forge.policy import Policy
from halo_forge.runtime.assembly import open_run


def with_template(tmp_path: Path, tiny_models: dict[str, Path], template: str) -> Path:
    folder = Path(shutil.copytree(tiny_models["llama"], tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def config_of(tmp_path: Path, model: Path, **changes: Any) -> Path:
    """Everything that ends is trained on: random weights write no C."""
    return write_inputs(
        tmp_path / "inputs",
        model={"model_name_or_path": str(model), "dtype": "float32"},
        lora={"r": 4, "lora_alpha": 8},
        engine={"kind": "transformers", "max_new_tokens": 40, "stop": ["}", "e"], "batch_size": 2},
        selection={"kind": "best_per_prompt", "reward_threshold": 0.0, "drop_flagged": False},
        verifier={"kind": "c", "workers": 1},
        training={"learning_rate": 1e-3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
        evaluation={"samples_per_prompt": 1, "test_at_end": False},
        **{"prompts__response_prefix": "```c\n", **changes},
    )


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[int, ...]]]:
    """Prompt id -> every list of token ids that the engine, the trainer or a measurement got for it."""
    found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    ids = Policy.prompt_ids

    def remembered(policy: Policy, prompt: Prompt) -> list[int]:
        made = ids(policy, prompt)
        found[prompt.id].add(tuple(made))
        return made

    monkeypatch.setattr(Policy, "prompt_ids", remembered)
    return found


def test_what_was_sampled_is_trained_on_while_the_clock_goes_on(
    tmp_path: Path, tiny_models: dict[str, Path], rendered: dict[str, set[tuple[int, ...]]]
) -> None:
    config = config_of(tmp_path, with_template(tmp_path, tiny_models, CLOCK))
    root = tmp_path / "run"
    execute(config, root)
    assert rows(root / "cycles/002/selection.jsonl")
    whole = tree(root)
    date = read(root / "run.json")["rendering"]["date"]
    time.sleep(1.1)
    # Redone at another time: the same prompts, so the same completions and weights.
    loaded = load_config(config, [f"output_dir={json.dumps(str(root))}"])
    with open_run(loaded, SilentObserver(), resume=True, from_cycle=2):
        pass
    execute(config, root)
    again = {name: content for name, content in tree(root).items() if not name.startswith("superseded")}
    assert differences(whole, again) == []
    assert {len(each) for each in rendered.values()} == {1}
    assert set(rendered) == {"train1", "train2", "train3", "dev1", "dev2"}
    # A new run gets a time of its own, unless it is given one.
    execute(config, tmp_path / "other")
    assert read(tmp_path / "other/run.json")["rendering"]["date"] > date


def test_the_same_date_gives_the_same_run_on_another_day(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    config = config_of(
        tmp_path, with_template(tmp_path, tiny_models, CLOCK), prompts__date="2026-11-30", raft__num_cycles=1
    )
    execute(config, tmp_path / "one")
    time.sleep(1.1)
    execute(config, tmp_path / "two")
    assert differences(tree(tmp_path / "one"), tree(tmp_path / "two")) == ["config.resolved.yaml"]
    assert read(tmp_path / "one/run.json")["rendering"]["date"] == "2026-11-30 00:00:00"


def test_prompts_with_other_token_ids_are_not_trained_on(
    tmp_path: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, tiny_models["llama"], raft__num_cycles=1)
    execute(config, tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    monkeypatch.setattr("halo_forge.policy.rendering.Renderer.text", lambda self, prompt: "x" + prompt.text)
    with pytest.raises(RunDirError, match="the prompts have other token ids"):
        execute(config, tmp_path / "run")


def forget_rendering(root: Path) -> None:
    """As a version left it that knew of no rendering."""
    identity = read(root / "run.json")
    del identity["rendering"]
    (root / "run.json").write_text(json.dumps(identity))
    (root / "result.json").unlink()


def test_a_run_whose_date_was_not_recorded_is_not_continued(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    config = config_of(tmp_path, with_template(tmp_path, tiny_models, CLOCK), raft__num_cycles=1)
    execute(config, tmp_path / "run")
    forget_rendering(tmp_path / "run")
    with pytest.raises(RunDirError, match="did not record the date"):
        execute(config, tmp_path / "run")


def test_a_run_whose_completions_lack_the_reasoning_that_the_template_opens_is_not_continued(
    tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    model = with_template(tmp_path, tiny_models, THINKING)
    config = config_of(tmp_path, model, prompts__response_prefix=None, raft__num_cycles=1)
    execute(config, tmp_path / "run")
    forget_rendering(tmp_path / "run")
    with pytest.raises(RunDirError, match=r"opens the reasoning \(<think>\)") as caught:
        execute(config, tmp_path / "run")
    assert "the version that started it" in caught.value.hint


def test_a_run_that_recorded_no_rendering_is_continued_where_nothing_depends_on_it(
    tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    config = config_of(tmp_path, tiny_models["llama"], raft__num_cycles=1)
    execute(config, tmp_path / "run")
    result = read(tmp_path / "run/result.json")
    forget_rendering(tmp_path / "run")
    execute(config, tmp_path / "run")
    assert read(tmp_path / "run/result.json") == result


def test_a_run_is_refused_whose_prompts_have_tokens_that_the_model_does_not_know(
    tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_models["llama"], tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<new{number}>" for number in range(2000)])
    tokenizer.save_pretrained(folder)
    config = config_of(tmp_path, folder, prompts__system_prompt="Use <new1999>.", raft__num_cycles=1)
    with pytest.raises(ConfigError, match=r"has the token \d+ \('<new1999>'\), but the model has embeddings for"):
        execute(config, tmp_path / "run")
    assert not (tmp_path / "run/run.json").exists()


def test_a_draft_in_reasoning_that_the_template_opened_is_not_judged(
    tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    model = with_template(tmp_path, tiny_models, THINKING)
    config = config_of(tmp_path, model, prompts__response_prefix=None, raft__num_cycles=1)
    execute(config, tmp_path / "run")
    completions = rows(tmp_path / "run/cycles/001/completions.jsonl")
    verdicts = rows(tmp_path / "run/cycles/001/verdicts.jsonl")
    assert all(each["text"].startswith("<think>\n") for each in completions)
    assert all("unfinished_reasoning" in each["flags"] and each["stage"] == "extract" for each in verdicts)
