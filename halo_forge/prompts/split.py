"""Train, dev and test by a hash of the prompt id, so that adding a task moves no other task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, get_args

from halo_forge.core.records import Prompt

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# Changing the salt moves tasks between the splits and makes runs incomparable.
# With this one, every family of the packaged tasks has members in all three splits.
SALT = "halo-forge split 14579"

_TRAIN_BELOW = 0.6
_DEV_BELOW = 0.8


def split_of(prompt_id: str) -> Split:
    """ "train" for 60 % of all ids, "dev" and "test" for 20 % each."""
    digest = hashlib.sha256(f"{SALT}\0{prompt_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if place < _TRAIN_BELOW else "dev" if place < _DEV_BELOW else "test"


def apply(prompts: Iterable[Prompt], split: Split) -> list[Prompt]:
    """The prompts of one split, in the order given."""
    return [prompt for prompt in prompts if split_of(prompt.id) == split]


def limited(prompts: list[Prompt], limit: int) -> list[Prompt]:
    """`limit` of the prompts in the order given, chosen by a hash of the id; a lower limit chooses a subset.

    The first rows of a file are not used instead, because they often belong to one family and represent nothing else.
    """
    order = sorted(prompts, key=lambda prompt: hashlib.sha256(f"{SALT} limit\0{prompt.id}".encode()).digest())
    chosen = {prompt.id for prompt in order[:limit]}
    return [prompt for prompt in prompts if prompt.id in chosen]
