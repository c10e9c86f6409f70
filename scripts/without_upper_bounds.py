"""Print the requirements of pyproject.toml and its extra `dev` without their upper bounds (make test-newest)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def without_upper_bound(text: str) -> str:
    """`trl>=1.16,<1.17` becomes `trl>=1.16`."""
    requirement = Requirement(text)
    kept = [str(each) for each in requirement.specifier if each.operator not in ("<", "<=")]
    requirement.specifier = SpecifierSet(",".join(kept))
    return str(requirement)


if __name__ == "__main__":
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        print(without_upper_bound(line))
