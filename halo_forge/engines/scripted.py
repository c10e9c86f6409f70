"""Engine `scripted`: answers from a file instead of a model, for tests and for trying a verifier without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from halo_forge.core.errors import ConfigError
from halo_forge.core.paths import PathText
from halo_forge.core.records import Completion, Prompt, SampleRequest
from halo_forge.engines._spec import EngineSpec


@dataclass(frozen=True)
class ScriptedEngine:
    """Chooses one of the prompt's scripted answers by the request's seed."""

    answers: Mapping[str, Sequence[str]]
    saturates_cpu: ClassVar[bool] = False

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        """One completion per request, in the order of the requests."""
        for request in requests:
            answers = self.answers.get(request.prompt_id) or self.answers.get("*")
            if not answers:
                raise ConfigError(
                    f"engine.answers: no answer for prompt {request.prompt_id!r} and no row '*' for all others",
                    'add a row {"prompt_id": ..., "answers": [...]} to the file',
                )
            text = answers[request.seed % len(answers)]
            yield Completion(
                prompt_id=request.prompt_id,
                index=request.index,
                text=text,
                # One number per word: enough for length metrics without a tokenizer.
                token_ids=tuple(range(len(text.split()))),
                finish="stop",
                seed=request.seed,
                policy_version=policy_version,
            )


class ScriptedSpec(EngineSpec):
    """Answers from a JSONL file of `{"prompt_id": id or "*", "answers": [text, ...]}`; nothing is trained."""

    kind: Literal["scripted"] = "scripted"
    answers: PathText
    """Path of the file with the answers."""

    @property
    def needs_policy(self) -> bool:
        """See `EngineSpec`."""
        return False

    def check(self) -> None:
        """Whether the file can be read; see `EngineSpec`."""
        self._read()

    def open(self, policy: object | None) -> ScriptedEngine:
        """Read the answers.

        Raises:
            ConfigError: The file cannot be read or a line is malformed.
        """
        return ScriptedEngine(self._read())

    def _read(self) -> dict[str, list[str]]:
        answers: dict[str, list[str]] = {}
        try:
            lines = Path(self.answers).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(
                f"engine.answers: {self.answers}: {error.strerror}", "name a readable JSONL file"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"engine.answers: {self.answers}: not UTF-8: {error}", "save it as UTF-8") from error
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                answers[row["prompt_id"]] = [str(answer) for answer in row["answers"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{self.answers}:{number}: not a scripted row: {line[:80]!r}",
                    'each line is {"prompt_id": "...", "answers": ["...", ...]}',
                ) from error
        return answers

    def inputs(self) -> dict[str, str]:
        """The digest of the answers: other answers are another run."""
        return {"answers_sha256": hashlib.sha256(Path(self.answers).read_bytes()).hexdigest()}
