"""Prompt sets: rows of any supported shape become `Prompt` values with stable ids.

A new row shape is one module with `NAME`, `COLUMNS`, `recognises(columns)` and `to_prompt(row)`, named in `_shapes.py`.
"""

from __future__ import annotations

from halo_forge.prompts.load import is_remote, load_prompts
from halo_forge.prompts.similarity import near_duplicates
from halo_forge.prompts.split import split_of

__all__ = ["is_remote", "load_prompts", "near_duplicates", "split_of"]
