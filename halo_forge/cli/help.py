"""Help texts that name values (`CONFIG`, `DIR`) and show no types of Python."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, TyperArgument):
            param.display_type_rich = _nothing  # type: ignore[method-assign]
        elif param.is_flag:
            param.metavar = ""
    return params


def _nothing(ctx: object) -> None:
    """Where typer would write `<list[Path]>` after the name of an argument."""


class Command(TyperCommand):
    """A command of halo-forge."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands of halo-forge."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))
