"""A task file is proven: its references pass, its wrong solutions fail, and its tests work by themselves."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halo_forge.checks.programs import NamedCompletion, as_completion, telling_line
from halo_forge.checks.weaknesses import SEVERITIES, Finding, text_findings
from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Completion, Prompt, Record, Verdict
from halo_forge.core.registry import discover
from halo_forge.core.wording import counted
from halo_forge.prompts import load_prompts, split_of
from halo_forge.prompts._row import shown
from halo_forge.prompts.builtin import PREFIX
from halo_forge.prompts.split import SPLITS
from halo_forge.prompts.summary import SetSummary, summarise, warnings_of
from halo_forge.verifiers import Verifier, open_verifier
from halo_forge.verifiers.constant_programs import constant_programs
from halo_forge.verifiers.limits import reached_limit

if TYPE_CHECKING:
    from halo_forge.verifiers.spec import ProgramSpec

Proof = tuple[NamedCompletion, Verdict]
Track = Callable[[Iterator[Proof], int], Iterable[Proof]]
_SOLUTIONS = ("reference", "wrong")
_CONSTANT = "constant: "


@dataclass(frozen=True, slots=True)
class TaskReport(Record):
    """What is known about a task file.

    Attributes:
        num_references, num_references_passed: Prompts with `info.reference`, and those it passes.
        num_wrong, num_wrong_failed: Solutions in `info.wrong`, and those that fail as they must.
        findings: The worst first, then in the order of the file.
        sets: Name of a split or a file -> how its prompts are checked, as a row of `SetSummary`.
        warnings: What a pass means in sets without tests.
    """

    files: tuple[str, ...]
    num_prompts: int
    num_references: int
    num_references_passed: int
    num_wrong: int
    num_wrong_failed: int
    findings: tuple[Finding, ...]
    sets: Mapping[str, SetSummary] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Something is wrong, not only weak."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_row(self) -> dict[str, object]:
        """As plain JSON data."""
        sets = {name: dataclasses.asdict(summary) for name, summary in self.sets.items()}
        return {**Record.to_row(self), "sets": sets, "findings": [finding.to_row() for finding in self.findings]}


def load_groups(
    files: Sequence[str], language: str | None, broken: list[ConfigError] | None = None
) -> dict[str, list[Prompt]]:
    """Name of a group -> its prompts: one file is split by the hash of its ids, as `FILE:train` is; of several files
    each is a group of its own.

    Args:
        files: What `prompts.train` takes; `builtin:c` is all of `builtin:c/train`, `dev` and `test`.
        language, broken: See `load_prompts`.

    Raises:
        ConfigError: A file cannot be read or is given twice, or a row is wrong and `broken` is None.
    """
    _refuse_twice(files)
    loaded = {}
    for name in files:
        whole = name.startswith(PREFIX) and "/" not in name
        loaded[name] = load_prompts(f"{name}/all" if whole else name, language=language, broken=broken)
    if len(loaded) > 1:
        return loaded
    (prompts,) = loaded.values()
    groups: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[split_of(prompt.id)].append(prompt)
    return dict(groups)


def _refuse_twice(files: Sequence[str]) -> None:
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for name in files:
        builtin = name.startswith(PREFIX)
        file, _, part = name.rpartition("/" if builtin else ":")
        if part not in (*SPLITS, "all") or not file:
            file, part = name, "all"
        found = parts[file if builtin else os.path.realpath(os.path.expanduser(file))]
        if part in found or (found and "all" in (part, *found)):
            raise ConfigError(
                f"{name} is given twice: every task in it would be in two splits", "name each file, or each split, once"
            )
        found.append(part)


def default_spec(language: str | None) -> ProgramSpec:
    """The verifier of a language with its own defaults.

    Raises:
        ConfigError: The language is not known, or a prompt has none.
    """
    specs = discover("halo_forge.verifiers.languages")
    known = [kind for kind in specs if kind != "command"]
    if language is None:
        raise ConfigError("a prompt names no language", f"give --language ({', '.join(known)}), or a --config")
    if language not in known:
        raise ConfigError(
            f"no built-in verifier for the language {language!r}; known: {', '.join(known)}",
            "give a --config whose `verifier` checks it (kind: command takes every language)",
        )
    found: ProgramSpec = specs[language]()  # type: ignore[assignment]
    return found


def check_tasks(
    files: Sequence[str],
    groups: Mapping[str, Sequence[Prompt]],
    spec_of: Callable[[str | None], ProgramSpec],
    track: Track,
    broken: Sequence[ConfigError] = (),
) -> TaskReport:
    """Prove what can be proven by running, and find what the text tells.

    Args:
        groups: See `load_groups`.
        spec_of: Language of a prompt -> the verifier's settings.
        track: Shows how far the verdicts are.
        broken: What was wrong with rows that are not in `groups`.

    Raises:
        ConfigError: No language of the prompts has a verifier.
        ToolMissing: A tool is not there, or does not do its work.
    """
    prompts = [prompt for group in groups.values() for prompt in group]
    by_language: defaultdict[str | None, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        by_language[prompt.language].append(prompt)
    findings = [_broken_row(error) for error in broken] + text_findings(groups)
    proven: list[Proof] = []
    runs_programs = True
    for spec, own in _verifiers(by_language, spec_of, findings):
        runs_programs = runs_programs and spec.runs_programs
        with open_verifier(spec) as verifier:
            unfit = _broken_tests(verifier, own)
            findings += unfit
            out = {finding.prompt_id for finding in unfit}
            fit = [prompt for prompt in own if prompt.id not in out]
            named = [each for prompt in fit for each in _solutions(prompt, spec.language, findings)]
            named += [each for prompt in fit for each in _constant_programs(prompt, spec)]
            own_proofs = list(track(_proofs(verifier, named, findings), len(named)))
        proven += own_proofs
        for one, verdict in _first_constant_only(own_proofs, findings):
            findings += _of_verdict(one.prompt, one.name, verdict, reached_limit(verdict, spec))
    findings += [finding for prompt in prompts for finding in _missing(prompt)]
    order = {prompt.id: number for number, prompt in enumerate(prompts)}
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), order.get(finding.prompt_id, -1)))
    sets = {name: summarise(group) for name, group in groups.items()}
    references = [verdict for one, verdict in proven if one.name == "reference"]
    wrong = [verdict for one, verdict in proven if one.name == "wrong"]
    return TaskReport(
        files=tuple(files),
        num_prompts=len(prompts),
        num_references=len(references),
        num_references_passed=sum(verdict.passed for verdict in references),
        num_wrong=len(wrong),
        num_wrong_failed=sum(not verdict.passed and verdict.status != "error" for verdict in wrong),
        sets=sets,
        warnings=tuple(warnings_of(sets, runs_programs, ["tests"])),
        findings=tuple(findings),
    )


def _broken_row(error: ConfigError) -> Finding:
    place, _, what = error.message.partition(": ")
    return Finding("error", place, "broken_row", what)


def _verifiers(
    by_language: Mapping[str | None, list[Prompt]],
    spec_of: Callable[[str | None], ProgramSpec],
    findings: list[Finding],
) -> Iterator[tuple[ProgramSpec, list[Prompt]]]:
    """Settings and the prompts to check with them; that a language has none is fatal only where no other has any."""
    found: list[tuple[ProgramSpec, list[Prompt]]] = []
    refusal: ConfigError | None = None
    for language, own in by_language.items():
        try:
            found.append((spec_of(language), own))
        except ConfigError as error:
            refusal = error
            findings += [Finding("error", prompt.id, "no_verifier", error.message) for prompt in own]
    if refusal is not None and not found:
        raise refusal
    yield from found


def _proofs(verifier: Verifier, named: Sequence[NamedCompletion], findings: list[Finding]) -> Iterator[Proof]:
    """Each solution with its verdict; of a prompt whose tests turn out not to work, no more of them."""
    left = list(named)
    while left:
        num_done = 0
        try:
            for verdict in verifier.verify([(one.prompt, one.completion) for one in left]):
                yield left[num_done], verdict
                num_done += 1
            return
        except ConfigError as error:
            unfit = left[num_done].prompt.id
            findings.append(Finding("error", unfit, "broken_tests", error.message))
            left = [one for one in left[num_done + 1 :] if one.prompt.id != unfit]


def _broken_tests(verifier: Verifier, prompts: Sequence[Prompt]) -> list[Finding]:
    """Tests that cannot work; all at once first, because that uses every core and most files have none."""
    try:
        verifier.check_prompts(prompts)
    except ConfigError:
        pass
    else:
        return []
    found = []
    for prompt in prompts:
        try:
            verifier.check_prompts([prompt])
        except ConfigError as error:
            found.append(Finding("error", prompt.id, "broken_tests", error.message))
    return found


def _solutions(prompt: Prompt, language: str, findings: list[Finding]) -> Iterator[NamedCompletion]:
    number = 0
    for name in _SOLUTIONS:
        given = prompt.info.get(name)
        for source in given if isinstance(given, list | tuple) else [given]:
            if source is None or (isinstance(source, str) and not source.strip()):
                continue
            try:
                if not isinstance(source, str):
                    found = shown(list(source) if isinstance(source, tuple) else source)
                    raise ConfigError(f"info.{name}: it is {found}; text is needed", "write it as text")
                text = as_completion(source, language, f"info.{name}")
            except ConfigError as error:
                findings.append(Finding("error", prompt.id, "unreadable_solution", error.message))
                continue
            yield NamedCompletion(name, prompt, Completion(prompt.id, number, text, (), "stop", 0, 0))
            number += 1


def _constant_programs(prompt: Prompt, spec: ProgramSpec) -> Iterator[NamedCompletion]:
    """Programs that do nothing of the task, which its tests have to refuse."""
    if "tests" not in spec.stages:
        return
    tests, _ = spec.tests_of(prompt)
    reference = prompt.info.get("reference")
    known = reference if isinstance(reference, str) else ""
    for index, (what, source) in enumerate(constant_programs(tests, known, spec.language)):
        text = as_completion(source, spec.language, "a program made for the check")
        yield NamedCompletion(f"{_CONSTANT}{what}", prompt, Completion(prompt.id, index, text, (), "stop", 0, -1))


def _first_constant_only(proofs: Sequence[Proof], findings: Sequence[Finding]) -> Iterator[Proof]:
    """Of the constant programs that pass the tests of a prompt one is enough, and none where the text says it."""
    told = {finding.prompt_id for finding in findings if finding.code == "constant_passes"}
    for one, verdict in proofs:
        if one.name.startswith(_CONSTANT) and verdict.passed:
            if one.prompt.id in told:
                continue
            told.add(one.prompt.id)
        yield one, verdict


def _missing(prompt: Prompt) -> Iterator[Finding]:
    if not prompt.info.get("reference"):
        text = "no info.reference: nothing shows that the task can be solved"
        yield Finding("warning", prompt.id, "no_reference", text)
    if prompt.tests is not None and not prompt.info.get("wrong"):
        text = "no info.wrong: nothing shows that the tests catch a mistake"
        yield Finding("note", prompt.id, "no_wrong_solution", text)


def _of_verdict(prompt: Prompt, name: str, verdict: Verdict, limit: str | None) -> Iterator[Finding]:
    said = f"{verdict.stage} {verdict.status}, {verdict.tests_passed} of {counted(verdict.tests_total, 'check')}"
    first = telling_line(verdict)
    if name.startswith(_CONSTANT):
        if verdict.passed:
            text = f"a program that {name.removeprefix(_CONSTANT)} passes: {said}"
            yield Finding("error", prompt.id, "constant_program_passes", text)
    elif verdict.status == "error":
        text = f"info.{name} could not be checked: {first}"
        yield Finding("error", prompt.id, "not_checked", text)
    elif name == "reference":
        if not verdict.passed and limit is not None:
            text = f"the reference reaches a limit, so right programs may fail: raise {limit}; {said}: {first}"
            yield Finding("error", prompt.id, "reference_reaches_limit", text)
        elif not verdict.passed:
            yield Finding("error", prompt.id, "reference_fails", f"{said}: {first}")
        elif verdict.warnings > 0:
            text = f"the reference compiles with {verdict.warnings} warnings: {first}"
            yield Finding("warning", prompt.id, "reference_warns", text)
    elif verdict.passed:
        yield Finding("error", prompt.id, "wrong_passes", f"a wrong solution passes: {said}")
    elif not verdict.compiled:
        text = f"the wrong solution does not get as far as the tests, so it proves nothing about them: {first}"
        yield Finding("warning", prompt.id, "wrong_not_compiling", text)
