"""Finds the one `Spec` of each module of a family, so that a new kind is one new file.

A family is a package such as `halo_forge.core.schedules`.  Each of its modules whose name has no leading underscore
holds exactly one subclass of `Spec`, named by its `kind` field.
"""

from __future__ import annotations

import functools
import importlib
import operator
import pkgutil
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Spec(BaseModel):
    """Settings and behaviour of one kind: immutable and strict; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@functools.cache
def discover(package: str) -> dict[str, type[Spec]]:
    """Kind -> Spec class, for every public module of `package`, sorted by kind.

    Raises:
        TypeError: A module holds no Spec of its own or more than one, or two modules share a kind.
    """
    found: dict[str, type[Spec]] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        specs = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Spec)
            and value.__module__ == module.__name__
            and "kind" in value.model_fields
        ]
        if len(specs) != 1:
            raise TypeError(f"{module.__name__} must hold exactly one Spec with a `kind` field, found {len(specs)}")
        kind = specs[0].model_fields["kind"].default
        if kind in found:
            raise TypeError(f"{module.__name__} and {found[kind].__module__} both claim the kind {kind!r}")
        found[kind] = specs[0]
    return dict(sorted(found.items()))


def tagged_union(package: str) -> Any:
    """The pydantic type `Spec1 | Spec2 | ...`, told apart by `kind`."""
    specs = tuple(discover(package).values())
    if len(specs) == 1:
        return specs[0]
    return Annotated[functools.reduce(operator.or_, specs), Field(discriminator="kind")]
