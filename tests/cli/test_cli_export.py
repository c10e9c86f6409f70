"""`halo-forge export`: what it prints, what it refuses, and that it uploads only when told to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cli_calls import Cli, command_line
from exported_runs import tuned_run

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def run(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned_run(tmp_path_factory.mktemp("tuned"), tiny_models["llama"])


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    with command_line(monkeypatch, capsys) as found:
        yield found


def test_an_export_is_printed_as_text_and_as_json(run: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("export", f"{run}@v1", "--to", "merged", "--no-proof", "--license", "mit")
    assert done.code == 0
    assert "not proved: it was exported with --no-proof" in done.out
    assert "rounding to bfloat16 lost" in done.out and "exports/run-v1-merged/model.safetensors" in done.out
    again = cli("export", f"{run}@v1", "--to", "merged", "--no-proof", "--license", "mit", "--json")
    assert again.json["is_new"] is False and again.json["folder"] == "exports/run-v1-merged"
    assert again.json["proof"]["state"] == "not_proved" and again.json["pushed_to"] is None
    assert "license: mit" in Path("exports/run-v1-merged/README.md").read_text()
    samples = cli("export", f"{run}@v1", "--to", "samples")
    assert samples.code == 0 and "that were trained on" in samples.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onnx"], "--to onnx: allowed: merged, gguf, lora-gguf, samples"),
        (["--to", "gguf", "--quantize", "q3"], "--quantize q3: allowed: bf16, f16, q8_0, q4_k_m"),
        (["--to", "merged", "--on", "train"], "--on train: allowed: dev, test"),
        (["--to", "merged", "--set", "seed=3"], "--set seed=3: allowed here: keys of the model section"),
        (["--to", "merged", "--license", "mine\n---"], "an identifier of letters, digits"),
        (["--to", "samples", "--quantize", "f16", "--force"], "--to samples uses no --quantize and no --force"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(
    run: Path, cli: Cli, arguments: list[str], message: str
) -> None:
    done = cli("export", f"{run}@v1", *arguments)
    assert done.code == 2 and message in done.err and "fix:" in done.err
    assert not Path("exports").exists()


class Hub:
    """Remembers what is uploaded; refuses everything if `is_away`."""

    is_away = False
    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def create_repo(self, repository: str, **options: Any) -> str:
        if self.is_away:
            raise ConnectionError("no route to the hub")
        self.calls.append((repository, options))
        return f"hub/{repository}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append((str(options.pop("folder_path")), options))


def test_an_export_is_uploaded_only_when_told_and_survives_a_failure(
    run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    order = ("export", f"{run}@v1", "--to", "merged", "--no-proof")
    assert cli(*order).code == 0 and Hub.calls == []
    monkeypatch.setattr(Hub, "is_away", True)
    failed = cli(*order, "--push", "me/mine")
    assert failed.code == 2 and "no route to the hub" in failed.err and "is complete" in failed.err
    assert Path("exports/run-v1-merged/export.json").is_file()
    monkeypatch.setattr(Hub, "is_away", False)
    done = cli(*order, "--push", "me/mine", "--json")
    assert done.json["pushed_to"] == "hub/me/mine"
    (made, how), (folder, what) = Hub.calls
    assert made == "me/mine" and how == {"repo_type": "model", "private": True, "exist_ok": True}
    assert folder == "exports/run-v1-merged" and what["repo_id"] == "me/mine"
    assert what["ignore_patterns"] == ["export.json", "proof/*"]


def test_an_interrupted_export_says_how_to_continue(run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("halo_forge.exports.export.model_card", interrupted)
    done = cli("export", f"{run}@v1", "--to", "merged", "--no-proof")
    assert done.code == 130 and "Completed work is saved; run the same command again." in done.err
    assert [path.name for path in Path("exports").iterdir()] == ["run-v1-merged.part"]
