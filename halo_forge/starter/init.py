"""`halo-forge init`: from what somebody says to a configuration that was checked, written where nothing was."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from halo_forge.config import load_config
from halo_forge.config.sections import HardwareSection
from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.core.registry import discover
from halo_forge.hardware import Machine, choose, detect
from halo_forge.runtime.config_check import ConfigCheck, check_config
from halo_forge.starter.choose import Choice, Wanted, choose_values, measured_prompts
from halo_forge.starter.model import ModelFound, lengths
from halo_forge.starter.prompts import PromptsFound
from halo_forge.starter.write import configuration_text

LANGUAGES = ("c", "cpp", "rust", "go", "python")
MACHINES = ("auto", "gfx1151", "cuda", "rocm", "cpu")
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_PROCESSORS_ELSEWHERE = 16
_UNKNOWN = Machine(Path("/nonexistent"), {}, None, triton=True)
"""Another machine, whose memory is unknown; torch's builds for GPUs bring Triton."""
QUICKSTART = Path(__file__).with_name("quickstart.yaml")


def seconds_of(text: str) -> float:
    """A time such as "90m", "8h" or "1d".

    Raises:
        ConfigError: It is not one.
    """
    found = _TIME.fullmatch(text.strip().lower())
    if found is None or float(found[1]) == 0.0:
        raise ConfigError(f"--time: found {text!r}, allowed: a number with a unit", "write 90m, 8h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def name_of(text: str) -> str:
    """A name for the configuration and its run directory.

    Raises:
        ConfigError: It is not one.
    """
    name = text.removesuffix(".yaml")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name: found {text!r}, allowed: letters, digits, `.`, `_` and `-`", "write a name without a folder"
        )
    return name


def language_of(given: str | None, prompts: PromptsFound) -> tuple[str, str]:
    """The language, and how it was found if nobody said it.

    Raises:
        ConfigError: It is unknown, not one that is checked, or not that of the prompts.
    """
    if given is None and prompts.language is None:
        raise ConfigError(
            "the language of the programs is unknown: the prompts do not say it, and their tests fit several",
            f"give --language, one of {', '.join(LANGUAGES)}",
        )
    language = prompts.language if given is None else given
    if language not in LANGUAGES:
        raise ConfigError(
            f"language: found {language!r}, allowed: {', '.join(LANGUAGES)}",
            "choose one of them; a checker of your own is verifier.kind: command in a file that you write",
        )
    if prompts.language not in (None, language):
        raise ConfigError(
            f"--language {language}: the prompts are in {prompts.language}", "leave it out, or give other prompts"
        )
    return language, "" if given is not None else "the prompts or their tests say so"


def wanted_of(
    model: ModelFound,
    prompts: PromptsFound,
    *,
    language: str | None,
    machine: str,
    seconds: float,
    name: str,
    folder: Path,
) -> Wanted:
    """All that the values are chosen by.

    Args:
        folder: Where the configuration will be: its paths are relative to it.

    Raises:
        ConfigError: The language is unknown, or a prompt does not fit the chat template.
    """
    if machine not in MACHINES:
        raise ConfigError(f"--machine: found {machine!r}, allowed: {', '.join(MACHINES)}", "choose one of them")
    here = detect().name
    is_here = machine in ("auto", here)
    settings = HardwareSection(profile=machine)  # type: ignore[arg-type]  # one of MACHINES
    profile = choose(settings, None if is_here else _UNKNOWN)
    if machine != "auto":
        profile = replace(profile, why="as asked" if is_here else f"as asked; this machine is {here}")
    spoken, reason = language_of(language, prompts)
    return Wanted(
        model=replace(model, name=_seen_from(folder, model.name)),
        prompts=replace(prompts, specs={key: _seen_from(folder, spec) for key, spec in prompts.specs.items()}),
        language=spoken,
        language_reason=reason,
        profile=profile,
        is_here=is_here,
        processors=len(os.sched_getaffinity(0)) if is_here else _PROCESSORS_ELSEWHERE,
        tools=_tools(spoken) if is_here else "not looked at; run `halo-forge doctor` there first",
        seconds=seconds,
        name=name,
        prompt_lengths=lengths(model, measured_prompts(prompts)),
    )


def _seen_from(folder: Path, text: str) -> str:
    """A path, perhaps with a split after it, as a command that runs in `folder` has to name it; other names as are."""
    path, colon, split = text, "", ""
    if not Path(text).expanduser().exists() and ":" in text:
        path, colon, split = text.rpartition(":")
    if not Path(path).expanduser().exists() or path.startswith("~"):
        return text
    if Path(path).is_absolute() or folder.resolve() == Path.cwd():
        return text
    whole = Path(path).resolve()
    inside = whole.is_relative_to(folder.resolve())
    return f"{whole.relative_to(folder.resolve()) if inside else whole}{colon}{split}"


def _tools(language: str) -> str:
    spec = discover("halo_forge.verifiers.languages")[language]()
    names = spec.requires()  # type: ignore[attr-defined]  # every verifier has it
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        hint = spec.install_hint()  # type: ignore[attr-defined]
        return f"{', '.join(missing)} is missing here; {hint}"
    return f"{', '.join(names)} found; `halo-forge doctor` tries whether they work"


# ---- checked and written


@dataclass(frozen=True)
class Written:
    """A configuration that is there now.

    Attributes:
        check: What `config check` says about it.
    """

    path: Path
    choice: Choice
    check: ConfigCheck


def refuse_existing(path: Path, hint: str = "give another --name or folder") -> None:
    """Refuse to write where something is.

    Raises:
        RunDirError: There is.
    """
    if os.path.lexists(path):
        raise RunDirError(f"{path} is there already, and is never overwritten", hint)


def write_configuration(wanted: Wanted, folder: Path) -> Written:
    """Choose the values, check the configuration as `config check` does, and write it.

    Raises:
        ConfigError: A row does not fit the language, or something else that any machine would refuse.
        RunDirError: A file of that name is there, the disk is full, or the folder is not writable.
    """
    choice = choose_values(wanted)
    text = configuration_text(wanted, choice)
    path = folder / f"{wanted.name}.yaml"
    with _writable(folder), _not_left_empty(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check = _checked(text, path)
        _create(path, text)
    return Written(path, choice, check)


def _checked(text: str, path: Path) -> ConfigCheck:
    """What `config check` will say once the text is at this path.

    Raises:
        ConfigError: It would refuse it.
    """
    with tempfile.TemporaryDirectory(prefix=".init-", dir=path.parent) as scratch:
        draft = Path(scratch).resolve() / path.name
        draft.write_text(text, encoding="utf-8")
        try:
            with contextlib.chdir(path.parent):
                return check_config(load_config(draft).config)
        except ConfigError as error:  # the draft is gone when this is read
            raise ConfigError(error.message.replace(str(draft), path.name), error.hint) from error


@contextlib.contextmanager
def _not_left_empty(folder: Path) -> Iterator[None]:
    """Remove the folder after an error, if it was made meanwhile and nothing is in it."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def write_demo(folder: Path) -> Path:
    """Write the demo's configuration, unless it is there unchanged.

    Raises:
        RunDirError: Another file of that name is there, or the folder is not writable.
    """
    path = folder / QUICKSTART.name
    text = QUICKSTART.read_text(encoding="utf-8")
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
        return path
    refuse_existing(path, "name another folder, or move the file away")
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _create(path, text)
    return path


def _create(path: Path, text: str) -> None:
    """Write a new file whole, or leave none.

    Raises:
        RunDirError: Something is there already.
    """
    refuse_existing(path)
    with path.open("x", encoding="utf-8") as handle:
        try:
            handle.write(text)
            handle.flush()
        except OSError:
            path.unlink()
            raise


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunDirError(
            f"{folder}: {error.strerror or error}", "free some space, or name a folder that you may write to"
        ) from error
