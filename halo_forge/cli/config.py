"""`halo-forge config`: check a configuration, show all its values, print the JSON schema."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from halo_forge.cli.help import Command, Group

app = typer.Typer(cls=Group, help="Check, show and describe configurations.", no_args_is_help=True)

CONFIG = typer.Argument(metavar="CONFIG", help="Configuration file (YAML).", show_default=False)
SET = typer.Option(None, "--set", metavar="KEY=VALUE", help="Override a configuration key, such as seed=7; repeatable.")


@app.command(cls=Command)
def check(config: Path = CONFIG, overrides: list[str] | None = SET) -> None:
    """Check a configuration, its prompts and its model's folder; report every problem. Loads no model."""
    from halo_forge.cli.render import print_paragraph, stdout
    from halo_forge.config import load_config
    from halo_forge.runtime.config_check import check_config

    found = check_config(load_config(config, overrides if overrides is not None else ()).config)
    console = stdout()
    lines = [f"{config}: valid"]
    lines += [f"checked: {each}" for each in found.checked]
    lines += [f"not checked: {each}" for each in found.not_checked]
    lines += [f"note: {each}" for each in found.notes]
    lines += [f"warning: {each}" for each in found.warnings]
    for line in lines:
        print_paragraph(console, line, indent="    ")


@app.command(cls=Command)
def show(config: Path = CONFIG, overrides: list[str] | None = SET) -> None:
    """Print every value, including defaults, as YAML."""
    from halo_forge.config import load_config, resolved
    from halo_forge.config.yaml_io import dump

    print(dump(resolved(load_config(config, overrides if overrides is not None else ()).config)), end="")


@app.command(cls=Command)
def schema() -> None:
    """Print the JSON schema of a configuration, for editors."""
    from halo_forge.config import json_schema

    print(json.dumps(json_schema(), indent=2))
