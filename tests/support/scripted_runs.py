"""Small runs with the `scripted` engine: their input files, a verifier in memory, and the tree they leave behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from halo_forge.config import load_config
from halo_forge.core.advice import Advised
from halo_forge.core.evaluation import Result
from halo_forge.core.plan import Plan
from halo_forge.core.records import (
    Completion,
    Decision,
    Measurement,
    Prompt,
    Selection,
    Status,
    Trained,
    TrainingSettings,
    Verdict,
)
from halo_forge.loop import run_raft
from halo_forge.runtime.assembly import open_run
from halo_forge.verifiers.limits import ReferenceFailure

VARYING = ("events.jsonl", "lock")
"""What two equal runs do not share: wall-clock times, and the id of the process that writes."""

STATUS: dict[str, tuple[str, Status, float]] = {
    "pass": ("tests", "passed", 1.0),
    "fail": ("tests", "failed", 0.7),
    "broken": ("compile", "failed", 0.0),
    "error": ("extract", "error", 0.0),
}


class MemoryVerifier:
    """Knows the verdict from the answer's first word, at once.

    `error_once` names answers on which the verifier itself fails the first time that this object sees them, `flaky`
    those that fail when they are run again.  Answers of `bad_versions` to dev and test prompts fail.
    """

    def __init__(
        self, error_once: Iterable[str] = (), flaky: Iterable[str] = (), bad_versions: Iterable[int] = ()
    ) -> None:
        self.error_once = set(error_once)
        self.flaky = set(flaky)
        self.bad_versions = set(bad_versions)
        self.submitted: list[tuple[str, int]] = []
        self.checked: list[tuple[str, int]] = []
        self.checked_again: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def toolchain(self) -> dict[str, Any]:
        return {"compiler": "memory", "version": "memory 1", "isolation": "namespace"}

    def check_prompts(self, prompts: object) -> None:
        pass

    def check_references(self, prompts: object) -> Iterator[ReferenceFailure]:
        return iter(())

    def submit(self, prompt: Prompt, completion: Completion) -> None:
        self.submitted.append((completion.prompt_id, completion.index))

    def close(self) -> None:
        pass

    def verify(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        for _, completion in pairs:
            self.checked.append((completion.prompt_id, completion.index))
            yield self.verdict(completion)

    def verify_again(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        for _, completion in pairs:
            self.checked_again.append((completion.prompt_id, completion.index))
            verdict = self.verdict(completion)
            if completion.text in self.flaky:
                verdict = dataclasses.replace(verdict, status="failed", reward=0.7, tests_passed=0)
            yield verdict

    def verdict(self, completion: Completion) -> Verdict:
        text = completion.text
        word = "error" if text in self.error_once else text.split()[0]
        self.error_once.discard(text)
        if completion.policy_version in self.bad_versions and not completion.prompt_id.startswith("train"):
            word = "fail"
        stage, status, reward = STATUS[word]
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Verdict(
            prompt_id=completion.prompt_id,
            index=completion.index,
            stage=stage,  # type: ignore[arg-type]
            status=status,
            reward=reward,
            tests_passed=int(status == "passed"),
            tests_total=1,
            diagnostics="no sandbox here" if word == "error" else "",
            source_digest=digest,
            policy_version=completion.policy_version,
            wall_seconds=0.25,  # a cost, which must not reach the sealed file
        )


def verify_in_memory(monkeypatch: pytest.MonkeyPatch, **words: Iterable[Any]) -> MemoryVerifier:
    """All runs of the test use one `MemoryVerifier` in place of the compiler.

    Args:
        words: Its arguments.
    """
    found = MemoryVerifier(**words)
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: found)
    return found


class SilentObserver:
    """Looks on and remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.advice: list[Advised] = []
        self.warnings: list[str] = []

    def opened(self, plan: Plan) -> None:
        pass

    def warned(self, text: str) -> None:
        self.warnings.append(text)

    def track(self, label: str, items: Iterable[Any], total: int) -> Iterator[Any]:
        yield from items

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        self.heard.append(("step", int(row["step"])))

    def measured(self, measurement: Measurement) -> None:
        self.heard.append(("measured", measurement.policy_version))

    def advised(self, advised: Advised) -> None:
        self.advice.append(advised)

    def decided(self, decision: Decision) -> None:
        self.heard.append(("decided", decision.policy_version))

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        self.heard.append(("trained", trained.policy_version))


def ids(name: str, num: int) -> list[str]:
    return [f"{name}{number}" for number in range(1, num + 1)]


def answers_in_words(prompt_id: str) -> list[str]:
    """Two that pass, one that fails its tests, one that does not compile; none of another prompt."""
    return [f"{word} {prompt_id}" for word in ("pass one", "pass two", "fail", "broken")]


def steady_answers(prompt_id: str) -> list[str]:
    """As `answers_in_words` for train prompts, and passes for all others."""
    return answers_in_words(prompt_id)[: 4 if prompt_id.startswith("train") else 2]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_inputs(
    folder: Path,
    *,
    num_prompts: tuple[int, int, int] = (3, 2, 1),
    answers: Callable[[str], Sequence[str]] = answers_in_words,
    tests: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Prompts, answers and the configuration of a run of 2 cycles; the path of the configuration.

    Args:
        num_prompts: Of train, dev and test.
        answers: Prompt id -> its answers.
        changes: Dotted keys with `__` for the dot, such as `raft__num_cycles=3`.
    """
    sets = {name: ids(name, num) for name, num in zip(("train", "dev", "test"), num_prompts, strict=True)}
    for name, prompt_ids in sets.items():
        rows = [{"id": prompt_id, "prompt": f"Write {prompt_id}.", "tests": tests} for prompt_id in prompt_ids]
        write_rows(folder / f"{name}.jsonl", rows)
    every = [prompt_id for prompt_ids in sets.values() for prompt_id in prompt_ids]
    write_rows(folder / "answers.jsonl", ({"prompt_id": each, "answers": list(answers(each))} for each in every))
    config: dict[str, Any] = {
        "model": {"model_name_or_path": "nobody/nothing"},
        "prompts": {name: str(folder / f"{name}.jsonl") for name in sets},
        "engine": {"kind": "scripted", "answers": str(folder / "answers.jsonl")},
        "training": {
            "learning_rate": {"kind": "exponential", "base": 5e-5, "decay": 0.85},
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
        },
        "evaluation": {"samples_per_prompt": 2},
        "decisions": {"min_prompts": 2},
        "raft": {"num_cycles": 2, "samples_per_prompt": 2, "min_selected": 1},
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = config
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def execute(
    config: Path,
    root: Path | str,
    *changes: str,
    resume: bool = True,
    observer: SilentObserver | None = None,
    share_from: Sequence[Path] = (),
) -> Result:
    """The run as the command line does it, without the printing.

    Args:
        changes: As `--set` takes them.
    """
    loaded = load_config(config, [*changes, f"output_dir={json.dumps(str(root))}"])
    watcher = observer if observer is not None else SilentObserver()
    with open_run(loaded, watcher, resume=resume, share_from=share_from) as (plan, run, runtime):
        return run_raft(plan, run, runtime)


def run_three_cycles(folder: Path, **changes: Any) -> Result:
    """Write the inputs of a run of 3 cycles, changed as `write_inputs` does, and run it in `folder / "run"`."""
    return execute(write_inputs(folder, **{"raft__num_cycles": 3, **changes}), folder / "run")


def tree(root: Path) -> dict[str, bytes]:
    """Path -> content (of a link, where it leads) of everything in a run directory but what varies."""
    found: dict[str, bytes] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name in VARYING:
            continue
        if path.is_symlink():
            found[name] = b"-> " + str(path.readlink()).encode()
        else:
            found[name] = b"a folder" if path.is_dir() else path.read_bytes()
    return found


def differences(left: Mapping[str, bytes], right: Mapping[str, bytes]) -> list[str]:
    """Names that are in one tree only, or differ."""
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
