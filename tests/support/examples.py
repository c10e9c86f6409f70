"""How many examples a property test tries."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

VARIABLE = "HALO_FORGE_TEST_EXAMPLES"


def examples(few: int) -> settings:
    """`few` examples, the same in every run; or as many as the environment variable says, other ones each time."""
    many = os.environ.get(VARIABLE)
    return settings(
        max_examples=few if many is None else int(many),
        derandomize=many is None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
