"""Asks one subject every prompt of a set, verifies the completions, and seals both.

Every subject is asked with the same seeds, so the differences of any two are paired by prompt.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halo_forge.config import differing_keys
from halo_forge.config.sections import HardwareSection, RaftConfig
from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.core.records import Completion, Prompt, Sample, SampleRequest, Verdict
from halo_forge.core.seeds import derive_seed
from halo_forge.engines import Engine, EngineSpec, KeepsLogs, ReportsEvents
from halo_forge.engines.openai_server import OpenaiServerSpec
from halo_forge.evaluations.models import Models
from halo_forge.evaluations.served import ServedModel
from halo_forge.evaluations.subject import Subject
from halo_forge.policy import check_quantization
from halo_forge.policy.lengths import overlong_prompts
from halo_forge.runtime.effects import Observer, verdict_form
from halo_forge.runtime.identity import package_versions
from halo_forge.runtime.library_warnings import LibraryWarnings
from halo_forge.runtime.prompt_sets import prompt_digest
from halo_forge.runtime.rollouts import COMPLETIONS
from halo_forge.store.files import EDITED, GrowingFile, as_written, explained, read_json, write_json
from halo_forge.store.folder import LOST, StageFolder
from halo_forge.store.lock import RunLock
from halo_forge.store.run import check_root, read_identity
from halo_forge.verifiers import ProgramSpec, Verifier, open_verifier

IDENTITY_FILE = "asked.json"
SCHEMA_VERSION = 1
_ONLY_HERE = {"workers"}
"""Settings of a verifier that no verdict depends on."""


@dataclass(frozen=True)
class Settings:
    """How a subject is asked and its completions are checked; what a configuration calls by the same names.

    Attributes:
        engine: Samples, and has max_new_tokens, top_k and stop; its temperature and top_p are not used.
        temperature: 0 is greedy.
        date: What a chat template that reads the clock gets; None is the time of the first attempt.
        seed: Seeds derive from it, the prompt's id and the sample's index.
    """

    engine: EngineSpec
    verifier: ProgramSpec
    samples_per_prompt: int
    temperature: float
    top_p: float = 1.0
    response_prefix: str | None = None
    date: datetime | None = None
    seed: int = 0
    hardware: HardwareSection = HardwareSection()  # noqa: RUF009 -- it is immutable

    @property
    def num_samples(self) -> int:
        """Of each prompt: greedy decoding has one answer only."""
        return 1 if self.temperature == 0.0 else self.samples_per_prompt

    def requests(self, prompts: Sequence[Prompt]) -> list[SampleRequest]:
        """What is asked: the same of every subject, seeds included."""
        return [
            SampleRequest(
                prompt_id=prompt.id,
                index=index,
                seed=derive_seed(self.seed, "evaluation", prompt.id, index),
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.engine.top_k,
                max_new_tokens=self.engine.max_new_tokens,
            )
            for prompt in prompts
            for index in range(self.num_samples)
        ]

    def identity(self) -> dict[str, Any]:
        """Everything that completions and verdicts depend on, but for date and subject."""
        verifier = self.verifier.model_dump(mode="json", exclude=_ONLY_HERE)
        return {
            "sampling": {
                "kind": self.engine.kind,
                **self.engine.inputs(),
                "samples_per_prompt": self.num_samples,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "top_k": self.engine.top_k,
                "max_new_tokens": self.engine.max_new_tokens,
                "stop": list(self.engine.stop),
                "response_prefix": self.response_prefix,
                "seed": self.seed,
            },
            "verifier": verifier,
        }


def settings_of(config: RaftConfig, run: Path | None = None) -> Settings:
    """What a configuration says of evaluation; of a run, with the date that its prompts had.

    A run that replays recorded completions has only those: its versions are sampled with transformers.
    """
    engine = config.engine
    if engine.kind == "recorded":
        from halo_forge.engines.transformers import TransformersSpec

        shared = {key: getattr(engine, key) for key in ("max_new_tokens", "top_k", "stop")}
        engine = TransformersSpec(**shared)
    date = None if config.prompts.date is None else datetime.fromisoformat(config.prompts.date)
    recorded = None if run is None else (read_identity(run).get("rendering") or {}).get("date")
    return Settings(
        engine=engine,
        verifier=config.verifier,
        samples_per_prompt=config.evaluation.samples_per_prompt,
        temperature=config.evaluation.temperature,
        top_p=config.evaluation.top_p,
        response_prefix=config.prompts.response_prefix,
        date=date if recorded is None else datetime.fromisoformat(recorded),
        seed=config.seed,
        hardware=config.hardware,
    )


def measure(
    subject: Subject,
    prompts: Sequence[Prompt],
    settings: Settings,
    folder: Path,
    observer: Observer,
    models: Models | None = None,
    verifiers: Verifiers | None = None,
) -> tuple[Sample, ...]:
    """Ask the subject every prompt, verify the completions, and seal both in `folder`.

    A killed call loses no completion: the same call continues.  What is sealed is read, and nothing is loaded for it.

    Args:
        models: Keeps the base model in memory from one call to the next.
        verifiers: Keeps the verifier open from one call to the next.

    Returns:
        `settings.num_samples` for each prompt, in the order of the prompts.

    Raises:
        ConfigError: A prompt does not fit into the model or is in another language than the verifier checks.
        ModelError: Model and adapter cannot be used, or do not belong together.
        RunDirError: The folder holds another measurement or something else, is in use, or cannot be written.
        ToolMissing: A compiler, a package or the server is missing or does not work.
        VerifierBroken: The verifier itself failed too often; the same call continues.
    """
    with own_hints(folder), _opened(folder, subject, prompts, settings) as (date, note):
        stages = StageFolder(folder, note)
        requests = settings.requests(prompts)
        wanted = {request.key: request for request in requests}
        keys = list(wanted)
        library_warnings = LibraryWarnings()
        library_warnings.send_to(note)
        with library_warnings.collected(), ExitStack() as stack:
            kept = Models() if models is None else models
            opened = stack.enter_context(Verifiers()) if verifiers is None else verifiers
            ask = _Asking(subject, prompts, settings, folder, observer, kept, opened, date, note)
            (completions,) = stages.streams(
                "completions",
                Completion,
                {"completions": keys},
                lambda missing: ask.sample([wanted[key] for key in missing]),
                COMPLETIONS,
            )
            found = {each.key: each for each in completions}
            (verdicts,) = stages.streams(
                "verdicts",
                Verdict,
                {"verdicts": keys},
                lambda missing: ask.verify([found[key] for key in missing]),
                verdict_form(settings.verifier.max_error_fraction),
            )
    return tuple(map(Sample, completions, verdicts))


@contextlib.contextmanager
def own_hints(folder: Path) -> Iterator[None]:
    """What fixes a lost or edited file of a measurement or an evaluation; those of a run are redone by cycles."""
    try:
        yield
    except RunDirError as error:
        if error.hint not in (EDITED, LOST):
            raise
        hint = f"restore the file from a copy, or remove {folder} and run the same command again (with --resume)"
        raise RunDirError(error.message, hint) from error


class Verifiers(AbstractContextManager["Verifiers"]):
    """One open verifier, replaced when another one is asked for; it knows the programs that it has checked before."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._spec: ProgramSpec | None = None
        self._verifier: Verifier | None = None
        self._checked: set[str] = set()

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def verifier(self, spec: ProgramSpec, prompts: Sequence[Prompt]) -> Verifier:
        """A verifier with these settings, which has found that it can check these prompts.

        Raises:
            ConfigError: It cannot.
            ToolMissing: A compiler is missing or does not work.
        """
        if self._verifier is None or self._spec != spec:
            self._stack.close()
            self._verifier, self._spec, self._checked = None, None, set()
            self._verifier, self._spec = self._stack.enter_context(open_verifier(spec)), spec
        if (digest := prompt_digest(prompts)) not in self._checked:
            self._verifier.check_prompts(prompts)
            self._checked.add(digest)
        return self._verifier


@dataclass
class _Asking:
    """Opens what a measurement needs when it is first needed: a sealed one needs nothing."""

    subject: Subject
    prompts: Sequence[Prompt]
    settings: Settings
    folder: Path
    observer: Observer
    models: Models
    verifiers: Verifiers
    date: datetime
    note: Callable[..., None]

    def __post_init__(self) -> None:
        self.by_id: Mapping[str, Prompt] = {prompt.id: prompt for prompt in self.prompts}

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[Completion]:
        """Completions as they finish; each is verified meanwhile where processors are left for that."""
        if self.settings.engine.needs_policy or self.subject.server is not None:
            self.models.prepare(self.settings.hardware)  # before anything imports torch
            self._refuse_overlong()
        verifier = self._open_verifier()
        with ExitStack() as stack:
            engine, version = self._open_engine(stack)
            drawn = engine.sample(self.by_id, requests, version)
            for completion in self.observer.track(f"sample {self.subject.name}", drawn, len(requests)):
                relabelled = dataclasses.replace(completion, policy_version=self.subject.label)
                if not engine.saturates_cpu:
                    verifier.submit(self.by_id[completion.prompt_id], relabelled)
                yield relabelled

    def verify(self, completions: Sequence[Completion]) -> Iterator[Verdict]:
        """Verdicts in the order of `completions`."""
        pairs = [(self.by_id[completion.prompt_id], completion) for completion in completions]
        return self.observer.track("verify", self._open_verifier().verify(pairs), len(pairs))

    def _open_verifier(self) -> Verifier:
        verifier = self.verifiers.verifier(self.settings.verifier, self.prompts)
        self.note("verifier_opened", toolchain=verifier.toolchain(), versions=package_versions())
        return verifier

    def _refuse_overlong(self) -> None:
        settings = self.settings
        found = overlong_prompts(
            self.subject.model,
            self.prompts,
            settings.response_prefix,
            settings.engine.max_new_tokens,
            date=self.date,
            reasoning_marks=settings.verifier.own_marks,
        )
        if found.num_tokens:
            raise ConfigError(
                f"subject {self.subject.name}: {found}",
                "leave these prompts out of the task set, or lower engine.max_new_tokens, for all subjects alike",
            )

    def _open_engine(self, stack: ExitStack) -> tuple[Engine, int]:
        """The engine over the subject, and the policy version that it is asked for."""
        settings, subject = self.settings, self.subject
        rendering: dict[str, Any] = {
            "response_prefix": settings.response_prefix,
            "date": self.date,
            "reasoning_marks": settings.verifier.own_marks,
        }
        engine: Any
        if subject.server is not None:
            spec = _server_spec(subject, settings)
            spec.check()
            engine = spec.open(ServedModel(subject.model, **rendering))  # type: ignore[arg-type]  # enough of one
        elif not settings.engine.needs_policy:
            settings.engine.check()
            engine = settings.engine.open(None)  # type: ignore[attr-defined]  # every kind has it
        else:
            settings.engine.check()
            check_quantization(subject.model.quantization)
            policy = self.models.policy(subject, self.prompts, hardware=settings.hardware, **rendering)
            engine = settings.engine.open(policy)  # type: ignore[attr-defined]  # every kind has it
        if isinstance(engine, AbstractContextManager):  # it may have started a server
            stack.enter_context(engine)
        if isinstance(engine, ReportsEvents):
            engine.note = self.note
        if isinstance(engine, KeepsLogs):
            engine.keep_logs(self.folder / "server_logs")
        return engine, 0 if subject.server is not None else subject.label


def _server_spec(subject: Subject, settings: Settings) -> OpenaiServerSpec:
    assert subject.server is not None
    engine = settings.engine
    # The patience of a run's own server settings is kept; what is served there is another matter.
    own = engine.model_dump(exclude_defaults=True) if isinstance(engine, OpenaiServerSpec) else {}
    kept = {
        key: own[key] for key in ("max_in_flight", "timeout_seconds", "retry_seconds", "api_key_variable") if key in own
    }
    return OpenaiServerSpec(
        base_url=subject.server.base_url,
        server=subject.server.kind,
        served_model=subject.server.served_model,
        adapter="none",
        max_policy_gap=None,
        max_new_tokens=engine.max_new_tokens,
        top_k=engine.top_k,
        stop=list(engine.stop),
        **kept,
    )


def is_sampled(folder: Path) -> bool:
    """Whether there is a completion in a folder or below it; what failed before that left nothing of worth."""
    return any(path.stat().st_size > 0 for path in folder.rglob("completions.jsonl*"))


def holds_own(folder: Path, identity_file: str, what: str, hint: str) -> bool:
    """Make the folder if it is missing; whether it has an identity file.

    Raises:
        RunDirError: It holds something else than `what`, or cannot be written.
    """
    check_root(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        names = {item.name for item in folder.iterdir()}
    foreign = sorted(names - {"lock", f".{identity_file}.tmp"})
    if foreign and identity_file not in names:
        raise RunDirError(f"{folder}: not empty, and not {what} of halo-forge (holds {', '.join(foreign[:3])})", hint)
    return identity_file in names


@contextlib.contextmanager
def _opened(folder: Path, subject: Subject, prompts: Sequence[Prompt], settings: Settings) -> Iterator[Any]:
    """The locked folder of this measurement: its date, and what writes its events.

    Raises:
        ConfigError: There is no prompt, or two have one id.
        RunDirError: It holds another measurement or something else, is in use, or cannot be written.
    """
    if not prompts or len({prompt.id for prompt in prompts}) != len(prompts):
        raise ConfigError(
            "a measurement needs prompts, each with an id of its own", "name a task set with unique prompt ids"
        )
    holds_own(folder, IDENTITY_FILE, "a measurement", "choose another folder")
    path = folder / IDENTITY_FILE
    lock = RunLock(folder)
    try:
        wanted = {
            "schema_version": SCHEMA_VERSION,
            "subject": subject.identity(),
            "prompts": {"num": len(prompts), "sha256": prompt_digest(prompts)},
            **settings.identity(),
        }
        if path.is_file() and is_sampled(folder):
            found = read_json(path)
            with as_written(path):
                date = datetime.fromisoformat(found.pop("date"))
            given = date if settings.date is None else settings.date
            changes = differing_keys({**found, "date": str(date)}, {**wanted, "date": str(given)})
            if changes:
                rows = "\n".join(f"  {key}: was {old!r}, is {new!r}" for key, old, new in changes)
                raise RunDirError(
                    f"{folder}: holds another measurement:\n{rows}", "choose another folder, or measure as before"
                )
        else:
            date = datetime.now().replace(microsecond=0) if settings.date is None else settings.date
            write_json(path, {**wanted, "date": date.isoformat(sep=" ")})
        with GrowingFile(folder / "events.jsonl") as events:

            def note(event: str, **fields: Any) -> None:
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                events.append({"time": now, "event": event, **fields})

            yield date, note
    finally:
        lock.release()
