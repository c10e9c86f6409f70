"""One verifier for all tests that need no settings of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from c_answers import Check, answer, prompt

from halo_forge.core.records import Verdict
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.languages.c import Spec
from halo_forge.verifiers.verifier import ThreadedVerifier


@pytest.fixture(scope="session")
def verifier() -> Iterator[ThreadedVerifier]:
    """Defaults, but for shorter limits."""
    with open_verifier(Spec(timeout_seconds=0.5, memory_limit_bytes=64 * 1024 * 1024, workers=2)) as opened:
        yield opened


@pytest.fixture
def check(verifier: ThreadedVerifier) -> Check:
    """The verdict on one answer."""

    def verdict(code: str, tests: Mapping[str, Any] | None) -> Verdict:
        (found,) = verifier.verify([(prompt(tests), answer(code))])
        return found

    return verdict
