"""Print the requirements of pyproject.toml without their upper bounds, as overrides for uv (make test-newest)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def without_upper_bound(text: str) -> str:
    """`trl>=1.16,<1.17` becomes `trl>=1.16`."""
    requirement = Requirement(text)
    requirement.specifier = SpecifierSet(",".join(str(each) for each in requirement.specifier if each.operator == ">="))
    return str(requirement)


if __name__ == "__main__":
    for line in tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]:
        print(without_upper_bound(line))
