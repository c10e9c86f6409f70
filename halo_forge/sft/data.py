"""The rows of a run: which are trained on, which are held out, which are dropped and why; and their token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Completion, Prompt, TrainingRow, Verdict
from halo_forge.core.wording import counted
from halo_forge.policy import explained
from halo_forge.policy.chat_template import end_of_turn_id
from halo_forge.policy.rendering import Renderer, load_tokenizer
from halo_forge.prompts import is_remote
from halo_forge.sft.config import SftConfig
from halo_forge.sft.rows import ReadRows, SftRow, held_out_prompts, read_rows, with_prefix

_SHOWN = 5
Use = Literal["train", "held_out", "dropped"]


@dataclass(frozen=True)
class UsedRow:
    """One row, what it is used as, and its tokens.

    Attributes:
        training: The row as the trainer takes it; None where it has no token ids, because it is dropped.
        num_tokens: Of prompt and completion with its end of turn; None where it was not tokenised.
        reason: Why it is dropped; "" if it is not.
    """

    row: SftRow
    used_as: Use
    training: TrainingRow | None = None
    num_tokens: int | None = None
    reason: str = ""

    def to_row(self) -> dict[str, Any]:
        """A line of rows.jsonl."""
        return {
            "id": self.row.prompt.id,
            "place": self.row.place,
            "used_as": self.used_as,
            "reason": self.reason,
            "num_tokens": self.num_tokens,
            "prompt_sha256": self.row.prompt_sha256,
        }


@dataclass(frozen=True)
class Rows:
    """All rows of a run, in the order in which they were read."""

    rows: tuple[UsedRow, ...]
    notes: tuple[str, ...] = ()

    def of(self, use: Use) -> tuple[UsedRow, ...]:
        """Those that are used as `use`."""
        return tuple(row for row in self.rows if row.used_as == use)

    @property
    def train(self) -> tuple[TrainingRow, ...]:
        """What is trained on."""
        return tuple(row.training for row in self.of("train") if row.training is not None)

    @property
    def held_out(self) -> tuple[TrainingRow, ...]:
        """What the held-out loss is measured on."""
        return tuple(row.training for row in self.of("held_out") if row.training is not None)

    @property
    def prompts(self) -> dict[str, Prompt]:
        """Row id -> its prompt."""
        return {row.row.prompt.id: row.row.prompt for row in self.rows}

    def digest(self) -> str:
        """SHA-256 of what is used as what, token by token."""
        digest = hashlib.sha256()
        for row in self.rows:
            ids = () if row.training is None else row.training.completion.token_ids
            digest.update(f"{row.row.prompt.id}\0{row.row.prompt_sha256}\0{row.used_as}\0{ids}\n".encode())
        return digest.hexdigest()

    def lines(self) -> list[str]:
        """How many rows are used as what, and what was dropped, one line each."""
        used = f"rows: {len(self.of('train'))} to train on, {len(self.of('held_out'))} held out"
        dropped: dict[str, list[str]] = {}
        for row in self.of("dropped"):
            dropped.setdefault(row.reason, []).append(row.row.place)
        found = [used]
        for reason, places in dropped.items():
            more = ", ..." if len(places) > _SHOWN else ""
            found.append(f"{counted(len(places), 'row')} dropped: {reason}: {', '.join(places[:_SHOWN])}{more}")
        return [*found, *self.notes]


def read_sources(config: SftConfig) -> Rows:
    """The rows as they are in their sources, without token ids: what can be known without a tokenizer.

    Raises:
        ConfigError: A source cannot be read, a row is of no known form or in a language that the verifier does not
            check, a prompt is in both sources, or nothing is left to train on.
    """
    data = config.data
    train = _read(config, "train", data.limit)
    if data.held_out is not None:
        held_out = _read(config, "held_out", None)
        _refuse_shared(train.rows, held_out.rows)
    else:
        chosen = held_out_prompts(train.rows, data.held_out_fraction)
        held_out = ReadRows([row for row in train.rows if row.prompt_sha256 in chosen])
        train.rows = [row for row in train.rows if row.prompt_sha256 not in chosen]
        if not train.rows:
            raise ConfigError(
                f"data.train: {data.train!r} has rows of {counted(len(chosen), 'prompt')} only, and they are held out",
                "add rows, or set data.held_out_fraction to 0 and training.early_stopping.patience to null",
            )
    rows = [*(UsedRow(row, "train") for row in train.rows), *(UsedRow(row, "held_out") for row in held_out.rows)]
    if data.filter != "none":
        _check_language(config, (row.row.prompt for row in rows))
    return Rows(tuple(rows), (*train.notes, *held_out.notes))


def is_local(config: SftConfig) -> bool:
    """Whether no row has to be downloaded.

    Raises:
        ConfigError: A source names a split that there is not.
    """
    sources = [config.data.train, *([] if config.data.held_out is None else [config.data.held_out])]
    return not any(map(is_remote, sources))


def _read(config: SftConfig, key: Literal["train", "held_out"], limit: int | None) -> ReadRows:
    source = getattr(config.data, key)
    try:
        return read_rows(config.data, source, judged=config.data.filter != "none", limit=limit)
    except ConfigError as error:
        raise ConfigError(f"data.{key}: {error.message}", error.hint) from error


def _refuse_shared(train: Sequence[SftRow], held_out: Sequence[SftRow]) -> None:
    by_prompt = {row.prompt_sha256: row for row in train}
    by_id = {row.prompt.id: row for row in train}
    for row in held_out:
        same = by_prompt.get(row.prompt_sha256, by_id.get(row.prompt.id))
        if same is not None:
            what = "prompt" if row.prompt_sha256 in by_prompt else f"id {row.prompt.id!r}"
            raise ConfigError(
                f"data.held_out: {row.place}: the same {what} as {same.place} of data.train",
                "keep the two apart: a loss on what was trained on says nothing about other prompts",
            )


def _check_language(config: SftConfig, prompts: Iterable[Prompt]) -> None:
    """What the filter cannot judge.

    Raises:
        ConfigError: A row in another language than the verifier's; or rows without tests that are to pass them.
    """
    untested = []
    for prompt in prompts:
        if prompt.language not in (None, config.verifier.language):
            raise ConfigError(
                f"data.filter: row {prompt.id!r} is in {prompt.language}, but the verifier checks"
                f" {config.verifier.language}",
                "set verifier.kind to that language, or data.filter to none",
            )
        if config.verifier.tests_of(prompt)[0].num_checks == 0:
            untested.append(prompt.id)
    if untested and config.data.filter == "passes":
        raise ConfigError(
            f"data.filter is passes, but there are no tests in {counted(len(untested), 'row')}:"
            f" {', '.join(untested[:_SHOWN])}",
            "set data.filter to compiles, give the rows tests, or leave them out with data.where",
        )


def tokenized(config: SftConfig, sources: Rows, date: datetime) -> Rows:
    """The same with token ids, as sampling of a RAFT run would see them: the prefix is a part of the prompt.

    Raises:
        ConfigError: Rows cannot be used and are not to be dropped, or none is left.
        ModelError: The tokenizer or its chat template cannot be used.
    """
    tokenizer: Any = load_tokenizer(config.model)
    prefix = config.data.response_prefix
    renderer = Renderer(
        tokenizer, "" if prefix is None else prefix, date=date, reasoning_marks=config.verifier.own_marks
    )
    end_of_turn, longest = end_of_turn_id(tokenizer), _longest(config)
    rows = [_tokenized(row, renderer, tokenizer, end_of_turn, longest) for row in sources.rows]
    unusable = [row for row in rows if row.used_as == "dropped"]
    if unusable and config.data.unusable == "error":
        shown = [
            f"  {row.row.place}: {row.reason}" + ("" if row.num_tokens is None else f" ({row.num_tokens})")
            for row in unusable[:_SHOWN]
        ]
        more = [f"  and {len(unusable) - _SHOWN} more"] if len(unusable) > _SHOWN else []
        raise ConfigError(
            "\n".join([f"data: {len(unusable)} of {len(rows)} rows cannot be trained on:", *shown, *more]),
            "correct or remove them, or leave them out with data.unusable: drop",
        )
    return _enough(config, Rows(tuple(rows), sources.notes))


def _enough(config: SftConfig, rows: Rows) -> Rows:
    """The rows, if some are left to train on, and to measure.

    Raises:
        ConfigError: None is.
    """
    needed: list[Use] = ["train", "held_out"] if config.holds_out else ["train"]
    for use in needed:
        if not rows.of(use):
            reasons = "; ".join(rows.lines()[1:])
            raise ConfigError(f"data: no {use.replace('_', '-')} row is left: {reasons}", "use other rows")
    return rows


def _longest(config: SftConfig) -> int | None:
    """The most tokens of a row; None if the model has no limit and none is set.

    Raises:
        ConfigError: data.max_length is beyond the model's positions.
    """
    from transformers import AutoConfig

    name, given = config.model.model_name_or_path, config.data.max_length
    with explained(name):
        loaded = AutoConfig.from_pretrained(
            name, revision=config.model.revision, trust_remote_code=config.model.trust_remote_code
        )
    positions = getattr(loaded.get_text_config(), "max_position_embeddings", None)
    if given is not None and positions is not None and given > positions:
        raise ConfigError(
            f"data.max_length: found {given}, allowed: up to the {positions} positions of the model", "lower it"
        )
    return given if given is not None else positions


def _tokenized(used: UsedRow, renderer: Renderer, tokenizer: Any, end_of_turn: int, longest: int | None) -> UsedRow:
    row, start = used.row, renderer.start(used.row.prompt)
    try:
        text = with_prefix(row, start)
    except ValueError as error:
        return replace(used, used_as="dropped", reason=str(error))
    ids = tuple(tokenizer(text[len(start) :], add_special_tokens=False)["input_ids"])
    num_tokens = len(renderer.ids(row.prompt)) + len(ids) + 1  # the end of turn
    if longest is not None and num_tokens > longest:
        return replace(used, used_as="dropped", num_tokens=num_tokens, reason=f"it is longer than {longest} tokens")
    if end_of_turn in ids:
        return replace(used, used_as="dropped", num_tokens=num_tokens, reason="its completion has an end of turn in it")
    completion = Completion(row.prompt.id, 0, text, ids, "stop", 0, 0)
    return replace(used, training=TrainingRow(row.prompt, completion), num_tokens=num_tokens)


def judged(config: SftConfig, rows: Rows, verdicts: Mapping[str, Verdict]) -> Rows:
    """The same without those that the filter drops.

    Args:
        verdicts: Row id -> what the verifier found.

    Raises:
        ConfigError: None is left.
    """
    found = []
    for row in rows.rows:
        verdict = verdicts.get(row.row.prompt.id)
        if verdict is not None:
            good = verdict.compiled if config.data.filter == "compiles" else verdict.passed
            if not good:
                what = "does not compile" if not verdict.compiled else f"{verdict.stage}: {verdict.status}"
                what = "the verifier failed on it" if verdict.status == "error" else what
                row = replace(row, used_as="dropped", reason=f"filter {config.data.filter}: {what}")
        found.append(row)
    return _enough(config, Rows(tuple(found), rows.notes))
