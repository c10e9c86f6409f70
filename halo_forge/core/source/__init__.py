"""Finds the program in a completion, and normalises programs to compare them.

`_languages` knows the names of languages, `_fences` the markup around programs, `_reasoning` what is no part of the
answer; `_blocks` finds the fenced blocks, `_choice` chooses among them, `_extract` finds the program; `_normal` splits
it into tokens, `_functions` into functions.
Nothing here repairs code, joins blocks, or guesses the language: the task gives the language, and the program is used
as it is.
"""

from __future__ import annotations

from halo_forge.core.source._extract import Extraction, extract
from halo_forge.core.source._functions import Function, outline, without_comments
from halo_forge.core.source._languages import ALIASES, canonical
from halo_forge.core.source._normal import KEYWORDS, digest, normalise
from halo_forge.core.source._reasoning import REASONING_MARKS, ReasoningMarks, end_of_reasoning, opened_reasoning

__all__ = [
    "ALIASES",
    "KEYWORDS",
    "REASONING_MARKS",
    "Extraction",
    "Function",
    "ReasoningMarks",
    "canonical",
    "digest",
    "end_of_reasoning",
    "extract",
    "normalise",
    "opened_reasoning",
    "outline",
    "without_comments",
]
