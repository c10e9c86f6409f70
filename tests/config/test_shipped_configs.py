"""The configurations and the page of settings that come with the package are true."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_forge.config import differing_keys, load_config, resolved
from halo_forge.config.names import all_keys, fields, models_at, walk
from halo_forge.config.spellings import DEFAULT_KINDS
from halo_forge.config.yaml_io import dump, parse_value
from halo_forge.runtime.preview import preview
from halo_forge.sft.config import DataSection, SftTrainingSection, load_sft_config, resolved_sft

ROOT = Path(__file__).parents[2]
EVERY = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "experiments")
SHIPPED = [path for path in EVERY if not path.name.startswith("sft_")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_configs_load(path: Path, tmp_path: Path) -> None:
    config = load_config(path).config
    copy = tmp_path / "resolved.yaml"
    copy.write_text(dump(resolved(config)))
    assert load_config(copy).config == config
    text = path.read_text()
    assert path.relative_to(ROOT / "configs").as_posix() in (ROOT / "configs/README.md").read_text()
    assert f"halo-forge raft run {path.relative_to(ROOT).as_posix()}" in text
    if "Qwen" in config.model.model_name_or_path:
        assert "Not run on gfx1151" in text


@pytest.mark.parametrize("path", sorted(set(EVERY) - set(SHIPPED)), ids=lambda path: path.name)
def test_shipped_supervised_stages_load(path: Path, tmp_path: Path) -> None:
    config = load_sft_config(path).config
    copy = tmp_path / "resolved.yaml"
    copy.write_text(dump(resolved_sft(config)))
    assert load_sft_config(copy).config == config
    assert f"({path.name})" in (ROOT / "configs/README.md").read_text()
    assert f"halo-forge sft run {path.relative_to(ROOT).as_posix()}" in path.read_text()


RATES = {
    "raft_constant_lr": [5.0, 5.0, 5.0, 5.0, 5.0],
    "raft_decay_lr": [5.0, 4.25, 3.6125, 3.0706, 2.61],
    "raft_aggressive_decay": [5.0, 3.5, 2.45, 1.715, 1.2005],
}
"""The configurations that the project started with -> their learning rates in units of 1e-5."""


def test_the_configurations_of_the_hypotheses_differ_in_their_learning_rate_only() -> None:
    folder = ROOT / "configs/experimental"
    assert {path.stem for path in folder.glob("*.yaml")} == set(RATES)
    configs = {name: load_config(folder / f"{name}.yaml").config for name in RATES}
    first = resolved(configs["raft_constant_lr"])
    for name, config in configs.items():
        shown = preview(config, 203, 40, has_tests=True).cycles
        assert [round(cycle.learning_rate * 1e5, 4) for cycle in shown] == RATES[name]
        keys = {key for key, _, _ in differing_keys(first, resolved(config))} - {"output_dir"}
        assert all(key.startswith("training.learning_rate") for key in keys), keys


# ---- docs/configuration.md


def documented() -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs/configuration.md").read_text().splitlines()]
    return {row[0].strip("`"): row for row in rows if row[0].startswith("`") and len(row) == 4}


def wrong_row(key: str, row: list[str]) -> str | None:
    """What is wrong with the row of a key: nothing said of it, or another default than the code's."""
    path = tuple(key.split("."))
    _, kind, cell, meaning = row
    if not kind or not meaning:
        return f"`{key}`: a cell is empty"
    found = [fields(model)[path[-1]] for model in models_at(path[:-1], None) if path[-1] in fields(model)]
    if path == ("output_dir",):
        return None if cell == "`runs/<file name>`" else f"`{key}`: {cell}"
    if all(field.is_required() for field in found):
        return None if cell == "required" else f"`{key}`: {cell}, but it is required"
    expected = [field.get_default(call_default_factory=True) for field in found]
    if path[-1] == "kind" and path[:-1] in DEFAULT_KINDS:
        expected = [DEFAULT_KINDS[path[:-1]]]
    shown = [parse_value(text.strip("`"), key) for text in cell.split(" or ")]
    right = all(value in shown for value in expected) and all(value in expected for value in shown)
    return None if right else f"`{key}`: {cell}, but the default is {expected}"


def test_every_key_is_documented_with_its_default() -> None:
    rows = documented()
    assert [key for key in all_keys() if key not in rows] == []
    assert [wrong for key in all_keys() if (wrong := wrong_row(key, rows[key])) is not None] == []
    assert wrong_row("seed", ["`seed`", "count", "`1`", "the seed"]) == "`seed`: `1`, but the default is [0]"


def test_no_key_is_documented_that_does_not_exist() -> None:
    assert documented().keys() == set(all_keys())


# ---- docs/sft.md


def test_every_key_of_a_supervised_stage_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/sft.md").read_text()
    cells = [line.strip("| ").split(" | ") for line in text.splitlines()]
    rows = {row[0].strip("`"): row[1] for row in cells if len(row) == 3 and row[0].startswith(("`data.", "`training."))}
    sections = [(DataSection, ("data",)), (SftTrainingSection, ("training",))]
    keys = {".".join(map(str, path)): field for section, start in sections for path, field in walk(section, start)}
    assert keys.keys() == rows.keys()
    for key, field in keys.items():
        expected = "required" if field.is_required() else field.get_default(call_default_factory=True)
        assert rows[key] == "required" or parse_value(rows[key].strip("`"), key) == expected, key
        assert (rows[key] == "required") == field.is_required(), key
