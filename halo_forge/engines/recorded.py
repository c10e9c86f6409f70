"""Engine `recorded`: the completions of an earlier run, so that it can be repeated under other settings.

Another schedule, selection or verifier can be tried without sampling again.  Cycle c gets what the recorded run sampled
in its cycle c, whatever our own adapter is by then: from cycle 2 on the completions are off-policy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from halo_forge.core.errors import ConfigError
from halo_forge.core.paths import PathText
from halo_forge.core.records import Completion, Prompt, SampleRequest
from halo_forge.core.wording import counted
from halo_forge.engines._spec import EngineSpec

if TYPE_CHECKING:
    from halo_forge.policy import Policy

KEYS = ("temperature", "top_p", "min_p", "top_k", "max_new_tokens")
"""Settings of a request that the recorded completion must have been sampled at."""
_TRAIN_FILES = ("completions.jsonl", "further_completions.jsonl")
_CYCLE_FILES = (*_TRAIN_FILES, "dev_completions.jsonl")


@dataclasses.dataclass(frozen=True)
class RecordedEngine:
    """Looks requests up in the sealed files of a run.

    Attributes:
        root: The recorded run's directory.
        start: What the completions of a prompt begin with; None if no model is loaded to say so.
    """

    root: Path
    start: Callable[[Prompt], str] | None
    saturates_cpu: ClassVar[bool] = False

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        """The recorded completion of each request, in the order of the requests.

        Raises:
            ConfigError: A request is not in the record, or was recorded at other sampling settings.
        """
        cycle, test = self.root / f"cycles/{policy_version + 1:03d}", self.root / f"test/v{policy_version:03d}"
        # Late: the configuration is built of the engines.
        from halo_forge.config.yaml_io import load_document

        config = load_document(self.root / "config.resolved.yaml").data
        # A confirmation samples the dev prompts again, with its own seeds, from two versions in one cycle.
        found: dict[tuple[str, int, int], tuple[Completion, dict[str, Any]]] = {}
        confirmations = sorted(self.root.glob("cycles/*/confirm_*completions.jsonl"))
        for path in (*(cycle / name for name in _CYCLE_FILES), test / "completions.jsonl", *confirmations):
            if path.is_file():
                drawn_at = _drawn_at(path, config)
                for completion in _completions(path):
                    if path not in confirmations or completion.policy_version == policy_version:
                        found[completion.prompt_id, completion.index, completion.seed] = completion, drawn_at
        for request in requests:
            key = request.prompt_id, request.index, request.seed
            if key not in found:
                num_found = sum(each[0] == request.prompt_id for each in found)
                raise ConfigError(*self._missing(request, policy_version, num_found))
            completion, drawn_at = found[key]
            self._refuse_other_settings(request, drawn_at)
            start = "" if self.start is None else self.start(prompts[request.prompt_id])
            if not completion.text.startswith(start):
                raise ConfigError(
                    f"prompts.response_prefix: found, with reasoning that the chat template opens, {start!r}; the"
                    f" completions of {self.root} do not begin with it",
                    "set it to what the recorded run had (see its config.resolved.yaml), and use that run's model",
                )
            yield dataclasses.replace(completion, policy_version=policy_version)

    def _missing(self, request: SampleRequest, policy_version: int, num_found: int) -> tuple[str, str]:
        """Message and hint."""
        num_cycles = len(list(self.root.glob("cycles/*/completions.jsonl")))
        tested = ", ".join(sorted(each.name for each in self.root.glob("test/v*"))) or "none"
        return (
            f"engine.run: {self.root} holds no sample {request.index} of prompt {request.prompt_id!r} by"
            f" v{policy_version}: {counted(num_found, 'sample')} of this prompt by this version,"
            f" {counted(num_cycles, 'cycle')} (the last one dev only), on test: {tested}",
            "ask for at most what is there: raft.num_cycles, raft.samples_per_prompt, raft.prompts_per_cycle,"
            " evaluation.samples_per_prompt, the recorded run's seed and prompts; decisions.screen_z: 10 where a"
            " confirmation is asked for that the recorded run did not need;"
            " evaluation.test_at_end: false where another version than there is to be tested",
        )

    def _refuse_other_settings(self, request: SampleRequest, drawn_at: Mapping[str, Any]) -> None:
        for key in KEYS:
            wanted = getattr(request, key)
            if wanted != drawn_at[key]:
                raise ConfigError(
                    f"{key}: found {wanted} for prompt {request.prompt_id!r}, but {self.root} was sampled at"
                    f" {drawn_at[key]}",
                    "give the engine and evaluation sections the values of the recorded run's config.resolved.yaml",
                )


class RecordedSpec(EngineSpec):
    """The completions of an earlier run."""

    kind: Literal["recorded"] = "recorded"
    run: PathText
    """Directory of the run whose completions are used."""
    train: bool = True
    """false loads no model and trains nothing: what would be selected, in seconds."""

    @property
    def needs_policy(self) -> bool:
        """Whether the model is loaded."""
        return self.train

    def check(self) -> None:
        """The run and its files; see `EngineSpec`."""
        if self.batch_size != "auto":
            raise ConfigError(
                f"engine.batch_size: found {self.batch_size}, allowed for kind recorded: auto", "leave it out"
            )
        root = self._root()
        if not (root / "run.json").is_file() or not _sealed(root):
            raise ConfigError(
                f"engine.run: {self.run}: no sealed completions of a run here",
                "name the output_dir of a run (it holds run.json and cycles/)",
            )

    def open(self, policy: Policy | None) -> RecordedEngine:
        """An engine over the run's files."""
        return RecordedEngine(self._root(), None if policy is None else policy.response_start)

    def inputs(self) -> dict[str, str]:
        """The digest of the recorded completions: with other completions it is another run."""
        digest, root = hashlib.sha256(), self._root()
        for path in _sealed(root):
            digest.update(str(path.relative_to(root)).encode() + hashlib.sha256(path.read_bytes()).digest())
        return {"recorded_sha256": digest.hexdigest()}

    def _root(self) -> Path:
        return Path(self.run).expanduser()


def _sealed(root: Path) -> list[Path]:
    return sorted([*root.glob("cycles/*/*completions.jsonl"), *root.glob("test/*/completions.jsonl")])


def _completions(path: Path) -> Iterator[Completion]:
    # Not splitlines: a completion may hold other line separators, which JSON leaves as they are.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            yield Completion.from_row(json.loads(line))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"engine.run: {path}:{number}: not a completion: {error}", "name a run whose files were not edited"
            ) from error


def _drawn_at(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling settings behind a file of completions: the cycle's own for train, fixed ones for dev and test."""
    sampling = path.parent / "sampling.json"
    train = path.name in _TRAIN_FILES and sampling.is_file()
    values = json.loads(sampling.read_bytes()) if train else config["evaluation"]
    engine = config["engine"]
    return {
        "temperature": values["temperature"],
        "top_p": values["top_p"],
        "min_p": values.get("min_p", 0.0),  # dev and test are sampled without
        "top_k": engine["top_k"],
        "max_new_tokens": engine["max_new_tokens"],
    }
