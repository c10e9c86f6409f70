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
    from halo_forge.runtime.config_check import check_config

    changes = overrides if overrides is not None else []
    if _is_sft(config):
        from halo_forge.sft.config import load_sft_config
        from halo_forge.sft.open import check_sft

        found = check_sft(load_sft_config(config, changes).config)
    else:
        from halo_forge.config import load_config

        found = check_config(load_config(config, changes).config)
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

    changes = overrides if overrides is not None else []
    if _is_sft(config):
        from halo_forge.sft.config import load_sft_config, resolved_sft

        print(dump(resolved_sft(load_sft_config(config, changes).config)), end="")
        return
    print(dump(resolved(load_config(config, changes).config)), end="")


@app.command(cls=Command)
def schema(
    sft: bool = typer.Option(False, "--sft", help="Of the configuration of an SFT run (`sft run`)."),
) -> None:
    """Print the JSON schema of a configuration, for editors."""
    if sft:
        from halo_forge.sft.config import sft_schema

        print(json.dumps(sft_schema(), indent=2))
        return
    from halo_forge.config import json_schema

    print(json.dumps(json_schema(), indent=2))


def _is_sft(config: Path) -> bool:
    """Whether a file is the configuration of an SFT run (`sft run`), not of a RAFT run."""
    from halo_forge.config.load import is_sft
    from halo_forge.config.yaml_io import load_document

    return is_sft(load_document(config))
