"""Where prompts come from: files, packaged sets, data sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from halo_forge.core.errors import ConfigError
from halo_forge.prompts import builtin, is_remote, load_prompts, split_of
from halo_forge.prompts.split import SPLITS, apply

ROWS = [{"id": f"task {number}", "prompt": f"Write {number}."} for number in range(60)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def test_parquet_gives_the_prompts_of_the_same_jsonl(tmp_path: Path) -> None:
    stdio = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "1"}]}
    harness = {"kind": "harness", "entry_point": "f", "source": "int main(void) {}", "expected": ["1"]}
    messages = [{"role": "user", "content": "c"}]
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": messages, "tests": stdio},
        {"id": "b", "prompt": messages, "tests": harness},
    ]
    jsonl, parquet = write_jsonl(tmp_path / "a.jsonl", rows), write_parquet(tmp_path / "a.parquet", rows)
    assert load_prompts(parquet, language="c") == load_prompts(jsonl, language="c")


def test_parquet_cells_become_plain_json(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"prompt": "a", "day": date(2024, 2, 29), "share": float("nan")}])
    assert load_prompts(path, language=None)[0].info == {"day": "2024-02-29", "share": None}


def test_parquet_errors_name_the_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"prompt": "a"}, {"prompt": ""}])
    with pytest.raises(ConfigError, match=r"a\.parquet row 2: `prompt` is empty"):
        load_prompts(path, language=None)
    path = write_parquet(tmp_path / "b.parquet", [{"prompt": "a", "picture": b"\x89PNG"}])
    with pytest.raises(ConfigError, match=r"b\.parquet row 1: column `picture` contains bytes"):
        load_prompts(path, language=None)


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet", "folder.jsonl", "folder.parquet", "text.parquet"])
def test_an_unreadable_file_is_an_error_with_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "text.parquet").write_text("this is no parquet file")
    with pytest.raises(ConfigError) as caught:
        load_prompts(str(tmp_path / name), language=None)
    assert f"prompt file {tmp_path / name} cannot be read: " in caught.value.message


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="is empty"):
        load_prompts(str(tmp_path / "a.jsonl"), language=None)


@pytest.mark.parametrize("spec", ["./tasks", "tasks.json", "tasks.csv", "/nowhere/tasks"])
def test_other_files_are_refused_and_not_taken_for_data_sets(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"neither \.jsonl nor \.parquet"):
        load_prompts(spec, language=None)


@pytest.mark.parametrize(
    ("spec", "remote"),
    [
        ("org/set", True),
        ("org/set:main:test", True),
        ("builtin:c/train", False),
        ("a.jsonl", False),
        ("a.parquet:dev", False),
        ("a.json", False),
        ("./org/set", False),
        ("", False),
    ],
)
def test_what_is_fetched(spec: str, remote: bool) -> None:
    assert is_remote(spec) is remote


@pytest.mark.parametrize("spec", ["", " "])
def test_an_empty_name_is_an_error(spec: str) -> None:
    with pytest.raises(ConfigError, match="the name of the prompt set is empty"):
        load_prompts(spec, language=None)


def test_a_file_can_be_split_by_its_ids(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    everything = load_prompts(path, language="c")
    parts = {split: load_prompts(f"{path}:{split}", language="c") for split in SPLITS}
    for split, prompts in parts.items():
        assert prompts == apply(everything, split)
        assert all(split_of(prompt.id) == split for prompt in prompts)
    assert sum(len(prompts) for prompts in parts.values()) == len(everything)


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    row = next(row for row in ROWS if split_of(row["id"]) != "dev")
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(ConfigError, match=r"none of the 1 rows of .* falls into the split dev"):
        load_prompts(f"{path}:dev", language=None)


def test_limit_is_a_nested_choice_in_file_order_but_not_the_head(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    ids = [prompt.id for prompt in load_prompts(path, language=None)]
    ten = [prompt.id for prompt in load_prompts(path, language=None, limit=10)]
    twenty = [prompt.id for prompt in load_prompts(path, language=None, limit=20)]
    assert len(ten) == 10 and len(twenty) == 20
    assert set(ten) < set(twenty)
    assert ten == [prompt_id for prompt_id in ids if prompt_id in set(ten)]
    assert ten != ids[:10]
    assert len(load_prompts(path, language=None, limit=1000)) == 60


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_an_error(limit: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"limit is {limit}"):
        load_prompts(write_jsonl(tmp_path / "a.jsonl", ROWS), language=None, limit=limit)


def test_builtin_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "toy.jsonl", ROWS)
    monkeypatch.setattr(builtin, "_files", lambda: sorted(tmp_path.glob("*.jsonl")))
    assert builtin.names() == ["toy/train", "toy/dev", "toy/test", "toy/all"]
    everything = load_prompts("builtin:toy/all", language="c")
    assert len(everything) == 60
    assert load_prompts("builtin:toy/dev", language="c") == apply(everything, "dev")
    with pytest.raises(
        ConfigError, match=r"'builtin:toy/trian'; allowed: builtin:toy/train, .*did you mean \"builtin:toy/train\""
    ):
        load_prompts("builtin:toy/trian", language="c")


def test_hub_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str | None, str | None]] = []

    def load(path: str, name: str | None = None, split: str | None = None) -> Any:
        asked.append((path, name, split))
        data = datasets.Dataset.from_list([{"id": "a", "prompt": "Say a."}])
        return data if split is not None else datasets.DatasetDict({"test": data})

    monkeypatch.setattr(datasets, "load_dataset", load)
    for spec in ("org/set", "org/set:test", "org/set:main:test", "org/set:test[:60%]", "org/set:main:test[80%:]"):
        assert [prompt.id for prompt in load_prompts(spec, language="c")] == ["a"]
    assert asked == [
        ("org/set", None, None),
        ("org/set", None, "test"),
        ("org/set", "main", "test"),
        ("org/set", None, "test[:60%]"),
        ("org/set", "main", "test[80%:]"),
    ]


def test_hub_set_with_several_splits_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    data = datasets.Dataset.from_list([{"prompt": "a"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(train=data, test=data))
    with pytest.raises(ConfigError, match="has the splits train, test") as caught:
        load_prompts("org/set", language="c")
    assert caught.value.hint == "name one: org/set:train"


def test_hub_rows_are_checked_as_any_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([{"question": "a"}]))
    with pytest.raises(ConfigError, match="org/set:train row 1: `prompt` is missing; the row has `question`"):
        load_prompts("org/set:train", language="c")


@pytest.mark.parametrize("spec", ["a:b:c:d", "org/set:", ":train"])
def test_hub_name_of_no_known_form_is_an_error(spec: str) -> None:
    with pytest.raises(ConfigError, match="is none of `id`, `id:split`, `id:config:split`"):
        load_prompts(spec, language="c")


def test_a_hub_set_that_is_not_there_offline_is_a_clear_error(tmp_path: Path) -> None:
    code = "from halo_forge.prompts import load_prompts; load_prompts('org/absent:train', language='c')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "halo_forge.core.errors.ConfigError: data set 'org/absent:train' cannot be loaded: " in done.stderr
    assert "check the id, the split and the network" in done.stderr


def test_reading_a_jsonl_file_imports_no_table_library(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    code = (
        "import sys; from halo_forge.prompts import load_prompts; "
        f"load_prompts({path!r}, language='c'); "
        "print([name for name in ('datasets', 'pyarrow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
