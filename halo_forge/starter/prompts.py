"""What can be seen of the prompts: how the three sets are named, their rows, their language, their tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.core.source import canonical
from halo_forge.prompts import builtin, hub, is_remote, load_prompts
from halo_forge.prompts.split import SPLITS
from halo_forge.prompts.summary import summarise

SETS = ("train", "dev", "test")
_PYTHON_TESTS = {"asserts", "humaneval", "mbpp"}
_DEV_NAMES = ("validation", "dev", "valid", "val")
_CUTS = ("[:60%]", "[60%:80%]", "[80%:]")


@dataclass(frozen=True)
class PromptsFound:
    """The prompts, as far as they could be looked at.

    Attributes:
        specs: "train", "dev" and "test" -> what the configuration names.
        how: How the sets were made of what was given, in words.
        sets: The prompts of each; None if they could not be read.
        language: What the rows say or their tests need; None if neither tells.
        assumed: What was assumed because it could not be looked at.
    """

    specs: Mapping[str, str]
    how: str
    sets: Mapping[str, Sequence[Prompt]] | None
    language: str | None
    assumed: tuple[str, ...] = ()

    @property
    def every(self) -> list[Prompt]:
        """All prompts that were read."""
        return [] if self.sets is None else [prompt for prompts in self.sets.values() for prompt in prompts]

    def size(self, name: str) -> int | None:
        """The number of prompts of a set; None if it was not read."""
        return None if self.sets is None else len(self.sets[name])

    @property
    def num_tested(self) -> int:
        """Prompts with tests, of those that were read."""
        return summarise(self.every).num_tested


def look_at_prompts(given: str, dev: str | None = None, test: str | None = None) -> PromptsFound:
    """Name and read the three sets.

    Args:
        given: A file, a packaged set, or a data set id: all prompts, or those for training if the others are given.
        dev, test: The other two, both or neither.

    Raises:
        ConfigError: Something cannot be read, or a row does not fit; the message names file and line.
    """
    if (dev is None) != (test is None):
        missing = "test" if test is None else "dev"
        raise ConfigError(f"--{'dev' if missing == 'test' else 'test'} is given without --{missing}", "give both")
    if dev is not None and test is not None:
        if len({given, dev, test}) < len(SETS):
            raise ConfigError(
                "two of --prompts, --dev and --test are the same: a model must not be measured on what it learns from",
                "give three sets, or --prompts alone: it is split",
            )
        return _read({"train": given, "dev": dev, "test": test}, "three sets, as given")
    if given.startswith(builtin.PREFIX):
        name = given.removeprefix(builtin.PREFIX).partition("/")[0]
        return _read({each: f"{builtin.PREFIX}{name}/{each}" for each in SETS}, "the packaged splits")
    if is_remote(given):
        return _data_set(given)
    if given.endswith(tuple(f":{each}" for each in SPLITS)):
        raise ConfigError(
            f"--prompts {given}: one split of a file", f"give the whole file ({given.rpartition(':')[0]}), or --dev too"
        )
    if given.endswith((".jsonl", ".parquet")) and Path(given).expanduser().is_file():
        return _read(
            {each: f"{given}:{each}" for each in SETS},
            "60 % train, 20 % dev, 20 % test, by a hash of the ids: rows that are added later move no other row",
        )
    load_prompts(given, language=None)  # which says what is wrong
    raise ConfigError(f"--prompts {given}: not a file of prompts", "name a .jsonl or .parquet file")


def _read(specs: Mapping[str, str], how: str, assumed: Sequence[str] = ()) -> PromptsFound:
    sets = {name: load_prompts(spec, language=None) for name, spec in specs.items()}
    return PromptsFound(specs, how, sets, _language([each for own in sets.values() for each in own]), tuple(assumed))


def _language(prompts: Sequence[Prompt]) -> str | None:
    """The one language of all rows that name one, or that their tests are written in.

    Raises:
        ConfigError: There are several.
    """
    found: dict[str, str] = {}
    for prompt in prompts:
        known = None if prompt.language is None else canonical(prompt.language) or prompt.language
        if known is None and prompt.tests is not None and prompt.tests.get("kind") in _PYTHON_TESTS:
            known = "python"
        if known is not None:
            found.setdefault(known, prompt.id)
    if len(found) > 1:
        named = ", ".join(f"{language} ({prompt_id!r})" for language, prompt_id in sorted(found.items()))
        raise ConfigError(
            f"the prompts are in several languages: {named}", "a run has one verifier: make a file for each language"
        )
    return next(iter(found), None)


def _data_set(given: str) -> PromptsFound:
    """The sets of a data set: its own splits, or parts of one."""
    dataset_id, *rest = hub.parts_of(given)
    config = f":{rest[0]}" if len(rest) == 2 else ""
    named = rest[-1] if rest else None
    if named is not None and "[" in named:
        raise ConfigError(
            f"--prompts {given}: a part of a split, which cannot be cut into three sets",
            f"give the whole split ({dataset_id}{config}:{named.partition('[')[0]}), or --dev and --test too",
        )
    try:
        splits = hub.splits_of(given)
    except hub.UnknownDataSet:
        raise
    except ConfigError as error:
        split = "train" if named is None else named
        assumed = (
            f"{given} could not be looked at, so its rows, tests and lengths are unknown ({error.message})",
            *(() if named else (f"that {dataset_id} has a split named train, and enough rows in it, is assumed",)),
        )
        specs = _cut(f"{dataset_id}{config}:{split}")
        return PromptsFound(specs, _cut_in_words(split), None, None, assumed)
    if named is not None:
        return _read(_cut(f"{dataset_id}{config}:{named}"), _cut_in_words(named))
    dev = next((name for name in _DEV_NAMES if name in splits), None)
    if "train" in splits and dev is not None and "test" in splits:
        specs = {"train": f"{dataset_id}:train", "dev": f"{dataset_id}:{dev}", "test": f"{dataset_id}:test"}
        return _read(specs, "the data set's own splits")
    if "train" in splits and (dev is not None or "test" in splits):
        held_out = dev if dev is not None else "test"
        specs = {
            "train": f"{dataset_id}:train",
            "dev": f"{dataset_id}:{held_out}[:50%]",
            "test": f"{dataset_id}:{held_out}[50%:]",
        }
        return _read(specs, f"the data set's split train, and both halves of its split {held_out}, in its order")
    largest = max(splits, key=lambda name: splits[name])
    return _read(_cut(f"{dataset_id}:{largest}"), _cut_in_words(largest))


def _cut(spec: str) -> dict[str, str]:
    return {name: f"{spec}{cut}" for name, cut in zip(SETS, _CUTS, strict=True)}


def _cut_in_words(split: str) -> str:
    return (
        f"60 % of the data set's split {split}, and twice 20 %, in its order: if it is sorted by topic or difficulty,"
        " save it as JSONL instead, which is split by a hash"
    )
