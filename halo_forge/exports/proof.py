"""The proof: dev or test is asked again of the exported thing and of the adapter, and their difference is judged.

The rules are those of a run's decisions: a first look, and if the export looks worse, a second one with other seeds.
Only a fall that both show is one.  Nothing was chosen by these samples, so neither side is favoured.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from halo_forge.core.decisions import Assessment, DecisionsSection, Totals, confirm_totals, screen_totals
from halo_forge.core.errors import ConfigError
from halo_forge.core.evaluation import COMPARED, differences
from halo_forge.core.metrics.compare import What, prompt_totals
from halo_forge.core.records import Prompt, Record, Sample
from halo_forge.core.seeds import derive_seed
from halo_forge.engines._server_process import free_port
from halo_forge.engines.transformers import TransformersSpec
from halo_forge.evaluations.ask import IDENTITY_FILE, Settings, measure
from halo_forge.evaluations.models import Models
from halo_forge.evaluations.subject import Subject
from halo_forge.exports.llama_cpp import LlamaCpp
from halo_forge.exports.served import served, server_at
from halo_forge.exports.surprise import MAX_SURPRISE, is_surprising, surprise, surprise_difference
from halo_forge.runtime.effects import Observer
from halo_forge.store.files import read_json

State = Literal["held", "fell", "cannot_tell", "not_proved"]
Asked = Callable[[Path], AbstractContextManager[Subject]]
"""The folder of a measurement -> what is measured, for as long as the block runs."""
SURPRISE = "surprise (nats per token)"
_STATES: Mapping[str, State] = {
    "ahead": "held",
    "held": "held",
    "suspect_not_confirmed": "held",
    "degraded": "fell",
    "underpowered": "cannot_tell",
    "too_few_to_tell": "cannot_tell",
}


@dataclass(frozen=True, slots=True)
class Proof(Record):
    """What came of the proof.

    Attributes:
        state: "not_proved" where nothing was asked.
        reason: The state in words, with its numbers; why nothing was asked.
        set_name: The prompts that were asked: "dev" or "test".
        metric: The one that decides.
        asked_by: What sampled from the exported thing.
        samples_per_prompt, temperature: Of both.
        comparisons: Metric -> `{"adapter", "exported", "difference", "low", "high", "num_prompts", ...}` of the first
            look, paired by prompt, with 95 % intervals.
        screen, confirmation: The first and the second look, as in a decision.
        seconds: What both looks took.
    """

    state: State
    reason: str
    set_name: str | None = None
    metric: str | None = None
    asked_by: str | None = None
    samples_per_prompt: int | None = None
    temperature: float | None = None
    comparisons: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    screen: Mapping[str, float] = field(default_factory=dict)
    confirmation: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Look:
    """The samples of both sides, and how likely the adapter finds them; see `surprise`."""

    adapter: tuple[Sample, ...]
    exported: tuple[Sample, ...]
    surprise: Mapping[str, Mapping[str, float]]

    def totals(self, what: What) -> tuple[Totals, Totals]:
        return prompt_totals(self.adapter, what), prompt_totals(self.exported, what)


def prove(
    adapter: Subject,
    asked: Asked,
    asked_by: str,
    set_name: str,
    prompts: Sequence[Prompt],
    settings: Settings,
    decisions: DecisionsSection,
    folder: Path,
    observer: Observer,
) -> Proof:
    """Ask both, once or twice, and judge.  What is sealed in `folder` is read.

    Raises:
        ConfigError: A prompt does not fit into the model.
        ModelError: The exported thing cannot be loaded.
        ToolMissing: A compiler or the server does not work.
    """
    settings = _here(settings)
    metric = decisions.metric.removeprefix("dev/")
    what, start = COMPARED[metric], time.monotonic()

    def look(name: str, seed: int) -> _Look:
        own = dataclasses.replace(settings, seed=seed)
        # Each with models of its own: the base and the merged model need not fit into memory together.
        before = measure(adapter, prompts, own, folder / f"adapter{name}", observer, Models())
        # What a chat template that reads the clock got: the export gets the same.
        date = datetime.fromisoformat(read_json(folder / f"adapter{name}" / IDENTITY_FILE)["date"])
        own = dataclasses.replace(own, date=date)
        with asked(folder / f"exported{name}") as subject:
            after = measure(subject, prompts, own, folder / f"exported{name}", observer, Models())
        sides = {"adapter": before, "exported": after}
        return _Look(before, after, surprise(adapter, prompts, own, date, sides, folder / f"surprise{name}.json"))

    first, again = look("", settings.seed), None
    found = screen_totals(decisions, adapter.label, *first.totals(what))
    surprising = is_surprising(surprise_difference(first.surprise))
    if found.outcome == "suspect" or surprising:
        again = look("_again", derive_seed(settings.seed, "confirm"))
        surprising = surprising and is_surprising(surprise_difference(again.surprise))
        if found.outcome == "suspect":
            found = confirm_totals(decisions, found, *again.totals(what))
    return Proof(
        state="fell" if surprising else _STATES[found.outcome],
        reason="; ".join([_in_words(found, metric, set_name), *_surprise_in_words(first, again)]),
        set_name=set_name,
        metric=metric,
        asked_by=asked_by,
        samples_per_prompt=settings.num_samples,
        temperature=settings.temperature,
        comparisons={
            name: {"adapter": row["start"], **{key: row[key] for key in row if key != "start"}}
            for name, row in differences(first.adapter, first.exported, "exported").items()
        }
        | _surprise_row(first.surprise),
        screen={} if found.screen is None else found.screen.to_row(),
        confirmation={} if found.confirmation is None else found.confirmation.to_row(),
        seconds=round(time.monotonic() - start, 1),
    )


def merged_subject(model: Path, adapter: Subject) -> Asked:
    """Merged weights are loaded by transformers."""
    section = adapter.model.model_copy(
        update={"model_name_or_path": str(model), "revision": None, "quantization": "none"}
    )

    @contextmanager
    def asked(folder: Path) -> Iterator[Subject]:
        yield Subject("exported", section)

    return asked


def served_subject(
    llama_cpp: LlamaCpp, model: Path, lora: Path | None, base: Subject, num_tokens: Callable[[], int]
) -> Asked:
    """A GGUF file is served by llama.cpp for the time; the base model's tokenizer renders the prompts."""

    @contextmanager
    def asked(folder: Path) -> Iterator[Subject]:
        place = folder.with_name(f"{folder.name}.port")
        is_sealed = (folder / "completions.jsonl").is_file() and place.is_file()
        if not is_sealed:
            # An interrupted measurement names the port of a server that is gone.
            shutil.rmtree(folder, ignore_errors=True)
            place.write_text(f"{free_port()}\n", encoding="ascii")
        port = int(place.read_text(encoding="ascii"))
        subject = Subject("exported", base.model, server=server_at(port))
        if is_sealed:
            yield subject
            return
        logs = folder.parent / "server_logs"
        with served(llama_cpp, model, lora, port, num_tokens(), logs):
            try:
                yield subject
            except ConfigError as error:
                raise ConfigError(
                    f"the exported file cannot be asked: {error.message}",
                    f"the file is damaged, or llama.cpp computes values with it that are not finite: see {logs}; remove"
                    f" {folder.parents[1]} and export it again",
                ) from error

    return asked


def _here(settings: Settings) -> Settings:
    """The same, sampled by transformers: an engine of the run that is a server may be gone."""
    if settings.engine.kind == "transformers":
        return settings
    shared: dict[str, Any] = {key: getattr(settings.engine, key) for key in ("max_new_tokens", "top_k", "stop")}
    return dataclasses.replace(settings, engine=TransformersSpec(**shared))


def _surprise_row(found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The row of the comparisons; none with too few prompts."""
    difference = surprise_difference(found)
    if difference is None:
        return {}
    sides = {name: fmean(found[name].values()) for name in ("adapter", "exported")}
    named = {("difference" if key == "mean" else key): value for key, value in dataclasses.asdict(difference).items()}
    return {SURPRISE: {**sides, **named}}


def _surprise_in_words(*looks: _Look | None) -> Iterator[str]:
    found = [surprise_difference(look.surprise) for look in looks if look is not None]
    numbers = [f"{each.mean:+.3f} ({each.low:+.3f} to {each.high:+.3f})" for each in found if each is not None]
    if numbers:
        yield (
            f"surprise, exported minus adapter, {' and with other seeds '.join(numbers)} nats per token, allowed"
            f" {MAX_SURPRISE:g}"
        )


def _in_words(found: Assessment, metric: str, set_name: str) -> str:
    looks = [found.screen] if found.confirmation is None else [found.screen, found.confirmation]
    numbers = "; with other seeds ".join("nothing to compare" if each is None else each.in_words() for each in looks)
    what = {
        "held": "no fall was found",
        "fell": "a fall that a second look with other seeds confirms",
        "cannot_tell": "too few prompts or samples to tell",
    }[_STATES[found.outcome]]
    return f"{metric} on {set_name}, exported minus adapter: {numbers}: {what}"
