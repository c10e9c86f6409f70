"""`halo-forge report`: the page of a run, an evaluation or an experiment, as one HTML file or served on loopback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli.config import SET
from halo_forge.cli.raft import JSON

if TYPE_CHECKING:
    from halo_forge.pages.serve import Page

WHAT = typer.Argument(
    metavar="RUN|EVAL_DIR|FILE", help="Run directory, evaluation folder, or experiment file (YAML).", show_default=False
)
OUTPUT = typer.Option(
    None, "-o", "--output", metavar="FILE", help="Default: report.html in the run's or experiment's folder."
)


def report(
    what: Path = WHAT,
    output: Path | None = OUTPUT,
    serve: bool = typer.Option(
        False, "--serve", help="Serve the page on this machine while the run goes on. Ctrl-C ends it."
    ),
    port: int | None = typer.Option(
        None, "--port", metavar="PORT", min=1, max=65535, help="For --serve; default: a free one."
    ),
    overrides: list[str] | None = SET,
    as_json: bool = JSON,
) -> None:
    """Write the page of a run, an SFT run, an evaluation or an experiment: one HTML file without a network."""
    from halo_forge.core.errors import ConfigError

    if serve and (output is not None or as_json):
        raise ConfigError("--serve writes no file", "drop -o and --json, or drop --serve")
    if port is not None and not serve:
        raise ConfigError("--port is only for --serve", "add --serve")
    folder, page = _page(what, list(overrides) if overrides is not None else [])
    if serve:
        _serve(page, 0 if port is None else port)
        return
    path = folder / "report.html" if output is None else output
    text = page.make(None)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "name another file with -o") from error
    if as_json:
        print(json.dumps({"file": str(path), "bytes": len(text.encode())}, indent=2))
        return
    print(f"{path} ({len(text.encode()) / 1e6:.1f} MB)")


def _page(what: Path, overrides: list[str]) -> tuple[Path, Page]:
    """The folder of a run, an evaluation or an experiment, and its page."""
    from halo_forge.core.errors import ConfigError
    from halo_forge.pages.make import (
        evaluation_html,
        evaluation_state,
        experiment_html,
        experiment_state,
        run_html,
        run_state,
        sft_html,
    )
    from halo_forge.pages.serve import Page
    from halo_forge.store.sft import is_sft_run

    if what.is_file():
        from halo_forge.experiments.file import load_experiment

        experiment = load_experiment(what, overrides)
        return experiment.root, Page(
            lambda state: experiment_html(experiment, state=state), lambda: experiment_state(experiment)
        )
    if overrides:
        raise ConfigError("--set is only for an experiment file", "drop --set")
    if (what / "experiment.json").is_file():
        raise ConfigError(f"{what} is the folder of an experiment", "name its file: halo-forge report FILE")
    if (what / "evaluation.json").is_file():
        return what, Page(lambda state: evaluation_html(what, state=state), lambda: evaluation_state(what))
    page = sft_html if is_sft_run(what) else run_html
    return what, Page(lambda state: page(what, state=state), lambda: run_state(what))


def _serve(page: Page, port: int) -> None:
    from halo_forge.pages.serve import ADDRESS, open_server

    page.html()  # what is wrong with the run is said here, not in the browser
    with open_server(page, port) as server:
        print(f"http://{ADDRESS}:{server.server_port}/", flush=True)
        print("Ctrl-C ends it.", file=sys.stderr, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("No longer served.", file=sys.stderr)
