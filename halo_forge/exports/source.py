"""What is exported: a version of a run or an adapter, and what is known of how it came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halo_forge.config import RaftConfig, load_config
from halo_forge.core.errors import ConfigError, ModelError
from halo_forge.core.records import Prompt
from halo_forge.evaluations.ask import Settings, settings_of
from halo_forge.evaluations.subject import Subject, subject_of
from halo_forge.policy import ADAPTER_FILES
from halo_forge.policy.files import stored_identity
from halo_forge.policy.folder_checks import read_object
from halo_forge.prompts import is_remote
from halo_forge.prompts.builtin import PREFIX
from halo_forge.runtime.prompt_sets import load_prompt_sets
from halo_forge.store.files import as_written, read_json
from halo_forge.store.run import cycle_folder, read_identity

OWN_LICENCE = "apache-2.0"
"""Of the packaged tasks, which are part of halo-forge."""


@dataclass(frozen=True)
class Source:
    """One adapter on its base model.

    Attributes:
        subject: The adapter, with its base model; its `run` is None for an adapter that no run is known of.
        config: Of its run, or the one given beside it; None where nothing says how it is asked.
        result: result.json of a finished run; empty otherwise.
        identity: run.json; empty without a run.
    """

    subject: Subject
    config: RaftConfig | None
    result: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def adapter(self) -> Path:
        """The PEFT folder."""
        assert self.subject.adapter is not None  # `source_of` refuses a subject without one
        return self.subject.adapter

    @property
    def base(self) -> str:
        """The base model's folder or hub id, as it was named."""
        return self.subject.model.model_name_or_path

    @property
    def stem(self) -> str:
        """The first part of file names: `quickstart-v2`, or the name of the adapter's folder."""
        run = self.subject.run
        return self.adapter.resolve().name if run is None else f"{run.resolve().name}-v{self.subject.version}"

    @property
    def settings(self) -> Settings | None:
        """How it is asked; None where nothing says so."""
        return None if self.config is None else settings_of(self.config, self.subject.run)

    def prompts(self, set_name: str) -> tuple[Prompt, ...]:
        """The prompts of "dev" or "test".

        Raises:
            ConfigError: They cannot be read.
        """
        assert self.config is not None
        found: tuple[Prompt, ...] = load_prompt_sets(self.config).by_name()[set_name]
        return found

    def lora(self) -> Mapping[str, Any]:
        """The content of adapter_config.json."""
        return read_object(self.adapter / ADAPTER_FILES[0], "adapter")

    def lineage(self) -> list[int]:
        """The cycles whose training made this version, the last one first; empty without a run.

        Raises:
            RunDirError: settings.json of one of them cannot be read.
        """
        found: list[int] = []
        version = self.subject.version if self.subject.run is not None else 0
        while version:
            assert self.subject.run is not None
            found.append(version)
            path = cycle_folder(self.subject.run, version) / "settings.json"
            with as_written(path):
                version = int(read_json(path)["parent_version"])
        return found


def source_of(text: str, config: Path | None = None, model: Mapping[str, Any] | None = None) -> Source:
    """The source that the command line names: RUN, RUN@v2 or the folder of an adapter.

    Args:
        config: For an adapter without a run: a configuration with its prompts, verifier and sampling settings.
        model: Keys of the `model` section that replace the subject's own.

    Raises:
        ConfigError: The text or the configuration is wrong.
        ModelError: The adapter or its base model is missing, or they do not belong together.
        RunDirError: The run is not finished and no version is named, or has no such version.
    """
    subject = subject_of(text, model)
    if subject.server is not None or subject.adapter is None:
        raise _nothing_to_export(text, subject)
    if subject.run is None:
        return Source(subject, None if config is None else load_config(config).config)
    if config is not None:
        raise ConfigError("--config is only for an adapter without a run", "drop it: the run has its own configuration")
    path, identity = subject.run / "result.json", read_identity(subject.run)
    return Source(subject, subject.config, read_json(path) if path.is_file() else {}, identity)


def refuse_another_base(source: Source) -> None:
    """Whether the base is the one that the run was started with, as far as its files tell.

    The proof cannot tell: it asks the adapter on the same base.

    Raises:
        ModelError: It is another one.
    """
    then = source.identity.get("start_model", {}).get("sha256")
    now = stored_identity(source.subject.model).get("sha256")
    if then is not None and now is not None and then != now:
        raise ModelError(
            f"{source.subject.name}: {source.base} is not the base that the run was started with: its files had sha256"
            f" {then[:12]}, now {now[:12]}",
            "put back what it was then, or name the folder that has it: --set model.model_name_or_path=DIR",
        )


def _nothing_to_export(text: str, subject: Subject) -> ModelError:
    if subject.run is None:
        what = "a server" if subject.server is not None else "a model without an adapter"
        return ModelError(
            f"{text} is {what}, allowed: a run, a version of a run, or a LoRA adapter", "name one of these"
        )
    if subject.config is not None and not subject.config.engine.needs_policy:
        return ModelError(f"{text}: this run trained no model: its completions come from a file", "name another run")
    return ModelError(
        f"{text}: v{subject.version} is the start model itself, without an adapter",
        f"name a version that was trained: {subject.run}@v1; the start model needs no export",
    )


def prompt_origins(config: RaftConfig) -> Iterator[tuple[str, str, str]]:
    """(set, where its prompts are from, their licence) of train, dev and test, as far as that is known here."""
    for name in ("train", "dev", "test"):
        source = getattr(config.prompts, name)
        if source.startswith(PREFIX):
            yield name, f"the tasks packaged with halo-forge (`{source}`)", OWN_LICENCE
        elif is_remote(source):
            dataset = source.partition(":")[0]
            yield name, f"the data set `{source}` on the Hugging Face Hub", f"see the page of `{dataset}`"
        else:
            yield name, f"the file `{Path(source.partition(':')[0]).name}`", "not recorded"
