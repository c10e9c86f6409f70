"""The configurations and the page of settings that come with the package are true."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_forge.config import differing_keys, load_config, resolved
from halo_forge.config.names import all_keys, fields, models_at
from halo_forge.config.spellings import DEFAULT_KINDS
from halo_forge.yaml_io import dump, parse_value

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(path for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_configs_load(path: Path, tmp_path: Path) -> None:
    config = load_config(path).config
    copy = tmp_path / "resolved.yaml"
    copy.write_text(dump(resolved(config)))
    assert load_config(copy).config == config
    text = path.read_text()
    if path.name != "base.yaml":
        assert path.relative_to(ROOT / "configs").as_posix() in (ROOT / "configs/README.md").read_text()
        assert f"halo-forge raft run {path.relative_to(ROOT).as_posix()}" in text
    if "Qwen" in config.model.model_name_or_path:
        assert "Not run on gfx1151" in text


def test_the_experiments_differ_in_the_learning_rate_only() -> None:
    folder = ROOT / "configs/experimental"
    names = ("raft_constant_lr", "raft_decay_lr", "raft_aggressive_decay")
    configs = {name: load_config(folder / f"{name}.yaml").config for name in names}
    rates = {
        name: [round(config.training.learning_rate.value(cycle, 5) * 1e5, 4) for cycle in range(1, 6)]
        for name, config in configs.items()
    }
    assert rates == {
        "raft_constant_lr": [5.0, 5.0, 5.0, 5.0, 5.0],
        "raft_decay_lr": [5.0, 4.25, 3.6125, 3.0706, 2.61],
        "raft_aggressive_decay": [5.0, 3.5, 2.45, 1.715, 1.2005],
    }
    resolved_ = [resolved(config) for config in configs.values()]
    for other in resolved_[1:]:
        keys_ = {key for key, _, _ in differing_keys(resolved_[0], other)}
        assert all(key == "output_dir" or key.startswith("training.learning_rate") for key in keys_)


# ---- docs/configuration.md


def documented() -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs/configuration.md").read_text().splitlines()]
    return {row[0].strip("`"): row for row in rows if row[0].startswith("`") and len(row) == 4}


@pytest.mark.parametrize("key", all_keys())
def test_every_key_is_documented_with_its_default(key: str) -> None:
    path = tuple(key.split("."))
    assert key in documented(), f"docs/configuration.md has no row for `{key}`"
    _, kind, cell, meaning = documented()[key]
    assert kind and meaning
    found = [fields(model)[path[-1]] for model in models_at(path[:-1], None) if path[-1] in fields(model)]
    if path == ("output_dir",):
        assert cell == "`runs/<file name>`"
    elif all(field.is_required() for field in found):
        assert cell == "required"
    else:
        expected = [field.get_default(call_default_factory=True) for field in found]
        if path[-1] == "kind":
            expected = [DEFAULT_KINDS[path[:-1]]]
        shown = [parse_value(text.strip("`"), key) for text in cell.split(" or ")]
        assert all(value in shown for value in expected)
        assert all(value in expected for value in shown)


def test_no_key_is_documented_that_does_not_exist() -> None:
    assert documented().keys() == set(all_keys())
