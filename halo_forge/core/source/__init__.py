"""From a model's answer to the program in it, and from a program to what makes it distinct.

`_languages` knows what languages are called, `_fences` what stands around programs in answers, `_extract` finds the
program, `_normal` takes it apart into tokens, `_functions` into functions.
Nothing here repairs code, joins blocks, or guesses the language: the task says the language, and what the answer
holds is taken as it stands.
"""

from __future__ import annotations

from halo_forge.core.source._extract import Extraction, extract
from halo_forge.core.source._functions import Function, Outline, Tokens, outline, without_comments
from halo_forge.core.source._languages import ALIASES, canonical
from halo_forge.core.source._normal import C_LIBRARY, KEYWORDS, PYTHON_NAMES, c_tokens, digest, normalise, python_tokens

__all__ = [
    "ALIASES",
    "C_LIBRARY",
    "KEYWORDS",
    "PYTHON_NAMES",
    "Extraction",
    "Function",
    "Outline",
    "Tokens",
    "c_tokens",
    "canonical",
    "digest",
    "extract",
    "normalise",
    "outline",
    "python_tokens",
    "without_comments",
]
