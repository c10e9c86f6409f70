"""Prompt sets: rows of any supported shape become `Prompt` values with stable ids.

A new row shape is one module with `NAME`, `COLUMNS`, `recognises(columns)` and `to_prompt(row)` (`Shape`): ours are
named in `_shapes.py`, those of other packages by entry points of the group `halo_forge.prompts`.
"""

from __future__ import annotations

from halo_forge.prompts._row import Row, shown
from halo_forge.prompts._shapes import Shape, to_prompts
from halo_forge.prompts.load import filtered, is_remote, load_prompts, open_rows
from halo_forge.prompts.similarity import near_duplicates
from halo_forge.prompts.split import split_of

__all__ = [
    "Row",
    "Shape",
    "filtered",
    "is_remote",
    "load_prompts",
    "near_duplicates",
    "open_rows",
    "shown",
    "split_of",
    "to_prompts",
]
