"""What is measured: a model, an adapter, a version of a run, or a server, named by one text."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from halo_forge.config import RaftConfig
from halo_forge.config.explain import problems_of
from halo_forge.config.sections import ModelSection
from halo_forge.core.errors import ConfigError, ModelError, RunDirError
from halo_forge.core.wording import counted
from halo_forge.engines._server_dialects import ServerKind
from halo_forge.policy import ADAPTER_FILES, adapter_digest, check_local
from halo_forge.policy.files import stored_identity
from halo_forge.policy.folder_checks import read_object
from halo_forge.runtime.assembly import run_config
from halo_forge.store.files import EDITED, as_written, read_json
from halo_forge.store.run import cycle_folder, cycle_folders, read_identity
from halo_forge.store.sft import is_sft_run
from halo_forge.store.versions import chosen_version

FORMS = "a run directory (RUN, RUN@v2, RUN@last), a PEFT adapter folder, a model folder or hub id, or server:URL#MODEL"
KINDS: Mapping[str, ServerKind] = {"server": "openai", **{kind: kind for kind in typing.get_args(ServerKind)}}
"""What a text about a server begins with -> whose fields beyond the protocol are used."""
_SERVER = re.compile(r"(\w+):(https?://[^#]+)(?:#(.*))?")
_VERSION = re.compile(r"v(\d+)")


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible endpoint, which belongs to somebody else.

    Attributes:
        kind: Whose fields beyond the protocol are used; openai uses none.
        base_url: Without its `/completions`.
        served_model: What the server calls the model.
    """

    kind: ServerKind
    base_url: str
    served_model: str


@dataclass(frozen=True)
class Subject:
    """One thing that is measured.

    Attributes:
        name: The text that named it.
        model: The base model, without an adapter; of a server, the one whose tokenizer renders the prompts.
        adapter: The PEFT folder on top of it; None asks the base model itself.
        version: Of a run: which policy version it is.
        run: The run directory that it is from.
        server: Where it is served; None loads it here.
        config: The configuration of its run.
    """

    name: str
    model: ModelSection
    adapter: Path | None = None
    version: int | None = None
    run: Path | None = None
    server: Server | None = None
    config: RaftConfig | None = None

    @property
    def label(self) -> int:
        """The policy version that its completions carry: its own; else 1 with an adapter and 0 without."""
        return int(self.adapter is not None) if self.version is None else self.version

    def identity(self) -> dict[str, Any]:
        """What its completions depend on, as far as files tell: equal identities are one model."""
        found = self.model.model_dump(mode="json", exclude={"adapter", "trust_remote_code"})
        settings = self.model.model_copy(update={"adapter": None if self.adapter is None else str(self.adapter)})
        found |= stored_identity(settings)
        return found if self.server is None else {**found, "server": dataclasses.asdict(self.server)}


def subject_of(text: str, model: Mapping[str, Any] | None = None) -> Subject:
    """The subject that a text names; see `FORMS`.

    Args:
        model: Keys of the `model` section that replace the subject's own, such as `{"dtype": "float32"}`.  A server
            whose model is not known here by the name it is served under needs `model_name_or_path`: the folder or hub
            id whose tokenizer renders the prompts.

    Raises:
        ConfigError: The text or a key of `model` is wrong.
        ModelError: A model or an adapter is missing, incomplete, or made for another base.
        RunDirError: The run is not finished and no version is named, has no such version, or was edited.
    """
    given = {} if model is None else dict(model)
    if (match := _SERVER.fullmatch(text)) is not None:
        return _of_server(text, match, given)
    name, at, version = text.rpartition("@")
    if at and Path(name).expanduser().is_dir():
        return _of_run(text, Path(name).expanduser(), version, given)
    if not text.strip():
        raise ConfigError("the name of a subject is empty", f"give {FORMS}")
    path = Path(text).expanduser()
    if (path / "run.json").is_file():
        return _of_run(text, path, None, given)
    if (path / ADAPTER_FILES[0]).is_file():
        return _of_adapter(text, path, given)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ConfigError(
            f"subject {text}: this folder holds no run (run.json), no adapter (adapter_config.json) and no model"
            " (config.json)",
            f"name {FORMS}",
        )
    if (
        "/" in text
        and not path.exists()
        and (runs := sorted(each.parent.name for each in path.parent.glob("*/run.json")))
    ):
        # It would pass for a hub id, and be looked for there after everything else.
        near = difflib.get_close_matches(path.name, runs, n=1)
        raise ModelError(
            f"subject {text}: {path.parent} holds {counted(len(runs), 'run')}, and none of this name"
            + (f"; did you mean {path.parent / near[0]}?" if near else ""),
            f"name {FORMS}",
        )
    return _checked(Subject(text, _section(text, {"model_name_or_path": text, **given})))


def _of_server(text: str, match: re.Match[str], given: Mapping[str, Any]) -> Subject:
    kind, base_url, served_model = match.groups()
    if kind not in KINDS:
        raise ConfigError(
            f"subject {text}: {kind!r} is no kind of server, allowed: {', '.join(KINDS)}",
            "write server:URL#MODEL for any server with an OpenAI-compatible /completions endpoint",
        )
    if not served_model:
        raise ConfigError(
            f"subject {text}: the name of the model on the server is missing", f"write {kind}:{base_url}#MODEL"
        )
    section = _section(text, {"model_name_or_path": served_model, **given})
    try:
        return _checked(Subject(text, section, server=Server(KINDS[kind], base_url.rstrip("/"), served_model)))
    except ModelError as error:
        raise ModelError(
            f"{error.message} (its tokenizer renders the prompts that the server is sent)",
            "give the folder or hub id of the same model: --set model.model_name_or_path=...",
        ) from error


def _of_run(text: str, root: Path, at: str | None, given: Mapping[str, Any]) -> Subject:
    if not (root / "run.json").is_file():
        raise ConfigError(f"subject {text}: {root} is not a run directory, so it has no @{at}", f"name {FORMS}")
    identity = read_identity(root)  # first: the configuration of an earlier version may not be readable
    if is_sft_run(root):
        return _of_sft_run(text, root, at, identity, given)
    config = run_config(root).config
    trained = [int(folder.name) for folder in cycle_folders(root) if (folder / "trained.json").is_file()]
    is_finished = (root / "result.json").is_file()
    match = None if at is None else _VERSION.fullmatch(at)
    if at is not None and match is None and at != "last":
        raise ConfigError(f"subject {text}: found @{at}, allowed: @v0, @v1 ... or @last", f"write {root}@v1")
    if match is not None:
        version = int(match[1])
        if version not in (0, *trained):
            raise RunDirError(
                f"subject {text}: the run has no v{version}; it has {_versions(trained)}", "name one of these"
            )
    elif not is_finished:
        raise RunDirError(
            f"subject {text}: the run is not finished, so it has no {'chosen' if at is None else 'last'} version yet;"
            f" it has {_versions(trained)}",
            f"finish it with `halo-forge raft resume {root}`, or name a version: {root}@v{max(trained, default=0)}",
        )
    elif at is None:
        chosen = chosen_version(root)
        assert chosen is not None  # a finished run has a result
        version = chosen
    else:
        version = max(trained, default=0)
    base = config.model.model_dump(exclude={"adapter"})
    start = None if config.model.adapter is None else Path(config.model.adapter)
    adapter = start if version == 0 else cycle_folder(root, version) / "adapter"
    if version > 0:
        _refuse_edited(cycle_folder(root, version))
    if version > 0 and not config.engine.needs_policy:
        adapter = None  # nothing was trained: completions come from a file
    section = _section(text, {**base, **given})
    found = Subject(text, section, adapter, version, root, config=config)
    return _checked(found) if config.engine.needs_policy else found


def _of_sft_run(
    text: str, root: Path, at: str | None, identity: Mapping[str, Any], given: Mapping[str, Any]
) -> Subject:
    """The best adapter of a finished SFT run; the base where nothing is better."""
    if at is not None:
        raise ConfigError(
            f"subject {text}: versions of an SFT run are not named by @",
            f"name {root}, or one of its adapter folders",
        )
    if not (root / "result.json").is_file():
        raise RunDirError(
            f"subject {text}: the SFT run is not finished, so it has no best version yet",
            f"finish it with `halo-forge sft run` and --resume, or name its best adapter so far: {root}/best",
        )
    with as_written(root / "run.json"):
        base = identity["start_model"]["model_name_or_path"]
    adapter = (root / "best").resolve() if (root / "best").exists() else None
    return _checked(Subject(text, _section(text, {"model_name_or_path": base, **given}), adapter))


def _versions(trained: list[int]) -> str:
    return "v0 only" if not trained else f"v0 to v{max(trained)}"


def _refuse_edited(folder: Path) -> None:
    adapter, sealed = folder / "adapter", read_json(folder / "trained.json").get("adapter_digest")
    if any(not (adapter / name).is_file() for name in ADAPTER_FILES):
        if sealed is not None:
            raise RunDirError(f"{adapter}: missing, or incomplete", EDITED)
    elif sealed is not None and adapter_digest(adapter) != sealed:
        raise RunDirError(f"{adapter}: not the adapter that this cycle trained", EDITED)


def _of_adapter(text: str, folder: Path, given: Mapping[str, Any]) -> Subject:
    """An adapter folder; one that lies in a run's cycle (as `RUN/best` does) is that version of the run."""
    real = folder.resolve()
    if real.name == "adapter" and real.parent.parent.name == "cycles" and (real.parents[2] / "run.json").is_file():
        return _of_run(text, real.parents[2], f"v{int(real.parent.name)}", given)
    made_for = read_object(folder / ADAPTER_FILES[0], "adapter").get("base_model_name_or_path")
    if made_for is None and "model_name_or_path" not in given:
        raise ModelError(
            f"subject {text}: its adapter_config.json names no base model",
            "give the base model: --set model.model_name_or_path=...",
        )
    try:
        return _checked(Subject(text, _section(text, {"model_name_or_path": made_for, **given}), folder))
    except ModelError as error:
        if "model_name_or_path" in given or Path(str(made_for)).expanduser().exists():
            raise
        raise ModelError(
            f"{error.message} (the base model that its adapter_config.json names)",
            "run the command where this path leads to the model, or correct base_model_name_or_path in"
            f" {folder / ADAPTER_FILES[0]}",
        ) from error


def _section(text: str, keys: Mapping[str, Any]) -> ModelSection:
    try:
        return ModelSection.model_validate(keys)
    except ValidationError as error:
        problems = problems_of(error, dict(keys), ModelSection)
        wrong = "; ".join(f"model.{problem.line(lambda _: 'default')}" for problem in problems)
        raise ConfigError(f"subject {text}: {wrong}", "correct it") from error


def _checked(subject: Subject) -> Subject:
    """The subject, whose files are there and belong together; a hub id is checked when it is loaded."""
    settings = subject.model.model_copy(update={"adapter": None if subject.adapter is None else str(subject.adapter)})
    try:
        check_local(settings)
    except ModelError as error:
        named = error.message.removeprefix("model.model_name_or_path: ")
        raise ModelError(f"subject {subject.name}: {named}", error.hint) from error
    return subject
