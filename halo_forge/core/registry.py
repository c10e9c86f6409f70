"""Finds the kinds of a family: the one `Spec` of each module of its package, and those that other packages bring.

A family is a package such as `halo_forge.core.schedules`.  Each of its modules whose name has no leading underscore
holds exactly one subclass of `Spec`, named by its `kind` field.  An installed package adds a kind by an entry point of
the family's group, such as `halo_forge.schedules` (docs/extending.md).
"""

from __future__ import annotations

import functools
import importlib
import operator
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from halo_forge.core.errors import PluginError


class Spec(BaseModel):
    """Settings and behaviour of one kind: immutable and strict; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        """A whole number that is written as `1e3` or `3.0` is one, as long as a float holds it exactly."""
        if not isinstance(data, Mapping):
            return data
        written = dict(data)
        for name, field in cls.model_fields.items():
            key = name if field.alias is None else field.alias
            value = written.get(key)
            if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
                allowed = set(_alternatives(field.annotation))
                if int in allowed and float not in allowed:
                    written[key] = int(value)
        return written


_EXACT = 2**53
"""Below it every whole number is a float of its own."""


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union, each without what annotates it."""
    if typing.get_origin(annotation) is Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for each in typing.get_args(annotation):
            yield from _alternatives(each)
    else:
        yield annotation


@dataclass(frozen=True)
class Family:
    """A family that other packages can add to.

    Attributes:
        group: The group of its entry points.
        base: `module:Class` of which every kind is a subclass; loaded only when a plugin is found.
        needs: Methods that a kind has to bring besides the abstract ones of `base`.
    """

    group: str
    base: str
    needs: tuple[str, ...] = ()


FAMILIES: Mapping[str, Family] = {
    "halo_forge.core.schedules": Family("halo_forge.schedules", "halo_forge.core.schedules._schedule:Schedule"),
    "halo_forge.core.selection": Family("halo_forge.selection", "halo_forge.core.selection._spec:SelectionSpec"),
    "halo_forge.engines": Family("halo_forge.engines", "halo_forge.engines._spec:EngineSpec", ("open",)),
    "halo_forge.verifiers.languages": Family("halo_forge.verifiers", "halo_forge.verifiers.spec:ProgramSpec"),
}
"""Package of a family -> how other packages add kinds to it."""

PROMPTS_GROUP = "halo_forge.prompts"
"""The group of entry points that name shapes of prompt rows (`halo_forge.prompts`), which have no settings."""


@dataclass(frozen=True)
class Plugin:
    """What one entry point of another package brought.

    Attributes:
        distribution: The installed package, as pip names it.
        group, name: Of the entry point; the name is the kind.
        loaded: The object it names.
    """

    distribution: str
    version: str
    group: str
    name: str
    loaded: Any

    def error(self, wrong: str) -> PluginError:
        """The error that says what is wrong with it."""
        return _plugin_error(self.distribution, self.version, self.group, self.name, wrong)


@functools.cache
def plugins(group: str) -> tuple[Plugin, ...]:
    """What installed packages bring for `group`, loaded, sorted by name and distribution.

    Raises:
        PluginError: An entry point cannot be loaded.
    """
    loaded = (_load(point) for point in _entry_points().select(group=group))
    return tuple(sorted(loaded, key=lambda plugin: (plugin.name, plugin.distribution)))


@functools.cache
def discover(package: str) -> dict[str, type[Spec]]:
    """Kind -> Spec class, for every public module of `package` and every plugin of its family, sorted by kind.

    Raises:
        TypeError: A module holds no Spec of its own or more than one, or two modules share a kind.
        PluginError: A plugin cannot be loaded, is no kind of this family, or claims a kind that is taken.
    """
    found = _own_kinds(package)
    if package in FAMILIES:
        family = FAMILIES[package]
        for plugin in plugins(family.group):
            kind = _checked_kind(plugin, family)
            if kind in found:
                raise plugin.error(f"its kind {kind!r} is taken by {_origin(found[kind], family.group)}")
            found[kind] = plugin.loaded
    return dict(sorted(found.items()))


def tagged_union(package: str) -> Any:
    """The pydantic type `Spec1 | Spec2 | ...`, distinguished by `kind`."""
    specs = tuple(discover(package).values())
    if len(specs) == 1:
        return specs[0]
    return Annotated[functools.reduce(operator.or_, specs), Field(discriminator="kind")]


def used_plugins(settings: Spec) -> dict[str, str]:
    """Distribution -> version of the plugins whose kinds occur anywhere in `settings`, sorted."""
    brought = {plugin.loaded: plugin for family in FAMILIES.values() for plugin in plugins(family.group)}
    used = (brought[type(spec)] for spec in _specs_in(settings) if type(spec) in brought)
    return dict(sorted({plugin.distribution: plugin.version for plugin in used}.items()))


def _own_kinds(package: str) -> dict[str, type[Spec]]:
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
    return found


@functools.cache
def _entry_points() -> metadata.EntryPoints | metadata.SelectableGroups:
    """Those of all installed packages, read once: a few milliseconds for a hundred packages."""
    return metadata.entry_points()


def plugin_packages() -> frozenset[str]:
    """The top-level packages of all installed plugins; imports none of them."""
    groups = (PROMPTS_GROUP, *(family.group for family in FAMILIES.values()))
    points = (point for group in groups for point in _entry_points().select(group=group))
    return frozenset(point.module.partition(".")[0] for point in points)


def _load(point: metadata.EntryPoint) -> Plugin:
    distribution, version = ("unknown", "unknown") if point.dist is None else (point.dist.name, point.dist.version)
    try:
        return Plugin(distribution, version, point.group, point.name, point.load())
    except Exception as error:  # a plugin's module may raise anything when it is imported
        wrong = f"{point.value} cannot be loaded: {type(error).__name__}: {error}"
        raise _plugin_error(distribution, version, point.group, point.name, wrong) from error


def _checked_kind(plugin: Plugin, family: Family) -> str:
    module, _, name = family.base.partition(":")
    parent = getattr(importlib.import_module(module), name)
    loaded = plugin.loaded
    if not (isinstance(loaded, type) and issubclass(loaded, Spec) and issubclass(loaded, parent)):
        raise plugin.error(f"it names {loaded!r}, which is not a subclass of {name}")
    field = loaded.model_fields.get("kind")
    if field is None or field.default != plugin.name:
        found = "has no default for `kind`" if field is None or field.is_required() else f"is {field.default!r}"
        raise plugin.error(f"the kind of {loaded.__name__} {found}; it must be the name of the entry point")
    lacking = {
        *getattr(loaded, "__abstractmethods__", ()),
        *(name for name in family.needs if not hasattr(loaded, name)),
    }
    if lacking:
        raise plugin.error(f"{loaded.__name__} lacks {', '.join(sorted(lacking))}")
    return plugin.name


def _origin(spec: type[Spec], group: str) -> str:
    brought = (plugin for plugin in plugins(group) if plugin.loaded is spec)
    source = next((f"{plugin.distribution} {plugin.version}" for plugin in brought), "halo-forge itself")
    return f"{source} ({spec.__module__})"


def _specs_in(value: Any) -> Iterator[Spec]:
    if isinstance(value, Spec):
        yield value
        for name in type(value).model_fields:
            yield from _specs_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _specs_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _specs_in(item)


def _plugin_error(distribution: str, version: str, group: str, name: str, wrong: str) -> PluginError:
    return PluginError(
        f"plugin {distribution} {version}, entry point {name!r} of group {group}: {wrong}",
        f"update the package, or remove it: pip uninstall {distribution}",
    )
