"""The parts of an unpacked claim, read as hostile data: configuration, prompts, and settings of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from halo_forge.claims.archive import Manifest
from halo_forge.claims.findings import Findings
from halo_forge.claims.privacy import OUTPUT_DIR
from halo_forge.claims.programs import MACHINE_KEYS
from halo_forge.config import RaftConfig
from halo_forge.config.explain import problems_of
from halo_forge.config.yaml_io import parse_value
from halo_forge.core.errors import ClaimError, ConfigError, HaloForgeError
from halo_forge.core.plan import PromptSets
from halo_forge.core.records import Prompt
from halo_forge.prompts import builtin
from halo_forge.runtime.prompt_sets import SETS, load_prompt_set, prompt_digest
from halo_forge.store.files import read_json, read_jsonl
from halo_forge.verifiers import ProgramSpec


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


def read_config(path: Path, file: Path, run: Mapping[str, Any]) -> RaftConfig:
    """A configuration of the claim: plain data, so that nothing in it can name another file to be read.

    Raises:
        ClaimError: It is none of this version.
    """
    data = read_part(path, file)
    try:
        return RaftConfig.model_validate({**data, "output_dir": OUTPUT_DIR})
    except ValidationError as error:
        said = problems_of(error, data)[0].line(lambda _: file.name)
        raise ClaimError(
            f"{path}: {file.name}: not a configuration of this version: {said}",
            f"recheck it with halo-forge {str(run.get('halo_forge_version'))[:40]} and the plugins that run.json names",
        ) from error


def read_prompts(
    path: Path, root: Path, manifest: Manifest, config: RaftConfig, given_sources: Mapping[str, str], findings: Findings
) -> tuple[PromptSets, set[str]]:
    """The prompts of each set, and the ids of those that are known with text and tests.

    Args:
        given_sources: Set -> where this machine has its prompts.

    Raises:
        ClaimError: Those are not the prompts of the run, or cannot be read.
    """
    unknown = sorted(given_sources.keys() - set(SETS))
    if unknown:
        raise ClaimError(f"--prompts {unknown[0]}=...: no such set", f"name one of {', '.join(SETS)}")
    found: dict[str, tuple[Prompt, ...]] = {}
    whole: set[str] = set()
    for name in SETS:
        source, rows = manifest.prompts[name], _rows(path, root / f"prompts/{name}.jsonl")
        given = given_sources.get(name)
        if source.packed and given is None:
            found[name] = tuple(_prompt(path, name, row) for row in rows)
            digest = prompt_digest(found[name])
            findings.compare(f"prompts/{name}.jsonl", source.sha256, digest, what="sha256 of the prompts")
            whole |= {prompt.id for prompt in found[name]}
            continue
        if given is None and source.source.startswith(builtin.PREFIX):
            given = source.source
        if given is not None:
            found[name] = _local_prompts(path, config, name, given, source.sha256)
            whole |= {prompt.id for prompt in found[name]}
            continue
        found[name] = tuple(_stub(path, name, row) for row in rows)
        findings.leave_out(
            f"programs of {name}",
            f"the claim does not hold the prompts of {source.source[:200]}: name them with --prompts {name}=FILE",
        )
    return PromptSets(**found), whole


def _local_prompts(path: Path, config: RaftConfig, name: str, given: str, sha256: str) -> tuple[Prompt, ...]:
    section = config.prompts.model_copy(update={name: given})
    try:
        prompts = load_prompt_set(config.model_copy(update={"prompts": section}), name)
    except ConfigError as error:
        raise ClaimError(f"--prompts {name}={given}: {error.message}", error.hint) from error
    if prompt_digest(prompts) != sha256:
        raise ClaimError(
            f"--prompts {name}={given}: not the prompts that the run had (their digest is another one)",
            f"give the file as it was when the run was started; {path} has its ids in prompts/{name}.jsonl",
        )
    return prompts


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
