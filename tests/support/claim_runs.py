"""Scripted runs whose verdicts follow from their programs, claims of them, and claims with something changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import STATUS, MemoryVerifier, execute, write_inputs

from halo_forge.claims.opened import Options
from halo_forge.claims.pack import pack_run
from halo_forge.claims.recheck import Rechecked, recheck
from halo_forge.core.records import CheckResult, Completion, Prompt, Verdict
from halo_forge.verifiers import ProgramSpec
from halo_forge.verifiers.verifier import judged


class ProgramVerifier(MemoryVerifier):
    """As `MemoryVerifier`, for C programs that print their own outcome: everything else is as a verifier has it."""

    def __init__(
        self, spec: ProgramSpec, words: Mapping[str, Any], compiler: str, timeouts: Sequence[tuple[str, int]]
    ) -> None:
        super().__init__(**words)
        self.spec = spec
        self.compiler = compiler
        self.timeouts = timeouts

    def toolchain(self) -> dict[str, Any]:
        return {"compiler": "memory", "version": self.compiler, "isolation": "namespace"}

    def verify(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        for prompt, completion in pairs:
            self.checked.append(completion.key)
            yield self.judge(prompt, completion)

    def verify_again(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        for prompt, completion in pairs:
            self.checked_again.append(completion.key)
            yield self.judge(prompt, completion, is_flaky=any(word in completion.text for word in self.flaky))

    def judge(self, prompt: Prompt, completion: Completion, is_flaky: bool = False) -> Verdict:
        word = next(word for word in STATUS if f'"{word}' in completion.text)
        is_bad = completion.policy_version in self.bad_versions and not prompt.id.startswith("train")
        if is_bad or is_flaky:
            word = "fail"
        stage, status, _ = STATUS[word]
        result = CheckResult(stage, status, int(status == "passed"), 1, diagnostics=f"{word}ed")  # type: ignore[arg-type]
        if word == "fail" and self.timeouts:
            said, signal = self.timeouts[0]
            result = CheckResult("run", "timeout", 0, 1, diagnostics=f"the program: {said}", signal=signal)
        tests, _ = self.spec.tests_of(prompt)
        return judged(self.spec, prompt, completion, tests, lambda code, num: result, "namespace")


@dataclasses.dataclass
class Verifiers:
    """The verifiers that were opened, and how the next ones are.

    Attributes:
        words: As `MemoryVerifier` takes them.
        compiler: The version of the toolchain.
        timeouts: What is said of programs that fail, and by which signal: a limit ends them.  Empty: their tests fail.
    """

    opened: list[ProgramVerifier] = dataclasses.field(default_factory=list)
    words: dict[str, Any] = dataclasses.field(default_factory=dict)
    compiler: str = "memory 1"
    timeouts: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    def __call__(self, spec: ProgramSpec) -> ProgramVerifier:
        self.opened.append(ProgramVerifier(spec, self.words, self.compiler, self.timeouts))
        return self.opened[-1]


def verify_programs(monkeypatch: pytest.MonkeyPatch, **words: Any) -> Verifiers:
    """All runs and rechecks of the test use `ProgramVerifier` in place of the compiler."""
    found = Verifiers(words=words)
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", found)
    return found


def program(words: str) -> str:
    """A completion with a program that prints words; the first one is its outcome."""
    return f'Here it is:\n```c\n#include <stdio.h>\nint main(void) {{ puts("{words}"); return 0; }}\n```\n'


def programs(prompt_id: str) -> list[str]:
    """Two that pass, one that fails and one that does not compile for train prompts; two that pass for others."""
    found = [program(f"{words} {prompt_id}") for words in ("pass one", "pass two", "fail", "broken")]
    return found if prompt_id.startswith("train") else found[:2]


def inputs(folder: Path, **changes: Any) -> Path:
    """The configuration of a run with such answers."""
    defaults = {"answers": programs, "evaluation__samples_per_prompt": 1, "raft__num_cycles": 3}
    return write_inputs(folder, **{**defaults, "tests": TESTS, **changes})


TESTS = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "pass\n"}]}


def silent(label: str, items: Iterable[Any], total: int) -> Iterator[Any]:
    yield from items


def packed(root: Path, **options: Any) -> Path:
    """The claim of a run, with its prompts."""
    return pack_run(root, None, **{"with_prompts": True, **options}).path


def claim_of_new_run(folder: Path, **changes: Any) -> Path:
    """The claim of a run in `folder`, with relative paths only, as in a project of one's own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        verify_programs(monkeypatch)
        monkeypatch.chdir(folder)
        execute(inputs(Path("inputs"), **changes), "run")
        return packed(folder / "run")


def rechecked(path: Path, **options: Any) -> Rechecked:
    return recheck(path, Options(**options), silent)


def said(found: Rechecked) -> list[tuple[str, str, str]]:
    """(group, file, what) of each difference."""
    return [(each.group, each.file, each.what) for each in found.findings.differences]


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, files: Mapping[str, bytes], *, forged: bool = True) -> Path:
    """A claim with other files; `forged` has a manifest that says so, as somebody who wants to deceive would write."""
    files = dict(files)
    if forged:
        manifest = json.loads(files["manifest.json"])
        manifest["members"] = {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
            if name != "manifest.json"
        }
        files["manifest.json"] = json.dumps(manifest).encode()
    target = path.with_name("changed.claim.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def edited(path: Path, name: str, edit: Callable[[Any], Any], *, forged: bool = True) -> Path:
    """A claim in which a JSON file, or the list of rows of a JSONL file, is what `edit` returns, or was changed to."""
    files = members(path)
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in files[name].splitlines()]
        new = edit(rows)
        rows = rows if new is None else new
        files[name] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    else:
        value = json.loads(files[name])
        new = edit(value)
        files[name] = json.dumps(value if new is None else new).encode()
    return rewritten(path, files, forged=forged)
