"""One seed for each random draw, derived from names.

A resumed run draws exactly what an uninterrupted run would have drawn, because nothing depends on how many random
numbers were drawn before.
"""

from __future__ import annotations

import hashlib
import json


def derive_seed(*names: str | int) -> int:
    """A seed in [0, 2**63) from names such as (run seed, "sample", cycle, prompt id, sample index).

    The names are hashed as a JSON list, so ("a", "bc") and ("ab", "c") differ, and 1 and "1" differ.
    """
    digest = hashlib.sha256(json.dumps(names, ensure_ascii=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
