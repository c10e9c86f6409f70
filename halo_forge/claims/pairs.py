"""The completions of a claim with their stored verdicts, and what of a verdict follows without running anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from halo_forge.claims.findings import Findings
from halo_forge.config import RaftConfig
from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.core.records import CheckResult, Completion, Key, Prompt, Verdict
from halo_forge.core.wording import counted
from halo_forge.store.files import read_jsonl
from halo_forge.store.run import FILE_PREFIX, OWN_FOLDERS, cycle_folders, version_folders
from halo_forge.verifiers import ProgramSpec
from halo_forge.verifiers.rewards import reward
from halo_forge.verifiers.verifier import judged

Row = TypeVar("Row", Completion, Verdict)

_SECOND = "second_verdicts.jsonl"
_BY_CYCLE = tuple(prefix for name, prefix in FILE_PREFIX.items() if name not in OWN_FOLDERS)
_SELECTED = ("rollback_", "further_", "")
"""Prefixes of the files that a cycle selects from, the first that has a sample."""
_FROM_COMPLETION = ("reward", "flags", "source_digest", "normal_digest", "extraction")
"""Fields of a verdict that follow from the completion, the prompt and the other fields."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A completion and one stored verdict on it.

    Attributes:
        file: The file of the verdict.
    """

    file: str
    completion: Completion
    verdict: Verdict

    @property
    def key(self) -> Key:
        """(prompt id, sample index)."""
        return self.completion.key

    @property
    def is_second(self) -> bool:
        """Whether the verdict is that of a second run."""
        return self.file.endswith(_SECOND)


def stored_pairs(root: Path, findings: Findings) -> list[Pair]:
    """Every stored verdict of a claim, second ones too; rows without a counterpart become findings."""
    found: list[Pair] = []
    for folder in cycle_folders(root):
        completions = {prefix: completions_of(root, folder, prefix, findings) for prefix in _BY_CYCLE}
        for prefix, own in completions.items():
            found += joined(root, folder / f"{prefix}verdicts.jsonl", own, findings)
        selected: dict[Key, Completion] = {}
        for prefix in reversed(_SELECTED):
            selected |= completions[prefix]
        found += joined(root, folder / _SECOND, selected, findings, are_all=False)
    for folder in (each for name in OWN_FOLDERS for each in version_folders(root, name)):
        own = completions_of(root, folder, "", findings)
        found += joined(root, folder / "verdicts.jsonl", own, findings)
    return found


def completions_of(root: Path, folder: Path, prefix: str, findings: Findings) -> dict[Key, Completion]:
    """The completions of a file by their keys."""
    path = folder / f"{prefix}completions.jsonl"
    return {each.key: each for each in _records(root, path, Completion, findings)}


def joined(
    root: Path, path: Path, completions: Mapping[Key, Completion], findings: Findings, are_all: bool = True
) -> Iterator[Pair]:
    """The verdicts of a file with their completions.

    Args:
        are_all: Every completion has a verdict there.
    """
    file = path.relative_to(root).as_posix()
    verdicts = {each.key: each for each in _records(root, path, Verdict, findings)}
    for key, verdict in verdicts.items():
        if key in completions:
            yield Pair(file, completions[key], verdict)
        else:
            findings.add("row", file, "a verdict without a completion", key=key)
    for key in completions if are_all else ():
        if key not in verdicts:
            findings.add("row", file, "a completion without a verdict", key=key)


def _records(root: Path, path: Path, kind: type[Row], findings: Findings) -> Iterator[Row]:
    """The rows of a file; none where there is no such file."""
    if not path.is_file():
        return
    file = path.relative_to(root).as_posix()
    try:
        rows = read_jsonl(path)
    except RunDirError as error:
        findings.add("file", file, f"cannot be read: {error.message.removeprefix(f'{path}')[:200]}")
        return
    for number, row in enumerate(rows, start=1):
        try:
            yield kind.from_row(row)
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            findings.add("file", file, f"line {number}: not a {kind.__name__}: {str(error)[:200]}")


def check_pairs(
    pairs: Iterable[Pair], config: RaftConfig, prompts: Mapping[str, Prompt], whole: Set[str], findings: Findings
) -> None:
    """Compare what follows from completions and stored results: rewards, flags, digests, lengths.

    Args:
        whole: Ids of the prompts that are known with their text and tests; of the others only the reward is checked.
    """
    limit, rewards = config.engine.max_new_tokens, config.verifier.rewards
    prefix, num_errors = config.prompts.response_prefix, 0
    for pair in pairs:
        completion, verdict = pair.completion, pair.verdict
        num_errors += verdict.status == "error"
        file, key = pair.file, pair.key
        findings.compare(file, verdict.policy_version, completion.policy_version, key, "policy_version")
        if config.engine.needs_policy:  # the scripted engine knows no limit and no prefix
            if len(completion.token_ids) > limit:
                what = "completion: longer than engine.max_new_tokens"
                findings.add("row", file, what, len(completion.token_ids), limit, key)
            if prefix is not None and prefix not in completion.text:
                what = "completion: without prompts.response_prefix"
                findings.add("row", file, what, completion.text[:80], prefix, key)
        if completion.prompt_id not in whole:
            findings.compare(file, verdict.reward, reward(verdict, rewards), key, "reward")
        else:
            _compare_judged(pair, config, prompts[completion.prompt_id], findings)
    if num_errors:  # a failure of the verifier is left out of every rate: a way to hide failed programs
        why = "by the claim the verifier itself failed; a verdict of this machine that says otherwise is a difference"
        findings.leave_out(f"{counted(num_errors, 'verdict')} of status error, which no rate counts", why)


def _compare_judged(pair: Pair, config: RaftConfig, prompt: Prompt, findings: Findings) -> None:
    spec, stored = config.verifier, pair.verdict
    result = CheckResult(**{each.name: getattr(stored, each.name) for each in dataclasses.fields(CheckResult)})
    try:
        tests, _ = spec.tests_of(prompt)
    except ConfigError as error:
        findings.leave_out(f"programs of prompt {prompt.id!r}", f"its tests cannot be used: {error.message[:200]}")
        return
    recomputed = judged(spec, prompt, pair.completion, tests, lambda code, num_checks: result, stored.isolation)
    one, other = stored.to_row(), recomputed.to_row()
    if stored.status == "error":  # says nothing about the program
        one["flags"] = other["flags"]
    for name in _FROM_COMPLETION:
        findings.compare(pair.file, one[name], other[name], pair.key, name)


def checkable(pairs: Iterable[Pair], prompts: Mapping[str, Prompt], whole: Set[str], spec: ProgramSpec) -> list[Pair]:
    """Those whose prompt is known with its tests, and can be verified again."""
    usable = []
    for pair in pairs:
        try:
            if pair.completion.prompt_id in whole:
                spec.tests_of(prompts[pair.completion.prompt_id])
                usable.append(pair)
        except ConfigError:
            continue  # `check_pairs` has said so
    return usable


def by_file(pairs: Sequence[Pair]) -> dict[str, dict[Key, Pair]]:
    """The pairs of each file, in order."""
    found: dict[str, dict[Key, Pair]] = {}
    for pair in pairs:
        found.setdefault(pair.file, {})[pair.key] = pair
    return found
