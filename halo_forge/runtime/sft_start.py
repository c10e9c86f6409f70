"""A run that starts from an SFT run (`model.adapter: runs/my_sft/best`): whether the two fit together.

The stage's run directory says what its adapter was trained on and how completions began there.  An adapter from
elsewhere has no such record; of that, only its shape and its base model can be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from halo_forge.config import RaftConfig
from halo_forge.config.problems import show
from halo_forge.core.errors import ConfigError, ModelError, raise_together
from halo_forge.core.records import Prompt
from halo_forge.core.wording import counted
from halo_forge.prompts.similarity import messages_digest
from halo_forge.store.sft import SftSource, sft_source

_LORA = ("r", "lora_alpha", "target_modules", "use_rslora")
_RENDERING = ("response_prefix", "system_prompt")
_SHOWN = 3


def start_notes(config: RaftConfig, prompts: Mapping[str, Sequence[Prompt]]) -> tuple[str, ...]:
    """What a person should know about the start of this run, one sentence each; nothing where it is the plain model.

    Args:
        prompts: The sets that were read, by name.

    Raises:
        ConfigError: The stage that `model.adapter` is from does not fit to this configuration, is not finished, or was
            trained on prompts that are to be measured.
        RunDirError: It was made by another version.
    """
    origins = [f"training.{key} is a share: {origin}" for key, origin in config.training.learning_rate_origin.items()]
    if config.model.adapter is None:
        return tuple(origins)
    source = sft_source(Path(config.model.adapter))
    if source is None:
        return tuple(origins)
    raise_together(list(_problems(config, source, prompts)))
    return (*_describe(config, source, prompts), *origins)


def _problems(config: RaftConfig, source: SftSource, prompts: Mapping[str, Sequence[Prompt]]) -> Iterator[ConfigError]:
    adapter = config.model.adapter
    if source.result is None and Path(str(adapter)).expanduser().is_symlink():
        yield ConfigError(
            f"model.adapter: {adapter}: the SFT run in {source.root} is not finished, so its best version may"
            " still change",
            "finish it with `halo-forge sft run CONFIG --resume`",
        )
    lora, data = source.settings["lora"], source.settings["data"]
    for key in _LORA:
        if getattr(config.lora, key) != lora[key]:
            yield _differs(f"lora.{key}", getattr(config.lora, key), lora[key], source)
    for key in _RENDERING:
        if getattr(config.prompts, key) != data[key]:
            yield _differs(f"prompts.{key}", getattr(config.prompts, key), data[key], source)
    trained = source.trained_prompts()
    for name in ("dev", "test"):
        same = [prompt.id for prompt in prompts.get(name, ()) if messages_digest(prompt) in trained]
        if same:
            yield ConfigError(
                f"prompts.{name}: it has {counted(len(same), 'prompt')} that the SFT run in {source.root}"
                f" trained on or held out: {', '.join(same[:_SHOWN])}",
                "measure on prompts that the stage has not seen; rows.jsonl there lists those that it has",
            )


def _differs(key: str, here: object, there: object, source: SftSource) -> ConfigError:
    return ConfigError(
        f"{key}: found {show(here)}, but the SFT run in {source.root} that model.adapter is from has {show(there)}",
        f"write {key}: {show(there)}, or train the stage again",
    )


def _describe(config: RaftConfig, source: SftSource, prompts: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    version, loss = source.version_of(Path(str(config.model.adapter)))
    measured = "" if loss is None else f", held-out loss {loss:.4f}"
    best = source.result is not None and source.result["best_version"] == version
    yield (
        f"v0 is v{version} of the SFT run in {source.root} (learning rate {source.learning_rate:g}{measured}"
        f"{', its best version' if best else ''}); lora settings, response prefix and system prompt are the same"
    )
    known = [name for name in ("dev", "test") if name in prompts]
    if known:
        yield f"none of the {' and '.join(known)} prompts was trained on there"
    dtype, quantization = (source.settings["model"][key] for key in ("dtype", "quantization"))
    if (config.model.dtype, config.model.quantization) != (dtype, quantization):
        yield (
            f"the stage had model.dtype {dtype} and model.quantization {quantization}, this run has"
            f" {config.model.dtype} and {config.model.quantization}: its adapter makes up for other rounding"
        )


def check_same_base(config: RaftConfig, start_model: Mapping[str, str]) -> None:
    """Whether the base weights are those that the stage was trained on, now that they are loaded.

    Raises:
        ModelError: They are not.
    """
    source = None if config.model.adapter is None else sft_source(Path(config.model.adapter))
    if source is None:
        return
    for key in ("sha256", "commit"):
        there, here = source.start_model.get(key), start_model.get(key)
        if there is not None and here is not None and there != here:
            raise ModelError(
                f"model.adapter: {config.model.adapter} was trained on another {config.model.model_name_or_path}: its"
                f" files had {key} {there[:12]}, those here have {here[:12]}",
                f"use the model that the stage was trained on ({source.start_model['model_name_or_path']})",
            )
