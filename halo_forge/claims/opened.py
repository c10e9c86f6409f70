"""The parts of an unpacked claim, read as hostile data: configuration, prompts, and settings of this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from halo_forge.claims.archive import Manifest, prompts_file
from halo_forge.claims.findings import Findings
from halo_forge.claims.packaged import packaged_set
from halo_forge.claims.privacy import OUTPUT_DIR
from halo_forge.claims.programs import MACHINE_KEYS
from halo_forge.config import RaftConfig
from halo_forge.config.explain import problems_of
from halo_forge.config.yaml_io import parse_value
from halo_forge.core.errors import ClaimError, HaloForgeError
from halo_forge.core.plan import PromptSets
from halo_forge.core.records import Prompt
from halo_forge.runtime.prompt_sets import SETS, load_prompt_set, prompt_digest
from halo_forge.store.files import read_json, read_jsonl
from halo_forge.verifiers import ProgramSpec

NUM_RERUNS = 3
NEEDS_MODEL = ("that the completions are the model's own, by the recorded seeds", "needs the model")


@dataclass(frozen=True)
class Options:
    """How a claim is rechecked.

    Attributes:
        programs: Verify every completion again; False recomputes numbers alone.
        workers: Programs at the same time; None is one for each core.
        num_reruns: Times that a program with another verdict is run again before that counts.
        prompts: Set -> where this machine has the prompts that the claim does not hold.
        settings: `verifier.compiler=...` and the like, see `programs.MACHINE_KEYS`.
        tokenizer: Folder or hub id of the model, whose tokenizer decodes the completions; None decodes nothing.
        work_dir: Kept, so that a recheck which was killed goes on there; None is a private folder that is removed.
    """

    programs: bool = True
    workers: int | None = None
    num_reruns: int = NUM_RERUNS
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settings: Sequence[str] = ()
    tokenizer: str | None = None
    work_dir: Path | None = None


def build_of(run: Mapping[str, Any]) -> tuple[Any, Any]:
    """The halo-forge that made a run, by its run.json."""
    return run.get("halo_forge_version"), run.get("git_commit")


def read_part(path: Path, file: Path) -> dict[str, Any]:
    """A JSON object of the claim.

    Raises:
        ClaimError: It is none.
    """
    try:
        return read_json(file)
    except HaloForgeError as error:
        raise ClaimError(f"{path}: {file.name}: {error.message}", "get the file again: it is damaged") from error


def read_config(path: Path, file: Path, data: Mapping[str, Any], made_by: object) -> RaftConfig:
    """A configuration of the claim, from plain data, so that nothing in it can name another file to be read.

    Args:
        made_by: The version of halo-forge that wrote it.

    Raises:
        ClaimError: It is none of this version.
    """
    try:
        return RaftConfig.model_validate({**data, "output_dir": OUTPUT_DIR})
    except ValidationError as error:
        said = problems_of(error, dict(data))[0].line(lambda _: file.name)
        raise ClaimError(
            f"{path}: {file.name}: not a configuration of this version: {said}",
            f"recheck it with the halo-forge that made it ({str(made_by)[:40]}), and the plugins that it had",
        ) from error


def read_run_prompts(
    path: Path, root: Path, manifest: Manifest, config: RaftConfig, given: Mapping[str, str], findings: Findings
) -> tuple[PromptSets, set[str]]:
    """The prompts of a run, and the ids of those that are known with text and tests.

    Args:
        given: Set -> where this machine has its prompts.

    Raises:
        ClaimError: Those are not the prompts of the run, or cannot be read.
    """
    refuse_unknown_sets(given, SETS)
    found: dict[str, tuple[Prompt, ...]] = {}
    whole: set[str] = set()
    for name in SETS:

        def load(source: str, name: str = name) -> Sequence[Prompt]:
            section = config.prompts.model_copy(update={name: source})
            return load_prompt_set(config.model_copy(update={"prompts": section}), name)

        here = None
        if name not in given:
            here = packaged_set(getattr(config.prompts, name), name, manifest, load, findings)
        if here is not None and not manifest.prompts[name].packed:
            found[name], is_whole = here, True
        else:
            found[name], is_whole = read_set(path, root, name, manifest, given.get(name), load, findings)
        whole |= {prompt.id for prompt in found[name]} if is_whole else set()
    return PromptSets(**found), whole


def refuse_unknown_sets(given: Mapping[str, str], names: Collection[str]) -> None:
    """Whether `--prompts` names sets of the claim.

    Raises:
        ClaimError: It does not.
    """
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise ClaimError(f"--prompts {unknown[0]}=...: no such set", f"name one of {', '.join(names)}")


def read_set(
    path: Path,
    root: Path,
    name: str,
    manifest: Manifest,
    given: str | None,
    load: Callable[[str], Sequence[Prompt]],
    findings: Findings,
) -> tuple[tuple[Prompt, ...], bool]:
    """The prompts of one set, and whether they are known with text and tests.

    Args:
        given: Where this machine has them; None takes those of the claim.
        load: Reads them from there.

    Raises:
        ClaimError: Those are not the ones that were asked, or cannot be read.
    """
    source, member = manifest.prompts[name], prompts_file(manifest.kind, name)
    rows = _rows(path, root / member)
    if source.packed and given is None:
        found = tuple(_prompt(path, name, row) for row in rows)
        findings.compare(member, source.sha256, prompt_digest(found), what="sha256 of the prompts")
        return found, True
    if given is None:
        findings.leave_out(
            f"programs of {name}",
            f"the claim does not hold the prompts of {source.source[:200]}: name them with --prompts {name}=FILE",
        )
        return tuple(_stub(path, name, row) for row in rows), False
    try:
        prompts = load(given)
    except HaloForgeError as error:
        raise ClaimError(f"--prompts {name}={given}: {error.message}", error.hint) from error
    if prompt_digest(prompts) != source.sha256:
        raise ClaimError(
            f"--prompts {name}={given}: not the prompts that were asked (their digest is another one)",
            f"give the file as it was then; {path} has the ids in {member}",
        )
    return tuple(prompts), True


def native_prompts(file: str) -> list[Prompt]:
    """Prompts as an evaluation writes them into its folder.

    Raises:
        ClaimError: The file cannot be read or holds something else.
    """
    path = Path(file)
    return [_prompt(path, path.stem, row) for row in _rows(path, path)]


def _rows(path: Path, file: Path) -> list[dict[str, Any]]:
    try:
        return read_jsonl(file)
    except HaloForgeError as error:
        raise ClaimError(f"{path}: prompts/{file.name}: {error.message}", "get the file again") from error


def _prompt(path: Path, name: str, row: Mapping[str, Any]) -> Prompt:
    try:
        prompt = Prompt.from_row(row)
        if not prompt.messages or not all(
            isinstance(each.get("role"), str) and isinstance(each.get("content"), str) for each in prompt.messages
        ):
            raise ValueError("messages are not role and content")
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ClaimError(f"{path}: prompts/{name}.jsonl: not a prompt: {error}", "get the file again") from error
    return prompt


def _stub(path: Path, name: str, row: Mapping[str, Any]) -> Prompt:
    """A prompt of which only the id is known, and what decides when it is asked."""
    return _prompt(path, name, {"messages": [{"role": "user", "content": ""}], **row})


def without_overlong(sets: PromptSets, dropped: Any, config: RaftConfig, findings: Findings) -> PromptSets:
    """Without the prompts that the run dropped because they were too long.

    Args:
        dropped: What history.json says of them.
    """
    if not isinstance(dropped, dict) or not dropped or config.prompts.overlong != "drop":
        return sets
    findings.leave_out(f"that {len(dropped)} prompts are too long (prompts.overlong: drop)", "needs the tokenizer")
    return PromptSets(
        **{name: tuple(each for each in own if each.id not in dropped) for name, own in sets.by_name().items()}
    )


def with_settings(spec: ProgramSpec, settings: Sequence[str]) -> tuple[ProgramSpec, frozenset[str]]:
    """The verifier's settings with those that say where this machine has what it needs, and the keys of those.

    Raises:
        ClaimError: Another key is set, or a value is wrong.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        name = key.strip().removeprefix("verifier.")
        if not equals or not key.strip().startswith("verifier.") or name not in MACHINE_KEYS or not hasattr(spec, name):
            allowed = ", ".join(f"verifier.{each}" for each in MACHINE_KEYS if hasattr(spec, each))
            raise ClaimError(
                f"--set {setting}: cannot be changed: the verdicts would mean something else",
                f"allowed here: {allowed}",
            )
        changes[name] = parse_value(text, f"--set {setting}")
    try:
        return type(spec).model_validate({**spec.model_dump(by_alias=True), **changes}), frozenset(changes)
    except ValueError as error:
        raise ClaimError(f"--set: {str(error)[:300]}", "give a path, or a list of paths") from error
