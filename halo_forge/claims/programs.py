"""Every completion of a claim through the sandbox of this machine, and where the verdict is another one."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.claims.findings import Difference, Findings, Group
from halo_forge.claims.pairs import Pair, by_file
from halo_forge.claims.privacy import without_home
from halo_forge.claims.replay import Verdicts
from halo_forge.core.errors import ClaimError
from halo_forge.core.records import Completion, Key, Prompt, Verdict
from halo_forge.core.wording import counted
from halo_forge.store.folder import StageFolder, StreamForm
from halo_forge.verifiers import ProgramSpec, Verifier, open_verifier

OUTCOME = ("stage", "status", "tests_passed", "tests_total", "warnings", "exit_code", "signal", "flags")
"""Fields of a verdict that only running the program gives."""
MACHINE_KEYS = ("compiler", "files", "read_only")
"""Keys of the verifier that name places, so that whoever rechecks has to say them."""
_PREFIX, _SUFFIX = r"([a-z0-9_]+-)*", r"(-?[0-9.]+)?"
_COMPILERS: Mapping[str, str] = {
    "c": rf"{_PREFIX}(gcc|clang|cc){_SUFFIX}",
    "cpp": rf"{_PREFIX}(g\+\+|clang\+\+|c\+\+){_SUFFIX}",
    "rust": rf"rustc{_SUFFIX}",
    "go": rf"go{_SUFFIX}",
    "python": rf"(python|pypy){_SUFFIX}",
}
"""Kind of verifier -> the names of its tool.  Some tools are asked where they are installed before there is a sandbox,
and nothing else in PATH may be started because a claim says so."""
_BY_A_LIMIT = ("timeout", "out_of_memory")
"""Statuses of programs that a limit ended: which of several limits came first, and by which signal, depends on how
busy the machine is."""
Track = Callable[[str, Iterable[Any], int], Iterator[Any]]


@dataclass(frozen=True)
class Programs:
    """What is verified with one set of settings.

    Attributes:
        spec: As the claim has it, with what --set says of this machine; `given` are the keys of that.
        toolchain: That the stored verdicts are from.
    """

    pairs: Sequence[Pair]
    prompts: Mapping[str, Prompt]
    spec: ProgramSpec
    given: frozenset[str]
    toolchain: Mapping[str, Any]


def local_spec(spec: ProgramSpec, given: frozenset[str], workers: int | None) -> ProgramSpec:
    """The verifier's settings with what is up to this machine: never a weaker sandbox, and no path of a stranger's.

    Args:
        given: Keys that whoever rechecks has set.

    Raises:
        ClaimError: The claim names a path, or its limits are more than this machine has.
    """
    spec = spec.model_copy(update={"isolation": "auto", "workers": "auto" if workers is None else workers})
    for key in MACHINE_KEYS:
        value = getattr(spec, key, None)
        named = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if key in given or not named:
            continue
        if key != "compiler" or re.fullmatch(_COMPILERS.get(spec.language, ""), named[0], re.ASCII) is None:
            raise ClaimError(
                f"verifier.{key}: {', '.join(named)[:200]}: a claim can only name usual compilers, and no files",
                f"say what it is here with --set verifier.{key}=..., or recheck the numbers alone with --no-programs",
            )
    command = getattr(spec, "command", None)
    first = command[0] if isinstance(command, list) else "./"
    is_python = os.path.basename(first).startswith("python") and re.fullmatch(_COMPILERS["python"], first) is None
    if is_python or (_is_path(first) and not first.startswith("./")):
        raise ClaimError(
            f"verifier.command: {first[:200]}: a claim can only name programs in PATH, and its own files",
            "recheck the numbers alone with --no-programs",
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = max(spec.memory_limit_bytes, spec.compile_memory_limit_bytes) * spec.num_workers
    if wanted > memory:
        raise ClaimError(
            f"the claim's limits let {counted(spec.num_workers, 'program')} use {wanted:,} bytes of memory together,"
            f" and this machine has {memory:,}",
            "use fewer --workers, or recheck the numbers alone with --no-programs",
        )
    return spec


def _is_path(name: str) -> bool:
    return "/" in name or name.startswith("~")


def verify_again(
    programs: Programs, workers: int | None, folder: Path, track: Track, num_reruns: int, findings: Findings
) -> tuple[Verdicts, dict[str, Any]]:
    """Verify all completions, and those with another verdict than stored `num_reruns` times more.

    What was verified is on disk at once, so a recheck that was killed goes on in the same folder.

    Returns:
        The verdicts of this machine by file, and its toolchain.

    Raises:
        ClaimError: See `local_spec`.
        ConfigError: The tests of a prompt cannot work.
        ToolMissing: A tool is missing or does not work, or no sandbox does.
    """
    pairs, prompts = programs.pairs, programs.prompts
    spec = local_spec(programs.spec, programs.given, workers)
    folder.mkdir(exist_ok=True)
    with open_verifier(spec) as verifier:
        here = verifier.toolchain()
        _remember(folder, here)
        verifier.check_prompts([prompts[name] for name in dict.fromkeys(pair.completion.prompt_id for pair in pairs)])
        remade = _all_verdicts(pairs, prompts, verifier, folder, track)
        group: Group = "verdict" if _is_same_toolchain(programs.toolchain, here) else "toolchain"
        differing = [(pair, remade[pair.file][pair.key]) for pair in pairs]
        differing = [(pair, verdict) for pair, verdict in differing if _differs(pair, verdict, findings)]
        again = _reruns(differing, prompts, verifier, track, num_reruns)
        for pair, verdict in differing:
            _sort(pair, [verdict, *again[pair.file, pair.key]], group, findings)
    return remade, here


def _remember(folder: Path, toolchain: dict[str, Any]) -> None:
    path = folder / "toolchain.json"
    text = json.dumps(toolchain, indent=2)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ClaimError(
            f"{folder}: was begun with another toolchain than this machine has now", "name a new folder with --work-dir"
        )
    path.write_text(text, encoding="utf-8")


def _all_verdicts(
    pairs: Sequence[Pair], prompts: Mapping[str, Prompt], verifier: Verifier, folder: Path, track: Track
) -> dict[str, dict[Key, Verdict]]:
    files = by_file(pairs)
    remade: dict[str, dict[Key, Verdict]] = {}
    for number, (file, own) in enumerate(files.items(), start=1):
        store = StageFolder(folder / file.replace("/", "-").removesuffix(".jsonl"), lambda event, **fields: None)

        def make(
            missing: Sequence[Key], own: Mapping[Key, Pair] = own, label: str = f"verify, file {number} of {len(files)}"
        ) -> Iterator[Verdict]:
            asked = [_asked(own[key].completion, prompts) for key in missing]
            return track(label, verifier.verify(asked), len(asked))

        form = StreamForm[Verdict](sealed=_local, is_final=lambda verdict: verdict.status != "error")
        (made,) = store.streams("verdicts", Verdict, {"verdicts": list(own)}, make, form)
        remade[file] = {verdict.key: verdict for verdict in made}
    return remade


def _local(verdict: Verdict) -> Verdict:
    """As a claim holds verdicts: without cost, and without this user's home folder."""
    plain = verdict.without_cost()
    return dataclasses.replace(plain, diagnostics=without_home(plain.diagnostics))


def _asked(completion: Completion, prompts: Mapping[str, Prompt]) -> tuple[Prompt, Completion]:
    return prompts[completion.prompt_id], completion


def _differs(pair: Pair, verdict: Verdict, findings: Findings) -> bool:
    if verdict.status == "error":
        what = f"{pair.file}: {pair.key[0]} sample {pair.key[1]}"
        findings.leave_out(what, f"the verifier of this machine failed on it: {verdict.diagnostics[:200]}")
        return False
    return _outcome(pair.verdict) != _outcome(verdict) or _diagnostics(pair.verdict) != _diagnostics(verdict)


def _outcome(verdict: Verdict) -> tuple[Any, ...]:
    left_out = ("exit_code", "signal") if verdict.status in _BY_A_LIMIT else ()
    return tuple(None if name in left_out else getattr(verdict, name) for name in OUTCOME)


def _diagnostics(verdict: Verdict) -> str | None:
    """What was said about a program, where it does not depend on how busy the machine is."""
    return None if verdict.status in _BY_A_LIMIT else verdict.diagnostics


def _reruns(
    differing: Sequence[tuple[Pair, Verdict]],
    prompts: Mapping[str, Prompt],
    verifier: Verifier,
    track: Track,
    num_reruns: int,
) -> dict[tuple[str, Key], list[Verdict]]:
    """A list of further verdicts for each; every program runs again."""
    asked = [pair for pair, _ in differing for _ in range(num_reruns)]
    verdicts = verifier.verify_again([_asked(pair.completion, prompts) for pair in asked])
    found: dict[tuple[str, Key], list[Verdict]] = {(pair.file, pair.key): [] for pair, _ in differing}
    for pair, verdict in zip(asked, track("run again what differs", verdicts, len(asked)), strict=True):
        if verdict.status != "error":
            found[pair.file, pair.key].append(_local(verdict))
    return found


def _sort(pair: Pair, verdicts: Sequence[Verdict], group: Group, findings: Findings) -> None:
    """A difference if every run agrees against the stored verdict, else flaky."""
    stored = pair.verdict
    outcomes = {_outcome(verdict) for verdict in verdicts}
    if outcomes == {_outcome(stored)}:
        said = {_diagnostics(verdict) for verdict in verdicts}
        if len(said) == 1 and _diagnostics(stored) not in said and group == "verdict":
            findings.add("diagnostics", pair.file, "diagnostics", stored.diagnostics, said.pop(), pair.key)
        return
    one = verdicts[0]
    what = ", ".join(name for name in OUTCOME if getattr(stored, name) != getattr(one, name)) or "outcome"
    if len(outcomes) > 1:
        findings.flaky.append(Difference(group, pair.file, what, *pair.key, _words(stored), _words(one)))
        return
    findings.add(group, pair.file, what, _words(stored), _words(one), pair.key)
    if stored.status not in _BY_A_LIMIT and one.status in _BY_A_LIMIT:
        why = "a machine that is busy or slow ends programs that others let pass: try again with --workers 1"
        findings.leave_out("whether differences to timeouts and out_of_memory are the machine's", why)


def _words(verdict: Verdict) -> str:
    """The outcome of a verdict in one line."""
    parts = [f"{verdict.status} at {verdict.stage}"]
    if verdict.tests_total:
        parts.append(f"{verdict.tests_passed} of {counted(verdict.tests_total, 'test')}")
    if verdict.warnings:
        parts.append(counted(verdict.warnings, "warning"))
    parts += [f"{name} {value}" for name in ("exit_code", "signal") if (value := getattr(verdict, name))]
    return ", ".join([*parts, *verdict.flags])


def _is_same_toolchain(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return not toolchain_differences(then, now)


def toolchain_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a verdict depends on and is not the same: name -> (of the run, of this machine)."""
    names = [name for name in dict.fromkeys([*then, *now]) if name not in ("isolation_notes", "compiler")]
    return {name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)}
